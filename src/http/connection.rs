//! One HTTP/1.1 connection, driven by the task that uses it.
//!
//! The connection has no task of its own: the request's task drives it, so that a request and its answer need no hand-over
//! between tasks, which costs more than the rest of the client. The pool checks idle connections.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// The stream of a connection, plain or with TLS.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open connection, and the right to make requests on it.
pub(super) struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    /// None once it is closed.
    work: Option<http1::Connection<TokioIo<Wire>, Full<Bytes>>>,
    /// Why it closed, when no request reported it.
    error: Option<hyper::Error>,
}

/// Why there is no response.
pub(super) struct NoResponse {
    pub(super) error: hyper::Error,
    /// The request, where nothing of it was written.
    pub(super) unsent: Option<Request<Full<Bytes>>>,
}

impl HttpConnection {
    /// On a wire that was just opened.
    pub(super) async fn new(wire: Wire) -> hyper::Result<Self> {
        let (sender, work) = http1::handshake(TokioIo::new(wire)).await?;
        Ok(Self {
            sender,
            work: Some(work),
            error: None,
        })
    }

    /// Writes a request and reads the head of its response.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, NoResponse> {
        let mut response = pin!(self.sender.try_send_request(request));
        let answered = std::future::poll_fn(|cx| {
            work(&mut self.work, &mut self.error, cx);
            response.as_mut().poll(cx)
        });
        answered.await.map_err(|mut error| NoResponse {
            unsent: error.take_message(),
            // The connection's own error is closer to the cause than "the connection was closed".
            error: self.error.take().unwrap_or_else(|| error.into_error()),
        })
    }

    /// The next bytes of a response's body; none at its end.
    pub(super) async fn chunk(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        loop {
            let frame = std::future::poll_fn(|cx| {
                work(&mut self.work, &mut self.error, cx);
                Pin::new(&mut *body).poll_frame(cx)
            });
            match frame.await? {
                // Trailers are ignored.
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether the next request can be made now: the connection is open, and the last answer was read to its end. Does not
    /// wait. The task that waits on the connection is no longer woken.
    pub(super) fn is_idle(&mut self) -> bool {
        // No task waits for it, so the waker does nothing; the next user checks it again.
        work(
            &mut self.work,
            &mut self.error,
            &mut Context::from_waker(std::task::Waker::noop()),
        );
        self.work.is_some() && self.sender.is_ready()
    }
}

/// Reads and writes as far as the connection can.
fn work(
    connection: &mut Option<http1::Connection<TokioIo<Wire>, Full<Bytes>>>,
    error: &mut Option<hyper::Error>,
    cx: &mut Context<'_>,
) {
    let Some(open) = connection else { return };
    if let Poll::Ready(ended) = Pin::new(open).poll(cx) {
        *error = ended.err();
        // Dropping the connection wakes a task that still waits for a response.
        *connection = None;
    }
}

macro_rules! on_either {
    ($wire:expr, $stream:ident => $call:expr) => {
        match $wire.get_mut() {
            Wire::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Wire::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_shutdown(cx))
    }
}
