//! The requests to the backend that may be under way at a time, shared between branches: one with requests that hang leaves some to
//! the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

/// A branch has at most so many times as many requests under way as others could still begin.
const SHARE: usize = 3;
/// A branch without requests for so long is no other branch any more: one that is alone may have all of them.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Requests of a branch hang where none has ended before its time limit for so long.
const LATELY: Duration = Duration::from_secs(2);

/// The slots for requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RequestSlots(Arc<Mutex<SlotsState>>);

#[derive(Debug)]
struct SlotsState {
    free: usize,
    /// Branches with requests that are under way or wait.
    branches: HashMap<Arc<str>, BranchSlots>,
    /// Branches with requests that wait, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// The branch that asked last and when, and the one before it.
    asked: [Option<(Arc<str>, Instant)>; 2],
}

#[derive(Debug, Default)]
struct BranchSlots {
    under_way: usize,
    /// When one of them ended before its time limit.
    ended: Option<Instant>,
    /// Each gets its slot. One that does not wait any more is passed over.
    waiting: VecDeque<oneshot::Sender<RequestSlot>>,
}

/// The requests of the branch hang, and it has its share of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hangs;

/// The right to have a request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestSlot {
    slots: RequestSlots,
    branch: Arc<str>,
    hung: bool,
}

impl RequestSlot {
    /// The request came to its time limit.
    pub(super) fn hung(&mut self) {
        self.hung = true;
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        let granted = self.slots.state().release(&self.branch, !self.hung, Instant::now());
        self.slots.hand_out(granted);
    }
}

/// Slots that are counted as taken, each for the one that waited for it.
type Granted = Vec<(Arc<str>, oneshot::Sender<RequestSlot>)>;

impl RequestSlots {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(SlotsState {
            free: count,
            branches: HashMap::new(),
            turns: VecDeque::new(),
            asked: [None, None],
        })))
    }

    fn state(&self) -> MutexGuard<'_, SlotsState> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to make a request of this branch. Branches that wait take turns.
    ///
    /// # Errors
    /// If the branch has its share, and its requests hang.
    pub(super) async fn take(&self, branch: &str) -> Result<RequestSlot, Hangs> {
        let (branch, mut granted) = {
            let (mut state, now) = (self.state(), Instant::now());
            let branch = state.asks(branch, now);
            if state.goes_first(&branch) && state.may_begin(&branch, now) {
                state.begin(&branch);
                drop(state);
                return Ok(self.slot(branch));
            }
            let granted = state.wait(&branch);
            (branch, granted)
        };
        loop {
            match tokio::time::timeout(LATELY, &mut granted).await {
                Ok(Ok(slot)) => return Ok(slot),
                // The sender is dropped only after its receiver.
                Ok(Err(_)) => return Err(Hangs),
                Err(_) if self.state().hangs(&branch, Instant::now()) => return Err(Hangs),
                Err(_) => {}
            }
        }
    }

    fn slot(&self, branch: Arc<str>) -> RequestSlot {
        RequestSlot {
            slots: self.clone(),
            branch,
            hung: false,
        }
    }

    /// Without the lock: where no one waits for it any more, the slot is released at once.
    fn hand_out(&self, granted: Granted) {
        for (branch, waiting) in granted {
            let _ = waiting.send(self.slot(branch));
        }
    }
}

impl SlotsState {
    /// A branch asks: its name, to be kept.
    fn asks(&mut self, branch: &str, now: Instant) -> Arc<str> {
        let name = match self.branches.get_key_value(branch) {
            Some((name, _)) => Arc::clone(name),
            None => {
                let name: Arc<str> = Arc::from(branch);
                self.branches.insert(Arc::clone(&name), BranchSlots::default());
                name
            }
        };
        let [last, before] = &mut self.asked;
        match last {
            Some((known, at)) if *known == name => *at = now,
            _ => {
                *before = last.take();
                *last = Some((Arc::clone(&name), now));
            }
        }
        name
    }

    /// Whether no other request of the branch waits.
    fn goes_first(&mut self, branch: &str) -> bool {
        self.branches.get_mut(branch).is_none_or(BranchSlots::is_without_line)
    }

    fn may_begin(&self, branch: &str, now: Instant) -> bool {
        let Some(others) = self.free.checked_sub(1) else {
            return false;
        };
        let Some(of_branch) = self.branches.get(branch) else {
            return true;
        };
        let is_share = of_branch.under_way < SHARE * others;
        of_branch.under_way == 0 || is_share || of_branch.moves(now) && self.is_alone(branch, now)
    }

