//! The breaker of an instance: waiting for it, passing it, and reporting its changes.
//!
//! Only the instance that works on the stage waits for the breaker and passes it; [`shared`] reports its state to the other
//! instances.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, watch};

use super::breaker::{Attendance, Breaker, BreakerReport, BreakerState, FailingBranch, NotNow, Permit, RequestOutcome};
use crate::config;

pub mod shared;

/// Changes of state that may wait to be told to others; of more than these the oldest are not told. The state that it is
/// in is repeated, so no instance keeps an old one.
const MAX_UNTOLD: usize = 64;

/// The breaker, shared.
pub struct Gate {
    inner: Mutex<GateState>,
    /// Counts every change that a caller may wait for.
    changes: watch::Sender<u64>,
    /// Every change of state that this instance made itself.
    turns: broadcast::Sender<BreakerReport>,
    target: GateTarget,
}

/// What the breaker protects.
#[derive(Debug, Clone)]
enum GateTarget {
    /// The backend.
    Backend,
    /// A provider, by its name.
    Provider(Arc<str>),
}

struct GateState {
    breaker: Breaker,
    attendance: Attendance,
    /// The state that metrics and log show.
    shown: BreakerState,
}

/// The instance that found the change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finder {
    /// This instance.
    Ourselves,
    /// Another instance, which reported it.
    Another,
}

