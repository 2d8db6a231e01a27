//! What the backend's answer means. Pure.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx with an order id; 409 naming the existing order | it has it |
//! | 400, 404 for one order, 413, 422 | this order is at fault |
//! | 404 to a change | it does not know the order (yet) |
//! | 401, 403, TLS or DNS failure, 404 to everything | the set-up is at fault |
//! | 408, 425, 429, 5xx, time-out, connection refused or cut | later, perhaps |
//! | anything else | not understood; later, perhaps, and counted apart |

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    event::outcome::{ErrorReport, ErrorType},
    journal::settle::MAX_ASKED_FOR,
};

/// The backend's answer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` as sent.
    pub retry_after: Option<&'a str>,
    /// The body's beginning.
    pub body: &'a [u8],
}

/// What the request was about; decides what counts as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A new order: the answer must name its id.
    NewOrder,
    /// A change of one that exists.
    StatusChange,
}

/// The backend has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its own id of the order.
    pub order_id: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// The order's status in the backend's words.
    pub order_status: Option<String>,
}

/// What follows from an answer, or from there being none.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The backend has it.
    Accepted(Accepted),
    /// This order is at fault; no retry.
    Invalid(ErrorReport),
    /// A change of an order that it does not know: the one that creates it may still be on its way.
    UnknownOrder(ErrorReport),
    /// Later, perhaps.
    Temporary {
        /// What went wrong.
        error: ErrorReport,
        /// Not before this long from now.
        after: Option<Duration>,
    },
    /// The set-up is at fault; no order is to blame.
    Misconfigured(ErrorReport),
}

impl Verdict {
    /// Metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "success",
            Self::Invalid(_) => "validation",
            Self::UnknownOrder(_) => "unknown_order",
            Self::Temporary { error, .. } => error.error_type.as_str(),
            Self::Misconfigured(_) => "configuration",
        }
    }
}

/// Reads an answer. `answers_otherwise` says whether this backend has answered with anything but 404 lately: if not, its
/// URL is wrong.
pub fn classify(request: Request, answer: &Answer<'_>, answers_otherwise: bool, now: DateTime<Utc>) -> Verdict {
    let body: Value = serde_json::from_slice(answer.body).unwrap_or(Value::Null);
    let after = || retry_after(answer.retry_after?, now);
    match answer.status {
        200..=299 => match (request, order_id(&body)) {
            (Request::NewOrder, None) => Verdict::Temporary {
                error: report(ErrorType::Unknown, answer, "the backend said yes but named no orderId"),
                after: None,
            },
            (_, order_id) => Verdict::Accepted(Accepted {
                order_id,
                status: answer.status,
                order_status: order_status(&body),
            }),
        },
        409 => match order_id(&body) {
            Some(order_id) => Verdict::Accepted(Accepted {
                order_id: Some(order_id),
                status: 409,
                order_status: order_status(&body),
            }),
            None => Verdict::Temporary {
                error: report(
                    ErrorType::Unknown,
                    answer,
                    "the backend reports a conflict but names no existing order",
                ),
                after: after(),
            },
        },
        404 if !answers_otherwise => Verdict::Misconfigured(report(
            ErrorType::Configuration,
            answer,
            "the backend answers 404 to everything: is BACKEND_URL right?",
        )),
        404 if request == Request::StatusChange => Verdict::UnknownOrder(report(
            ErrorType::Validation,
            answer,
            "the backend does not know the order that changed",
        )),
        400 | 404 | 413 | 422 => {
            Verdict::Invalid(report(ErrorType::Validation, answer, "the backend refuses this order"))
        }
        401 | 403 => Verdict::Misconfigured(report(
            ErrorType::Configuration,
            answer,
            "the backend refuses the hub: is SERVICE_TOKEN the one that it expects?",
        )),
        408 | 425 | 429 | 500..=599 => Verdict::Temporary {
            error: report(ErrorType::Temporary, answer, "the backend cannot take the order now"),
            after: after(),
        },
        _ => Verdict::Temporary {
            error: report(ErrorType::Unknown, answer, "an answer that means nothing here"),
            after: after(),
        },
    }
}

