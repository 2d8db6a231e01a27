//! The circuit breaker: it decides whether requests to the backend may be made. Pure: the time is passed in.
//!
//! Closed → open after a number of temporary failures in a row, or when most recent requests failed, or at once when the
//! set-up is wrong → half-open after the reset time, with a few trial requests → closed when all of them succeed, open again
//! when they fail.
//!
//! Failures of one branch's orders are that branch's: only its requests wait for the reset time, and then have trials of their own
//! (`branches`). The breaker opens for all when the failures say the same without those of any one branch (`counts`). If no other
//! branch was answered lately, the failing one may be the first of all: until another is answered, the breaker is half-open for the
//! others. So one branch's requests alone open it for that branch, and show it as open. A half-open breaker goes on to the trials of other branches
//! when those of one failed; it opens again when two branches failed, and closes for the others when one of them is answered.
//! After it was open for all, the branches that failed last let the others go first.
//!
//! "In a row" follows the order in which requests began: when a later request has been answered, the failure of an earlier
//! one describes the backend before that answer. So five requests that time out beside answered ones do not open the breaker
//! by ending together. A request counts only in the state in which it began: a request that was sent before the breaker
//! opened is no trial.
//!
//! Instances exchange the state of their breakers as a [`BreakerReport`]; [`Breaker::hear`] decides whether a report is
//! applied.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use self::{
    branches::{BranchNews, Branches},
    counts::SharedCounts,
};
use crate::config;

mod attendance;
mod branches;
mod counts;
mod report;

pub use self::{
    attendance::Attendance,
    branches::MAX_REPORTED,
    report::{BreakerReport, FailingBranch},
};

/// Trials of the half-open state: so many at a time, and so many answers close it.
const TRIALS: u32 = 3;
/// How long branches that failed let others go first, once the breaker was open for all: a part of the reset time, and at most.
const YIELD_PART: u32 = 4;
const MAX_YIELD: Duration = Duration::from_secs(2);
/// Least pause after a wrong set-up was found, when the breaker is switched off.
const LEAST_ALONE: Duration = Duration::from_secs(1);
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    begun: Instant,
    /// The state in which it began, by its number.
    turn: u64,
    is_trial: bool,
    /// The branch that it counts for.
    branch: Arc<str>,
    /// The state of the branch.
    branch_turn: u64,
}

impl Permit {
    /// Whether the request finds out if the backend is back: the breaker is half-open, for all or for the branch.
    pub const fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// The branch that it counts for.
    pub fn branch(&self) -> &str {
        &self.branch
    }
}

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// None is, for so long; without a time until the trials that are under way have ended.
    All(Option<Duration>),
    /// None of its branch is, for so long; zero: until the branch's trials have ended.
    Branch(Duration),
}

impl NotNow {
    /// For how long, where trials that are under way take `trials`.
    pub fn pause(self, trials: Duration) -> Duration {
        match self {
            Self::All(None) | Self::Branch(Duration::ZERO) => trials,
            Self::All(Some(pause)) | Self::Branch(pause) => pause,
        }
    }
}

/// The trials of a half-open breaker.
#[derive(Debug, Default)]
struct Trials {
    /// Their branches, while they are under way.
    under_way: Vec<Arc<str>>,
    /// And of those that were answered.
    answered: Vec<Arc<str>>,
    /// A branch with a failed trial; it waits.
    failed: Option<Arc<str>>,
}

impl Trials {
    /// Whether one more may begin. Those of a failing branch are limited by themselves: they must not keep others waiting.
    fn has_room(&self, branches: &Branches) -> bool {
        let of_others = self.under_way.iter().filter(|branch| !branches.is_failing(branch));
        of_others.count() < TRIALS as usize
    }

    fn ended(&mut self, branch: &Arc<str>) {
        if let Some(at) = self.under_way.iter().position(|one| one == branch) {
            self.under_way.swap_remove(at);
        }
    }
}

