//! Compares the live tables with what follows from the log.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Parts, beside,
    carry::is_of_others,
    clean_up,
    compare::{Comparison, TableDifferences, Which},
    feed,
    run::Run,
    start::Start,
    tables_of,
};
use crate::{config::Retention, fault_injection::crash_at, projection::table::Table};

/// What is to be verified.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// These tables; all if it is empty.
    pub tables: Vec<String>,
    /// The first event that counts: only rows that began at that event or later are compared.
    pub from: Option<u64>,
    /// Only rows that began before this event are compared.
    pub to: Option<u64>,
    /// Only rows of this provider are compared.
    pub provider: Option<String>,
    /// How long the hub keeps rows: a row that it deleted is not missing.
    pub retention: Retention,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// There is no difference.
    pub is_same: bool,
    /// Each table.
    pub tables: Vec<TableDifferences>,
    /// The first event that was applied.
    pub from: u64,
    /// The position of the log at which the tables were compared.
    pub position: u64,
    /// How many events were applied.
    pub events: u64,
}

/// Makes new tables from the log and compares the live ones with them. Hubs run and write meanwhile.
///
/// # Errors
/// [`super::Busy`]; if NATS or PostgreSQL is away, or the role may not create tables.
pub async fn verify(parts: Parts<'_>, asked: &Asked) -> anyhow::Result<Verified> {
    let wanted = tables_of(&asked.tables)?;
    let start = Start::compare(parts, &wanted, asked.from).await?;
    let found = Box::pin(look(parts, start, wanted, asked)).await;
    if found.is_err() {
        clean_up(parts.database).await;
    }
    found
}

async fn look(parts: Parts<'_>, start: Start, wanted: Vec<&'static Table>, asked: &Asked) -> anyhow::Result<Verified> {
    let beside = Arc::new(start.begin_beside(wanted).await?);
    crash_at("verify_begun");
    let beginning = start.beginning;
    let mut run = Box::pin(Run::new(parts, start, &beside, false)).await?;
    run.make_to_compare(asked.provider.clone()).await?;
    crash_at("verify_made");
    let mut reading = run.another_connection().await?;
    let names = reading.names().clone();
    let (snapshot, position) = run.at_one_place(&mut reading).await?;
    let until = match asked.to {
        Some(to) => feed::time_of(parts.log, to).await?,
        None => None,
    };
    let which = Which {
        since: beginning.time,
        until,
        provider: asked.provider.as_deref(),
        retention: &asked.retention,
    };
    let (seen, events) = run.read();
    let mut tables = Vec::new();
    for table in &beside.wanted {
        let of_others = is_of_others(table, &snapshot, seen).await?;
        let comparison = Comparison::new(&snapshot, (&names, table, beside::SCHEMA), which, &of_others);
        tables.push(comparison.run(parts.tell).await?);
    }
    let verified = Verified {
        is_same: tables.iter().all(TableDifferences::is_same),
        tables,
        from: beginning.sequence,
        position,
        events,
    };
    drop(snapshot);
    run.remove_beside().await?;
    Ok(verified)
}
