//! The current status: the log, the stages, the tables, the orders, the dead letters and the breaker.
//!
//! It reads NATS as the user `hub`, and PostgreSQL if that answers. It watches the leases, which takes some two seconds.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, future::try_join_all};
use serde::Serialize;

use super::orders::{self, OrderCounts, OrderFilter};
use crate::{
    database::{Connection as Postgres, Database, query},
    dead_letters::causes::Cause,
    delivery::{
        breaker::BreakerReport,
        gate::shared::{SUBJECT as BREAKER_SUBJECT, report_in},
        lease::{self, RENEWED_WITHIN},
    },
    event::stage,
    journal::{EVENTS, connection::Connection, streams},
    observer::announce::{InstanceReport, SUBJECT as INSTANCES},
    operator::dead_letters::causes,
    projection::writer::CURSOR,
};

/// Share of `max_bytes` from which the log counts as nearly full.
pub(super) const NEARLY_FULL: f64 = 0.9;
/// How long the tables may lag behind the log. A transaction gathers events for a second at most.
pub(super) const TABLES_LAG: Duration = Duration::from_secs(60);
/// Largest announcement of an instance, in bytes; it has some thirty for each provider.
const MOST_ANNOUNCED_BYTES: usize = 16 * 1024;
/// Most instances that are listed.
const MOST_INSTANCES: usize = 256;
/// How long an order that was announced again in another way needs a person, in seconds.
const DIFFERS_FOR_SECONDS: f64 = 86_400.0;

/// The whole status.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HubStatus {
    /// Nothing needs a person.
    pub is_well: bool,
    /// What needs a person, the worst first.
    pub problems: Vec<Problem>,
    /// Versions of the programs.
    pub versions: Versions,
    /// The stream `EVENTS`.
    pub log: LogStatus,
    /// The instances that announced themselves while this command listened, by name.
    pub instances: Vec<InstanceReport>,
    /// Webhooks that they accepted in the last minute, by provider.
    pub accepted_per_minute: BTreeMap<String, u64>,
    /// The stages, in the sequence in which an order passes them.
    pub stages: Vec<StageStatus>,
    /// The backend's circuit breaker.
    pub breaker: BreakerStatus,
    /// Open dead letters by cause.
    pub dead_letters: Vec<Cause>,
    /// The tables, and orders in them; none if PostgreSQL does not answer.
    pub database: Option<DatabaseStatus>,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// For machines: `stage_inactive` …
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Versions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// Of this program.
    pub webhook_hub: &'static str,
    /// Of the NATS server that answered.
    pub nats: String,
    /// Of PostgreSQL.
    pub postgresql: Option<String>,
}

/// The log.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogStatus {
    /// Events on it.
    pub events: u64,
    /// Their size.
    pub bytes: u64,
    /// The limit of their size; none if there is no limit.
    pub max_bytes: Option<u64>,
    /// Sequence of the oldest event.
    pub first_sequence: u64,
    /// Sequence of the newest event.
    pub last_sequence: u64,
    /// Number of servers that store it.
    pub replicas: usize,
}

/// A stage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Its name.
    pub name: &'static str,
    /// An instance works on it: its lease was renewed while this command watched.
    pub is_active: bool,
    /// The instance that holds its lease, or held it last.
    pub holder: Option<String>,
    /// Events on the log that it has not begun.
    pub waiting: u64,
    /// Events that it has begun.
    pub in_progress: u64,
    /// Orders that wait for a later attempt.
    pub parked: Option<u64>,
}

/// The breaker.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// `closed`, `open` or `half_open`. An instance reports at least once a second that it is not closed.
    pub state: String,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// How long it stays open, in milliseconds.
    pub remaining_ms: u64,
    /// Branches that the backend fails for, those that most events wait for first.
    pub failing_branches: Vec<FailingBranchStatus>,
    /// How many there are in all; the list has 16 at most.
    pub failing_branches_in_all: usize,
}

