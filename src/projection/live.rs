//! Follows the log: one instance writes, the others stand by.

mod gather;
mod writing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{gather::Gather, writing::TablesWriter};
use super::{
    batch::MAX_EVENTS,
    era::CursorLog,
    fill::{self, Filler},
    indexes,
    providers::Providers,
    retention::Retained,
    schema,
    writer::{self, Holder, RENEW_EVERY, Replaced},
};
use crate::{
    config::Retention,
    database::{Connection, Database, rights},
    event::stage::PROJECTION,
    fault_injection,
    journal::{
        EVENTS, Journal,
        pull::{Messages, Pull},
        streams,
    },
    telemetry::tables::TroubleSource,
};

/// How often a standby checks whether the writer is gone, and the pause after a failure.
const STANDBY_POLL: Duration = Duration::from_secs(1);
/// How long an instance that meets an event for another one (see [`ForAnother`]) leaves the tables to others. Another instance
/// looks every second, so the one that can write the event has taken them by then, if there is any.
const STAND_ASIDE: Duration = Duration::from_secs(10);
/// After that there is none, and for so long such events are noted at once.
const ALONE_FOR: Duration = Duration::from_secs(60);
/// A request may stand for long: what one of an instance that stands still takes away is read from the log instead.
const PULL: Pull = Pull {
    messages: 1000,
    expires: Duration::from_secs(30),
    heartbeat: Duration::from_secs(5),
};
/// An event on the log that only another instance can write.
#[derive(Debug, Clone, thiserror::Error)]
#[error("event {sequence} is for another instance: {why}")]
struct ForAnother {
    sequence: u64,
    why: Unfit,
}

/// Why this instance cannot write an event.
#[derive(Debug, Clone, thiserror::Error)]
enum Unfit {
    /// Only a later version can read it. The unknown part: `type order.eaten`.
    #[error("version {version} does not know {0}", version = env!("CARGO_PKG_VERSION"))]
    LaterVersion(String),
    /// Its provider is not enabled on this instance and has no row in `delivery_providers` yet: an instance on which it is
    /// enabled adds the row.
    #[error("provider {0} is not enabled on this instance and has no row in delivery_providers")]
    Provider(String),
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
    /// The event for which this instance stands aside, and since when.
    aside: Option<(ForAnother, Instant)>,
    /// Until when no other instance is expected to take such an event.
    alone_until: Option<Instant>,
    /// Whether skipped events have been tried again.
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

    /// Writes the tables until it is stopped, and makes the indexes that they need meanwhile. A database or a log that is away
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
                    streams::wait_for(self.journal.connection(), EVENTS, PROJECTION, stop).await;
                }
                Err(error) => {
                    self.note(&error);
                    if !error.is::<Replaced>() && !error.is::<ForAnother>() {
                        self.journal.tables().failed(TroubleSource::Writer, &error);
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
        } else if let Some(event) = error.downcast_ref::<ForAnother>() {
            tracing::warn!(
                sequence = event.sequence,
                why = %event.why,
                "the tables are left to another instance, which may be able to write this event"
            );
            self.aside = Some((event.clone(), Instant::now()));
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
            self.journal.tables().works(TroubleSource::Writer);
            return Ok(());
        }
        let mut connection = self.database.own().await?;
        // Commits need not wait for the disk: rows and position can only be lost together, and are then read from the log again.
        connection.batch_execute("SET synchronous_commit = off").await?;
        let (position, kept) = writer::claim(&connection, &self.holder).await?;
        tracing::info!("writing the tables");
        let _role = self.journal.roles().take(PROJECTION);
        let old = Retained {
            journal: self.journal.clone(),
            database: self.database.clone(),
            holder: self.holder.clone(),
            kept: self.kept,
        };
        let filler = Filler {
            journal: self.journal.clone(),
            database: self.database.clone(),
            holder: self.holder.clone(),
            era: kept.era(),
        };
        fill::prepare(&mut connection, &self.holder, kept.era()).await?;
        let written = tokio::select! {
            written = Box::pin(self.follow(&mut connection, position, kept, stop)) => written,
            never = old.run() => never,
            never = filler.run() => never,
        };
        self.journal.tables().retention_ended();
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
        // A newer version may have migrated the schema, and rights may have been revoked.
        schema::check(&pooled).await?;
        let (position, is_held) = writer::look(&pooled, &self.holder).await?.unwrap_or((0, false));
        self.journal.tables().at(position);
        if let Some((event, since)) = &self.aside {
            if position >= event.sequence {
                self.aside = None;
            } else if since.elapsed() < fault_injection::time("stand_aside", STAND_ASIDE) {
                return Ok(false);
            } else {
                self.alone_until = Some(Instant::now() + ALONE_FOR);
            }
        }
        if !is_held {
            // The rights to delete old rows are checked before each deletion; writing the tables does not need them.
            rights::check(&pooled).await?;
        }
        Ok(!is_held)
    }

    async fn follow(
        &mut self,
        connection: &mut Connection,
        position: u64,
        kept: CursorLog,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut writer = TablesWriter {
            journal: &self.journal,
            enabled: &self.enabled,
            holder: &self.holder,
            providers: Providers::load(connection, &self.enabled).await?,
            position,
            kept,
            compared: None,
            limit: &mut self.limit,
            alone_until: self.alone_until,
        };
        // Checked before anything is read by its sequence.
        writer.is_of_this_log(connection).await?;
        if !self.retried {
            writer.retry_skipped(connection).await?;
            self.retried = true;
        }
        writer.catch_up(connection, stop).await?;
        let mut messages = Messages::of(self.journal.connection(), EVENTS, PROJECTION, PULL).await?;
        let mut gather = Gather::default();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                first = messages.next() => first?,
                () = tokio::time::sleep(fault_injection::time("tables_renew", RENEW_EVERY)) => {
                    writer::claim(connection, writer.holder).await?;
                    if !writer.is_of_this_log(connection).await? {
                        writer.catch_up(connection, stop).await?;
                    }
                    writer.reach_end(connection).await?;
                    continue;
                }
            };
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                batch = gather.batch(first, &mut messages) => batch?,
            };
            let Some(batch) = batch else { continue };
            if !writer.is_of_this_log(connection).await? {
                // Messages from the consumer are dropped and read again from this log.
                writer.catch_up(connection, stop).await?;
                continue;
            }
            let latest = writer.write(connection, batch).await?;
            latest
                .ack()
                .await
                .map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))?;
        }
    }
}
