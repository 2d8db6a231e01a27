//! The client: HTTP/1.1 on hyper's connections, which are kept for the next request.
//!
//! It follows no redirect, uses no proxy and speaks no HTTP/2. A request is repeated only when nothing of it was written
//! because its kept connection turned out to be closed.

use std::{
    error::Error,
    fmt, io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request as Message, Response,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, DATE, HOST, LOCATION, RETRY_AFTER, USER_AGENT},
};
use bytes::Bytes;
use chrono::Utc;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

use super::{
    Answer, Incomplete, body,
    body::Coding,
    connection::{HttpConnection, NoResponse, Wire},
    date,
    pool::Pool,
    retry_after,
    target::{self, NotATarget, Origin, Target},
};

/// Time for the TCP and TLS handshakes, within the whole request's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of TCP keepalive: silence before the first probe, and between two probes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many such questions stay without an answer before the connection counts as broken.
const KEEP_ALIVE_QUESTIONS: u32 = 3;
/// How long the other side may leave what was sent without an acknowledgement of TCP.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No request can be made to this URL.
    #[error(transparent)]
    Url(#[from] NotATarget),
    /// The time was over.
    #[error("no answer in time")]
    Timeout,
    /// No connection could be opened.
    #[error("no connection")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The connection broke off.
    #[error("the connection broke off")]
    Lost(#[source] hyper::Error),
}

/// A request that is to be made. `Debug` shows neither headers nor body, which hold credentials and orders.
#[derive(Clone)]
pub struct Request {
    method: Method,
    target: Result<Target, NotATarget>,
    headers: HeaderMap,
    body: Bytes,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// With nothing but what the client adds. An unusable URL is reported when the request is made.
    pub fn new(method: Method, target: Result<Target, NotATarget>) -> Self {
        Self {
            method,
            target,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// With this header, beside others of the same name.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// With these headers, in place of others of the same name.
    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// With a name and a password (RFC 7617).
    #[must_use]
    pub fn basic_auth(mut self, name: &str, password: &str) -> Self {
        self.headers
            .extend(target::basic(name, password).map(|value| (AUTHORIZATION, value)));
        self
    }

    /// With a body and its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// Asks servers by HTTP/1.1.
pub struct Client {
    timeout: Duration,
    /// Default headers of every request.
    headers: HeaderMap,
    tcp: HttpConnector,
    tls: TlsConnector,
    idle: Arc<Pool>,
}

impl Client {
    /// For requests that take at most `timeout` each, the answer included, and of which `max_requests` are under way at a
    /// time: so many connections are kept. All of them carry `headers`.
    pub fn new(timeout: Duration, max_requests: usize, mut headers: HeaderMap, tls: rustls::ClientConfig) -> Self {
        // Without this header a server could choose a content coding that the hub does not understand.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(body::ACCEPTED));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let name = HeaderValue::from_static(concat!("webhook-hub/", env!("CARGO_PKG_VERSION")));
        headers.insert(USER_AGENT, name);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // The addresses of a name share this time, so an unreachable one leaves time for the next.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(KEEP_ALIVE_QUESTIONS));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        Self {
            timeout,
            headers,
            tcp,
            tls: TlsConnector::from(Arc::new(tls)),
            // As many as there are concurrent requests: with fewer, requests under load would open and close connections.
            idle: Arc::new(Pool::new(max_requests)),
        }
    }

    /// Asks, and reads at most so many bytes of the answer's body, as they come and unpacked.
    ///
    /// # Errors
    /// There was no answer (see [`super::no_answer`]). An answer with an incomplete body is still an answer: its status counts.
    pub async fn ask(&self, request: Request, max_bytes: usize) -> Result<Answer, Failure> {
        let target = request.target.clone()?;
        let mut clock = pin!(tokio::time::sleep(self.timeout));
        let sent = within(clock.as_mut(), self.send(&target, request)).await;
        let (mut connection, response) = sent.unwrap_or(Err(Failure::Timeout))?;
        let (head, mut incoming) = response.into_parts();
        let mut packed = Vec::new();
        let reading = read(&mut connection, &mut incoming, &mut packed, max_bytes);
        let mut incomplete = within(clock, reading)
            .await
            .unwrap_or(Some(Incomplete::BrokeOff(Failure::Timeout)));
        if incomplete.is_none() {
            self.idle.keep(target.origin(), connection);
        }
        let unpacked = body::unpack(Coding::of(&head.headers), packed, max_bytes).await;
        if unpacked.is_too_large {
            incomplete.get_or_insert(Incomplete::TooLarge);
        } else if unpacked.is_broken {
            incomplete.get_or_insert(Incomplete::Undecodable);
        }
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let now = Utc::now();
        let their_now = text(DATE).and_then(date);
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: text(RETRY_AFTER).and_then(|value| retry_after(value, their_now.unwrap_or(now))),
            clock_ahead: their_now.map(|their_now| their_now - now),
            location: text(LOCATION).and_then(|location| target.origin_of(location)),
            body: unpacked.bytes,
            incomplete,
        })
    }

    /// The head of the response, and the connection on which its body comes.
    async fn send(&self, target: &Target, request: Request) -> Result<(HttpConnection, Response<Incoming>), Failure> {
        let origin = target.origin();
        let mut message = self.message(target, request);
        while let Some(mut connection) = self.idle.take(origin) {
            match connection.exchange(message).await {
                Ok(response) => return Ok((connection, response)),
                Err(NoResponse {
                    unsent: Some(unsent), ..
                }) => message = unsent,
                Err(NoResponse { error, .. }) => return Err(Failure::Lost(error)),
            }
        }
        let mut connection = self.connect(origin).await?;
        match connection.exchange(message).await {
            Ok(response) => Ok((connection, response)),
            Err(NoResponse { error, .. }) => Err(Failure::Lost(error)),
        }
    }

    fn message(&self, target: &Target, request: Request) -> Message<Full<Bytes>> {
        let mut message = Message::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = target.path();
        let headers = message.headers_mut();
        *headers = request.headers;
        let own = [(HOST, Some(target.host())), (AUTHORIZATION, target.authorization())];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in own.chain(self.headers.iter().map(|(name, value)| (name.clone(), value.clone()))) {
            headers.entry(name).or_insert(value);
        }
        message
    }

    async fn connect(&self, origin: &Origin) -> Result<HttpConnection, Failure> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT.min(self.timeout), self.open(origin)).await;
        let wire = opened.map_err(|_| Failure::Timeout)?.map_err(Failure::Connect)?;
        HttpConnection::new(wire).await.map_err(Failure::Lost)
    }

    async fn open(&self, origin: &Origin) -> Result<Wire, Box<dyn Error + Send + Sync>> {
        // The connector is always ready.
        let stream = self.tcp.clone().call(origin.uri.clone()).await?.into_inner();
        Ok(match &origin.tls {
            None => Wire::Plain(stream),
            Some(name) => Wire::Tls(Box::new(self.tls.connect(name.clone(), stream).await?)),
        })
    }
}

