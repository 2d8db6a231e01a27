//! What webhooks of the log would become by the current code and the current files of providers. Nothing is sent or written.
//!
//! The stages that ask others have no part in it: a [`Reading`](crate::transform::reading::Reading) is all that is called, and that has
//! no client. What the transformation looks up comes from the log: the branch from the outcome that the log holds, a fetched document
//! from `order.fetched`, and each time from the event.

mod in_order;
mod judge;
mod outcomes;
mod range;
mod readings;
mod scan;
mod survey;
mod tally;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::task::JoinSet;

use self::scan::Scan;
pub(in crate::operator) use self::{
    in_order::{BodyEnd, InOrder},
    judge::{Logged, Now, Pair, now},
    range::Range,
    survey::{EventEnd, Surveyed, survey},
};
pub use self::{
    range::{Asked, Place},
    readings::Readings,
    tally::{AffectedEvent, Example, OutcomeGroup, PlaceGroup},
};
use crate::{
    journal::connection::Connection,
    projection::rebuild::{Progress, Tell},
};

/// How often the progress is reported.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What a replay found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Nothing would come out differently.
    pub is_same: bool,
    /// The first sequence of the range, and the last.
    pub first_sequence: u64,
    /// See `first_sequence`.
    pub last_sequence: u64,
    /// Events that were compared: webhooks and fetched orders with an outcome.
    pub compared: u64,
    /// How many of them would come out differently.
    pub different: u64,
    /// Places with other values, those with the most events first.
    pub places: Vec<PlaceGroup>,
    /// Outcomes of another kind, those with the most events first.
    pub outcomes: Vec<OutcomeGroup>,
    /// The first events that would come out differently, in the log's order.
    pub first: Vec<AffectedEvent>,
    /// Differences at more places than are grouped.
    pub ungrouped: u64,
    /// Events without an outcome on the log.
    pub waiting: u64,
    /// Events that ended for a reason that no transformation decides.
    pub not_compared: u64,
    /// Messages of the range that are no events, or events of a later version.
    pub unreadable: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Replays a range of the log, and names up to `limit` of the events that would come out differently. Each connection serves one
/// worker.
///
/// # Errors
/// If NATS does not answer, or the settings of a provider are incomplete.
pub async fn diff(
    logs: &[Connection],
    readings: Readings,
    asked: Asked,
    limit: usize,
    tell: Tell<'_>,
) -> anyhow::Result<Replayed> {
    let began = Instant::now();
    let log = logs.first().context("a replay needs a connection")?;
    let range = Range::of(log, asked).await?;
    let scan = Arc::new(Scan::of(log, range, readings, limit).await?);
    let (first_sequence, last_sequence) = (scan.range.first, scan.range.last);
    run(&scan, logs, scan.range.last, "replaying the log", tell).await?;
    run(&scan, logs, scan.range.end.sequence, "looking for later outcomes", tell).await?;
    scan.judge_retried(log).await?;
    let waiting = scan.open();
    let mut tally = scan.tally();
    let (places, outcomes) = tally.groups();
    Ok(Replayed {
        is_same: tally.different == 0,
        first_sequence,
        last_sequence,
        compared: tally.compared,
        different: tally.different,
        places,
        outcomes,
        first: tally.named(),
        ungrouped: tally.ungrouped,
        waiting,
        not_compared: tally.not_compared,
        unreadable: tally.unreadable,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Reads up to a sequence, with all connections.
async fn run(
    scan: &Arc<Scan>,
    logs: &[Connection],
    last: u64,
    phase: &'static str,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    let begun = scan.done.load(Ordering::Relaxed);
    let first = scan.range.first + begun;
    let mut workers: JoinSet<_> = logs
        .iter()
        .map(|log| Arc::clone(scan).work(log.clone(), last))
        .collect();
    let mut tick = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended.context("a replay broke off")??,
                None => return Ok(()),
            },
            _ = tick.tick() => tell(Progress {
                phase,
                done: scan.done.load(Ordering::Relaxed) - begun,
                of: (last + 1).saturating_sub(first),
            }),
        }
    }
}
