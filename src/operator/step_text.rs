//! Describes an event in a line of text for people.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    dead_letters::{printable, time_text},
    queries::steps::{ErrorSummary, RetryWait, Step, StepDetail},
};
use crate::event::{SecretUse, WebhookOrigin};

/// A short heading and the text of a step.
pub(super) fn words(step: &Step) -> (String, String) {
    let (head, text) = match &step.detail {
        StepDetail::Received {
            scheme,
            address,
            secrets,
            origin,
            bytes,
        } => arrival(origin.as_ref(), (scheme, address, secrets), *bytes),
        StepDetail::FetchRequested => (
            "fetch".into(),
            "the webhook only names the order; waits for the provider's document".into(),
        ),
        StepDetail::Fetched { bytes } => ("fetched".into(), format!("the provider's document, {bytes} bytes")),
        StepDetail::ReadAs { .. } => ("read as".into(), read_as(step)),
        StepDetail::Ignored {
            reason,
            message,
            differs,
        } => {
            let differs = if *differs {
                "; it differs from the first announcement"
            } else {
                ""
            };
            ("ignored".into(), format!("{reason}: {message}{differs}"))
        }
        StepDetail::Failed {
            attempt, error, waits, ..
        } => (
            format!("attempt {attempt}"),
            format!("{}; {}", fault(error), waiting(waits, step.time)),
        ),
        StepDetail::GivenUp { stage, attempts, error } => {
            let attempts = counted(*attempts);
            (
                "given up".into(),
                format!("in {stage} after {attempts}: {}; waits for a person", fault(error)),
            )
        }
        StepDetail::RetryRequested { by, reason, stage } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            ("retry".into(), format!("requested by {by}, in {stage}{reason}"))
        }
        StepDetail::Acted {
            kind,
            by,
            reason,
            result,
        } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let ended = match result.as_ref().map(|result| &result.error) {
                None => "begun by",
                Some(None) => "done by",
                Some(Some(_)) => "failed, begun by",
            };
            (kind.clone(), format!("{ended} {by}{reason}"))
        }
        StepDetail::Job => ("job".into(), step.external_order_id.clone()),
        StepDetail::Forwarded { .. } => ("forwarded".into(), forwarded(&step.detail)),
        other => to_provider(other),
    };
    (printable(&head), printable(&text))
}

/// How a webhook, with this scheme, address and these secrets, came to the hub.
fn arrival(
    origin: Option<&WebhookOrigin>,
    (scheme, address, secrets): (&str, &str, &[SecretUse]),
    bytes: usize,
) -> (String, String) {
    match origin {
        None => ("received".into(), received(scheme, address, secrets, bytes)),
        Some(WebhookOrigin::Reconciled) => (
            "found".into(),
            format!("the webhook never came; the provider's list of orders has it; {bytes} bytes"),
        ),
        Some(WebhookOrigin::Observed) => (
            "received".into(),
            format!(
                "{}; its signature does not match, and was only observed",
                received("", address, secrets, bytes)
            ),
        ),
        Some(WebhookOrigin::Unknown) => ("taken in".into(), received(scheme, address, secrets, bytes)),
    }
}

fn received(scheme: &str, address: &str, secrets: &[SecretUse], bytes: usize) -> String {
    let mut text = format!("{bytes} bytes");
    if !address.is_empty() {
        text += &format!(" from {address}");
    }
    if !scheme.is_empty() {
        text += &format!(", proven by {scheme}");
    }
    let names: Vec<_> = secrets
        .iter()
        .map(|one| {
            let age = if one.index == 0 { "" } else { ", an older one" };
            format!("{} ({}{age})", one.name, one.origin.as_str())
        })
        .collect();
    if !names.is_empty() {
        text += &format!(" with {}", names.join(" and "));
    }
    text
}

fn read_as(step: &Step) -> String {
    let StepDetail::ReadAs {
        status,
        provider_status,
        order_number,
        deadline,
        flags,
        bytes,
    } = &step.detail
    else {
        return String::new();
    };
    let mut parts = vec![status.clone().unwrap_or_else(|| "no status".into())];
    if let Some(word) = provider_status {
        parts.push(format!("the provider said {word}"));
    }
    parts.extend(order_number.clone());
    parts.extend(step.branch.as_ref().map(|branch| format!("branch {branch}")));
    parts.extend(deadline.map(|deadline| format!("deadline {}", time_text(deadline))));
    if !flags.is_empty() {
        parts.push(format!("flags {}", flags.join(" ")));
    }
    parts.push(format!("{bytes} bytes for the backend"));
    parts.join(", ")
}

fn fault(error: &ErrorSummary) -> String {
    format!("{} ({}): {}", error.code, error.kind, error.message)
}

