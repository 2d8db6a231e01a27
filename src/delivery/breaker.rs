//! The circuit breaker: it decides whether requests to the backend may be made. Pure: the time is passed in.
//!
//! Closed → open after a number of temporary failures in a row, or when most recent requests failed, or at once when the
//! set-up is wrong → half-open after the reset time, with a few trial requests → closed when all of them succeed, open again
//! when one fails.
//!
//! "In a row" follows the order in which requests began: when a later request has been answered, the failure of an earlier
//! one describes the backend before that answer. So five requests that time out beside answered ones do not open the breaker
//! by ending together. A request counts only in the state in which it began: a request that was sent before the breaker
//! opened is no trial.
//!
//! Instances exchange the state of their breakers as a [`BreakerReport`]; [`Breaker::hear`] decides whether a report is
//! applied.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config;

/// Trials of the half-open state.
const TRIALS: u32 = 3;
/// How far the share of failures looks back: three times the contract's time limit of a request. Requests count by when they
/// began, so that those that hang are compared with the ones that were answered at the same time.
const WINDOW: Duration = Duration::from_secs(30);
/// Parts of the window that are counted apart; with the next part the oldest is forgotten.
const SLICES: u64 = 10;
/// The share counts from so many times `CIRCUIT_BREAKER_FAILURE_THRESHOLD` requests in the window on: fewer say too little.
const SHARE_OF_REQUESTS: u32 = 4;
/// It opens the breaker where one request in so many failed.
const FAILED_ONE_IN: u32 = 2;
/// Least pause after a wrong set-up was found, when the breaker is switched off.
const LEAST_ALONE: Duration = Duration::from_secs(1);
/// How long after its last look at the breaker an instance still counts as the one that works on the stage. The stage
/// looks every two seconds even if there is nothing to do, so this is that and room for a slow machine.
const LINGER: Duration = Duration::from_secs(4);

/// The state of the breaker: which requests it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few trials.
    HalfOpen,
}

impl BreakerState {
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
pub enum RequestOutcome {
    /// The backend answered as it should; also if it refused that one order.
    Success,
    /// Temporary: 5xx, time-out, connection cut.
    Failure,
    /// The set-up is wrong (401, TLS …): why.
    Misconfigured(String),
    /// It was not made after all, or how it ended says nothing of the backend.
    Abandoned,
}

/// A request that the breaker let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    begun: Instant,
    /// The state in which it began, by its number.
    turn: u64,
    is_trial: bool,
}

impl Permit {
    /// Whether the request finds out if the backend is back: the breaker is half-open.
    pub const fn is_trial(&self) -> bool {
        self.is_trial
    }
}

/// The state as one instance reports it to another. It holds the time that is left, not a time of day, so that no two
/// clocks are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// The state.
    pub state: BreakerState,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// How long it stays open; zero in the other states.
    pub remaining: Duration,
}

/// Whether this instance is the one that works on the stage, as far as its use of the breaker tells: who stands by never
/// looks at it.
#[derive(Debug, Default)]
pub struct Attendance {
    waiting: u32,
    under_way: u32,
    last: Option<Instant>,
}

impl Attendance {
    /// A caller checked whether requests are let through.
    pub fn looked(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// A caller begins to wait for the breaker.
    pub fn wait_begins(&mut self, now: Instant) {
        self.waiting += 1;
        self.last = Some(now);
    }

    /// And does no more.
    pub fn wait_ends(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.last = Some(now);
    }

    /// A request is permitted.
    pub fn request_begins(&mut self, now: Instant) {
        self.under_way += 1;
        self.last = Some(now);
    }

    /// And has ended, in whatever way.
    pub fn request_ends(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = Some(now);
    }

    /// Whether it works on the stage.
    pub fn works(&self, now: Instant) -> bool {
        let lately = |last| now.saturating_duration_since(last) < LINGER;
        self.waiting > 0 || self.under_way > 0 || self.last.is_some_and(lately)
    }
}

/// What the closed breaker counts.
#[derive(Debug, Default)]
struct Counts {
    /// Failures since the last success, of requests that began after the latest one that succeeded.
    in_a_row: u32,
    /// When the latest of the requests that succeeded began.
    answered: Option<Instant>,
    window: Window,
}

impl Counts {
    fn succeeded(&mut self, begun: Instant) {
        self.in_a_row = 0;
        self.answered = self.answered.max(Some(begun));
        self.window.note(begun, false);
    }

