//! Records what operators do as events on the log (`operator.acted`): before the act, and with its result after it.
//!
//! So no act is without a record, also one that is interrupted: its second event is missing. `webhook-hub operator audit` lists them.
//! Acts of the user `provision` are noted on the stream (`journal::streams::notes`), and a hub appends the event.

use std::{fmt, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use clap::ValueEnum;
use serde_json::{Value, json};
use uuid::Uuid;

use super::tell;
use crate::{
    config::{Environment, EventLog},
    event::{
        Envelope, EventId, EventType, NewEvent, Principal, Recorded,
        operator::{ActResult, Acted, PROVIDER, RESULT, WEBHOOK_TYPE},
    },
    journal::{
        codec::{self, Form},
        connection::Connection,
        form,
    },
};

/// Longest reason or name in an event: each event stores it, and lists show it.
pub(super) const MAX_NOTE_CHARS: usize = 500;
/// Longest error that an act's result stores.
const MAX_ERROR_CHARS: usize = 500;
/// Most ids that the arguments of an act name; the rest is counted.
const MAX_IDS: usize = 100;
/// Wait for one acknowledgement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The file that has the machine's name on Linux.
const HOST_FILE: &str = "/proc/sys/kernel/hostname";

/// A kind of act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ActKind {
    /// Retries of dead letters were requested.
    Retry,
    /// Blocks of rate limits were lifted.
    LiftBlocks,
    /// Tables were made from the log again.
    Rebuild,
    /// The tables that a rebuild replaced were put back.
    UndoRebuild,
    /// The tables that a rebuild replaced were dropped.
    ForgetRebuild,
    /// A job that retries dead letters was started.
    StartJob,
    /// A job was stopped.
    StopJob,
    /// A job was resumed.
    ResumeJob,
    /// Past orders were sent to another backend.
    ReplayElsewhere,
    /// Past orders were sent to the backend again.
    ReplayForward,
    /// Personal data was shown.
    Reveal,
    /// The log was restored from a backup.
    Restore,
    /// A mirror was made the log.
    Promote,
    /// Limits of the log, or the number of its copies, were changed.
    ApplyStreams,
}

impl ActKind {
    /// Its name in events and on the command line.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::LiftBlocks => "lift-blocks",
            Self::Rebuild => "rebuild",
            Self::UndoRebuild => "undo-rebuild",
            Self::ForgetRebuild => "forget-rebuild",
            Self::StartJob => "start-job",
            Self::StopJob => "stop-job",
            Self::ResumeJob => "resume-job",
            Self::ReplayElsewhere => "replay-elsewhere",
            Self::ReplayForward => "replay-forward",
            Self::Reveal => "reveal",
            Self::Restore => "restore",
            Self::Promote => "promote",
            Self::ApplyStreams => "apply-streams",
        }
    }
}

/// Who acts, and why.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ActOptions {
    /// The reason, for later readers of the log.
    #[arg(long, value_parser = note)]
    pub(super) reason: Option<String>,
    /// Who acts; by default $USER and this machine's name.
    #[arg(long = "as", visible_alias = "by", value_name = "NAME", value_parser = note)]
    name: Option<String>,
}

impl ActOptions {
    /// The name for events.
    ///
    /// # Errors
    /// If a variable is no text.
    pub(super) fn by(&self, environment: &Environment) -> anyhow::Result<String> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => user_at_machine(environment),
        }
    }

    /// An act, without its result.
    ///
    /// # Errors
    /// If a variable is no text.
    pub(super) fn acted(&self, environment: &Environment, kind: ActKind, arguments: Value) -> anyhow::Result<Acted> {
        Ok(Acted {
            kind: kind.as_str().to_owned(),
            by: self.by(environment)?,
            reason: self.reason.clone(),
            arguments,
            result: None,
        })
    }
}

/// Checks a person's text that goes into an event.
pub(super) fn note(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.chars().count() > MAX_NOTE_CHARS {
        return Err(format!("is longer than {MAX_NOTE_CHARS} characters"));
    }
    Ok(text.to_owned())
}

/// `user@machine`, as far as both are known.
fn user_at_machine(environment: &Environment) -> anyhow::Result<String> {
    let user = match environment.text("USER")? {
        Some(user) => user,
        None => environment.text_or("LOGNAME", "unknown")?,
    };
    let host = match environment.text("HOSTNAME")? {
        Some(host) => host,
        None => std::fs::read_to_string(HOST_FILE).unwrap_or_else(|_| "unknown".into()),
    };
    let name = format!("{user}@{}", host.trim());
    Ok(name.chars().take(MAX_NOTE_CHARS).collect())
}

/// Ids as an argument of an act.
pub(super) fn ids(all: &[impl fmt::Display]) -> Value {
    let named: Vec<_> = all.iter().take(MAX_IDS).map(ToString::to_string).collect();
    if named.len() == all.len() {
        json!(named)
    } else {
        json!({ "count": all.len(), "first": named })
    }
}

/// Appends events of operators' commands, one at a time.
pub(super) struct ActWriter<'a> {
    connection: &'a Connection,
    partitions: u16,
    form: Form,
}

