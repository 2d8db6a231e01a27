//! The indexes that the hub needs on tables of the platform, created while those are written to.
//!
//! `CREATE INDEX CONCURRENTLY` blocks neither readers nor writers. It takes as long as the table is large, waits for open
//! transactions, and leaves an invalid index when it is interrupted, which is dropped and created again. The tables are
//! written with or without the indexes: without, a batch reads more.
//!
//! Only a table's owner may index it. When the hub's role is not the owner, the statement is logged, for the owner to run.

use std::{future::pending, time::Duration};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::{
    database::{Connection, Database},
    fault_injection,
};

/// Name, table and what is indexed.
const INDEXES: [(&str, &str, &str); 3] = [
    // For finding an order's row by its news.
    (
        "hub_provider_order_logs_external",
        "provider_order_logs",
        "(external_order_id, provider_id)",
    ),
    // For resolving a webhook's errors.
    (
        "hub_delivery_error_logs_webhook",
        "delivery_error_logs",
        "(webhook_log_id)",
    ),
    // For resolving errors of the backend's requests, which have no webhook.
    (
        "hub_delivery_error_logs_root",
        "delivery_error_logs",
        "((context->>'rootId')) WHERE webhook_log_id IS NULL",
    ),
];
/// An index that earlier versions made and this one does not use.
const FORMER: &str = "hub_orders_provider_order_id";
/// Advisory lock for creating them; not that of the migrations, which must not be held for so long.
const LOCK: i64 = 0x7768_5f69_6e64_6578;
/// Longest time that one index takes: that of a table with some billion rows.
const INDEX_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// How long an open transaction is waited for. No write waits for this, but the platform's own changes of the table do, and what
/// queues behind them; so no longer than an ordinary transaction takes.
const TRANSACTION_WAIT: Duration = Duration::from_secs(30);
/// How often is said how far it is.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Pause after an attempt that failed.
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// Takes what is said of the progress.
pub type Say<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Makes the indexes once the tables are there, and tries again while it fails; never ends.
pub(super) async fn keep(database: &Database, mut tables: watch::Receiver<bool>) {
    if tables.wait_for(|are_there| *are_there).await.is_err() {
        return pending().await;
    }
    while let Err(error) = make(database, &|progress| tracing::info!("{progress}")).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "an index is missing; the tables are written without it, more slowly"
        );
        tokio::time::sleep(fault_injection::time("index_retry", RETRY_AFTER)).await;
    }
    pending().await
}

