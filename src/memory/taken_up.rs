//! Bodies that a person had taken up again: where the requests are that have no end yet. Pure.
//!
//! The index knows how the body ended before. While it is taken up again, it is handled once more, in the turn of the request.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Orders, lock};
use crate::event::{Envelope, EventId, EventType, outcome::RetryRequested, stage::FORWARD};

/// Most requests that are kept, some 50 bytes each. If there are more, those of the oldest bodies go.
const MAX_REQUESTS: usize = 100_000;

/// A request to take a body up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Place on the log of the request.
    pub(crate) sequence: u64,
    /// When it was made.
    pub(crate) since: DateTime<Utc>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TakenUp {
    /// By the body's place and the request's.
    requests: BTreeMap<(u64, u64), (EventId, DateTime<Utc>)>,
}

impl TakenUp {
    /// Notes a request, or the end of one. Noting it twice changes nothing in the end: what ended is noted again after its request.
    pub(super) fn note(&mut self, envelope: &Envelope, payload: &[u8], sequence: u64) {
        match envelope.event_type {
            EventType::OrderRetryRequested => {
                let request = serde_json::from_slice::<RetryRequested>(payload).ok();
                let Some(request) = request.filter(|request| request.stage == FORWARD.name) else {
                    return;
                };
                self.requests
                    .insert((request.sequence, sequence), (envelope.id, envelope.time));
                if self.requests.len() > MAX_REQUESTS {
                    self.requests.pop_first();
                }
            }
            EventType::OrderForwarded
            | EventType::OrderIgnored
            | EventType::OrderDeadLettered
            | EventType::OrderRejected => {
                if let Some((body, cause)) = envelope.cause_sequence.zip(envelope.cause_id) {
                    let ended = self.of(body).find(|(_, (id, _))| *id == cause).map(|(place, _)| *place);
                    ended.map(|place| self.requests.remove(&place));
                }
            }
            _ => {}
        }
    }

    /// The first request for a body that has no end; none if there is none.
    pub(super) fn turn(&self, body: u64) -> Option<Turn> {
        let first = self.of(body).next();
        first.map(|((_, sequence), (_, since))| Turn {
            sequence: *sequence,
            since: *since,
        })
    }

    fn of(&self, body: u64) -> impl Iterator<Item = (&(u64, u64), &(EventId, DateTime<Utc>))> {
        self.requests.range((body, 0)..=(body, u64::MAX))
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
    }
}

impl Orders {
    /// The first request to take up a body again that has no end yet; none if there is none.
    pub(crate) fn taken_up(&self, body: u64) -> Option<Turn> {
        lock(&self.taken_up).turn(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Recorded, outcome::OUTCOME};

    #[test]
    fn a_body_is_taken_up_until_its_request_ends() {
        let body = Recorded {
            sequence: 5,
            ..Recorded::sample("careem", "CR-1", "order_created", b"{}", Utc::now())
        };
        let request = |label: &str, stage: &str| {
            let payload = serde_json::json!({ "stage": stage, "sequence": 5, "by": "test" }).to_string();
            (body.follow(label, EventType::OrderRetryRequested, Utc::now()), payload)
        };
        let mut taken = TakenUp::default();
        let (elsewhere, payload) = request("push", "push");
        taken.note(&elsewhere, payload.as_bytes(), 7);
        assert_eq!(taken.turn(5), None, "another stage takes it up");
        let (first, payload) = request("one", "forward");
        let (second, _) = request("two", "forward");
        for _ in 0..2 {
            taken.note(&first, payload.as_bytes(), 8);
            taken.note(&second, payload.as_bytes(), 9);
        }
        assert_eq!(taken.turn(5).map(|turn| turn.sequence), Some(8));
        let ended = |request: &Envelope| {
            let run = Recorded {
                run: Some(request.id),
                ..body.clone()
            };
            run.follow(OUTCOME, EventType::OrderDeadLettered, Utc::now())
        };
        // Another run of the body.
        taken.note(&body.follow(OUTCOME, EventType::OrderForwarded, Utc::now()), b"{}", 10);
        taken.note(&ended(&first), b"{}", 11);
        assert_eq!(taken.turn(5).map(|turn| turn.sequence), Some(9));
        taken.note(&ended(&second), b"{}", 12);
        assert_eq!((taken.turn(5), taken.turn(4)), (None, None));
    }
}
