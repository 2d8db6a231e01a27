//! Writes the tables, while this instance is the writer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::Message;
use tokio_util::sync::CancellationToken;

use super::{ForAnother, Unfit, gather::Gathered};
use crate::{
    database::{self, Connection},
    journal::{
        Journal,
        codec::MESSAGE_ID,
        identity::Mark,
        pull,
        read::{LogReader, LongReader, end, event_at},
    },
    projection::{
        ahead::ReadAhead,
        batch::{self, MAX_EVENTS, MaxBatch, Skipped, To},
        decoded::{Event, LogMessage},
        era::{self, CursorLog},
        faults,
        providers::Providers,
        writer::Holder,
    },
    telemetry::tables::TroubleSource,
};

/// Most events that were skipped once and are tried again by a new writer; more are left to the next one.
const MAX_SKIPPED: i64 = 1000;
/// How often it is looked, before a batch is written, whether the log is still the one that the tables are of; and after each connection.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// The writer, and its position.
pub(super) struct TablesWriter<'a> {
    pub(super) journal: &'a Journal,
    pub(super) enabled: &'a [(Arc<str>, String)],
    pub(super) holder: &'a Holder,
    pub(super) providers: Providers,
    pub(super) position: u64,
    /// Which log that is on.
    pub(super) kept: CursorLog,
    /// When that was compared last, and how often the connection had been made then.
    pub(super) compared: Option<(Instant, u64)>,
    /// Most events of a transaction.
    pub(super) limit: &'a mut usize,
    /// Until when events for another instance are noted, because no other instance handles them.
    pub(super) alone_until: Option<Instant>,
}

