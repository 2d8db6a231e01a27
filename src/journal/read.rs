//! Reads the log by sequence, in order, without a consumer.
//!
//! Batched direct gets (JetStream, since NATS 2.11): one request returns up to a batch of messages, leaves no state on the
//! server and needs no right to create anything. Replay, rebuild and gap recovery read this way.
//!
//! In a cluster any copy of the stream may answer, also one that is behind. Its content is the beginning of the log, so
//! nothing is missing in the middle. A reader that must not miss the end asks the leader for it ([`end`]) and reads
//! [`LogReader::up_to`] there.

mod consumer;
mod leader;
mod single;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::{Client, HeaderMap, Message, jetstream::stream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::watch;

use self::consumer::Pulled;
pub use self::{
    consumer::LongReader,
    single::{appended_at, decoded_at, event_at, last_of, located_at},
};
use super::{EVENTS, codec, connection::Connection, identity::Mark};
use crate::event::Recorded;

/// Most events that one request returns: some 300 webhooks with their later events.
pub const BATCH: usize = 1000;
/// Most bytes that one request brings (the server ends the batch early, never in the middle of a message).
const BATCH_BYTES: u32 = 16 * 1024 * 1024;
/// So much must be left to read by a consumer: setting it to the place is a request of its own.
const LEAST_BY_CONSUMER: u64 = 2 * BATCH as u64;
/// Wait for the next message of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where only some subjects are read: the server may look through much of the log between two of theirs.
const SPARSE_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for a copy that is behind, and the interval between requests meanwhile.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(10);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// An event, or why a message is none that this version can read.
pub type Decoded = Result<Recorded, codec::CodecError>;

/// A message of the stream.
#[derive(Debug)]
pub enum Entry {
    /// An event.
    Event(Box<Recorded>),
    /// None that this version can read; the stage that it belongs to records that.
    Unreadable {
        /// Its place in the stream.
        sequence: u64,
        /// The part that this version does not know, if a later version wrote it (see [`codec::Newer`]).
        newer: Option<String>,
    },
}

impl Entry {
    /// Of a message as it came.
    pub fn read(headers: Option<&HeaderMap>, payload: Bytes, sequence: u64) -> Self {
        let newer = match codec::decode(headers, payload, sequence) {
            Ok(event) => return Self::Event(Box::new(event)),
            Err(codec::CodecError::Newer(newer)) => Some(newer.what),
            Err(_) => None,
        };
        Self::Unreadable { sequence, newer }
    }

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
            Self::Unreadable { sequence, .. } => *sequence,
        }
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this place in the stream; the first is 1.
    Sequence(u64),
    /// At what was appended at this time, by the server's clock, or later.
    Time(DateTime<Utc>),
}

/// The end of the log, as reported by its leader.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Sequence of the last message; 0 where there is none.
    pub sequence: u64,
    /// When that was appended, by the server's clock.
    pub time: DateTime<Utc>,
}

/// Asks the leader where the log ends.
///
/// # Errors
/// If NATS does not answer.
pub async fn end(connection: &Connection) -> anyhow::Result<End> {
    let state = state(connection).await?;
    if state.messages == 0 {
        // For an empty stream the server reports the year 1, which nanoseconds in 64 bits cannot represent.
        let time = DateTime::UNIX_EPOCH;
        return Ok(End { sequence: 0, time });
    }
    let nanos = i64::try_from(state.last_timestamp.unix_timestamp_nanos())?;
    Ok(End {
        sequence: state.last_sequence,
        time: DateTime::from_timestamp_nanos(nanos),
    })
}

/// Asks the leader where the log begins: the sequence of its oldest message, or of the next one where there is none.
///
/// # Errors
/// If NATS does not answer.
pub async fn beginning(connection: &Connection) -> anyhow::Result<u64> {
    Ok(state(connection).await?.first_sequence)
}

/// The state of the stream, as reported by its leader.
async fn state(connection: &Connection) -> anyhow::Result<stream::State> {
    let stream = connection.context.get_stream(EVENTS).await;
    let stream = stream.context("cannot look up EVENTS")?;
    Ok(stream.cached_info().state.clone())
}

/// A message of the stream and where it was published.
#[derive(Debug)]
pub struct Located {
    /// Its subject.
    pub subject: String,
    /// The message.
    pub entry: Entry,
}

/// A message of any stream.
#[derive(Debug)]
pub struct Raw {
    /// Its subject.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// The message.
    pub payload: Bytes,
    /// With what headers.
    pub headers: HeaderMap,
}