    /// Whether no other branch has requests, or had one lately.
    fn is_alone(&self, branch: &str, now: Instant) -> bool {
        let is_other = |name: &str| name != branch;
        let lately = |at: Instant| now.saturating_duration_since(at) < KNOWN_FOR;
        let asked = self.asked.iter().flatten();
        let mut asked_lately = asked.filter(|(_, at)| lately(*at));
        !asked_lately.any(|(name, _)| is_other(name)) && !self.branches.keys().any(|name| is_other(name))
    }

    fn begin(&mut self, branch: &Arc<str>) {
        self.free -= 1;
        self.branches.entry(Arc::clone(branch)).or_default().under_way += 1;
    }

    fn wait(&mut self, branch: &Arc<str>) -> oneshot::Receiver<RequestSlot> {
        let (waiting, granted) = oneshot::channel();
        let of_branch = self.branches.entry(Arc::clone(branch)).or_default();
        of_branch.waiting.push_back(waiting);
        if of_branch.waiting.len() == 1 && !self.turns.contains(branch) {
            self.turns.push_back(Arc::clone(branch));
        }
        granted
    }

    /// Whether the branch has requests under way, and they hang.
    fn hangs(&self, branch: &str, now: Instant) -> bool {
        let of_branch = self.branches.get(branch);
        of_branch.is_some_and(|of_branch| of_branch.under_way > 0 && !of_branch.moves(now))
    }

    /// A request has ended: who may begin now.
    fn release(&mut self, branch: &Arc<str>, in_time: bool, now: Instant) -> Granted {
        self.free += 1;
        if let Some(of_branch) = self.branches.get_mut(branch) {
            of_branch.under_way -= 1;
            if in_time {
                of_branch.ended = Some(now);
            }
        }
        let granted = self.grant(now);
        self.forget(branch);
        granted
    }

    /// Lets those begin that may, a branch after the other.
    fn grant(&mut self, now: Instant) -> Granted {
        let mut granted = Vec::new();
        let mut refused = 0;
        while self.free > 0 && refused < self.turns.len() {
            let Some(branch) = self.turns.pop_front() else { break };
            let is_done = self.goes_first(&branch);
            if !is_done && !self.may_begin(&branch, now) {
                self.turns.push_back(branch);
                refused += 1;
                continue;
            }
            let next = self.branches.get_mut(&branch).and_then(|of| of.waiting.pop_front());
            if let Some(next) = next {
                self.begin(&branch);
                granted.push((Arc::clone(&branch), next));
                refused = 0;
            }
            if self.goes_first(&branch) {
                self.forget(&branch);
            } else {
                self.turns.push_back(branch);
            }
        }
        granted
    }

    /// A branch with nothing under way and nothing that waits.
    fn forget(&mut self, branch: &str) {
        let is_idle = |of_branch: &mut BranchSlots| of_branch.under_way == 0 && of_branch.is_without_line();
        if self.branches.get_mut(branch).is_some_and(is_idle) {
            self.branches.remove(branch);
        }
    }
}

impl BranchSlots {
    /// Whether nothing waits; forgets what does not wait any more.
    fn is_without_line(&mut self) -> bool {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
        self.waiting.is_empty()
    }

