//! The index: where the events of an order are on the log. Pure, and small: twelve bytes for each webhook.
//!
//! An entry holds 32 bits of a hash of the order, and 14 bits each of hashes of the webhook and of the branch. Hashes only
//! say where to look: before code acts on an entry, it reads the event. Entries are kept in segments in the log's order; the
//! newest one grows, the others are sorted lists. The oldest segment is dropped as a whole.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    mem,
};

use chrono::{DateTime, TimeDelta, Utc};

pub(crate) use super::state::EntryState;
use crate::event::{Envelope, EventId};

/// Most entries, 24 MB of them: 500,000 orders with two changes each. The window gets shorter where more come in it.
pub(super) const MAX_ENTRIES: usize = 2_000_000;
/// Entries of a segment: what is forgotten at a time, and what a look-up searches. With the largest index there are eight.
const SEGMENT_ENTRIES: usize = MAX_ENTRIES / 8;
/// Parts of the window after which a segment ends, however few entries it has.
const SEGMENTS_IN_WINDOW: i32 = 16;
/// Bits of the hash that name a bucket of a sorted segment.
const BUCKET_BITS: u32 = 12;
/// Bits of a fingerprint.
const PRINT_BITS: u32 = 14;
/// How far below a segment's first sequence an entry of it may be: what the reader of the log adds comes after what this
/// instance added itself.
const BELOW_FIRST: u64 = 1 << 31;

/// Hashes of what is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prints {
    pub(super) order: u32,
    pub(super) webhook: u16,
    pub(super) branch: u16,
}

/// An entry, as it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Place on the log of the event.
    pub(crate) sequence: u64,
    pub(crate) state: EntryState,
    pub(crate) webhook: u16,
    pub(crate) branch: u16,
}

/// State and fingerprints in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u32);

impl Packed {
    const fn new(state: EntryState, prints: Prints) -> Self {
        Self((state as u32) << (2 * PRINT_BITS) | (prints.webhook as u32) << PRINT_BITS | prints.branch as u32)
    }

    fn found(self, sequence: u64) -> IndexEntry {
        let print = |shift: u32| (self.0 >> shift & ((1 << PRINT_BITS) - 1)) as u16;
        let state = EntryState::ALL[(self.0 >> (2 * PRINT_BITS)) as usize];
        let (webhook, branch) = (print(PRINT_BITS), print(0));
        IndexEntry {
            sequence,
            state,
            webhook,
            branch,
        }
    }

    fn set(&mut self, state: EntryState) {
        self.0 = self.0 & ((1 << (2 * PRINT_BITS)) - 1) | (state as u32) << (2 * PRINT_BITS);
    }
}

/// A sorted segment.
struct Segment {
    base: u64,
    /// By hash, then by sequence.
    entries: Vec<(u32, u32, Packed)>,
    /// Where the entries of each bucket begin; one more than there are buckets.
    buckets: Vec<u32>,
    newest: DateTime<Utc>,
}

impl Segment {
    fn bucket(&mut self, order: u32) -> &mut [(u32, u32, Packed)] {
        let bucket = (order >> (u32::BITS - BUCKET_BITS)) as usize;
        let of_bucket = &mut self.entries[self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize];
        let begin = of_bucket.partition_point(|(hash, _, _)| *hash < order);
        let end = of_bucket.partition_point(|(hash, _, _)| *hash <= order);
        &mut of_bucket[begin..end]
    }
}

/// The segment that grows.
struct Growing {
    base: u64,
    entries: BTreeMap<(u32, u32), Packed>,
    oldest: DateTime<Utc>,
    newest: DateTime<Utc>,
}

impl Growing {
    fn sealed(self) -> Segment {
        let entries: Vec<_> = self
            .entries
            .into_iter()
            .map(|((hash, at), packed)| (hash, at, packed))
            .collect();
        let starts = (0..=1u64 << BUCKET_BITS).map(|bucket| {
            let least = bucket << (u32::BITS - BUCKET_BITS);
            u32::try_from(entries.partition_point(|(hash, _, _)| u64::from(*hash) < least)).unwrap_or(u32::MAX)
        });
        Segment {
            base: self.base,
            buckets: starts.collect(),
            newest: self.newest,
            entries,
        }
    }