/// Reads the log, or another stream, from a place on.
pub struct LogReader {
    client: Client,
    stream: &'static str,
    start: Start,
    /// Only what matches this, where it is set.
    filter: Option<String>,
    batch: usize,
    /// Wait for the next message of an answer.
    patience: Duration,
    /// What must not be missed.
    end: Option<End>,
    /// Of the last message that was read.
    mark: Option<Mark>,
    /// Where it has read something, so that no older message was left out.
    has_begun: bool,
    /// The consumer by which much is read, as long as it can be used.
    pulled: Option<Pulled>,
    /// Changes when the connection comes or goes: an answer that was under way then never comes.
    connection: watch::Receiver<bool>,
}

impl LogReader {
    /// From this sequence on (the first is 1).
    pub fn from(connection: &Connection, sequence: u64) -> Self {
        Self {
            client: connection.client.clone(),
            stream: EVENTS,
            start: Start::Sequence(sequence.max(1)),
            filter: None,
            batch: BATCH,
            patience: ANSWER_TIMEOUT,
            end: None,
            mark: None,
            has_begun: false,
            pulled: None,
            connection: connection.changes(),
        }
    }

    /// Not over before this was read: a copy that does not have it yet is waited for.
    pub fn up_to(mut self, end: End) -> Self {
        self.end = Some(end);
        self
    }

    /// By a consumer where much is to be read up to the end that must not be missed. Only one such reader works at a time; a second one
    /// goes on by direct gets.
    pub fn by(mut self, connection: &Connection, reader: LongReader) -> Self {
        self.pulled = Some(Pulled::of(connection, reader));
        self
    }

    /// From what was appended at this time, by the server's clock, or later.
    pub fn since(connection: &Connection, time: DateTime<Utc>) -> Self {
        Self {
            start: Start::Time(time),
            ..Self::from(connection, 1)
        }
    }

    /// Only what was published on subjects that match `filter` (`orders.dead_lettered.>`); the server skips the rest.
    pub fn of_subjects(connection: &Connection, filter: impl Into<String>, start: Start) -> Self {
        Self {
            start,
            filter: Some(filter.into()),
            patience: SPARSE_ANSWER_TIMEOUT,
            ..Self::from(connection, 1)
        }
    }

    /// Another stream than the log; read it with [`Self::next_raw`].
    pub fn of_stream(mut self, stream: &'static str) -> Self {
        self.stream = stream;
        self
    }

    /// With another wait for the next message of an answer.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same, at most so many messages at a time, where few are expected to be needed.
    pub fn at_most(mut self, batch: usize) -> Self {
        self.batch = batch.clamp(1, BATCH);
        self
    }

