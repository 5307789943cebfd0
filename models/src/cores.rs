//! A budget of processor cores: each picture works on one core and borrows idle ones for the parts
//! of its work that can run in parallel.

use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::thread;

/// The cores that all pictures share.
#[derive(Debug)]
pub(crate) struct Cores {
    /// Negative while there are more pictures than cores.
    idle: AtomicIsize,
}

/// A core in use, returned on drop.
#[derive(Debug)]
pub(crate) struct Core<'a>(&'a Cores);

impl Cores {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            idle: AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX)),
        }
    }

    /// Takes the core a picture works on. Never waits.
    pub(crate) fn take(&self) -> Core<'_> {
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Core(self)
    }

    /// Returns the number of parts worth cutting work into: one for the caller's core and one for
    /// each idle one.
    pub(crate) fn parts(&self) -> usize {
        usize::try_from(self.idle.load(Ordering::Relaxed)).unwrap_or(0) + 1
    }

    /// Maps every item with `work`, in order, on the calling thread and on one more for each idle
    /// core. Put large items first to finish soonest.
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
                    // Returned as soon as no item is left, before the slowest thread is done.
                    let _core = core;
                    share()
                };
                // If the system refuses another thread, the existing ones do the work.
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
        // The barrier opens only when all three threads are here.
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
        // A borrowed core is not idle: nested work stays on its thread.
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
    fn a_panic_on_a_borrowed_core_fails_the_picture_and_frees_it() {
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
