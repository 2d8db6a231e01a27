//! The progress of a stage: which of its events are settled, and from which sequence on the log may have outcomes of the others.
//!
//! The consumer's acknowledgement floor shows this, too. But after an instance died it stays behind until the server has redelivered the
//! events of that instance, which takes `ack_wait`. So each instance keeps its own record, and stores it with its lease (see [`Floor`]).
//! Pure: no I/O.

use std::collections::BTreeMap;

use crate::{
    delivery::lease::note::Floor,
    journal::identity::{Mark, Remembered, Trail},
};

/// Open events that a [`Floor`] lists. What is open beyond that lowers the floor, so that a note stays small; the next
/// instance then reads as many more events from the log.
const MAX_OPEN: usize = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Progress {
    created: i64,
    known: u64,
    known_id: String,
    trail: Trail,
    settled: u64,
    /// Events up to `settled` that are not settled, each with the requests that were made.
    open: BTreeMap<u64, u32>,
    /// Events about which something is being recorded, or was and is not accounted for yet, each with the end of the log
    /// as it was known before: what is recorded stands behind that.
    unaccounted: BTreeMap<u64, u64>,
}

impl Progress {
    /// As a floor says.
    pub(super) fn of(floor: Floor) -> Self {
        Self {
            created: floor.created,
            known: floor.known,
            known_id: floor.known_id,
            trail: floor.trail,
            settled: floor.settled,
            open: floor.open.into_iter().collect(),
            unaccounted: BTreeMap::new(),
        }
    }

    /// A message of the log was seen.
    pub(super) fn know(&mut self, sequence: u64, id: &str) {
        if sequence > self.known {
            self.known = sequence;
            id.clone_into(&mut self.known_id);
        }
    }