    /// Whether one of its requests ended in time lately.
    fn moves(&self, now: Instant) -> bool {
        self.ended.is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    /// Takes as many as the branch gets at once, `most` at most.
    fn take(slots: &RequestSlots, branch: &str, most: usize) -> Vec<RequestSlot> {
        let taken = std::iter::from_fn(|| slots.take(branch).now_or_never()?.ok());
        taken.take(most).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_that_hangs_leaves_some_to_others() {
        for (count, share) in [(1, 1), (2, 1), (4, 3), (128, 96)] {
            let slots = RequestSlots::new(count);
            let hanging = take(&slots, "hangs", count);
            assert_eq!(hanging.len(), share, "of {count}");
            // What is left is shared in the same way.
            let mut others = Vec::new();
            for branch in ["b-1", "b-2", "b-3"] {
                let left = slots.state().free;
                others.extend(take(&slots, branch, count));
                assert!(left == 0 || slots.state().free < left, "{branch} of {count}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_alone_and_gets_answers_has_all_of_them() {
        let slots = RequestSlots::new(4);
        let mut taken = take(&slots, "b-1", 4);
        let waiting = slots.take("b-1");
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        taken.pop();
        taken.extend(waiting.now_or_never().unwrap());
        taken.extend(take(&slots, "b-1", 4));
        assert_eq!(taken.len(), 4);
        // As soon as another one asks, it has its share only.
        let other = slots.take("b-2");
        tokio::pin!(other);
        assert!(other.as_mut().now_or_never().is_none());
        taken.pop();
        let other = other.now_or_never().unwrap();
        assert!(other.is_ok());
        taken.pop();
        assert!(take(&slots, "b-1", 4).is_empty());
        drop((taken, other));
        // The other one is remembered for a while.
        let mut taken = take(&slots, "b-1", 4);
        taken.pop();
        taken.extend(take(&slots, "b-1", 4));
        assert_eq!(taken.len(), 3);
        tokio::time::advance(KNOWN_FOR).await;
        taken.pop();
        taken.extend(take(&slots, "b-1", 4));
        assert_eq!(taken.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn branches_that_wait_take_turns() {
        let slots = RequestSlots::new(1);
        let mut taken = take(&slots, "b-1", 1);
        let mut line = Vec::new();
        for branch in ["b-1", "b-1", "b-1", "b-2", "b-3", "b-3"] {
            let mut waiting = Box::pin(slots.take(branch));
            assert!(waiting.as_mut().now_or_never().is_none());
            line.push((branch, waiting));
        }
        let mut order = Vec::new();
        while let Some(ended) = taken.pop() {
            drop(ended);
            line.retain_mut(|(branch, waiting)| match waiting.as_mut().now_or_never() {
                Some(slot) => {
                    taken.push(slot.unwrap());
                    order.push(*branch);
                    false
                }
                None => true,
            });
        }
        assert_eq!(order, ["b-1", "b-2", "b-3", "b-1", "b-3", "b-1"]);
        assert!(slots.state().branches.is_empty() && slots.state().free == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_behind_those_that_hang_are_not_kept_waiting() {
        for hangs in [true, false] {
            let slots = RequestSlots::new(4);
            // It is not alone.
            drop(take(&slots, "other", 1));
            let mut hanging = take(&slots, "hangs", 4);
            let began = Instant::now();
            let mut waiting = [slots.take("hangs"), slots.take("hangs")].map(Box::pin);
            for one in &mut waiting {
                assert!(one.as_mut().now_or_never().is_none());
            }
            tokio::time::advance(LATELY / 2).await;
            // One ends, at its time limit or before.
            let mut ended = hanging.pop().unwrap();
            if hangs {
                ended.hung();
            }
            drop(ended);
            let [first, second] = waiting;
            let slot = first.await;
            assert!(slot.is_ok());
            assert_eq!(second.await.err(), Some(Hangs));
            let kept_waiting = if hangs { LATELY } else { 2 * LATELY };
            assert_eq!(began.elapsed(), kept_waiting);
        }
    }

    proptest! {
        /// Whatever is taken, given back and waited for no more: no slot is lost, none is given twice, and where one is free nothing
        /// waits of a branch without one.
        #[test]
        fn no_slot_is_lost(count in 1usize..9, steps in prop::collection::vec((0u8..4, 0usize..5, 0usize..20), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let slots = RequestSlots::new(count);
                let (mut taken, mut line) = (Vec::new(), Vec::new());
                for (step, branch, which) in steps {
                    match step {
                        0 | 1 => {
                            let (slots, branch) = (slots.clone(), format!("b-{branch}"));
                            line.push(Box::pin(async move { slots.take(&branch).await }));
                        }
                        2 if !taken.is_empty() => drop(taken.swap_remove(which % taken.len())),
                        3 if !line.is_empty() => drop(line.swap_remove(which % line.len())),
                        _ => {}
                    }
                    line.retain_mut(|waiting| match waiting.as_mut().now_or_never() {
                        Some(slot) => {
                            taken.extend(slot);
                            false
                        }
                        None => true,
                    });
                    let state = slots.state();
                    assert_eq!(taken.len() + state.free, count);
                    let without = state.branches.values().any(|of| of.under_way == 0 && of.waiting.iter().any(|one| !one.is_closed()));
                    assert!(state.free == 0 || !without);
                }
                line.clear();
                taken.clear();
                assert_eq!(slots.state().free, count);
            });
        }
    }
}
