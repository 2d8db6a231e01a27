//! Which lanes are open, and which of them is due next. In memory, no I/O.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Lane,
    checksum::{LanePast, LanesChecksum},
};
use crate::{delivery::by_branch::ByBranch, journal::codec::OrderKey};

/// A lane that is open.
#[derive(Debug, Clone)]
pub(super) struct OpenLane {
    /// The sequence of its message, which the next write names.
    pub(super) revision: u64,
    pub(super) provider: String,
    /// See [`Lane::branch_or_provider`].
    branch: Arc<str>,
    /// The revisions before.
    pub(super) past: LanePast,
    /// The event that is tried again.
    head: u64,
    /// The oldest event in it, and the oldest one that the log must have for those in it: one that is retried is older than the
    /// request for that.
    oldest: u64,
    needs: u64,
    /// How many are in it; at most [`super::MAX_WAITING`] and one.
    events: u32,
    /// When it is due, in milliseconds since 1970, by the clock of the hub that wrote it.
    due_at: i64,
    /// A task works on it, so it is not in the queue.
    taken: bool,
    /// It is looked at before it is due.
    look: bool,
    /// The event in it that is to be tried then, because another order waits for it in the other lane.
    look_for: Option<u64>,
    /// When it was made due last by such a look, in milliseconds since 1970.
    looked_at: i64,
    /// Events behind the head may be tried before it.
    pub(super) has_others: bool,
    /// Its head waits for the other lane of its order. Another instance does not know that: there it is tried when it is due.
    is_behind: bool,
}

impl OpenLane {
    pub(super) fn new(revision: u64, past: LanePast, lane: &Lane) -> Self {
        Self {
            revision,
            provider: lane.provider.clone(),
            branch: Arc::from(lane.branch_or_provider()),
            past,
            head: lane.head,
            needs: lane.needs_from(),
            oldest: lane.sequences().min().unwrap_or_default(),
            events: u32::try_from(lane.sequences().count()).unwrap_or(u32::MAX),
            due_at: lane.due_at.timestamp_millis(),
            taken: false,
            look: false,
            look_for: None,
            looked_at: i64::MIN,
            has_others: !lane.waiting.is_empty() && (lane.is_mixed || !lane.tried.is_empty()),
            is_behind: false,
        }
    }

    /// Where it is in the queue.
    const fn turn(&self) -> i64 {
        if self.look { i64::MIN } else { self.due_at }
    }
}

/// The open lanes of a stage: some 250 bytes each, so 100,000 parked orders take 25 MB. The name of a branch is kept once.
#[derive(Debug, Default)]
pub(super) struct LaneTable {
    open: HashMap<OrderKey, OpenLane>,
    /// Those without a task, the earliest first.
    queue: BTreeSet<(i64, OrderKey)>,
    /// All of them, that with the oldest event first.
    oldest: BTreeSet<(u64, OrderKey)>,
    /// Those with requests for a retry, that which takes up the oldest event first.
    retrying: BTreeSet<(u64, OrderKey)>,
    /// Events in all of them, and in those of each branch.
    events: u64,
    by_branch: ByBranch,
    checksum: LanesChecksum,
}

