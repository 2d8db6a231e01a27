//! Following the log: one instance writes, the others stand by.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::Message;
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    batch::{self, MAX_BYTES, MAX_EVENTS},
    indexes,
    providers::Providers,
    retention::{self, Retained},
    schema,
    writer::{self, Holder, RENEW_EVERY, Replaced},
};
use crate::{
    config::Retention,
    database::{self, Connection, Database, rights},
    event::Recorded,
    fault_injection,
    journal::{
        EVENTS, Journal,
        pull::{self, Messages, Pull},
        read::{BATCH, Entry, Reader, end, event_at},
        streams,
    },
    telemetry::tables::Who,
};

/// Name of the durable consumer.
const CONSUMER: &str = "projection";
/// How often one that stands by looks whether the writer is gone, and the pause after trouble.
const STANDBY_POLL: Duration = Duration::from_secs(1);
/// How long an instance that meets an event of a later version leaves the tables to others. Another instance looks every
/// second, so one of a later version has taken them by then, if there is any.
const STAND_ASIDE: Duration = Duration::from_secs(10);
/// After that there is none, and for so long such events are noted at once.
const ALONE_FOR: Duration = Duration::from_secs(60);
/// Most events that were skipped once and are tried again by a new writer; more are left to the next one.
const MAX_SKIPPED: i64 = 1000;
/// A request may stand for long: what one of an instance that stands still takes away is read from the log instead.
const PULL: Pull = Pull {
    messages: 1000,
    expires: Duration::from_secs(30),
    heartbeat: Duration::from_secs(5),
};
/// From so many events in one transaction on the log counts as busy; then the next transaction waits a moment, so that it
/// holds more of each order's events and writes each row fewer times.
const BUSY_EVENTS: usize = 250;
const GATHER: Duration = Duration::from_millis(100);

/// An event on the log that only a later version can read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("event {sequence} is of a later version: {what}")]
struct Newer {
    sequence: u64,
    /// What this version does not know: `type order.eaten`.
    what: String,
}

/// The projection of one hub.
pub struct Live {
    journal: Journal,
    database: Database,
    /// Code and name of every provider that is switched on.
    enabled: Vec<(Arc<str>, String)>,
    holder: Holder,
    /// How long rows that ended are kept.
    kept: Retention,
    migrated: watch::Sender<bool>,
    /// Most events of a transaction: fewer where PostgreSQL was too slow for more.
    limit: usize,
    /// The event of a later version for which this instance stands aside, and since when.
    aside: Option<(Newer, Instant)>,
    /// Until when no other instance is expected to take such an event.
    alone_until: Option<Instant>,
    /// What was skipped has been tried again.
    retried: bool,
}

impl Live {
    /// Of these parts.
    pub fn new(journal: Journal, database: Database, enabled: Vec<(Arc<str>, String)>, kept: Retention) -> Self {
        Self {
            journal,
            database,
            enabled,
            holder: Holder::random(),
            kept,
            migrated: watch::Sender::new(false),
            limit: MAX_EVENTS,
            aside: None,
            alone_until: None,
            retried: false,
        }
    }