fn waiting(waits: &RetryWait, since: DateTime<Utc>) -> String {
    let Some(until) = waits.until else {
        return "no attempt follows".to_owned();
    };
    let (span, until) = (Span(until - since), time_text(until));
    if waits.for_order {
        format!("waits for the webhook that creates the order, {span} at most, until {until}")
    } else {
        format!("waits {span} for the next attempt, until {until}")
    }
}

fn forwarded(detail: &StepDetail) -> String {
    let StepDetail::Forwarded {
        attempts,
        backend_status,
        order_id,
        as_news,
    } = detail
    else {
        return String::new();
    };
    let order = order_id
        .as_ref()
        .map(|id| format!(", its order is {id}"))
        .unwrap_or_default();
    let as_news = if *as_news {
        ", sent as a change of its status"
    } else {
        ""
    };
    format!("by attempt {attempts}: the backend answered {backend_status}{order}{as_news}")
}

/// The steps of requests to the provider.
fn to_provider(detail: &StepDetail) -> (String, String) {
    let (head, text) = match detail {
        StepDetail::StatusRequested { status, automatic } => {
            let who = if *automatic {
                "as the branch accepts automatically"
            } else {
                "requested by the backend"
            };
            ("push", format!("status {status} for the provider, {who}"))
        }
        StepDetail::StatusPushed {
            status,
            attempts,
            provider_status: Some(answer),
        } => (
            "pushed",
            format!("{status}, by attempt {attempts}: the provider answered {answer}"),
        ),
        StepDetail::StatusPushed { status, .. } => (
            "pushed",
            format!("{status}: the provider takes no such status, nothing was sent"),
        ),
        StepDetail::MenuRequested => ("push", "menu for the provider, requested by the backend".to_owned()),
        StepDetail::MenuAccepted {
            provider_status,
            result_due_at,
        } => (
            "accepted",
            format!(
                "the provider answered {provider_status}; waits for its result, until {}",
                time_text(*result_due_at)
            ),
        ),
        StepDetail::MenuReported { ok } => {
            let text = if *ok {
                "the provider has the menu"
            } else {
                "the provider refused the menu"
            };
            ("reported", text.to_owned())
        }
        StepDetail::MenuSynced { attempts } => ("pushed", format!("the menu, by attempt {attempts}")),
        StepDetail::Unreadable { reason } => ("unreadable", format!("this version cannot read it: {reason}")),
        _ => return of_branch(detail),
    };
    (head.to_owned(), text)
}

/// The steps of requests about a branch's items and its state.
fn of_branch(detail: &StepDetail) -> (String, String) {
    let (head, text) = match detail {
        StepDetail::ItemsRequested { entries } => (
            "push",
            format!("which of {entries} items can be ordered, requested by the backend"),
        ),
        StepDetail::ItemsPushed {
            taken,
            refused,
            is_part,
        } => {
            let rest = if *is_part { "; the rest follows" } else { "" };
            (
                "pushed",
                format!("the provider took {taken} and refused {refused}{rest}"),
            )
        }
        StepDetail::StoreRequested { state } => {
            ("push", format!("state {state} of the branch, requested by the backend"))
        }
        StepDetail::StorePushed {
            state,
            attempts,
            provider_status: Some(answer),
        } => (
            "pushed",
            format!("{state}, by attempt {attempts}: the provider answered {answer}"),
        ),
        StepDetail::StorePushed { state, .. } => ("pushed", format!("{state}: its time was over, nothing was sent")),
        _ => ("", String::new()),
    };
    (head.to_owned(), text)
}

fn counted(attempts: u32) -> String {
    match attempts {
        1 => "1 attempt".to_owned(),
        several => format!("{several} attempts"),
    }
}

/// A time span in its largest unit: `1.5 s`, `5 min`, `2 h`.
struct Span(TimeDelta);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.num_milliseconds().max(0);
        // One decimal; whole numbers without it.
        let (count, unit) = match ms {
            0..=999 => return write!(f, "{ms} ms"),
            1_000..=59_999 => (ms / 100, "s"),
            60_000..=3_599_999 => (ms / 6_000, "min"),
            _ => (ms / 360_000, "h"),
        };
        match (count / 10, count % 10) {
            (whole, 0) => write!(f, "{whole} {unit}"),
            (whole, tenth) => write!(f, "{whole}.{tenth} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let text = |ms| Span(TimeDelta::milliseconds(ms)).to_string();
        let texts = [-5, 200, 1_000, 1_540, 59_999, 60_000, 330_000, 3_600_000, 86_400_000].map(text);
        assert_eq!(
            texts,
            [
                "0 ms", "200 ms", "1 s", "1.5 s", "59.9 s", "1 min", "5.5 min", "1 h", "24 h"
            ]
        );
    }
}
