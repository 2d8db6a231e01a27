//! The work queue of an instance: for each order what waits, and which tasks are ready.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use async_nats::jetstream::Message;

use super::{action::retried, queued_behind::QueuedBehind, rebuild::Mend};
use crate::{delivery::by_branch::ByBranch, event::Recorded, journal::codec::OrderKey, retry::Parking};

/// Most events and lanes in the queue, waiting or at work. The consumers' `max_ack_pending` is many times that: what
/// an instance held when it died is taken up from the log, but the server counts it until it has handed it out again.
pub(super) const MAX_QUEUED: usize = 1024;
/// Lanes among them: when a backend is back after hours, new orders must not wait for all that was parked meanwhile.
const MAX_DUE: usize = MAX_QUEUED / 2;
/// Most lanes that are repaired at a time, beside those.
pub(super) const MAX_MENDS: usize = 400;
/// From so many on an event that would wait in memory for its next attempt is parked instead.
const CROWDED: usize = MAX_QUEUED / 2;
/// Bytes of their payloads; one event more is always taken.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// An event in the queue, with the message to acknowledge.
pub(super) struct QueuedEvent {
    pub(super) event: Recorded,
    /// Requests that were made before.
    pub(super) requests: u32,
    /// It was about to be parked.
    pub(super) parked: Option<Parking>,
    /// None if it was read from the log: then the server will hand it out once more.
    pub(super) message: Option<Message>,
}

/// The work for an order.
pub(super) enum Work {
    /// An event that came from the consumer, or was left open.
    Event(Box<QueuedEvent>),
    /// Its lane is due.
    Due,
    /// Its lane is not as it should be.
    Mend(Box<Mend>),
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(item) => item.event.payload.len(),
            Self::Due | Self::Mend(_) => 0,
        }
    }
}

/// The next thing to do for an order.
pub(super) struct Task {
    pub(super) key: OrderKey,
    pub(super) work: Work,
}

/// The work of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The event at this sequence.
    Event(u64),
    /// A lane that was due.
    Lane,
    /// A lane that was not as it should be.
    Mend,
}

/// How a task ended.
pub(super) struct Done {
    pub(super) key: OrderKey,
    about: About,
    bytes: usize,
    /// At the head of the lane is an event of a newer version: it is not taken up again by this instance.
    pub(super) left: bool,
}

impl Done {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            key: task.key,
            about: match &task.work {
                Work::Event(item) => About::Event(item.event.sequence),
                Work::Due => About::Lane,
                Work::Mend(_) => About::Mend,
            },
            bytes: task.work.bytes(),
            left: false,
        }
    }

    /// Whether it was a lane's, which may be taken up again.
    pub(super) fn is_released(&self) -> bool {
        self.about == About::Lane && !self.left
    }

    /// Whether a lane is as it should be by it.
    pub(super) fn is_mended(&self) -> bool {
        self.about == About::Mend
    }
}

/// See the module.
pub(super) struct WorkQueue {
    /// Orders with something at work, and what waits behind it.
    orders: HashMap<OrderKey, VecDeque<Work>>,
    ready: VecDeque<Task>,
    /// Events, each with its branch.
    sequences: HashMap<u64, Arc<str>>,
    by_branch: ByBranch,
    /// Requests for a retry among them, each with the event that is retried.
    retried: HashMap<u64, u64>,
    /// Lanes that are at work or have their turn to come.
    due: HashSet<OrderKey>,
    /// Lanes that are being repaired, or are next.
    mends: usize,
    bytes: usize,
    behind: Arc<QueuedBehind>,
}

impl WorkQueue {
    /// An empty one, which shows the tasks what waits behind them.
    pub(super) fn new(behind: Arc<QueuedBehind>) -> Self {
        Self {
            behind,
            orders: HashMap::new(),
            ready: VecDeque::new(),
            sequences: HashMap::new(),
            by_branch: ByBranch::default(),
            retried: HashMap::new(),
            due: HashSet::new(),
            mends: 0,
            bytes: 0,
        }
    }

    fn count(&self) -> usize {
        self.sequences.len() + self.due.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.count() < MAX_QUEUED && self.bytes < MAX_QUEUED_BYTES
    }

    /// How many more there is room for.
    pub(super) fn room(&self) -> usize {
        if self.has_room() { MAX_QUEUED - self.count() } else { 0 }
    }

    /// How many events are held, at work or waiting; what is parked is not among them.
    pub(super) fn events(&self) -> usize {
        self.sequences.len()
    }

    /// How many of them are of a branch; those of no branch count as their provider's.
    pub(super) fn events_of(&self, branch: &str) -> u64 {
        self.by_branch.of(branch)
    }

