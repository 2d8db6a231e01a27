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

use serde_json::Value;

use crate::{
    event::outcome::{ErrorReport, ErrorType},
    http::Answer,
};

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
pub fn classify(request: Request, answer: &Answer, answers_otherwise: bool) -> Verdict {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let after = answer.retry_after;
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
                after,
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
            after,
        },
        _ => Verdict::Temporary {
            error: report(ErrorType::Unknown, answer, "an answer that means nothing here"),
            after,
        },
    }
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

fn report(error_type: ErrorType, answer: &Answer, message: &str) -> ErrorReport {
    answer.report("backend", &["/error/code", "/code"], error_type, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            retry_after: None,
            body: body.into(),
            is_cut: false,
        }
    }

    fn verdict(status: u16, body: &str) -> Verdict {
        classify(Request::NewOrder, &answer(status, body), true)
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
            assert_eq!(verdict(status, body).label(), label, "{status} {body}");
        }
        assert_eq!(
            classify(Request::NewOrder, &answer(404, ""), false).label(),
            "configuration"
        );
        assert_eq!(
            classify(Request::StatusChange, &answer(204, ""), true).label(),
            "success"
        );
    }

    #[test]
    fn what_the_backend_says_about_the_customer_is_not_kept() {
        let body = r#"{"error":{"code":"BAD_PHONE","message":"+962791234567 is no phone"}}"#;
        let Verdict::Invalid(error) = verdict(422, body) else {
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
        fn every_answer_has_a_meaning(status in 100u16..600, body in "\\PC{0,40}") {
            let _ = verdict(status, &body);
        }
    }
}
