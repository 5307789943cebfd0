//! The engine's door: who waits for what, and how long.
//!
//! Three classes of callers share an engine. **Interactive** ones have a person or a client waiting
//! for the answer: identifying and enrolling by API, page, MQTT command and facerecog. The
//! **queue** is the dispatcher, with other work that can wait: re-embedding, and choosing the best
//! frame of a camera. **Looks** at the frames of followed cameras take what is left over: there is
//! always a next frame.
//!
//! 1. An interactive caller waits for an [`Admission`] while its picture is still on disk or on the
//!    wire; if none is free in time, it is refused with a sentence. The dispatcher claims a fixed
//!    number of pictures for each thread of the engine. So the pictures in memory are bounded.
//! 2. Each class may have as many pictures at the engine's threads as there are threads. Of those,
//!    the first to come is the first to be served. So an interactive picture waits for a picture
//!    that is in the engine already and for none that the queue has waiting behind it, and while
//!    both classes wait, each gets every second thread that becomes free.
//! 3. A look gets a thread that is free while neither class waits for one; looks take turns. None
//!    runs beside a picture that must run alone: if the engine dies, that picture is at fault.
//!
//! Not for the choice of the engine (`handle`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Interactive callers at a time, at the threads and before them; each holds one picture in memory.
const INTERACTIVE: usize = 8;
/// Longest wait of an interactive caller for its admission.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pictures of the queue for each thread: one in the engine, one that is read meanwhile.
const QUEUE_PER_THREAD: usize = 2;
/// Longest time until a look tries again: a safety net, not a polling interval.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Class of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Interactive,
    Queue,
    /// A picture of the queue that runs without others of the queue and without looks.
    Alone,
    Look,
}

/// Permission to bring pictures to an engine, one at a time; held while a picture is in memory.
pub struct Admission {
    pub(super) class: Class,
    _place: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// Admits the queue, which bounds itself by [`queue_pictures`], and a command with an engine
    /// of its own.
    pub fn queue() -> Self {
        Self::without_place(Class::Queue)
    }

    /// Admits a picture of the queue that must run alone.
    pub fn alone() -> Self {
        Self::without_place(Class::Alone)
    }

    fn without_place(class: Class) -> Self {
        Self {
            class,
            _place: None,
        }
    }
}

/// Error: too many interactive callers wait.
#[derive(Debug, thiserror::Error)]
#[error("too many requests wait for the engine; try again later")]
pub struct TooManyWait;

/// Returns the number of pictures that the queue may have in memory for an engine.
pub(super) fn queue_pictures(threads: usize) -> usize {
    QUEUE_PER_THREAD * threads
}

/// Places of the interactive callers of all engines.
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(INTERACTIVE)))
    }

    /// Waits for a place.
    pub(super) async fn admit(&self) -> Result<Admission, TooManyWait> {
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => Ok(Admission {
                class: Class::Interactive,
                _place: Some(place),
            }),
            // The semaphore is never closed.
            _ => Err(TooManyWait),
        }
    }
}

/// Threads of one run of an engine.
pub(super) struct Threads {
    count: usize,
    free: Arc<Semaphore>,
    interactive: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// Pictures of the other classes that wait for a thread.
    waiting: AtomicUsize,
    /// Wakes the next look when a thread becomes free, or when no picture waits any more.
    freed: Arc<Notify>,
}

/// A thread of an engine, reserved for one picture.
pub(super) struct Thread {
    _thread: OwnedSemaphorePermit,
    _of_class: OwnedSemaphorePermit,
    _without_looks: Option<OwnedSemaphorePermit>,
    /// Dropped last, when the thread is free.
    _freed: Freed,
}

struct Freed(Arc<Notify>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A picture that waits for a thread, before which no look goes.
struct Waiting<'a>(&'a Threads);

impl<'a> Waiting<'a> {
    fn for_thread_of(threads: &'a Threads) -> Self {
        threads.waiting.fetch_add(1, Ordering::SeqCst);
        Self(threads)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.freed.notify_one();
        }
    }
}

