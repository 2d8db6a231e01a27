//! Makes tables from the log a second time, beside the live ones.
//!
//! [`rebuild`] puts them in the place of the live ones, and keeps those for [`undo`]. The hub runs and writes meanwhile.
//!
//! 1. A schema of its own (`beside`) gets tables of the live ones' shape (`shape`), and a cursor.
//! 2. Rows that the log cannot make again are carried over from the live tables (`carry`).
//! 3. The code that writes the live tables applies the log to them (`feed`): [`super::batch`] with other names.
//! 4. One short transaction locks the tables' position, so that no instance writes; the log is applied up to there, and the tables
//!    change places (`swap`).
//!
//! [`verify`] makes them in the same way, and compares them with the live ones (`compare`) instead.
//!
//! An interrupted run leaves the live tables as they are, or exchanged. Its schema is removed by the next run.
//!
//! The role must own the tables: it is the one that migrates, not the one of the running hub.

pub(super) mod beside;
mod carry;
mod compare;
mod feed;
mod run;
mod shape;
mod start;
mod swap;
mod verify;

use std::time::Duration;

use serde::Serialize;

pub use self::{
    beside::Busy,
    carry::Carried,
    compare::{DifferentRow, MOST_NAMED, Named, TableDifferences},
    verify::{Asked, Verified, verify},
};
use self::{beside::SCHEMA, run::Run, start::Start};
use crate::{
    database::Database,
    fault_injection::crash_at,
    journal::connection::Connection as Log,
    projection::table::{self, Table},
};

/// How long PostgreSQL may take to see that a session has ended, and the pause between two looks.
const TURN_ENDS: Duration = Duration::from_secs(5);
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// How far the work is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is done.
    pub phase: &'static str,
    /// How much of it is done, and how much it is: events, or key ranges.
    pub done: u64,
    /// See `done`.
    pub of: u64,
}

/// Takes what is said of the progress.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What the work needs.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The log.
    pub log: &'a Log,
    /// PostgreSQL, as the owner of the tables.
    pub database: &'a Database,
    /// Takes what is said of the progress.
    pub tell: Tell<'a>,
}

/// The names of the tables that can be made again.
pub fn table_names() -> impl Iterator<Item = &'static str> {
    table::all().map(|table| table.name)
}

/// The tables of these names; all where none is named.
fn tables_of(names: &[String]) -> anyhow::Result<Vec<&'static Table>> {
    for name in names {
        anyhow::ensure!(Table::of(name).is_some(), "the log makes no table {name}");
    }
    let is_wanted = |table: &&Table| names.is_empty() || names.iter().any(|name| name == table.name);
    Ok(table::all().filter(is_wanted).collect())
}

/// What a rebuild would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Tables that would be exchanged.
    pub tables: Vec<PlannedTable>,
    /// First sequence of the log.
    pub first_sequence: u64,
    /// Where the tables are.
    pub position: u64,
    /// What stands in the way.
    pub obstacles: Vec<String>,
}

/// A table of a plan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedTable {
    /// Its name.
    pub name: &'static str,
    /// It does not exist, and would be made.
    pub is_missing: bool,
    /// How many rows it has, as PostgreSQL estimates it; less than none where it does not know.
    pub estimated_rows: i64,
    /// Bytes that it takes with its indexes; as much room is needed beside it.
    pub bytes: i64,
}

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// Tables that were exchanged, and what was carried over to them.
    pub tables: Vec<RebuiltTable>,
    /// First sequence of the log.
    pub first_sequence: u64,
    /// Where the tables are.
    pub position: u64,
    /// How many events were applied.
    pub events: u64,
    /// How many events no table could take.
    pub left_out: u64,
    /// How long the tables' position was locked, in seconds.
    pub locked_seconds: f64,
    /// Foreign keys that do not hold for all rows, and why.
    pub unchecked: Vec<String>,
}

/// A table of a rebuild.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuiltTable {
    /// Its name.
    pub name: &'static str,
    /// It did not exist.
    pub was_missing: bool,
    /// Rows that it has now, or had when its last rows were carried over.
    pub rows: i64,
    /// What was carried over.
    #[serde(flatten)]
    pub carried: Carried,
}

/// Says what [`rebuild`] would do; changes nothing.
///
/// # Errors
/// Where NATS or PostgreSQL is away, or the tables are not such that this version can make them.
pub async fn plan(parts: Parts<'_>, names: &[String]) -> anyhow::Result<Plan> {
    start::plan(parts, &tables_of(names)?).await
}

/// Makes tables from the log and puts them in the place of the live ones; all where none is named. Live rows that the log does not
/// make, and that are not of the platform's own, are left behind unless `keep_extra`.
///
/// # Errors
/// [`Busy`]; where NATS or PostgreSQL is away; where something stands in the way of exchanging a table. The live tables then are as
/// they were.
pub async fn rebuild(parts: Parts<'_>, names: &[String], keep_extra: bool) -> anyhow::Result<Rebuilt> {
    let wanted = tables_of(names)?;
    let start = Box::pin(Start::exchange(parts, &wanted)).await?;
    let beside = start.begin_beside(wanted).await?;
    crash_at("rebuild_begun");
    let made = async {
        let mut run = Box::pin(Run::new(parts, start, &beside, keep_extra)).await?;
        run.make().await?;
        Box::pin(run.finish()).await
    };
    let made = Box::pin(made).await;
    if made.is_err() {
        clean_up(parts.database).await;
    }
    made
}

/// Puts the tables that the last rebuild replaced in their place again, with all that happened since then. The rebuilt ones are kept
/// instead, so that doing it twice changes nothing.
///
/// # Errors
/// As [`rebuild`]; also where no replaced tables are kept, or they cannot be brought up to date.
pub async fn undo(parts: Parts<'_>) -> anyhow::Result<Rebuilt> {
    let start = Box::pin(Start::exchange(parts, &[])).await?;
    let beside = start.replaced().await?;
    let mut run = Box::pin(Run::new(parts, start, &beside, false)).await?;
    Box::pin(run.finish()).await
}

/// Drops the tables that the last rebuild replaced; whether there were any.
///
/// # Errors
/// [`Busy`], or where PostgreSQL is away or refuses.
pub async fn forget(database: &Database) -> anyhow::Result<bool> {
    let connection = database.own().await?;
    beside::take_turn(&connection).await?;
    beside::remove(&connection, SCHEMA).await?;
    beside::remove(&connection, beside::REPLACED).await
}

/// Removes what a run that failed has made. Where that fails, the next run does it.
async fn clean_up(database: &Database) {
    let removed = async {
        let connection = database.own().await?;
        let deadline = tokio::time::Instant::now() + TURN_ENDS;
        // PostgreSQL may not have seen yet that the run's session has ended.
        while let Err(error) = beside::take_turn(&connection).await {
            anyhow::ensure!(error.is::<Busy>() && tokio::time::Instant::now() < deadline, error);
            tokio::time::sleep(TURN_PAUSE).await;
        }
        beside::remove(&connection, SCHEMA).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(error = format!("{error:#}"), "the next run removes the schema {SCHEMA}");
    }
}
