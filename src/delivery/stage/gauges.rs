//! Gauges of what waits for a stage, and for how long, while this instance holds it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::Gauge;

use super::{attempt::TaskContext, consumer_check::ConsumerState, in_flight::InFlight};
use crate::journal::identity::watch::LogIdentity;

/// Where an event waits; label `where` of `orders_waiting`.
const QUEUED: &str = "queued";
const HELD: &str = "held";
const PARKED: &str = "parked";
/// What a stopped stage waits for: the backend, or the first read of the branches.
pub(super) const BREAKER: &str = "breaker";
/// Every place.
const PLACES: [&str; 5] = [QUEUED, BREAKER, BRANCHES, HELD, PARKED];
/// See [`super::Stage::WAITS_FOR`].
pub(crate) const BRANCHES: &str = "branches";

/// How many events wait where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    /// On the log, not handed out or on its way to this instance.
    pub(super) queued: u64,
    /// In memory: at work, behind another of the same order, or between quick attempts.
    pub(super) held: u64,
    /// In lanes.
    pub(super) parked: u64,
    /// What the stage waits for, if it is stopped.
    pub(super) stopped_by: Option<&'static str>,
}

impl Backlog {
    fn at(&self, place: &str) -> u64 {
        match (place, self.stopped_by) {
            (PARKED, _) => self.parked,
            (QUEUED, None) => self.queued,
            (HELD, None) => self.held,
            (place, Some(reason)) if place == reason => self.queued + self.held,
            _ => 0,
        }
    }
}

/// The gauges of a stage; all are 0 on an instance that does not have it.
pub(super) struct Gauges {
    stage: &'static str,
    /// Learns of the oldest event.
    identity: LogIdentity,
    pending: Gauge,
    lag: Gauge,
    waiting: [(&'static str, Gauge); PLACES.len()],
    oldest_age: Gauge,
    /// The oldest event and when it was appended; read again only when it is another one.
    oldest: Option<(u64, DateTime<Utc>)>,
}

impl Gauges {
    pub(super) fn of(stage: &'static str, identity: LogIdentity) -> Self {
        Self {
            stage,
            identity,
            pending: metrics::gauge!("stage_pending", "stage" => stage),
            lag: metrics::gauge!("stage_lag_seconds", "stage" => stage),
            waiting: PLACES.map(|place| {
                (
                    place,
                    metrics::gauge!("orders_waiting", "stage" => stage, "where" => place),
                )
            }),
            oldest_age: metrics::gauge!("oldest_waiting_seconds", "stage" => stage),
            oldest: None,
        }
    }

    /// As the last message says.
    pub(super) fn show(&self, pending: u64, age_ms: i64) {
        self.pending.set(pending as f64);
        self.lag.set(age_ms.max(0) as f64 / 1000.0);
    }

    /// The oldest event that is open or retried, where it is not known when it was appended.
    pub(super) fn oldest_unknown(&self, context: &TaskContext, in_flight: &InFlight) -> Option<u64> {
        let oldest = oldest(context, in_flight)?;
        self.oldest.is_none_or(|(known, _)| known != oldest).then_some(oldest)
    }

    /// The current backlog, by the result of a check.
    pub(super) fn note(
        &mut self,
        seen: &ConsumerState,
        context: &TaskContext,
        in_flight: &InFlight,
        stopped_by: Option<&'static str>,
    ) {
        let parked = context.lanes.as_ref().map_or(0, |lanes| lanes.parked().0);
        self.pending.set(seen.pending as f64);
        self.show_waiting(&Backlog {
            queued: seen.pending + seen.handed_out.saturating_sub(in_flight.gaps.last),
            held: in_flight.queue.events() as u64,
            parked,
            stopped_by,
        });
        let age = self.age_of(oldest(context, in_flight), seen.oldest);
        self.oldest_age.set(age.as_secs_f64());
        self.identity.waits(self.stage, self.oldest);
    }

    fn show_waiting(&self, waiting: &Backlog) {
        for (place, gauge) in &self.waiting {
            gauge.set(waiting.at(place) as f64);
        }
    }

    /// `found`: one that was open when the look began, and when it was appended.
    fn age_of(&mut self, oldest: Option<u64>, found: Option<(u64, DateTime<Utc>)>) -> Duration {
        if oldest.is_none() {
            self.oldest = None;
            return Duration::ZERO;
        }
        // If the log did not answer, the previous oldest event is the best estimate.
        self.oldest = found.or(self.oldest);
        let since = self.oldest.map(|(_, time)| Utc::now() - time);
        since.and_then(|age| age.to_std().ok()).unwrap_or_default()
    }
}

/// The oldest event that is open, or that an open one takes up again. What was not handed out is younger, but for what it may take up
/// again; with nothing open it is handed out at once.
fn oldest(context: &TaskContext, in_flight: &InFlight) -> Option<u64> {
    let oldest_parked = context.lanes.as_ref().and_then(|lanes| lanes.parked().1);
    let oldest_open = context.tenure.progress(|progress| progress.oldest_open()).flatten();
    let oldest_retried = in_flight.queue.oldest_retried();
    [oldest_open, oldest_parked, oldest_retried].into_iter().flatten().min()
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.pending.set(0.0);
        self.lag.set(0.0);
        self.oldest_age.set(0.0);
        self.show_waiting(&Backlog::default());
        self.identity.waits(self.stage, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_stages_orders_count_under_its_reason() {
        let waiting = |stopped_by| Backlog {
            queued: 5,
            held: 2,
            parked: 3,
            stopped_by,
        };
        let at = |waiting: Backlog| PLACES.map(|place| waiting.at(place));
        assert_eq!(at(waiting(None)), [5, 0, 0, 2, 3]);
        assert_eq!(at(waiting(Some(BREAKER))), [0, 7, 0, 0, 3]);
        assert_eq!(at(waiting(Some(BRANCHES))), [0, 0, 7, 0, 3]);
    }
}
