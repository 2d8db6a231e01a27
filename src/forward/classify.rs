//! Classifies the backend's answers. Pure.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx with an order id; 409 naming the existing order | the backend has the order |
//! | 2xx with an incomplete body and no id in the part that was read | the backend has the order, under an unknown id |
//! | 400, 413, 422; a second 404 to one order, after the backend answered a later request | this order is at fault |
//! | 404 to a change | the backend does not know the order (yet) |
//! | 404 before that | the order or the URL is at fault; later answers decide |
//! | 401, 403, TLS or DNS failure, 404 or a redirect to everything | the set-up is at fault |
//! | 408, 425, 429, 5xx, time-out, connection refused or cut | temporary: it is retried |
//! | anything else | not understood: it is retried, and counted separately |
//!
//! `remote` reads the answers of providers, by other rules: the provider's file lists the statuses of success, a refusal may concern
//! the credentials of one branch, and no answer has to name an order.

use std::time::Duration;

use super::{
    answer::{self, BackendAnswer},
    evidence::BackendEvidence,
};
use crate::{
    event::outcome::{ErrorReport, ErrorType},
    http::{Answer, Incomplete, MAX_ANSWER_BYTES},
};

/// The kind of a request; it decides what counts as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A new order: the answer must name its id.
    NewOrder,
    /// A change of one that exists.
    StatusChange,
    /// Other lines or amounts of one that exists.
    Amendment,
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
    /// Why a new order's answer could not be read whole, and so names no id; none if it could, or did.
    pub unread: Option<String>,
}

/// What follows from an answer, or from a missing one.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerVerdict {
    /// The backend has it.
    Accepted(Accepted),
    /// This order is at fault; no retry.
    Invalid(ErrorReport),
    /// A change of an order that it does not know: the one that creates it may still be on its way.
    UnknownOrder {
        /// What went wrong.
        error: ErrorReport,
        /// Whether the change itself may be at fault: the backend has answered to something later.
        is_certain: bool,
    },
    /// The order or the set-up is at fault; later answers decide which.
    Doubtful(ErrorReport),
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

impl AnswerVerdict {
    /// Metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "success",
            Self::Invalid(_) => "validation",
            Self::UnknownOrder { .. } => "unknown_order",
            Self::Doubtful(error) | Self::Temporary { error, .. } => error.error_type.as_str(),
            Self::Misconfigured(_) => "configuration",
        }
    }

    /// The code of a temporary failure.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Temporary { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Whether the request came to its time limit.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Temporary { error, .. } if error.code == BACKEND_TIMEOUT)
    }

    /// Whether the request can have reached the backend: a connection was opened.
    pub fn is_reached(&self) -> bool {
        !matches!(self, Self::Temporary { error, .. } if error.code == BACKEND_UNREACHABLE)
    }
}

/// Code of a request for which no connection could be opened.
const BACKEND_UNREACHABLE: &str = "BACKEND_UNREACHABLE";
/// Code of a request that was not answered in time.
const BACKEND_TIMEOUT: &str = "BACKEND_TIMEOUT";

/// Reads an answer; `standing` is what is known of the backend with it.
pub fn classify(request: RequestKind, answer: &Answer, standing: BackendEvidence) -> AnswerVerdict {
    let after = answer.retry_after;
    match answer.status {
        200..=299 => said_yes(request, answer),
        300..=399 => redirected(answer, standing),
        409 => match answer::read(&answer.body) {
            BackendAnswer {
                order_id: Some(order_id),
                status,
            } => AnswerVerdict::Accepted(Accepted {
                order_id: Some(order_id),
                status: 409,
                order_status: status,
                unread: None,
            }),
            _ => AnswerVerdict::Temporary {
                error: report(
                    ErrorType::Unknown,
                    answer,
                    "the backend reports a conflict but names no existing order",
                ),
                after,
            },
        },
        404 if standing == BackendEvidence::NotFound => AnswerVerdict::Misconfigured(report(
            ErrorType::Configuration,
            answer,
            "the backend answers 404 to everything: is BACKEND_URL right?",
        )),
        404 if request != RequestKind::NewOrder => AnswerVerdict::UnknownOrder {
            error: report(
                ErrorType::Validation,
                answer,
                "the backend does not know the order that changed",
            ),
            is_certain: standing == BackendEvidence::Proven,
        },
        404 if standing == BackendEvidence::Doubtful => AnswerVerdict::Doubtful(report(
            ErrorType::Unknown,
            answer,
            "the backend answers 404 and has answered to nothing else since: this order or BACKEND_URL is wrong",
        )),
        404 if standing == BackendEvidence::Unproven => AnswerVerdict::Temporary {
            error: report(
                ErrorType::Unknown,
                answer,
                "the backend answers 404 and has not been heard otherwise since the hub started: is BACKEND_URL right?",
            ),
            after,
        },
        400 | 404 | 413 | 422 => {
            AnswerVerdict::Invalid(report(ErrorType::Validation, answer, "the backend refuses this order"))
        }
        401 | 403 => AnswerVerdict::Misconfigured(report(
            ErrorType::Configuration,
            answer,
            "the backend refuses the hub: is SERVICE_TOKEN the one that it expects?",
        )),
        408 | 425 | 429 | 500..=599 => AnswerVerdict::Temporary {
            error: report(ErrorType::Temporary, answer, "the backend cannot take the order now"),
            after,
        },
        _ => AnswerVerdict::Temporary {
            error: report(ErrorType::Unknown, answer, "an answer that means nothing here"),
            after,
        },
    }
}

