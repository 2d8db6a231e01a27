//! Which letters are closed without a retry: another announcement of the order made the hub repeat the request, and the backend has the
//! order ([`crate::event::outcome::Forwarded::confirmed_by`]).

use std::collections::{BTreeMap, HashSet};

use super::letter::Letter;
use crate::{
    event::{EventId, EventType, outcome, stage::FORWARD},
    journal::{
        codec,
        connection::Connection,
        read::{Entry, LogReader, Start},
    },
};

/// Whether a letter is about a new order that the backend may have.
fn may_be_confirmed(letter: &Letter) -> bool {
    letter.event.envelope.event_type == EventType::OrderDeadLettered
        && letter.event.envelope.is_creation()
        && letter
            .facts
            .as_ref()
            .is_ok_and(|facts| facts.stage.as_deref() == Some(FORWARD.name) && !facts.error.is_refusal())
}

/// The confirmed ones among these letters. The log is read once for each branch that they are of.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn confirmed<'a>(
    connection: &Connection,
    letters: impl Iterator<Item = &'a Letter>,
) -> anyhow::Result<HashSet<EventId>> {
    let mut by_subject: BTreeMap<String, Vec<&Letter>> = BTreeMap::new();
    for letter in letters.filter(|letter| may_be_confirmed(letter)) {
        let envelope = &letter.event.envelope;
        let branch = envelope.branch.as_deref().unwrap_or_default();
        // In any partition: `PARTITIONS` may have been changed since.
        let (root, provider) = (
            EventType::OrderForwarded.subject_root(),
            codec::token(&envelope.provider),
        );
        let subject = format!("{root}.{provider}.{}.*", codec::token(branch));
        by_subject.entry(subject).or_default().push(letter);
    }
    let mut found = HashSet::new();
    for (subject, letters) in by_subject {
        let first = letters
            .iter()
            .map(|letter| letter.event.sequence)
            .min()
            .unwrap_or_default();
        let confirmed = confirmed_after(connection, subject, first).await?;
        let is_confirmed = |letter: &&Letter| {
            let place = letter.facts.as_ref().ok().and_then(|facts| facts.sequence);
            place.is_some_and(|place| confirmed.get(&place).is_some_and(|at| *at > letter.event.sequence))
        };
        found.extend(letters.into_iter().filter(is_confirmed).map(Letter::id));
    }
    Ok(found)
}

/// Which announcements were confirmed on these subjects behind a place on the log, and where that is recorded.
///
/// # Errors
/// If NATS does not answer.
pub(crate) async fn confirmed_after(
    connection: &Connection,
    subjects: String,
    place: u64,
) -> anyhow::Result<BTreeMap<u64, u64>> {
    let mut reader = LogReader::of_subjects(connection, subjects, Start::Sequence(place + 1));
    let mut confirmed = BTreeMap::new();
    loop {
        let entries = reader.next_batch_to_end(connection).await?;
        if entries.is_empty() {
            return Ok(confirmed);
        }
        for entry in entries {
            if let Entry::Event(event) = entry
                && let Some(announcement) = outcome::confirmed(&event)
            {
                confirmed.insert(announcement, event.sequence);
            }
        }
    }
}