    /// Writes the tables until told to stop, and makes the indexes that they need meanwhile. A database or a log that is away
    /// is waited for.
    ///
    /// # Errors
    /// None that this version knows of.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let (database, migrated) = (self.database.clone(), self.migrated.subscribe());
        tokio::select! {
            written = self.write(&stop) => written,
            () = indexes::keep(&database, migrated) => Ok(()),
        }
    }

    async fn write(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            match Box::pin(self.write_while_it_is_ours(stop)).await {
                Ok(()) => {}
                Err(error) if error.is::<streams::Missing>() => {
                    streams::wait_for(self.journal.connection(), EVENTS, CONSUMER, stop).await;
                }
                Err(error) => {
                    self.note(&error);
                    if !error.is::<Replaced>() && !error.is::<Newer>() {
                        self.journal.tables().failed(Who::Writer, &error);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(fault_injection::time("standby_poll", STANDBY_POLL)) => {}
            }
        }
        Ok(())
    }

    /// Why the tables are not written, for the log and for the next attempt.
    fn note(&mut self, error: &anyhow::Error) {
        if error.is::<Replaced>() {
            tracing::info!("another instance writes the tables");
        } else if let Some(newer) = error.downcast_ref::<Newer>() {
            tracing::warn!(
                sequence = newer.sequence,
                newer.what,
                "the tables are left to a later version, for it can read this event"
            );
            self.aside = Some((newer.clone(), Instant::now()));
        } else {
            tracing::warn!(error = format!("{error:#}"), "the tables wait");
        }
    }

    async fn write_while_it_is_ours(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        if !*self.migrated.borrow() {
            let applied = schema::migrate(&self.database).await?;
            if !applied.is_empty() {
                tracing::info!(?applied, "migrated the database");
            }
            self.migrated.send_replace(true);
        }
        if !self.may_write().await? {
            self.journal.tables().works(Who::Writer);
            return Ok(());
        }
        let mut connection = self.database.own().await?;
        // No commit waits for the disk: rows and position are lost together, if at all, and then read from the log again.
        connection.batch_execute("SET synchronous_commit = off").await?;
        let position = writer::claim(&connection, &self.holder).await?;
        tracing::info!("writing the tables");
        let _role = self.journal.roles().take(CONSUMER);
        let old = Retained {
            journal: self.journal.clone(),
            database: self.database.clone(),
            holder: self.holder.clone(),
            kept: self.kept,
        };
        let written = tokio::select! {
            written = self.follow(&mut connection, position, stop) => written,
            never = old.run() => never,
        };
        if !connection.is_broken()
            && let Err(error) = writer::release(&connection, &self.holder).await
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "the tables are free when the lease has run out"
            );
        }
        written
    }

    /// Whether this instance may try to become the writer.
    async fn may_write(&mut self) -> anyhow::Result<bool> {
        let pooled = self.database.connect().await?;
        // A newer version may have migrated since, and rights may have been taken away.
        schema::check(&pooled).await?;
        let (position, is_held) = writer::look(&pooled, &self.holder).await?.unwrap_or((0, false));
        self.journal.tables().at(position);
        if let Some((newer, since)) = &self.aside {
            if position >= newer.sequence {
                self.aside = None;
            } else if since.elapsed() < fault_injection::time("stand_aside", STAND_ASIDE) {
                return Ok(false);
            } else {
                self.alone_until = Some(Instant::now() + ALONE_FOR);
            }
        }
        if !is_held {
            rights::check(&pooled, &retention::deletes(&self.kept)).await?;
        }
        Ok(!is_held)
    }

    async fn follow(
        &mut self,
        connection: &mut Connection,
        position: u64,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut writer = Writer {
            journal: &self.journal,
            enabled: &self.enabled,
            holder: &self.holder,
            providers: Providers::load(connection, &self.enabled).await?,
            position,
            limit: &mut self.limit,
            alone_until: self.alone_until,
        };
        if !self.retried {
            writer.retry_skipped(connection).await?;
            self.retried = true;
        }
        writer.catch_up(connection, stop).await?;
        let mut messages = Messages::of(self.journal.connection(), EVENTS, CONSUMER, PULL).await?;
        let mut busy = false;
        loop {
            if busy {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(GATHER) => {}
                }
            }
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                first = messages.next() => first?,
                () = tokio::time::sleep(fault_injection::time("tables_renew", RENEW_EVERY)) => {
                    writer::claim(connection, writer.holder).await?;
                    writer.reach_end(connection).await?;
                    continue;
                }
            };
            let batch = collect(first, &mut messages)?;
            let Some((up_to, latest)) = batch.last() else { continue };
            busy = batch.len() >= BUSY_EVENTS;
            writer.write(connection, &batch, *up_to).await?;
            latest
                .ack()
                .await
                .map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))?;
        }
    }
}

/// What is there, without waiting for more, in the log's order: a busy log makes full batches, a quiet one quick ones.
fn collect(first: Option<Message>, messages: &mut Messages) -> anyhow::Result<Vec<(u64, Message)>> {
    let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
    while let Some(message) = next {
        if let Some(message) = message {
            bytes += message.payload.len();
            batch.push((pull::info(&message)?.stream_sequence, message));
        }
        next = if batch.len() < MAX_EVENTS && bytes < MAX_BYTES {
            messages.next().now_or_never().transpose()?
        } else {
            None
        };
    }
    batch.sort_unstable_by_key(|(sequence, _)| *sequence);
    Ok(batch)
}

/// As much of the log as one transaction takes; empty at its end.
async fn read(reader: &mut Reader) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while entries.len() + BATCH <= MAX_EVENTS && bytes < MAX_BYTES {
        let more = reader.next_batch().await?;
        if more.is_empty() {
            break;
        }
        bytes += more.iter().map(Entry::payload_bytes).sum::<usize>();
        entries.extend(more);
    }
    Ok(entries)
}

/// Who writes, and how far it is.
struct Writer<'a> {
    journal: &'a Journal,
    enabled: &'a [(Arc<str>, String)],
    holder: &'a Holder,
    providers: Providers,
    position: u64,
    /// Most events of a transaction.
    limit: &'a mut usize,
    /// Until when events of a later version are noted, for nobody else takes them.
    alone_until: Option<Instant>,
}

