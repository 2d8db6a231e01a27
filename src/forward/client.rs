//! HTTP to the backend: the contract's requests, one time limit, a bounded answer.

use std::{
    error::Error,
    io,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classify::{Answer, Request, Verdict, classify};
use crate::{
    config,
    event::{
        Recorded,
        outcome::{ErrorReport, ErrorType},
    },
    tls,
};

/// Most bytes of an answer that are read; an honest one has a few hundred.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Time for the TCP and TLS handshakes, within the whole request's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How many 404 in a row, of different orders, mean that the URL is wrong.
const NOT_FOUND_IN_A_ROW: u32 = 3;

/// The backend's address and how to speak to it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    slots: Semaphore,
    /// Answers 404 since the last other one; starts high: until it answered once otherwise, its URL is not known to be right.
    not_found: AtomicU32,
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
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("webhook-hub/", env!("CARGO_PKG_VERSION")))
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            // As many as can be busy: fewer, and under load each request would open one and close it again.
            .pool_max_idle_per_host(settings.max_requests)
            // A redirected POST would lose its body or its token; a redirect is a set-up to be mended.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls::client(&settings.tls)?)
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self {
            http,
            base: settings.url.clone(),
            slots: Semaphore::new(settings.max_requests),
            not_found: AtomicU32::new(NOT_FOUND_IN_A_ROW),
        })
    }

    /// Waits for the right to make one request: only so many are under way at a time.
    pub async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        // It fails only where the semaphore is closed, which nobody does.
        self.slots.acquire().await.ok()
    }

    /// Posts an order, or a change of one, and reads the answer.
    pub async fn forward(&self, event: &Recorded) -> Verdict {
        let envelope = &event.envelope;
        let (request, url) = if envelope.webhook_type == "order_created" {
            (Request::NewOrder, format!("{}/api/integration/orders", self.base))
        } else {
            let id = percent_encode(&envelope.external_order_id);
            (
                Request::StatusChange,
                format!("{}/api/integration/orders/{id}/status", self.base),
            )
        };
        let mut post = self
            .http
            .post(url)
            .header("idempotency-key", envelope.id.to_string())
            .header("x-request-id", header_value(&envelope.request_id))
            .body(event.payload.clone());
        if let Some(trace) = &envelope.traceparent {
            post = post.header("traceparent", header_value(trace));
        }
        let response = match post.send().await {
            Ok(response) => response,
            Err(error) => return no_answer(&error),
        };
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = match read(response).await {
            Ok(body) => body,
            Err(error) => return no_answer(&error),
        };
        let not_found = match (status, request) {
            (404, Request::NewOrder) => self.not_found.fetch_add(1, Ordering::Relaxed) + 1,
            // An order that the backend does not know says nothing about the URL.
            (404, Request::StatusChange) => self.not_found.load(Ordering::Relaxed),
            _ => {
                self.not_found.store(0, Ordering::Relaxed);
                0
            }
        };
        let answer = Answer {
            status,
            retry_after: retry_after.as_deref(),
            body: &body,
        };
        classify(request, &answer, not_found < NOT_FOUND_IN_A_ROW, Utc::now())
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            break;
        }
    }
    Ok(body)
}

/// There was no answer: why, and what that means.
fn no_answer(error: &reqwest::Error) -> Verdict {
    let (code, message) = if error.is_timeout() {
        ("BACKEND_TIMEOUT", "the backend did not answer in time")
    } else if is_tls(error) {
        return misconfigured(
            "BACKEND_TLS",
            "the backend's certificate is not accepted, or it does not speak TLS",
        );
    } else if is_dns(error) {
        return misconfigured(
            "BACKEND_DNS",
            "the backend's name cannot be resolved: is BACKEND_URL right?",
        );
    } else if error.is_connect() {
        ("BACKEND_UNREACHABLE", "no connection to the backend")
    } else {
        ("BACKEND_CONNECTION_LOST", "the connection to the backend broke off")
    };
    Verdict::Temporary {
        error: report(ErrorType::Temporary, code, message),
        after: None,
    }
}

fn misconfigured(code: &str, message: &str) -> Verdict {
    Verdict::Misconfigured(report(ErrorType::Configuration, code, message))
}

fn report(error_type: ErrorType, code: &str, message: &str) -> ErrorReport {
    ErrorReport {
        error_type,
        code: code.into(),
        message: message.into(),
        details: Value::Null,
    }
}

/// An error and what caused it, down to the first cause.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}

/// Either side refuses the other's TLS. While connecting that is all that can be invalid data: rustls tells every failed
/// handshake so. Later it is an alert, which a server sends that misses a certificate of ours.
pub(crate) fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        (error.is_connect() && cause.downcast_ref().is_some_and(is_invalid_data))
            || cause.to_string().contains("fatal alert")
    })
}

/// An I/O error may hold another one, which is none of its sources.
fn is_invalid_data(error: &io::Error) -> bool {
    let held = error.get_ref().and_then(|held| held.downcast_ref());
    error.kind() == io::ErrorKind::InvalidData || held.is_some_and(is_invalid_data)
}

/// The name cannot be resolved.
pub(crate) fn is_dns(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        let text = cause.to_string();
        text == "dns error" || text.starts_with("failed to lookup address")
    })
}

/// A header value of ours; what could not stand in one (request ids are checked at the door) is left empty.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// An order id as one path segment.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || byte == b'.' && text != "." && text != ".."
        {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_id_stays_one_path_segment() {
        assert_eq!(percent_encode("CR-1_2.3~4"), "CR-1_2.3~4");
        assert_eq!(percent_encode("../../admin?x=1#y"), "..%2F..%2Fadmin%3Fx%3D1%23y");
        assert_eq!(percent_encode(".."), "%2E%2E");
    }
}
