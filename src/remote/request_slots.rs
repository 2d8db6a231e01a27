//! Limits how many requests of a provider, and of each of its branches, run or wait for a slot. So a slow provider cannot fill the stage, and
//! a hanging branch cannot keep other branches from their provider.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault_injection;

/// Requests to one provider that are under way at a time.
pub const MAX_REQUESTS: usize = 16;
/// And those that wait for that: what is more waits elsewhere, so that a slow provider does not fill the stage.
const MAX_WAITING: usize = 112;
/// The share of both that one branch may have, where there are others.
const OF_A_BRANCH: usize = 2;
/// How long what finds no place waits at least.
const NO_PLACE: Duration = Duration::from_secs(2);
/// And at most: a provider that answers again is not to be idle.
const MAX_NO_PLACE: Duration = Duration::from_secs(4);
/// By how much each that finds no place waits longer than the one before, so that a crowd does not come back together.
const NO_PLACE_SPACING: Duration = Duration::from_millis(20);

/// The request slots of one provider.
pub(super) struct RequestSlots {
    places: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    state: Arc<Mutex<SlotsState>>,
}

#[derive(Default)]
struct SlotsState {
    branches: HashMap<String, BranchSlots>,
    /// When the next that finds no place comes back.
    back: Option<Instant>,
}

/// The slots of a branch.
struct BranchSlots {
    places: usize,
    slots: Arc<Semaphore>,
}

/// A queued request: it runs once a slot is free.
pub(super) struct QueuedRequest {
    _place: OwnedSemaphorePermit,
    slots: Arc<Semaphore>,
    of_branch: Option<BranchShare>,
}

struct BranchShare {
    branch: String,
    slots: Arc<Semaphore>,
    state: Arc<Mutex<SlotsState>>,
}

/// The right to have a request under way.
pub(super) struct RunningRequest {
    _slots: [Option<OwnedSemaphorePermit>; 2],
}

impl Default for RequestSlots {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_REQUESTS + MAX_WAITING)),
            slots: Arc::new(Semaphore::new(MAX_REQUESTS)),
            state: Arc::default(),
        }
    }
}

fn lock(state: &Mutex<SlotsState>) -> MutexGuard<'_, SlotsState> {
    // No code panics while it holds this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RequestSlots {
    /// A place for a request of this branch; none: of the provider's only one, which may have all of them.
    ///
    /// # Errors
    /// How long to wait where there is none.
    pub(super) fn enter(&self, now: Instant, branch: Option<&str>) -> Result<QueuedRequest, Duration> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(self.later(now));
        };
        let Some(branch) = branch else {
            return Ok(self.place(place, None));
        };
        let mut state = lock(&self.state);
        let of_branch = state.branches.entry(branch.to_owned()).or_insert_with(|| BranchSlots {
            places: 0,
            slots: Arc::new(Semaphore::new(MAX_REQUESTS / OF_A_BRANCH)),
        });
        if of_branch.places >= (MAX_REQUESTS + MAX_WAITING) / OF_A_BRANCH {
            drop(state);
            return Err(self.later(now));
        }
        of_branch.places += 1;
        let slots = Arc::clone(&of_branch.slots);
        drop(state);
        let of_branch = BranchShare {
            branch: branch.to_owned(),
            slots,
            state: Arc::clone(&self.state),
        };
        Ok(self.place(place, Some(of_branch)))
    }

    fn place(&self, place: OwnedSemaphorePermit, of_branch: Option<BranchShare>) -> QueuedRequest {
        QueuedRequest {
            _place: place,
            slots: Arc::clone(&self.slots),
            of_branch,
        }
    }

    fn later(&self, now: Instant) -> Duration {
        let shortest = fault_injection::time("no_place", NO_PLACE);
        let mut state = lock(&self.state);
        let back = state.back.map_or(now, |back| back.max(now)) + NO_PLACE_SPACING;
        let wait = (shortest + (back - now)).min(MAX_NO_PLACE);
        if wait < MAX_NO_PLACE {
            state.back = Some(back);
        }
        wait
    }
}

impl QueuedRequest {
    /// Waits for the branch's turn, and then for the provider's: what hangs of one branch waits for itself.
    pub(super) async fn turn(&self) -> RunningRequest {
        let of_branch = match &self.of_branch {
            // It fails only if the semaphore is closed, which never happens.
            Some(of_branch) => Arc::clone(&of_branch.slots).acquire_owned().await.ok(),
            None => None,
        };
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        RunningRequest {
            _slots: [of_branch, slot],
        }
    }
}

impl Drop for BranchShare {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(of_branch) = state.branches.get_mut(&self.branch) {
            of_branch.places -= 1;
            // Slots are released before the place, so no request is under way.
            if of_branch.places == 0 {
                state.branches.remove(&self.branch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    async fn under_way(
        rooms: &RequestSlots,
        branch: Option<&str>,
        count: usize,
    ) -> Vec<(RunningRequest, QueuedRequest)> {
        let enter = |_| async { rooms.enter(Instant::now(), branch).ok() };
        let places: Vec<_> = join_all((0..count).map(enter)).await.into_iter().flatten().collect();
        let with_slot = places
            .into_iter()
            .filter_map(|place| Some((place.turn().now_or_never()?, place)));
        with_slot.collect()
    }

    #[tokio::test]
    async fn one_branch_of_several_has_half_of_the_slots_and_the_only_one_all() {
        let rooms = RequestSlots::default();
        let hangs = under_way(&rooms, Some("b-1"), 100).await;
        assert_eq!(hangs.len(), 8);
        let other = under_way(&rooms, Some("b-2"), 100).await;
        assert_eq!(other.len(), 8);
        assert_eq!(under_way(&rooms, Some("b-3"), 1).await.len(), 0, "sixteen at a time");
        drop(hangs);
        assert_eq!(under_way(&rooms, Some("b-3"), 100).await.len(), 8);
        drop(other);
        assert!(lock(&rooms.state).branches.is_empty(), "unused branches are not kept");
        assert_eq!(under_way(&rooms, None, 100).await.len(), 16);
    }

    #[tokio::test]
    async fn requests_without_a_place_come_back_one_after_the_other() {
        let (rooms, now) = (RequestSlots::default(), Instant::now());
        let of_one: Vec<_> = (0..64).map(|_| rooms.enter(now, Some("b-1")).unwrap()).collect();
        let wait = rooms.enter(now, Some("b-1")).err();
        assert_eq!(wait, Some(NO_PLACE + NO_PLACE_SPACING));
        assert_eq!(
            rooms.enter(now, Some("b-1")).err(),
            Some(NO_PLACE + 2 * NO_PLACE_SPACING)
        );
        let others: Vec<_> = (0..64).map(|_| rooms.enter(now, Some("b-2")).unwrap()).collect();
        let longest = (0..1000).filter_map(|_| rooms.enter(now, None).err()).max();
        assert_eq!(longest, Some(MAX_NO_PLACE));
        assert_eq!(
            rooms.enter(now + MAX_NO_PLACE, None).err(),
            Some(NO_PLACE + NO_PLACE_SPACING)
        );
        drop((of_one, others));
        assert!(rooms.enter(now, Some("b-1")).is_ok());
    }
}
