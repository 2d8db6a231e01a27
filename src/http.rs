//! Asking others by HTTP, the backend and the providers: how a client is set up, an answer within its limit, and why there
//! was none. What an answer means is left to who asks.

use std::{error::Error, io, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use reqwest::{
    Client, RequestBuilder, Response,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
    redirect,
};
use serde_json::{Value, json};

use crate::{
    config::ClientTls,
    event::outcome::{ErrorReport, ErrorType},
    journal::settle::MAX_ASKED_FOR,
    process::descriptors,
    tls,
};

pub mod segment;
mod body;

use self::body::Coding;

/// Most bytes of an answer that are read, as they come and unpacked, where it is no document; an honest one has a few hundred.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most characters of somebody's own code for an error that are kept.
const MAX_CODE_CHARS: usize = 100;
/// Time for the TCP and TLS handshakes, within the whole request's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client for requests that take at most `timeout` each and of which `max_requests` are under way at a time; all of
/// them carry `headers`.
///
/// # Errors
/// Where TLS cannot be set up, naming the variable.
pub fn client(
    timeout: Duration,
    max_requests: usize,
    mut headers: HeaderMap,
    tls: &ClientTls,
) -> anyhow::Result<Client> {
    // Said so that nobody packs an answer in a way that is not understood.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(body::ACCEPTED));
    Client::builder()
        .default_headers(headers)
        .user_agent(concat!("webhook-hub/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        // As many as can be busy: fewer, and under load each request would open one and close it again.
        .pool_max_idle_per_host(max_requests)
        // A redirect would carry the token to whoever the answer names, or lose the body; it is a set-up to be mended.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls::client(tls)?)
        .build()
        .context("cannot set up the HTTP client")
}

/// Why an answer's body is not whole.
#[derive(Debug)]
pub enum Incomplete {
    /// It is larger than the limit.
    TooLarge,
    /// It is packed in a way that was not offered, or not as its header says.
    Undecodable,
    /// The connection broke off, or the time was over.
    BrokeOff(reqwest::Error),
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, as a time from now.
    pub retry_after: Option<Duration>,
    /// The body, unpacked and without a byte order mark, as far as it was read.
    pub body: Vec<u8>,
    /// Why that is not all of it; none where it is.
    pub incomplete: Option<Incomplete>,
    /// Where a redirect leads: scheme, host and port. The rest may hold what is nobody's business.
    pub location: Option<String>,
}

impl Answer {
    /// The answer, where its body did not break off.
    ///
    /// # Errors
    /// Why it did (see [`no_answer`]).
    pub fn unbroken(self) -> reqwest::Result<Self> {
        match self.incomplete {
            Some(Incomplete::BrokeOff(error)) => Err(error),
            incomplete => Ok(Self { incomplete, ..self }),
        }
    }

    /// What went wrong, where the `backend` or a `provider` answered so. What they say of their own accord may quote the
    /// customer; only their machine-readable code is kept, from the first of these JSON pointers that leads to one.
    pub fn report(&self, whom: &str, codes: &[&str], error_type: ErrorType, message: &str) -> ErrorReport {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let code = codes.iter().find_map(|pointer| match body.pointer(pointer)? {
            Value::String(code) if !code.trim().is_empty() => {
                Some(code.chars().take(MAX_CODE_CHARS).collect::<String>())
            }
            Value::Number(code) => Some(code.to_string()),
            _ => None,
        });
        let details = code.map_or(Value::Null, |code| json!({ format!("{whom}Code"): code }));
        ErrorReport::new(
            error_type,
            format!("{}_{}", whom.to_ascii_uppercase(), self.status),
            format!("{message} (HTTP {})", self.status),
        )
        .with(details)
    }
}

/// Asks, and reads at most so many bytes of the answer's body, as they come and unpacked.
///
/// # Errors
/// There was no answer (see [`no_answer`]). One whose body breaks off is an answer all the same: its status counts.
pub async fn ask(request: RequestBuilder, max_bytes: usize) -> reqwest::Result<Answer> {
    let mut response = request.send().await?;
    let header = response.headers().get(RETRY_AFTER);
    let retry_after = header.and_then(|value| retry_after(value.to_str().ok()?, Utc::now()));
    let (status, coding) = (response.status().as_u16(), Coding::of(response.headers()));
    let location = location(&response);
    let mut packed = Vec::new();
    let mut incomplete = None;
    loop {
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) => {
                let room = max_bytes - packed.len();
                packed.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    incomplete = Some(Incomplete::TooLarge);
                    break;
                }
            }
            Err(error) => {
                incomplete = Some(Incomplete::BrokeOff(error));
                break;
            }
        }
    }
    let unpacked = body::unpack(coding, packed, max_bytes).await;
    if unpacked.is_too_large {
        incomplete.get_or_insert(Incomplete::TooLarge);
    } else if unpacked.is_broken {
        incomplete.get_or_insert(Incomplete::Undecodable);
    }
    Ok(Answer {
        status,
        retry_after,
        body: unpacked.bytes,
        incomplete,
        location,
    })
}

