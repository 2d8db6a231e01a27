//! The content of a lane's message. Pure: no clock, no I/O.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How early a lane may be taken up: too little to be noticed.
pub(super) const EARLY: TimeDelta = TimeDelta::milliseconds(20);

/// The state of an order that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// The provider, for the metric and for readers of the stream.
    pub provider: String,
    /// Sequence on `EVENTS` of the event that is tried again.
    pub head: u64,
    /// Requests that were made for it.
    pub requests: u32,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Later events of the order, in the log's order, each with the requests that were made for it (one that let the
    /// event that creates its order pass has some).
    #[serde(default)]
    pub waiting: Vec<(u64, u32)>,
    /// It waits for another event of its order, such as the one that creates it, and lets that one pass.
    #[serde(default)]
    pub for_creation: bool,
    /// Which of those that wait create the order. None if that is not known, as where an earlier version wrote the lane: then
    /// they are read from the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creations: Option<Vec<u64>>,
    /// Requests for a retry in this lane, each with the sequence of the event that it takes up again. That event is older and
    /// has to be on the log when the request has its turn. Earlier versions leave this out: then the head's is noted when the
    /// head is tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retried: Vec<(u64, u64)>,
    /// The branch of the order, if one is known. Earlier versions leave it out: then it is noted when the head is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The event that waits for its order and let the head pass, and when it is due. Earlier versions leave it out: it is due after the head
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_pass: Option<(u64, DateTime<Utc>)>,
}

impl Lane {
    /// Of an event that nothing waits behind.
    pub fn new(provider: String, head: u64, requests: u32, due_at: DateTime<Utc>, for_creation: bool) -> Self {
        Self {
            provider,
            head,
            requests,
            due_at,
            waiting: Vec::new(),
            for_creation,
            creations: Some(Vec::new()),
            retried: Vec::new(),
            branch: None,
            let_pass: None,
        }
    }

    /// Notes which older event the one at this sequence requests a retry of, if it does.
    pub fn note_retried(&mut self, sequence: u64, original: Option<u64>) {
        if let Some(original) = original
            && !self.retried.iter().any(|(request, _)| *request == sequence)
        {
            self.retried.push((sequence, original));
        }
    }

    /// Notes the branch of an event in it, if it names one.
    pub fn note_branch(&mut self, branch: Option<&str>) {
        if branch.is_some() && self.branch.as_deref() != branch {
            self.branch = branch.map(str::to_owned);
        }
    }

    /// The branch, or the provider where none is known.
    pub fn branch_or_provider(&self) -> &str {
        self.branch.as_deref().unwrap_or(&self.provider)
    }

    /// The oldest sequence that the log must have for an event in this lane: that of the event, or of the one that it takes up
    /// again.
    pub fn needs(&self, sequence: u64) -> u64 {
        let of_it = self.retried.iter().filter(|(request, _)| *request == sequence);
        of_it.map(|(_, original)| *original).fold(sequence, u64::min)
    }

    /// The same, for all events in it.
    pub fn needs_from(&self) -> u64 {
        let originals = self.retried.iter().map(|(_, original)| *original);
        self.sequences().chain(originals).min().unwrap_or(self.head)
    }

    /// The first of those that wait that needs what is at this sequence or before.
    pub fn first_that_needs(&self, up_to: u64) -> Option<(u64, u32)> {
        let mut waiting = self.waiting.iter().copied();
        waiting.find(|(sequence, _)| self.needs(*sequence) <= up_to)
    }

    /// Without one of those that wait.
    pub fn without(mut self, ended: u64) -> Self {
        self.waiting.retain(|(sequence, _)| *sequence != ended);
        if let Some(creations) = &mut self.creations {
            creations.retain(|sequence| *sequence != ended);
        }
        self.retried.retain(|(request, _)| *request != ended);
        self
    }

    /// Lets an event wait behind all others. `creates`: whether it creates the order.
    pub fn join(&mut self, sequence: u64, requests: u32, creates: bool) {
        self.waiting.push((sequence, requests));
        if let Some(creations) = self.creations.as_mut().filter(|_| creates) {
            creations.push(sequence);
        }
    }

    /// Where the first of those that wait stands that creates the order, if one does; an outer none if that is not known.
    pub fn creation(&self) -> Option<Option<usize>> {
        let creations = self.creations.as_ref()?;
        Some(
            self.waiting
                .iter()
                .position(|(sequence, _)| creations.contains(sequence)),
        )
    }

