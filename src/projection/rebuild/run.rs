//! One run: it creates the new tables, fills them, and exchanges them.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use tokio_postgres::types::{Oid, ToSql};

use super::{
    Parts, Progress, Rebuilt, RebuiltTable,
    beside::{self, Beside},
    carry::Carrier,
    feed::Feeder,
    shape::{self, Copied, Kept},
    start::Start,
    swap,
};
use crate::{
    database::{Connection, Error, Transaction, names::Names, query},
    fault_injection::{crash_at, time},
    projection::{providers::Providers, table::Table, writer},
};

/// Time limit of a statement about a whole table, such as copying it or creating an index.
pub(super) const STATEMENT: Duration = Duration::from_secs(3 * 3600);
/// The tables' position is locked when at most this many events are left, which take some hundred milliseconds.
const NEAR: u64 = 1000;
/// How many tables are indexed at a time; each has a connection of its own.
const INDEXED_AT_A_TIME: usize = 2;
/// How long the exchange is attempted while others use the tables.
const SWAP_PATIENCE: Duration = Duration::from_secs(120);
/// Begins a snapshot: the transaction sees all tables as of this statement.
const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM hub.cursors LIMIT 1";
/// Pause between two attempts.
const SWAP_PAUSE: Duration = Duration::from_millis(500);

/// A run that has begun.
pub(super) struct Run<'a> {
    parts: Parts<'a>,
    start: Start,
    beside: &'a Arc<Beside>,
    carriers: Vec<Carrier>,
    /// The shapes of the live tables at the beginning.
    shapes: Vec<(&'static Table, String)>,
    feeder: Feeder<'a>,
    /// How many rows of each table are older than the log; empty if none were copied.
    older: Vec<u64>,
    /// The new tables have no statistics yet.
    is_unanalysed: bool,
}

impl<'a> Run<'a> {
    /// Prepares a run; creates nothing.
    ///
    /// # Errors
    /// If PostgreSQL is away.
    pub(super) async fn new(
        parts: Parts<'a>,
        start: Start,
        beside: &'a Arc<Beside>,
        keep_extra: bool,
    ) -> anyhow::Result<Self> {
        let (mut carriers, mut shapes) = (Vec::new(), Vec::new());
        for table in &beside.tables {
            let oid = live(&start.connection, table).await?;
            shapes.push((*table, shape::fingerprint(&start.connection, oid).await?));
            carriers.push(
                Carrier::new(
                    &start.connection,
                    (*table, oid),
                    beside.schema(),
                    start.beginning,
                    keep_extra,
                )
                .await?,
            );
        }
        let feeding = feeding(parts, &start, beside).await?;
        let providers = Providers::load(&start.connection, &[]).await?;
        Ok(Self {
            parts,
            beside,
            carriers,
            shapes,
            feeder: Feeder::new(parts.log, feeding, Arc::clone(beside), providers),
            start,
            older: Vec::new(),
            is_unanalysed: false,
        })
    }

    /// Makes new tables for a comparison, up to about the live ones' position.
    ///
    /// # Errors
    /// If NATS or PostgreSQL is away or refuses.
    pub(super) async fn make_to_compare(&mut self, provider: Option<String>) -> anyhow::Result<()> {
        self.feeder.provider = provider;
        for table in &self.beside.tables {
            self.copied(table).await?.make(Kept::ForNow).await?;
        }
        let mut copied = 0;
        for carrier in &self.carriers {
            copied += carrier.begin_context(&self.start.connection).await?;
        }
        if copied == 0 {
            self.beside.seen().begin();
        }
        self.feed_in_groups().await?;
        for table in &self.beside.tables {
            let analyse = format!("ANALYZE {}", table.within(self.beside.schema()));
            self.start.connection.batch_execute(&analyse).await?;
        }
        Ok(())
    }

