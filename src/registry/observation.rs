//! The time in which a provider's signatures are observed and not insisted on (`<PROVIDER>_OBSERVE_UNTIL`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};

/// How often a webhook with a signature that does not match is named in the log. Each one is counted.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Until when, of one provider.
#[derive(Debug)]
pub struct Observation {
    provider: Arc<str>,
    until: DateTime<Utc>,
    told_at: Mutex<Option<Instant>>,
}

impl Observation {
    /// Until then. The start says so.
    pub fn new(provider: &Arc<str>, until: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let observation = Self {
            provider: Arc::clone(provider),
            until,
            told_at: Mutex::default(),
        };
        metrics::gauge!("webhooks_observed_until_timestamp_seconds", "provider" => Arc::clone(provider))
            .set(until.timestamp() as f64);
        let until = observation.text();
        if observation.is_on(now) {
            tracing::warn!(
                provider = &**provider,
                until,
                "webhooks are accepted with any signature of the right form: anyone who knows the form can send orders as this provider"
            );
        } else {
            tracing::warn!(
                provider = &**provider,
                until,
                "the time of OBSERVE_UNTIL is over, signatures are insisted on; take the variable away"
            );
        }
        observation
    }

    /// Whether it is not over.
    pub fn is_on(&self, now: DateTime<Utc>) -> bool {
        now < self.until
    }

    /// Until when, as RFC 3339.
    pub fn text(&self) -> String {
        self.until.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// A webhook with a signature that does not match was let in.
    pub fn note(&self) {
        metrics::counter!("webhooks_observed_total", "provider" => Arc::clone(&self.provider)).increment(1);
        // No code panics while it holds this lock.
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told_at = Some(Instant::now());
            tracing::warn!(
                provider = &*self.provider,
                until = self.text(),
                "a webhook's signature does not match; it is accepted, and will be refused then"
            );
        }
    }
}
