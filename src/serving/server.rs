//! The HTTP server under the intake: connection limits, a deadline for request heads, draining.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, http::Request};
use axum_server::{
    Handle, Server,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioTimer;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{
    connections::{Connections, Guest},
    listening::{Listening, Peer, Placed, leave_new_ones},
    paths::{MAX_HEAD_BYTES, MAX_HEADERS},
    strict::StrictAcceptor,
    waiting::Opening,
};
use crate::{fault_injection, process::descriptors};

/// Time for the TLS handshake of a connection, which has its place from before it: two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the first request's head of a connection: it is sent at once, in one or two packets, one of which may get lost.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Shortest pause between two lines in the log about connections that are not accepted.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How a port is served.
pub struct Serving {
    /// Time for a request's head after the first, and for how long a connection may wait for its next request.
    pub header_timeout: Duration,
    /// How long new connections are left aside before the listener closes (see `leave_new_ones`); zero: not at all.
    pub linger: Duration,
    /// Time for requests under way when the server stops.
    pub grace: Duration,
    /// With it the port speaks TLS and nothing else.
    pub tls: Option<RustlsConfig>,
    /// Which connections stay open.
    pub connections: Arc<Connections>,
}

impl Serving {
    /// Of a port that strangers do not reach, with so many connections at a time.
    pub fn privately(header_timeout: Duration, grace: Duration, connections: usize) -> Self {
        Self {
            header_timeout,
            linger: Duration::ZERO,
            grace,
            tls: None,
            connections: Connections::private(connections),
        }
    }
}

/// Serves until it is stopped, then lets requests under way end.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, router: Router, serving: Serving, stop: CancellationToken) -> io::Result<()> {
    let Serving {
        header_timeout,
        linger,
        grace,
        tls,
        connections,
    } = serving;
    let first_head = fault_injection::time("first_head_timeout", FIRST_HEAD_TIMEOUT).min(header_timeout);
    let handle = Handle::<Peer>::new();
    let closing = listener.try_clone()?;
    let release = CancellationToken::new();
    let opening = if tls.is_some() {
        Opening::TlsHello
    } else {
        Opening::Request
    };
    let listening = Listening::new(listener, connections, opening, first_head, release.clone())?;
    let mut server = Server::from_listener(listening)
        .http1_only()
        .handle(handle.clone())
        .first_request_timeout(first_head)
        .accept_error_handler(not_accepted());
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let bounded = Bounded { unread: header_timeout };
    let mut serving: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> = match tls {
        None => Box::pin(server.acceptor(StrictAcceptor(bounded)).serve(service)),
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT);
            let acceptor = StrictAcceptor(acceptor.acceptor(bounded));
            Box::pin(server.acceptor(acceptor).serve(service))
        }
    };
    tokio::select! {
        result = &mut serving => return result,
        () = stop.cancelled() => {}
    }
    if !linger.is_zero() {
        leave_new_ones(&closing);
        // What is under way is served, but not what waits for its head.
        release.cancel();
        tokio::select! {
            result = &mut serving => return result,
            () = tokio::time::sleep(linger) => {}
        }
    }
    // The port stays open until the last owner of the listener is dropped.
    drop(closing);
    handle.graceful_shutdown(Some(grace));
    serving.await
}

/// Says why a connection is not accepted; causes on the callers' side only at the level debug.
fn not_accepted() -> impl Fn(Option<&Peer>, &io::Error) + Send + Sync + 'static {
    let reported_at = Mutex::new(None::<Instant>);
    move |_, error| {
        let Some(cause) = descriptors::exhausted(error) else {
            return tracing::debug!(%error, "connection not accepted");
        };
        metrics::counter!("accept_failures_total").increment(1);
        let mut reported_at = reported_at.lock().unwrap_or_else(PoisonError::into_inner);
        if reported_at.is_none_or(|reported_at| reported_at.elapsed() >= TELL_EVERY) {
            *reported_at = Some(Instant::now());
            tracing::error!(cause, "connections cannot be accepted");
        }
    }
}

/// Prepares each connection that is served.
#[derive(Clone)]
struct Bounded {
    /// How long an answer may lie unread: a client that takes none of it would keep its connection for ever.
    unread: Duration,
}

impl<S> Accept<Placed, S> for Bounded {
    type Stream = Placed;
    type Service = OfGuest<S>;
    type Future = std::future::Ready<io::Result<(Placed, OfGuest<S>)>>;

    fn accept(&self, stream: Placed, service: S) -> Self::Future {
        let accepted = || {
            stream.set_nodelay(true)?;
            #[cfg(target_os = "linux")]
            SockRef::from(&**stream).set_tcp_user_timeout(Some(self.unread))?;
            let guest = stream.layer().guest();
            Ok((stream, OfGuest { service, guest }))
        };
        std::future::ready(accepted())
    }
}

/// Hands each request the connection that it came over, which is busy until it is answered.
#[derive(Clone)]
struct OfGuest<S> {
    service: S,
    guest: Guest,
}

impl<S, B> Service<Request<B>> for OfGuest<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let busy = self.guest.busy();
        request.extensions_mut().insert(self.guest.clone());
        let answering = self.service.call(request);
        Box::pin(async move {
            let answer = answering.await;
            drop(busy);
            answer
        })
    }
}
