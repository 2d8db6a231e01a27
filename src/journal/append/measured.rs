//! The writer's metrics. Their handles are kept: a look-up in the registry costs more than the count.

use std::{array, time::Duration};

use metrics::{Counter, Histogram};

use crate::event::EventType;

/// Handles of the metrics of the writer.
pub(super) struct AppendMetrics {
    round_size: Histogram,
    round_duration: Histogram,
    /// By the place of the type in [`EventType::ALL`].
    appended: [Counter; EventType::ALL.len()],
}

impl Default for AppendMetrics {
    fn default() -> Self {
        Self {
            round_size: metrics::histogram!("append_round_size"),
            round_duration: metrics::histogram!("append_round_duration_seconds"),
            appended: array::from_fn(
                |place| metrics::counter!("events_appended_total", "type" => EventType::ALL[place].as_str()),
            ),
        }
    }
}

impl AppendMetrics {
    /// A round of so many messages was answered, or given up, after this time.
    pub(super) fn round(&self, messages: usize, took: Duration) {
        self.round_size.record(messages as f64);
        self.round_duration.record(took);
    }

    /// An event is on the log.
    pub(super) fn appended(&self, event_type: EventType) {
        self.appended[event_type.place()].increment(1);
    }
}