/// A branch that the backend fails for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingBranchStatus {
    /// Its id.
    pub branch: String,
    /// Since when, by the clock of this command.
    pub since: DateTime<Utc>,
    /// How many of its events wait, in memory and parked: orders, and news about them.
    pub waiting: u64,
    /// The code of the last failure; none if the instance is of an earlier version.
    pub code: Option<String>,
    /// How long its events wait until the next are tried, in milliseconds.
    pub remaining_ms: u64,
}

impl BreakerStatus {
    fn of(report: BreakerReport, now: DateTime<Utc>) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let failing = report.failing.into_iter().map(|failing| FailingBranchStatus {
            branch: failing.branch.to_string(),
            since: TimeDelta::from_std(failing.since).map_or(now, |ago| now - ago),
            waiting: failing.waiting,
            code: failing.code.map(|code| code.to_string()),
            remaining_ms: millis(failing.remaining),
        });
        let failing: Vec<_> = failing.collect();
        Self {
            state: report.state.as_str().to_owned(),
            reason: report.reason,
            remaining_ms: millis(report.remaining),
            failing_branches_in_all: report.failing_in_all.max(failing.len()),
            failing_branches: failing,
        }
    }
}

/// The state of the tables.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The sequence up to which the tables are written; none if no instance has ever written them.
    pub position: Option<i64>,
    /// Events on the log that have no rows yet.
    pub lag_events: u64,
    /// When the tables were last written.
    pub written_at: Option<DateTime<Utc>>,
    /// Whether an instance writes them.
    pub is_written: bool,
    /// Events without rows, because no version could read or store them.
    pub skipped: i64,
    /// Whether `hub.orders` is still being filled from the log.
    pub orders_are_incomplete: bool,
    /// Orders that have not arrived.
    pub undelivered: OrderCounts,
    /// When the oldest of them was accepted.
    pub oldest_undelivered_since: Option<DateTime<Utc>>,
    /// Orders of the last day that were announced again in another way; the backend has the first announcement.
    pub announced_differently: u64,
}

/// Collects the status.
///
/// # Errors
/// If NATS does not answer, or lacks the streams.
pub async fn look(connection: &Connection, database: anyhow::Result<Database>) -> anyhow::Result<HubStatus> {
    let (log, stages, breaker, instances, dead_letters) = tokio::try_join!(
        log(connection),
        stages(connection),
        breaker(connection),
        instances(connection),
        causes::open_by_cause(connection),
    )?;
    let read = async { of_database(&database?.connect().await?, &log).await };
    let (database, postgresql, trouble) = match read.await {
        Ok((database, version)) => (Some(database), version, None),
        Err(error) => (None, None, Some(format!("{error:#}"))),
    };
    let mut status = HubStatus {
        is_well: true,
        problems: Vec::new(),
        versions: Versions {
            webhook_hub: env!("CARGO_PKG_VERSION"),
            nats: connection.client.server_info().version,
            postgresql,
        },
        log,
        accepted_per_minute: accepted_per_minute(&instances),
        instances,
        stages,
        breaker,
        dead_letters,
        database,
    };
    status.problems = super::problems::of(&status, trouble, Utc::now());
    status.is_well = status.problems.is_empty();
    Ok(status)
}

async fn log(connection: &Connection) -> anyhow::Result<LogStatus> {
    let stream = connection.context.get_stream(EVENTS).await;
    let stream = stream.context("cannot look up the stream EVENTS")?;
    let info = stream.cached_info();
    Ok(LogStatus {
        events: info.state.messages,
        bytes: info.state.bytes,
        // -1 means no limit.
        max_bytes: u64::try_from(info.config.max_bytes).ok(),
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
        replicas: info.config.num_replicas,
    })
}

async fn stages(connection: &Connection) -> anyhow::Result<Vec<StageStatus>> {
    try_join_all(stage::NAMES.map(|name| one(connection, name))).await
}

