//! Fills a projection of the hub's own from the log, beside the live writing: a new one, or one with rows of another version.
//!
//! `hub.projections` says which version made the rows, and up to where. When that is behind the tables, the instance that
//! writes the tables reads the log from there, and applies it to this projection alone, until both positions are equal. From
//! then on each batch of the tables moves both. Every step is a transaction of the [`writer`]. After a restart filling
//! continues at the position.
//!
//! An older version that writes the tables does not move the position. Rows of a newer version are left to instances of that version.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use super::{
    Projection,
    ahead::ReadAhead,
    batch::{self, BatchTarget, MAX_EVENTS, MaxBatch, To, Written},
    decoded::{Event, LogMessage},
    faults, own,
    providers::Providers,
    writer::{self, Holder},
};
use crate::{
    database::{self, Connection, Database, query},
    fault_injection,
    journal::{
        Journal,
        read::{LogReader, end},
    },
};

/// Pause after trouble.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long emptying a table waits for sessions that use it. Meanwhile the tables' position is locked, and other sessions wait for that table.
const RESET_LOCK: &str = "SET LOCAL lock_timeout = '200ms'";
/// PostgreSQL's code if that was not enough.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Pause between two log lines about the progress.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Empties the projections with rows of an older version, and begins those that are new; `era`: the tables'. To be called by the
/// writer before it applies anything. One with a table that is being read, for example by a backup, stays as it is: batches pass it over, and
/// it is tried again beside the live writing.
///
/// # Errors
/// If PostgreSQL is away or refuses, or another instance is the writer.
pub async fn prepare(connection: &mut Connection, holder: &Holder, era: i32) -> anyhow::Result<()> {
    for projection in own() {
        match begin(connection, holder, era, projection).await {
            Err(error) if is_in_use(&error) => {
                tracing::warn!(
                    projection = projection.name(),
                    "an older version made the rows of this projection, and its table is in use; it is emptied later"
                );
            }
            other => other?,
        }
    }
    Ok(())
}

/// Whether another lock was in the way.
fn is_in_use(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<database::Error>().and_then(database::Error::code);
    code == Some(LOCK_NOT_AVAILABLE)
}

