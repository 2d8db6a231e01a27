//! A line of reserved times that branches share fairly. Pure.
//!
//! With so many branches in the line, the first request of a branch gets one of the first as many times, the second one of the next as many,
//! and so on. Where that time is another branch's which has more, that one's request moves to the end of the line. So a crowd of one branch delays
//! the first request of another by a turn, not by the crowd; each such request makes one of the crowd come back once more. With one branch
//! the line is in the order of arrival.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::event::EventId;

/// How often one request moves; then it keeps its time.
const MAX_MOVES: u8 = 3;
/// Most places that are looked at for the one to take.
const MAX_LOOKED_AT: usize = 64;

#[derive(Debug, Clone)]
struct Place {
    event: EventId,
    branch: Arc<str>,
    time: Instant,
    moves: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By number; a later one has no earlier time.
    places: BTreeMap<u64, Place>,
    /// How many places each branch has.
    counts: HashMap<Arc<str>, u64>,
    /// How many places there were.
    given: u64,
}

impl Line {
    /// Forgets the times that have come.
    pub(super) fn come(&mut self, now: Instant) {
        while let Some(first) = self.places.first_entry()
            && first.get().time <= now
        {
            let place = first.remove();
            self.left(&place.branch);
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The time that a request of this branch would get now, where `end` is the end of the line.
    pub(super) fn time(&self, branch: &str, end: Instant) -> Instant {
        let place = self.to_take(branch).and_then(|number| self.places.get(&number));
        place.map_or(end, |place| place.time)
    }

    /// Gives a request its time, where `end` is the end of the line. Returns that, and the request that moved to the end, if one did.
    pub(super) fn enter(&mut self, event: EventId, branch: &str, end: Instant) -> (Instant, Option<EventId>) {
        let mut place = Place {
            event,
            branch: Arc::from(branch),
            time: end,
            moves: 0,
        };
        let taken = self.to_take(branch).and_then(|number| self.places.get_mut(&number));
        *self.counts.entry(Arc::clone(&place.branch)).or_default() += 1;
        let (mut time, mut moved) = (end, None);
        if let Some(taken) = taken {
            (time, moved) = (taken.time, Some(taken.event));
            std::mem::swap(taken, &mut place);
            (taken.time, place.time) = (time, end);
            place.moves += 1;
        }
        self.given += 1;
        self.places.insert(self.given, place);
        (time, moved)
    }

    fn left(&mut self, branch: &Arc<str>) {
        if let Some(count) = self.counts.get_mut(branch) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(branch);
            }
        }
    }

    fn count(&self, branch: &str) -> u64 {
        self.counts.get(branch).copied().unwrap_or_default()
    }

    /// The place that the next request of this branch may take: from its turn on, the first one of the branch with most places.
    fn to_take(&self, branch: &str) -> Option<u64> {
        let own = self.count(branch);
        let branches = self.counts.len() as u64 + u64::from(own == 0);
        let come = *self.places.first_key_value()?.0 - 1;
        let later = self.places.range(come + branches * (own + 1)..).take(MAX_LOOKED_AT);
        let movable = later.filter(|(_, place)| place.moves < MAX_MOVES);
        let most = movable.min_by_key(|(number, place)| (Reverse(self.count(&place.branch)), **number));
        let most = most.filter(|(_, place)| self.count(&place.branch) > own + 1);
        most.map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(number: usize) -> EventId {
        EventId(Uuid::from_u128(number as u128))
    }

    /// Each time is a second after the one before.
    struct Times {
        line: Line,
        start: Instant,
        end: u64,
        of: HashMap<EventId, u64>,
        moves: usize,
    }

    impl Times {
        fn new() -> Self {
            let (line, start) = (Line::default(), Instant::now());
            Self {
                line,
                start,
                end: 1,
                of: HashMap::new(),
                moves: 0,
            }
        }

        fn enter(&mut self, number: usize, branch: &str) -> u64 {
            let end = self.start + Duration::from_secs(self.end);
            let expected = self.line.time(branch, end);
            let (time, moved) = self.line.enter(id(number), branch, end);
            assert_eq!(time, expected);
            if let Some(moved) = moved {
                self.of.insert(moved, self.end);
                self.moves += 1;
            }
            let time = (time - self.start).as_secs();
            self.of.insert(id(number), time);
            self.end += 1;
            time
        }

        fn come(&mut self, second: u64) {
            self.line.come(self.start + Duration::from_secs(second));
        }
    }

    #[test]
    fn a_crowd_delays_others_by_rounds() {
        let mut times = Times::new();
        for number in 0..200 {
            assert_eq!(times.enter(number, "crowd"), number as u64 + 1);
        }
        let of_other: Vec<_> = (200..204).map(|number| times.enter(number, "other")).collect();
        assert_eq!(of_other, [2, 4, 6, 8]);
        assert_eq!(times.enter(204, "third"), 3);
        assert_eq!(times.moves, 5, "one for each that came");
        // 50 have come, so another one waits for the next round.
        times.come(50);
        let time = times.enter(205, "late");
        assert!((51..=53).contains(&time), "{time}");
    }

    #[test]
    fn one_that_moved_often_keeps_its_time() {
        let mut times = Times::new();
        times.enter(0, "crowd");
        times.enter(1, "crowd");
        for number in 2..8 {
            times.enter(number, &number.to_string());
        }
        let most = times.line.places.values().map(|place| place.moves).max();
        assert!(most <= Some(MAX_MOVES));
    }

    proptest! {
        /// Requests of any branches, while times come: each has one time, and no two have the same. A branch waits for no more of others than
        /// twice its turns, but for those that do not move any more.
        #[test]
        fn times_are_shared(requests in prop::collection::vec((0usize..5, 0u64..3), 1..200)) {
            let mut times = Times::new();
            let mut now = 0;
            for (number, (branch, passes)) in requests.iter().enumerate() {
                now = (now + passes).min(times.end - 1);
                times.come(now);
                let own = times.line.places.values().filter(|place| *place.branch == *branch.to_string()).count();
                let time = times.enter(number, &branch.to_string());
                prop_assert!(time > now);
                let fixed = times.line.places.values().filter(|place| place.moves >= MAX_MOVES).count() as u64;
                prop_assert!(time - now <= 10 * (own as u64 + 2) + fixed, "{} of {}", time - now, own);
            }
            let mut all: Vec<_> = times.of.values().collect();
            all.sort_unstable();
            prop_assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
            let order: Vec<_> = times.line.places.values().map(|place| place.time).collect();
            prop_assert!(order.is_sorted());
        }
    }
}
