//! The tables' shape: `sql/migrations`, applied once each, in order, by one process at a time.
//!
//! `hub.migrations` keeps what was applied, with its checksum; the hub refuses a file that changed afterwards. When
//! everything is applied, nothing is locked and only the right to read is needed. Existing tables of the platform are not
//! changed; [`super::indexes`] creates indexes on them.
//!
//! **Versions side by side.** A migration that only adds something leaves older versions at work. One that older versions
//! cannot work with is listed in `BREAKING`, and its row and all later ones say so (`compatible_from`): a version that does
//! not know that migration refuses, and leaves the tables to newer ones.
//!
//! **Which tables are created.** The platform's tables are created only if the database has none of these names in any
//! schema, so that no empty tables are written beside the platform's. `hub.platform` holds the schema that the bookkeeping is
//! about.

use std::{sync::LazyLock, time::Duration};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use crate::database::{Connection, Database, Error, rights};

/// A step to the shape that this version needs.
struct Migration {
    name: &'static str,
    sql: &'static str,
    /// The checksum of its first text, where the text was changed without changing what the tables look like. It is what is
    /// recorded and looked for, so that versions before and after the change agree.
    known_as: Option<&'static str>,
    /// Tables that make it unnecessary where they are all there. "IF NOT EXISTS" needs the right to create tables also if it
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

/// All of them, in the order of their names: the files of `sql/migrations`, which the build script lists.
static MIGRATIONS: LazyLock<Vec<Migration>> = LazyLock::new(|| {
    let files: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
    files.iter().map(|&(name, sql)| Migration::new(name, sql)).collect()
});
/// Those of [`MIGRATIONS`], in their order, that versions without them cannot work with. The text of such a one must also take the
/// tables from an older version that writes them: `UPDATE hub.cursors SET holder = 'migration', held_until = clock_timestamp() +
/// interval '5 s'`. That one then finds another holder, looks at the schema before it takes them again, and refuses.
const BREAKING: &[&str] = &[];
/// Whether a schema has a table.
const HAS_TABLE: &str = "SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
)";
/// Advisory lock of the migrations ("webhook-hub migrations", hashed once and written down).
const LOCK: i64 = 0x7768_5f6d_6967_7261;
/// How long another process may take over its migrations before this one gives up.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// How long a migration waits for a lock on a table. Writers of that table wait behind it meanwhile, so it gives up soon
/// and is tried again. PostgreSQL ends an autovacuum of the table after `deadlock_timeout`, which is 1 s.
const TABLE_LOCK: Duration = Duration::from_secs(2);

impl Migration {
    fn new(name: &'static str, sql: &'static str) -> Self {
        Self {
            name,
            sql,
            known_as: match name {
                // Later its indexes moved to `indexes`, and a table got a fill factor.
                "0001_platform" => Some("5ce4c3c9495dd8c1e89a5fc6c85e3b1b760e7b2790005a620190a4aee4b43631"),
                // Later its index moved to `indexes`.
                "0003_push" => Some("c1d824d895fc3e06d4ba4d198ddf1a7ec2b25e1ee7e558e761fd4a884702b4c7"),
                _ => None,
            },
            unless: if name == "0001_platform" { &PLATFORM } else { &[] },
        }
    }

    fn checksum(&self) -> String {
        self.known_as
            .map_or_else(|| hex::encode(Sha256::digest(self.sql)), str::to_owned)
    }
}

/// Applies what is not applied yet; returns its names.
///
/// # Errors
/// If PostgreSQL is away or refuses, if another process holds the lock too long, if an applied file changed, if a newer
/// version's migrations leave no room for this one, or if the platform's tables are somewhere else.
pub async fn migrate(database: &Database) -> anyhow::Result<Vec<&'static str>> {
    let pooled = database.connect().await?;
    let mut applied = Vec::new();
    if !pending(&pooled).await?.is_empty() {
        let mut connection = database.own().await?;
        // The lock belongs to the session, which ends with this block.
        lock(&connection).await?;
        applied = apply(&mut connection).await?;
    }
    check(&pooled).await?;
    Ok(applied)
}

/// The texts of the migrations.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    MIGRATIONS.iter().map(|migration| migration.sql)
}

/// Fails where the schema is not one that this version can work with. A newer version may have changed it since the last look.
///
/// # Errors
/// The same as [`migrate`], or if migrations are missing.
pub async fn check(connection: &Connection) -> anyhow::Result<()> {
    let pending = pending(connection).await?;
    if let Some(first) = pending.first() {
        return Err(unfit(format!(
            "migration {} is not applied; run webhook-hub migrate",
            first.name
        )));
    }
    let missing = missing_tables(connection).await?;
    if !missing.is_empty() {
        return Err(unfit(elsewhere(connection.names().schema(), &missing)));
    }
    let sql = "SELECT schema_name FROM hub.platform WHERE schema_name <> $1";
    let schema = connection.names().schema();
    if let Some(row) = connection.query_opt(sql, &[&schema]).await? {
        let of: String = row.try_get(0)?;
        return Err(unfit(format!(
            "the schema hub of this database keeps the books of the schema {of}, and DATABASE_SCHEMA is {schema}: a second hub needs a \
             database of its own; where the tables were moved: UPDATE hub.platform SET schema_name = '{schema}'"
        )));
    }
    Ok(())
}

