//! Makes tables from the log again, beside the live ones.
//!
//! [`rebuild`] replaces the live tables by these, and keeps the replaced ones for [`undo`]. The hub runs and writes meanwhile.
//!
//! 1. It creates a schema (`beside`) with a cursor and with tables of the same shape as the live ones (`shape`).
//! 2. It carries over rows that do not follow from the log (`carry`).
//! 3. It applies the log to the new tables (`feed`), with the code that writes the live ones ([`super::batch`]).
//! 4. One short transaction locks the live tables' position, so that no instance writes, applies the rest of the log, and exchanges the
//!    tables (`swap`).
//!
//! [`verify`] makes new tables in the same way, compares them with the live ones (`compare`), and drops them.
//!
//! After an interruption the live tables are either unchanged or completely exchanged. The next run removes the schema.
//!
//! The role must own the tables. So it is the role that migrates, not the one of the running hub.

pub(super) mod beside;
mod carry;
mod compare;
mod feed;
mod own;
mod run;
pub(super) mod seen;
mod shape;
mod start;
mod swap;
mod verify;

use std::sync::Arc;

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

/// The progress of the work.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub phase: &'static str,
    /// How much of it is done, of how much: events, or rows.
    pub done: u64,
    /// See `done`.
    pub of: u64,
}

/// Receives the progress.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The connections that the work needs.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The log.
    pub log: &'a Log,
    /// PostgreSQL, as the owner of the tables.
    pub database: &'a Database,
    /// Receives the progress.
    pub tell: Tell<'a>,
}

/// The names of the tables that can be made again.
pub fn table_names() -> impl Iterator<Item = &'static str> {
    table::all().map(|table| table.name)
}

/// The tables with these names; all if `names` is empty.
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
    /// The position of the live tables.
    pub position: u64,
    /// What prevents the exchange.
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
    /// PostgreSQL's estimate of the number of its rows; negative if there is none.
    pub estimated_rows: i64,
    /// Its size in bytes with indexes. The new table needs as much again.
    pub bytes: i64,
}

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// The tables that were exchanged, and what was carried over.
    pub tables: Vec<RebuiltTable>,
    /// First sequence of the log.
    pub first_sequence: u64,
    /// The position of the tables.
    pub position: u64,
    /// How many events were applied.
    pub events: u64,
    /// How many events the tables could not store.
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
    /// The number of its rows when the last ones were carried over.
    pub rows: i64,
    /// What was carried over.
    #[serde(flatten)]
    pub carried: Carried,
}

/// Finds out what [`rebuild`] would do, and changes nothing.
///
/// # Errors
/// If NATS or PostgreSQL is away, or this version cannot make the tables.
pub async fn plan(parts: Parts<'_>, names: &[String]) -> anyhow::Result<Plan> {
    start::plan(parts, &tables_of(names)?).await
}

/// Makes the tables in `names`, or all if it is empty, from the log, and replaces the live ones by them. Live rows that neither follow from
/// the log nor belong to the platform are left out unless `keep_extra`.
///
/// # Errors
/// [`Busy`]; if NATS or PostgreSQL is away; if a table cannot be exchanged. The live tables are unchanged then.
pub async fn rebuild(parts: Parts<'_>, names: &[String], keep_extra: bool) -> anyhow::Result<Rebuilt> {
    let wanted = tables_of(names)?;
    let start = Box::pin(Start::exchange(parts, &wanted)).await?;
    let beside = Arc::new(start.begin_beside(wanted).await?);
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

/// Brings the tables that the last rebuild replaced up to date, and exchanges them with the live ones. The rebuilt tables are kept then, so
/// a second `undo` undoes the first.
///
/// # Errors
/// The same as [`rebuild`]; also if no replaced tables are kept, or if they cannot be brought up to date.
pub async fn undo(parts: Parts<'_>) -> anyhow::Result<Rebuilt> {
    let start = Box::pin(Start::exchange(parts, &[])).await?;
    let beside = Arc::new(start.replaced().await?);
    let mut run = Box::pin(Run::new(parts, start, &beside, false)).await?;
    Box::pin(run.finish()).await
}

/// Drops the tables that the last rebuild replaced. False if there were none.
///
/// # Errors
/// [`Busy`], or if PostgreSQL is away or refuses.
pub async fn forget(database: &Database) -> anyhow::Result<bool> {
    let connection = database.own().await?;
    beside::take_turn(&connection).await?;
    beside::remove(&connection, SCHEMA).await?;
    beside::remove(&connection, beside::REPLACED).await
}

/// Removes the schema of a run that failed. If that fails, too, the next run does it.
async fn clean_up(database: &Database) {
    let removed = async {
        let connection = database.own().await?;
        beside::take_turn(&connection).await?;
        beside::remove(&connection, SCHEMA).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(error = format!("{error:#}"), "the next run removes the schema {SCHEMA}");
    }
}
