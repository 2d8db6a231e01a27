//! HTTP requests to the backend and the providers: the set-up of a client, and an answer within its limit or the reason why there is none.
//! The callers know what an answer means.

use std::time::Duration;

use axum::http::HeaderMap;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    config::ClientTls,
    event::outcome::{ErrorReport, ErrorType},
    process::descriptors,
    retry::MAX_ASKED_FOR,
    tls,
};

mod body;
mod client;
mod connection;
mod pool;
mod target;

pub use self::{
    client::{Client, Failure, Request},
    target::{NotATarget, Target},
};

/// Most bytes of an answer that are read, as they come and unpacked, where it is no document; an honest one has a few hundred.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest pause that a date in `Retry-After` can ask for. A date says something by a clock, and a clock may be hours off: after this time
/// the other side is asked again.
const MAX_UNTIL_DATE: Duration = Duration::from_secs(15 * 60);
/// Most characters of a server's own error code that are kept.
const MAX_CODE_CHARS: usize = 100;

/// A client for requests that take at most `timeout` each and of which `max_requests` are under way at a time; all of
/// them carry `headers`.
///
/// # Errors
/// If TLS cannot be set up, naming the variable.
pub fn client(timeout: Duration, max_requests: usize, headers: HeaderMap, tls: &ClientTls) -> anyhow::Result<Client> {
    Ok(Client::new(timeout, max_requests, headers, tls::client(tls)?))
}

/// Why an answer's body is not whole.
#[derive(Debug)]
pub enum Incomplete {
    /// It is larger than the limit.
    TooLarge,
    /// It is packed in a way that was not offered, or not as its header says.
    Undecodable,
    /// The connection broke off, or the time was over.
    BrokeOff(Failure),
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, as a time from now.
    pub retry_after: Option<Duration>,
    /// How far the other side's clock is ahead of ours, by its `Date`.
    pub clock_ahead: Option<TimeDelta>,
    /// The body, unpacked and without a byte order mark, as far as it was read.
    pub body: Vec<u8>,
    /// Why that is not all of it; none if it is.
    pub incomplete: Option<Incomplete>,
    /// The target of a redirect: scheme, host and port. The rest may contain confidential text.
    pub location: Option<String>,
}

impl Answer {
    /// The answer, where its body did not break off.
    ///
    /// # Errors
    /// Why it did (see [`no_answer`]).
    pub fn unbroken(self) -> Result<Self, Failure> {
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

/// Seconds or an HTTP date (RFC 9110, 10.2.3). `now` is the time by the clock of whoever wrote it: a date is compared with no other.
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    Some(match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds).min(MAX_ASKED_FOR),
        Err(_) => (date(value)? - now).to_std().ok()?.min(MAX_UNTIL_DATE),
    })
}

/// A date of a header, in each of the three forms that a client must read (RFC 9110, 5.6.7).
fn date(value: &str) -> Option<DateTime<Utc>> {
    let value = value.trim();
    if let Ok(time) = DateTime::parse_from_rfc2822(value) {
        return Some(time.to_utc());
    }
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let mut read = forms
        .into_iter()
        .filter_map(|form| NaiveDateTime::parse_from_str(value, form).ok());
    read.next().map(|time| time.and_utc())
}

/// Why there was no answer of the `backend`, or of a `provider`; the variable `url` holds its address. Where the
/// set-up is at fault the error's type says so; everything else is temporary.
pub fn no_answer(error: &Failure, whom: &str, url: &str) -> ErrorReport {
    let (error_type, code, message) = if let Some(cause) = descriptors::exhausted(error) {
        // The hub's own file descriptors are exhausted, whatever the error says.
        (ErrorType::Temporary, "UNREACHABLE", cause)
    } else if error.is_timeout() {
        let message = format!("the {whom} did not answer in time");
        (ErrorType::Temporary, "TIMEOUT", message)
    } else if error.is_tls() {
        let message = format!("the {whom}'s certificate is not accepted, or it does not speak TLS");
        (ErrorType::Configuration, "TLS", message)
    } else if error.is_dns() {
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
        for date in [
            "Thu, 01 Jan 2026 00:00:30 GMT",
            "Thursday, 01-Jan-26 00:00:30 GMT",
            "Thu Jan  1 00:00:30 2026",
        ] {
            assert_eq!(retry_after(date, now), Some(Duration::from_secs(30)), "{date}");
        }
        let in_five_hours = "Thu, 01 Jan 2026 05:00:00 GMT";
        assert_eq!(retry_after(in_five_hours, now), Some(MAX_UNTIL_DATE));
        assert_eq!(retry_after("soon", now), None);
    }

    proptest! {
        #[test]
        fn no_header_lets_it_wait_for_ever(value in "[0-9]{1,20}|\\PC{0,20}") {
            prop_assert!(retry_after(&value, Utc::now()).is_none_or(|after| after <= MAX_ASKED_FOR));
        }
    }
}
