//! The open dead letters: given up or rejected, and neither retried nor confirmed by another announcement of their order.
//!
//! Read from the log's beginning once, and from there on as the log grows. An open one takes some 100 bytes in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    dead_letters::confirmed::confirmed_after,
    event::{
        EventId, EventType, Recorded,
        outcome::{self, DeadLettered, Rejected},
        stage::{FORWARD, TRANSFORM},
    },
    journal::{
        codec,
        connection::Connection,
        identity::follow::Followed,
        read::{Entry, LogReader, Start},
    },
};

/// Most that are listed one by one. With more the gauges show that number, and the log warns once.
const MAX_OPEN: usize = 100_000;
/// Most causes that have a series of their own; what comes with another one counts as `other`.
const MAX_CAUSES: usize = 200;
/// Most characters of a code, and of a provider's name, in a label.
const MAX_LABEL_CHARS: usize = 64;
/// The code of what has no other, and of causes beyond the limit.
const OTHER: &str = "other";

/// Why it is there: stage, code and provider.
type Cause = (String, String, String);

/// See the module.
#[derive(Default)]
pub(super) struct Letters {
    /// Which log was read, and how far.
    log: Followed,
    position: u64,
    open: OpenLetters,
    warned: bool,
}

impl Letters {
    /// Reads what came since the last look.
    pub(super) async fn look(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let look = self.log.look(connection).await?;
        if !look.is_same {
            // The log was replaced or went back, so its dead letters are read anew.
            self.position = 0;
            self.open.clear();
        }
        let end = look.log.last;
        if end > self.position {
            // A retry is later than its letter, so letters are read first.
            for event_type in [
                EventType::OrderDeadLettered,
                EventType::OrderRejected,
                EventType::OrderRetryRequested,
            ] {
                self.read(connection, event_type, end).await?;
            }
            self.close_confirmed(connection).await?;
            self.position = end;
        }
        self.open.forget_before(look.log.first);
        if self.open.is_full() && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(most = MAX_OPEN, "more dead letters are open than are counted");
        }
        self.open.show();
        metrics::gauge!("dead_letters_known").set(if self.open.is_full() { 0.0 } else { 1.0 });
        Ok(())
    }

    /// Closes letters of orders that the backend has, as it said when another announcement came. Only the providers of such letters
    /// are read.
    async fn close_confirmed(&mut self, connection: &Connection) -> anyhow::Result<()> {
        for (provider, first) in self.open.unsure_by_provider() {
            let subjects = format!(
                "{}.{}.>",
                EventType::OrderForwarded.subject_root(),
                codec::token(&provider)
            );
            let confirmed = confirmed_after(connection, subjects, first.max(self.position)).await?;
            self.open.close(&confirmed);
        }
        Ok(())
    }

    async fn read(&mut self, connection: &Connection, event_type: EventType, end: u64) -> anyhow::Result<()> {
        let subjects = format!("{}.>", event_type.subject_root());
        let mut reader = LogReader::of_subjects(connection, subjects, Start::Sequence(self.position + 1));
        loop {
            let entries = reader.next_batch().await?;
            let Some(last) = entries.last().map(Entry::sequence) else {
                return Ok(());
            };
            for entry in entries {
                // Later events are read next time, after the letters that they may be about.
                if let Entry::Event(event) = entry
                    && event.sequence <= end
                {
                    self.open.apply(&event);
                }
            }
            if last >= end {
                return Ok(());
            }
        }
    }
}

/// The open ones. Pure but for the gauges.
#[derive(Default)]
struct OpenLetters {
    by_id: HashMap<EventId, u64>,
    by_place: BTreeMap<u64, (EventId, Cause)>,
    /// Letters of new orders that the backend may have: provider and place of the announcement, by the letter's place.
    unsure: BTreeMap<u64, (Arc<str>, u64)>,
    counts: HashMap<Cause, u64>,
    /// Causes that have a series.
    shown: HashSet<Cause>,
}

