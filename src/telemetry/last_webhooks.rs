//! When the last webhook of each provider came.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Seconds since 1970 by provider. Read from the log once, so that a restart is no silence; then those that this instance accepts.
#[derive(Debug, Default)]
pub struct LastWebhooks(Mutex<HashMap<Arc<str>, i64>>);

impl LastWebhooks {
    /// A webhook was accepted at this time.
    pub fn note(&self, provider: &Arc<str>, seconds: i64) {
        // No code panics while it holds this lock.
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = times.entry(Arc::clone(provider)).or_default();
        *last = seconds.max(*last);
        metrics::gauge!("webhook_last_received_timestamp_seconds", "provider" => Arc::clone(provider))
            .set(*last as f64);
    }
}
