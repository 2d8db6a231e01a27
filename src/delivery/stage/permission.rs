//! The permission to make a request: checked immediately before the request.
//!
//! A stage may wait for a slot, a breaker or a limit between the runner's last check of the lease and its request. Meanwhile
//! the instance may have been frozen and replaced, or stopped. So code that makes a request calls [`begin`] after its last
//! wait. The permission is task-local and no parameter, because the clients need it deep in their calls.
//!
//! A request that has begun is completed when the hub stops; one that has not begun is dropped.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::delivery::lease::Validity;

tokio::task_local! {
    static PERMISSION: Arc<RequestPermission>;
}

/// The instance may no longer make a request: its lease ran out, or it stops. What the stage returns then is
/// not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPermitted;

/// Checks the permission to make a request. Outside of a stage it is always given.
///
/// # Errors
/// [`NotPermitted`], if the request must not be made.
pub fn begin() -> Result<(), NotPermitted> {
    PERMISSION.try_with(|permission| permission.begin()).unwrap_or(Ok(()))
}

/// Whether the instance stops, or has lost the stage, so that a failed request says nothing to the one that goes on: the next
/// instance makes it again. False outside of a stage.
pub fn is_over() -> bool {
    PERMISSION.try_with(|permission| permission.is_over()).unwrap_or(false)
}

/// Events with a request that has begun and is not recorded yet.
#[derive(Debug, Default)]
pub(super) struct RequestsInFlight(Mutex<BTreeSet<u64>>);

impl RequestsInFlight {
    pub(super) fn events(&self) -> Vec<u64> {
        self.set(|events| events.iter().copied().collect())
    }

    fn set<T>(&self, act: impl FnOnce(&mut BTreeSet<u64>) -> T) -> T {
        // No code panics while it holds this lock.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The permission of one event, until the result of its request is recorded.
pub(super) struct RequestPermission {
    event: u64,
    lease: Validity,
    stop: CancellationToken,
    asking: Arc<RequestsInFlight>,
    begun: AtomicBool,
    refused: AtomicBool,
}

impl RequestPermission {
    pub(super) fn of(
        event: u64,
        lease: &Validity,
        stop: &CancellationToken,
        asking: &Arc<RequestsInFlight>,
    ) -> Arc<Self> {
        Arc::new(Self {
            event,
            lease: lease.clone(),
            stop: stop.clone(),
            asking: Arc::clone(asking),
            begun: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        })
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || !self.lease.holds()
    }

    fn begin(&self) -> Result<(), NotPermitted> {
        if self.is_over() {
            self.refused.store(true, Ordering::Relaxed);
            return Err(NotPermitted);
        }
        self.begun.store(true, Ordering::Relaxed);
        self.asking.set(|events| events.insert(self.event));
        Ok(())
    }

    /// Whether a request was not made because the instance lost the permission.
    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Runs the handler of the event; none when the hub stops before a request has begun.
    pub(super) async fn run<T>(self: &Arc<Self>, handling: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            handled = PERMISSION.scope(Arc::clone(self), handling) => Some(handled),
            () = self.stopped_before_a_request() => None,
        }
    }

    async fn stopped_before_a_request(&self) {
        self.stop.cancelled().await;
        if self.begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for RequestPermission {
    fn drop(&mut self) {
        self.asking.set(|events| events.remove(&self.event));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn nothing_begins_after_the_end() {
        assert_eq!(begin(), Ok(()), "outside of a stage");
        let (stop, asking) = (CancellationToken::new(), Arc::default());
        let lease = Validity::since(Instant::now());
        let permission = RequestPermission::of(7, &lease, &stop, &asking);
        let begun = permission.run(async { begin() }).await;
        assert_eq!((begun, asking.events()), (Some(Ok(())), vec![7]));
        drop(permission);
        assert!(asking.events().is_empty());
        let permission = RequestPermission::of(8, &lease, &stop, &asking);
        lease.end();
        assert_eq!(permission.run(async { begin() }).await, Some(Err(NotPermitted)));
        assert!(permission.was_refused() && asking.events().is_empty());
    }

    #[tokio::test]
    async fn a_stop_ends_waits_but_not_requests_under_way() {
        let (stop, asking) = (CancellationToken::new(), Arc::default());
        let lease = Validity::since(Instant::now());
        let waits = RequestPermission::of(1, &lease, &stop, &asking);
        let asks = RequestPermission::of(2, &lease, &stop, &asking);
        let (answer, answered) = tokio::sync::oneshot::channel::<u32>();
        let waiting = waits.run(std::future::pending::<u32>());
        let asking_it = asks.run(async {
            begin().unwrap();
            assert!(!is_over());
            let answer = answered.await.unwrap();
            assert!(is_over());
            answer
        });
        let stopping = async {
            tokio::task::yield_now().await;
            stop.cancel();
            tokio::task::yield_now().await;
            answer.send(200).unwrap();
        };
        let (waited, asked, ()) = tokio::join!(waiting, asking_it, stopping);
        assert_eq!((waited, asked), (None, Some(200)));
    }
}
