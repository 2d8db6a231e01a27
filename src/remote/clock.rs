//! A provider's clock, by the `Date` of its answers.
//!
//! What the hub signs with a time (a token of its own, or the fields of a body) is signed with ours until a provider refuses it with a
//! `Date` that is far from the time that was signed. Lists of orders are read by the provider's clock, if that is far from ours.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// Clocks that are no further apart count as equal, in seconds: `Date` has no fractions and the answer takes its time, and providers allow
/// for as much.
const EQUAL: i64 = 30;
/// Furthest that a provider's clock is followed, in seconds: no clock with a wrong zone is further off.
const FURTHEST: i64 = 26 * 3600;

/// Clocks that are no further apart count as equal where times of orders are compared, in seconds: an answer may have been kept for minutes
/// on its way.
const NEAR: i64 = 10 * 60;

/// How far the clock of one provider is ahead of ours, in seconds, as far as that is known.
#[derive(Debug, Default)]
pub struct ProviderClock {
    /// For what is signed.
    signed: AtomicI64,
    /// By the last answer.
    told: AtomicI64,
}

impl ProviderClock {
    /// Seconds that it is ahead, for what is signed.
    pub fn ahead(&self) -> i64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// An answer came by which it is this far ahead.
    pub fn told(&self, found: Option<TimeDelta>) {
        if let Some(found) = found {
            self.told.store(found.num_seconds(), Ordering::Relaxed);
        }
    }

    /// How far it is ahead by its last answer; zero if it is near ours, or further off than any clock is.
    pub fn difference(&self) -> TimeDelta {
        let told = self.told.load(Ordering::Relaxed);
        let is_off = (NEAR + 1..=FURTHEST).contains(&told.saturating_abs());
        TimeDelta::seconds(if is_off { told } else { 0 })
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
        if self.signed.swap(ahead, Ordering::Relaxed) != ahead {
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
        for (told, difference) in [(0, 0), (600, 0), (-601, -601), (5 * 3600, 5 * 3600), (27 * 3600, 0)] {
            clock.told(seconds(told));
            clock.told(None);
            assert_eq!(clock.difference().num_seconds(), difference, "{told}");
        }
        // Of several that were signed with the same time each may be signed again.
        assert!(clock.refused("p", 0, seconds(3600)) && clock.refused("p", 0, seconds(3600)));
    }
}
