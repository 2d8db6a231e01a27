//! HTTP client of the backend: the requests of the contract, with a limit on how many run at a time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use secrecy::ExposeSecret;

use super::{
    classify::{AnswerVerdict, RequestKind, classify},
    evidence::{Answered, BackendEvidence, Evidence},
    identity::Posting,
    slots::{Hangs, RequestSlot, RequestSlots},
};
use crate::{
    config,
    event::{Envelope, outcome::ErrorType},
    http::{self, MAX_ANSWER_BYTES, Target},
    journal::codec::OrderKey,
    text::segment::{self, NotASegment},
};

/// The path of orders below the backend's base URL.
const ORDERS: &str = "/api/integration/orders";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REPLAY: HeaderName = HeaderName::from_static("x-replay");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The backend's address and how to speak to it.
pub struct BackendClient {
    http: http::Client,
    base: String,
    /// The URL for new orders.
    orders: Target,
    timeout: Duration,
    slots: RequestSlots,
    /// What its answers prove together.
    evidence: Mutex<Evidence>,
}

impl BackendClient {
    /// For this backend.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: &config::Backend) -> anyhow::Result<Self> {
        Self::with_headers(settings, HeaderMap::new())
    }

    /// For a backend that is sent past orders: each request says so by `X-Replay: true`.
    ///
    /// # Errors
    /// The same as [`Self::new`].
    pub fn replaying(settings: &config::Backend) -> anyhow::Result<Self> {
        let replay = (X_REPLAY, HeaderValue::from_static("true"));
        Self::with_headers(settings, HeaderMap::from_iter([replay]))
    }

    fn with_headers(settings: &config::Backend, mut headers: HeaderMap) -> anyhow::Result<Self> {
        let newest = settings.service_tokens.first().context("SERVICE_TOKEN: missing")?;
        let mut token = HeaderValue::from_str(newest.expose_secret()).map_err(|_| {
            anyhow::anyhow!("SERVICE_TOKEN: contains characters that are not allowed in an HTTP header")
        })?;
        token.set_sensitive(true);
        headers.extend([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (
                HeaderName::from_static("x-integration-service"),
                HeaderValue::from_static("true"),
            ),
            (HeaderName::from_static("x-service-token"), token),
        ]);
        let http = http::client(settings.timeout, settings.max_requests, headers, &settings.tls)?;
        Ok(Self {
            http,
            orders: Target::parse(&format!("{}{ORDERS}", settings.url)).context("BACKEND_URL")?,
            base: settings.url.clone(),
            timeout: settings.timeout,
            slots: RequestSlots::new(settings.max_requests),
            evidence: Mutex::default(),
        })
    }

    /// How long a request may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for the right to make one request of this branch: only so many are under way at a time.
    ///
    /// # Errors
    /// If the branch has its share of them, and its requests hang.
    pub(super) async fn slot(&self, branch: &str) -> Result<RequestSlot, Hangs> {
        self.slots.take(branch).await
    }

    fn note(&self, request: RequestKind, envelope: &Envelope, status: u16, asked: Instant) -> BackendEvidence {
        let answered = Answered {
            request,
            order: OrderKey::new(&envelope.provider, &envelope.external_order_id),
            branch: envelope.branch.as_deref(),
            status,
            asked,
            came: Instant::now(),
        };
        // No code panics while it holds this lock.
        self.evidence
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(&answered)
    }

    /// A request about an order, without its body, to where it goes.
    ///
    /// # Errors
    /// If the order's id would change the path; the intake takes no such id, earlier versions did.
    pub fn post(&self, request: RequestKind, envelope: &Envelope) -> Result<http::Request, NotASegment> {
        let target = match request {
            RequestKind::NewOrder => Ok(self.orders.clone()),
            RequestKind::StatusChange | RequestKind::Amendment => {
                let order = segment::encode(&envelope.external_order_id)?;
                let what = if request == RequestKind::Amendment {
                    "amendment"
                } else {
                    "status"
                };
                Target::parse(&format!("{}{ORDERS}/{order}/{what}", self.base))
            }
        };
        Ok(http::Request::new(Method::POST, target))
    }

    /// Posts an order, a change or an amendment of one, and reads the answer.
    pub async fn forward(&self, mut post: http::Request, envelope: &Envelope, posting: &Posting) -> AnswerVerdict {
        let request = posting.request;
        post = post
            .header(IDEMPOTENCY_KEY, header_value(&posting.key.to_string()))
            .header(X_REQUEST_ID, header_value(&envelope.request_id))
            .body(posting.body.clone());
        if let Some(trace) = &envelope.traceparent {
            post = post.header(TRACEPARENT, header_value(trace));
        }
        let asked = Instant::now();
        let answer = match self.http.ask(post, MAX_ANSWER_BYTES).await {
            Ok(answer) => answer,
            Err(error) => return no_answer(&error),
        };
        let standing = self.note(request, envelope, answer.status, asked);
        classify(request, &answer, standing)
    }
}

/// There was no answer: what that means.
fn no_answer(error: &http::Failure) -> AnswerVerdict {
    let error = http::no_answer(error, "backend", "BACKEND_URL");
    match error.error_type {
        ErrorType::Configuration => AnswerVerdict::Misconfigured(error),
        _ => AnswerVerdict::Temporary { error, after: None },
    }
}

/// A header value. A text that is not allowed in one becomes empty; the intake has checked request ids.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