/// Makes the indexes that are missing or no use; their names.
///
/// # Errors
/// If PostgreSQL is away or refuses, if a transaction stays open for too long, or another process is at it. What was made
/// stays; the next attempt goes on from there.
pub async fn make(database: &Database, say: Say<'_>) -> anyhow::Result<Vec<&'static str>> {
    // Mostly there is nothing to do, and a connection of the pool is enough to see that.
    let pooled = database.connect().await?;
    if missing(&pooled).await?.is_empty() && state(&pooled, FORMER, "orders").await?.is_none() {
        return Ok(Vec::new());
    }
    drop(pooled);
    // A connection of its own, because its session has the lock and other time limits.
    let connection = database.own().await?;
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    for (name, table, what) in INDEXES {
        if state(&connection, name, table).await? == Some(true) {
            continue;
        }
        if made.is_empty() && failed.is_empty() {
            lock(&connection).await?;
        }
        match make_one(database, &connection, (name, table, what), say).await {
            Ok(()) => made.push(name),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    anyhow::ensure!(failed.is_empty(), failed.join("; "));
    if state(&connection, FORMER, "orders").await?.is_some() {
        say(format!(
            "the index {FORMER} on orders, which an earlier version made, is not used any more; when no such version runs, its owner \
             can run: {}",
            connection
                .names()
                .fill(&format!("DROP INDEX CONCURRENTLY {{platform}}.{FORMER}"))
        ));
    }
    Ok(made)
}

/// An index that is not there, or not whole.
#[derive(Debug, Clone)]
pub struct MissingIndex {
    /// Its name.
    pub name: &'static str,
    /// An attempt was interrupted.
    pub is_unfinished: bool,
    /// The statements that make it.
    pub statements: String,
}

/// The indexes that are missing or not whole. Only looks.
///
/// # Errors
/// If PostgreSQL does not answer.
pub async fn missing(connection: &Connection) -> anyhow::Result<Vec<MissingIndex>> {
    let mut missing = Vec::new();
    for (name, table, what) in INDEXES {
        let state = state(connection, name, table).await?;
        if state != Some(true) {
            let create = create_statement(connection, (name, table, what));
            let drop = state.map(|_| connection.names().fill(&drop_statement(name)).into_owned() + "; ");
            missing.push(MissingIndex {
                name,
                is_unfinished: state.is_some(),
                statements: drop.unwrap_or_default() + &create,
            });
        }
    }
    Ok(missing)
}

fn create_statement(connection: &Connection, (name, table, what): (&str, &str, &str)) -> String {
    let create = format!("CREATE INDEX CONCURRENTLY {name} ON {{platform}}.{table} {what}");
    connection.names().fill(&create).into_owned()
}

fn drop_statement(name: &str) -> String {
    format!("DROP INDEX CONCURRENTLY IF EXISTS {{platform}}.{name}")
}

/// Whether an index can be used; none if there is none.
async fn state(connection: &Connection, name: &str, table: &str) -> anyhow::Result<Option<bool>> {
    let sql = "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
               WHERE c.relname = $1 AND i.indrelid = to_regclass('{platform}.' || $2)";
    let row = connection.query_opt(sql, &[&name, &table]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn lock(connection: &Connection) -> anyhow::Result<()> {
    let taken = connection
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?;
    anyhow::ensure!(taken.try_get::<_, bool>(0)?, "another process is making the indexes");
    let limits = format!(
        "SET statement_timeout = 0; SET lock_timeout = {}",
        fault_injection::time("index_lock", TRANSACTION_WAIT).as_millis()
    );
    Ok(connection.batch_execute(&limits).await?)
}

async fn make_one(
    database: &Database,
    connection: &Connection,
    (name, table, what): (&'static str, &str, &str),
    say: Say<'_>,
) -> anyhow::Result<()> {
    let state = state(connection, name, table).await?;
    if state == Some(true) {
        // Another process created it before this one got the lock.
        return Ok(());
    }
    if state.is_some() {
        say(format!(
            "index {name}: an earlier attempt left it unfinished, dropping it"
        ));
        let drop = drop_statement(name);
        let dropped = connection.batch_execute_within(INDEX_TIMEOUT, &drop).await;
        dropped.with_context(|| format!("cannot drop the unfinished index {name}"))?;
    }
    say(format!("index {name} on {table}: making it, while the table is in use"));
    let create = create_statement(connection, (name, table, what));
    let backend: i32 = connection.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
    let made = tokio::select! {
        made = connection.batch_execute_within(INDEX_TIMEOUT, &create) => made,
        never = follow(database, backend, name, say) => never,
    };
    match made {
        Ok(()) => say(format!("index {name} on {table}: made")),
        Err(error) => {
            let why = match error.code() {
                Some("42501") => "the hub's role does not own the table; its owner can run it",
                Some("55P03") => "a transaction stayed open for too long; it is to be run again",
                _ => "it is to be run again",
            };
            anyhow::bail!("{create}: {error}; {why}");
        }
    }
    Ok(())
}

/// Says how far it is whenever that has changed; never ends.
async fn follow<T>(database: &Database, backend: i32, name: &str, say: Say<'_>) -> T {
    let mut last = String::new();
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        let sql = "SELECT phase, blocks_done, blocks_total, lockers_done, lockers_total FROM pg_stat_progress_create_index WHERE pid = $1";
        let progress = async {
            let row = database
                .connect()
                .await
                .ok()?
                .query_opt(sql, &[&backend])
                .await
                .ok()??;
            let phase: String = row.try_get(0).ok()?;
            let count = |column: usize| row.try_get::<_, i64>(column).ok();
            let (done, all, waited, lockers) = (count(1)?, count(2)?, count(3)?, count(4)?);
            Some(match (all, lockers) {
                (0, 0) => phase,
                (0, _) => format!("{phase}, {waited} of {lockers} transactions have ended"),
                _ => format!("{phase}, {done} of {all} blocks"),
            })
        };
        if let Some(progress) = progress.await.filter(|progress| *progress != last) {
            say(format!("index {name}: {progress}"));
            last = progress;
        }
    }
}
