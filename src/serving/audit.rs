//! Records refused requests: who, from where and why, as a line in the log and a sample in the stream `REFUSALS`.
//!
//! A flood of refusals must fill neither. Of each kind some lines a second are written and the rest is counted ([`lines`]).
//! Of all kinds together a few a second go to the stream, of one address at most one ([`sampler`]), and the stream itself has
//! limits. No request waits for this: what does not fit is dropped and counted. Bodies, signatures and headers that may hold
//! credentials are never read.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Method, Response, Uri, header},
    middleware::Next,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::request_id;
use crate::registry::Registry;

pub mod sampler;
pub mod lines;
pub mod writer;

use self::{
    lines::{LeftOut, Lines},
    sampler::Sampler,
    writer::SampleWriter,
};

/// First token of its subjects: `refusals.{provider}.{code}`.
pub const SUBJECT_ROOT: &str = "refusals";
/// The kind of a provider's requests.
pub(crate) const WEBHOOK: &str = "webhook";
/// Provider of a request that names none that is enabled.
pub const NO_PROVIDER: &str = "_";
/// Refusals that wait to be published; the sampler lets through as many at once.
const QUEUE: usize = 64;
/// Longest method that is kept; a client can send any.
const MAX_METHOD_CHARS: usize = 16;
/// Longest path that is kept: those of the hub have forty characters.
const MAX_PATH_CHARS: usize = 128;
/// Longest user agent that is kept.
const MAX_AGENT_CHARS: usize = 128;

/// Why a request was refused; the answer carries it from where it was refused to where it is noted.
#[derive(Debug, Clone)]
pub(crate) struct RefusalNote {
    /// The kind of request, for the log: [`WEBHOOK`], or a request of the backend.
    pub(crate) kind: &'static str,
    /// The enabled provider that it was for; none if there is no such.
    pub(crate) provider: Option<String>,
    /// The client; none if it was not determined, and then the peer of the connection counts.
    pub(crate) client: Option<IpAddr>,
    /// `error.code` of the answer.
    pub(crate) code: &'static str,
    /// Additional text for the log; nothing from the request.
    pub(crate) cause: String,
}

/// A refused request as a message of the stream. Fields may be added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalSample {
    /// When it was refused.
    pub time: DateTime<Utc>,
    /// The request's id, as it was answered.
    pub request_id: String,
    /// The provider; [`NO_PROVIDER`] where there is no such.
    pub provider: String,
    /// `error.code` of the answer.
    pub code: String,
    /// Status of the answer.
    pub status: u16,
    /// The client's address.
    pub client_address: String,
    /// The method.
    pub method: String,
    /// The path without its query, cut and without what is not printable.
    pub path: String,
    /// How the provider signs, which the request did not satisfy or did not come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The client's own name (`User-Agent`), truncated, printable characters only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Bytes of the body as the client announced them; absent where it sent them in chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
}

/// Takes note of refusals.
pub struct Audit {
    sampler: Mutex<Sampler>,
    lines: Mutex<Lines>,
    queue: mpsc::Sender<RefusalSample>,
}

impl Audit {
    /// And what takes its samples to the stream.
    pub fn new() -> (Arc<Self>, SampleWriter) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let now = Instant::now();
        let audit = Arc::new(Self {
            sampler: Mutex::new(Sampler::new(now)),
            lines: Mutex::new(Lines::default()),
            queue,
        });
        (Arc::clone(&audit), SampleWriter::new(audit, waiting))
    }

    fn writes_line(&self, kind: &'static str, provider: &str, code: &'static str) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.takes(kind, provider, code, Instant::now())
    }

    fn samples(&self, client: IpAddr) -> bool {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.takes(client, Instant::now())
    }

    fn publish(&self, refusal: RefusalSample) {
        if self.queue.try_send(refusal).is_err() {
            count_lost();
        }
    }

    /// Writes how many lines were left out since the last time.
    fn say_left_out(&self) {
        let left_out = self.lines.lock().unwrap_or_else(PoisonError::into_inner).left_out();
        for LeftOut {
            kind,
            provider,
            code,
            count,
        } in left_out
        {
            tracing::warn!(kind, provider, code, count, "more requests were refused than logged");
        }
    }
}

fn count_lost() {
    metrics::counter!("refusals_lost_total").increment(1);
}

/// The facts about a request before it is handled.
struct RequestLogFacts {
    peer: IpAddr,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    content_length: Option<HeaderValue>,
}

impl RequestLogFacts {
    fn of(request: &Request, peer: IpAddr) -> Self {
        let headers = request.headers();
        Self {
            peer,
            method: request.method().clone(),
            uri: request.uri().clone(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            content_length: headers.get(header::CONTENT_LENGTH).cloned(),
        }
    }
}

/// What the recording of refusals needs.
#[derive(Clone)]
pub struct Notes {
    /// The audit that records it.
    pub audit: Arc<Audit>,
    /// How the provider signs that a refused webhook claims to be from.
    pub registry: Arc<Registry>,
}

/// Around every route, the backend's among them: takes note of what was refused.
pub async fn note_refused(
    State(notes): State<Notes>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let facts = RequestLogFacts::of(&request, peer.ip());
    let mut response = next.run(request).await;
    if let Some(refused) = response.extensions_mut().remove::<RefusalNote>() {
        notes.note(&refused, &response, &facts);
    }
    response
}

impl Notes {
    fn note(&self, refused: &RefusalNote, response: &Response<Body>, facts: &RequestLogFacts) {
        let client = refused.client.unwrap_or(facts.peer).to_canonical();
        let provider = refused.provider.as_deref().unwrap_or(NO_PROVIDER);
        let request_id = response.headers().get(request_id::HEADER);
        let request_id = request_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let status = response.status().as_u16();
        if self.audit.writes_line(refused.kind, provider, refused.code) {
            let (kind, code, cause) = (refused.kind, refused.code, &refused.cause);
            let client = client.to_string();
            tracing::warn!(
                kind,
                provider,
                request_id,
                status,
                code,
                client,
                cause,
                "request refused"
            );
        }
        if !self.audit.samples(client) {
            return;
        }
        let signer = refused.provider.as_deref().filter(|_| refused.kind == WEBHOOK);
        let enabled = signer.and_then(|name| self.registry.get(name));
        self.audit.publish(RefusalSample {
            time: Utc::now(),
            request_id: request_id.to_owned(),
            provider: provider.to_owned(),
            code: refused.code.to_owned(),
            status,
            client_address: client.to_string(),
            method: printable(facts.method.as_str().as_bytes(), MAX_METHOD_CHARS),
            path: printable(facts.uri.path().as_bytes(), MAX_PATH_CHARS),
            scheme: enabled.map(|enabled| enabled.scheme.label()),
            user_agent: facts
                .user_agent
                .as_ref()
                .map(|agent| printable(agent.as_bytes(), MAX_AGENT_CHARS)),
            body_bytes: facts
                .content_length
                .as_ref()
                .and_then(|length| length.to_str().ok()?.parse().ok()),
        });
    }
}

/// A stranger's text, cut, and without what a terminal obeys.
fn printable(bytes: &[u8], max_chars: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(max_chars).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_is_cut_and_escaped() {
        assert_eq!(printable(b"/a\x1b[2J\xff b", 128), "/a?[2J? b");
        for (max, name) in [
            (MAX_METHOD_CHARS, "method"),
            (MAX_PATH_CHARS, "path"),
            (MAX_AGENT_CHARS, "agent"),
        ] {
            assert_eq!(printable(&[b'x'; 5000], max).len(), max, "{name}");
            assert!(max <= 128, "{name}: a sample is small");
        }
    }
}
