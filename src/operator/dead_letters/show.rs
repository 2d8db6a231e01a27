//! `dead-letters show`: shows one dead letter, or one ignored event.

use std::{fmt, process::ExitCode};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    counted, printable,
    story::{self, HistoryStep},
    time_text,
};
use crate::{
    config::Environment,
    dead_letters::{
        find::{self, Log},
        letter::{Letter, LetterFacts},
        retry::RETRY,
    },
    event::{EventId, EventType, Recorded},
    operator::{
        acts::{self, ActOptions},
        print,
    },
};

/// All that is known about a dead letter. Only `payload`, which is there on request, holds personal data.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: EventId,
    time: DateTime<Utc>,
    sequence: u64,
    provider: &'a str,
    order_id: &'a str,
    webhook_type: &'a str,
    webhook_id: EventId,
    request_id: &'a str,
    received_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<&'a str>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<&'a LetterFacts>,
    /// Why `dead_letter` is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    /// None if it has left the log.
    given_up: Option<ShownEvent>,
    story: Vec<HistoryStep>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
}

/// The event that was given up.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownEvent {
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'static str,
    sequence: u64,
    time: DateTime<Utc>,
    bytes: usize,
}

/// A payload as it is on the log.
#[derive(Serialize)]
#[serde(untagged)]
enum Payload {
    Json(Box<RawValue>),
    Text(String),
}

const OPEN: &str = "open";
/// Closed without a retry: another announcement showed that the backend has the order.
const CONFIRMED: &str = "confirmed";

/// Runs the command. `reveals`: also with the payload, which is recorded before it is printed.
pub(super) async fn run(
    log: &Log,
    id: EventId,
    reveals: Option<(&Environment, &ActOptions)>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let letter = find::named(log, &[id]).await?.remove(0);
    let given_up = match log.given_up(&letter).await? {
        Some(given_up) => log.event(given_up.sequence).await?,
        None => None,
    };
    let story = story::read(log, &letter).await?;
    let is_confirmed = log.is_confirmed(&letter).await?;
    if let Some((environment, options)) = reveals {
        let arguments = json!({ "deadLetter": id });
        acts::reveal(&log.connection, environment, options, arguments).await?;
    }
    let mut shown = shown(&letter, given_up.as_ref(), story, reveals.is_some());
    if is_confirmed && shown.state == OPEN {
        shown.state = CONFIRMED;
    }
    print(as_json, &shown, &shown)?;
    Ok(ExitCode::SUCCESS)
}

fn shown<'a>(
    letter: &'a Letter,
    given_up: Option<&Recorded>,
    story: Vec<HistoryStep>,
    with_payload: bool,
) -> Shown<'a> {
    let envelope = &letter.event.envelope;
    let retried = story
        .iter()
        .any(|step| step.id == letter.id().derive(RETRY) && step.event_type == EventType::OrderRetryRequested.as_str());
    Shown {
        id: envelope.id,
        time: envelope.time,
        sequence: letter.event.sequence,
        provider: &envelope.provider,
        order_id: &envelope.external_order_id,
        webhook_type: &envelope.webhook_type,
        webhook_id: envelope.root_id,
        request_id: &envelope.request_id,
        received_at: envelope.received_at,
        branch: envelope.branch.as_deref(),
        state: if retried { "retried" } else { OPEN },
        dead_letter: letter.facts.as_ref().ok(),
        unreadable: letter.facts.as_ref().err().map(String::as_str),
        given_up: given_up.map(|event| ShownEvent {
            id: event.envelope.id,
            event_type: event.envelope.event_type.as_str(),
            sequence: event.sequence,
            time: event.envelope.time,
            bytes: event.payload.len(),
        }),
        story,
        payload: given_up.filter(|_| with_payload).map(Payload::of),
    }
}

impl Payload {
    fn of(event: &Recorded) -> Self {
        let text = String::from_utf8_lossy(&event.payload).into_owned();
        match serde_json::from_str(&text) {
            Ok(raw) => Self::Json(raw),
            Err(_) => Self::Text(text),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Json(raw) => raw.get(),
            Self::Text(text) => text,
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        field(f, "dead letter", &format!("{} ({})", self.id, self.state))?;
        field(f, "since", &time_text(self.time))?;
        field(
            f,
            "order",
            &format!("{} {}, {}", self.provider, self.order_id, self.webhook_type),
        )?;
        field(f, "branch", self.branch.unwrap_or("not known"))?;
        field(
            f,
            "webhook",
            &format!("{}, accepted {}", self.webhook_id, time_text(self.received_at)),
        )?;
        field(f, "request", self.request_id)?;
        if let Some(facts) = self.dead_letter {
            write_facts(f, facts)?;
        }
        if let Some(reason) = self.unreadable {
            field(f, "unreadable", reason)?;
        }
        match &self.given_up {
            Some(event) => field(
                f,
                "given up",
                &format!(
                    "{} {}, sequence {}, {} bytes",
                    event.event_type, event.id, event.sequence, event.bytes
                ),
            )?,
            None if self.dead_letter.is_some() => field(f, "given up", "no longer on the log")?,
            None => field(f, "given up", "not known")?,
        }
        writeln!(f, "\nhistory of the webhook:")?;
        for step in &self.story {
            let line = format!(
                "  {:>8}  {}  {}  {:<21}  {}",
                step.sequence,
                time_text(step.time),
                step.id,
                step.event_type,
                printable(&step.note)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        match &self.payload {
            Some(payload) => {
                writeln!(f, "\npayload of the event that was given up:")?;
                let lines: Vec<_> = payload.text().lines().map(printable).collect();
                write!(f, "{}", lines.join("\n"))
            }
            None => write!(
                f,
                "\n--payload prints the payload of the event that was given up, with customers' data"
            ),
        }
    }
}

/// Why an event was given up, and after how many attempts.
fn write_facts(f: &mut fmt::Formatter<'_>, facts: &LetterFacts) -> fmt::Result {
    let attempts = counted(facts.attempts as usize, "attempt", "attempts");
    let counts = format!(
        "{} after {attempts}; retries that counted: {}",
        facts.stage.as_deref().unwrap_or("?"),
        facts.retries
    );
    field(f, "gave up", &counts)?;
    field(
        f,
        "error",
        &format!("{} ({})", facts.error.code, facts.error.error_type.as_str()),
    )?;
    field(f, "", &facts.error.message)?;
    if facts.error.details != Value::Null {
        field(f, "details", &facts.error.details.to_string())?;
    }
    Ok(())
}

/// One line, with its name in front.
fn field(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "{name:<12}{}", printable(text))
}
