//! Whether all is well: the log, the stages, the tables, the orders, what was given up, and the breaker, as they are now.
//!
//! It reads NATS as the user `hub`, and PostgreSQL where that answers. It takes as long as leases are watched, some two seconds.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::orders::{self, Count, Filter};
use crate::{
    database::{Connection as Postgres, Database, query},
    delivery::{
        gate::shared::SUBJECT as BREAKER_SUBJECT,
        lease::{self, RENEWED_WITHIN},
        stage::Stage as _,
    },
    forward::Forward,
    journal::{EVENTS, connection::Connection, streams},
    operator::dead_letters::causes::{self, Cause},
    projection::writer::CURSOR,
    push::Push,
    transform::Transform,
};

/// Share of its room in which the log is nearly full.
pub(super) const NEARLY_FULL: f64 = 0.9;
/// How long the tables may lag behind the log: a transaction gathers events for a second at most.
pub(super) const TABLES_LAG: Duration = Duration::from_secs(60);
/// Most bytes of what an instance says of its breaker.
const MOST_SAID_BYTES: usize = 4096;

/// The whole.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Nothing needs a person.
    pub is_well: bool,
    /// What needs one, the worst first.
    pub problems: Vec<Problem>,
    /// What runs.
    pub versions: Versions,
    /// The stream `EVENTS`.
    pub log: LogStatus,
    /// What works on the log, in the order in which an order meets it.
    pub stages: Vec<StageStatus>,
    /// The backend's circuit breaker.
    pub breaker: BreakerStatus,
    /// Open dead letters by cause.
    pub dead_letters: Vec<Cause>,
    /// The tables and what they say of orders; none where PostgreSQL does not answer.
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
    /// What they take.
    pub bytes: u64,
    /// What they may take; none where that is not limited.
    pub max_bytes: Option<u64>,
    /// Place of the oldest.
    pub first_sequence: u64,
    /// Place of the newest.
    pub last_sequence: u64,
    /// How many servers keep it.
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
    /// Which instance holds its lease, or held it last.
    pub holder: Option<String>,
    /// Events on the log that it has not begun.
    pub waiting: u64,
    /// Events that it has begun.
    pub in_progress: u64,
    /// Orders that wait for a later attempt.
    pub parked: Option<u64>,
}

/// The breaker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// `closed`, `open` or `half_open`. An instance says at least once a second when it is not closed.
    pub state: String,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// How long it stays open, in milliseconds.
    #[serde(default)]
    pub remaining_ms: u64,
}

/// What PostgreSQL has.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Up to which place of the log the tables are made; none where no instance has ever written them.
    pub position: Option<i64>,
    /// Events on the log that have no rows yet.
    pub lag_events: u64,
    /// When the tables were last written.
    pub written_at: Option<DateTime<Utc>>,
    /// An instance writes them.
    pub is_written: bool,
    /// Events that have no rows, as no version could read or store them.
    pub skipped: i64,
    /// `hub.orders` is still being made of the log.
    pub orders_are_incomplete: bool,
    /// Orders that have not arrived.
    pub undelivered: Count,
    /// Since when the oldest of them has not.
    pub oldest_undelivered_since: Option<DateTime<Utc>>,
}

/// Looks at everything.
///
/// # Errors
/// Where NATS does not answer, or has no such streams.
pub async fn look(connection: &Connection, database: anyhow::Result<Database>) -> anyhow::Result<Status> {
    let (log, stages, breaker, dead_letters) = tokio::try_join!(
        log(connection),
        stages(connection),
        breaker(connection),
        causes::open_by_cause(connection),
    )?;
    let read = async { of_database(&database?.connect().await?, &log).await };
    let (database, postgresql, trouble) = match read.await {
        Ok((database, version)) => (Some(database), version, None),
        Err(error) => (None, None, Some(format!("{error:#}"))),
    };
    let mut status = Status {
        is_well: true,
        problems: Vec::new(),
        versions: Versions {
            webhook_hub: env!("CARGO_PKG_VERSION"),
            nats: connection.client.server_info().version,
            postgresql,
        },
        log,
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
        // The server says -1 where there is no limit.
        max_bytes: u64::try_from(info.config.max_bytes).ok(),
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
        replicas: info.config.num_replicas,
    })
}

async fn stages(connection: &Connection) -> anyhow::Result<Vec<StageStatus>> {
    let (transform, forward, push) = tokio::try_join!(
        stage(connection, Transform::NAME),
        stage(connection, Forward::NAME),
        stage(connection, Push::NAME),
    )?;
    Ok(vec![transform, forward, push])
}

/// No clock is compared with another's: an instance is at work where the lease changes while it is watched.
async fn stage(connection: &Connection, name: &'static str) -> anyhow::Result<StageStatus> {
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

/// Listens for what the instance that forwards says of the breaker; closed where none says otherwise.
async fn breaker(connection: &Connection) -> anyhow::Result<BreakerStatus> {
    let mut said = connection.client.subscribe(BREAKER_SUBJECT).await?;
    let closed = BreakerStatus {
        state: "closed".into(),
        reason: None,
        remaining_ms: 0,
    };
    let heard = tokio::time::timeout(RENEWED_WITHIN, async {
        while let Some(message) = said.next().await {
            if message.payload.len() <= MOST_SAID_BYTES
                && let Ok(heard) = serde_json::from_slice::<BreakerStatus>(&message.payload)
            {
                return heard;
            }
        }
        std::future::pending().await
    });
    Ok(heard.await.unwrap_or(closed))
}

async fn of_database(connection: &Postgres, log: &LogStatus) -> anyhow::Result<(DatabaseStatus, Option<String>)> {
    let tables = connection.query_opt(query::TABLES_STATUS, &[&CURSOR]).await?;
    let filter = Filter {
        undelivered: true,
        ..Filter::default()
    };
    let page = orders::list(connection, &filter, None, 1).await?;
    let mut status = DatabaseStatus {
        position: None,
        lag_events: log.events,
        written_at: None,
        is_written: false,
        skipped: 0,
        orders_are_incomplete: page.is_incomplete,
        undelivered: page.count,
        oldest_undelivered_since: page.orders.first().and_then(|order| order.undelivered_since),
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
