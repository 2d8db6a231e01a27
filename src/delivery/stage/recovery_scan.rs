//! Collects the open events of the part of the log that is read at a takeover. Pure: no clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map, hash_map},
    ops::RangeInclusive,
};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{
    Stage,
    action::{is_ours, retried},
    cause_names::Acceptances,
};
use crate::{
    delivery::lanes::Lane,
    event::{EventId, Recorded},
    journal::{codec::OrderKey, read::Entry},
    retry::{ParkCause, Parking},
};

/// The part that all events about attempts have in common.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    attempt: u32,
    next_attempt_at: Option<DateTime<Utc>>,
}

/// An event without an outcome, so far.
pub(super) struct OpenEvent {
    pub(super) sequence: u64,
    pub(super) key: OrderKey,
    provider: String,
    branch: Option<String>,
    /// None if it was acknowledged: it was parked.
    pub(super) event: Option<Recorded>,
    /// The event that it requests a retry of.
    retried: Option<u64>,
    pub(super) requests: u32,
    pub(super) parked: Option<Parking>,
}

/// What was read so far. An outcome comes after its cause, so an event is dropped as soon as its outcome is read.
#[derive(Default)]
pub(super) struct RecoveryScan {
    /// What is settled up to here but for what is listed, and what the consumer has handed out up to there.
    pub(super) settled: u64,
    pub(super) delivered: u64,
    /// Lanes are checked, so what was settled is of interest, too, where it is read.
    pub(super) checks_lanes: bool,
    /// The consumer has handed out nothing yet, though the log is not new.
    pub(super) is_of_new_consumer: bool,
    /// Events in the lanes that are checked, and which of them have an outcome.
    pub(super) in_lanes: HashSet<u64>,
    pub(super) ended_in_lanes: HashSet<u64>,
    /// The order of the event at each sequence that the lanes name; none if this version cannot read the event.
    pub(super) at_places_of_lanes: HashMap<u64, Option<OrderKey>>,
    pub(super) open: HashMap<EventId, OpenEvent>,
    pub(super) acceptances: Acceptances,
    /// Orders that have a lane, and which of their events ended.
    pub(super) with_lanes: HashSet<OrderKey>,
    pub(super) ended_with_lane: HashMap<OrderKey, HashSet<EventId>>,
    /// Handed out, and no events that this version can read.
    pub(super) unreadable: Vec<u64>,
    /// Settled, in no lane, and of a newer version: each may be one that was parked.
    pub(super) newer: u64,
    /// Messages that were read.
    pub(super) read: usize,
    /// The last event of the stage about which something was recorded.
    pub(super) handled: u64,
}

impl RecoveryScan {
    /// For lanes alone: what is open up to this place and in none of them was in one that is missing.
    pub(super) fn of_lanes(settled: u64, lanes: &[(OrderKey, Lane)]) -> Self {
        Self {
            settled,
            delivered: settled,
            checks_lanes: true,
            in_lanes: lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect(),
            ..Self::default()
        }
    }

    pub(super) fn note<S: Stage>(&mut self, entry: Entry) {
        self.read += 1;
        let event = match entry {
            Entry::Event(event) => event,
            Entry::Unreadable { sequence, newer } => {
                if self.in_lanes.contains(&sequence) {
                    self.at_places_of_lanes.insert(sequence, None);
                } else if self.checks_lanes && newer.is_some() && sequence <= self.settled {
                    self.newer += 1;
                }
                if sequence > self.settled && sequence <= self.delivered {
                    self.unreadable.push(sequence);
                }
                return;
            }
        };
        self.note_cause::<S>(&event);
        let is_new = event.sequence > self.settled;
        let may_be_open = is_new || self.checks_lanes && !S::only_wakes(event.envelope.event_type);
        if self.in_lanes.contains(&event.sequence) && is_ours::<S>(&event) {
            self.at_places_of_lanes
                .insert(event.sequence, Some(OrderKey::of(&event)));
        }
        let has_come = event.sequence <= self.delivered || self.in_lanes.contains(&event.sequence);
        if may_be_open && has_come && is_ours::<S>(&event) {
            self.note_open(*event, 0);
        }
    }

    pub(super) fn note_open(&mut self, event: Recorded, requests: u32) {
        // Events up to the floor were acknowledged, so an event without an outcome was in a lane.
        let needs_lane = self.checks_lanes && event.sequence <= self.settled;
        let name = self.acceptances.note(&event);
        if let hash_map::Entry::Vacant(new) = self.open.entry(name) {
            new.insert(OpenEvent {
                sequence: event.sequence,
                key: OrderKey::of(&event),
                provider: event.envelope.provider.to_string(),
                branch: event.envelope.branch.clone(),
                requests,
                parked: None,
                retried: retried(&event),
                event: (!needs_lane).then_some(event),
            });
        }
    }