/// Does it for one.
async fn begin(
    connection: &mut Connection,
    holder: &Holder,
    era: i32,
    projection: &dyn Projection,
) -> anyhow::Result<()> {
    let (name, version) = (projection.name(), projection.version());
    let transaction = connection.transaction().await?;
    writer::lock(&transaction, holder).await?;
    let rows = transaction.query(query::READ_PROJECTION, &[&name]).await?;
    let found: Option<(i32, i32)> = rows
        .first()
        .map(|row| anyhow::Ok((row.try_get(0)?, row.try_get(2)?)))
        .transpose()?;
    // The projection's row has the era if it began after `era` was read.
    let era = found.map_or(era, |(_, of)| of.max(era));
    match found {
        Some((made_by, _)) if made_by > version => {
            tracing::warn!(
                projection = name,
                made_by,
                version,
                "a later version made this projection; it is left to that"
            );
            return Ok(());
        }
        Some((made_by, of)) if made_by == version && of == era => return Ok(()),
        // The log was replaced while an older version wrote the tables. Rows stay, and reading events again changes nothing.
        Some((made_by, _)) if made_by == version => {}
        _ => {
            let empty = format!("{RESET_LOCK}; TRUNCATE {}", projection.table().name);
            transaction.batch_execute(&empty).await?;
        }
    }
    transaction
        .execute(query::BEGIN_PROJECTION, &[&name, &version, &era])
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Fills projections.
pub(super) struct Filler {
    pub(super) journal: Journal,
    pub(super) database: Database,
    pub(super) holder: Holder,
    /// The tables', when this instance became the writer.
    pub(super) era: i32,
}

impl Filler {
    /// Fills what is behind, while this instance writes the tables; never ends.
    pub(super) async fn run<T>(self) -> T {
        for projection in own() {
            let mut limit = MAX_EVENTS;
            while let Err(error) = self.fill(projection, &mut limit).await {
                tracing::warn!(
                    projection = projection.name(),
                    error = format!("{error:#}"),
                    "the projection is behind the tables; filling it goes on"
                );
                tokio::time::sleep(fault_injection::time("fill_retry", RETRY_AFTER)).await;
            }
        }
        pending().await
    }

    fn fill<'a>(
        &'a self,
        projection: &'static dyn Projection,
        limit: &'a mut usize,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.fill_one(projection, limit))
    }

    /// `limit`: most events of a transaction, which are fewer after PostgreSQL was too slow for more.
    async fn fill_one(&self, projection: &'static dyn Projection, limit: &mut usize) -> anyhow::Result<()> {
        {
            let mut pooled = self.database.connect().await?;
            begin(&mut pooled, &self.holder, self.era, projection)
                .await
                .context("cannot begin it")?;
            // Nearly always the projection is up to date.
            if self.behind(&mut pooled, projection).await?.is_none() {
                return Ok(());
            }
        }
        let mut connection = self.database.own().await?;
        connection.batch_execute("SET synchronous_commit = off").await?;
        // The hub's own projections do not refer to delivery_providers.
        let providers = Providers::none();
        let target = BatchTarget {
            providers: &providers,
            tables: Written::One(&self.holder, projection),
        };
        let (began, mut said, mut first) = (Instant::now(), Instant::now(), None);
        while let Some((from, tables)) = self.behind(&mut connection, projection).await? {
            let first = *first.get_or_insert_with(|| {
                let projection = projection.name();
                tracing::info!(projection, from, to = tables, "filling the projection from the log");
                from
            });
            let log = self.journal.connection();
            let end = end(log).await?;
            anyhow::ensure!(
                end.sequence >= tables,
                "the log does not reach what the tables have applied"
            );
            let mut ahead = ReadAhead::up_to(tables, MaxBatch::LIVE, LogReader::from(log, from + 1).up_to(end));
            let mut position = from;
            while position < tables
                && let Some(part) = ahead.next().await?
            {
                // Events that this version cannot read are in hub.skipped_events; a version that can read them tries again.
                let readable = part.messages.into_iter().filter_map(LogMessage::event);
                let events: Vec<_> = readable.collect();
                let to = To {
                    position: part.read_to,
                    log: None,
                };
                position = apply(&mut connection, target, &events, to, (limit, MAX_EVENTS)).await?;
                if said.elapsed() >= SAY_EVERY {
                    tracing::info!(
                        projection = projection.name(),
                        position,
                        tables,
                        "filling the projection"
                    );
                    said = Instant::now();
                }
            }
            tracing::info!(
                projection = projection.name(),
                events = position.saturating_sub(first),
                seconds = began.elapsed().as_secs_f64(),
                "the projection is as far as the tables were"
            );
        }
        Ok(())
    }

    /// How far the projection and the tables are, where it is behind.
    async fn behind(
        &self,
        connection: &mut Connection,
        projection: &dyn Projection,
    ) -> anyhow::Result<Option<(u64, u64)>> {
        let transaction = connection.transaction().await?;
        let locked = writer::lock(&transaction, &self.holder).await?;
        let position = locked.of(projection).filter(|position| *position < locked.position);
        Ok(position.map(|position| (position, locked.position)))
    }
}

/// Applies events in transactions of at most `limit` events; where PostgreSQL is too slow for one, the next ones are smaller. `most`: how far
/// the limit is raised again.
pub(super) async fn apply(
    connection: &mut Connection,
    target: BatchTarget<'_>,
    events: &[Event],
    to: To<'_>,
    (limit, most): (&mut usize, usize),
) -> anyhow::Result<u64> {
    let mut rest = events;
    loop {
        let (now, later) = rest.split_at(rest.len().min(*limit));
        let position = match now.last() {
            Some(last) if !later.is_empty() => last.sequence,
            _ => to.position,
        };
        match batch::apply_to(connection, target, now, To { position, log: None }).await {
            Ok(position) => {
                if now.len() == *limit {
                    *limit = (*limit * 2).min(most);
                }
                rest = later;
                if rest.is_empty() {
                    return Ok(position);
                }
            }
            Err(error) if faults::is_time_limit(&error) && now.len() > 1 => {
                *limit = now.len() / 2;
                tracing::warn!(
                    events = now.len(),
                    error = format!("{error:#}"),
                    "PostgreSQL is too slow for a batch of the projection, the next ones are smaller"
                );
                // A missed deadline closes the connection.
                if connection.is_broken() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}
