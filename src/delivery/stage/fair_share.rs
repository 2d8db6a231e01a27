//! Shares a narrow stage between parked and new events, which take turns.
//!
//! A half-open breaker lets three requests through. Without turns the first to come take all of them: under traffic the new
//! orders, after an outage the parked ones.

use tokio::sync::Mutex;

/// The two kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkKind {
    /// An event that came from the consumer, or was left open.
    Event,
    /// The head of a lane.
    Lane,
}

/// Lets both kinds through in turns, each in the order of its coming.
#[derive(Debug, Default)]
pub(super) struct FairShare {
    events: Mutex<()>,
    lanes: Mutex<()>,
    /// At most one of each kind waits for it. It is fair, so neither gets it twice while the other one waits.
    next: Mutex<()>,
}

impl FairShare {
    /// Waits for its turn, then for the stage. The next one has its turn when this one goes on, which it does without a
    /// pause until it asks for its request.
    pub(super) async fn wait(&self, kind: WorkKind, ready: impl Future<Output = ()>) {
        let line = match kind {
            WorkKind::Event => &self.events,
            WorkKind::Lane => &self.lanes,
        };
        let _first_of_its_kind = line.lock().await;
        let _next = self.next.lock().await;
        ready.await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures_util::{StreamExt as _, stream::FuturesUnordered};
    use tokio::sync::Notify;

    use super::*;

    /// A window lets three through, whatever waits.
    #[tokio::test]
    async fn both_kinds_have_a_share_of_a_narrow_window() {
        let (shares, opened) = (FairShare::default(), Notify::new());
        let (permits, passed) = (Cell::new(0), RefCell::new(Vec::new()));
        let kinds = std::iter::repeat_n(WorkKind::Event, 50).chain(std::iter::repeat_n(WorkKind::Lane, 50));
        let tasks: FuturesUnordered<_> = kinds
            .enumerate()
            .map(async |(number, kind)| {
                let ready = async {
                    while permits.get() == 0 {
                        opened.notified().await;
                    }
                };
                shares.wait(kind, ready).await;
                permits.set(permits.get() - 1);
                passed.borrow_mut().push((kind, number));
            })
            .collect();
        let all = tasks.collect::<Vec<_>>();
        let windows = async {
            while passed.borrow().len() < 100 {
                permits.set(permits.get() + 3);
                opened.notify_one();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
        };
        futures_util::join!(all, windows);
        let passed = passed.into_inner();
        for pair in passed.chunks(2) {
            assert_ne!(pair[0].0, pair[1].0, "{passed:?}");
        }
        for kind in [WorkKind::Event, WorkKind::Lane] {
            let order: Vec<_> = passed.iter().filter(|one| one.0 == kind).map(|one| one.1).collect();
            assert!(order.is_sorted(), "{order:?}");
        }
    }
}
