//! Timeouts for slow clients, for sending a body and for receiving a response.
//!
//! `docs/design/http-edge.md` says why those of tower-http do not suffice.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Longest time without any progress, in either direction.
const STALL: Duration = Duration::from_secs(30);
/// Time, and number of bytes, for which unread input is still received before a connection ends:
/// closing at once could destroy the response that gives the reason (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 32 << 20;
/// Least rate at which a body must arrive and a response must be taken, after a first [`STALL`].
const BYTES_PER_SECOND: u64 = 1024;

/// Progress of one transfer. Only time in which the other end is waited for counts.
#[derive(Default)]
struct Progress {
    bytes: u64,
    waited: Duration,
    /// Start of the present wait, and its timer.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Progress {
    /// Notes that so many bytes went on, which ends the wait.
    fn moved(&mut self, bytes: usize) {
        let wait = self.wait.take();
        self.waited += wait.map_or(Duration::ZERO, |(since, _)| since.elapsed());
        self.bytes += bytes as u64;
    }

    /// Begins or goes on to wait; ready if that takes too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let allowed = STALL + Duration::from_secs(self.bytes / BYTES_PER_SECOND);
        let left = STALL.min(allowed.saturating_sub(self.waited));
        let begin = || (Instant::now(), Box::pin(sleep(left)));
        let (_, timer) = self.wait.get_or_insert_with(begin);
        timer.as_mut().poll(cx)
    }
}

/// The body of a request. It ends with an error if it arrives too slowly, and sets `stalled`; if
/// dropped before its end, it sets `unread`. Only time during which the reader waits counts: a
/// client is not to blame for a body that is not read.
pub struct BodyTimeout<B: Body> {
    body: B,
    stalled: Arc<AtomicBool>,
    unread: Arc<AtomicBool>,
    progress: Progress,
    ended: bool,
}

impl<B: Body> BodyTimeout<B> {
    pub fn new(body: B, stalled: Arc<AtomicBool>, unread: Arc<AtomicBool>) -> Self {
        let (progress, ended) = (Progress::default(), false);
        Self {
            body,
            stalled,
            unread,
            progress,
            ended,
        }
    }
}

impl<B: Body> Drop for BodyTimeout<B> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.unread.store(true, Ordering::Relaxed);
        }
    }
}

impl<B> Body for BodyTimeout<B>
where
    B: Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.ended = frame.is_none();
            let data = frame
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            self.progress.moved(data.map_or(0, Bytes::len));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.progress.poll_timeout(cx));
        self.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("it came too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that breaks if the client takes nothing for too long, or too little of one
/// response. Only time during which data wait to be taken counts: a client is not to blame for a
/// response that is made slowly or never ends.
pub struct WriteTimeout<S> {
    stream: S,
    /// Number of responses begun, and that number when counting for the present one began.
    answers: Arc<AtomicU64>,
    answer: u64,
    /// Progress of that response.
    progress: Progress,
    /// True if a request was not read to its end.
    unread: Arc<AtomicBool>,
    /// Remaining time and bytes before the connection ends.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncWrite + Unpin> WriteTimeout<S> {
    /// Wraps a connection, with the numbers that its requests keep.
    pub fn new(stream: S, unread: Arc<AtomicBool>, answers: Arc<AtomicU64>) -> Self {
        Self {
            stream,
            answers,
            answer: 0,
            progress: Progress::default(),
            unread,
            lingering: None,
        }
    }

    fn push(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let answer = self.answers.load(Ordering::Relaxed);
        if self.answer != answer {
            self.answer = answer;
            // A wait that has begun goes on: a new request is no progress.
            (self.progress.bytes, self.progress.waited) = (0, Duration::ZERO);
        }
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx) {
            self.progress.moved(*written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        ready!(self.progress.poll_timeout(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.push(cx, |stream, cx| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.push(cx, |stream, cx| stream.poll_flush(cx).map_ok(|()| 0))
            .map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.push(cx, |stream, cx| stream.poll_shutdown(cx).map_ok(|()| 0)))?;
            if !self.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let Self {
            stream, lingering, ..
        } = &mut *self;
        let (patience, left) =
            lingering.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return patience.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(())) if (1..*left).contains(&buffer.filled().len()) => {
                    *left -= buffer.filled().len();
                }
                // End of the input, an error, or too many bytes.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pipe() -> (WriteTimeout<DuplexStream>, Arc<AtomicU64>, DuplexStream) {
        let (ours, theirs) = duplex(1024);
        let answers = Arc::new(AtomicU64::new(1));
        (
            WriteTimeout::new(ours, Arc::default(), Arc::clone(&answers)),
            answers,
            theirs,
        )
    }

    /// Takes this many bytes every ten seconds.
    fn taking(mut stream: DuplexStream, bytes: usize) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while stream.read_exact(&mut vec![0; bytes]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_too_little_of_an_answer_is_left() {
        let (mut ours, _, theirs) = pipe();
        let taking = taking(theirs, 100);
        let begun = Instant::now();
        let error = ours.write_all(&[0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // By the paused clock.
        assert_eq!(
            (begun.elapsed() + Duration::from_millis(500)).as_secs(),
            31,
            "a second for the first KiB"
        );
        drop(ours);
        taking.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_enough_gets_all_of_a_large_answer() {
        let (mut ours, _, theirs) = pipe();
        let _taking = taking(theirs, 11 << 10);
        ours.write_all(&[0; 1 << 20]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_is_timed_alone_and_slow_making_costs_no_client() {
        let (mut ours, answers, mut theirs) = pipe();
        let all = tokio::spawn(async move {
            theirs
                .read_exact(&mut vec![0; (1 << 20) - 1024])
                .await
                .unwrap();
            theirs
        });
        ours.write_all(&vec![0; 1 << 20]).await.unwrap();
        let _trickle = taking(all.await.unwrap(), 100);
        // Earlier progress counts until the next response begins.
        ours.write_all(&[0; 1000]).await.unwrap();
        answers.fetch_add(1, Ordering::Relaxed);
        assert_eq!(
            ours.write_all(&[0; 8192]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );

        let (mut ours, _, theirs) = pipe();
        let _taking = taking(theirs, 10);
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            ours.write_all(&[0; 10]).await.unwrap();
        }
    }

    /// Returns a body that brings so many bytes every ten seconds.
    fn trickling(bytes: usize) -> BodyTimeout<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let parts = stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let part = Frame::data(Bytes::from(vec![0; bytes]));
            Some((Ok::<_, Infallible>(part), ()))
        });
        BodyTimeout::new(
            StreamBody::new(Box::pin(parts)),
            Arc::default(),
            Arc::default(),
        )
    }

    /// Otherwise one client could hold every place for uploads with a byte now and then.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_brings_a_little_now_and_then_is_ended() {
        let (mut body, begun) = (trickling(100), Instant::now());
        while body.frame().await.unwrap().is_ok() {}
        assert!(body.stalled.load(Ordering::Relaxed));
        assert_eq!(begun.elapsed().as_secs(), 30);

        let mut body = trickling(11 << 10);
        for _ in 0..100 {
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_a_body_is_not_read_is_not_the_clients() {
        let mut body = trickling(100);
        for _ in 0..3 {
            body.frame().await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        drop(body.frame().await.unwrap().unwrap_err());
    }
}
