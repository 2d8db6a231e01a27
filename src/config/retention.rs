//! How long the tables keep rows with nothing left to happen: `RETENTION_…`.

use std::time::Duration;

use super::{Bounds, ConfigError, Environment, bounds::DurationText};

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEPT: Bounds<Duration> = Bounds {
    least: Duration::from_secs(7 * 24 * 3600),
    most: Duration::from_secs(360 * 24 * 3600),
    why: "a shorter time deletes rows that are still needed after a weekend, and no duration is longer; unset, rows are kept for ever",
};

/// Two days: longer than any provider repeats an event, shorter than any provider waits before it reuses a number.
const DEFAULT_ORDER_MEMORY: Duration = Duration::from_secs(48 * 3600);
const ORDER_MEMORY: Bounds<Duration> = Bounds {
    least: Duration::from_secs(3600),
    most: Duration::from_secs(30 * 24 * 3600),
    why: "a shorter time forgets an order while its provider still repeats it; a longer one takes a reused number for the old order",
};

/// Reads `ORDER_MEMORY`.
///
/// # Errors
/// If it is out of bounds.
pub fn order_memory(env: &Environment) -> Result<Duration, ConfigError> {
    env.duration("ORDER_MEMORY", DEFAULT_ORDER_MEMORY, &ORDER_MEMORY)
}

/// `RETENTION_…`. None keeps the rows for ever, which is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// `RETENTION_WEBHOOK_LOGS`.
    pub webhook_logs: Option<Duration>,
    /// `RETENTION_DELIVERY_ERROR_LOGS`.
    pub delivery_error_logs: Option<Duration>,
    /// `RETENTION_PROVIDER_ORDER_LOGS`.
    pub provider_order_logs: Option<Duration>,
    /// `RETENTION_ORDERS`, of `hub.orders`.
    pub orders: Option<Duration>,
    /// `RETENTION_SKIPPED_EVENTS`, of `hub.skipped_events`.
    pub skipped_events: Option<Duration>,
}

impl Retention {
    /// Reads these settings and `ORDER_MEMORY`, for a command that needs nothing else of the hub's configuration.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn of_hub(env: &Environment) -> Result<Self, ConfigError> {
        Self::from_environment(env, order_memory(env)?)
    }

    /// Reads these settings.
    ///
    /// # Errors
    /// If one is out of bounds, or a webhook's row would be deleted while repeats of the webhook are still recognised: a repeat would
    /// get a new row that no event ends.
    pub(super) fn from_environment(env: &Environment, order_memory: Duration) -> Result<Self, ConfigError> {
        const WEBHOOK_LOGS: &str = "RETENTION_WEBHOOK_LOGS";
        let kept = |name: &str| {
            let kept = env.duration(name, Duration::ZERO, &KEPT)?;
            Ok((!kept.is_zero()).then_some(kept))
        };
        let webhook_logs = kept(WEBHOOK_LOGS)?;
        // Webhooks are remembered for a day longer than ORDER_MEMORY.
        let least = order_memory + DAY;
        if let Some(kept) = webhook_logs.filter(|kept| *kept <= least) {
            return Err(ConfigError::new(
                WEBHOOK_LOGS,
                format_args!(
                    "expected more than {}, found {}: repeats of a webhook are recognised for ORDER_MEMORY and one day, and need its row",
                    DurationText(least),
                    DurationText(kept)
                ),
            ));
        }
        Ok(Self {
            webhook_logs,
            delivery_error_logs: kept("RETENTION_DELIVERY_ERROR_LOGS")?,
            provider_order_logs: kept("RETENTION_PROVIDER_ORDER_LOGS")?,
            orders: kept("RETENTION_ORDERS")?,
            skipped_events: kept("RETENTION_SKIPPED_EVENTS")?,
        })
    }
}
