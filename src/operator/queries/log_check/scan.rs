//! Finds open events and faults in the events of the log. Pure: no clock, no I/O.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
};

use lru::LruCache;
use serde::Serialize;

use crate::{
    delivery::stage::Stage as _,
    event::{BodyHash, EventId, EventType, Recorded, outcome::OUTCOME},
    journal::codec::OrderKey,
    projection::rebuild::Named,
    transform::Transform,
};

/// Number of orders that are kept in memory to compare the sequence of their webhooks: some days of a busy platform, in 20 MB.
const REMEMBERED_ORDERS: NonZeroUsize = NonZeroUsize::new(200_000).expect("it is no zero");
/// Most causes that are kept to be looked up.
const MOST_CAUSES: usize = 100_000;

/// A faulty event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Its sequence.
    pub sequence: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// Its provider.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
}

impl Fault {
    fn of(event: &Recorded) -> Self {
        Self {
            sequence: event.sequence,
            event_type: event.envelope.event_type.as_str(),
            provider: event.envelope.provider.to_string(),
            external_order_id: event.envelope.external_order_id.clone(),
        }
    }
}

/// The faults of the log.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Faults {
    /// Accepted events that a stage has acknowledged, that are not parked, and that have no outcome.
    pub lost: Named<Fault>,
    /// Events with a cause that is not on the log.
    pub without_cause: Named<Fault>,
    /// Webhooks that were transformed before an earlier webhook of their order.
    pub out_of_order: Named<Fault>,
    /// Events with an id that does not derive from their cause.
    pub wrong_ids: Named<Fault>,
    /// Webhooks whose body is not the one that was accepted.
    pub altered_bodies: Named<Fault>,
}

impl Faults {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        let Self {
            lost,
            without_cause,
            out_of_order,
            wrong_ids,
            altered_bodies,
        } = self;
        let all = [lost, without_cause, out_of_order, wrong_ids, altered_bodies];
        all.iter().all(|faults| faults.count == 0)
    }
}

/// A webhook that was accepted, or a retry of it, that has not ended.
struct Run {
    /// The sequence of its first event, and whether that requested a retry.
    began: u64,
    is_retry: bool,
    /// The event that a retry takes up, once a stage has handled it.
    taken_up: Option<u64>,
    /// Its events: sequences and ids.
    events: Vec<(u64, EventId)>,
    /// The one that a stage must handle next, and its type.
    next: Fault,
    event_type: EventType,
}

impl Run {
    /// Whether the event with this sequence is one of its events.
    fn has(&self, sequence: u64) -> bool {
        self.events.iter().any(|(place, _)| *place == sequence)
    }
}

/// A cause to be looked up.
pub(super) struct Cause {
    pub(super) sequence: u64,
    /// The root of both; none if the event is a root.
    pub(super) root: Option<EventId>,
    /// The event that names it.
    pub(super) of: Fault,
}

/// The state of the check.
pub(super) struct Scan {
    first: u64,
    open: HashMap<EventId, Vec<Run>>,
    /// The last transformed webhook of each order.
    transformed: LruCache<OrderKey, u64>,
    pub(super) causes: Vec<Cause>,
    pub(super) causes_left_out: u64,
    pub(super) faults: Faults,
    pub(super) events: u64,
    pub(super) unreadable: u64,
    pub(super) newer: u64,
}

impl Scan {
    /// For a log that is read from this sequence.
    pub(super) fn from(first: u64) -> Self {
        Self {
            first,
            open: HashMap::new(),
            transformed: LruCache::new(REMEMBERED_ORDERS),
            causes: Vec::new(),
            causes_left_out: 0,
            faults: Faults::default(),
            events: 0,
            unreadable: 0,
            newer: 0,
        }
    }

    /// Whether anything is open.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Processes the next event.
    pub(super) fn note(&mut self, event: &Recorded) {
        self.events += 1;
        // Nothing follows from what operators do: their commands append it, and no stage takes it.
        if event.envelope.event_type.is_of_operator() {
            return;
        }
        let envelope = &event.envelope;
        let (root, event_type) = (envelope.root_id, envelope.event_type);
        if !has_accepted_body(event) {
            self.faults.altered_bodies.push(Fault::of(event));
        }
        if envelope.id == root || event_type == EventType::OrderRetryRequested {
            self.note_cause(event);
            self.open.entry(root).or_default().push(Run {
                began: event.sequence,
                is_retry: event_type == EventType::OrderRetryRequested,
                taken_up: None,
                events: vec![(event.sequence, envelope.id)],
                next: Fault::of(event),
                event_type,
            });
            return;
        }
        let runs = self.open.get_mut(&root);
        let (Some(at), Some(runs)) = (runs.as_deref().and_then(|runs| run_of(runs, event)), runs) else {
            self.note_cause(event);
            return;
        };
        if !has_right_id(event) {
            self.faults.wrong_ids.push(Fault::of(event));
        }
        let run = &mut runs[at];
        run.events.push((event.sequence, envelope.id));
        if run.is_retry && run.taken_up.is_none() {
            run.taken_up = envelope.cause_sequence;
        }
        if event_type == EventType::OrderTransformed && envelope.cause_id == Some(root) {
            let began = run.began;
            let before = self.transformed.put(OrderKey::of(event), began);
            if before.is_some_and(|before| before > began) {
                self.faults.out_of_order.push(Fault::of(event));
            }
        }
        if event_type.ends() {
            // A retry ends what it takes up, also where no stage had that any more.
            let retry = runs.swap_remove(at);
            runs.retain(|run| retry.taken_up.is_none_or(|place| !run.has(place)));
            if runs.is_empty() {
                self.open.remove(&root);
            }
        } else if !event_type.is_attempt() {
            run.next = Fault::of(event);
            run.event_type = event_type;
        }
    }

