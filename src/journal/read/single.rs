//! Reads single messages.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::{
    message::StreamMessage,
    stream::{LastRawMessageErrorKind, RawMessageErrorKind},
};
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{ANSWER_TIMEOUT, Decoded, Entry, LogReader, end};
use crate::{
    event::Recorded,
    journal::{EVENTS, codec, connection::Connection},
};

/// The last message of a subject, as the leader of its stream has it; none if there is none.
///
/// # Errors
/// If NATS does not answer in this time.
pub async fn last_of(
    connection: &Connection,
    stream: &str,
    subject: &str,
    within: Duration,
) -> anyhow::Result<Option<StreamMessage>> {
    let stream = connection.context.get_stream_no_info(stream).await?;
    let read = tokio::time::timeout(within, stream.get_last_raw_message_by_subject(subject)).await;
    match read.with_context(|| format!("NATS does not answer about {subject}"))? {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {subject}")),
    }
}

/// The event at a sequence; none if it has left the log, or cannot be read.
///
/// # Errors
/// If NATS does not answer.
pub async fn event_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Recorded>> {
    Ok(decoded_at(connection, sequence).await?.and_then(Result::ok))
}

/// The event at a sequence and its subject; none if it has left the log, or cannot be read.
///
/// # Errors
/// If NATS does not answer.
pub async fn located_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<(Recorded, String)>> {
    let found = LogReader::from(connection, sequence).at_most(1).next_located().await?;
    Ok(found.into_iter().next().and_then(|located| match located.entry {
        Entry::Event(event) if event.sequence == sequence => Some((*event, located.subject)),
        _ => None,
    }))
}

/// The event at a sequence, or why this version cannot read the message; none if it has left the log.
///
/// # Errors
/// If NATS does not answer.
pub async fn decoded_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Decoded>> {
    match any_copy_at(connection, sequence).await? {
        Some(decoded) => Ok(Some(decoded)),
        // The answering copy lacks it; only the leader knows whether it exists.
        None if sequence <= end(connection).await?.sequence => leaders_copy_at(connection, sequence).await,
        None => Ok(None),
    }
}

/// When the first message at or after a place of the log was appended, by the server's clock; none at the end.
///
/// # Errors
/// If NATS does not answer.
pub async fn appended_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<DateTime<Utc>>> {
    let request = json!({ "seq": sequence.max(1), "next_by_subj": ">" }).to_string();
    let Some(message) = get(connection, request).await? else {
        return Ok(None);
    };
    let headers = message.headers.as_ref();
    let time = headers.and_then(|headers| headers.get_last(async_nats::header::NATS_TIME_STAMP));
    Ok(Some(time.context("an answer without a time")?.as_str().parse()?))
}

async fn leaders_copy_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Decoded>> {
    let stream = connection.context.get_stream_no_info(EVENTS).await?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(codec::decode(Some(&message.headers), message.payload, sequence))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error).context("cannot read the event log"),
    }
}

async fn any_copy_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Decoded>> {
    let message = get(connection, format!(r#"{{"seq":{sequence}}}"#)).await?;
    Ok(message.map(|message| codec::decode(message.headers.as_ref(), message.payload, sequence)))
}

/// One message of the log, from any copy of the stream; none if that copy has no such message.
async fn get(connection: &Connection, request: String) -> anyhow::Result<Option<async_nats::Message>> {
    let answer = connection
        .client
        .request(format!("$JS.API.DIRECT.GET.{EVENTS}"), request.into());
    let message = tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .context("the event log did not answer a read")?
        .context("cannot read the event log")?;
    match message.status.map(|status| status.as_u16()) {
        None => Ok(Some(message)),
        Some(404) => Ok(None),
        Some(status) => bail!(
            "the event log answered a read with {status} {}",
            message.description.unwrap_or_default()
        ),
    }
}