impl Writer<'_> {
    async fn write(&mut self, connection: &mut Connection, batch: &[(u64, Message)], up_to: u64) -> anyhow::Result<()> {
        let mut entries = Vec::with_capacity(batch.len());
        let mut next = self.position + 1;
        for (sequence, message) in batch {
            if *sequence != next {
                // Redelivered, or not what follows.
                continue;
            }
            next += 1;
            entries.push(Entry::read(
                message.headers.as_ref(),
                message.payload.clone(),
                *sequence,
            ));
        }
        self.apply_entries(connection, entries).await?;
        if self.position < up_to {
            self.close_gap(connection, up_to).await?;
        }
        Ok(())
    }

    /// Nothing came for a while. What is on the log all the same was handed to an instance that is frozen or gone: the server
    /// hands it out again after `ack_wait`, a minute, and nothing later need come that shows the gap.
    async fn reach_end(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        match end(self.journal.connection()).await {
            Ok(end) if end.sequence > self.position => self.close_gap(connection, end.sequence).await?,
            Ok(_) => {}
            // The consumer's messages say whether the log is there.
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot see the end of the log"),
        }
        self.journal.tables().works(Who::Writer);
        Ok(())
    }

    /// Reads the log from the position to its end: a new or restored database is behind a consumer that has seen it all.
    /// While one batch is written the next is read.
    async fn catch_up(&mut self, connection: &mut Connection, stop: &CancellationToken) -> anyhow::Result<()> {
        let log = self.journal.connection();
        let mut reader = Reader::from(log, self.position + 1).up_to(end(log).await?);
        let mut entries = read(&mut reader).await?;
        while !entries.is_empty() && !stop.is_cancelled() {
            let (written, following) = tokio::join!(self.apply_entries(connection, entries), read(&mut reader));
            written?;
            entries = following?;
        }
        Ok(())
    }

    /// Reads from the log what the consumer did not bring: it is ahead of the position, or handed some of it to an instance
    /// that is gone.
    async fn close_gap(&mut self, connection: &mut Connection, to: u64) -> anyhow::Result<()> {
        tracing::info!(
            from = self.position + 1,
            to,
            "the consumer left something out, reading the log"
        );
        let log = self.journal.connection();
        let mut reader = Reader::from(log, self.position + 1).up_to(end(log).await?);
        while self.position < to {
            let mut entries = reader.next_batch().await?;
            entries.retain(|entry| entry.sequence() <= to);
            if !self.apply_entries(connection, entries).await? {
                anyhow::bail!("the log does not reach what the consumer brought");
            }
        }
        Ok(())
    }

    /// False where there was nothing: the end of the log. (What is older than its retention is gone; it begins later.)
    async fn apply_entries(&mut self, connection: &mut Connection, entries: Vec<Entry>) -> anyhow::Result<bool> {
        let Some(up_to) = entries.last().map(Entry::sequence) else {
            return Ok(false);
        };
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry {
                Entry::Event(event) => events.push(*event),
                Entry::Unreadable {
                    sequence,
                    newer: Some(what),
                } => {
                    self.apply(connection, &events, sequence - 1).await?;
                    events.clear();
                    self.meet(connection, Newer { sequence, what }).await?;
                }
                // The stage that it is for records an event about it; that one is in the tables.
                Entry::Unreadable { sequence, newer: None } => {
                    tracing::warn!(sequence, "a message on the log is no event; it has no row");
                }
            }
        }
        self.apply(connection, &events, up_to).await?;
        Ok(true)
    }

    /// An event of a later version: an instance of that is to write it. Where there is none it is noted, so that one that comes
    /// later can.
    async fn meet(&mut self, connection: &mut Connection, newer: Newer) -> anyhow::Result<()> {
        let sequence = newer.sequence;
        if sequence <= self.position {
            return Ok(());
        }
        if self.alone_until.is_none_or(|until| until < Instant::now()) {
            return Err(newer.into());
        }
        tracing::error!(
            sequence,
            newer.what,
            "no later version writes the tables; the event is noted in hub.skipped_events"
        );
        let reason = format!("version {} does not know {}", env!("CARGO_PKG_VERSION"), newer.what);
        let event_type = newer.what.strip_prefix("type ");
        self.position = batch::skip(connection, self.holder, sequence, event_type, &reason, sequence).await?;
        Ok(())
    }

    /// Tries again what this version may know how to apply.
    async fn retry_skipped(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        let rows = connection
            .query(database::query::SKIPPED_EVENTS, &[&MAX_SKIPPED])
            .await?;
        let (all, mut applied) = (rows.len(), 0);
        for row in rows {
            let sequence = u64::try_from(row.try_get::<_, i64>(0)?)?;
            if let Some(event) = event_at(self.journal.connection(), sequence).await?
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

    async fn apply(&mut self, connection: &mut Connection, events: &[Recorded], up_to: u64) -> anyhow::Result<()> {
        if events
            .iter()
            .any(|event| self.providers.lacks(&event.envelope.provider))
        {
            self.providers = Providers::load(connection, self.enabled).await?;
        }
        let mut rest = events;
        loop {
            let (now, later) = rest.split_at(rest.len().min(*self.limit));
            let end = match now.last() {
                Some(last) if !later.is_empty() => last.sequence,
                _ => up_to,
            };
            let applied = batch::apply(connection, self.holder, now, end, &self.providers).await;
            match applied {
                Ok(position) => self.position = position,
                Err(error) if is_time_limit(&error) && now.len() > 1 => {
                    *self.limit = now.len() / 2;
                    tracing::warn!(
                        events = now.len(),
                        error = format!("{error:#}"),
                        "PostgreSQL is too slow for a batch, the next ones are smaller"
                    );
                    // After a deadline of ours the connection is gone, and with it this round.
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
            self.journal.tables().works(Who::Writer);
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Whether a time limit ended a statement.
fn is_time_limit(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<database::Error>()
        .is_some_and(database::Error::is_time_limit)
}