    fn place(&self, sequence: u64) -> Option<u32> {
        u32::try_from(sequence.checked_sub(self.base)?).ok()
    }
}

/// See the module.
pub(super) struct Index {
    hasher: RandomState,
    window: TimeDelta,
    limit: usize,
    segments: VecDeque<Segment>,
    growing: Option<Growing>,
    count: usize,
    /// Of what is older, entries may be missing.
    pub(super) complete_since: DateTime<Utc>,
    /// The time of the newest entry that was dropped because the index was full or the entry was too old.
    dropped_up_to: DateTime<Utc>,
}

impl Index {
    pub(super) fn new(window: TimeDelta) -> Self {
        Self::with_limit(window, MAX_ENTRIES)
    }

    fn with_limit(window: TimeDelta, limit: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            window,
            limit,
            segments: VecDeque::new(),
            growing: None,
            count: 0,
            complete_since: DateTime::<Utc>::MAX_UTC,
            dropped_up_to: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// An empty one with the same hashes, so that the entries of both can be compared.
    pub(super) fn alike(&self) -> Self {
        let mut alike = Self::with_limit(self.window, self.limit);
        alike.hasher = self.hasher.clone();
        alike
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        (self.growing, self.count, self.complete_since) = (None, 0, DateTime::<Utc>::MAX_UTC);
        self.dropped_up_to = DateTime::<Utc>::MIN_UTC;
        self.segments.clear();
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn prints(&self, provider: &str, order: &str, webhook: EventId, branch: Option<&str>) -> Prints {
        let print = |hash: u64| (hash & ((1 << PRINT_BITS) - 1)) as u16;
        Prints {
            order: (self.hasher.hash_one((provider, order)) >> 32) as u32,
            webhook: print(self.hasher.hash_one(webhook)),
            branch: print(self.hasher.hash_one(branch)),
        }
    }

    /// The prints of an event.
    pub(super) fn prints_of(&self, envelope: &Envelope) -> Prints {
        let (provider, order) = (&envelope.provider, &envelope.external_order_id);
        self.prints(provider, order, envelope.root_id, envelope.branch.as_deref())
    }

    /// The print of a branch alone.
    pub(super) fn branch_print(&self, branch: Option<&str>) -> u16 {
        self.prints("", "", EventId::of_unreadable(0), branch).branch
    }

    /// Adds an entry, unless there is one for this event. False if older ones had to go before their time.
    pub(super) fn put(&mut self, prints: Prints, sequence: u64, state: EntryState, time: DateTime<Utc>) -> bool {
        if self.find(prints.order, sequence).is_some() {
            return true;
        }
        let part = self.window / SEGMENTS_IN_WINDOW;
        let ends = self.growing.as_ref().is_some_and(|growing| {
            growing.entries.len() >= SEGMENT_ENTRIES.min(self.limit / 8).max(1)
                || time - growing.oldest > part
                || growing.place(sequence).is_none()
        });
        if ends && let Some(growing) = self.growing.take() {
            self.segments.push_back(growing.sealed());
        }
        let growing = self.growing.get_or_insert_with(|| Growing {
            base: sequence.saturating_sub(BELOW_FIRST),
            entries: BTreeMap::new(),
            oldest: time,
            newest: time,
        });
        if let Some(at) = growing.place(sequence) {
            growing.entries.insert((prints.order, at), Packed::new(state, prints));
            growing.newest = growing.newest.max(time);
            self.count += 1;
        }
        let is_over = self.count > self.limit;
        if is_over {
            self.drop_oldest();
        }
        !is_over
    }

    /// Records the outcome of an event; false if the event is not in the index. An order that the backend may have does not become one
    /// that it does not have because a retry of it was ignored.
    pub(super) fn settle(&mut self, order: u32, sequence: u64, state: EntryState) -> bool {
        let Some(packed) = self.find(order, sequence) else {
            return false;
        };
        packed.set(packed.found(0).state.then(state));
        true
    }

    /// Records that an announcement was given up without a request of its own: where it has no earlier outcome, the backend does not
    /// have it. False if the event is not in the index.
    pub(super) fn settle_unposted(&mut self, order: u32, sequence: u64) -> bool {
        let Some(packed) = self.find(order, sequence) else {
            return false;
        };
        if packed.found(0).state == EntryState::Creation {
            packed.set(EntryState::CreationRefused);
        }
        true
    }

    fn find(&mut self, order: u32, sequence: u64) -> Option<&mut Packed> {
        if let Some(growing) = &mut self.growing
            && let Some(at) = growing.place(sequence)
            && let Some(packed) = growing.entries.get_mut(&(order, at))
        {
            return Some(packed);
        }
        // The newest segment first: most look-ups are for recent entries.
        self.segments.iter_mut().rev().find_map(|segment| {
            let at = u32::try_from(sequence.checked_sub(segment.base)?).ok()?;
            let found = segment.bucket(order).iter_mut().find(|(_, place, _)| *place == at);
            found.map(|(_, _, packed)| packed)
        })
    }

    /// All entries of an order, in the log's order.
    pub(super) fn of(&mut self, order: u32) -> Vec<IndexEntry> {
        let mut found = Vec::new();
        for segment in &mut self.segments {
            let base = segment.base;
            let entries = segment.bucket(order).iter();
            found.extend(entries.map(|(_, at, packed)| packed.found(base + u64::from(*at))));
        }
        if let Some(growing) = &self.growing {
            let entries = growing.entries.range((order, 0)..=(order, u32::MAX));
            found.extend(entries.map(|((_, at), packed)| packed.found(growing.base + u64::from(*at))));
        }
        found.sort_unstable_by_key(|found| found.sequence);
        found
    }

    /// Forgets the segments that end before the window does.
    pub(super) fn forget(&mut self, now: DateTime<Utc>) {
        let begin = now - self.window;
        while self.segments.front().is_some_and(|oldest| oldest.newest < begin) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let sealed = self.segments.pop_front();
        let gone = sealed.map(|segment| (segment.entries.len(), segment.newest));
        // If one segment reaches the limit, the growing one is the only one.
        let gone = gone.or_else(|| mem::take(&mut self.growing).map(|growing| (growing.entries.len(), growing.newest)));
        let (count, newest) = gone.unwrap_or_default();
        self.dropped_up_to = self.dropped_up_to.max(newest);
        (self.count, self.complete_since) = (self.count - count, self.complete_since.max(newest));
    }

    /// All from a time on was read. What was dropped meanwhile is not known.
    pub(super) fn is_complete_since(&mut self, since: DateTime<Utc>) {
        self.complete_since = since.max(self.dropped_up_to);
    }

    /// When the newest entry of the oldest segment was made: how far back all is known.
    pub(super) fn reaches_back_to(&self) -> Option<DateTime<Utc>> {
        let oldest = self.segments.front().map(|segment| segment.newest);
        oldest.or_else(|| self.growing.as_ref().map(|growing| growing.oldest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_759_320_000_000).unwrap()
    }

    fn index(limit: usize) -> Index {
        Index::with_limit(TimeDelta::hours(48), limit)
    }

    fn prints(index: &Index, order: &str, webhook: u8) -> Prints {
        index.prints(
            "careem",
            order,
            EventId::of_webhook("careem", &[&[webhook]]),
            Some("branch"),
        )
    }

    #[test]
    fn an_entry_has_twelve_bytes() {
        assert_eq!(size_of::<(u32, u32, Packed)>(), 12);
    }

    #[test]
    fn states_read_back() {
        for state in EntryState::ALL {
            let prints = Prints {
                order: 1,
                webhook: 0x3fff,
                branch: 0x1234,
            };
            let found = Packed::new(state, prints).found(7);
            assert_eq!((found.state, found.webhook, found.branch), (state, 0x3fff, 0x1234));
            let mut other = Packed::new(EntryState::Ended, prints);
            other.set(state);
            assert_eq!(other.found(7), found);
        }
    }

    #[test]
    fn a_forwarded_state_is_final() {
        let mut index = index(1000);
        let one = prints(&index, "CR-1", 1);
        index.put(one, 5, EntryState::Creation, now());
        assert!(index.settle(one.order, 5, EntryState::CreationUncertain));
        // A retry that made no request says nothing of the requests before it.
        assert!(index.settle(one.order, 5, EntryState::CreationIgnored));
        assert_eq!(index.of(one.order)[0].state, EntryState::CreationUncertain);
        assert!(index.settle(one.order, 5, EntryState::CreationForwarded));
        assert!(index.settle(one.order, 5, EntryState::CreationRefused));
        assert_eq!(index.of(one.order)[0].state, EntryState::CreationForwarded);
        assert!(!index.settle(one.order, 6, EntryState::CreationForwarded));
        // The reader of the log reads it later.
        index.put(one, 5, EntryState::Creation, now());
        assert_eq!(
            (index.count(), index.of(one.order)[0].state),
            (1, EntryState::CreationForwarded)
        );
    }

    /// An end without a request does not hide that the backend may have an announcement.
    #[test]
    fn what_may_be_at_the_backend_is_not_forgotten() {
        use EntryState::{CreationAsNews, CreationIgnored, CreationOutOfTurn, CreationRefused, CreationUncertain};
        let ends = [
            (vec![CreationUncertain, CreationIgnored], CreationUncertain),
            (vec![CreationUncertain, CreationRefused], CreationRefused),
            (vec![CreationRefused, CreationIgnored], CreationIgnored),
            (vec![CreationIgnored, CreationAsNews], CreationOutOfTurn),
            (vec![CreationRefused, CreationAsNews, CreationIgnored], CreationAsNews),
        ];
        for (ends, expected) in ends {
            let mut index = index(1000);
            let one = prints(&index, "CR-1", 1);
            index.put(one, 5, EntryState::Creation, now());
            for end in &ends {
                index.settle(one.order, 5, *end);
            }
            assert_eq!(index.of(one.order)[0].state, expected, "{ends:?}");
        }
    }

    /// More is on the log than fits: what was dropped while it was read is not known afterwards.
    #[test]
    fn what_was_dropped_during_the_first_reading_is_not_called_known() {
        let mut index = index(80);
        for at in 1..=200 {
            let prints = prints(&index, &format!("CR-{at}"), 0);
            index.put(prints, at, EntryState::Creation, now());
        }
        assert_eq!(index.complete_since, DateTime::<Utc>::MAX_UTC, "not while it is read");
        index.is_complete_since(now() - TimeDelta::hours(48));
        assert_eq!(index.complete_since, now());
    }

    #[test]
    fn the_oldest_go_first_by_number_and_by_time() {
        let mut index = index(80);
        let whole = (1..=200u64).filter(|at| {
            let prints = prints(&index, &format!("CR-{at}"), 0);
            !index.put(prints, *at, EntryState::Creation, now())
        });
        assert!(whole.count() > 5, "it says when they go before their time");
        assert!(index.count() <= 80 && index.count() >= 60, "{}", index.count());
        let known = |index: &mut Index, at: u64| {
            let order = prints(index, &format!("CR-{at}"), 0).order;
            index.of(order).iter().any(|found| found.sequence == at)
        };
        assert!(!known(&mut index, 1) && known(&mut index, 200));
        index.forget(now() + TimeDelta::hours(47));
        assert!(known(&mut index, 200));
        let last = prints(&index, "CR-201", 0);
        index.put(last, 201, EntryState::Creation, now() + TimeDelta::hours(47));
        index.forget(now() + TimeDelta::hours(49));
        assert!(!known(&mut index, 200) && known(&mut index, 201));
    }

    proptest! {
        /// Whatever comes in which order, in however many segments: what was put is found, once.
        #[test]
        fn no_entry_is_missed(orders in prop::collection::vec(0u8..40, 1..400)) {
            let mut index = index(8 * 50);
            for (at, order) in orders.iter().enumerate() {
                // The reader of the log is behind the instance's own appends.
                let sequence = 10_000 + (at as u64 ^ 1);
                let prints = prints(&index, &order.to_string(), *order);
                index.put(prints, sequence, EntryState::NewsOpen, now());
                index.put(prints, sequence, EntryState::NewsOpen, now());
            }
            prop_assert_eq!(index.count(), orders.len());
            for order in 0u8..40 {
                let wanted = prints(&index, &order.to_string(), order);
                let found: Vec<_> = index.of(wanted.order).iter().map(|found| found.sequence).collect();
                let mut expected: Vec<_> = orders.iter().enumerate().filter(|(_, one)| **one == order).map(|(at, _)| 10_000 + (at as u64 ^ 1)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