fn location(response: &Response) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = response.url().join(location).ok()?;
    Some(url.origin().ascii_serialization())
}

/// Seconds or an HTTP date (RFC 9110, 10.2.3).
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let duration = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value).ok()?.to_utc() - now)
            .to_std()
            .ok()?,
    };
    Some(duration.min(MAX_ASKED_FOR))
}

/// Why there was no answer of the `backend`, or of a `provider`, whose address stands in the variable `url`. Where the
/// set-up is at fault the error's type says so; everything else is temporary.
pub fn no_answer(error: &reqwest::Error, whom: &str, url: &str) -> ErrorReport {
    let (error_type, code, message) = if let Some(cause) = descriptors::exhausted(error) {
        // Our own trouble, whatever it looks like.
        (ErrorType::Temporary, "UNREACHABLE", cause)
    } else if error.is_timeout() {
        let message = format!("the {whom} did not answer in time");
        (ErrorType::Temporary, "TIMEOUT", message)
    } else if is_tls(error) {
        let message = format!("the {whom}'s certificate is not accepted, or it does not speak TLS");
        (ErrorType::Configuration, "TLS", message)
    } else if is_dns(error) {
        let message = format!("the {whom}'s name cannot be resolved: is {url} right?");
        (ErrorType::Configuration, "DNS", message)
    } else if error.is_connect() {
        let message = format!("no connection to the {whom}");
        (ErrorType::Temporary, "UNREACHABLE", message)
    } else {
        let message = format!("the connection to the {whom} broke off");
        (ErrorType::Temporary, "CONNECTION_LOST", message)
    };
    ErrorReport::new(error_type, format!("{}_{code}", whom.to_ascii_uppercase()), message)
}

/// An error and what caused it, down to the first cause.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}

/// Either side refuses the other's TLS. While connecting that is all that can be invalid data: rustls tells every failed
/// handshake so. Later it is an alert, which a server sends that misses a certificate of ours.
fn is_tls(error: &reqwest::Error) -> bool {
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
fn is_dns(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        let text = cause.to_string();
        text == "dns error" || text.starts_with("failed to lookup address")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_as_seconds_and_as_date() {
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().to_utc();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Thu, 01 Jan 2026 00:01:00 GMT", now),
            Some(Duration::from_secs(60))
        );
        assert_eq!(retry_after("Thu, 01 Jan 2020 00:01:00 GMT", now), None);
        assert_eq!(retry_after("999999999999", now), Some(MAX_ASKED_FOR));
        assert_eq!(retry_after("soon", now), None);
    }

    proptest! {
        #[test]
        fn no_header_lets_it_wait_for_ever(value in "[0-9]{1,20}|\\PC{0,20}") {
            prop_assert!(retry_after(&value, Utc::now()).is_none_or(|after| after <= MAX_ASKED_FOR));
        }
    }
}
