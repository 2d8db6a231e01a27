//! The tables' shape: `sql/migrations`, applied once each, in order, by one process at a time.
//!
//! What was applied is kept with its checksum in `hub.migrations`; a file that changed afterwards refuses to go on.

use std::time::Duration;

use anyhow::{Context as _, bail};
use deadpool_postgres::Object;
use sha2::{Digest, Sha256};

use crate::database::Database;

/// Name and text of each migration, in order.
const MIGRATIONS: [(&str, &str); 3] = [
    ("0001_platform", include_str!("../../sql/migrations/0001_platform.sql")),
    ("0002_hub", include_str!("../../sql/migrations/0002_hub.sql")),
    ("0003_push", include_str!("../../sql/migrations/0003_push.sql")),
];
/// Advisory lock of the migrations ("webhook-hub migrations", hashed once and written down).
const LOCK: i64 = 0x7768_5f6d_6967_7261;
/// How long another process may take over its migrations before this one gives up.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Applies what is not applied yet; returns its names.
///
/// # Errors
/// Where PostgreSQL is away or refuses, where another process holds the lock too long, or where an applied file changed.
pub async fn migrate(database: &Database) -> anyhow::Result<Vec<&'static str>> {
    let mut connection = database.connect().await?;
    lock(&connection).await?;
    let applied = apply(&mut connection).await;
    // The lock is the session's: it must go even where a migration failed.
    connection
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await
        .context("cannot release the migration lock")?;
    applied
}

async fn lock(connection: &Object) -> anyhow::Result<()> {
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

async fn apply(connection: &mut Object) -> anyhow::Result<Vec<&'static str>> {
    connection
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS hub;
             CREATE TABLE IF NOT EXISTS hub.migrations (
                 name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
             );",
        )
        .await
        .map_err(|error| anyhow::anyhow!("cannot prepare schema hub: {}", crate::database::describe(&error)))?;
    let mut done = Vec::new();
    for (name, sql) in MIGRATIONS {
        let checksum = hex::encode(Sha256::digest(sql));
        let known = connection
            .query_opt("SELECT checksum FROM hub.migrations WHERE name = $1", &[&name])
            .await?;
        match known.map(|row| row.try_get::<_, String>(0)).transpose()? {
            Some(known) if known == checksum => continue,
            Some(_) => bail!("migration {name} was changed after it was applied; add a new one instead"),
            None => {}
        }
        let transaction = connection.transaction().await?;
        let failed =
            |error: tokio_postgres::Error| anyhow::anyhow!("migration {name}: {}", crate::database::describe(&error));
        transaction.batch_execute(sql).await.map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO hub.migrations (name, checksum) VALUES ($1, $2)",
                &[&name, &checksum],
            )
            .await?;
        transaction.commit().await?;
        done.push(name);
    }
    Ok(done)
}