impl OpenLetters {
    fn apply(&mut self, event: &Recorded) {
        if event.envelope.event_type == EventType::OrderRetryRequested {
            if let Some(sequence) = event.envelope.cause_id.and_then(|id| self.by_id.get(&id).copied()) {
                self.remove(sequence);
            }
            return;
        }
        if outcome::is_confirmation(event) {
            return;
        }
        let id = event.envelope.id;
        if self.is_full() || self.by_id.contains_key(&id) {
            return;
        }
        if let Some(announcement) = unsure_announcement(event) {
            let provider = Arc::clone(&event.envelope.provider);
            self.unsure.insert(event.sequence, (provider, announcement));
        }
        let (stage, code) = stage_and_code(event);
        let mut cause = (cut(&stage), cut(&code), cut(&event.envelope.provider));
        if !self.counts.contains_key(&cause) && self.counts.len() >= MAX_CAUSES {
            cause = (cause.0, OTHER.to_owned(), OTHER.to_owned());
        }
        *self.counts.entry(cause.clone()).or_default() += 1;
        self.by_id.insert(id, event.sequence);
        self.by_place.insert(event.sequence, (id, cause));
    }

    /// The providers of letters that may be confirmed, each with the place of its first one.
    fn unsure_by_provider(&self) -> BTreeMap<Arc<str>, u64> {
        let mut first = BTreeMap::new();
        for (place, (provider, _)) in &self.unsure {
            first.entry(Arc::clone(provider)).or_insert(*place);
        }
        first
    }

    /// Closes letters with announcements that were confirmed later, by where that is recorded.
    fn close(&mut self, confirmed: &BTreeMap<u64, u64>) {
        if confirmed.is_empty() {
            return;
        }
        let is_confirmed = |(place, (_, announcement)): (&u64, &(Arc<str>, u64))| {
            confirmed
                .get(announcement)
                .is_some_and(|at| at > place)
                .then_some(*place)
        };
        let closed: Vec<_> = self.unsure.iter().filter_map(is_confirmed).collect();
        closed.into_iter().for_each(|place| self.remove(place));
    }

    fn remove(&mut self, sequence: u64) {
        self.unsure.remove(&sequence);
        if let Some((id, cause)) = self.by_place.remove(&sequence) {
            self.by_id.remove(&id);
            if let Some(count) = self.counts.get_mut(&cause) {
                *count -= 1;
            }
        }
    }

    /// A letter that has left the log can no longer be retried.
    fn forget_before(&mut self, first: u64) {
        while let Some(sequence) = self.by_place.first_key_value().map(|(sequence, _)| *sequence)
            && sequence < first
        {
            self.remove(sequence);
        }
    }

    fn clear(&mut self) {
        self.by_id.clear();
        self.by_place.clear();
        self.unsure.clear();
        self.counts.values_mut().for_each(|count| *count = 0);
    }

    fn is_full(&self) -> bool {
        self.by_id.len() >= MAX_OPEN
    }

    fn show(&mut self) {
        for (cause, count) in &self.counts {
            let (stage, code, provider) = cause.clone();
            metrics::gauge!("dead_letters_open", "stage" => stage, "code" => code, "provider" => provider)
                .set(*count as f64);
            self.shown.insert(cause.clone());
        }
        // A cause without letters stays at 0, so that a graph shows its end, until another cause needs its place.
        self.counts.retain(|_, count| *count > 0);
        for (stage, code, provider) in self.shown.iter().filter(|cause| !self.counts.contains_key(*cause)) {
            let labels = [
                ("stage", stage.clone()),
                ("code", code.clone()),
                ("provider", provider.clone()),
            ];
            metrics::gauge!("dead_letters_open", &labels).set(0.0);
        }
        if self.shown.len() > 2 * MAX_CAUSES {
            self.shown = self.counts.keys().cloned().collect();
        }
    }
}

/// The stage that gave an event up or rejected it, and why.
fn stage_and_code(event: &Recorded) -> (String, String) {
    if event.envelope.event_type == EventType::OrderRejected {
        return match serde_json::from_slice::<Rejected>(&event.payload) {
            // Earlier versions did not record the stage; only the first stage rejected events then.
            Ok(said) => (said.stage.unwrap_or_else(|| TRANSFORM.name.into()), said.error.code),
            Err(_) => (TRANSFORM.name.to_owned(), OTHER.to_owned()),
        };
    }
    match serde_json::from_slice::<DeadLettered>(&event.payload) {
        Ok(said) => (said.stage, said.error.code),
        Err(_) => (OTHER.to_owned(), OTHER.to_owned()),
    }
}