    /// The same, of one of which it is known when it was stored.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.trail.add(mark);
    }

    /// Which log this is about, and the id of the last message that is known.
    pub(super) fn remembered(&self) -> (Remembered, String) {
        let remembered = Remembered {
            created: Some(self.created),
            as_of: None,
            position: self.known,
            trail: self.trail.clone(),
        };
        (remembered, self.known_id.clone())
    }

    /// The same log was created at another time.
    pub(super) const fn set_created(&mut self, created: i64) {
        self.created = created;
    }

    /// An event of the stage has come from the consumer, or was found on the log.
    pub(super) fn receive(&mut self, sequence: u64) {
        if sequence > self.settled {
            self.settled = sequence;
            self.open.insert(sequence, 0);
        }
    }

    /// Whether it has come before.
    pub(super) const fn has_come(&self, sequence: u64) -> bool {
        sequence <= self.settled
    }

    /// Whether it needs no more than an acknowledgement.
    pub(super) fn is_settled(&self, sequence: u64) -> bool {
        self.has_come(sequence) && !self.open.contains_key(&sequence)
    }

    /// The oldest event that is open, where one is.
    pub(super) fn oldest_open(&self) -> Option<u64> {
        self.open.first_key_value().map(|(event, _)| *event)
    }

    /// Something is about to be recorded about an event, or was by another instance, behind this place of the log.
    pub(super) fn record_behind(&mut self, event: u64, place: u64) {
        let behind = self.unaccounted.entry(event).or_insert(place);
        *behind = place.min(*behind);
    }

    /// The same, with the end of the log as it is known.
    pub(super) fn record(&mut self, event: u64) {
        self.record_behind(event, self.known);
    }

    /// An attempt was recorded, and the event is tried again in memory. For one in a lane, the lane does not say so yet.
    pub(super) fn attempted(&mut self, event: u64, requests: u32) {
        if let Some(known) = self.open.get_mut(&event) {
            *known = requests;
            self.unaccounted.remove(&event);
        }
    }

    /// An event needs no more than an acknowledgement: it has ended, is in a lane, or is none of the stage's. Of one in a
    /// lane: the lane says what was recorded.
    pub(super) fn settle(&mut self, event: u64) {
        self.open.remove(&event);
        self.unaccounted.remove(&event);
    }

    /// For the next instance.
    pub(super) fn floor(&self) -> Floor {
        let behind = self.unaccounted.values().copied().min();
        let beyond = self.open.keys().nth(MAX_OPEN);
        let settled = beyond.map_or(self.settled, |first| first - 1);
        let recorded = behind.unwrap_or(self.known).min(self.known);
        Floor {
            created: self.created,
            known: self.known,
            known_id: self.known_id.clone(),
            trail: self.trail.clone(),
            // Beyond a lowered floor, events are read again, and so are their outcomes, which come after them.
            recorded: beyond.map_or(recorded, |_| recorded.min(settled)),
            settled,
            open: self
                .open
                .range(..=settled)
                .map(|(sequence, requests)| (*sequence, *requests))
                .collect(),
            lanes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn new() -> Progress {
        Progress::of(Floor {
            created: 1,
            known: 0,
            known_id: String::new(),
            trail: Trail::default(),
            recorded: 0,
            settled: 0,
            open: Vec::new(),
            lanes: None,
        })
    }

    #[test]
    fn an_event_that_hangs_does_not_hold_the_others() {
        let mut progress = new();
        for sequence in [3, 7, 12] {
            progress.know(sequence, "id");
            progress.receive(sequence);
        }
        progress.settle(12);
        progress.settle(7);
        let floor = progress.floor();
        assert_eq!((floor.settled, floor.recorded), (12, 12));
        assert_eq!(floor.open, [(3, 0)]);
        assert!(
            progress.is_settled(7) && progress.is_settled(1) && !progress.is_settled(3) && !progress.is_settled(13)
        );
    }

    #[test]
    fn outcomes_are_read_again_until_their_events_are_settled() {
        let mut progress = new();
        progress.know(3, "id");
        progress.receive(3);
        progress.record(3);
        // Other events continue, and the outcome of 3 comes somewhere after it.
        progress.know(900, "other");
        assert_eq!(progress.floor().recorded, 3);
        progress.attempted(3, 1);
        let floor = progress.floor();
        assert_eq!((floor.recorded, floor.open), (900, vec![(3, 1)]));
        // The head of a lane stays open until the lane records its outcome.
        progress.record(2);
        progress.attempted(2, 1);
        progress.know(950, "later");
        assert_eq!(progress.floor().recorded, 900);
        progress.settle(2);
        assert_eq!(progress.floor().recorded, 950);
    }

    #[test]
    fn too_many_open_ones_lower_the_floor() {
        let mut progress = new();
        (1..=600).for_each(|number| progress.receive(10 * number));
        let floor = progress.floor();
        assert_eq!((floor.open.len(), floor.settled), (512, 5129));
        (1..=100).for_each(|number| progress.settle(10 * number));
        let floor = progress.floor();
        assert_eq!((floor.open.len(), floor.settled), (500, 6000));
    }

    proptest! {
        // A run of hundreds of events each.
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// An instance that goes on from a floor knows the same of every event as the one before, or knows too little and reads it.
        #[test]
        fn a_floor_equals_the_progress_it_was_made_from(
            events in prop::collection::btree_set(1u64..5000, 0..1500),
            settled in prop::collection::hash_set(1u64..5000, 0..1500),
        ) {
            let mut progress = new();
            events.iter().for_each(|event| progress.receive(*event));
            // Their outcomes come anywhere after them.
            progress.know(9000, "id");
            settled.iter().for_each(|event| progress.settle(*event));
            let floor = progress.floor();
            let next = Progress::of(floor.clone());
            let open: BTreeSet<u64> = events.iter().copied().filter(|event| !settled.contains(event)).collect();
            for event in events {
                if next.has_come(event) {
                    prop_assert_eq!(next.is_settled(event), !open.contains(&event));
                } else {
                    prop_assert!(open.range(..event).count() >= MAX_OPEN);
                    prop_assert!(floor.recorded < event, "its outcome is read");
                }
            }
        }
    }
}