impl LaneTable {
    pub(super) fn get(&self, key: OrderKey) -> Option<&OpenLane> {
        self.open.get(&key)
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = &OpenLane> {
        self.open.values()
    }

    /// Notes how a lane was written. One with a task is queued when the task is done ([`Self::release`]).
    pub(super) fn put(&mut self, key: OrderKey, mut lane: OpenLane) {
        if let Some(before) = self.open.get(&key) {
            (lane.taken, lane.look) = (before.taken, before.look);
            (lane.look_for, lane.looked_at) = (before.look_for, before.looked_at);
            lane.is_behind = before.is_behind && before.head == lane.head;
            self.queue.remove(&(before.turn(), key));
            self.oldest.remove(&(before.oldest, key));
            self.retrying.remove(&(before.needs, key));
            self.events -= u64::from(before.events);
            self.by_branch.remove(&before.branch, u64::from(before.events));
            self.checksum.remove(key, before.revision);
        }
        self.oldest.insert((lane.oldest, key));
        if lane.needs < lane.oldest {
            self.retrying.insert((lane.needs, key));
        }
        self.events += u64::from(lane.events);
        lane.branch = self.by_branch.add(&lane.branch, u64::from(lane.events));
        self.checksum.add(key, lane.revision);
        self.seen(lane.revision);
        if !lane.taken {
            self.queue.insert((lane.turn(), key));
        }
        self.open.insert(key, lane);
    }

    pub(super) fn remove(&mut self, key: OrderKey) {
        if let Some(lane) = self.open.remove(&key) {
            self.queue.remove(&(lane.turn(), key));
            self.oldest.remove(&(lane.oldest, key));
            self.retrying.remove(&(lane.needs, key));
            self.events -= u64::from(lane.events);
            self.by_branch.remove(&lane.branch, u64::from(lane.events));
            self.checksum.remove(key, lane.revision);
        }
    }

    /// How many events of a branch are parked.
    pub(super) fn parked_of(&self, branch: &str) -> u64 {
        self.by_branch.of(branch)
    }

    /// How many events are parked, and the oldest place that the log must have for one of them.
    pub(super) fn parked(&self) -> (u64, Option<u64>) {
        let first = [self.oldest.first(), self.retrying.first()];
        (self.events, first.into_iter().flatten().map(|(place, _)| *place).min())
    }

    /// The stream is so far.
    pub(super) fn seen(&mut self, revision: u64) {
        self.checksum.newest = self.checksum.newest.max(revision);
    }

    /// The checksum of all open lanes.
    pub(super) fn checksum(&self) -> LanesChecksum {
        let oldest = self.oldest.first().map(|(sequence, _)| *sequence);
        LanesChecksum {
            oldest,
            ..self.checksum
        }
    }

    /// The lane that is due first, if one is due at that time; the caller returns it with [`Self::release`].
    pub(super) fn take_due(&mut self, by: DateTime<Utc>) -> Option<OrderKey> {
        let (due_at, key) = *self.queue.first()?;
        if due_at > by.timestamp_millis() {
            return None;
        }
        self.queue.pop_first();
        if let Some(lane) = self.open.get_mut(&key) {
            lane.taken = true;
        }
        Some(key)
    }

    /// Lanes without a task with an event that needs what the log has up to this place, whenever they are due, so many at most; the
    /// caller returns each with [`Self::release`].
    pub(super) fn take_older(&mut self, up_to: u64, most: usize) -> Vec<OrderKey> {
        let older = [&self.oldest, &self.retrying];
        let older = older.map(|lanes| lanes.iter().take_while(|(place, _)| *place <= up_to));
        let mut found = Vec::new();
        for (_, key) in older.into_iter().flatten() {
            if found.len() == most {
                break;
            }
            if let Some(lane) = self.open.get_mut(key)
                && !std::mem::replace(&mut lane.taken, true)
            {
                self.queue.remove(&(lane.turn(), *key));
                found.push(*key);
            }
        }
        found
    }

    /// The lane's task has ended: an open lane is queued again, by its present due time.
    pub(super) fn release(&mut self, key: OrderKey) {
        if let Some(lane) = self.open.get_mut(&key)
            && std::mem::take(&mut lane.taken)
        {
            self.queue.insert((lane.turn(), key));
        }
    }

    /// Has a lane taken up before it is due, to look whether it has to be worked on now. One with a task is taken up once more after that.
    pub(super) fn look_at(&mut self, key: OrderKey) {
        if let Some(lane) = self.open.get_mut(&key)
            && !lane.look
        {
            let queued = self.queue.remove(&(lane.turn(), key));
            lane.look = true;
            if queued {
                self.queue.insert((lane.turn(), key));
            }
        }
    }

    /// The same, to try one of its events.
    pub(super) fn look_for(&mut self, key: OrderKey, event: u64) {
        self.look_at(key);
        if let Some(lane) = self.open.get_mut(&key) {
            lane.look_for = Some(event);
        }
    }

    /// Which event a lane that the caller looks at is looked at for.
    pub(super) fn take_looked_for(&mut self, key: OrderKey) -> Option<u64> {
        self.open.get_mut(&key)?.look_for.take()
    }

    /// When a lane may be made due by a look: not sooner than so many milliseconds after the last time, or two lanes could have each other tried
    /// without a pause. The caller makes it due then.
    pub(super) fn next_look(&mut self, key: OrderKey, now: DateTime<Utc>, pause: i64) -> DateTime<Utc> {
        let now = now.timestamp_millis();
        let Some(lane) = self.open.get_mut(&key) else {
            return DateTime::from_timestamp_millis(now).unwrap_or_default();
        };
        if lane.looked_at <= now {
            lane.looked_at = now.max(lane.looked_at.saturating_add(pause));
        }
        DateTime::from_timestamp_millis(lane.looked_at).unwrap_or_default()
    }

    /// Notes whether the head of a lane waits for the other lane of its order. It holds as long as that is the head, also when other events
    /// join the lane.
    pub(super) fn note_behind(&mut self, key: OrderKey, is_behind: bool) {
        if let Some(lane) = self.open.get_mut(&key) {
            lane.is_behind = is_behind;
        }
    }

    /// Whether that was noted.
    pub(super) fn is_behind(&self, key: OrderKey) -> bool {
        self.open.get(&key).is_some_and(|lane| lane.is_behind)
    }

    /// Whether a lane is to be looked at, once for each time that it was said. The caller works on the lane.
    pub(super) fn take_look(&mut self, key: OrderKey) -> bool {
        let Some(lane) = self.open.get_mut(&key).filter(|lane| lane.look) else {
            return false;
        };
        let queued = self.queue.remove(&(lane.turn(), key));
        lane.look = false;
        if queued {
            self.queue.insert((lane.turn(), key));
        }
        true
    }

    /// When the first lane without a task is due.
    pub(super) fn first_due(&self) -> Option<DateTime<Utc>> {
        let (due_at, _) = self.queue.first()?;
        DateTime::from_timestamp_millis((*due_at).max(0))
    }

    /// How many are due by then, and not worked on; counted up to `most`.
    pub(super) fn due_by(&self, by: DateTime<Utc>, most: usize) -> usize {
        let by = by.timestamp_millis();
        self.queue
            .iter()
            .take(most)
            .take_while(|(due_at, _)| *due_at <= by)
            .count()
    }
}

#[cfg(test)]
mod tests;