/// The place of the new order that a letter is about, if the backend may have the order.
fn unsure_announcement(letter: &Recorded) -> Option<u64> {
    let is_given_up = letter.envelope.event_type == EventType::OrderDeadLettered && letter.envelope.is_creation();
    let dead: DeadLettered = is_given_up.then(|| serde_json::from_slice(&letter.payload).ok())??;
    let is_unsure = dead.stage == FORWARD.name && !dead.is_refused();
    is_unsure.then_some(dead.sequence)
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_LABEL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;
    use crate::event::{Envelope, ORDER_CREATED};

    fn event(sequence: u64, event_type: EventType, cause: Option<EventId>, code: &str) -> Recorded {
        let id = EventId::of_webhook("careem", &[&sequence.to_be_bytes()]);
        let error = json!({ "type": "validation", "code": code, "message": "m" });
        let payload = json!({ "attempts": 1, "retries": 0, "stage": "forward", "sequence": 1, "error": error });
        let sample = Recorded::sample(
            "careem",
            "CR-1",
            ORDER_CREATED,
            payload.to_string().as_bytes(),
            Utc::now(),
        );
        Recorded {
            envelope: Envelope {
                id,
                event_type,
                root_id: id,
                cause_id: cause,
                ..sample.envelope
            },
            sequence,
            ..sample
        }
    }

    fn counts(open: &OpenLetters) -> BTreeMap<String, u64> {
        let of = |(cause, count): (&Cause, &u64)| (format!("{} {}", cause.0, cause.1), *count);
        open.counts.iter().map(of).filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_letter_is_open_until_it_is_taken_up_or_leaves_the_log() {
        let mut open = OpenLetters::default();
        let dead = EventType::OrderDeadLettered;
        let letters = [
            event(1, dead, None, "BACKEND_422"),
            event(2, dead, None, "BACKEND_422"),
            event(3, dead, None, "LANE_FULL"),
            event(4, EventType::OrderRejected, None, "INVALID_ORDER"),
        ];
        letters.iter().for_each(|letter| open.apply(letter));
        open.apply(&letters[0]);
        assert_eq!(
            counts(&open),
            BTreeMap::from([
                ("forward BACKEND_422".to_owned(), 2),
                ("forward LANE_FULL".to_owned(), 1),
                ("forward INVALID_ORDER".to_owned(), 1),
            ])
        );
        let retry = event(9, EventType::OrderRetryRequested, Some(letters[1].envelope.id), "");
        open.apply(&retry);
        open.apply(&retry);
        assert_eq!(counts(&open)["forward BACKEND_422"], 1);
        open.forget_before(4);
        assert_eq!(counts(&open), BTreeMap::from([("forward INVALID_ORDER".to_owned(), 1)]));
    }

    #[test]
    fn a_letter_is_closed_when_its_order_is_confirmed_later() {
        let mut open = OpenLetters::default();
        let letter = |sequence: u64, announcement: u64, error: &str| {
            let error = json!({ "type": error, "code": "BACKEND_503", "message": "m" });
            let payload = json!({ "attempts": 1, "stage": "forward", "sequence": announcement, "error": error });
            Recorded {
                payload: payload.to_string().into(),
                ..event(sequence, EventType::OrderDeadLettered, None, "")
            }
        };
        for letter in [
            letter(5, 2, "temporary"),
            letter(6, 3, "validation"),
            letter(9, 4, "temporary"),
        ] {
            open.apply(&letter);
        }
        assert_eq!(open.unsure_by_provider(), BTreeMap::from([("careem".into(), 5)]));
        // The letter at 9 is later than that: it was given up again.
        open.close(&BTreeMap::from([(2, 7), (3, 7), (4, 8)]));
        assert_eq!(open.by_place.keys().copied().collect::<Vec<_>>(), [6, 9]);
        assert_eq!(open.unsure_by_provider(), BTreeMap::from([("careem".into(), 9)]));
        open.forget_before(10);
        assert!(open.unsure.is_empty());
    }

    #[test]
    fn causes_without_end_are_counted_together() {
        let mut open = OpenLetters::default();
        for sequence in 1..=1000 {
            open.apply(&event(
                sequence,
                EventType::OrderDeadLettered,
                None,
                &format!("CODE_{sequence}"),
            ));
        }
        assert_eq!(open.counts.len(), MAX_CAUSES + 1);
        assert_eq!(open.counts.values().sum::<u64>(), 1000);
        open.clear();
        assert_eq!(open.counts.values().sum::<u64>(), 0);
    }
}
