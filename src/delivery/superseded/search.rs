//! Finds the events about one order among those of its branch.
//!
//! The log has no index of orders. A job may retry thousands of letters of one branch, and each retry asks for the outcomes about its
//! order, so the outcomes of the branch are read once: [`Searches`] keeps where the events about each order are, and later searches read
//! only what came since. What is kept is a hash, so the event itself decides whether it is about the order. A search reads up to the end of
//! the log as its leader has it, because the event that matters may be the last one.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lru::LruCache;

use crate::{
    event::{Envelope, EventId, Recorded},
    journal::{
        connection::Connection,
        read::{Entry, LogReader, Start, event_at},
    },
};

/// Most places that are kept for all subjects together, 24 bytes each.
const MAX_PLACES: usize = 200_000;
/// At most this many events of one order are compared, the latest ones: far more than a provider sends about an order.
const MAX_FOUND: usize = 1000;
/// Known places that a search reads at a time.
const READS_AT_ONCE: usize = 16;

/// What is searched: the subjects, and whether they are read from a time on. (From a sequence on is another search: which of the two
/// begins earlier is not known.)
type Key = (String, bool);

/// Where the events about orders are, by subjects. Those that were not used for the longest time are forgotten first.
pub struct Searches {
    by_key: Mutex<LruCache<Key, Kept>>,
    hasher: RandomState,
    most: usize,
}

struct Kept {
    places: Arc<tokio::sync::Mutex<Places>>,
    /// How many there were when they were read last.
    count: usize,
}

impl Default for Searches {
    fn default() -> Self {
        Self {
            by_key: Mutex::new(LruCache::unbounded()),
            hasher: RandomState::new(),
            most: MAX_PLACES,
        }
    }
}

impl Searches {
    /// The sequences of the events on these subjects that may be about an order, in the log's order; none if there are too many events on
    /// the subjects to keep their places.
    async fn may_be_about(
        &self,
        connection: &Connection,
        of: &Envelope,
        subjects: &str,
        start: Start,
    ) -> anyhow::Result<Option<Vec<u64>>> {
        let key = (subjects.to_owned(), matches!(start, Start::Time(_)));
        let order = self.order(of);
        let places = Arc::clone(&self.lock().get_or_insert_mut(key.clone(), || Kept::new(start)).places);
        let mut places = places.lock().await;
        if !places.covers(start) {
            *places = Places::from(start);
        }
        places.read_on(connection, subjects, self).await?;
        let found = (!places.are_too_many).then(|| places.of(order, start));
        self.note_count(&key, places.known.len());
        Ok(found)
    }

    fn order(&self, of: &Envelope) -> u32 {
        // The lower half of the hash.
        self.hasher.hash_one((&*of.provider, &of.external_order_id)) as u32
    }