    /// The next messages, some hundred at a time; empty at the end of the log.
    ///
    /// # Errors
    /// If NATS does not answer or says something that is no answer; reading can be tried again from the same place.
    pub async fn next_batch(&mut self) -> anyhow::Result<Vec<Entry>> {
        let began = Instant::now();
        loop {
            let (entries, mark) = self.read_entries().await?;
            if !entries.is_empty() || self.is_over() {
                self.go_on_after(entries.last().map(Entry::sequence));
                self.mark = mark.or(self.mark);
                return Ok(entries);
            }
            if began.elapsed() > BEHIND_TIMEOUT {
                bail!("the copy of the event log that answers is behind its leader");
            }
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
    }

    async fn read_entries(&mut self) -> anyhow::Result<(Vec<Entry>, Option<Mark>)> {
        if let (Some(pulled), Start::Sequence(from)) = (&mut self.pulled, self.start) {
            let left = self.end.map_or(0, |end| end.sequence.saturating_sub(from));
            if self.has_begun && (pulled.is_at(from) || left >= LEAST_BY_CONSUMER) {
                match pulled.next_batch(from, self.batch).await {
                    Ok(read) => return Ok(read),
                    Err(error) => {
                        let (consumer, error) = (pulled.name(), format!("{error:#}"));
                        tracing::warn!(
                            consumer,
                            error,
                            "the event log is read by direct gets, which takes NATS three times as long; `webhook-hub streams \
                             apply` and the rights in nats.conf of this version bring the consumer"
                        );
                        self.pulled = None;
                    }
                }
            }
        }
        let (entries, marks): (Vec<_>, Vec<_>) = self.read(entry).await?.into_iter().unzip();
        Ok((entries, marks.last().copied().flatten()))
    }

    /// The mark of the last message that [`Self::next_batch`] read; none if it has read nothing, or an older server does not send it.
    pub const fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Whether nothing is left that must not be missed.
    fn is_over(&self) -> bool {
        self.end.is_none_or(|end| match self.start {
            Start::Sequence(next) => next > end.sequence,
            Start::Time(time) => end.sequence == 0 || end.time < time,
        })
    }

    /// As [`Self::next_batch`], with the subjects.
    ///
    /// # Errors
    /// The same as [`Self::next_batch`].
    pub async fn next_located(&mut self) -> anyhow::Result<Vec<Located>> {
        let located = self.read(located).await?;
        self.go_on_after(located.last().map(|located| located.entry.sequence()));
        Ok(located)
    }

    /// The next messages as they are, which need be no events; empty at the end.
    ///
    /// # Errors
    /// The same as [`Self::next_batch`].
    pub async fn next_raw(&mut self) -> anyhow::Result<Vec<Raw>> {
        let messages = self.read(raw).await?;
        self.go_on_after(messages.last().map(|last| last.sequence));
        Ok(messages)
    }

    fn go_on_after(&mut self, last: Option<u64>) {
        if let Some(last) = last {
            self.start = Start::Sequence(last + 1);
            self.has_begun = true;
        }
    }

    fn request(&self) -> String {
        let mut request = json!({ "batch": self.batch, "max_bytes": BATCH_BYTES });
        match self.start {
            Start::Sequence(sequence) => request["seq"] = sequence.into(),
            Start::Time(time) => request["start_time"] = time.to_rfc3339_opts(SecondsFormat::Millis, true).into(),
        }
        if let Some(filter) = &self.filter {
            request["next_by_subj"] = filter.as_str().into();
        }
        request.to_string()
    }

    async fn read<T>(&self, take: fn(Message) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let mut connection = self.connection.clone();
        connection.mark_unchanged();
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        self.client
            .publish_with_reply(
                format!("$JS.API.DIRECT.GET.{}", self.stream),
                inbox,
                self.request().into(),
            )
            .await?;
        let mut taken = Vec::new();
        loop {
            let answer = tokio::select! {
                biased;
                answer = tokio::time::timeout(self.patience, answers.next()) => answer,
                _ = connection.changed() => bail!("the connection to NATS was lost during a read of the stream {}", self.stream),
            };
            let message = answer
                .with_context(|| format!("the stream {} did not answer a read", self.stream))?
                .context("the connection was closed")?;
            match message.status.map(|status| status.as_u16()) {
                None => taken.push(take(message)?),
                // 204: end of the batch; 404: no message from there on.
                Some(204 | 404) => break,
                Some(503) => bail!(
                    "the stream {0} is missing or has no leader; `webhook-hub streams diff` says which",
                    self.stream
                ),
                Some(status) => bail!(
                    "the stream {} answered a read with {status} {}",
                    self.stream,
                    message.description.unwrap_or_default()
                ),
            }
        }
        Ok(taken)
    }
}

fn located(message: Message) -> anyhow::Result<Located> {
    Ok(Located {
        subject: subject(&message)?,
        entry: entry(message)?.0,
    })
}

fn raw(message: Message) -> anyhow::Result<Raw> {
    Ok(Raw {
        subject: subject(&message)?,
        sequence: sequence(&message)?,
        payload: message.payload,
        headers: message.headers.unwrap_or_default(),
    })
}

fn subject(message: &Message) -> anyhow::Result<String> {
    let subject = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get_last(async_nats::header::NATS_SUBJECT));
    Ok(subject.context("an answer without a subject")?.to_string())
}

fn sequence(message: &Message) -> anyhow::Result<u64> {
    let sequence = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get_last(async_nats::header::NATS_SEQUENCE));
    Ok(sequence.context("an answer without a sequence")?.as_str().parse()?)
}

/// A message and its mark.
fn entry(message: Message) -> anyhow::Result<(Entry, Option<Mark>)> {
    let sequence = sequence(&message)?;
    let mark = message.headers.as_ref().and_then(|headers| mark(headers, sequence));
    Ok((Entry::read(message.headers.as_ref(), message.payload, sequence), mark))
}

fn mark(headers: &HeaderMap, sequence: u64) -> Option<Mark> {
    let stored_at = headers.get_last(async_nats::header::NATS_TIME_STAMP)?;
    let stored_at = DateTime::parse_from_rfc3339(stored_at.as_str()).ok()?;
    let id = headers.get(codec::MESSAGE_ID).map(|id| id.as_str()).unwrap_or_default();
    Some(Mark::new(sequence, id, stored_at.timestamp_nanos_opt()?.into()))
}