/// Compares no clocks: an instance is active if its lease changes while this command watches.
async fn one(connection: &Connection, name: &'static str) -> anyhow::Result<StageStatus> {
    let before = lease::state(connection, name).await?;
    tokio::time::sleep(RENEWED_WITHIN).await;
    let after = lease::state(connection, name).await?;
    let consumer = streams::consumer(connection, EVENTS, name).await?;
    let info = consumer.cached_info();
    let is_renewed = after.sequence != before.sequence;
    Ok(StageStatus {
        name,
        is_active: is_renewed && after.holder.is_some() && !after.is_handed_over,
        holder: after.holder,
        waiting: info.num_pending,
        in_progress: u64::try_from(info.num_ack_pending).unwrap_or_default(),
        parked: after.parked,
    })
}

/// Listens for reports of the breaker from the forwarding instance; without a report it is closed.
async fn breaker(connection: &Connection) -> anyhow::Result<BreakerStatus> {
    let mut reports = connection.client.subscribe(BREAKER_SUBJECT).await?;
    let report = tokio::time::timeout(RENEWED_WITHIN, async {
        while let Some(message) = reports.next().await {
            if let Some(report) = report_in(&message.payload) {
                return report;
            }
        }
        std::future::pending().await
    });
    let report = report.await.unwrap_or_else(|_| BreakerReport::closed());
    Ok(BreakerStatus::of(report, Utc::now()))
}

/// Listens for the announcements of instances.
async fn instances(connection: &Connection) -> anyhow::Result<Vec<InstanceReport>> {
    let mut announcements = connection.client.subscribe(INSTANCES).await?;
    let mut all = BTreeMap::new();
    let listening = async {
        while let Some(message) = announcements.next().await {
            if message.payload.len() <= MOST_ANNOUNCED_BYTES
                && let Ok(report) = serde_json::from_slice::<InstanceReport>(&message.payload)
                && (all.len() < MOST_INSTANCES || all.contains_key(&report.instance))
            {
                all.insert(report.instance.clone(), report);
            }
        }
    };
    // The time is over, or the connection: what was heard until then is shown.
    let _ = tokio::time::timeout(RENEWED_WITHIN, listening).await;
    Ok(all.into_values().collect())
}

fn accepted_per_minute(instances: &[InstanceReport]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (provider, count) in instances.iter().flat_map(|one| &one.accepted_per_minute) {
        *all.entry(provider.clone()).or_default() += count;
    }
    all
}

async fn of_database(connection: &Postgres, log: &LogStatus) -> anyhow::Result<(DatabaseStatus, Option<String>)> {
    let tables = connection.query_opt(query::TABLES_STATUS, &[&CURSOR]).await?;
    let filter = OrderFilter {
        undelivered: true,
        ..OrderFilter::default()
    };
    let page = orders::list(connection, &filter, None, 1).await?;
    let differ = connection
        .query_one(query::ANNOUNCED_DIFFERENTLY, &[&DIFFERS_FOR_SECONDS])
        .await?;
    let differ: i64 = differ.try_get("count")?;
    let mut status = DatabaseStatus {
        position: None,
        lag_events: log.events,
        written_at: None,
        is_written: false,
        skipped: 0,
        orders_are_incomplete: page.is_incomplete,
        undelivered: page.count,
        oldest_undelivered_since: page.orders.first().and_then(|order| order.undelivered_since),
        announced_differently: u64::try_from(differ).unwrap_or_default(),
    };
    let Some(row) = tables else { return Ok((status, None)) };
    let position: i64 = row.try_get("position")?;
    status.position = Some(position);
    let made = u64::try_from(position)
        .unwrap_or_default()
        .max(log.first_sequence.saturating_sub(1));
    status.lag_events = log.last_sequence.saturating_sub(made);
    status.written_at = row.try_get("moved_at")?;
    status.is_written = row.try_get("is_written")?;
    status.skipped = row.try_get("skipped")?;
    Ok((status, row.try_get("server_version")?))
}
