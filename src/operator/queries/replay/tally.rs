//! Counts what a replay found, in bounded memory, whatever the order in which it is found.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::judge::{Pair, Verdict};
use crate::operator::queries::difference::ValueChange;

/// Most groups that are kept; what belongs to others is counted. A body has some hundred pointers, and a provider's `extra` may
/// have names that are made of ids.
const MAX_GROUPS: usize = 2000;

/// Events that would come out in the same way with another value at a place.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaceGroup {
    /// The provider.
    pub provider: String,
    /// JSON pointer into the outcome, with `*` for the place in an array; `(Idempotency-Key)` or `(notation)` if no value differs.
    pub pointer: String,
    /// How many events differ there.
    pub count: u64,
    /// The first of them.
    pub example: Example,
}

/// An event that differs. Personal data is masked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Sequence of the webhook, or of the fetched order.
    pub sequence: u64,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// The pointer itself.
    pub pointer: String,
    /// The value on the log; none if there is none.
    pub before: Option<Value>,
    /// The value that it would have; none if there would be none.
    pub after: Option<Value>,
}

/// Events that would come out in another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeGroup {
    /// The provider.
    pub provider: String,
    /// The outcome on the log: its type, and its code if it has one.
    pub logged: String,
    /// The outcome that would be recorded.
    pub now: String,
    /// How many events.
    pub count: u64,
    /// Sequence of the first of them, and its order.
    pub sequence: u64,
    /// See `sequence`.
    pub external_order_id: String,
}

/// An event that would come out differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AffectedEvent {
    /// Sequence of the webhook, or of the fetched order.
    pub sequence: u64,
    /// The provider.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// The type of the webhook, as it was recorded.
    pub webhook_type: String,
    /// Where it differs, as the groups have it; empty if it would come out in another way.
    pub pointers: Vec<String>,
    /// The outcome on the log and the one that would be recorded, if these are of different kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<[String; 2]>,
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Tally {
    limit: usize,
    pub(super) compared: u64,
    pub(super) not_compared: u64,
    pub(super) unreadable: u64,
    pub(super) different: u64,
    /// Places and outcomes beyond [`MAX_GROUPS`].
    pub(super) ungrouped: u64,
    places: BTreeMap<(String, String), PlaceGroup>,
    outcomes: BTreeMap<(String, String, String), OutcomeGroup>,
    first: BTreeMap<u64, AffectedEvent>,
}

impl Tally {
    /// Names so many of the events that differ: the first ones on the log.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            compared: 0,
            not_compared: 0,
            unreadable: 0,
            different: 0,
            ungrouped: 0,
            places: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            first: BTreeMap::new(),
        }
    }

    /// Another one of the same limit.
    pub(super) const fn beside(&self) -> Self {
        Self::new(self.limit)
    }

    /// Adds what was found about a pair.
    pub(super) fn add(&mut self, pair: &Pair, verdict: Verdict) {
        let (input, provider) = (&pair.input, pair.input.envelope.provider.to_string());
        let mut affected = AffectedEvent {
            sequence: input.sequence,
            provider,
            external_order_id: input.envelope.external_order_id.clone(),
            webhook_type: input.envelope.webhook_type.clone(),
            pointers: Vec::new(),
            outcome: None,
        };
        match verdict {
            Verdict::Same => {
                self.compared += 1;
                return;
            }
            Verdict::NotCompared => {
                self.not_compared += 1;
                return;
            }
            Verdict::Differs(changes) => affected.pointers = self.add_changes(&affected, changes),
            Verdict::Otherwise { logged, now } => {
                let group = OutcomeGroup {
                    provider: affected.provider.clone(),
                    logged: logged.clone(),
                    now: now.clone(),
                    count: 1,
                    sequence: affected.sequence,
                    external_order_id: affected.external_order_id.clone(),
                };
                self.add_outcome(group);
                affected.outcome = Some([logged, now]);
            }
        }
        self.compared += 1;
        self.different += 1;
        self.name(affected);
    }

    /// The places in which it differs, each once.
    fn add_changes(&mut self, event: &AffectedEvent, changes: Vec<ValueChange>) -> Vec<String> {
        let mut places = BTreeSet::new();
        for change in changes {
            let place = place_of(&change.pointer);
            if !places.insert(place.clone()) {
                continue;
            }
            let example = Example {
                sequence: event.sequence,
                external_order_id: event.external_order_id.clone(),
                pointer: change.pointer,
                before: change.before,
                after: change.after,
            };
            self.add_place(PlaceGroup {
                provider: event.provider.clone(),
                pointer: place,
                count: 1,
                example,
            });
        }
        places.into_iter().collect()
    }

    fn add_place(&mut self, group: PlaceGroup) {
        let key = (group.provider.clone(), group.pointer.clone());
        let is_full = self.places.len() >= MAX_GROUPS;
        match self.places.get_mut(&key) {
            Some(known) => {
                known.count += group.count;
                if group.example.sequence < known.example.sequence {
                    known.example = group.example;
                }
            }
            None if is_full => self.ungrouped += group.count,
            None => drop(self.places.insert(key, group)),
        }
    }

    fn add_outcome(&mut self, group: OutcomeGroup) {
        let key = (group.provider.clone(), group.logged.clone(), group.now.clone());
        let is_full = self.outcomes.len() >= MAX_GROUPS;
        match self.outcomes.get_mut(&key) {
            Some(known) => {
                let count = known.count + group.count;
                if group.sequence < known.sequence {
                    *known = group;
                }
                known.count = count;
            }
            None if is_full => self.ungrouped += group.count,
            None => drop(self.outcomes.insert(key, group)),
        }
    }

    fn name(&mut self, affected: AffectedEvent) {
        self.first.insert(affected.sequence, affected);
        if self.first.len() > self.limit {
            self.first.pop_last();
        }
    }

    /// Adds all that another one has.
    pub(super) fn merge(&mut self, other: Self) {
        self.compared += other.compared;
        self.not_compared += other.not_compared;
        self.unreadable += other.unreadable;
        self.different += other.different;
        self.ungrouped += other.ungrouped;
        other.places.into_values().for_each(|group| self.add_place(group));
        other.outcomes.into_values().for_each(|group| self.add_outcome(group));
        other.first.into_values().for_each(|affected| self.name(affected));
    }

    /// The groups, those with the most events first.
    pub(super) fn groups(&mut self) -> (Vec<PlaceGroup>, Vec<OutcomeGroup>) {
        let mut places: Vec<_> = std::mem::take(&mut self.places).into_values().collect();
        places.sort_by_key(|group| std::cmp::Reverse(group.count));
        let mut outcomes: Vec<_> = std::mem::take(&mut self.outcomes).into_values().collect();
        outcomes.sort_by_key(|group| std::cmp::Reverse(group.count));
        (places, outcomes)
    }

    /// The events that are named, in the log's order.
    pub(super) fn named(&mut self) -> Vec<AffectedEvent> {
        std::mem::take(&mut self.first).into_values().collect()
    }
}