impl Gate {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        Self::before(settings, GateTarget::Backend)
    }

    /// A closed breaker for a provider. It is not shared with other instances: finding out costs them a few requests.
    pub fn of_provider(settings: config::Breaker, provider: Arc<str>) -> Self {
        Self::before(settings, GateTarget::Provider(provider))
    }

    fn before(settings: config::Breaker, target: GateTarget) -> Self {
        target.show(BreakerState::Closed);
        target.show_failing(0);
        Self {
            target,
            inner: Mutex::new(GateState {
                breaker: Breaker::new(settings),
                attendance: Attendance::default(),
                shown: BreakerState::Closed,
            }),
            changes: watch::Sender::new(0),
            turns: broadcast::Sender::new(MAX_UNTOLD),
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        // No code panics while it holds this lock; if one did, the breaker's numbers would still be consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// State and reason, for health.
    pub fn state(&self) -> (BreakerState, Option<String>) {
        let gate = self.lock();
        (
            gate.breaker.state(Instant::now()),
            gate.breaker.reason().map(str::to_owned),
        )
    }

    /// The branches that the backend fails for, of which so many are named, and how many there are in all.
    pub fn failing(&self) -> (Vec<FailingBranch>, usize) {
        let report = self.lock().breaker.report(Instant::now());
        (report.failing, report.failing_in_all)
    }

    /// Notes how many events of each of these branches wait.
    pub fn note_waiting(&self, count: impl Fn(&str) -> u64) {
        self.lock().breaker.note_waiting(count);
    }

    /// Whether a request of some branch could be made now.
    pub fn is_passable(&self) -> bool {
        let (mut gate, now) = (self.lock(), Instant::now());
        gate.attendance.looked(now);
        gate.breaker.wait(now).is_none()
    }

    /// Why a request of this branch cannot be made now; none if it can.
    pub fn not_now(&self, branch: &str) -> Option<NotNow> {
        let (mut gate, now) = (self.lock(), Instant::now());
        gate.attendance.looked(now);
        gate.breaker.not_now(now, branch)
    }

    /// Waits until one could.
    pub async fn passable(&self) {
        if self.is_passable() {
            return;
        }
        let _waiting = WaitingGuard::before(self);
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let wait = self.lock().breaker.wait(Instant::now());
            match wait {
                None => return,
                Some(Some(pause)) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = changes.changed() => {}
                },
                Some(None) => {
                    // It cannot fail: `self` holds the sender.
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Asks to make one request of this branch now.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn enter(self: &Arc<Self>, branch: &str) -> Result<Pass, NotNow> {
        let permit = self.change(Finder::Ourselves, |gate, now| {
            let permit = gate.breaker.permit(now, branch)?;
            gate.attendance.request_begins(now);
            Ok(permit)
        })?;
        Ok(Pass {
            gate: Arc::clone(self),
            permit,
            outcome: RequestOutcome::Abandoned,
            code: None,
        })
    }

    /// How long one request that found the set-up wrong is not made again (see [`Breaker::alone`]).
    pub fn alone(&self) -> Duration {
        self.lock().breaker.alone()
    }

    /// Handles a report of another instance; returns whether it was applied, which is the case unless this instance works on the stage.
    pub fn hear(&self, report: BreakerReport) -> bool {
        self.change(Finder::Another, |gate, now| {
            let is_heard = gate.breaker.hear(now, &gate.attendance, report);
            if is_heard {
                self.target.show_failing(gate.breaker.failing());
            }
            is_heard
        })
    }

    /// The report for the other instances; none when another one works on the stage. Also updates metrics and log for what
    /// time alone has changed: the end of an open breaker's time.
    pub fn report(&self) -> Option<BreakerReport> {
        let now = Instant::now();
        let (report, turn, finder) = {
            let mut gate = self.lock();
            let works = gate.attendance.works(now);
            let finder = if works { Finder::Ourselves } else { Finder::Another };
            let turn = self.turn(&mut gate, now, finder);
            if gate.breaker.tidy(now) {
                self.target.show_failing(gate.breaker.failing());
            }
            (works.then(|| gate.breaker.report(now)), turn, finder)
        };
        if let Some(turn) = turn {
            self.target.tell(finder, &turn);
        }
        report
    }

    /// Every change of state that this instance makes from now on.
    pub fn turns(&self) -> broadcast::Receiver<BreakerReport> {
        self.turns.subscribe()
    }

    fn change<T>(&self, finder: Finder, act: impl FnOnce(&mut GateState, Instant) -> T) -> T {
        let now = Instant::now();
        let (result, turn) = {
            let mut gate = self.lock();
            let result = act(&mut gate, now);
            (result, self.turn(&mut gate, now, finder))
        };
        if let Some(turn) = turn {
            self.target.tell(finder, &turn);
        }
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Shows the state where it is another one than before. Under the lock, so that what is shown last is what came last.
    fn turn(&self, gate: &mut GateState, now: Instant, finder: Finder) -> Option<BreakerReport> {
        let state = gate.breaker.state(now);
        if state == gate.shown {
            return None;
        }
        gate.shown = state;
        self.target.show(state);
        let report = gate.breaker.report(now);
        if finder == Finder::Ourselves {
            // It fails only without a listener, which does not matter.
            let _ = self.turns.send(report.clone());
        }
        Some(report)
    }
}

impl GateTarget {
    /// In the log.
    fn tell(&self, finder: Finder, turn: &BreakerReport) {
        let reason = turn.reason.as_deref();
        match (self, finder, turn.state) {
            (Self::Provider(provider), _, BreakerState::Open) => tracing::error!(
                provider = &**provider,
                reason,
                "circuit breaker open: the provider gets no requests, and events for it wait"
            ),
            (Self::Provider(provider), _, state) => tracing::info!(
                provider = &**provider,
                state = state.as_str(),
                "circuit breaker of the provider"
            ),
            (Self::Backend, Finder::Another, state) => tracing::info!(
                state = state.as_str(),
                reason,
                "circuit breaker of the instance that forwards"
            ),
            (Self::Backend, Finder::Ourselves, BreakerState::Open) => tracing::error!(
                reason,
                "circuit breaker open: the backend gets no orders, they wait on the log"
            ),
            (Self::Backend, Finder::Ourselves, BreakerState::HalfOpen) => {
                tracing::info!("circuit breaker half-open: trying the backend");
            }
            (Self::Backend, Finder::Ourselves, BreakerState::Closed) => {
                tracing::info!("circuit breaker closed: the backend gets orders again");
            }
        }
    }

    /// In the log: requests of a branch wait, or do not any more.
    fn tell_of_branch(&self, branch: &str, is_failing: bool) {
        match (self, is_failing) {
            // It has one breaker for all branches.
            (Self::Provider(_), _) => {}
            (Self::Backend, true) => tracing::warn!(branch, "the backend fails for this branch: its orders wait"),
            (Self::Backend, false) => {
                tracing::info!(branch, "the backend does not fail for this branch alone any more")
            }
        }
    }

    /// In the metrics: how many branches the backend fails for.
    fn show_failing(&self, count: usize) {
        if matches!(self, Self::Backend) {
            metrics::gauge!("circuit_breaker_failing_branches").set(count as f64);
        }
    }

    /// In the metrics.
    fn show(&self, state: BreakerState) {
        for one in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            let value = if one == state { 1.0 } else { 0.0 };
            match self {
                Self::Backend => metrics::gauge!("circuit_breaker_state", "state" => one.as_str()).set(value),
                Self::Provider(provider) => {
                    let provider = Arc::clone(provider);
                    metrics::gauge!("provider_circuit_breaker_state", "provider" => provider, "state" => one.as_str())
                        .set(value);
                }
            }
        }
        if matches!(self, Self::Backend) {
            metrics::gauge!("backend_up").set(if state == BreakerState::Closed { 1.0 } else { 0.0 });
        }
    }
}

/// Counts a waiting stage while it lives: a stage that lost its lease is dropped while it waits.
struct WaitingGuard<'a>(&'a Gate);

impl<'a> WaitingGuard<'a> {
    fn before(gate: &'a Gate) -> Self {
        gate.lock().attendance.wait_begins(Instant::now());
        Self(gate)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().attendance.wait_ends(Instant::now());
    }
}

/// The right to make one request; dropped without a record it counts as never made.
pub struct Pass {
    gate: Arc<Gate>,
    permit: Permit,
    outcome: RequestOutcome,
    /// The code of its failure.
    code: Option<String>,
}

impl Pass {
    /// Whether the request is a trial of a half-open breaker.
    pub const fn is_trial(&self) -> bool {
        self.permit.is_trial()
    }

    /// Notes how the request ended.
    pub fn record(mut self, outcome: RequestOutcome) {
        self.outcome = outcome;
    }

    /// The same, with the code of the failure, if it is one.
    pub fn record_with_code(mut self, outcome: RequestOutcome, code: Option<&str>) {
        self.outcome = outcome;
        self.code = code.map(str::to_owned);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, RequestOutcome::Abandoned);
        let (gate, permit) = (&self.gate, &self.permit);
        let is_failing = gate.change(Finder::Ourselves, |state, now| {
            let before = state.breaker.is_failing(permit.branch());
            state.attendance.request_ends(now);
            state.breaker.record(now, permit, outcome);
            if let Some(code) = &self.code {
                state.breaker.note_code(permit.branch(), code);
            }
            let is_failing = state.breaker.is_failing(permit.branch());
            (is_failing != before).then(|| {
                gate.target.show_failing(state.breaker.failing());
                is_failing
            })
        });
        if let Some(is_failing) = is_failing {
            gate.target.tell_of_branch(permit.branch(), is_failing);
        }
    }
}
