//! The processor's cores and how many of them are idle: a picture works on one and borrows the idle
//! ones for the parts of its work that do not need each other. Knows nothing of what is worked at.

use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::thread;

/// So many cores for all pictures together.
#[derive(Debug)]
pub(crate) struct Cores {
    /// Below zero while there are more pictures than cores.
    idle: AtomicIsize,
}

/// One of the cores; given back when dropped.
#[derive(Debug)]
pub(crate) struct Core<'a>(&'a Cores);

impl Cores {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            idle: AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX)),
        }
    }

    /// The core a picture works on; never waits.
    pub(crate) fn take(&self) -> Core<'_> {
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Core(self)
    }

    /// Into how many parts work may be cut with profit: one for the caller's core and one for each
    /// idle one.
    pub(crate) fn parts(&self) -> usize {
        usize::try_from(self.idle.load(Ordering::Relaxed)).unwrap_or(0) + 1
    }

    /// What `work` makes of every item, in their order; on the calling thread and on one more for
    /// each core that is idle now. The large items first make the end come soonest.
    pub(crate) fn each<'a, T: Sync, R: Send>(
        &'a self,
        items: &[T],
        work: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        let borrowed: Vec<Core> = (1..items.len()).map_while(|_| self.borrow()).collect();
        if borrowed.is_empty() {
            return items.iter().map(work).collect();
        }
        let next = AtomicUsize::new(0);
        let share = || {
            let mut done = Vec::new();
            loop {
                let ix = next.fetch_add(1, Ordering::Relaxed);
                match items.get(ix) {
                    Some(item) => done.push((ix, work(item))),
                    None => return done,
                }
            }
        };
        let mut done = thread::scope(|scope| {
            let begin = |core: Core<'a>| {
                let share = move || {
                    // Given back as soon as nothing is left to do, not when the slowest is done.
                    let _core = core;
                    share()
                };
                // Where the system begins no more threads, those there are do the work.
                thread::Builder::new()
                    .name("kith-vision".into())
                    .spawn_scoped(scope, share)
                    .ok()
            };
            let others: Vec<_> = borrowed.into_iter().map_while(begin).collect();
            let mut done = share();
            for other in others {
                match other.join() {
                    Ok(part) => done.extend(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        });
        done.sort_unstable_by_key(|(ix, _)| *ix);
        done.into_iter().map(|(_, result)| result).collect()
    }

    fn borrow(&self) -> Option<Core<'_>> {
        let one_less = |idle: isize| (idle > 0).then(|| idle - 1);
        self.idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .ok()
            .map(|_| Core(self))
    }
}

impl Drop for Core<'_> {
    fn drop(&mut self) {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_whoever_made_them() {
        let cores = Cores::new(4);
        let _mine = cores.take();
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(
            cores.each(&items, |item| item * 2),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert!(cores.each(&[] as &[usize], |item| *item).is_empty());
    }

    #[test]
    fn a_picture_that_is_alone_uses_every_core_at_once() {
        let cores = Cores::new(3);
        let _mine = cores.take();
        assert_eq!(cores.parts(), 3);
        // Nobody passes before all three are there.
        let all = Barrier::new(3);
        cores.each(&[1, 2, 3], |_| {
            all.wait();
        });
        assert_eq!(cores.parts(), 3);
    }

    #[test]
    fn cores_that_other_pictures_use_are_not_borrowed() {
        let cores = Cores::new(2);
        let here = thread::current().id();
        let pictures: Vec<Core> = (0..3).map(|_| cores.take()).collect();
        assert_eq!(cores.parts(), 1);
        assert!(
            cores
                .each(&[(); 20], |()| thread::current().id())
                .iter()
                .all(|id| *id == here)
        );
        drop(pictures);
        let _mine = cores.take();
        // What is borrowed already is not idle: work within work stays on its thread.
        let all = Barrier::new(2);
        let inner = cores.each(&[(); 2], |()| {
            all.wait();
            let here = thread::current().id();
            cores
                .each(&[(); 5], |()| thread::current().id())
                .iter()
                .all(|id| *id == here)
        });
        assert_eq!(inner, [true, true]);
    }

    #[test]
    fn a_panic_on_a_borrowed_core_is_the_pictures_and_gives_the_core_back() {
        let cores = Cores::new(2);
        let _mine = cores.take();
        let all = Barrier::new(2);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cores.each(&[0, 1], |item| {
                all.wait();
                assert_eq!(*item, 0, "the second item");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(cores.parts(), 2);
    }
}
