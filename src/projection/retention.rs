//! Deletes rows that ended long ago, as `RETENTION_…` says.
//!
//! The instance that writes the tables also deletes rows. Every hour it passes over each table, in steps of some hundred rows by the
//! primary key, so it needs no index of the platform. After each step it pauses ten times as long as the step took. Each step is a
//! transaction of the [`writer`], so it never deletes a row that a concurrent batch has read.
//!
//! Open rows stay, however old they are: webhooks without an end, errors that are not resolved, and webhooks with such an
//! error. If the tables are filled from the log again, deleted rows come back, as far as the log reaches, and the next pass deletes them.
//!
//! If the role may not delete rows of a table, that table alone is left out. Each pass logs it, and a metric and health show it until the
//! right is granted.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use super::{
    table,
    writer::{self, Holder},
};
use crate::{
    config::Retention,
    database::{self, Connection, Database, Transaction, query, rights},
    fault_injection,
    journal::{Journal, read::beginning},
};

/// From the end of one pass to the beginning of the next.
const EVERY: Duration = Duration::from_secs(3600);
/// How often it is looked, between two passes, whether a right that the last one lacked was granted.
const LOOK_FOR_RIGHTS: Duration = Duration::from_secs(60);
/// Rows of one step: some ten milliseconds, for which a batch of the tables may have to wait.
const STEP: i64 = 500;
/// So much longer than a step takes is the pause after it, so that at most a tenth of one connection's time goes into this.
const PAUSE_FACTOR: u32 = 10;
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// A locked table is left for the next pass.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
/// A row that a table of the platform's own still refers to.
const REFERRED_TO: &str = "23503";

/// Deletes old rows.
pub(super) struct Retained {
    pub(super) journal: Journal,
    pub(super) database: Database,
    pub(super) holder: Holder,
    pub(super) kept: Retention,
}

/// The result of a step.
struct DeletionStep {
    /// The last row that was looked at; none at the end of the table.
    last: Option<String>,
    looked_at: i64,
    deleted: i64,
    /// Seconds since the oldest row that stays was made.
    oldest: Option<f64>,
}

