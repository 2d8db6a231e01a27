//! The HTTP server under the intake: connections with limits, half-sent headers cut off, draining.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use hyper_util::rt::TokioTimer;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// Connections at a time; one more is closed at once. Each costs about 10 KB and a file descriptor.
const MAX_CONNECTIONS: usize = 4096;
/// Bytes of one request's line and headers; what comes in one piece may have twice as many.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Headers of one request.
const MAX_HEADERS: usize = 100;

/// Time for the TLS handshake of a connection, which counts among [`MAX_CONNECTIONS`] from before it: two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until told to stop, then lets what is under way end, at most `grace`. With `tls` it speaks nothing else.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    grace: Duration,
    tls: Option<RustlsConfig>,
    stop: CancellationToken,
) -> io::Result<()> {
    let handle = Handle::<SocketAddr>::new();
    let mut server = axum_server::from_tcp(listener)?
        .http1_only()
        .handle(handle.clone())
        .first_request_timeout(header_timeout)
        .accept_error_handler(|_, error| tracing::debug!(%error, "connection not accepted"));
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let bounded = Bounded {
        room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        unread: header_timeout,
    };
    let mut serving: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> = match tls {
        None => Box::pin(server.acceptor(bounded).serve(service)),
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT);
            Box::pin(server.acceptor(acceptor.acceptor(bounded)).serve(service))
        }
    };
    tokio::select! {
        result = &mut serving => return result,
        () = stop.cancelled() => handle.graceful_shutdown(Some(grace)),
    }
    serving.await
}

/// Accepts so many connections at a time.
#[derive(Clone)]
struct Bounded {
    room: Arc<Semaphore>,
    /// How long an answer may lie unread: a client that takes none of it would keep its connection for ever.
    unread: Duration,
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = Counted;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Counted, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepted = Arc::clone(&self.room)
            .try_acquire_owned()
            .map_err(|_| io::Error::other("too many connections"));
        let accepted = accepted.and_then(|permit| {
            stream.set_nodelay(true)?;
            #[cfg(target_os = "linux")]
            SockRef::from(&stream).set_tcp_user_timeout(Some(self.unread))?;
            Ok((
                Counted {
                    stream,
                    _permit: permit,
                },
                service,
            ))
        });
        std::future::ready(accepted)
    }
}

/// A connection that counts as long as it lives.
struct Counted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