    /// Notes the cause of an event that belongs to no open webhook: the webhook has ended, or it is older than the part that is read.
    fn note_cause(&mut self, event: &Recorded) {
        let Some(sequence) = event.envelope.cause_sequence.filter(|cause| *cause >= self.first) else {
            return;
        };
        if sequence >= event.sequence {
            self.faults.without_cause.push(Fault::of(event));
        } else if self.causes.len() < MOST_CAUSES {
            self.causes.push(Cause {
                sequence,
                root: (event.envelope.id != event.envelope.root_id).then_some(event.envelope.root_id),
                of: Fault::of(event),
            });
        } else {
            self.causes_left_out += 1;
        }
    }

    /// Returns how many of the open ones wait for a stage, and how many are parked. The others are lost, unless an event of a later version
    /// may have ended them.
    pub(super) fn judge_open(
        &mut self,
        in_lanes: &HashSet<u64>,
        is_acknowledged: impl Fn(u64, EventType) -> bool,
    ) -> (u64, u64) {
        let (mut waiting, mut parked) = (0, 0);
        let mut lost = Vec::new();
        for run in self.open.values().flatten() {
            if run.events.iter().any(|(event, _)| in_lanes.contains(event)) {
                parked += 1;
            } else if self.newer == 0 && is_acknowledged(run.next.sequence, run.event_type) {
                lost.push(run.next.clone());
            } else {
                waiting += 1;
            }
        }
        lost.sort_by_key(|fault| fault.sequence);
        for fault in lost {
            self.faults.lost.push(fault);
        }
        (waiting, parked)
    }
}

/// The run that an event belongs to. In a retry, events name the request as their cause, with the sequence of the event that is retried.
fn run_of(runs: &[Run], event: &Recorded) -> Option<usize> {
    let (cause, sequence) = (event.envelope.cause_id, event.envelope.cause_sequence);
    let Some(sequence) = sequence else {
        // Events of older versions do not name a sequence.
        return runs.len().checked_sub(1);
    };
    // An event that was lost is in an open run itself, beside the retry of it.
    let is_of_retry = |run: &Run| run.is_retry && run.events.iter().any(|(_, id)| Some(*id) == cause);
    let of_retry = runs.iter().position(is_of_retry);
    of_retry.or_else(|| runs.iter().position(|run| run.has(sequence)))
}

/// Whether the id of an event derives from its cause. Only two types of events are checked; for others it is true.
fn has_right_id(event: &Recorded) -> bool {
    let envelope = &event.envelope;
    let label = match envelope.event_type {
        EventType::OrderTransformed => Transform::LABEL,
        EventType::OrderForwarded => OUTCOME,
        _ => return true,
    };
    // Events of older versions do not name the sequence of their cause, and their ids do not depend on it.
    let (Some(cause), Some(sequence)) = (envelope.cause_id, envelope.cause_sequence) else {
        return true;
    };
    let id = cause.derive(label);
    [id, id.at(sequence)].contains(&envelope.id)
}