/// The tables are not what this version can work with.
fn unfit(why: String) -> anyhow::Error {
    Error::Schema(why).into()
}

/// A row of `hub.migrations`.
#[derive(Debug, Clone)]
struct Applied {
    name: String,
    checksum: String,
    /// The last one of [`BREAKING`] in the version that applied it.
    compatible_from: Option<String>,
    /// That version.
    applied_by: Option<String>,
}

/// Migrations that are not applied; all of them if there are no tables yet.
async fn pending(connection: &Connection) -> anyhow::Result<Vec<&'static Migration>> {
    let exists = connection.query_one(HAS_TABLE, &[&"hub", &"migrations"]).await?;
    let mut applied = Vec::new();
    if exists.try_get::<_, bool>(0)? {
        // Tables of earlier versions lack the last two columns.
        let sql = "SELECT m.name, m.checksum, to_jsonb(m)->>'compatible_from', to_jsonb(m)->>'applied_by' FROM hub.migrations m";
        for row in connection.query(sql, &[]).await? {
            applied.push(Applied {
                name: row.try_get(0)?,
                checksum: row.try_get(1)?,
                compatible_from: row.try_get(2)?,
                applied_by: row.try_get(3)?,
            });
        }
    }
    judge(&applied)
}

/// The pending migrations after these.
///
/// # Errors
/// If one was changed after it was applied, or a newer version applied one that this version cannot work with.
fn judge(applied: &[Applied]) -> anyhow::Result<Vec<&'static Migration>> {
    let is_known = |name: &str| MIGRATIONS.iter().any(|migration| migration.name == name);
    for one in applied.iter().filter(|one| !is_known(&one.name)) {
        if let Some(needed) = one.compatible_from.as_deref().filter(|needed| !is_known(needed)) {
            return Err(unfit(format!(
                "the database was migrated by a newer version{}, and this version ({}) cannot work with that: migration {needed} is \
                 not known to it; start the newer version",
                one.applied_by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default(),
                env!("CARGO_PKG_VERSION"),
            )));
        }
    }
    let mut pending = Vec::new();
    for migration in MIGRATIONS.iter() {
        match applied.iter().find(|one| one.name == migration.name) {
            Some(one) if one.checksum == migration.checksum() => {}
            Some(_) => {
                return Err(unfit(format!(
                    "migration {} was changed after it was applied; add a new one instead",
                    migration.name
                )));
            }
            None => pending.push(migration),
        }
    }
    Ok(pending)
}

/// A table of the platform that is not in its schema, and the other schemas that have one of that name.
struct MissingTable {
    name: String,
    others: Option<String>,
}

async fn missing_tables(connection: &Connection) -> anyhow::Result<Vec<MissingTable>> {
    // Every role may read the catalogue, whereas to_regclass needs rights on the schema. Tables in `hub` were created by mistake.
    let sql = "SELECT t.name, string_agg(DISTINCT n.nspname, ', ' ORDER BY n.nspname)
                   FILTER (WHERE n.nspname <> 'hub' AND n.nspname NOT LIKE 'pg\\_%')
               FROM unnest($1::text[]) AS t (name)
               LEFT JOIN pg_catalog.pg_class c ON c.relname = t.name AND c.relkind IN ('r', 'p', 'v')
               LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               GROUP BY t.name
               HAVING NOT coalesce(bool_or(n.nspname = $2), false)
               ORDER BY t.name";
    let tables: &[&str] = &PLATFORM;
    let rows = connection.query(sql, &[&tables, &connection.names().schema()]).await?;
    let missing = |row: &tokio_postgres::Row| {
        Ok(MissingTable {
            name: row.try_get(0)?,
            others: row.try_get(1)?,
        })
    };
    rows.iter().map(missing).collect()
}

fn elsewhere(schema: &str, missing: &[MissingTable]) -> String {
    let names: Vec<_> = missing.iter().map(|table| table.name.as_str()).collect();
    let names = names.join(", ");
    match missing.iter().find_map(|table| Some((table, table.others.as_ref()?))) {
        Some((table, others)) => format!(
            "DATABASE_SCHEMA: the schema {schema} has no {names}, and {} is in the schema {others}: set DATABASE_SCHEMA to where the \
             platform's tables are; new ones are made only in a database that has none",
            table.name
        ),
        None => format!("DATABASE_SCHEMA: the schema {schema} has no {names}"),
    }
}

