//! What a run must know before it creates anything: the position of the log and of the tables, and what prevents the exchange.

use anyhow::Context as _;
use chrono::Utc;

use super::{
    Parts, Plan, PlannedTable,
    beside::{self, Beside, SCHEMA},
    carry::Beginning,
    feed,
    run::STATEMENT,
    shape, swap,
};
use crate::{
    database::{Connection, query},
    journal::read::beginning,
    projection::{era, indexes, schema, table::Table, writer},
};

/// The beginning of a run.
pub(super) struct Start {
    /// The run's connection. Its session holds the lock that prevents other runs.
    pub(super) connection: Connection,
    position: u64,
    pub(super) era: i32,
    /// Rows that began earlier are older than the log.
    pub(super) beginning: Beginning,
    /// Tables that did not exist.
    pub(super) missing: Vec<&'static str>,
}

impl Start {
    /// Prevents other runs, removes what an interrupted run left, creates missing tables, and checks whether all can be exchanged.
    ///
    /// # Errors
    /// If they cannot be exchanged; if NATS or PostgreSQL is away.
    pub(super) async fn exchange(parts: Parts<'_>, wanted: &[&'static Table]) -> anyhow::Result<Self> {
        let connection = Self::alone(parts).await?;
        let mut missing = Vec::new();
        for table in wanted {
            if shape::oid(&connection, &table.schema(connection.names()), table.bare())
                .await?
                .is_none()
            {
                let made = shape::make_missing(&connection, table).await;
                made.with_context(|| format!("{} is missing and cannot be made", table.name))?;
                missing.push(table.name);
            }
        }
        if !missing.is_empty() {
            indexes::make(parts.database, &|_| ()).await?;
        }
        schema::check(&connection).await?;
        let obstacles = obstacles(&connection, wanted).await?;
        anyhow::ensure!(obstacles.is_empty(), "{}", obstacles.join("; "));
        Self::look(parts, connection, wanted, missing).await
    }

    /// Prevents other runs, removes what an interrupted run left, and reads the positions of tables and log. `from`: the first event that
    /// counts.
    ///
    /// # Errors
    /// If a table is missing; if NATS or PostgreSQL is away.
    pub(super) async fn compare(
        parts: Parts<'_>,
        wanted: &[&'static Table],
        from: Option<u64>,
    ) -> anyhow::Result<Self> {
        let connection = Self::alone(parts).await?;
        schema::check(&connection).await?;
        let mut start = Self::look(parts, connection, wanted, Vec::new()).await?;
        if let Some(from) = from.filter(|from| *from > start.beginning.sequence) {
            let first = feed::time_of(parts.log, from).await?;
            start.beginning = Beginning::new(from, first.context("the event log ends before that place")?);
        }
        Ok(start)
    }

    /// A connection that prevents other runs while it is open. What an interrupted run left is removed first.
    async fn alone(parts: Parts<'_>) -> anyhow::Result<Connection> {
        let connection = parts.database.own().await?.for_whole_tables(STATEMENT).await?;
        beside::take_turn(&connection).await?;
        beside::remove(&connection, SCHEMA)
            .await
            .context("cannot remove what an interrupted run left")?;
        swap::check_foreign_keys(&connection).await?;
        Ok(connection)
    }

    /// Reads the positions of the tables and the log.
    async fn look(
        parts: Parts<'_>,
        connection: Connection,
        wanted: &[&'static Table],
        missing: Vec<&'static str>,
    ) -> anyhow::Result<Self> {
        let found = writer::position_and_log(&connection).await?;
        let (position, kept) = found.context("no hub has ever written the tables")?;
        era::ensure_same(parts.log, position, &kept).await?;
        for table in wanted.iter().filter(|table| table.is_own()) {
            same_version(&connection, table).await?;
        }
        let first = beginning(parts.log).await?.max(1);
        let time = feed::time_of(parts.log, first).await?.unwrap_or_else(Utc::now);
        Ok(Self {
            connection,
            position,
            era: kept.era(),
            beginning: Beginning::new(first, time),
            missing,
        })
    }

    /// Creates the schema for these tables.
    ///
    /// # Errors
    /// If PostgreSQL refuses.
    pub(super) async fn begin_beside(&self, wanted: Vec<&'static Table>) -> anyhow::Result<Beside> {
        let made = Beside::begin(&self.connection, wanted, self.beginning.sequence - 1, self.era).await;
        made.map_err(|error| match shape::lacks_a_right(&error) {
            true => error
                .context("this needs a role that owns the tables and has CREATE on the database, as `migrate` does"),
            false => error,
        })
    }

    /// The tables that the last rebuild replaced.
    ///
    /// # Errors
    /// If there are none, if they cannot be brought up to date, or if the live ones cannot be exchanged.
    pub(super) async fn replaced(&self) -> anyhow::Result<Beside> {
        let replaced = Beside::replaced(&self.connection, self.era).await?;
        let replaced = replaced.context("nothing to undo: no replaced tables are kept")?;
        let obstacles = obstacles(&self.connection, &replaced.wanted).await?;
        anyhow::ensure!(obstacles.is_empty(), "{}", obstacles.join("; "));
        for table in &replaced.wanted {
            if table.is_own() {
                same_version(&self.connection, table).await?;
            }
            let mut columns = Vec::new();
            for schema in [&*table.schema(self.connection.names()), replaced.schema()] {
                let oid = shape::oid(&self.connection, schema, table.bare()).await?;
                columns.push(
                    shape::columns(
                        &self.connection,
                        oid.with_context(|| format!("{schema}.{} is missing", table.bare()))?,
                    )
                    .await?,
                );
            }
            anyhow::ensure!(
                columns[0] == columns[1],
                "{} has got other columns since it was rebuilt",
                table.name
            );
        }
        let needed = self.beginning.sequence <= replaced.position + 1;
        anyhow::ensure!(
            needed,
            "the event log has forgotten events that came after the tables were replaced"
        );
        Ok(replaced)
    }
}

/// What prevents the exchange of tables.
async fn obstacles(connection: &Connection, tables: &[&'static Table]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for table in tables {
        if let Some(oid) = shape::oid(connection, &table.schema(connection.names()), table.bare()).await? {
            let found = shape::obstacles(connection, oid).await?.into_iter();
            all.extend(found.map(|obstacle| format!("{} cannot be replaced: {obstacle}", table.name)));
        }
    }
    Ok(all)
}

/// Fails if the running hub has another version of a table of its own than this program.
async fn same_version(connection: &Connection, table: &Table) -> anyhow::Result<()> {
    let row = connection.query_opt(query::READ_PROJECTION, &[&table.bare()]).await?;
    let row = row.with_context(|| format!("no hub that makes {} has ever written the tables", table.name))?;
    let (found, own): (i32, _) = (row.try_get(0)?, table.version);
    anyhow::ensure!(
        found == own,
        "{} has rows of another version of the hub ({found}; this program makes {own}); use the program of the running hub",
        table.name
    );
    Ok(())
}

/// Finds out what a rebuild of these tables would do.
///
/// # Errors
/// If NATS or PostgreSQL is away.
pub(super) async fn plan(parts: Parts<'_>, wanted: &[&'static Table]) -> anyhow::Result<Plan> {
    let connection = parts.database.own().await?;
    let mut tables = Vec::new();
    for table in wanted {
        let oid = shape::oid(&connection, &table.schema(connection.names()), table.bare()).await?;
        let sql = "SELECT reltuples::bigint, pg_total_relation_size(oid) FROM pg_class WHERE oid = $1";
        let row = match oid {
            Some(oid) => connection.query_opt(sql, &[&oid]).await?,
            None => None,
        };
        let number = |column: usize| row.as_ref().map_or(Ok(0), |row| row.try_get::<_, i64>(column));
        tables.push(PlannedTable {
            name: table.name,
            is_missing: oid.is_none(),
            estimated_rows: number(0)?,
            bytes: number(1)?,
        });
    }
    let obstacles = obstacles(&connection, wanted).await?;
    let present: Vec<_> = wanted.to_vec();
    let start = Start::look(parts, connection, &present, Vec::new()).await?;
    Ok(Plan {
        tables,
        first_sequence: start.beginning.sequence,
        position: start.position,
        obstacles,
    })
}