#[derive(Debug)]
enum Inner {
    Closed(SharedCounts),
    Open { until: Instant },
    HalfOpen(Trials),
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: config::Breaker,
    inner: Inner,
    branches: Branches,
    /// Number of the state that it is in: each change makes a new one.
    turn: u64,
    reason: Option<String>,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        Self {
            settings,
            inner: Inner::Closed(SharedCounts::default()),
            branches: Branches::default(),
            turn: 0,
            reason: None,
        }
    }

    /// The state at this time. It is also open while the only branch with failed requests waits, and no other tries.
    pub fn state(&self, now: Instant) -> BreakerState {
        match &self.inner {
            Inner::Closed(_) => BreakerState::Closed,
            Inner::Open { until } if now < *until => BreakerState::Open,
            Inner::HalfOpen(_) if self.of_one(now).is_some() => BreakerState::Open,
            Inner::Open { .. } | Inner::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }

    /// The branch that is the only one to fail, while it waits and no other tries; and for how long.
    fn of_one(&self, now: Instant) -> Option<(&Arc<str>, Duration)> {
        match &self.inner {
            Inner::HalfOpen(trials) if trials.under_way.is_empty() => {
                let branch = trials.failed.as_ref()?;
                let wait = self.branches.wait(now, branch).filter(|wait| !wait.is_zero())?;
                Some((branch, wait))
            }
            _ => None,
        }
    }

    /// Why it is not closed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether the backend fails for this branch.
    pub fn is_failing(&self, branch: &str) -> bool {
        self.branches.is_failing(branch)
    }

    /// How many branches the backend fails for.
    pub fn failing(&self) -> usize {
        self.branches.count_failing()
    }

    /// Notes the code of the failure that was recorded last, of a request of this branch.
    pub fn note_code(&mut self, branch: &str, code: &str) {
        self.branches.note_code(branch, code);
    }

    /// Notes how many events of each branch that the backend fails for wait.
    pub fn note_waiting(&mut self, count: impl Fn(&str) -> u64) {
        self.branches.note_waiting(count);
    }

    /// How long from now until there is a point in asking again for any branch; none if one may ask now. Where every trial is under
    /// way, their end changes the answer, not time.
    pub fn wait(&self, now: Instant) -> Option<Option<Duration>> {
        match &self.inner {
            Inner::Open { until } if now < *until => Some(Some(*until - now)),
            Inner::HalfOpen(trials) if !trials.has_room(&self.branches) => Some(None),
            _ => None,
        }
    }

    /// Why a request of this branch is not let through now; none if it is.
    pub fn not_now(&self, now: Instant, branch: &str) -> Option<NotNow> {
        if !self.settings.enabled {
            return None;
        }
        if let Some(wait) = self.wait(now) {
            return Some(NotNow::All(wait));
        }
        let yields = || match self.inner {
            Inner::Closed(_) => None,
            Inner::Open { .. } | Inner::HalfOpen(_) => self.branches.yields(now, branch),
        };
        let wait = self.branches.wait(now, branch).or_else(yields);
        wait.map(NotNow::Branch)
    }

    /// Asks to make a request of this branch. Where it may be made, [`Self::record`] must follow.
    ///
    /// # Errors
    /// Why it may not.
    pub fn permit(&mut self, now: Instant, branch: &str) -> Result<Permit, NotNow> {
        if let Some(not_now) = self.not_now(now, branch) {
            return Err(not_now);
        }
        if !self.settings.enabled {
            return Ok(Permit {
                begun: now,
                turn: self.turn,
                is_trial: false,
                branch: Arc::from(branch),
                branch_turn: 0,
            });
        }
        if matches!(self.inner, Inner::Open { .. }) {
            self.turn_to(Inner::HalfOpen(Trials::default()));
        }
        let (branch, branch_turn, is_of_branch) = self.branches.begin(now, branch);
        let is_of_all = match &mut self.inner {
            Inner::HalfOpen(trials) => {
                trials.under_way.push(Arc::clone(&branch));
                true
            }
            _ => false,
        };
        Ok(Permit {
            begun: now,
            turn: self.turn,
            is_trial: is_of_all || is_of_branch,
            branch,
            branch_turn,
        })
    }

    /// Notes how a permitted request ended.
    pub fn record(&mut self, now: Instant, permit: &Permit, outcome: RequestOutcome) {
        if !self.settings.enabled {
            return;
        }
        let (threshold, pause) = (self.settings.failure_threshold, self.settings.reset_timeout);
        let news = self.branches.record(now, permit, &outcome, (threshold, pause));
        // This outcome describes the backend before the state changed.
        if permit.turn != self.turn {
            return;
        }
        if let RequestOutcome::Misconfigured(reason) = outcome {
            return self.open(now, &[], reason);
        }
        match &mut self.inner {
            Inner::Closed(counts) => match news {
                BranchNews::Answered => counts.succeeded(permit.begun),
                BranchNews::Failed(of_branch) => self.failed(now, permit, of_branch),
                // That the branch fails is known.
                BranchNews::FailedAgain | BranchNews::Stale | BranchNews::Nothing => {}
            },
            Inner::HalfOpen(trials) => match news {
                BranchNews::Answered => self.trial_succeeded(&permit.branch),
                BranchNews::Failed(_) => self.trial_failed(now, &permit.branch, true),
                BranchNews::FailedAgain => self.trial_failed(now, &permit.branch, false),
                BranchNews::Nothing | BranchNews::Stale => trials.ended(&permit.branch),
            },
            Inner::Open { .. } => {}
        }
    }

    /// A request failed while the breaker is closed. `of_branch`: why the requests of its branch are to wait.
    fn failed(&mut self, now: Instant, permit: &Permit, of_branch: Option<String>) {
        let Inner::Closed(counts) = &mut self.inner else { return };
        let (branch, threshold) = (&permit.branch, self.settings.failure_threshold);
        let of_all = counts.failed((branch, permit.begun), threshold, self.branches.sums(now));
        if let Some(reason) = of_all {
            let failed: Vec<_> = counts.failing().cloned().collect();
            return self.open(now, &failed, reason);
        }
        let Some(reason) = of_branch else { return };
        counts.forget(branch);
        self.branches.fails(branch, now, now + self.settings.reset_timeout);
        if !self.branches.others_answered(now, branch) {
            self.reason = Some(reason);
            self.turn_to(Inner::HalfOpen(Trials {
                failed: Some(Arc::clone(branch)),
                ..Trials::default()
            }));
        }
    }

    fn trial_succeeded(&mut self, branch: &Arc<str>) {
        let Inner::HalfOpen(trials) = &mut self.inner else {
            return;
        };
        trials.ended(branch);
        trials.answered.push(Arc::clone(branch));
        let of_another = trials.failed.take_if(|failed| failed == branch).is_none() && trials.failed.is_some();
        if of_another || trials.answered.len() >= TRIALS as usize {
            self.close();
        }
    }

    /// A trial failed, so its branch waits. `is_new`: that is not known from before.
    fn trial_failed(&mut self, now: Instant, branch: &Arc<str>, is_new: bool) {
        let Inner::HalfOpen(trials) = &mut self.inner else {
            return;
        };
        if is_new {
            self.branches.fails(branch, now, now + self.settings.reset_timeout);
        }
        trials.under_way.retain(|one| one != branch);
        trials.answered.retain(|one| one != branch);
        if !trials.answered.is_empty() {
            return self.close();
        }
        match &trials.failed {
            Some(other) if other != branch && is_new => {
                let failed = [Arc::clone(other), Arc::clone(branch)];
                self.open(now, &failed, "trial requests of several branches failed".into());
            }
            Some(other) if other != branch => {}
            _ => {
                trials.failed = Some(Arc::clone(branch));
                self.reason = Some("a trial request failed".into());
            }
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
        let of_one = self.of_one(now);
        let remaining = match of_one {
            Some((_, wait)) => Some(wait),
            None => self.wait(now).flatten(),
        };
        BreakerReport {
            state: self.state(now),
            reason: self.reason.clone(),
            remaining: remaining.unwrap_or_default(),
            is_of_one: of_one.is_some(),
            failing: self.branches.report(now, of_one.map(|(branch, _)| branch)),
            failing_in_all: self.failing(),
        }
    }

    /// Forgets what is not needed any more; returns whether it looked, which it does every few seconds.
    pub fn tidy(&mut self, now: Instant) -> bool {
        self.branches.tidy(now)
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
        let longest = self.settings.reset_timeout;
        self.branches
            .adopt(now, (&report.failing, report.failing_in_all), longest);
        let remaining = match (report.state, report.failing.first()) {
            (BreakerState::Closed, _) => {
                self.close();
                return true;
            }
            (BreakerState::Open, Some(failing)) if report.is_of_one => {
                let failed = Some(Arc::clone(&failing.branch));
                self.turn_to(Inner::HalfOpen(Trials {
                    failed,
                    ..Trials::default()
                }));
                self.reason = report.reason;
                return true;
            }
            (BreakerState::Open, _) => report.remaining.min(longest),
            // Taken as open with no time left, so an instance that takes over begins with its own trials.
            (BreakerState::HalfOpen, _) => Duration::ZERO,
        };
        self.turn_to(Inner::Open { until: now + remaining });
        self.reason = report.reason;
        true
    }

    /// Opens for all. `failed`: the branches that let the others go first afterwards, beside those that are failing.
    fn open(&mut self, now: Instant, failed: &[Arc<str>], reason: String) {
        let reset = self.settings.reset_timeout;
        let until = now + reset;
        let yields = if failed.is_empty() {
            Duration::ZERO
        } else {
            (reset / YIELD_PART).min(MAX_YIELD)
        };
        self.branches.all_wait(failed, until + yields);
        self.turn_to(Inner::Open { until });
        self.reason = Some(reason);
    }

    fn close(&mut self) {
        self.turn_to(Inner::Closed(SharedCounts::default()));
        self.reason = None;
    }

    fn turn_to(&mut self, inner: Inner) {
        self.inner = inner;
        self.turn += 1;
    }
}

#[cfg(test)]
mod tests;