/// A 2xx counts whatever its body. Only a complete body without an id shows that another server answered.
fn said_yes(request: RequestKind, answer: &Answer) -> AnswerVerdict {
    let fields = answer::read(&answer.body);
    let is_unnamed = request == RequestKind::NewOrder && fields.order_id.is_none();
    let unread = match &answer.incomplete {
        _ if !is_unnamed => None,
        None => {
            return AnswerVerdict::Temporary {
                error: report(ErrorType::Unknown, answer, "the backend said yes but named no orderId"),
                after: None,
            };
        }
        Some(Incomplete::TooLarge) => Some(format!("it is larger than {MAX_ANSWER_BYTES} bytes")),
        Some(Incomplete::Undecodable) => Some("it is not packed as its Content-Encoding says".to_owned()),
        Some(Incomplete::BrokeOff(_)) => Some("it broke off".to_owned()),
    };
    AnswerVerdict::Accepted(Accepted {
        order_id: fields.order_id,
        status: answer.status,
        order_status: fields.status,
        unread,
    })
}

/// The hub follows no redirect: the token would go to any host that the answer names.
fn redirected(answer: &Answer, standing: BackendEvidence) -> AnswerVerdict {
    let place = answer.location.as_deref().unwrap_or("an unnamed location");
    if standing == BackendEvidence::Redirects {
        let message = format!("the backend redirects everything to {place}: is BACKEND_URL right?");
        return AnswerVerdict::Misconfigured(report(ErrorType::Configuration, answer, &message));
    }
    let message = format!("the backend redirects to {place}, where the hub does not follow: is BACKEND_URL right?");
    AnswerVerdict::Temporary {
        error: report(ErrorType::Unknown, answer, &message),
        after: answer.retry_after,
    }
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
            clock_ahead: None,
            body: body.into(),
            incomplete: None,
            location: None,
        }
    }

    fn verdict(status: u16, body: &str) -> AnswerVerdict {
        classify(RequestKind::NewOrder, &answer(status, body), BackendEvidence::Proven)
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
        for (request, status, standing, label) in [
            (RequestKind::NewOrder, 404, BackendEvidence::NotFound, "configuration"),
            (
                RequestKind::StatusChange,
                404,
                BackendEvidence::NotFound,
                "configuration",
            ),
            (RequestKind::NewOrder, 404, BackendEvidence::Unproven, "unknown"),
            (
                RequestKind::StatusChange,
                404,
                BackendEvidence::Unproven,
                "unknown_order",
            ),
            (RequestKind::NewOrder, 404, BackendEvidence::Doubtful, "unknown"),
            (RequestKind::StatusChange, 404, BackendEvidence::Proven, "unknown_order"),
            (
                RequestKind::StatusChange,
                404,
                BackendEvidence::Doubtful,
                "unknown_order",
            ),
            (RequestKind::NewOrder, 301, BackendEvidence::Redirects, "configuration"),
            (
                RequestKind::StatusChange,
                308,
                BackendEvidence::Redirects,
                "configuration",
            ),
            (RequestKind::StatusChange, 302, BackendEvidence::Unproven, "unknown"),
            (RequestKind::StatusChange, 204, BackendEvidence::Proven, "success"),
        ] {
            assert_eq!(
                classify(request, &answer(status, ""), standing).label(),
                label,
                "{request:?} {status}"
            );
        }
    }

    #[test]
    fn an_incomplete_success_is_a_success() {
        let yes = |body: &str, incomplete| {
            let answer = Answer {
                incomplete: Some(incomplete),
                ..answer(200, body)
            };
            match classify(RequestKind::NewOrder, &answer, BackendEvidence::Unproven) {
                AnswerVerdict::Accepted(accepted) => (accepted.order_id, accepted.unread),
                other => panic!("{other:?}"),
            }
        };
        let (id, unread) = yes(r#"{"orderId":7,"echo":"xxx"#, Incomplete::TooLarge);
        assert_eq!((id.as_deref(), unread), (Some("7"), None));
        let (id, unread) = yes(r#"{"echo":"xxx"#, Incomplete::TooLarge);
        assert_eq!((id, unread.as_deref()), (None, Some("it is larger than 65536 bytes")));
        assert!(yes("", Incomplete::Undecodable).1.unwrap().contains("Content-Encoding"));
    }

    #[test]
    fn personal_data_in_answers_is_not_kept() {
        let body = r#"{"error":{"code":"BAD_PHONE","message":"+962791234567 is no phone"}}"#;
        let AnswerVerdict::Invalid(error) = verdict(422, body) else {
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