    fn note_cause<S: Stage>(&mut self, event: &Recorded) {
        let Some(cause) = self.acceptances.named(event) else {
            return;
        };
        if event.envelope.event_type.is_attempt() {
            if let Some(open) = self.open.get_mut(&cause) {
                self.handled = self.handled.max(open.sequence);
                let attempt = serde_json::from_slice::<Attempt>(&event.payload).ok();
                open.requests = open.requests.max(attempt.as_ref().map_or(1, |attempt| attempt.attempt));
                let until = attempt.and_then(|attempt| attempt.next_attempt_at);
                let for_creation = S::waits_for_creation(event);
                open.parked = until.map(|until| Parking {
                    until,
                    for_creation,
                    cause: ParkCause::Failed,
                    has_failed: false,
                });
            }
            return;
        }
        if let Some(open) = self.open.remove(&cause) {
            self.handled = self.handled.max(open.sequence);
            if self.in_lanes.contains(&open.sequence) {
                self.ended_in_lanes.insert(open.sequence);
            }
        }
        if !self.with_lanes.is_empty() {
            let key = OrderKey::of(event);
            if self.with_lanes.contains(&key) {
                self.ended_with_lane.entry(key).or_default().insert(cause);
            }
        }
    }

    /// The consumer has handed out nothing yet: only what stands before the last event that was handled needs to be known, the
    /// rest comes for the first time.
    pub(super) fn leave_to_consumer(&mut self) {
        let handled = self.handled;
        self.delivered = handled;
        self.open.retain(|_, open| open.sequence <= handled);
        self.unreadable.retain(|sequence| *sequence <= handled);
    }

    /// Events within these sequences that lanes name and this log does not have: nothing is stored there, or an event of another order, or one
    /// that the stage does not take. Whatever is stored there is in no lane. All events that lanes name must have been read.
    pub(super) fn strange(
        &mut self,
        lanes: &[(OrderKey, Lane)],
        places: RangeInclusive<u64>,
    ) -> HashSet<(OrderKey, u64)> {
        let named = lanes
            .iter()
            .flat_map(|(key, lane)| lane.sequences().map(|event| (*key, event)));
        let is_there = |(key, event): &(OrderKey, u64)| match self.at_places_of_lanes.get(event) {
            Some(Some(of)) => of == key,
            Some(None) => true,
            None => false,
        };
        let (true_ones, mut strange): (HashSet<_>, HashSet<_>) = named.partition(is_there);
        self.in_lanes = true_ones.into_iter().map(|(_, event)| event).collect();
        // A lane named its sequence, so it was taken as delivered, but it is still to come.
        let (delivered, in_lanes) = (self.delivered, &self.in_lanes);
        self.open
            .retain(|_, open| open.sequence <= delivered || in_lanes.contains(&open.sequence));
        strange.retain(|(_, event)| places.contains(event));
        strange
    }

    /// The events that leave their lanes because these were written for another log. What is open, and in which order, is known from this
    /// log alone: a lane may name an event that is here as well, but an earlier one of its order may have lost its outcome with the other log,
    /// and would be handled behind it. Events of a newer version stay, because this version cannot tell whether they are open.
    pub(super) fn leave_lanes(&mut self, lanes: &[(OrderKey, Lane)]) -> HashSet<(OrderKey, u64)> {
        let places = &self.at_places_of_lanes;
        let is_newer = |event: &u64| matches!(places.get(event), Some(None));
        self.in_lanes.retain(is_newer);
        let (delivered, in_lanes) = (self.delivered, &self.in_lanes);
        self.open
            .retain(|_, open| open.sequence <= delivered || in_lanes.contains(&open.sequence));
        let named = lanes
            .iter()
            .flat_map(|(key, lane)| lane.sequences().map(move |event| (*key, event)));
        named.filter(|(_, event)| !is_newer(event)).collect()
    }

    /// A lane for each order with an event that was parked, by what the log says.
    pub(super) fn lost_lanes(&mut self, now: DateTime<Utc>) -> BTreeMap<OrderKey, Lane> {
        let lost: Vec<EventId> = self
            .open
            .iter()
            .filter(|(_, open)| open.event.is_none())
            .map(|(id, _)| *id)
            .collect();
        let by_place: BTreeMap<u64, OpenEvent> = lost
            .iter()
            .filter_map(|id| self.open.remove(id))
            .map(|open| (open.sequence, open))
            .collect();
        let mut lanes: BTreeMap<OrderKey, Lane> = BTreeMap::new();
        for open in by_place.into_values() {
            match lanes.entry(open.key) {
                btree_map::Entry::Occupied(lane) => {
                    let lane = lane.into_mut();
                    lane.waiting.push((open.sequence, open.requests));
                    lane.note_retried(open.sequence, open.retried);
                    lane.note_branch(open.branch.as_deref());
                    // This event may be the creation that the head waits for, so the head is tried at once and looks for it.
                    if std::mem::take(&mut lane.for_creation) {
                        lane.due_at = now;
                    }
                }
                btree_map::Entry::Vacant(new) => {
                    let for_creation = open.parked.is_some_and(|parked| parked.for_creation);
                    let due_at = open.parked.map_or(now, |parked| parked.until);
                    let mut lane = Lane::new(open.provider, open.sequence, open.requests, due_at, for_creation);
                    (lane.creations, lane.branch) = (None, open.branch);
                    lane.note_retried(open.sequence, open.retried);
                    new.insert(lane);
                }
            }
        }
        lanes
    }
}
