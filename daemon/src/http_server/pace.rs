//! Timeouts for slow clients, for sending a body and for receiving a response. Also measures how
//! long a response takes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::crowd::AtWork;

/// Longest time without any progress, in either direction.
const STALL: Duration = Duration::from_secs(30);
/// Time, and number of bytes, for which unread input is still received before a connection ends:
/// closing at once could destroy the response that gives the reason (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 32 << 20;
/// Least rate at which a body must arrive and a response must be taken, after a first [`STALL`].
const BYTES_PER_SECOND: u64 = 1024;

/// The body of a request. It ends with an error if it arrives too slowly, and sets `stalled`; if
/// dropped before its end, it sets `unread`. Only time during which the reader waits counts: a
/// client is not to blame for a body that is not read.
pub struct Paced {
    body: Incoming,
    stalled: Arc<AtomicBool>,
    unread: Arc<AtomicBool>,
    bytes: u64,
    waited: Duration,
    ended: bool,
    /// Time of the wait, and its timer; set while the reader waits.
    patience: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Paced {
    pub fn new(body: Incoming, stalled: Arc<AtomicBool>, unread: Arc<AtomicBool>) -> Self {
        Self {
            body,
            stalled,
            unread,
            bytes: 0,
            waited: Duration::ZERO,
            ended: false,
            patience: None,
        }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.unread.store(true, Ordering::Relaxed);
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.ended = frame.is_none();
            let waited = self
                .patience
                .take()
                .map_or(Duration::ZERO, |(since, _)| since.elapsed());
            self.waited += waited;
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let in_all = STALL + Duration::from_secs(self.bytes / BYTES_PER_SECOND);
        let longest = STALL.min(in_all.saturating_sub(self.waited));
        let (_, patience) = self
            .patience
            .get_or_insert_with(|| (Instant::now(), Box::pin(sleep(longest))));
        ready!(patience.as_mut().poll(cx));
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

/// The body of a response; its connection counts as busy until the end.
pub struct Attended {
    body: Body,
    _at_work: AtWork,
}

impl Attended {
    pub fn new(body: Body, at_work: AtWork) -> Self {
        Self {
            body,
            _at_work: at_work,
        }
    }
}

impl HttpBody for Attended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
pub struct Pushed<S> {
    stream: S,
    /// Time of the wait, and its timer; set while data wait.
    patience: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Number of responses begun, and that number when counting for the present one began.
    answers: Arc<AtomicU64>,
    answer: u64,
    /// Bytes taken of this response, and how long they had to wait.
    bytes: u64,
    waited: Duration,
    /// True if a request was not read to its end.
    unread: Arc<AtomicBool>,
    /// Remaining time and bytes before the connection ends.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncWrite + Unpin> Pushed<S> {
    pub fn new(stream: S, unread: Arc<AtomicBool>, answers: Arc<AtomicU64>) -> Self {
        let (answer, bytes, waited) = (0, 0, Duration::ZERO);
        Self {
            stream,
            patience: None,
            answers,
            answer,
            bytes,
            waited,
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
            (self.answer, self.bytes, self.waited) = (answer, 0, Duration::ZERO);
        }
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx) {
            self.waited += self
                .patience
                .take()
                .map_or(Duration::ZERO, |(since, _)| since.elapsed());
            self.bytes += *written.as_ref().unwrap_or(&0) as u64;
            return Poll::Ready(written);
        }
        let in_all = STALL + Duration::from_secs(self.bytes / BYTES_PER_SECOND);
        let longest = STALL.min(in_all.saturating_sub(self.waited));
        let (_, patience) = self
            .patience
            .get_or_insert_with(|| (Instant::now(), Box::pin(sleep(longest))));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pushed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pushed<S> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pipe() -> (Pushed<DuplexStream>, Arc<AtomicU64>, DuplexStream) {
        let (ours, theirs) = duplex(1024);
        let answers = Arc::new(AtomicU64::new(1));
        (
            Pushed::new(ours, Arc::default(), Arc::clone(&answers)),
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
    async fn whoever_takes_a_little_of_an_answer_now_and_then_is_left() {
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
    async fn whoever_takes_enough_gets_all_of_a_large_answer() {
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
}