impl Threads {
    pub(super) fn new(count: usize) -> Self {
        let semaphore = || Arc::new(Semaphore::new(count));
        Self {
            count,
            free: semaphore(),
            interactive: semaphore(),
            queue: semaphore(),
            looks: semaphore(),
            waiting: AtomicUsize::new(0),
            freed: Arc::default(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Waits for a free thread; `None` once closed.
    pub(super) async fn acquire(&self, class: Class) -> Option<Thread> {
        let of_class = match class {
            Class::Interactive => &self.interactive,
            Class::Queue | Class::Alone => &self.queue,
            Class::Look => return self.left_over().await,
        };
        let _waiting = Waiting::for_thread_of(self);
        let of_class = Arc::clone(of_class).acquire_owned().await.ok()?;
        let without_looks = match class {
            Class::Alone => {
                let all = u32::try_from(self.count).unwrap_or(u32::MAX);
                let looks = Arc::clone(&self.looks).acquire_many_owned(all).await;
                Some(looks.ok()?)
            }
            _ => None,
        };
        let thread = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(self.thread(thread, of_class, without_looks))
    }

    /// Waits for a free thread that no picture of another class waits for. Holds nothing meanwhile.
    async fn left_over(&self) -> Option<Thread> {
        while !self.is_closed() {
            if self.waiting.load(Ordering::SeqCst) == 0
                && let Ok(look) = Arc::clone(&self.looks).try_acquire_owned()
                && let Ok(thread) = Arc::clone(&self.free).try_acquire_owned()
            {
                return Some(self.thread(thread, look, None));
            }
            let _ = tokio::time::timeout(TRY_AGAIN, self.freed.notified()).await;
        }
        None
    }

    fn thread(
        &self,
        thread: OwnedSemaphorePermit,
        of_class: OwnedSemaphorePermit,
        without_looks: Option<OwnedSemaphorePermit>,
    ) -> Thread {
        Thread {
            _thread: thread,
            _of_class: of_class,
            _without_looks: without_looks,
            _freed: Freed(Arc::clone(&self.freed)),
        }
    }

    /// Refuses further pictures, those that wait included.
    pub(super) fn close(&self) {
        for semaphore in [&self.interactive, &self.queue, &self.looks, &self.free] {
            semaphore.close();
        }
        self.freed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.free.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    const PICTURE: Duration = Duration::from_secs(1);

    /// Brings pictures to the threads, each of which takes a second; returns when each began.
    async fn bring(threads: &Arc<Threads>, class: Class, pictures: usize) -> Vec<u64> {
        let mut begun = JoinSet::new();
        let start = Instant::now();
        for _ in 0..pictures {
            let threads = Arc::clone(threads);
            begun.spawn(async move {
                let _thread = threads.acquire(class).await.unwrap();
                let at = start.elapsed().as_secs();
                sleep(PICTURE).await;
                at
            });
        }
        let mut begun = begun.join_all().await;
        begun.sort_unstable();
        begun
    }

    #[tokio::test(start_paused = true)]
    async fn interactive_goes_first_and_leaves_the_queue_its_part() {
        let threads = Arc::new(Threads::new(2));
        let interactive = async {
            // The queue has a picture in each thread and 18 waiting.
            sleep(PICTURE / 2).await;
            let alone = bring(&threads, Class::Interactive, 1).await;
            sleep(PICTURE / 2).await;
            (alone, bring(&threads, Class::Interactive, 10).await)
        };
        let queue = bring(&threads, Class::Queue, 20);
        let (queue, (alone, many)) = tokio::join!(queue, interactive);
        assert_eq!(alone, [0], "it waits for the half of a picture only");
        let busy = 3..13;
        let during = |begun: &[u64], from: u64| {
            let begun = begun.iter().map(|at| at + from);
            begun.filter(|at| busy.contains(at)).count()
        };
        let (queue, many) = (during(&queue, 0), during(&many, 3));
        assert!((9..=11).contains(&queue), "{queue} pictures of the queue");
        assert!((9..=10).contains(&many), "{many} interactive pictures");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_beyond_the_places_wait_and_get_a_sentence() {
        let places = Places::new();
        let mut admitted = Vec::new();
        for _ in 0..INTERACTIVE {
            admitted.push(places.admit().await.unwrap());
        }
        let begun = Instant::now();
        let refused = places.admit().await.err().unwrap();
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(
            refused.to_string(),
            "too many requests wait for the engine; try again later"
        );
        let waiting = async {
            let begun = Instant::now();
            places.admit().await.map(|_| begun.elapsed())
        };
        let leaving = async {
            sleep(PATIENCE / 2).await;
            admitted.pop();
        };
        let (waited, ()) = tokio::join!(waiting, leaving);
        assert_eq!(waited.unwrap(), PATIENCE / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn closed_threads_refuse_those_who_wait_for_them() {
        let threads = Threads::new(1);
        let _in_the_engine = threads.acquire(Class::Queue).await.unwrap();
        let waiting = async {
            let of = |class| threads.acquire(class);
            tokio::join!(
                of(Class::Interactive),
                of(Class::Queue),
                of(Class::Alone),
                of(Class::Look)
            )
        };
        let closing = async {
            sleep(PICTURE).await;
            threads.close();
        };
        let (waited, ()) = tokio::join!(waiting, closing);
        assert!(waited.0.is_none() && waited.1.is_none());
        assert!(waited.2.is_none() && waited.3.is_none());
        assert!(threads.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn looks_take_the_threads_that_nobody_else_wants() {
        let threads = Arc::new(Threads::new(2));
        // The queue has work for ten seconds, interactive callers for one more.
        let looks = async {
            sleep(PICTURE / 2).await;
            bring(&threads, Class::Look, 6).await
        };
        let interactive = async {
            sleep(PICTURE / 4).await;
            bring(&threads, Class::Interactive, 2).await
        };
        let queue = bring(&threads, Class::Queue, 20);
        let (queue, interactive, looks) = tokio::join!(queue, interactive, looks);
        assert_eq!((queue.last(), interactive.last()), (Some(&10), Some(&0)));
        assert_eq!(looks, [10, 10, 11, 11, 12, 12]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_in_the_engine_delays_others_by_itself_only() {
        let threads = Arc::new(Threads::new(1));
        let looks = bring(&threads, Class::Look, 10);
        let queue = async {
            sleep(PICTURE / 2).await;
            bring(&threads, Class::Queue, 3).await
        };
        let (looks, queue) = tokio::join!(looks, queue);
        assert_eq!(queue, [0, 1, 2]);
        assert_eq!(looks, [0, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_look_runs_beside_a_picture_that_must_run_alone() {
        let threads = Arc::new(Threads::new(2));
        let looks = bring(&threads, Class::Look, 5);
        let alone = async {
            sleep(PICTURE / 2).await;
            bring(&threads, Class::Alone, 1).await
        };
        let (looks, alone) = tokio::join!(looks, alone);
        // It waits for the two that are in the engine, and the third waits for it.
        assert_eq!(alone, [0]);
        assert_eq!(looks, [0, 0, 2, 2, 3]);
    }
}
