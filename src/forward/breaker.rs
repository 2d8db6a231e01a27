//! The circuit breaker: whether to ask the backend at all. Pure: the time is passed in.
//!
//! Closed → open after so many temporary failures in a row, or at once where the set-up is wrong → half-open after a
//! while, with a few trials → closed when all of them succeed, open again when one fails.

use std::time::{Duration, Instant};

use crate::config;

/// Trials of the half-open state.
const TRIALS: u32 = 3;

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few trials.
    HalfOpen,
}

impl State {
    /// In metrics and health.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered as it should; also where it refused that one order.
    Success,
    /// Temporary: 5xx, time-out, connection cut.
    Failure,
    /// The set-up is wrong (401, TLS …): why.
    Misconfigured(String),
    /// It was not made after all.
    Abandoned,
}

#[derive(Debug)]
enum Inner {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { begun: u32, succeeded: u32 },
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: config::Breaker,
    inner: Inner,
    reason: Option<String>,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        Self {
            settings,
            inner: Inner::Closed { failures: 0 },
            reason: None,
        }
    }

    /// The state at this time.
    pub fn state(&self, now: Instant) -> State {
        match self.inner {
            Inner::Closed { .. } => State::Closed,
            Inner::Open { until } if now < until => State::Open,
            Inner::Open { .. } | Inner::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Why it is not closed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// How long from now until there is a point in asking again; none where one may ask now. Where every trial is under
    /// way, their end changes the answer, not time.
    pub fn wait(&self, now: Instant) -> Option<Option<Duration>> {
        match self.inner {
            Inner::Open { until } if now < until => Some(Some(until - now)),
            Inner::HalfOpen { begun, .. } if begun >= TRIALS => Some(None),
            _ => None,
        }
    }

    /// Asks to make a request. Where it says yes, [`Self::record`] must follow.
    pub fn permit(&mut self, now: Instant) -> bool {
        if !self.settings.enabled {
            return true;
        }
        match &mut self.inner {
            Inner::Closed { .. } => true,
            Inner::Open { until } if now < *until => false,
            Inner::Open { .. } => {
                self.inner = Inner::HalfOpen { begun: 1, succeeded: 0 };
                true
            }
            Inner::HalfOpen { begun, .. } if *begun < TRIALS => {
                *begun += 1;
                true
            }
            Inner::HalfOpen { .. } => false,
        }
    }

    /// Notes how a permitted request ended.
    pub fn record(&mut self, now: Instant, outcome: Outcome) {
        match (&mut self.inner, outcome) {
            (_, Outcome::Misconfigured(reason)) => self.open(now, reason),
            (Inner::Closed { failures }, Outcome::Success) => *failures = 0,
            (Inner::Closed { failures }, Outcome::Failure) => {
                *failures += 1;
                if *failures >= self.settings.failure_threshold {
                    let reason = format!("{failures} requests in a row failed");
                    self.open(now, reason);
                }
            }
            (Inner::HalfOpen { succeeded, .. }, Outcome::Success) => {
                *succeeded += 1;
                if *succeeded >= TRIALS {
                    self.inner = Inner::Closed { failures: 0 };
                    self.reason = None;
                }
            }
            (Inner::HalfOpen { .. }, Outcome::Failure) => self.open(now, "a trial request failed".into()),
            (Inner::HalfOpen { begun, .. }, Outcome::Abandoned) => *begun = begun.saturating_sub(1),
            // Requests that were under way when it opened tell nothing new.
            (Inner::Open { .. }, _) | (Inner::Closed { .. }, Outcome::Abandoned) => {}
        }
    }

    fn open(&mut self, now: Instant, reason: String) {
        if self.settings.enabled {
            self.inner = Inner::Open {
                until: now + self.settings.reset_timeout,
            };
            self.reason = Some(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESET: Duration = Duration::from_secs(30);

    fn breaker() -> Breaker {
        Breaker::new(config::Breaker {
            enabled: true,
            failure_threshold: 5,
            reset_timeout: RESET,
        })
    }

    fn fail(breaker: &mut Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            assert!(breaker.permit(now));
            breaker.record(now, Outcome::Failure);
        }
    }

    #[test]
    fn opens_after_five_failures_in_a_row_only() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 4);
        breaker.record(now, Outcome::Success);
        fail(&mut breaker, now, 4);
        assert_eq!(breaker.state(now), State::Closed);
        fail(&mut breaker, now, 1);
        assert_eq!(breaker.state(now), State::Open);
        assert!(!breaker.permit(now + RESET - Duration::from_millis(1)));
    }

    #[test]
    fn three_trials_close_it_and_one_failure_opens_it_again() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 5);
        let later = now + RESET;
        assert_eq!(breaker.state(later), State::HalfOpen);
        assert!(breaker.permit(later) && breaker.permit(later) && breaker.permit(later));
        assert!(!breaker.permit(later), "a fourth trial");
        breaker.record(later, Outcome::Success);
        breaker.record(later, Outcome::Failure);
        assert_eq!(breaker.state(later), State::Open);
        let again = later + RESET;
        for _ in 0..3 {
            assert!(breaker.permit(again));
            breaker.record(again, Outcome::Success);
        }
        assert_eq!(breaker.state(again), State::Closed);
    }

    #[test]
    fn an_abandoned_trial_makes_room_for_another() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 5);
        let later = now + RESET;
        assert!(breaker.permit(later) && breaker.permit(later) && breaker.permit(later));
        assert_eq!(breaker.wait(later), Some(None));
        breaker.record(later, Outcome::Abandoned);
        assert_eq!(breaker.wait(later), None);
        assert!(breaker.permit(later));
    }

    #[test]
    fn a_wrong_set_up_opens_it_at_once_with_its_reason() {
        let (mut breaker, now) = (breaker(), Instant::now());
        assert!(breaker.permit(now));
        breaker.record(now, Outcome::Misconfigured("401".into()));
        assert_eq!((breaker.state(now), breaker.reason()), (State::Open, Some("401")));
    }

    #[test]
    fn switched_off_it_never_opens() {
        let mut breaker = Breaker::new(config::Breaker {
            enabled: false,
            failure_threshold: 5,
            reset_timeout: RESET,
        });
        fail(&mut breaker, Instant::now(), 100);
        assert_eq!(breaker.state(Instant::now()), State::Closed);
    }

    proptest! {
        /// Whatever happens in whatever order: it never lets more than the trials through before it closed again, and it
        /// can always be passed again later.
        #[test]
        fn never_stuck_and_never_flooded(steps in prop::collection::vec((0u8..4, 0u64..40), 1..200)) {
            let mut breaker = breaker();
            let mut now = Instant::now();
            let mut under_way = 0u32;
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                let half_open = breaker.state(now) == State::HalfOpen;
                match step {
                    0 => if breaker.permit(now) { under_way += 1 },
                    1 => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Success) },
                    2 => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Failure) },
                    _ => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Abandoned) },
                }
                if half_open && step == 0 {
                    let mut passed = 0;
                    while breaker.state(now) == State::HalfOpen && breaker.permit(now) { passed += 1; under_way += 1; prop_assert!(passed <= TRIALS); }
                }
            }
            for _ in 0..under_way { breaker.record(now, Outcome::Success); }
            let much_later = now + RESET * 2;
            prop_assert!(breaker.wait(much_later).is_none() || matches!(breaker.state(much_later), State::HalfOpen));
        }
    }
}
