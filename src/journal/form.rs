//! The form in which new events are written (`EVENT_FORMAT`).
//!
//! Versions from before the compact form cannot read it: they would give such an event up. So it is written on a log that a
//! version with the compact form created on a new server, which a mark in the metadata of `EVENTS` shows. On any other log it
//! is written only once an operator states that no such version works on it any more (`EVENT_FORMAT=compact`). From the first
//! event on, the log's last event shows its form. A log without events and without the mark may belong to a running older
//! version.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::{
    EVENTS,
    codec::Form,
    connection::Connection,
    read::{self, LogReader},
};
use crate::config::EventFormat;

/// Longest time that the look at the log may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Key of the mark in the metadata of `EVENTS`, and its value.
const MARK: (&str, &str) = ("webhook-hub.event_format", "compact");

/// The configuration of a new `EVENTS` with the mark.
pub(super) fn marked(mut config: Value) -> Value {
    config["metadata"][MARK.0] = MARK.1.into();
    config
}

/// The form of what is to be written on this log.
///
/// # Errors
/// If the log's last event decides, and the log does not answer.
pub async fn chosen(connection: &Connection, format: EventFormat) -> anyhow::Result<Form> {
    match format {
        EventFormat::Headers => Ok(Form::Headers),
        EventFormat::Compact => Ok(Form::Compact),
        EventFormat::Auto => tokio::time::timeout(TIMEOUT, of_log(connection))
            .await
            .context("the event log did not answer")?,
    }
}

async fn of_log(connection: &Connection) -> anyhow::Result<Form> {
    let end = read::end(connection).await?;
    if end.sequence == 0 {
        return of_empty(connection).await;
    }
    let last = LogReader::from(connection, end.sequence).at_most(1).next_raw().await?;
    // If the answering copy lacks the last event, or it has expired, the form that all versions read is the safe choice.
    Ok(last.first().map_or(Form::Headers, |last| Form::of(&last.headers)))
}

async fn of_empty(connection: &Connection) -> anyhow::Result<Form> {
    let stream = connection.context.get_stream(EVENTS).await;
    let stream = stream.context("cannot look up EVENTS")?;
    let mark = stream.cached_info().config.metadata.get(MARK.0);
    Ok(match mark {
        Some(mark) if mark == MARK.1 => Form::Compact,
        _ => Form::Headers,
    })
}