/// Seconds or an HTTP date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let duration = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value).ok()?.to_utc() - now)
            .to_std()
            .ok()?,
    };
    Some(duration.min(MAX_ASKED_FOR))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn order_id(body: &Value) -> Option<String> {
    [
        &body["orderId"],
        &body["data"]["orderId"],
        &body["existingOrderId"],
        &body["data"]["existingOrderId"],
    ]
    .into_iter()
    .find_map(text)
}

fn order_status(body: &Value) -> Option<String> {
    [&body["status"], &body["data"]["status"]]
        .into_iter()
        .find_map(|value| value.as_str().map(str::to_owned))
}

fn report(error_type: ErrorType, answer: &Answer<'_>, message: &str) -> ErrorReport {
    ErrorReport {
        error_type,
        code: format!("BACKEND_{}", answer.status),
        message: format!("{message} (HTTP {})", answer.status),
        // What the backend said of its own accord may quote the customer; only its machine-readable code is kept.
        details: serde_json::from_slice::<Value>(answer.body)
            .ok()
            .and_then(|body| text(&body["error"]["code"]).or_else(|| text(&body["code"])))
            .map_or(
                Value::Null,
                |code| serde_json::json!({ "backendCode": code.chars().take(100).collect::<String>() }),
            ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(status: u16, body: &str, retry_after: Option<&str>) -> Verdict {
        let answer = Answer {
            status,
            retry_after,
            body: body.as_bytes(),
        };
        classify(Request::NewOrder, &answer, true, Utc::now())
    }

    #[test]
    fn the_table_of_the_contract() {
        for (status, body, label) in [
            (200, r#"{"success":true,"orderId":"o-1","status":"pending"}"#, "success"),
            (201, r#"{"data":{"orderId":7}}"#, "success"),
            (200, r#"{"success":true}"#, "unknown"),
            (204, "", "unknown"),
            (409, r#"{"orderId":"o-1"}"#, "success"),
            (409, r#"{"error":"conflict"}"#, "unknown"),
            (400, "", "validation"),
            (404, "", "validation"),
            (413, "", "validation"),
            (422, "", "validation"),
            (401, "", "configuration"),
            (403, "", "configuration"),
            (408, "", "temporary"),
            (425, "", "temporary"),
            (429, "", "temporary"),
            (500, "", "temporary"),
            (503, "<html>", "temporary"),
            (302, "", "unknown"),
            (418, "", "unknown"),
        ] {
            assert_eq!(verdict(status, body, None).label(), label, "{status} {body}");
        }
        let everything = Answer {
            status: 404,
            retry_after: None,
            body: b"",
        };
        assert_eq!(
            classify(Request::NewOrder, &everything, false, Utc::now()).label(),
            "configuration"
        );
        let quiet = Answer {
            status: 204,
            retry_after: None,
            body: b"",
        };
        assert_eq!(
            classify(Request::StatusChange, &quiet, true, Utc::now()).label(),
            "success"
        );
    }

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

    #[test]
    fn what_the_backend_says_about_the_customer_is_not_kept() {
        let body = r#"{"error":{"code":"BAD_PHONE","message":"+962791234567 is no phone"}}"#;
        let Verdict::Invalid(error) = verdict(422, body, None) else {
            panic!("422 is a validation error")
        };
        let shown = serde_json::to_string(&error).unwrap();
        assert!(
            shown.contains("BAD_PHONE") && !shown.contains("+962791234567"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn every_answer_has_a_meaning(status in 100u16..600, body in "\\PC{0,40}", header in proptest::option::of("\\PC{0,20}")) {
            let _ = verdict(status, &body, header.as_deref());
        }
    }
}