    /// Why the breaker is to open; none if it is not.
    fn failed(&mut self, now: Instant, begun: Instant, threshold: u32) -> Option<String> {
        if self.answered.is_none_or(|answered| begun >= answered) {
            self.in_a_row += 1;
        }
        self.window.note(begun, true);
        if self.in_a_row >= threshold {
            return Some(format!("{} requests in a row failed", self.in_a_row));
        }
        let (requests, failed) = self.window.sum(now);
        let opens =
            requests >= threshold.saturating_mul(SHARE_OF_REQUESTS) && failed.saturating_mul(FAILED_ONE_IN) >= requests;
        opens.then(|| {
            let seconds = WINDOW.as_secs();
            format!("{failed} of the last {requests} requests failed, within {seconds} s")
        })
    }
}

/// How many requests began lately and have ended, and how many of them failed.
#[derive(Debug, Default)]
struct Window {
    /// When counting began.
    since: Option<Instant>,
    /// Number of the slice, requests that began in it, those that failed. Each slice has its place.
    slices: [(u64, u32, u32); SLICES as usize],
}

impl Window {
    fn note(&mut self, begun: Instant, failed: bool) {
        let number = self.number(begun);
        let slice = &mut self.slices[(number % SLICES) as usize];
        if slice.0 > number {
            return;
        }
        if slice.0 < number {
            *slice = (number, 0, 0);
        }
        slice.1 += 1;
        slice.2 += u32::from(failed);
    }

    /// Requests, and those that failed.
    fn sum(&mut self, now: Instant) -> (u32, u32) {
        let number = self.number(now);
        let recent = self.slices.iter().filter(|slice| slice.0 + SLICES > number);
        recent.fold((0, 0), |sum, slice| (sum.0 + slice.1, sum.1 + slice.2))
    }