/// A pointer with `*` for each place in an array.
fn place_of(pointer: &str) -> String {
    let is_index = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    let place = |token: &str| {
        if is_index(token) {
            "*".to_owned()
        } else {
            token.to_owned()
        }
    };
    pointer.split('/').map(place).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;
    use crate::event::Recorded;

    fn pair(sequence: u64) -> Pair {
        let event = Recorded {
            sequence,
            ..Recorded::sample("careem", &format!("CR-{sequence}"), "order_created", b"{}", Utc::now())
        };
        Pair {
            input: event.clone(),
            webhook: None,
            logged: event,
        }
    }

    fn change(pointer: &str, after: u64) -> ValueChange {
        ValueChange {
            pointer: pointer.into(),
            before: None,
            after: Some(json!(after)),
        }
    }

    /// The result does not depend on which part is found first.
    #[test]
    fn parts_may_be_merged_in_any_order() {
        let part = |sequences: &[u64]| {
            let mut tally = Tally::new(2);
            for sequence in sequences {
                let changes = vec![change("/items/0/price", *sequence), change("/items/1/price", 0)];
                tally.add(&pair(*sequence), Verdict::Differs(changes));
                let otherwise = Verdict::Otherwise {
                    logged: "order.rejected".into(),
                    now: "order.transformed".into(),
                };
                tally.add(&pair(sequence + 100), otherwise);
                tally.add(&pair(sequence + 200), Verdict::Same);
            }
            tally
        };
        for order in [[&[3][..], &[1, 2]], [&[1, 2], &[3]]] {
            let mut tally = Tally::new(2);
            order.into_iter().for_each(|sequences| tally.merge(part(sequences)));
            assert_eq!((tally.compared, tally.different), (9, 6));
            let (places, outcomes) = tally.groups();
            assert_eq!(places.len(), 1);
            let (group, example) = (&places[0], &places[0].example);
            assert_eq!((group.pointer.as_str(), group.count), ("/items/*/price", 3));
            assert_eq!((example.sequence, &example.after), (1, &Some(json!(1))));
            assert_eq!((outcomes[0].count, outcomes[0].sequence), (3, 101));
            let named: Vec<_> = tally.named().into_iter().map(|event| event.sequence).collect();
            assert_eq!(named, [1, 2]);
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut tally = Tally::new(1);
        for number in 0..MAX_GROUPS as u64 + 5 {
            tally.add(&pair(number), Verdict::Differs(vec![change(&format!("/x{number}"), 0)]));
        }
        assert_eq!((tally.groups().0.len(), tally.ungrouped), (MAX_GROUPS, 5));
    }
}
