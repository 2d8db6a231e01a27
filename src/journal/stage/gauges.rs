//! What waits for a stage, for as long as this instance has it.

use metrics::Gauge;

/// `stage_pending` and `stage_lag_seconds` of a stage; both are 0 on an instance that does not have it.
pub(super) struct Gauges {
    pending: Gauge,
    lag: Gauge,
}

impl Gauges {
    pub(super) fn of(stage: &'static str) -> Self {
        Self {
            pending: metrics::gauge!("stage_pending", "stage" => stage),
            lag: metrics::gauge!("stage_lag_seconds", "stage" => stage),
        }
    }

    /// As the last message says.
    pub(super) fn show(&self, pending: u64, age_ms: i64) {
        self.pending.set(pending as f64);
        self.lag.set(age_ms.max(0) as f64 / 1000.0);
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.pending.set(0.0);
        self.lag.set(0.0);
    }
}
