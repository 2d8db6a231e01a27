//! Following the log: one instance writes, the others stand by.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::Message;
use deadpool_postgres::Object;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    batch::{self, MAX_BYTES, MAX_EVENTS},
    providers::Providers,
    schema,
};
use crate::{
    database::Database,
    event::Recorded,
    journal::{
        EVENTS, Journal, codec,
        pull::{self, Messages, Pull},
        read::{BATCH, Entry, Reader, end},
        streams,
    },
};

/// Name of the durable consumer.
const CONSUMER: &str = "projection";
/// Advisory lock of the instance that writes.
const LOCK: i64 = 0x7768_5f70_726f_6a65;
/// How often one that stands by looks whether the writer is gone, and the pause after trouble.
const STANDBY_POLL: Duration = Duration::from_secs(1);
/// The server ends the writer's session after so much silence (a process that is stopped, not dead) and so frees the lock.
const IDLE_SESSION: &str = "60s";
/// How often a writer without work shows that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
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

/// The projection of one hub.
pub struct Live {
    journal: Journal,
    database: Database,
    /// Code and name of every provider that is switched on.
    enabled: Vec<(Arc<str>, String)>,
    migrated: bool,
}

impl Live {
    /// Of these parts.
    pub fn new(journal: Journal, database: Database, enabled: Vec<(Arc<str>, String)>) -> Self {
        Self {
            journal,
            database,
            enabled,
            migrated: false,
        }
    }

    /// Writes the tables until told to stop. A database or a log that is away is waited for.
    ///
    /// # Errors
    /// Where the durable consumer does not exist.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let worked = self.write_while_it_is_ours(&stop).await;
            match worked {
                Ok(()) => {}
                Err(error) if error.downcast_ref::<streams::Missing>().is_some() => return Err(error),
                Err(error) => tracing::warn!(error = batch::reason(&error), "the tables wait"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(STANDBY_POLL) => {}
            }
        }
        Ok(())
    }

    async fn write_while_it_is_ours(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        if !self.migrated {
            let applied = schema::migrate(&self.database).await?;
            if !applied.is_empty() {
                tracing::info!(?applied, "migrated the database");
            }
            self.migrated = true;
        }
        // Taken out of the pool: with this session the lock ends, whatever happens.
        let mut connection = self.database.connect().await?;
        if !connection
            .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await?
            .try_get::<_, bool>(0)?
        {
            return Ok(());
        }
        // No commit waits for the disk: rows and cursor are lost together, if at all, and then read from the log again.
        let session = format!("SET idle_session_timeout = '{IDLE_SESSION}'; SET synchronous_commit = off");
        connection.batch_execute(&session).await?;
        tracing::info!("writing the tables");
        let written = self.follow(&mut connection, stop).await;
        drop(Object::take(connection));
        written
    }

    async fn follow(&self, connection: &mut Object, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut writer = Writer {
            journal: &self.journal,
            enabled: &self.enabled,
            providers: Providers::load(connection, &self.enabled).await?,
            position: batch::position(connection).await?,
        };
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
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    connection.simple_query("SELECT 1").await?;
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
    providers: Providers,
    position: u64,
}

impl Writer<'_> {
    async fn write(&mut self, connection: &mut Object, batch: &[(u64, Message)], up_to: u64) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(batch.len());
        let mut next = self.position + 1;
        for (sequence, message) in batch {
            if *sequence != next {
                // Redelivered, or not what follows.
                continue;
            }
            next += 1;
            match codec::decode(message.headers.as_ref(), message.payload.clone(), *sequence) {
                Ok(event) => events.push(event),
                // The stage that it is for records an event about it; that one is in the tables.
                Err(error) => tracing::warn!(sequence, %error, "a message on the log is no event; it has no row"),
            }
        }
        self.apply(connection, &events, next - 1).await?;
        if self.position < up_to {
            self.close_gap(connection, up_to).await?;
        }
        let pending = batch
            .last()
            .and_then(|(_, last)| last.info().ok().map(|info| info.pending))
            .unwrap_or(0);
        metrics::gauge!("projection_lag_events").set(pending as f64);
        Ok(())
    }

    /// Reads the log from the cursor to its end: a new or restored database is behind a consumer that has seen it all.
    /// While one batch is written the next is read.
    async fn catch_up(&mut self, connection: &mut Object, stop: &CancellationToken) -> anyhow::Result<()> {
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

    /// Reads from the log what the consumer did not bring: it is ahead of the cursor, or handed some of it to an instance
    /// that is gone.
    async fn close_gap(&mut self, connection: &mut Object, to: u64) -> anyhow::Result<()> {
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
    async fn apply_entries(&mut self, connection: &mut Object, entries: Vec<Entry>) -> anyhow::Result<bool> {
        let Some(up_to) = entries.last().map(Entry::sequence) else {
            return Ok(false);
        };
        let event = |entry| match entry {
            Entry::Event(event) => Some(*event),
            Entry::Unreadable { .. } => None,
        };
        let events: Vec<Recorded> = entries.into_iter().filter_map(event).collect();
        self.apply(connection, &events, up_to).await?;
        Ok(true)
    }

    async fn apply(&mut self, connection: &mut Object, events: &[Recorded], up_to: u64) -> anyhow::Result<()> {
        if events
            .iter()
            .any(|event| self.providers.lacks(&event.envelope.provider))
        {
            self.providers = Providers::load(connection, self.enabled).await?;
        }
        self.position = batch::apply(connection, events, up_to, &self.providers).await?;
        metrics::gauge!("projection_position").set(self.position as f64);
        Ok(())
    }
}