    /// Whether it is to be worked on. Its time was written by the clock of a hub and is compared with the clock of one: where
    /// another instance takes over, a lane is late or early by as much as the two clocks differ.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.due_at <= now + EARLY
    }

    /// Whether an event is in it.
    pub fn holds(&self, sequence: u64) -> bool {
        self.sequences().any(|one| one == sequence)
    }

    /// Every event in it.
    pub fn sequences(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.head).chain(self.waiting.iter().map(|(sequence, _)| *sequence))
    }

    /// Without events that have ended, and with those of the same order that it lacks, each with the requests that were made;
    /// none if nothing is left.
    pub fn mended(mut self, ended: impl Fn(u64) -> bool, missing: Option<Self>, now: DateTime<Utc>) -> Option<Self> {
        let head = self.head;
        if let Some(creations) = &mut self.creations {
            creations.retain(|event| !ended(*event));
        }
        self.retried.retain(|(request, _)| !ended(*request));
        let events = std::iter::once((head, self.requests)).chain(std::mem::take(&mut self.waiting));
        let mut events: Vec<_> = events.filter(|(event, _)| !ended(*event)).collect();
        let Some(missing) = missing else {
            let (first, requests) = *events.first()?;
            self.waiting = events.split_off(1);
            return Some(Self {
                head: first,
                requests,
                due_at: if first == head { self.due_at } else { now },
                for_creation: self.for_creation && first == head,
                let_pass: self.let_pass.filter(|_| first == head),
                ..self
            });
        };
        if events.is_empty() {
            return Some(missing);
        }
        events.push((missing.head, missing.requests));
        events.extend(missing.waiting);
        self.retried.extend(missing.retried);
        events.sort_unstable();
        let (first, requests) = events.remove(0);
        Some(Self {
            head: first,
            requests,
            due_at: match first {
                // A head that waits for its creation is tried at once: the creation may be in the other lane.
                first if first == head && !self.for_creation => self.due_at,
                first if first == missing.head && !missing.for_creation => missing.due_at,
                _ => now,
            },
            waiting: events,
            // The creation that the head waits for may be behind it; the next attempt looks for it.
            for_creation: false,
            creations: None,
            let_pass: None,
            ..self
        })
    }

    /// With the next event at its head, due now; none if there is no other.
    pub fn advance(mut self, now: DateTime<Utc>) -> Option<Self> {
        if self.waiting.is_empty() {
            return None;
        }
        let ended = self.head;
        self.retried.retain(|(request, _)| *request != ended);
        (self.head, self.requests) = self.waiting.remove(0);
        Some(Self {
            due_at: now,
            for_creation: false,
            let_pass: None,
            ..self
        })
    }

    /// The same, where the head still waits for its order, until then. The next event that creates an order passes it.
    pub fn waits_on(self, due_at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let waits = |lane: Self| Self {
            due_at,
            for_creation: true,
            ..lane
        };
        match self.creation() {
            // Which of them creates one is not known: they are read when the head is tried.
            None => self,
            Some(None) => waits(self),
            Some(Some(at)) => waits(self).led_by_waiting(at, now),
        }
    }

    /// With one of those that wait before all others, due now.
    pub fn led_by_waiting(mut self, at: usize, now: DateTime<Utc>) -> Self {
        let (sequence, requests) = self.waiting.remove(at);
        Self {
            requests,
            ..self.led_by(sequence, now)
        }
    }

    /// With this event before all others, due now.
    pub fn led_by(mut self, sequence: u64, now: DateTime<Utc>) -> Self {
        self.let_pass = self.for_creation.then_some((self.head, self.due_at));
        self.waiting.insert(0, (self.head, self.requests));
        Self {
            head: sequence,
            requests: 0,
            due_at: now,
            for_creation: false,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(due_at: DateTime<Utc>) -> Lane {
        Lane {
            provider: "careem".into(),
            head: 7,
            requests: 4,
            due_at,
            waiting: vec![(9, 0), (12, 0)],
            for_creation: true,
            creations: None,
            retried: Vec::new(),
            branch: None,
            let_pass: None,
        }
    }

    /// A request for a retry needs the event that it takes up again, as long as the request is in the lane.
    #[test]
    fn a_lane_needs_the_events_that_are_retried() {
        let now = Utc::now();
        let mut lane = Lane::new("careem".into(), 70, 0, now, false);
        assert_eq!((lane.needs(70), lane.needs_from()), (70, 70));
        lane.note_retried(70, Some(30));
        for (sequence, original) in [(90, None), (95, Some(3)), (97, Some(40))] {
            lane.join(sequence, 1, false);
            lane.note_retried(sequence, original);
            lane.note_retried(sequence, original);
        }
        let written = serde_json::to_vec(&lane).unwrap();
        let lane: Lane = serde_json::from_slice(&written).unwrap();
        assert_eq!(lane.retried, [(70, 30), (95, 3), (97, 40)]);
        assert_eq!([70, 90, 95].map(|event| lane.needs(event)), [30, 90, 3]);
        assert_eq!(lane.needs_from(), 3);
        assert_eq!(
            (lane.first_that_needs(2), lane.first_that_needs(50)),
            (None, Some((95, 1)))
        );
        let rest = lane.clone().without(95);
        assert_eq!((rest.needs_from(), &*rest.waiting), (30, &[(90, 1), (97, 1)][..]));
        let rest = rest.advance(now).unwrap();
        assert_eq!((rest.head, rest.needs_from()), (90, 40));
        let lost = lane.clone().mended(|event| event == 95, Some(rest), now).unwrap();
        assert_eq!(lost.needs_from(), 30);
        // An earlier version writes the lane without this field.
        let mut older: serde_json::Value = serde_json::to_value(&lane).unwrap();
        older.as_object_mut().unwrap().remove("retried");
        let mut older: Lane = serde_json::from_value(older).unwrap();
        assert_eq!(older.needs_from(), 70);
        older.note_retried(70, Some(30));
        assert_eq!(older.needs_from(), 30);
        // Without retries the message is as it was.
        let plain = serde_json::to_string(&Lane::new("careem".into(), 7, 0, now, false)).unwrap();
        assert!(!plain.contains("retried"), "{plain}");
    }

    #[test]
    fn a_lane_is_due_by_the_clock() {
        let (now, hour) = (Utc::now(), TimeDelta::hours(1));
        assert!(lane(now).is_due(now));
        assert!(!lane(now + hour).is_due(now));
        let written = serde_json::to_vec(&lane(now + hour)).unwrap();
        let read: Lane = serde_json::from_slice(&written).unwrap();
        assert!(read.is_due(now + hour));
    }

    #[test]
    fn a_head_that_let_its_creation_pass_keeps_its_place_and_count() {
        let now = Utc::now();
        let led = lane(now).led_by(20, now);
        assert_eq!((led.head, led.requests, led.for_creation), (20, 0, false));
        let next = led.advance(now).unwrap();
        assert_eq!((next.head, next.requests), (7, 4));
        let rest = next.advance(now).unwrap().advance(now).unwrap();
        assert_eq!((rest.head, rest.advance(now)), (12, None));
    }

    /// A refused order takes nothing from the news that let it pass: their time is as it was, and the next order passes them.
    #[test]
    fn news_that_let_another_order_pass_wait_on() {
        let (now, later) = (Utc::now(), Utc::now() + TimeDelta::hours(1));
        let mut lane = Lane::new("careem".into(), 7, 4, later, true);
        lane.join(9, 0, false);
        let led = lane.led_by(20, now);
        assert_eq!(led.let_pass, Some((7, later)));
        let mut led: Lane = serde_json::from_slice(&serde_json::to_vec(&led).unwrap()).unwrap();
        led.join(25, 0, true);
        let (_, due_at) = led.let_pass.unwrap();
        let next = led.clone().advance(now).unwrap();
        assert_eq!((next.head, next.let_pass, next.due_at), (7, None, now));
        let next = next.waits_on(due_at, now);
        assert_eq!((next.head, next.due_at, next.let_pass), (25, now, Some((7, later))));
        let next = next.advance(now).unwrap().waits_on(due_at, now);
        assert_eq!(
            (next.head, next.requests, next.due_at, next.for_creation),
            (7, 4, later, true)
        );
        // The news have ended meanwhile.
        let rest = led.mended(|event| event == 20, None, now).unwrap();
        assert_eq!((rest.head, rest.let_pass), (7, None));
    }

    #[test]
    fn a_lane_knows_which_of_those_that_wait_creates_the_order() {
        let now = Utc::now();
        assert_eq!(lane(now).creation(), None, "an earlier version did not say");
        let mut lane = Lane::new("careem".into(), 7, 0, now, false);
        assert_eq!(lane.creation(), Some(None));
        for (sequence, creates) in [(9, false), (12, true), (15, false), (20, true)] {
            lane.join(sequence, 0, creates);
        }
        let written = serde_json::to_vec(&lane).unwrap();
        let lane: Lane = serde_json::from_slice(&written).unwrap();
        assert_eq!(lane.creation(), Some(Some(1)));
        let led = lane.clone().led_by_waiting(1, now);
        assert_eq!(
            (led.head, led.creation()),
            (12, Some(Some(3))),
            "the other one is behind 7, 9 and 15"
        );
        let rest = lane.clone().mended(|event| event == 12, None, now).unwrap();
        assert_eq!(rest.creation(), Some(Some(2)));
        let rest = lane.mended(|event| event >= 12, None, now).unwrap();
        assert_eq!(rest.creation(), Some(None));
        // An earlier version writes the lane without this field.
        let mut older: serde_json::Value = serde_json::to_value(&rest).unwrap();
        older.as_object_mut().unwrap().remove("creations");
        assert_eq!(serde_json::from_value::<Lane>(older).unwrap().creation(), None);
    }

    /// Each event that joins writes the lane anew. That grows with what waits, which has a limit.
    #[test]
    fn joining_events_write_no_more_than_the_limit() {
        let mut lane = Lane::new("careem".into(), 1_000_000_000, 0, Utc::now(), false);
        let (mut largest, mut all) = (0, 0);
        for number in 1..=super::super::MAX_WAITING as u64 {
            lane.join(1_000_000_000 + number, 0, false);
            largest = serde_json::to_vec(&lane).unwrap().len();
            all += largest;
            if number == 5 {
                assert!(all < 1250, "an honest order: {all} bytes for five");
            }
        }
        assert!(largest < 16_000 && all < 8_000_000, "{largest}, {all}");
    }

    #[test]
    fn ended_events_leave_a_lane_and_missing_ones_join_it() {
        let now = Utc::now();
        let mended = |ended: &[u64], missing| lane(now).mended(|event| ended.contains(&event), missing, now);
        assert_eq!(mended(&[], None), Some(lane(now)));
        assert_eq!(mended(&[7, 9, 12], None), None);
        let rest = mended(&[7, 9], None).unwrap();
        assert_eq!((rest.head, rest.requests, rest.for_creation), (12, 0, false));
        let rest = mended(&[9], None).unwrap();
        assert_eq!((rest.head, rest.requests, rest.for_creation), (7, 4, true));
        assert_eq!(rest.waiting, [(12, 0)]);

        let later = now + TimeDelta::minutes(1);
        let missing = Lane {
            head: 8,
            requests: 2,
            waiting: vec![(20, 0)],
            ..lane(later)
        };
        assert_eq!(mended(&[7, 9, 12], Some(missing.clone())), Some(missing.clone()));
        let all = mended(&[9], Some(missing.clone())).unwrap();
        assert_eq!((all.head, all.due_at), (7, now));
        assert_eq!(all.waiting, [(8, 2), (12, 0), (20, 0)]);
        let missing = Lane {
            for_creation: false,
            ..missing
        };
        let all = mended(&[7], Some(missing)).unwrap();
        assert_eq!((all.head, all.requests, all.due_at), (8, 2, later));
        assert_eq!(all.waiting, [(9, 0), (12, 0), (20, 0)]);
    }

    /// A head that waits for the event that creates its order is tried at once where that event may be in the other lane. Any
    /// other keeps its time.
    #[test]
    fn a_head_that_waits_for_its_order_is_tried_when_lanes_are_put_together() {
        let now = Utc::now();
        let later = now + TimeDelta::minutes(1);
        let of = |head, for_creation| Lane::new("careem".into(), head, 3, later, for_creation);
        for (is_lost, for_creation) in [(true, true), (true, false), (false, true), (false, false)] {
            let (news, order) = (of(7, for_creation), of(20, false));
            let (found, missing) = if is_lost { (order, news) } else { (news, order) };
            let all = found.mended(|_| false, Some(missing), now).unwrap();
            assert_eq!((all.head, &*all.waiting), (7, &[(20, 3)][..]));
            assert_eq!(all.due_at, if for_creation { now } else { later }, "lost: {is_lost}");
            assert!(!all.for_creation);
        }
    }
}