    /// Notes how many places a search has, and forgets others where there are too many.
    fn note_count(&self, key: &Key, count: usize) {
        let mut by_key = self.lock();
        if let Some(kept) = by_key.get_mut(key) {
            kept.count = count;
        }
        let mut all: usize = by_key.iter().map(|(_, kept)| kept.count + 1).sum();
        while all > self.most
            && let Some((_, forgotten)) = by_key.pop_lru()
        {
            all -= forgotten.count + 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, Kept>> {
        // No code panics while it holds the lock.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(start: Start) -> Self {
        Self {
            places: Arc::new(tokio::sync::Mutex::new(Places::from(start))),
            count: 0,
        }
    }
}

/// Where the events on some subjects are.
struct Places {
    start: Start,
    /// The message that was read last; no id if it is no event. If it is not there any more, the log is another one, or has deleted it.
    last: Option<(u64, Option<EventId>)>,
    known: Vec<Place>,
    are_too_many: bool,
}

/// Where an event is.
struct Place {
    order: u32,
    sequence: u64,
    time: DateTime<Utc>,
}

impl Places {
    const fn from(start: Start) -> Self {
        Self {
            start,
            last: None,
            known: Vec::new(),
            are_too_many: false,
        }
    }

    /// Whether everything from there on was read.
    fn covers(&self, start: Start) -> bool {
        match (self.start, start) {
            (Start::Sequence(own), Start::Sequence(other)) => own <= other,
            (Start::Time(own), Start::Time(other)) => own <= other,
            _ => false,
        }
    }

    /// Reads what came since.
    async fn read_on(&mut self, connection: &Connection, subjects: &str, searches: &Searches) -> anyhow::Result<()> {
        while !self.are_too_many {
            let from = self.last.map_or(self.start, |(sequence, _)| Start::Sequence(sequence));
            let mut reader = LogReader::of_subjects(connection, subjects, from);
            let mut expected = self.last;
            loop {
                let entries = reader.next_batch_to_end(connection).await?;
                if entries.is_empty() && expected.is_none() {
                    return Ok(());
                }
                let is_first = expected.take();
                if is_first.is_some_and(|last| entries.first().map(place_of) != Some(last)) {
                    break;
                }
                let new = entries.iter().skip(usize::from(is_first.is_some()));
                new.for_each(|entry| self.note(entry, searches));
                if self.are_too_many {
                    return Ok(());
                }
            }
            *self = Self::from(self.start);
        }
        Ok(())
    }

    fn note(&mut self, entry: &Entry, searches: &Searches) {
        self.last = Some(place_of(entry));
        if let Entry::Event(event) = entry
            && !self.are_too_many
        {
            self.known.push(Place {
                order: searches.order(&event.envelope),
                sequence: event.sequence,
                time: event.envelope.time,
            });
        }
        if self.known.len() >= searches.most {
            (self.known, self.are_too_many) = (Vec::new(), true);
        }
    }

    fn of(&self, order: u32, start: Start) -> Vec<u64> {
        let of_order = self.known.iter().filter(|place| place.order == order);
        let since = of_order.filter(|place| match start {
            Start::Sequence(sequence) => place.sequence >= sequence,
            Start::Time(time) => place.time >= time,
        });
        since.map(|place| place.sequence).collect()
    }
}

fn place_of(entry: &Entry) -> (u64, Option<EventId>) {
    match entry {
        Entry::Event(event) => (event.sequence, Some(event.envelope.id)),
        Entry::Unreadable { sequence, .. } => (*sequence, None),
    }
}

/// The events on these subjects that are about the same order or menu and match, in the log's order.
///
/// # Errors
/// If NATS does not answer.
pub(crate) async fn find(
    connection: &Connection,
    searches: Option<&Searches>,
    event: &Recorded,
    (subjects, start): (String, Start),
    matches: impl Fn(&Recorded) -> bool,
) -> anyhow::Result<Vec<Recorded>> {
    let of = &event.envelope;
    let is_wanted = |later: &Recorded| {
        let branches = later.envelope.branch.as_ref().zip(of.branch.as_ref());
        later.envelope.provider == of.provider
            && later.envelope.external_order_id == of.external_order_id
            && branches.is_none_or(|(one, other)| one == other)
            && matches(later)
    };
    let mut found = Found::default();
    if let Some(searches) = searches
        && let Some(places) = searches.may_be_about(connection, of, &subjects, start).await?
    {
        let reads = stream::iter(places).map(|sequence| event_at(connection, sequence));
        let mut reads = reads.buffered(READS_AT_ONCE);
        while let Some(there) = reads.try_next().await? {
            found.extend(there.filter(&is_wanted));
        }
        return Ok(found.0);
    }
    let mut reader = LogReader::of_subjects(connection, subjects, start);
    loop {
        let entries = reader.next_batch_to_end(connection).await?;
        if entries.is_empty() {
            return Ok(found.0);
        }
        let events = entries.into_iter().filter_map(|entry| match entry {
            Entry::Event(event) => Some(*event),
            Entry::Unreadable { .. } => None,
        });
        found.extend(events.filter(&is_wanted));
    }
}

/// The latest events that were found.
#[derive(Default)]
struct Found(Vec<Recorded>);

impl Found {
    fn extend(&mut self, events: impl IntoIterator<Item = Recorded>) {
        self.0.extend(events);
        let too_many = self.0.len().saturating_sub(MAX_FOUND);
        self.0.drain(..too_many);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn entry(sequence: u64, order: &str, at: DateTime<Utc>) -> Entry {
        let event = Recorded::sample("careem", order, "order_created", order.as_bytes(), at);
        Entry::Event(Box::new(Recorded { sequence, ..event }))
    }

    fn envelope(order: &str) -> Envelope {
        Recorded::sample("careem", order, "order_created", b"", Utc::now()).envelope
    }

    #[test]
    fn places_are_those_of_the_order_from_the_start_on() {
        let (searches, began) = (Searches::default(), Utc::now());
        let at = |seconds| began + TimeDelta::seconds(seconds);
        let mut places = Places::from(Start::Sequence(1));
        for (sequence, order) in [(3, "CR-1"), (5, "CR-2"), (7, "CR-1"), (9, "CR-1")] {
            places.note(&entry(sequence, order, at(sequence as i64)), &searches);
        }
        places.note(
            &Entry::Unreadable {
                sequence: 11,
                newer: None,
            },
            &searches,
        );
        assert_eq!(places.last, Some((11, None)));
        let of = |order: &str, start| places.of(searches.order(&envelope(order)), start);
        assert_eq!(of("CR-1", Start::Sequence(1)), [3, 7, 9]);
        assert_eq!(of("CR-1", Start::Sequence(7)), [7, 9]);
        assert_eq!(of("CR-1", Start::Time(at(8))), [9]);
        assert!(of("CR-2", Start::Sequence(6)).is_empty());
        assert!(of("CR-3", Start::Sequence(1)).is_empty());
        assert!(places.covers(Start::Sequence(2)) && !places.covers(Start::Sequence(0)));
        assert!(!places.covers(Start::Time(at(0))));
        let places = Places::from(Start::Time(at(0)));
        assert!(places.covers(Start::Time(at(0))) && !places.covers(Start::Time(at(-1))));
    }

    #[test]
    fn too_many_places_are_not_kept() {
        let searches = Searches {
            most: 4,
            ..Searches::default()
        };
        let mut places = Places::from(Start::Sequence(1));
        for sequence in 1..=3 {
            places.note(&entry(sequence, "CR-1", Utc::now()), &searches);
        }
        assert!(!places.are_too_many && places.known.len() == 3);
        for sequence in 4..=9 {
            places.note(&entry(sequence, "CR-1", Utc::now()), &searches);
        }
        assert!(places.are_too_many && places.known.is_empty());
        // Of several searches those go that were not used for the longest time.
        for (name, count) in [("a", 1), ("b", 1), ("c", 1)] {
            let key = (name.to_owned(), false);
            searches.lock().put(key.clone(), Kept::new(Start::Sequence(1)));
            searches.note_count(&key, count);
        }
        let mut left: Vec<_> = searches.lock().iter().map(|((name, _), _)| name.clone()).collect();
        left.sort();
        assert_eq!(left, ["b", "c"]);
    }
}
