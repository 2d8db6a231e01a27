//! A provider's clock, for what the hub signs with a time: a token of its own, or the fields of a body. If a provider refuses that and its
//! answer's `Date` is far from the time that was signed, the hub signs once more with the provider's time.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// Clocks that are no further apart count as equal, in seconds: `Date` has no fractions and the answer takes its time, and providers allow
/// for as much.
const EQUAL: i64 = 30;
/// Furthest that a provider's clock is followed, in seconds: no clock with a wrong zone is further off.
const FURTHEST: i64 = 26 * 3600;

/// How far the clock of one provider is ahead of ours, as far as that is known.
#[derive(Debug, Default)]
pub struct ProviderClock(AtomicI64);

impl ProviderClock {
    /// Seconds that it is ahead.
    pub fn ahead(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The provider's time.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::seconds(self.ahead())
    }

    /// What was signed when its clock was thought to be so many seconds ahead was refused, with an answer by which it is this far ahead.
    /// Whether another time may help.
    pub fn refused(&self, provider: &str, signed_ahead: i64, found: Option<TimeDelta>) -> bool {
        let Some(found) = found.map(|found| found.num_seconds()) else {
            return false;
        };
        if found.abs() > FURTHEST || found.abs_diff(signed_ahead) <= EQUAL.unsigned_abs() {
            return false;
        }
        let ahead = if found.abs() <= EQUAL { 0 } else { found };
        if self.0.swap(ahead, Ordering::Relaxed) != ahead {
            tracing::warn!(
                provider,
                seconds_ahead = ahead,
                "the provider refused what the hub signed, and its clock differs from this machine's; the hub signs with the provider's time"
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_far_off_is_followed() {
        let clock = ProviderClock::default();
        let seconds = |seconds| Some(TimeDelta::seconds(seconds));
        for (found, may_help, ahead) in [
            (None, false, 0),
            (seconds(30), false, 0),
            (seconds(-30), false, 0),
            (seconds(27 * 3600), false, 0),
            (seconds(5 * 3600), true, 5 * 3600),
            (seconds(5 * 3600 + 20), false, 5 * 3600),
            (seconds(-5 * 3600), true, -5 * 3600),
            (seconds(3), true, 0),
        ] {
            let signed = clock.ahead();
            assert_eq!(clock.refused("p", signed, found), may_help, "{found:?}");
            assert_eq!(clock.ahead(), ahead, "{found:?}");
        }
        // Of several that were signed with the same time each may be signed again.
        assert!(clock.refused("p", 0, seconds(3600)) && clock.refused("p", 0, seconds(3600)));
    }
}