impl<'a> ActWriter<'a> {
    /// For the log of this connection, of the user `hub`.
    ///
    /// # Errors
    /// If a variable is invalid, or NATS does not answer.
    pub(super) async fn new(connection: &'a Connection, environment: &Environment) -> anyhow::Result<Self> {
        let log = EventLog::from_environment(environment)?;
        Ok(Self {
            connection,
            partitions: log.partitions,
            form: form::chosen(connection, log.format).await?,
        })
    }

    /// Appends an event and waits for the acknowledgement.
    ///
    /// # Errors
    /// If the log does not acknowledge in time.
    pub(super) async fn append(&self, event: NewEvent) -> anyhow::Result<Recorded> {
        let NewEvent { envelope, payload } = event;
        let subject = codec::subject(&envelope, self.partitions);
        let headers = codec::headers(&envelope, self.form)?;
        let context = &self.connection.context;
        let written = async {
            let acknowledged = context.publish_with_headers(subject, headers, payload.clone());
            anyhow::Ok(acknowledged.await?.await?)
        };
        let acknowledged = tokio::time::timeout(ANSWER_TIMEOUT, written)
            .await
            .context("the event log did not acknowledge in time")?
            .context("the event log did not acknowledge")?;
        Ok(Recorded {
            envelope,
            payload,
            sequence: acknowledged.sequence,
            run: None,
            is_again: false,
        })
    }
}

/// The envelope of an event that an operator causes and that follows from nothing. `about` groups events: those with the same text
/// are in one partition.
pub(super) fn envelope(event_type: EventType, about: &str) -> Envelope {
    let (id, now) = (EventId(Uuid::new_v4()), Utc::now());
    Envelope {
        id,
        event_type,
        root_id: id,
        cause_id: None,
        cause_sequence: None,
        provider: PROVIDER.into(),
        external_order_id: about.to_owned(),
        webhook_type: WEBHOOK_TYPE.to_owned(),
        branch: None,
        principal: Principal::of_backend(),
        time: now,
        received_at: now,
        request_id: id.to_string(),
        traceparent: None,
        request: None,
        idempotency_key: None,
    }
}

/// An act that is on the log and has not ended.
pub(super) struct Act<'a> {
    writer: ActWriter<'a>,
    begun: Recorded,
    acted: Acted,
}

impl<'a> Act<'a> {
    /// Records an act before it is done. If this fails, it must not be done.
    ///
    /// # Errors
    /// If the log does not acknowledge.
    pub(super) async fn begin(
        connection: &'a Connection,
        environment: &Environment,
        options: &ActOptions,
        kind: ActKind,
        arguments: Value,
    ) -> anyhow::Result<Self> {
        let acted = options.acted(environment, kind, arguments)?;
        let recorded = async {
            let writer = ActWriter::new(connection, environment).await?;
            let envelope = envelope(EventType::OperatorActed, kind.as_str());
            let begun = writer.append(NewEvent::new(envelope, &acted)).await?;
            anyhow::Ok((writer, begun))
        };
        let (writer, begun) = recorded
            .await
            .context("the act cannot be recorded on the log, so nothing was done")?;
        Ok(Self { writer, begun, acted })
    }

    /// The id of the event before the act.
    pub(super) const fn id(&self) -> EventId {
        self.begun.envelope.id
    }

    /// What appends events that the act consists of.
    pub(super) const fn writer(&self) -> &ActWriter<'a> {
        &self.writer
    }

    /// Records what came of it: the counts, and why it failed. If that cannot be recorded, standard error says so: the act is done.
    pub(super) async fn end<T>(self, result: &anyhow::Result<T>, counts: Value) {
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        let result = ActResult {
            error: error.map(|error| error.chars().take(MAX_ERROR_CHARS).collect()),
            counts,
        };
        let acted = Acted {
            result: Some(result),
            ..self.acted
        };
        let envelope = self.begun.follow(RESULT, EventType::OperatorActed, Utc::now());
        if let Err(error) = self.writer.append(NewEvent::new(envelope, &acted)).await {
            tell(format!("the result of this act is not on the log: {error:#}"));
        }
    }
}

/// Records that personal data is shown, before it is. There is no result to record.
///
/// # Errors
/// If the log does not acknowledge; nothing may be shown then.
pub(super) async fn reveal(
    connection: &Connection,
    environment: &Environment,
    options: &ActOptions,
    arguments: Value,
) -> anyhow::Result<()> {
    let act = Act::begin(connection, environment, options, ActKind::Reveal, arguments).await?;
    act.end(&Ok(()), Value::Null).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ids_are_counted() {
        assert_eq!(ids(&["a", "b"]), json!(["a", "b"]));
        let many: Vec<_> = (0..=MAX_IDS).collect();
        let said = ids(&many);
        assert_eq!(said["count"], MAX_IDS + 1);
        assert_eq!(said["first"].as_array().map(Vec::len), Some(MAX_IDS));
    }

    #[test]
    fn kinds_are_named_alike_everywhere() {
        for kind in ActKind::value_variants() {
            let named = kind.to_possible_value().unwrap();
            assert_eq!(named.get_name(), kind.as_str());
        }
    }
}
