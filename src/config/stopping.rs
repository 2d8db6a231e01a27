//! How the hub stops: `SHUTDOWN_DELAY` and `SHUTDOWN_GRACE`.

use std::time::Duration;

use super::{Bounds, ConfigError, Environment};

/// Longer than load balancers and Kubernetes usually take to notice that an instance is no longer ready.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);
const DELAY: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_secs(300),
    why: "a longer time delays the machine's shutdown; 0s closes the port at once",
};
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const GRACE: Bounds<Duration> = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_secs(600),
    why: "a shorter time cuts off requests that are being answered; a longer one delays the machine's shutdown",
};

/// How the hub stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    /// `SHUTDOWN_DELAY`: how long after SIGTERM webhooks are still accepted while the instance is not ready.
    pub delay: Duration,
    /// `SHUTDOWN_GRACE`: the time limit for draining after that.
    pub grace: Duration,
}

impl Stopping {
    /// Reads both.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        Ok(Self {
            delay: env.duration("SHUTDOWN_DELAY", DEFAULT_DELAY, &DELAY)?,
            grace: env.duration("SHUTDOWN_GRACE", DEFAULT_GRACE, &GRACE)?,
        })
    }
}
