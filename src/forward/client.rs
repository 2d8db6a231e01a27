//! HTTP to the backend: the contract's requests, so many at a time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    classify::{Request, Verdict, classify},
    evidence::{Answered, Evidence, Standing},
    identity::Posting,
};
use crate::{
    config,
    event::{Envelope, outcome::ErrorType},
    http::{
        self, MAX_ANSWER_BYTES,
        segment::{self, NotASegment},
    },
    journal::codec::OrderKey,
};

/// The backend's address and how to speak to it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    timeout: Duration,
    slots: Semaphore,
    /// What its answers say together.
    evidence: Mutex<Evidence>,
}

impl Client {
    /// For this backend.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(settings: &config::Backend) -> anyhow::Result<Self> {
        let newest = settings.service_tokens.first().context("SERVICE_TOKEN: missing")?;
        let mut token = HeaderValue::from_str(newest.expose_secret())
            .map_err(|_| anyhow::anyhow!("SERVICE_TOKEN: holds characters that cannot stand in an HTTP header"))?;
        token.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            ("x-integration-service".parse()?, HeaderValue::from_static("true")),
            ("x-service-token".parse()?, token),
        ]);
        let http = http::client(settings.timeout, settings.max_requests, headers, &settings.tls)?;
        Ok(Self {
            http,
            base: settings.url.clone(),
            timeout: settings.timeout,
            slots: Semaphore::new(settings.max_requests),
            evidence: Mutex::default(),
        })
    }

    /// How long a request may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for the right to make one request: only so many are under way at a time.
    pub async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        // It fails only where the semaphore is closed, which nobody does.
        self.slots.acquire().await.ok()
    }

    fn note(&self, request: Request, envelope: &Envelope, status: u16, asked: Instant) -> Standing {
        let answered = Answered {
            request,
            order: OrderKey::new(&envelope.provider, &envelope.external_order_id),
            branch: envelope.branch.as_deref(),
            status,
            asked,
            came: Instant::now(),
        };
        // No code panics while it holds the lock.
        self.evidence
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(&answered)
    }

    /// Where a request about an order goes.
    ///
    /// # Errors
    /// Where the order's id would change the path; the intake takes no such id, earlier versions did.
    pub fn url(&self, request: Request, envelope: &Envelope) -> Result<String, NotASegment> {
        let orders = format!("{}/api/integration/orders", self.base);
        Ok(match request {
            Request::NewOrder => orders,
            Request::StatusChange => format!("{orders}/{}/status", segment::encode(&envelope.external_order_id)?),
        })
    }

    /// Posts an order, or a change of one, and reads the answer.
    pub async fn forward(&self, url: String, envelope: &Envelope, posting: &Posting) -> Verdict {
        let request = posting.request;
        let mut post = self
            .http
            .post(url)
            .header("idempotency-key", posting.key.to_string())
            .header("x-request-id", header_value(&envelope.request_id))
            .body(posting.body.clone());
        if let Some(trace) = &envelope.traceparent {
            post = post.header("traceparent", header_value(trace));
        }
        let asked = Instant::now();
        let answer = match http::ask(post, MAX_ANSWER_BYTES).await {
            Ok(answer) => answer,
            Err(error) => return no_answer(&error),
        };
        let standing = self.note(request, envelope, answer.status, asked);
        classify(request, &answer, standing)
    }
}

/// There was no answer: what that means.
fn no_answer(error: &reqwest::Error) -> Verdict {
    let error = http::no_answer(error, "backend", "BACKEND_URL");
    match error.error_type {
        ErrorType::Configuration => Verdict::Misconfigured(error),
        _ => Verdict::Temporary { error, after: None },
    }
}

/// A header value of ours; what could not stand in one (request ids are checked at the door) is left empty.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
