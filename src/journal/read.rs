//! The way back: reading the log by sequence, in order, without a consumer.
//!
//! Batched direct gets (JetStream, since NATS 2.11): one request, up to a batch of messages, no state on the server and
//! no right to create anything. Replay, rebuild and whoever finds a gap read this way.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{Client, Message};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt;

use super::{EVENTS, codec, connection::Connection};
use crate::event::Recorded;

/// Most events that one request brings: some 300 webhooks and what became of them.
pub const BATCH: usize = 1000;
/// Most bytes that one request brings (the server ends the batch early, never in the middle of a message).
const BATCH_BYTES: u32 = 16 * 1024 * 1024;
/// Wait for the next message of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A message of the stream.
#[derive(Debug)]
pub enum Entry {
    /// An event.
    Event(Box<Recorded>),
    /// None that this version can read; the stage that it belongs to records that.
    Unreadable {
        /// Its place in the stream.
        sequence: u64,
    },
}

impl Entry {
    /// How large its payload is.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.payload.len(),
            Self::Unreadable { .. } => 0,
        }
    }

    /// Its place in the stream.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Event(event) => event.sequence,
            Self::Unreadable { sequence } => *sequence,
        }
    }
}

/// Reads the log from a sequence on.
pub struct Reader {
    client: Client,
    next: From,
}

/// Where a read begins.
enum From {
    Sequence(u64),
    Time(DateTime<Utc>),
}

impl Reader {
    /// From this sequence on (the first is 1).
    pub fn from(connection: &Connection, sequence: u64) -> Self {
        Self {
            client: connection.client.clone(),
            next: From::Sequence(sequence.max(1)),
        }
    }

    /// From what was appended at this time, by the server's clock, or later.
    pub fn since(connection: &Connection, time: DateTime<Utc>) -> Self {
        Self {
            client: connection.client.clone(),
            next: From::Time(time),
        }
    }

    /// The next messages, some hundred at a time; empty at the end of the log.
    ///
    /// # Errors
    /// Where NATS does not answer or says something that is no answer; reading can be tried again from the same place.
    pub async fn next_batch(&mut self) -> anyhow::Result<Vec<Entry>> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        let from = match &self.next {
            From::Sequence(sequence) => format!(r#""seq":{sequence}"#),
            From::Time(time) => format!(
                r#""start_time":"{}""#,
                time.to_rfc3339_opts(SecondsFormat::Millis, true)
            ),
        };
        let request = format!(r#"{{{from},"batch":{BATCH},"max_bytes":{BATCH_BYTES}}}"#);
        self.client
            .publish_with_reply(format!("$JS.API.DIRECT.GET.{EVENTS}"), inbox, request.into())
            .await?;
        let mut entries = Vec::new();
        loop {
            let message = tokio::time::timeout(ANSWER_TIMEOUT, answers.next())
                .await
                .context("the event log did not answer a read")?
                .context("the connection was closed")?;
            match message.status.map(|status| status.as_u16()) {
                None => entries.push(entry(message)?),
                // End of batch; nothing from there on.
                Some(204 | 404) => break,
                Some(status) => bail!(
                    "the event log answered a read with {status} {}",
                    message.description.unwrap_or_default()
                ),
            }
        }
        if let Some(last) = entries.last() {
            self.next = From::Sequence(last.sequence() + 1);
        }
        Ok(entries)
    }
}

/// The event at a sequence; none where there is none any more, or none that can be read.
///
/// # Errors
/// Where NATS does not answer.
pub async fn event_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Recorded>> {
    let request = format!(r#"{{"seq":{sequence}}}"#);
    let answer = connection
        .client
        .request(format!("$JS.API.DIRECT.GET.{EVENTS}"), request.into());
    let message = tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .context("the event log did not answer a read")?
        .context("cannot read the event log")?;
    match message.status.map(|status| status.as_u16()) {
        None => Ok(codec::decode(message.headers.as_ref(), message.payload, sequence).ok()),
        Some(404) => Ok(None),
        Some(status) => bail!(
            "the event log answered a read with {status} {}",
            message.description.unwrap_or_default()
        ),
    }
}

fn entry(message: Message) -> anyhow::Result<Entry> {
    let sequence = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get_last(async_nats::header::NATS_SEQUENCE));
    let sequence: u64 = sequence.context("an answer without a sequence")?.as_str().parse()?;
    Ok(
        match codec::decode(message.headers.as_ref(), message.payload, sequence) {
            Ok(event) => Entry::Event(Box::new(event)),
            Err(_) => Entry::Unreadable { sequence },
        },
    )
}