async fn lock(connection: &Connection) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    while !connection
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?
        .try_get::<_, bool>(0)?
    {
        if tokio::time::Instant::now() > deadline {
            return Err(unfit(format!(
                "another process has been migrating for {} s",
                LOCK_WAIT.as_secs()
            )));
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    Ok(())
}

async fn apply(connection: &mut Connection) -> anyhow::Result<Vec<&'static str>> {
    let applied = apply_pending(connection).await;
    applied.map_err(|error| match error.downcast_ref::<Error>().and_then(Error::code) {
        Some(rights::MISSING) => error.context(
            "the database lacks migrations and this role may not apply them; run webhook-hub migrate with one that may",
        ),
        _ => error,
    })
}

async fn apply_pending(connection: &mut Connection) -> anyhow::Result<Vec<&'static str>> {
    let exists = connection
        .query_one("SELECT to_regnamespace('hub') IS NOT NULL", &[])
        .await?;
    let mut missing = missing_tables(connection).await?;
    if missing.iter().any(|table| table.others.is_some()) {
        missing.retain(|table| table.others.is_some());
        return Err(unfit(elsewhere(connection.names().schema(), &missing)));
    }
    // Checked first, because "IF NOT EXISTS" needs the right to create schemas even if the schema exists.
    if !exists.try_get::<_, bool>(0)? {
        let made = connection.batch_execute("CREATE SCHEMA IF NOT EXISTS hub").await;
        made.context("cannot make the schema hub; make it for the hub's role, or give that CREATE on the database")?;
    }
    connection
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS hub.migrations (
                 name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
             );
             ALTER TABLE hub.migrations ADD COLUMN IF NOT EXISTS compatible_from text, ADD COLUMN IF NOT EXISTS applied_by text;",
        )
        .await
        .context("cannot prepare the schema hub")?;
    let mut done = Vec::new();
    for migration in pending(connection).await? {
        let name = migration.name;
        let transaction = connection.transaction().await?;
        if migration.unless.is_empty() || !missing.is_empty() {
            let sql = format!("SET LOCAL lock_timeout = {}; {}", TABLE_LOCK.as_millis(), migration.sql);
            let applied = transaction.batch_execute(&sql).await;
            applied.map_err(|error| failed(name, error))?;
        }
        transaction
            .execute(
                "INSERT INTO hub.migrations (name, checksum, compatible_from, applied_by) VALUES ($1, $2, $3, $4)",
                &[
                    &name,
                    &migration.checksum(),
                    &compatible_from(name),
                    &env!("CARGO_PKG_VERSION"),
                ],
            )
            .await?;
        transaction.commit().await?;
        done.push(name);
    }
    Ok(done)
}

/// The last breaking migration up to this one.
fn compatible_from(name: &str) -> Option<&'static str> {
    let up_to = MIGRATIONS.iter().take_while(|one| one.name <= name);
    up_to.map(|one| one.name).filter(|name| BREAKING.contains(name)).last()
}

fn failed(name: &str, error: Error) -> anyhow::Error {
    match error.code() {
        Some("55P03") => {
            anyhow::anyhow!("migration {name}: a transaction holds a table that it needs; it is tried again")
        }
        _ => anyhow::Error::from(error).context(format!("migration {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As this version leaves it.
    fn all() -> Vec<Applied> {
        let applied = |migration: &Migration| Applied {
            name: migration.name.to_owned(),
            checksum: migration.checksum(),
            compatible_from: None,
            applied_by: None,
        };
        MIGRATIONS.iter().map(applied).collect()
    }

    fn of_newer(compatible_from: Option<&str>) -> Applied {
        Applied {
            name: "9002_newer".to_owned(),
            checksum: "x".to_owned(),
            compatible_from: compatible_from.map(str::to_owned),
            applied_by: Some("9.0.0".to_owned()),
        }
    }

    #[test]
    fn a_newer_versions_migrations_are_refused_where_they_break_this_one() {
        let mut applied = all();
        assert!(judge(&applied).unwrap().is_empty());
        for additive in [None, Some("0004_writer")] {
            applied.push(of_newer(additive));
            assert!(judge(&applied).unwrap().is_empty(), "{additive:?}");
            applied.pop();
        }
        applied.push(of_newer(Some("9001_breaking")));
        let error = judge(&applied).err().unwrap().to_string();
        for said in ["9001_breaking", "9.0.0", env!("CARGO_PKG_VERSION")] {
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn missing_migrations_are_pending_and_changed_ones_refused() {
        let mut applied = all();
        let last = applied.pop().unwrap();
        let pending: Vec<_> = judge(&applied).unwrap().iter().map(|one| one.name).collect();
        assert_eq!(pending, [last.name.as_str()]);
        applied.push(Applied {
            checksum: "changed".to_owned(),
            ..last
        });
        assert!(judge(&applied).is_err());
    }

    /// `compatible_from` depends on the order of the names.
    #[test]
    fn migrations_are_in_the_order_of_their_names() {
        let names: Vec<_> = MIGRATIONS.iter().map(|one| one.name).collect();
        assert!(
            names.starts_with(&["0001_platform", "0002_hub", "0003_push"]),
            "{names:?}"
        );
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
        assert!(
            BREAKING
                .iter()
                .all(|name| MIGRATIONS.iter().any(|one| one.name == *name))
        );
    }
}