    /// Whether an event is held, at work or waiting.
    pub(super) fn has_events(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// The oldest event that one of them takes up again.
    pub(super) fn oldest_retried(&self) -> Option<u64> {
        self.retried.values().copied().min()
    }

    pub(super) fn has_room_for_lanes(&self) -> bool {
        self.has_room() && self.due.len() < MAX_DUE
    }

    pub(super) fn has_room_for_mends(&self) -> bool {
        self.mends < MAX_MENDS
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.count() >= CROWDED || self.bytes > MAX_QUEUED_BYTES / 2
    }

    pub(super) fn is_queued(&self, sequence: u64) -> bool {
        self.sequences.contains_key(&sequence)
    }

    /// Lets nothing of an order begin until it is released: another instance works on it.
    pub(super) fn hold_back(&mut self, key: OrderKey) {
        self.orders.entry(key).or_default();
    }

    /// Makes the first task of an order that was held back ready.
    pub(super) fn release(&mut self, key: OrderKey) {
        if let Some(waiting) = self.orders.get_mut(&key) {
            match waiting.pop_front() {
                Some(work) => {
                    if let Work::Event(item) = &work {
                        self.behind.remove(key, &item.event);
                    }
                    self.ready.push_back(Task { key, work });
                }
                None => drop(self.orders.remove(&key)),
            }
        }
    }

    pub(super) fn push(&mut self, item: QueuedEvent) {
        let branch = self.by_branch.add(item.event.envelope.branch_or_provider(), 1);
        if let Some(known) = self.sequences.insert(item.event.sequence, branch) {
            self.by_branch.remove(&known, 1);
        }
        self.retried
            .extend(retried(&item.event).map(|original| (item.event.sequence, original)));
        self.bytes += item.event.payload.len();
        let key = OrderKey::of(&item.event);
        self.enqueue(key, Work::Event(Box::new(item)));
    }

    /// A lane is due.
    pub(super) fn push_due(&mut self, key: OrderKey) {
        if self.due.insert(key) {
            self.enqueue(key, Work::Due);
        }
    }

    /// A lane has to be repaired.
    pub(super) fn push_mend(&mut self, key: OrderKey, mend: Mend) {
        self.mends += 1;
        self.enqueue(key, Work::Mend(Box::new(mend)));
    }

    fn enqueue(&mut self, key: OrderKey, work: Work) {
        match self.orders.get_mut(&key) {
            Some(waiting) => {
                if let Work::Event(item) = &work {
                    self.behind.add(key, &item.event);
                }
                waiting.push_back(work);
            }
            None => {
                self.orders.insert(key, VecDeque::new());
                self.ready.push_back(Task { key, work });
            }
        }
    }

    pub(super) fn next(&mut self) -> Option<Task> {
        self.ready.pop_front()
    }

    /// Makes the next task of the order ready.
    pub(super) fn finish(&mut self, done: Done) {
        match done.about {
            About::Event(sequence) => {
                if let Some(branch) = self.sequences.remove(&sequence) {
                    self.by_branch.remove(&branch, 1);
                }
                self.retried.remove(&sequence);
            }
            About::Lane => drop(self.due.remove(&done.key)),
            About::Mend => self.mends -= 1,
        }
        self.bytes -= done.bytes;
        self.release(done.key);
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn item(sequence: u64, order: &str, bytes: usize) -> QueuedEvent {
        let sample = Recorded::sample("careem", order, "order_created", &vec![0; bytes], Utc::now());
        QueuedEvent {
            event: Recorded { sequence, ..sample },
            requests: 0,
            parked: None,
            message: None,
        }
    }

    fn none() -> WorkQueue {
        WorkQueue::new(Arc::default())
    }

    #[test]
    fn events_and_bytes_in_memory_are_limited() {
        let mut queue = none();
        (1..=511).for_each(|sequence| queue.push(item(sequence, "CR-1", 1)));
        assert!(!queue.is_crowded());
        (512..=1023).for_each(|sequence| queue.push(item(sequence, "CR-1", 1)));
        assert!(queue.is_crowded() && queue.has_room());
        queue.push(item(1024, "CR-1", 1));
        assert!(!queue.has_room() && queue.is_queued(1024));
        // When the first event ends, there is room, and the next event of its order is ready.
        let first = queue.next().unwrap();
        assert!(queue.next().is_none());
        queue.finish(Done::of(&first));
        assert!(queue.has_room() && !queue.is_queued(1));
        assert!(queue.next().is_some());

        let mut queue = none();
        queue.push(item(1, "CR-1", 16 * 1024 * 1024 - 1));
        assert!(queue.has_room() && queue.is_crowded(), "large ones crowd it, too");
        queue.push(item(2, "CR-2", 1));
        assert!(!queue.has_room());
        let large = queue.next().unwrap();
        queue.finish(Done::of(&large));
        assert!(queue.has_room());
    }

    #[test]
    fn lanes_that_are_due_leave_room_for_new_orders() {
        let mut keys = (0..600).map(|number| OrderKey::new("careem", &format!("CR-{number}")));
        let mut queue = none();
        while queue.has_room_for_lanes() {
            queue.push_due(keys.next().unwrap());
        }
        let mut at_work: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(at_work.len(), 512);
        assert!(queue.has_room() && !queue.has_events());
        let done = Done::of(&at_work.remove(0));
        assert!(done.is_released());
        queue.finish(done);
        assert!(queue.has_room_for_lanes(), "the next one takes its place");
    }

    #[test]
    fn a_held_order_delays_no_other() {
        let mut queue = none();
        let key = OrderKey::new("careem", "CR-1");
        queue.hold_back(key);
        queue.push(item(1, "CR-1", 1));
        queue.push_due(key);
        queue.push(item(2, "CR-2", 1));
        let other = queue.next().unwrap();
        assert!(other.key == OrderKey::new("careem", "CR-2") && queue.next().is_none());
        queue.release(key);
        let first = queue.next().unwrap();
        assert!(first.key == key && queue.next().is_none());
        queue.finish(Done::of(&first));
        assert!(matches!(queue.next().unwrap().work, Work::Due));
        queue.hold_back(OrderKey::new("careem", "CR-3"));
        queue.release(OrderKey::new("careem", "CR-3"));
        queue.push(item(3, "CR-3", 1));
        assert!(queue.next().is_some(), "an order with nothing to do is forgotten");
    }
}
