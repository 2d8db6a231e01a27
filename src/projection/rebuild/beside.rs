//! The schema for new tables beside the live ones, and its cursor.
//!
//! The schema `hub_rebuild` exists only while `rebuild` or `verify` runs. The next run drops what an interrupted run left. The session of a
//! run holds an advisory lock, so there is one run at a time. The cursor contains the id of the run, so writes of an earlier run's session
//! are refused.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use super::{seen::SeenKeys, shape};
use crate::{
    database::{Connection, Transaction, names::identifier},
    projection::{
        ALL, Projection,
        table::{self, Table},
        webhook_logs,
    },
};

/// The schema of the new tables.
pub(super) const SCHEMA: &str = "hub_rebuild";
/// The schema of the replaced tables.
pub(super) const REPLACED: &str = "hub_replaced";
/// Advisory lock of a run ("webhook-hub rebuild", hashed once and written down).
const LOCK: i64 = 0x7768_5f72_6562_6c64;

/// How long PostgreSQL may take to notice that a session has ended, and the pause between two attempts.
const TURN_ENDS: Duration = Duration::from_secs(5);
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// Another run is under way.
#[derive(Debug, thiserror::Error)]
#[error("another `rebuild` or `verify` runs")]
pub struct Busy;

/// Which of the new tables a transaction writes. Each group has a position of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// All of them.
    All,
    /// The platform's.
    Platforms,
    /// The hub's own. Their rows depend on the events alone, not on another table.
    Own,
}

impl Group {
    /// The table of its position.
    const fn cursor(self) -> &'static str {
        match self {
            Self::All | Self::Platforms => "cursor",
            Self::Own => "own_cursor",
        }
    }

    fn has(self, table: &Table) -> bool {
        match self {
            Self::All => true,
            Self::Platforms => !table.is_own(),
            Self::Own => table.is_own(),
        }
    }
}

/// The new tables, and their position on the log.
pub(crate) struct Beside {
    schema: &'static str,
    run: String,
    /// All of them, in the order in which a batch is applied to them.
    pub(super) tables: Vec<&'static Table>,
    /// Those that will replace live ones. The others are only needed to fill these.
    pub(super) wanted: Vec<&'static Table>,
    /// Their position on the log when this was read.
    pub(super) position: u64,
    /// The events that a group could not store, which are few: each takes several transactions.
    left_out: Mutex<HashSet<u64>>,
    /// The keys of their rows, while they are known.
    seen: SeenKeys,
}

impl Beside {
    /// Creates the schema and its cursor. `position`: where on the log the new tables begin. `era`: that of the live tables.
    ///
    /// # Errors
    /// If PostgreSQL refuses. The role needs `CREATE` on the database.
    pub(super) async fn begin(
        connection: &Connection,
        wanted: Vec<&'static Table>,
        position: u64,
        era: i32,
    ) -> anyhow::Result<Self> {
        let run = Uuid::new_v4().to_string();
        // Statements in one text run in one transaction.
        let begin = format!(
            "CREATE SCHEMA {SCHEMA};
             CREATE TABLE {SCHEMA}.cursor (
                 run text NOT NULL, position bigint NOT NULL, era integer NOT NULL, versions text NOT NULL, wanted text[] NOT NULL,
                 unchecked text[] NOT NULL
             );
             INSERT INTO {SCHEMA}.cursor VALUES ('{run}', {position}, {era}, '{}', '{{{}}}', '{{}}')",
            versions(),
            wanted.iter().map(|table| table.name).collect::<Vec<_>>().join(","),
        );
        connection.batch_execute(&begin).await?;
        Ok(Self {
            schema: SCHEMA,
            run,
            tables: with_context(&wanted),
            wanted,
            position,
            left_out: Mutex::default(),
            seen: SeenKeys::unknown(),
        })
    }

    /// The tables that the last rebuild replaced; none if they are not kept.
    ///
    /// # Errors
    /// If they belong to another era, or another version wrote them: they cannot be brought up to date then.
    pub(super) async fn replaced(connection: &Connection, era: i32) -> anyhow::Result<Option<Self>> {
        if !exists(connection, REPLACED).await? {
            return Ok(None);
        }
        let sql = format!("SELECT run, position, era, versions, wanted FROM {REPLACED}.cursor");
        let row = connection.query_one(&sql, &[]).await?;
        let (of_era, by_versions): (i32, String) = (row.try_get(2)?, row.try_get(3)?);
        anyhow::ensure!(
            of_era == era,
            "the event log is another one since the tables were replaced; they cannot be brought up to date"
        );
        anyhow::ensure!(
            by_versions == versions(),
            "another version of the hub made the replaced tables; they cannot be brought up to date"
        );
        let names: Vec<String> = row.try_get(4)?;
        let mut tables = Vec::new();
        for table in table::all() {
            if shape::oid(connection, REPLACED, table.bare()).await?.is_some() {
                tables.push(table);
            }
        }
        Ok(Some(Self {
            schema: REPLACED,
            run: row.try_get(0)?,
            tables,
            wanted: names.iter().filter_map(|name| Table::of(name)).collect(),
            position: u64::try_from(row.try_get::<_, i64>(1)?)?,
            left_out: Mutex::default(),
            seen: SeenKeys::unknown(),
        }))
    }

