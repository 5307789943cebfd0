//! A budget of threads, one for each core: each picture works on one of them and borrows idle ones
//! for the parts of its work that can run in parallel.

use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::thread;

/// The threads that all pictures share, one for each core.
#[derive(Debug)]
pub(crate) struct ThreadBudget {
    /// Negative while there are more pictures than threads.
    idle: AtomicIsize,
}

/// A thread in use, returned on drop.
#[derive(Debug)]
pub(crate) struct ThreadPermit<'a>(&'a ThreadBudget);

impl ThreadBudget {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            idle: AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX)),
        }
    }

    /// Takes the core a picture works on. Never waits.
    pub(crate) fn take(&self) -> ThreadPermit<'_> {
        self.idle.fetch_sub(1, Ordering::Relaxed);
        ThreadPermit(self)
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
        let borrowed: Vec<ThreadPermit> = (1..items.len()).map_while(|_| self.borrow()).collect();
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
            let begin = |permit: ThreadPermit<'a>| {
                let share = move || {
                    // Returned as soon as no item is left, before the slowest thread is done.
                    let _permit = permit;
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

    fn borrow(&self) -> Option<ThreadPermit<'_>> {
        let one_less = |idle: isize| (idle > 0).then(|| idle - 1);
        self.idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .ok()
            .map(|_| ThreadPermit(self))
    }
}

impl Drop for ThreadPermit<'_> {
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
        let budget = ThreadBudget::new(4);
        let _mine = budget.take();
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(
            budget.each(&items, |item| item * 2),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert!(budget.each(&[] as &[usize], |item| *item).is_empty());
    }

    #[test]
    fn a_picture_that_is_alone_uses_every_core_at_once() {
        let budget = ThreadBudget::new(3);
        let _mine = budget.take();
        assert_eq!(budget.parts(), 3);
        // The barrier opens only when all three threads are here.
        let all = Barrier::new(3);
        budget.each(&[1, 2, 3], |_| {
            all.wait();
        });
        assert_eq!(budget.parts(), 3);
    }

    #[test]
    fn cores_that_other_pictures_use_are_not_borrowed() {
        let budget = ThreadBudget::new(2);
        let here = thread::current().id();
        let pictures: Vec<ThreadPermit> = (0..3).map(|_| budget.take()).collect();
        assert_eq!(budget.parts(), 1);
        assert!(
            budget
                .each(&[(); 20], |()| thread::current().id())
                .iter()
                .all(|id| *id == here)
        );
        drop(pictures);
        let _mine = budget.take();
        // A borrowed core is not idle: nested work stays on its thread.
        let all = Barrier::new(2);
        let inner = budget.each(&[(); 2], |()| {
            all.wait();
            let here = thread::current().id();
            budget
                .each(&[(); 5], |()| thread::current().id())
                .iter()
                .all(|id| *id == here)
        });
        assert_eq!(inner, [true, true]);
    }

    #[test]
    fn a_panic_on_a_borrowed_core_fails_the_picture_and_frees_it() {
        let budget = ThreadBudget::new(2);
        let _mine = budget.take();
        let all = Barrier::new(2);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            budget.each(&[0, 1], |item| {
                all.wait();
                assert_eq!(*item, 0, "the second item");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(budget.parts(), 2);
    }
}