    fn number(&mut self, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        let slice = WINDOW / SLICES as u32;
        u64::try_from(now.saturating_duration_since(since).as_millis() / slice.as_millis()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
enum Inner {
    Closed(Counts),
    Open { until: Instant },
    HalfOpen { begun: u32, succeeded: u32 },
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: config::Breaker,
    inner: Inner,
    /// Number of the state that it is in: each change makes a new one.
    turn: u64,
    reason: Option<String>,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        Self {
            settings,
            inner: Inner::Closed(Counts::default()),
            turn: 0,
            reason: None,
        }
    }

    /// The state at this time.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.inner {
            Inner::Closed(_) => BreakerState::Closed,
            Inner::Open { until } if now < until => BreakerState::Open,
            Inner::Open { .. } | Inner::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why it is not closed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// How long from now until there is a point in asking again; none if one may ask now. Where every trial is under
    /// way, their end changes the answer, not time.
    pub fn wait(&self, now: Instant) -> Option<Option<Duration>> {
        match self.inner {
            Inner::Open { until } if now < until => Some(Some(until - now)),
            Inner::HalfOpen { begun, .. } if begun >= TRIALS => Some(None),
            _ => None,
        }
    }

    /// Asks to make a request. Where it says yes, [`Self::record`] must follow.
    pub fn permit(&mut self, now: Instant) -> Option<Permit> {
        let permitted = !self.settings.enabled
            || match &mut self.inner {
                Inner::Closed(_) => true,
                Inner::Open { until } if now < *until => false,
                Inner::Open { .. } => {
                    self.turn_to(Inner::HalfOpen { begun: 1, succeeded: 0 });
                    true
                }
                Inner::HalfOpen { begun, .. } if *begun < TRIALS => {
                    *begun += 1;
                    true
                }
                Inner::HalfOpen { .. } => false,
            };
        let turn = self.turn;
        let is_trial = self.settings.enabled && matches!(self.inner, Inner::HalfOpen { .. });
        permitted.then_some(Permit {
            begun: now,
            turn,
            is_trial,
        })
    }

    /// Notes how a permitted request ended.
    pub fn record(&mut self, now: Instant, permit: Permit, outcome: RequestOutcome) {
        // This outcome describes the backend before the state changed.
        if permit.turn != self.turn {
            return;
        }
        match (&mut self.inner, outcome) {
            (_, RequestOutcome::Misconfigured(reason)) => self.open(now, reason),
            (Inner::Closed(counts), RequestOutcome::Success) => counts.succeeded(permit.begun),
            (Inner::Closed(counts), RequestOutcome::Failure) => {
                if let Some(reason) = counts.failed(now, permit.begun, self.settings.failure_threshold) {
                    self.open(now, reason);
                }
            }
            (Inner::HalfOpen { succeeded, .. }, RequestOutcome::Success) => {
                *succeeded += 1;
                if *succeeded >= TRIALS {
                    self.turn_to(Inner::Closed(Counts::default()));
                    self.reason = None;
                }
            }
            (Inner::HalfOpen { .. }, RequestOutcome::Failure) => self.open(now, "a trial request failed".into()),
            (Inner::HalfOpen { begun, .. }, RequestOutcome::Abandoned) => *begun = begun.saturating_sub(1),
            (Inner::Open { .. }, _) | (Inner::Closed(_), RequestOutcome::Abandoned) => {}
        }
    }

    /// How long one request that found the set-up wrong is not made again: at least for as long as the breaker would be open
    /// where it is switched off; no time where it is on, for then it holds up all of them.
    pub fn alone(&self) -> Duration {
        if self.settings.enabled {
            Duration::ZERO
        } else {
            self.settings.reset_timeout.max(LEAST_ALONE)
        }
    }

    /// The report for the other instances.
    pub fn report(&self, now: Instant) -> BreakerReport {
        BreakerReport {
            state: self.state(now),
            reason: self.reason.clone(),
            remaining: self.wait(now).flatten().unwrap_or_default(),
        }
    }

    /// Applies the report of another instance; returns whether it did.
    ///
    /// The instance that works on the stage applies no report: it sees the backend, and what others know is older, such as the report
    /// of an instance that was frozen and lost its lease. A standby instance applies the last report, since it has no newer
    /// knowledge of its own. The next report corrects a lost or late one, and none keeps the breaker open for longer than this
    /// instance's own setting.
    pub fn hear(&mut self, now: Instant, attendance: &Attendance, report: BreakerReport) -> bool {
        if !self.settings.enabled || attendance.works(now) {
            return false;
        }
        let remaining = match report.state {
            BreakerState::Closed => {
                self.turn_to(Inner::Closed(Counts::default()));
                self.reason = None;
                return true;
            }
            BreakerState::Open => report.remaining.min(self.settings.reset_timeout),
            // Taken as open with no time left, so an instance that takes over begins with its own trials.
            BreakerState::HalfOpen => Duration::ZERO,
        };
        self.turn_to(Inner::Open { until: now + remaining });
        self.reason = report.reason;
        true
    }

    fn open(&mut self, now: Instant, reason: String) {
        if self.settings.enabled {
            let until = now + self.settings.reset_timeout;
            self.turn_to(Inner::Open { until });
            self.reason = Some(reason);
        }
    }

    fn turn_to(&mut self, inner: Inner) {
        self.inner = inner;
        self.turn += 1;
    }
}

#[cfg(test)]
mod tests;
