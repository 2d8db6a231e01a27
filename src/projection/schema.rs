//! The tables' shape: `sql/migrations`, applied once each, in order, by one process at a time.
//!
//! What was applied is kept with its checksum in `hub.migrations`; a file that changed afterwards refuses to go on. Where
//! everything is applied nothing is locked and no right is needed. The platform's tables are not touched where they are there;
//! indexes on them are made by [`super::indexes`].

use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest, Sha256};

use crate::database::{Connection, Database, Error, Transaction};

/// A step to the shape that this version needs.
struct Migration {
    name: &'static str,
    sql: &'static str,
    /// The checksum of its first text, where the text was changed without changing what the tables look like. It is what is
    /// recorded and looked for, so that versions before and after the change agree.
    known_as: Option<&'static str>,
    /// Tables that make it unnecessary where they are all there. "IF NOT EXISTS" needs the right to create tables also where it
    /// does nothing.
    unless: &'static [&'static str],
}

/// The platform's.
const PLATFORM: [&str; 6] = [
    "delivery_providers",
    "branch_delivery_configs",
    "orders",
    "webhook_logs",
    "delivery_error_logs",
    "provider_order_logs",
];

const MIGRATIONS: [Migration; 4] = [
    Migration {
        name: "0001_platform",
        sql: include_str!("../../sql/migrations/0001_platform.sql"),
        // Its indexes went to `indexes`.
        known_as: Some("5ce4c3c9495dd8c1e89a5fc6c85e3b1b760e7b2790005a620190a4aee4b43631"),
        unless: &PLATFORM,
    },
    Migration {
        name: "0002_hub",
        sql: include_str!("../../sql/migrations/0002_hub.sql"),
        known_as: None,
        unless: &[],
    },
    Migration {
        name: "0003_push",
        sql: include_str!("../../sql/migrations/0003_push.sql"),
        // Its index went to `indexes`.
        known_as: Some("c1d824d895fc3e06d4ba4d198ddf1a7ec2b25e1ee7e558e761fd4a884702b4c7"),
        unless: &[],
    },
    Migration {
        name: "0004_writer",
        sql: include_str!("../../sql/migrations/0004_writer.sql"),
        known_as: None,
        unless: &[],
    },
];
/// Advisory lock of the migrations ("webhook-hub migrations", hashed once and written down).
const LOCK: i64 = 0x7768_5f6d_6967_7261;
/// How long another process may take over its migrations before this one gives up.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// How long a migration waits for a lock on a table. Whoever writes to that table waits behind it meanwhile, so it gives up soon
/// and is tried again.
const TABLE_LOCK: Duration = Duration::from_secs(1);

impl Migration {
    fn checksum(&self) -> String {
        self.known_as
            .map_or_else(|| hex::encode(Sha256::digest(self.sql)), str::to_owned)
    }
}

/// Applies what is not applied yet; returns its names.
///
/// # Errors
/// Where PostgreSQL is away or refuses, where another process holds the lock too long, or where an applied file changed.
pub async fn migrate(database: &Database) -> anyhow::Result<Vec<&'static str>> {
    let mut connection = database.own().await?;
    if pending(&connection).await?.is_empty() {
        return Ok(Vec::new());
    }
    // It is the session's, which ends here, whatever happens.
    lock(&connection).await?;
    apply(&mut connection).await
}

/// What is not applied, of which nothing may be there at all.
async fn pending(connection: &Connection) -> anyhow::Result<Vec<&'static Migration>> {
    let exists = connection
        .query_one("SELECT to_regclass('hub.migrations') IS NOT NULL", &[])
        .await?;
    let mut applied = Vec::new();
    if exists.try_get::<_, bool>(0)? {
        for row in connection
            .query("SELECT name, checksum FROM hub.migrations", &[])
            .await?
        {
            applied.push((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
        }
    }
    let mut pending = Vec::new();
    for migration in &MIGRATIONS {
        match applied.iter().find(|(name, _)| name == migration.name) {
            Some((_, checksum)) if *checksum == migration.checksum() => {}
            Some(_) => bail!(
                "migration {} was changed after it was applied; add a new one instead",
                migration.name
            ),
            None => pending.push(migration),
        }
    }
    Ok(pending)
}

async fn lock(connection: &Connection) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    while !connection
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?
        .try_get::<_, bool>(0)?
    {
        if tokio::time::Instant::now() > deadline {
            bail!("another process has been migrating for {} s", LOCK_WAIT.as_secs());
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    Ok(())
}

async fn apply(connection: &mut Connection) -> anyhow::Result<Vec<&'static str>> {
    let exists = connection
        .query_one("SELECT to_regnamespace('hub') IS NOT NULL", &[])
        .await?;
    // Asked before, for "IF NOT EXISTS" needs the right to create schemas also where it does nothing.
    if !exists.try_get::<_, bool>(0)? {
        let made = connection.batch_execute("CREATE SCHEMA IF NOT EXISTS hub").await;
        made.context("cannot make the schema hub; make it for the hub's role, or give that CREATE on the database")?;
    }
    connection
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS hub.migrations (
                 name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
             );",
        )
        .await
        .context("cannot prepare the schema hub")?;
    let mut done = Vec::new();
    for migration in pending(connection).await? {
        let name = migration.name;
        let transaction = connection.transaction().await?;
        if !are_there(&transaction, migration.unless).await? {
            let sql = format!("SET LOCAL lock_timeout = {}; {}", TABLE_LOCK.as_millis(), migration.sql);
            let applied = transaction.batch_execute(&sql).await;
            applied.map_err(|error| failed(name, &error))?;
        }
        transaction
            .execute(
                "INSERT INTO hub.migrations (name, checksum) VALUES ($1, $2)",
                &[&name, &migration.checksum()],
            )
            .await?;
        transaction.commit().await?;
        done.push(name);
    }
    Ok(done)
}

/// Whether there are tables, and all of them.
async fn are_there(transaction: &Transaction<'_>, tables: &[&str]) -> anyhow::Result<bool> {
    let sql = "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS name";
    let row = transaction.query(sql, &[&tables]).await?;
    let are_there = row.first().map(|row| row.try_get::<_, Option<bool>>(0)).transpose()?;
    Ok(are_there.flatten() == Some(true))
}

fn failed(name: &str, error: &Error) -> anyhow::Error {
    match error.code() {
        Some("55P03") => {
            anyhow::anyhow!("migration {name}: a transaction holds a table that it needs; it is tried again")
        }
        _ => anyhow::anyhow!("migration {name}: {error}"),
    }
}