    /// Its schema.
    pub(super) const fn schema(&self) -> &'static str {
        self.schema
    }

    /// The keys of their rows.
    pub(in crate::projection) const fn seen(&self) -> &SeenKeys {
        &self.seen
    }

    /// Whether a new table will replace the live one.
    pub(super) fn is_wanted(&self, table: &Table) -> bool {
        self.wanted.iter().any(|wanted| wanted.name == table.name)
    }

    /// Number of events that the tables could not store.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Whether there are tables of both groups.
    pub(super) fn has_groups(&self) -> bool {
        let has = |group: Group| self.tables.iter().any(|table| group.has(table));
        has(Group::Own) && has(Group::Platforms)
    }

    /// Gives the hub's own tables a position of their own, which is where all tables are.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn part(&self, connection: &Connection) -> anyhow::Result<()> {
        let Self { schema, .. } = self;
        let part = format!("CREATE TABLE {schema}.own_cursor AS SELECT run, position FROM {schema}.cursor");
        Ok(connection.batch_execute(&part).await?)
    }

    /// Ends that; both groups are at one position.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn join(&self, connection: &Connection) -> anyhow::Result<()> {
        let join = format!("DROP TABLE {}.own_cursor", self.schema);
        Ok(connection.batch_execute(&join).await?)
    }

    /// The position of a group, locked until the transaction ends.
    ///
    /// # Errors
    /// If another run began meanwhile, or PostgreSQL does not answer.
    pub(in crate::projection) async fn lock(&self, transaction: &Transaction<'_>, group: Group) -> anyhow::Result<u64> {
        let (schema, cursor) = (self.schema, group.cursor());
        let sql = format!("SELECT position FROM {schema}.{cursor} WHERE run = $1 FOR UPDATE");
        let rows = transaction.query(&sql, &[&self.run]).await?;
        let row = rows.first().ok_or(Busy)?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }

    /// The projections of a group, to which events after a position are applied.
    pub(in crate::projection) fn due(&self, group: Group, position: u64) -> Vec<(&'static dyn Projection, u64)> {
        let mut due = ALL.to_vec();
        let is_made = |name: &str| self.tables.iter().any(|table| table.name == name);
        due.retain(|projection| group.has(projection.table()) && is_made(projection.table().name));
        due.into_iter().map(|projection| (projection, position)).collect()
    }

    /// Moves the position, in the transaction that wrote the rows.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(in crate::projection) async fn move_to(
        &self,
        transaction: &Transaction<'_>,
        group: Group,
        to: u64,
    ) -> anyhow::Result<()> {
        let sql = format!("UPDATE {}.{} SET position = $1", self.schema, group.cursor());
        transaction.execute(&sql, &[&i64::try_from(to)?]).await?;
        Ok(())
    }

    /// Moves the position past an event that the tables cannot store.
    ///
    /// # Errors
    /// The same as [`Self::lock`].
    pub(in crate::projection) async fn leave_out(
        &self,
        connection: &mut Connection,
        group: Group,
        to: u64,
    ) -> anyhow::Result<u64> {
        let transaction = connection.transaction().await?;
        let position = self.lock(&transaction, group).await?;
        if to > position {
            self.move_to(&transaction, group, to).await?;
            transaction.commit().await?;
            self.left_out.lock().unwrap_or_else(PoisonError::into_inner).insert(to);
        }
        Ok(to.max(position))
    }
}

/// The versions of all projections, as text: `webhook_logs 1, …`.
fn versions() -> String {
    let versions: Vec<_> = ALL
        .iter()
        .map(|projection| format!("{} {}", projection.name(), projection.version()))
        .collect();
    versions.join(", ")
}

/// The wanted tables and those that are needed to fill them: rows of errors and orders depend on the webhook's row.
fn with_context(wanted: &[&'static Table]) -> Vec<&'static Table> {
    let needs_webhooks = wanted.iter().any(|table| !table.is_own());
    let is_needed = |table: &&Table| {
        wanted.iter().any(|one| one.name == table.name) || (needs_webhooks && table.name == webhook_logs::TABLE.name)
    };
    table::all().filter(is_needed).collect()
}

/// Prevents other runs for as long as the session lasts. PostgreSQL may not have noticed yet that the session of the last run has
/// ended, so this waits up to [`TURN_ENDS`].
///
/// # Errors
/// [`Busy`], or if PostgreSQL does not answer.
pub(super) async fn take_turn(connection: &Connection) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + TURN_ENDS;
    loop {
        let row = connection
            .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await?;
        if row.try_get::<_, bool>(0)? {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, Busy);
        tokio::time::sleep(TURN_PAUSE).await;
    }
}

/// Whether there is a schema of this name.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn exists(connection: &Connection, schema: &str) -> anyhow::Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    Ok(connection.query_one(sql, &[&schema]).await?.try_get(0)?)
}

/// Drops a schema of the hub and its tables. False if it did not exist.
///
/// # Errors
/// If PostgreSQL refuses, for example because an object of others refers to a table in it.
pub(super) async fn remove(connection: &Connection, schema: &str) -> anyhow::Result<bool> {
    if !exists(connection, schema).await? {
        return Ok(false);
    }
    let sql = "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relkind = 'r'";
    let rows = connection.query(sql, &[&schema]).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        tables.push(format!("{}.{}", identifier(schema), identifier(row.try_get(0)?)));
    }
    // Not CASCADE, which would drop what others built on these tables.
    let mut drop = String::new();
    if !tables.is_empty() {
        drop += &format!("DROP TABLE {};", tables.join(", "));
    }
    drop += &format!("DROP SCHEMA {}", identifier(schema));
    connection.batch_execute(&drop).await?;
    Ok(true)
}
