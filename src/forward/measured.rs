//! Metrics of requests to the backend and of forwarded orders. Their handles are kept.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Histogram};

use crate::telemetry::metrics::kept::HandleCache;

/// Handles of the metrics of the stage.
pub(super) struct ForwardMetrics {
    request_duration: Histogram,
    requests: HandleCache<&'static str, Counter>,
    providers: HandleCache<Arc<str>, ForwardProviderMetrics>,
}

/// Those of one provider.
#[derive(Clone)]
struct ForwardProviderMetrics {
    forwarded: Counter,
    duration: Histogram,
}

impl Default for ForwardMetrics {
    fn default() -> Self {
        Self {
            request_duration: metrics::histogram!("backend_request_duration_seconds"),
            requests: HandleCache::default(),
            providers: HandleCache::default(),
        }
    }
}

impl ForwardMetrics {
    /// A request was answered, or not, after this time.
    pub(super) fn request(&self, outcome: &'static str, took: Duration) {
        self.request_duration.record(took);
        let make = |outcome: &&'static str| metrics::counter!("backend_requests_total", "outcome" => *outcome);
        self.requests.of(&outcome, make).increment(1);
    }

    /// The backend has what a webhook of this provider said, so long after that was accepted.
    pub(super) fn forwarded(&self, provider: &Arc<str>, took: Duration) {
        let of = self.providers.of(provider, |provider| ForwardProviderMetrics {
            forwarded: metrics::counter!("webhooks_processed_total", "provider" => Arc::clone(provider), "status" => "success"),
            duration: metrics::histogram!("webhook_processing_duration_seconds", "provider" => Arc::clone(provider)),
        });
        of.forwarded.increment(1);
        of.duration.record(took);
    }
}