impl Retained {
    /// Deletes while this instance writes the tables; never ends.
    pub(super) async fn run<T>(self) -> T {
        if self.kept == Retention::default() {
            return pending().await;
        }
        loop {
            if let Err(error) = self.pass().await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "old rows were not all deleted; the next pass goes on"
                );
            }
            self.pause().await;
        }
    }

    /// Returns when the next pass is due, or earlier where a right that the last one lacked was granted.
    async fn pause(&self) {
        let due = tokio::time::Instant::now() + fault_injection::time("retention", EVERY);
        let refused = self.journal.tables().retention_refused();
        while !refused.is_empty() {
            let look = tokio::time::Instant::now() + fault_injection::time("look_for_rights", LOOK_FOR_RIGHTS);
            if look >= due {
                break;
            }
            tokio::time::sleep_until(look).await;
            for table in refused.keys() {
                match self.lacking_to_delete(table).await {
                    Ok(None) => return,
                    Ok(Some(_)) => {}
                    Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot look for rights"),
                }
            }
        }
        tokio::time::sleep_until(due).await;
    }

    async fn lacking_to_delete(&self, table: &str) -> anyhow::Result<Option<rights::Lacking>> {
        let connection = self.database.connect().await?;
        rights::lacking_to_delete(&connection, table).await
    }

    /// Whether the role may delete rows of a table; where it may not, that is logged and shown.
    async fn may_delete(&self, table: &'static str) -> anyhow::Result<bool> {
        let lacking = self.lacking_to_delete(table).await?.map(|lacking| lacking.to_string());
        if let Some(lacking) = &lacking {
            tracing::error!(
                table,
                lacking,
                "old rows stay: RETENTION_… is set, but the role may not delete them; the tables are still written"
            );
        }
        let may = lacking.is_none();
        self.journal.tables().set_retention_refused(table, lacking);
        Ok(may)
    }

    async fn pass(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut all = 0;
        // Errors come before webhooks here: a webhook is deleted only after its errors.
        for (table, rule) in table::all()
            .rev()
            .filter_map(|table| Some((table.name, table.retention.as_ref()?)))
        {
            let Some(kept) = (rule.kept)(&self.kept) else { continue };
            if !self.may_delete(table).await? {
                continue;
            }
            if table == "webhook_logs" && !self.errors_are_found_by_webhook().await? {
                tracing::warn!(
                    table,
                    "old rows stay: delivery_error_logs has no index on webhook_log_id, and every row would read that table"
                );
                continue;
            }
            all += self.table(table, rule.delete, kept).await?;
        }
        if let Some(kept) = self.kept.skipped_events {
            all += self.skipped_events(kept).await?;
        }
        if all > 0 {
            tracing::info!(rows = all, seconds = began.elapsed().as_secs(), "deleted old rows");
        }
        Ok(())
    }

    /// Whether PostgreSQL finds the errors of a webhook without reading them all, by the hub's index or the platform's.
    async fn errors_are_found_by_webhook(&self) -> anyhow::Result<bool> {
        let sql = "SELECT EXISTS (
                       SELECT FROM pg_catalog.pg_index i
                       JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                       WHERE n.nspname = $1 AND c.relname = 'delivery_error_logs' AND a.attname = 'webhook_log_id'
                           AND i.indisvalid AND i.indpred IS NULL
                   )";
        let connection = self.database.connect().await?;
        let row = connection.query_one(sql, &[&connection.names().schema()]).await?;
        Ok(row.try_get(0)?)
    }

    /// Goes through a table; how many rows were deleted.
    async fn table(&self, table: &'static str, sql: &str, kept: Duration) -> anyhow::Result<i64> {
        let (mut after, mut all, mut oldest) = (String::new(), 0, None::<f64>);
        let mut limit = STEP;
        loop {
            let began = Instant::now();
            let mut connection = self.database.connect().await?;
            match self.step(&mut connection, sql, (&after, limit, kept)).await {
                Ok(step) => {
                    metrics::counter!("retention_deleted_rows_total", "table" => table)
                        .increment(u64::try_from(step.deleted)?);
                    all += step.deleted;
                    oldest = step.oldest.into_iter().chain(oldest).reduce(f64::max);
                    let Some(last) = step.last.filter(|_| step.looked_at == limit) else {
                        break;
                    };
                    after = last;
                    limit = (limit * 2).min(STEP);
                }
                Err(error) if is_referred_to(&error) && limit > 1 => limit = (limit / 2).max(1),
                Err(error) if is_referred_to(&error) => {
                    tracing::warn!(
                        table,
                        id = after,
                        "the row behind this one is referred to by another table and stays"
                    );
                    let Some(next) = next(&connection, table, &after).await? else {
                        break;
                    };
                    after = next;
                }
                Err(error) => return Err(error),
            }
            drop(connection);
            let pause = (began.elapsed() * PAUSE_FACTOR).max(LEAST_PAUSE);
            tokio::time::sleep(pause.min(fault_injection::time("retention_pause", Duration::MAX))).await;
        }
        metrics::gauge!("retention_oldest_row_age_seconds", "table" => table).set(oldest.unwrap_or(0.0));
        Ok(all)
    }

    async fn step(
        &self,
        connection: &mut Connection,
        sql: &str,
        (after, limit, kept): (&str, i64, Duration),
    ) -> anyhow::Result<DeletionStep> {
        let transaction = self.begin(connection).await?;
        let rows = transaction.query(sql, &[&after, &limit, &kept.as_secs_f64()]).await?;
        let row = rows
            .first()
            .ok_or_else(|| anyhow::anyhow!("a step without an answer"))?;
        let step = DeletionStep {
            last: row.try_get(0)?,
            looked_at: row.try_get(1)?,
            deleted: row.try_get(2)?,
            oldest: row.try_get(3)?,
        };
        transaction.commit().await?;
        Ok(step)
    }

    async fn skipped_events(&self, kept: Duration) -> anyhow::Result<i64> {
        const TABLE: &str = "hub.skipped_events";
        let beginning = i64::try_from(beginning(self.journal.connection()).await?)?;
        let mut connection = self.database.connect().await?;
        let transaction = self.begin(&mut connection).await?;
        let rows = transaction
            .query(query::RETAIN_SKIPPED_EVENTS, &[&beginning, &kept.as_secs_f64()])
            .await?;
        transaction.commit().await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let deleted: i64 = row.try_get(0)?;
        metrics::counter!("retention_deleted_rows_total", "table" => TABLE).increment(u64::try_from(deleted)?);
        let oldest: Option<f64> = row.try_get(1)?;
        metrics::gauge!("retention_oldest_row_age_seconds", "table" => TABLE).set(oldest.unwrap_or(0.0));
        Ok(deleted)
    }

    /// A transaction beside which no batch is written, while this instance is the writer.
    async fn begin<'a>(&self, connection: &'a mut Connection) -> anyhow::Result<Transaction<'a>> {
        let transaction = connection.transaction().await?;
        writer::lock(&transaction, &self.holder).await?;
        transaction.batch_execute(LOCK_TIMEOUT).await?;
        Ok(transaction)
    }
}

/// The id behind one; none at the end of the table.
async fn next(connection: &Connection, table: &str, after: &str) -> anyhow::Result<Option<String>> {
    let sql = format!("SELECT id FROM {{platform}}.{table} WHERE id > $1 ORDER BY id LIMIT 1");
    let row = connection.query_opt(&sql, &[&after]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

fn is_referred_to(error: &anyhow::Error) -> bool {
    error.downcast_ref::<database::Error>().and_then(database::Error::code) == Some(REFERRED_TO)
}
