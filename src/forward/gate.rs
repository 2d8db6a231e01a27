//! The breaker for all partitions of an instance: waiting before it, passing it, and telling when it changes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::breaker::{Breaker, Outcome, State};
use crate::config;

/// The breaker, shared.
pub struct Gate {
    breaker: Mutex<Breaker>,
    /// Counts every change that somebody could be waiting for.
    changes: watch::Sender<u64>,
}

impl Gate {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        let gate = Self {
            breaker: Mutex::new(Breaker::new(settings)),
            changes: watch::Sender::new(0),
        };
        show(State::Closed);
        gate
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // No code panics while it holds the lock; if one did, the breaker's numbers would still be whole.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// State and reason, for health.
    pub fn state(&self) -> (State, Option<String>) {
        let breaker = self.breaker();
        (breaker.state(Instant::now()), breaker.reason().map(str::to_owned))
    }

    /// Whether a request could be made now.
    pub fn is_passable(&self) -> bool {
        self.breaker().wait(Instant::now()).is_none()
    }

    /// Waits until one could.
    pub async fn passable(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let wait = self.breaker().wait(Instant::now());
            match wait {
                None => return,
                Some(Some(pause)) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = changes.changed() => {}
                },
                Some(None) => {
                    // The sender is part of self.
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Asks to make one request now.
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        let permitted = self.change(|breaker| breaker.permit(Instant::now()));
        permitted.then(|| Pass {
            gate: Arc::clone(self),
            recorded: false,
        })
    }

    fn change<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let (result, before, after, reason) = {
            let mut breaker = self.breaker();
            let now = Instant::now();
            let before = breaker.state(now);
            let result = act(&mut breaker);
            (result, before, breaker.state(now), breaker.reason().map(str::to_owned))
        };
        if before != after {
            show(after);
            match after {
                State::Open => tracing::error!(
                    reason,
                    "circuit breaker open: the backend gets no orders, they wait on the log"
                ),
                State::HalfOpen => tracing::info!("circuit breaker half-open: trying the backend"),
                State::Closed => tracing::info!("circuit breaker closed: the backend gets orders again"),
            }
        }
        self.changes.send_modify(|count| *count += 1);
        result
    }
}

fn show(state: State) {
    for one in [State::Closed, State::Open, State::HalfOpen] {
        metrics::gauge!("circuit_breaker_state", "state" => one.as_str()).set(if one == state { 1.0 } else { 0.0 });
    }
    metrics::gauge!("backend_up").set(if state == State::Closed { 1.0 } else { 0.0 });
}

/// The right to make one request; dropped without a record it counts as never made.
pub struct Pass {
    gate: Arc<Gate>,
    recorded: bool,
}

impl Pass {
    /// Notes how the request ended.
    pub fn record(mut self, outcome: Outcome) {
        self.recorded = true;
        self.gate.change(|breaker| breaker.record(Instant::now(), outcome));
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.recorded {
            self.gate
                .change(|breaker| breaker.record(Instant::now(), Outcome::Abandoned));
        }
    }
}
