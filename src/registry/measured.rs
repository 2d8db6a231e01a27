//! Metrics of a provider's webhooks. Their handles are kept.

use std::sync::Arc;

use metrics::{Counter, Histogram};

use crate::{event::SecretUse, telemetry::metrics::kept::HandleCache};

/// Handles of the metrics of one provider's webhooks.
#[derive(Debug)]
pub struct ProviderMetrics {
    provider: Arc<str>,
    /// Verified and within the limits.
    pub received: Counter,
    /// From the request's head until the event log acknowledged.
    pub accept_duration: Histogram,
    secrets: HandleCache<SecretUse, Counter>,
}

impl ProviderMetrics {
    /// Of this provider.
    pub fn of(provider: &Arc<str>) -> Self {
        Self {
            provider: Arc::clone(provider),
            received: metrics::counter!("webhooks_received_total", "provider" => Arc::clone(provider)),
            accept_duration: metrics::histogram!("webhook_accept_duration_seconds", "provider" => Arc::clone(provider)),
            secrets: HandleCache::default(),
        }
    }

    /// A secret matched.
    pub fn used(&self, secret: &SecretUse) {
        let make = |used: &SecretUse| {
            metrics::counter!(
                "webhook_secret_used_total",
                "provider" => Arc::clone(&self.provider),
                "secret" => used.name.clone(),
                "origin" => used.origin.as_str(),
                "index" => used.index.to_string(),
            )
        };
        self.secrets.of(secret, make).increment(1);
    }
}