/// Whether a webhook has the body that was accepted. True for other events, and for webhooks that earlier versions accepted: they have no
/// hash.
fn has_accepted_body(event: &Recorded) -> bool {
    let accepted = event.envelope.request.as_ref();
    let accepted = accepted.and_then(|request| request.body_sha256.as_ref());
    event.envelope.event_type != EventType::WebhookReceived
        || accepted.is_none_or(|hash| *hash == BodyHash::of(&event.payload))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    /// A log that is written event by event.
    #[derive(Default)]
    struct Log(Vec<Recorded>);

    impl Log {
        fn accept(&mut self, body: &str, order: &str) -> Recorded {
            let at: DateTime<Utc> = "2026-11-29T12:00:00Z".parse().unwrap();
            let webhook = Recorded::sample("careem", order, "order_created", body.as_bytes(), at);
            self.add(webhook)
        }

        fn add(&mut self, event: Recorded) -> Recorded {
            let sequence = self.0.len() as u64 + 1;
            let event = Recorded { sequence, ..event };
            self.0.push(event.clone());
            event
        }

        fn follow(&mut self, from: &Recorded, label: &str, event_type: EventType) -> Recorded {
            let envelope = from.follow(label, event_type, from.envelope.time);
            self.add(Recorded {
                envelope,
                run: None,
                is_again: false,
                ..from.clone()
            })
        }

        fn transform(&mut self, webhook: &Recorded) -> Recorded {
            self.follow(webhook, Transform::LABEL, EventType::OrderTransformed)
        }

        fn forward(&mut self, transformed: &Recorded) -> Recorded {
            self.follow(transformed, OUTCOME, EventType::OrderForwarded)
        }

        fn scan(&self) -> Scan {
            let mut scan = Scan::from(1);
            for event in &self.0 {
                scan.note(event);
            }
            scan
        }
    }

    fn places(faults: &Named<Fault>) -> Vec<u64> {
        faults.first.iter().map(|fault| fault.sequence).collect()
    }

    #[test]
    fn a_body_that_was_altered_is_found() {
        let mut log = Log::default();
        let accepted = log.accept("one", "CR-1");
        let with_hash = |body: &'static str| {
            let mut event = accepted.clone();
            let request = event.envelope.request.as_mut().unwrap();
            request.body_sha256 = Some(BodyHash::of(b"one"));
            event.payload = body.into();
            event
        };
        log.add(with_hash("one"));
        log.add(with_hash("two"));
        let scan = log.scan();
        assert_eq!(places(&scan.faults.altered_bodies), [3]);
        assert!(!scan.faults.is_empty());
    }

    #[test]
    fn what_ended_leaves_nothing_open() {
        let mut log = Log::default();
        let webhook = log.accept("one", "CR-1");
        let transformed = log.transform(&webhook);
        log.follow(&transformed, "forward_failed/1", EventType::OrderForwardFailed);
        let dead = log.follow(&transformed, OUTCOME, EventType::OrderDeadLettered);
        assert!(!log.scan().has_open());
        // It is taken up again: what follows names the request, and the place of what was taken up.
        let request = log.follow(&transformed, "retry/1", EventType::OrderRetryRequested);
        assert!(log.scan().has_open());
        let again = Recorded {
            run: Some(request.envelope.id),
            ..transformed.clone()
        };
        log.forward(&again);
        // The webhook is accepted again, after the log forgot its id.
        let repeated = log.accept("one", "CR-1");
        assert_eq!(repeated.envelope.id, webhook.envelope.id);
        log.follow(&repeated, Transform::LABEL, EventType::OrderIgnored);
        let scan = log.scan();
        assert!(!scan.has_open() && scan.faults.is_empty());
        // The dead letter's run had ended, so the request's cause is looked up.
        assert_eq!(
            scan.causes.iter().map(|cause| cause.sequence).collect::<Vec<_>>(),
            [transformed.sequence]
        );
        assert_eq!(dead.envelope.cause_sequence, Some(transformed.sequence));
    }

    #[test]
    fn a_retry_of_a_lost_event_ends_both() {
        let mut log = Log::default();
        let webhook = log.accept("one", "CR-1");
        let request = log.follow(&webhook, "retry/1", EventType::OrderRetryRequested);
        let again = Recorded {
            run: Some(request.envelope.id),
            ..webhook.clone()
        };
        let transformed = log.transform(&again);
        assert!(log.scan().has_open());
        log.forward(&transformed);
        let scan = log.scan();
        assert!(!scan.has_open() && scan.faults.is_empty());
    }

    #[test]
    fn open_events_wait_are_parked_or_are_lost() {
        let mut log = Log::default();
        for (body, order) in [("a", "CR-1"), ("b", "CR-2"), ("c", "CR-3")] {
            let webhook = log.accept(body, order);
            log.transform(&webhook);
        }
        let webhook = log.accept("d", "CR-4");
        let mut scan = log.scan();
        // Up to 4 all is acknowledged.
        let (waiting, parked) = scan.judge_open(&HashSet::from([2]), |sequence, _| sequence <= 4);
        assert_eq!((waiting, parked), (2, 1));
        assert_eq!(places(&scan.faults.lost), [4]);
        assert_eq!(scan.faults.lost.first[0].external_order_id, "CR-2");
        assert_eq!(webhook.sequence, 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut log = Log::default();
        let (first, second) = (log.accept("a", "CR-1"), log.accept("b", "CR-1"));
        let (late, early) = (log.transform(&second), log.transform(&first));
        let mut forwarded = log.forward(&late);
        forwarded.envelope.id = EventId::of_webhook("careem", &[b"other"]);
        log.0[4] = forwarded;
        // Its cause stands behind it.
        let mut outcome = log.forward(&early);
        outcome.envelope.cause_sequence = Some(99);
        outcome.envelope.cause_id = Some(second.envelope.id);
        log.0[5] = outcome;
        let faults = log.scan().faults;
        assert_eq!(places(&faults.out_of_order), [early.sequence]);
        assert_eq!(places(&faults.wrong_ids), [5]);
        assert_eq!(places(&faults.without_cause), [6]);
    }
}