impl TablesWriter<'_> {
    pub(super) async fn write(&mut self, connection: &mut Connection, batch: Gathered) -> anyhow::Result<Message> {
        let Gathered {
            mut entries,
            latest,
            up_to,
        } = batch;
        let mark = mark_of(up_to, &latest)?;
        // Drops redeliveries, and messages that are not the next one.
        let mut next = self.position + 1;
        entries.retain(|entry| {
            let follows = entry.sequence() == next;
            next += u64::from(follows);
            follows
        });
        let messages = entries.into_iter().map(LogMessage::of).collect();
        self.apply_messages(connection, messages, Some(mark)).await?;
        if self.position < up_to {
            self.close_gap(connection, up_to).await?;
        }
        Ok(latest)
    }

    /// Nothing came for a while. What is on the log all the same was handed to an instance that is frozen or gone: the server
    /// hands it out again after `ack_wait`, a minute, and nothing later need come that shows the gap.
    pub(super) async fn reach_end(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        match end(self.journal.connection()).await {
            Ok(end) if end.sequence > self.position => self.close_gap(connection, end.sequence).await?,
            Ok(_) => {}
            // No error: the consumer's messages show whether the log answers.
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot see the end of the log"),
        }
        self.journal.tables().works(TroubleSource::Writer);
        Ok(())
    }

    /// Reads the log from the position to its end: a new or restored database is behind a consumer that has seen it all.
    pub(super) async fn catch_up(
        &mut self,
        connection: &mut Connection,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let log = self.journal.connection();
        let reader = LogReader::from(log, self.position + 1).up_to(end(log).await?);
        let mut ahead = ReadAhead::up_to(u64::MAX, MaxBatch::LIVE, reader.by(log, LongReader::Tables));
        while !stop.is_cancelled() {
            let Some(part) = ahead.next().await? else { break };
            self.apply_messages(connection, part.messages, part.mark).await?;
        }
        Ok(())
    }

    /// Reads from the log what the consumer did not bring: it is ahead of the position, or handed some of it to an instance
    /// that is gone.
    async fn close_gap(&mut self, connection: &mut Connection, to: u64) -> anyhow::Result<()> {
        tracing::info!(
            from = self.position + 1,
            to,
            "the consumer skipped events; reading the log"
        );
        let log = self.journal.connection();
        let mut reader = LogReader::from(log, self.position + 1).up_to(end(log).await?);
        while self.position < to {
            let mut entries = reader.next_batch().await?;
            entries.retain(|entry| entry.sequence() <= to);
            let messages = entries.into_iter().map(LogMessage::of).collect();
            if !self.apply_messages(connection, messages, reader.mark()).await? {
                anyhow::bail!("the log does not reach what the consumer brought");
            }
        }
        Ok(())
    }

    /// Whether the position is on this log. Where it is not, an era has begun, and the position is where the tables go on.
    pub(super) async fn is_of_this_log(&mut self, connection: &mut Connection) -> anyhow::Result<bool> {
        let (log, identity) = (self.journal.connection(), self.journal.identity());
        let times = log.times();
        if self
            .compared
            .is_some_and(|(at, of)| of == times && at.elapsed() < COMPARE_EVERY)
        {
            return Ok(true);
        }
        let began = era::compare(connection, (log, identity), self.holder, self.position, &mut self.kept).await?;
        self.compared = Some((Instant::now(), times));
        self.position = began.unwrap_or(self.position);
        self.journal.tables().at(self.position);
        Ok(began.is_none())
    }

    /// False if there was nothing: the end of the log. `mark`: of the last of them. Where the log begins behind the position, what is
    /// older than its retention is gone.
    async fn apply_messages(
        &mut self,
        connection: &mut Connection,
        messages: Vec<LogMessage>,
        mark: Option<Mark>,
    ) -> anyhow::Result<bool> {
        let (Some(first), Some(up_to)) = (messages.first(), messages.last().map(LogMessage::sequence)) else {
            return Ok(false);
        };
        if first.sequence() > self.position + 1 {
            era::note_gap(connection, self.holder, &self.kept, self.position, first.sequence()).await?;
            self.position = first.sequence() - 1;
        }
        let mut events = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                LogMessage::Event(event) if self.lacks_provider(connection, &event).await? => {
                    let sequence = event.sequence;
                    self.apply(connection, &events, sequence - 1, None).await?;
                    events.clear();
                    let why = Unfit::Provider(event.envelope.provider.to_string());
                    self.meet(connection, ForAnother { sequence, why }, Some(&event))
                        .await?;
                }
                LogMessage::Event(event) => events.push(event),
                LogMessage::Unreadable {
                    sequence,
                    newer: Some(what),
                } => {
                    self.apply(connection, &events, sequence - 1, None).await?;
                    events.clear();
                    let why = Unfit::LaterVersion(what);
                    self.meet(connection, ForAnother { sequence, why }, None).await?;
                }
                // The stage records an event about this message, and that event is in the tables.
                LogMessage::Unreadable { sequence, newer: None } => {
                    tracing::warn!(sequence, "a message on the log is not an event; it has no row");
                }
            }
        }
        self.apply(connection, &events, up_to, mark.filter(|mark| mark.sequence == up_to))
            .await?;
        Ok(true)
    }

    /// Whether the provider of an event has no row, also after another look: it may have got one since.
    async fn lacks_provider(&mut self, connection: &Connection, event: &Event) -> anyhow::Result<bool> {
        if event.envelope.event_type.is_of_operator() {
            return Ok(false);
        }
        let provider = &event.envelope.provider;
        if self.providers.lacks(provider) && self.providers.may_be_outdated() {
            self.providers = Providers::load(connection, self.enabled).await?;
        }
        Ok(self.providers.lacks(provider))
    }

    /// An event that this instance cannot write: another one is to write it. Where there is none it is noted, so that one that
    /// comes later can.
    async fn meet(
        &mut self,
        connection: &mut Connection,
        met: ForAnother,
        event: Option<&Event>,
    ) -> anyhow::Result<()> {
        let sequence = met.sequence;
        if sequence <= self.position {
            return Ok(());
        }
        if self.alone_until.is_none_or(|until| until < Instant::now()) {
            return Err(met.into());
        }
        let reason = met.why.to_string();
        tracing::error!(
            sequence,
            why = reason,
            "no other instance writes the tables; the event is noted in hub.skipped_events"
        );
        let event_type = match &met.why {
            Unfit::LaterVersion(what) => what.strip_prefix("type "),
            Unfit::Provider(_) => event.map(|event| event.envelope.event_type.as_str()),
        };
        let skipped = Skipped {
            sequence,
            event_type,
            reason: &reason,
            event: event.map(|event| (event, &self.providers)),
        };
        self.position = batch::skip(connection, self.holder, skipped, sequence).await?;
        Ok(())
    }

    /// Tries again what this version may know how to apply.
    pub(super) async fn retry_skipped(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        let rows = connection
            .query(database::query::SKIPPED_EVENTS, &[&MAX_SKIPPED])
            .await?;
        let (all, mut applied) = (rows.len(), 0);
        for row in rows {
            let sequence = u64::try_from(row.try_get::<_, i64>(0)?)?;
            if let Some(event) = event_at(self.journal.connection(), sequence).await?
                && let event = Event::new(event)
                && !self.lacks_provider(connection, &event).await?
                && batch::apply_skipped(connection, self.holder, &event, &self.providers).await?
            {
                applied += 1;
            }
        }
        if all > 0 {
            tracing::info!(all, applied, "tried events again that had no rows");
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        connection: &mut Connection,
        events: &[Event],
        up_to: u64,
        mark: Option<Mark>,
    ) -> anyhow::Result<()> {
        let marked = mark.map(|mark| self.kept.with(mark));
        let mut rest = events;
        loop {
            let (now, later) = rest.split_at(rest.len().min(*self.limit));
            let end = match now.last() {
                Some(last) if !later.is_empty() => last.sequence,
                _ => up_to,
            };
            let log = marked.as_ref().filter(|_| later.is_empty());
            let to = To { position: end, log };
            let applied = batch::apply(connection, self.holder, now, to, &self.providers).await;
            match applied {
                Ok(position) => self.position = position,
                Err(error) if faults::is_time_limit(&error) && now.len() > 1 => {
                    *self.limit = now.len() / 2;
                    tracing::warn!(
                        events = now.len(),
                        error = format!("{error:#}"),
                        "PostgreSQL is too slow for a batch, the next ones are smaller"
                    );
                    // A missed deadline closes the connection and ends this round.
                    if connection.is_broken() {
                        return Err(error);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            if now.len() == *self.limit {
                *self.limit = (*self.limit * 2).min(MAX_EVENTS);
            }
            self.journal.tables().at(self.position);
            self.journal.tables().works(TroubleSource::Writer);
            rest = later;
            if rest.is_empty() {
                self.kept = marked.unwrap_or_else(|| self.kept.clone());
                return Ok(());
            }
        }
    }
}

/// The event at the sequence of a consumer's message.
fn mark_of(sequence: u64, message: &Message) -> anyhow::Result<Mark> {
    let id = message.headers.as_ref().and_then(|headers| headers.get(MESSAGE_ID));
    let id = id.map(|id| id.as_str()).unwrap_or_default();
    Ok(Mark::new(
        sequence,
        id,
        pull::info(message)?.published.unix_timestamp_nanos(),
    ))
}