    /// Begins a transaction on another connection that sees the live and the new tables at one position of the log, and returns that
    /// position. The live tables' position is locked until the transaction has begun.
    ///
    /// # Errors
    /// If NATS or PostgreSQL is away.
    pub(super) async fn at_one_place<'b>(
        &mut self,
        reading: &'b mut Connection,
    ) -> anyhow::Result<(Transaction<'b>, u64)> {
        // From here on, rows are carried over as well.
        self.beside.seen().end();
        loop {
            self.feed().await?;
            let Self {
                parts,
                start,
                carriers,
                feeder,
                ..
            } = self;
            let transaction = start.connection.transaction().await?;
            let (position, kept) = writer::lock_from_outside(&transaction).await?;
            anyhow::ensure!(
                kept.era() == start.era,
                "the event log has become another one meanwhile"
            );
            if position.saturating_sub(feeder.position) > NEAR {
                continue;
            }
            feeder.up_to(position, parts.tell).await?;
            let apart = feeder.connection.transaction().await?;
            for carrier in carriers.iter() {
                carrier.tell_apart(&apart).await?;
            }
            apart.commit().await?;
            let snapshot = reading.transaction().await?;
            snapshot.batch_execute(SNAPSHOT).await?;
            return Ok((snapshot, position));
        }
    }

    /// The providers of the events that were read, and the number of events that were applied.
    pub(super) const fn read(&self) -> (&BTreeSet<String>, u64) {
        (&self.feeder.seen, self.feeder.events)
    }

    /// Another connection for statements about whole tables.
    ///
    /// # Errors
    /// If PostgreSQL is away.
    pub(super) async fn another_connection(&self) -> anyhow::Result<Connection> {
        Ok(self.parts.database.own().await?.for_whole_tables(STATEMENT).await?)
    }

    /// Removes the new tables. No transaction may read them any more.
    ///
    /// # Errors
    /// If PostgreSQL is away or refuses.
    pub(super) async fn remove_beside(&self) -> anyhow::Result<bool> {
        beside::remove(&self.start.connection, self.beside.schema()).await
    }

    /// Makes the new tables from the log's beginning up to about the live ones' position.
    ///
    /// # Errors
    /// If NATS or PostgreSQL is away or refuses.
    pub(super) async fn make(&mut self) -> anyhow::Result<()> {
        let connection = &self.start.connection;
        for table in &self.beside.tables {
            self.copied(table).await?.make(Kept::ForGood).await?;
        }
        crash_at("rebuild_made");
        for carrier in &self.carriers {
            self.older.push(carrier.begin(connection).await?);
        }
        crash_at("rebuild_carried_older");
        if self.older.iter().all(|copied| *copied == 0) {
            self.beside.seen().begin();
        }
        self.feed_in_groups().await?;
        crash_at("rebuild_fed");
        self.index().await?;
        self.is_unanalysed = true;
        for table in &self.beside.wanted {
            self.copied(table).await?.dress().await?;
        }
        crash_at("rebuild_indexed");
        Ok(())
    }

    /// Creates the indexes for readers, those of several tables at a time.
    async fn index(&self) -> anyhow::Result<()> {
        let of = self.beside.wanted.len() as u64;
        // The table with most indexes is the last one.
        let indexed = stream::iter(self.beside.wanted.iter().rev().copied()).map(|table| async move {
            let connection = self.another_connection().await?;
            self.copied_by(&connection, table).await?.index_for_readers().await
        });
        let mut indexed = pin!(indexed.buffer_unordered(INDEXED_AT_A_TIME));
        for done in 0..=of {
            (self.parts.tell)(Progress {
                phase: "indexing",
                done,
                of,
            });
            indexed.next().await.transpose()?;
        }
        Ok(())
    }

    async fn copied(&self, table: &'static Table) -> anyhow::Result<Copied<'_>> {
        self.copied_by(&self.start.connection, table).await
    }

    async fn copied_by<'c>(&'c self, connection: &'c Connection, table: &'static Table) -> anyhow::Result<Copied<'c>> {
        Ok(Copied {
            connection,
            table,
            oid: live(connection, table).await?,
            schema: self.beside.schema(),
        })
    }

    /// Applies the log until few events are left, to the hub's own tables by a task and a connection of their own.
    async fn feed_in_groups(&mut self) -> anyhow::Result<()> {
        if !self.beside.has_groups() {
            return self.feed().await;
        }
        self.beside.part(&self.start.connection).await?;
        self.feeder.part(feeding(self.parts, &self.start, self.beside).await?);
        self.feed().await?;
        self.feeder.join().await?;
        self.beside.join(&self.start.connection).await
    }

    /// Applies the log until few events are left.
    async fn feed(&mut self) -> anyhow::Result<()> {
        loop {
            let position = writer::position(&self.start.connection).await?.unwrap_or_default();
            if position.saturating_sub(self.feeder.position) <= NEAR {
                return Ok(());
            }
            self.feeder.up_to(position, self.parts.tell).await?;
        }
    }

    /// Exchanges the tables.
    ///
    /// # Errors
    /// If NATS or PostgreSQL is away or refuses, the tables changed meanwhile, or others use them for too long.
    pub(super) async fn finish(&mut self) -> anyhow::Result<Rebuilt> {
        let mut carrying = self.another_connection().await?;
        // Both tables must be at one position; otherwise rows that do not follow from the log cannot be recognised.
        let (transaction, _) = self.at_one_place(&mut carrying).await?;
        // Rows that are written from now on are carried over in the transaction that exchanges the tables.
        let sql = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::text";
        let since = transaction.query(sql, &[]).await?;
        let since: String = since.first().context("PostgreSQL names no snapshot")?.try_get(0)?;
        let mut clearing = self.another_connection().await?;
        let (tables, (), _) = futures_util::try_join!(
            self.carry(&transaction),
            self.analyse(),
            // Without it the exchange waits longer, or tries again.
            async { Ok(swap::end_maintenance(&mut clearing, self.beside).await.ok()) }
        )?;
        transaction.commit().await?;
        crash_at("rebuild_carried");
        let locked_seconds = self.exchange(&since).await?;
        crash_at("rebuild_exchanged");
        let unchecked = swap::check_foreign_keys(&self.start.connection).await?;
        crash_at("rebuild_checked");
        Ok(Rebuilt {
            tables,
            first_sequence: self.start.beginning.sequence,
            position: self.feeder.position,
            events: self.feeder.events,
            left_out: self.beside.left_out(),
            locked_seconds,
            unchecked,
        })
    }

    /// Carries rows over to the new tables.
    async fn carry(&self, transaction: &Transaction<'_>) -> anyhow::Result<Vec<RebuiltTable>> {
        let mut tables = Vec::new();
        for (at, carrier) in self.carriers.iter().enumerate() {
            if !self.beside.is_wanted(carrier.table) {
                continue;
            }
            let (mut carried, rows) = carrier.carry(transaction, None, &self.feeder.seen).await?;
            carried.older = carried.older.max(self.older.get(at).copied().unwrap_or_default());
            tables.push(RebuiltTable {
                name: carrier.table.name,
                was_missing: self.start.missing.contains(&carrier.table.name),
                rows,
                carried,
            });
        }
        Ok(tables)
    }

    /// Has PostgreSQL make the statistics of the new tables, where it has not.
    async fn analyse(&self) -> anyhow::Result<()> {
        if self.is_unanalysed {
            let connection = self.another_connection().await?;
            for table in &self.beside.wanted {
                self.copied_by(&connection, table).await?.analyse().await?;
            }
        }
        Ok(())
    }

    /// Exchanges the tables, with several attempts while others use them. Returns for how many seconds the position was locked.
    async fn exchange(&mut self, since: &str) -> anyhow::Result<f64> {
        let began = Instant::now();
        loop {
            self.feed().await?;
            match Box::pin(self.try_to_exchange(since)).await {
                Ok(Some(locked)) => return Ok(locked.as_secs_f64()),
                Ok(None) => {}
                Err(error) if is_in_use(&error) && began.elapsed() < time("rebuild_swap", SWAP_PATIENCE) => {
                    tokio::time::sleep(SWAP_PAUSE).await;
                }
                Err(error) if is_in_use(&error) => {
                    return Err(error.context("others use the tables all the time, so they could not be exchanged"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// For how long the position was locked; none if the hub has written too much meanwhile.
    async fn try_to_exchange(&mut self, since: &str) -> anyhow::Result<Option<Duration>> {
        let Self {
            parts,
            start,
            beside,
            carriers,
            shapes,
            feeder,
            ..
        } = self;
        let names = start.connection.names().clone();
        let transaction = start.connection.transaction().await?;
        swap::keep_maintenance_away(&transaction, &names, beside).await?;
        let locked = Instant::now();
        let (position, kept) = writer::lock_from_outside(&transaction).await?;
        anyhow::ensure!(
            kept.era() == start.era,
            "the event log has become another one meanwhile"
        );
        if position.saturating_sub(feeder.position) > NEAR {
            return Ok(None);
        }
        feeder.up_to(position, parts.tell).await?;
        for (table, before) in shapes.iter() {
            let now = transaction
                .query(shape::SHAPE, &[&live_in(&transaction, table, &names).await?])
                .await?;
            let now: String = now.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
            anyhow::ensure!(
                *before == now,
                "{} was changed meanwhile (a column, a constraint or an index); run this again",
                table.name
            );
        }
        for carrier in carriers.iter().filter(|carrier| beside.is_wanted(carrier.table)) {
            carrier.carry(&transaction, Some(since), &feeder.seen).await?;
        }
        swap::exchange(&transaction, &names, beside, &beside.wanted).await?;
        for table in beside.wanted.iter().filter(|table| table.is_own()) {
            let (version, position) = (table.version, i64::try_from(position)?);
            let parameters: [&(dyn ToSql + Sync); 4] = [&table.bare(), &version, &start.era, &position];
            transaction.execute(query::REPLACE_PROJECTION, &parameters).await?;
        }
        swap::keep_replaced(&transaction).await?;
        transaction.commit().await?;
        Ok(Some(locked.elapsed()))
    }
}

/// A connection that writes the new tables.
async fn feeding(parts: Parts<'_>, start: &Start, beside: &Beside) -> anyhow::Result<Connection> {
    let names = start.connection.names().beside(beside.schema());
    let connection = parts.database.own().await?.with_names(names);
    connection.batch_execute("SET synchronous_commit = off").await?;
    Ok(connection)
}

/// The `oid` of a live table.
async fn live(connection: &Connection, table: &Table) -> anyhow::Result<Oid> {
    let found = shape::oid(connection, &table.schema(connection.names()), table.bare()).await?;
    found.with_context(|| format!("{} is missing", table.name))
}

/// The same, within a transaction.
async fn live_in(transaction: &Transaction<'_>, table: &Table, names: &Names) -> anyhow::Result<Oid> {
    let rows = transaction
        .query(shape::FIND, &[&table.schema(names), &table.bare()])
        .await?;
    let row = rows.first().with_context(|| format!("{} is missing", table.name))?;
    Ok(row.try_get(0)?)
}

/// Whether another session's lock was the reason.
fn is_in_use(error: &anyhow::Error) -> bool {
    // Lock timeout, deadlock.
    let code = error.downcast_ref::<Error>().and_then(Error::code);
    matches!(code, Some("55P03" | "40P01"))
}