/// Reads a body to its end, or until there is more than the limit.
async fn read(
    connection: &mut HttpConnection,
    incoming: &mut Incoming,
    packed: &mut Vec<u8>,
    max_bytes: usize,
) -> Option<Incomplete> {
    while let Some(chunk) = connection.chunk(incoming).await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return Some(Incomplete::BrokeOff(Failure::Lost(error))),
        };
        let room = max_bytes - packed.len();
        packed.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Some(Incomplete::TooLarge);
        }
    }
    None
}

/// Does this until it is done or the time is over.
async fn within<T>(clock: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock => None,
    }
}

impl Failure {
    /// The time was over, also that of the operating system for an answer of the other side.
    pub fn is_timeout(&self) -> bool {
        let timed_out = |cause: &(dyn Error + 'static)| {
            let io = cause.downcast_ref::<io::Error>();
            io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        };
        matches!(self, Self::Timeout) || self.causes().any(timed_out)
    }

    /// No connection could be opened.
    pub const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// Either side refuses the other's TLS. While connecting that is all that can be invalid data: rustls tells every failed
    /// handshake so. Later it is an alert, which a server sends that misses a certificate of ours.
    pub(super) fn is_tls(&self) -> bool {
        self.causes().any(|cause| {
            (self.is_connect() && cause.downcast_ref().is_some_and(is_invalid_data))
                || cause.to_string().contains("fatal alert")
        })
    }

    /// The name cannot be resolved.
    pub(super) fn is_dns(&self) -> bool {
        self.causes().any(|cause| {
            let text = cause.to_string();
            text == "dns error" || text.starts_with("failed to lookup address")
        })
    }

    /// The chain of causes, down to the first one.
    fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        std::iter::successors(self.source(), |error| (*error).source())
    }
}

/// An I/O error may hold another one, which is none of its sources.
fn is_invalid_data(error: &io::Error) -> bool {
    let held = error.get_ref().and_then(|held| held.downcast_ref());
    error.kind() == io::ErrorKind::InvalidData || held.is_some_and(is_invalid_data)
}

#[cfg(test)]
mod tests;
