//! How slow the other end may be: with the body of a request, and with taking an answer. And how long an answer takes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::crowd::AtWork;

/// Longest time without any progress, either way.
const STALL: Duration = Duration::from_secs(30);
/// What was sent and not read is taken for so long, and up to so much, before a connection ends: closed at once, it would
/// take back the answer that says why (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 32 << 20;
/// A body comes at this rate at least, after a first [`STALL`].
const BYTES_PER_SECOND: u64 = 1024;

/// The body of a request; breaks off when it comes too slowly, and says so in `stalled`. One that is dropped before its
/// end says so in `unread`.
pub struct Paced {
    body: Incoming,
    stalled: Arc<AtomicBool>,
    unread: Arc<AtomicBool>,
    begun: Instant,
    bytes: u64,
    patience: Pin<Box<Sleep>>,
}

impl Paced {
    pub fn new(body: Incoming, stalled: Arc<AtomicBool>, unread: Arc<AtomicBool>) -> Self {
        Self { body, stalled, unread, begun: Instant::now(), bytes: 0, patience: Box::pin(sleep(STALL)) }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
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
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                let in_all = self.begun + STALL + Duration::from_secs(self.bytes / BYTES_PER_SECOND);
                let until = in_all.min(Instant::now() + STALL);
                self.patience.as_mut().reset(until);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.patience.as_mut().poll(cx));
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

/// The body of an answer, during which its connection is at work.
pub struct Attended {
    body: Body,
    _at_work: AtWork,
}

impl Attended {
    pub fn new(body: Body, at_work: AtWork) -> Self {
        Self { body, _at_work: at_work }
    }
}

impl HttpBody for Attended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that breaks when its other end takes nothing for too long.
pub struct Pushed {
    stream: TcpStream,
    /// Runs while something waits to be taken.
    patience: Option<Pin<Box<Sleep>>>,
    /// A request was not read to its end.
    unread: Arc<AtomicBool>,
    /// The end is near: how long, and how much may still come.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Pushed {
    pub fn new(stream: TcpStream, unread: Arc<AtomicBool>) -> Self {
        Self { stream, patience: None, unread, lingering: None }
    }

    fn push<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Pushed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pushed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
        self.push(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.push(cx, |stream, cx| stream.poll_shutdown(cx)))?;
            if !self.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let Self { stream, lingering, .. } = &mut *self;
        let (patience, left) = lingering.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return patience.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(())) if (1..*left).contains(&buffer.filled().len()) => *left -= buffer.filled().len(),
                // Its end, a break, or too much.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
