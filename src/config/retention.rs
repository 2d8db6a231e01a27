//! How long ended rows are kept in the tables.

use std::time::Duration;

use super::{Bounds, ConfigError, Environment, bounds::DurationText};

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEPT: Bounds<Duration> = Bounds {
    least: Duration::from_secs(7 * 24 * 3600),
    most: Duration::from_secs(360 * 24 * 3600),
    why: "less deletes what is still needed after a week-end, and no duration is longer; without one rows are kept for ever",
};

/// Two days: longer than any provider sends an event again, shorter than any uses a number again.
const DEFAULT_ORDER_MEMORY: Duration = Duration::from_secs(48 * 3600);
const ORDER_MEMORY: Bounds<Duration> = Bounds {
    least: Duration::from_secs(3600),
    most: Duration::from_secs(30 * 24 * 3600),
    why: "less forgets an order before its provider has stopped sending it, more takes a number that is used again for the old order",
};

/// Reads `ORDER_MEMORY`.
///
/// # Errors
/// Where it is out of bounds.
pub fn order_memory(env: &Environment) -> Result<Duration, ConfigError> {
    env.duration("ORDER_MEMORY", DEFAULT_ORDER_MEMORY, &ORDER_MEMORY)
}

/// `RETENTION_…`; none where rows are kept for ever, as by default.
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
    /// Reads them, and `ORDER_MEMORY` with them, for a command that needs nothing else of the hub's configuration.
    ///
    /// # Errors
    /// Where one of them cannot be used.
    pub fn of_hub(env: &Environment) -> Result<Self, ConfigError> {
        Self::from_environment(env, order_memory(env)?)
    }

    /// Reads them.
    ///
    /// # Errors
    /// Where one is out of bounds, or a webhook's row would go while the webhook is still known again: its repeat would get a row that
    /// nothing ends.
    pub(super) fn from_environment(env: &Environment, order_memory: Duration) -> Result<Self, ConfigError> {
        const WEBHOOK_LOGS: &str = "RETENTION_WEBHOOK_LOGS";
        let kept = |name: &str| {
            let kept = env.duration(name, Duration::ZERO, &KEPT)?;
            Ok((!kept.is_zero()).then_some(kept))
        };
        let webhook_logs = kept(WEBHOOK_LOGS)?;
        // A day more is remembered than ORDER_MEMORY.
        let least = order_memory + DAY;
        if let Some(kept) = webhook_logs.filter(|kept| *kept <= least) {
            return Err(ConfigError::new(
                WEBHOOK_LOGS,
                format_args!(
                    "expected more than {}, found {}: a repeat of a webhook is known for ORDER_MEMORY and a day more, and needs its row",
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
