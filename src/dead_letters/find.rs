//! Finds dead letters and ignored events on the log, and which of them were retried.

use std::{
    collections::{HashSet, VecDeque},
    time::Instant,
};

use anyhow::bail;
use chrono::{DateTime, Utc};

use super::{
    CLOCK_SKEW, confirmed,
    filter::Filter,
    letter::{Letter, ListedMessage},
    retried::Retried,
};
use crate::{
    event::{
        EventId, EventType, Recorded,
        outcome::{self, DUPLICATE_ORDER, RetryRequested},
        stage,
    },
    journal::{
        EVENTS, codec,
        connection::Connection,
        read::{Entry, Located, LogReader, Start, event_at},
    },
};

/// Most retries that a command keeps in memory while dead letters are read; some 30 bytes each.
pub const MAX_RETRIES: usize = 2_000_000;
/// Events that one request returns while an event of a partition is searched for.
const BATCH: usize = 200;

/// What to search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterKind {
    /// Dead letters: events that were given up or rejected.
    Dead,
    /// Ignored events.
    Ignored,
    /// Events that were ignored because their order existed.
    Duplicates,
}

impl LetterKind {
    const fn types(self) -> &'static [EventType] {
        match self {
            Self::Dead => &[EventType::OrderDeadLettered, EventType::OrderRejected],
            Self::Ignored | Self::Duplicates => &[EventType::OrderIgnored],
        }
    }

    fn includes(self, letter: &Letter) -> bool {
        if outcome::is_confirmation(&letter.event) {
            return false;
        }
        self != Self::Duplicates
            || letter
                .facts
                .as_ref()
                .is_ok_and(|facts| facts.error.code == DUPLICATE_ORDER)
    }
}

/// The log up to a place.
pub struct Log {
    /// The connection by which it is read.
    pub connection: Connection,
    /// The oldest sequence on the log.
    pub first_sequence: u64,
    /// Later events are not read: a retry may fail at once, and must not be retried endlessly.
    last_sequence: u64,
}

impl Log {
    /// The log as it is now.
    ///
    /// # Errors
    /// If NATS does not answer, or there is no log.
    pub async fn open(connection: Connection) -> anyhow::Result<Self> {
        let stream = connection.context.get_stream(EVENTS).await?;
        let state = &stream.cached_info().state;
        let (first_sequence, last_sequence) = (state.first_sequence, state.last_sequence);
        Ok(Self {
            connection,
            first_sequence,
            last_sequence,
        })
    }

    /// The log as it was when this was its last sequence.
    #[must_use]
    pub fn up_to(self, last_sequence: u64) -> Self {
        Self { last_sequence, ..self }
    }

    /// The last sequence that is read.
    pub const fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The letters of a kind that pass the filter, page by page and in the log's order, retried or not. Those that are closed
    /// without a retry are left out: another announcement has confirmed that the backend has their order.
    pub fn letters(&self, kind: LetterKind, filter: &Filter) -> Pages {
        self.letters_after(0, kind, filter)
    }

    /// As [`Self::letters`], only those behind a place on the log.
    pub fn letters_after(&self, place: u64, kind: LetterKind, filter: &Filter) -> Pages {
        let of = |event_type: &EventType| LetterSource {
            reader: match place {
                0 => self.reader(*event_type, filter),
                place => LogReader::of_subjects(
                    &self.connection,
                    subjects(*event_type, filter),
                    Start::Sequence(place + 1),
                ),
            },
            read: VecDeque::new(),
            is_over: false,
        };
        Pages {
            connection: self.connection.clone(),
            sources: kind.types().iter().map(of).collect(),
            kind,
            filter: filter.clone(),
            last_sequence: self.last_sequence,
            with_confirmed: false,
        }
    }

    /// Whether another announcement has confirmed that the backend has a letter's order.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn is_confirmed(&self, letter: &Letter) -> anyhow::Result<bool> {
        let confirmed = confirmed::confirmed(&self.connection, std::iter::once(letter)).await?;
        Ok(confirmed.contains(&letter.id()))
    }

    /// The retried letters. A retry is later than its dead letter, so the same filter finds all relevant ones.
    ///
    /// # Errors
    /// If NATS does not answer, or there are more than [`MAX_RETRIES`].
    pub async fn retried(&self, filter: &Filter) -> anyhow::Result<Retried> {
        let mut retried = self.no_retries_yet(filter, None, MAX_RETRIES);
        retried.read_on().await?;
        Ok(retried)
    }

    /// The retries of letters that pass a filter, before any was read; at most so many, and which of them are this job's.
    pub fn no_retries_yet(&self, filter: &Filter, job: Option<EventId>, most: usize) -> Retried {
        Retried::new(self.reader(EventType::OrderRetryRequested, filter), job, most)
    }

    /// The event at this sequence; none if it has left the log or cannot be read.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn event(&self, sequence: u64) -> anyhow::Result<Option<Recorded>> {
        event_at(&self.connection, sequence).await
    }

    /// A reader of subjects that begins shortly before a time.
    pub fn since(&self, subjects: impl Into<String>, time: DateTime<Utc>) -> LogReader {
        LogReader::of_subjects(&self.connection, subjects, Start::Time(time - CLOCK_SKEW))
    }

    fn reader(&self, event_type: EventType, filter: &Filter) -> LogReader {
        let subjects = subjects(event_type, filter);
        match filter.since {
            Some(since) => self.since(subjects, since),
            None => LogReader::of_subjects(&self.connection, subjects, Start::Sequence(1)),
        }
    }

    /// The event that the letter ended, and its stage; none if it has left the log. If the letter does not give its sequence, the
    /// event is the letter's cause, and it is searched from the time at which the webhook was accepted, first in the letter's partition.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn given_up(&self, letter: &Letter) -> anyhow::Result<Option<GivenUp>> {
        let Ok(facts) = &letter.facts else { return Ok(None) };
        if let (Some(stage), Some(sequence)) = (facts.stage.clone(), facts.sequence) {
            return Ok(Some(GivenUp { stage, sequence }));
        }
        let envelope = &letter.event.envelope;
        let (provider, partition) = (codec::token(&envelope.provider), letter.partition());
        for subjects in [
            format!("webhooks.received.{provider}.{partition}"),
            format!("*.*.{provider}.*.{partition}"),
            // The letter is in another partition than its event if `PARTITIONS` was changed in between.
            format!("webhooks.received.{provider}.*"),
            format!("*.*.{provider}.*.*"),
        ] {
            let mut reader = self.since(subjects, envelope.received_at).at_most(BATCH);
            while let Some(events) = next(&mut reader).await? {
                let cause = events
                    .iter()
                    .filter(|event| event.sequence < letter.event.sequence)
                    .find(|event| Some(event.envelope.id) == envelope.cause_id);
                if let Some(cause) = cause {
                    return Ok(GivenUp::of(cause));
                }
                if events.last().is_some_and(|last| last.sequence > letter.event.sequence) {
                    break;
                }
            }
        }
        Ok(None)
    }
}

/// The subjects of a type of events, as far as a filter selects them.
fn subjects(event_type: EventType, filter: &Filter) -> String {
    let root = event_type.subject_root();
    match &filter.provider {
        Some(provider) => format!("{root}.{}.>", codec::token(provider)),
        None => format!("{root}.>"),
    }
}

/// The event that a stage gave up, rejected or ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The stage.
    pub stage: String,
    /// The sequence of the event.
    pub sequence: u64,
}

impl GivenUp {
    fn of(cause: &Recorded) -> Option<Self> {
        let stage = match cause.envelope.event_type {
            EventType::OrderRetryRequested => {
                let request: RetryRequested = serde_json::from_slice(&cause.payload).ok()?;
                let (stage, sequence) = (request.stage, request.sequence);
                return Some(Self { stage, sequence });
            }
            event_type => stage::of(event_type).unwrap_or(stage::PUSH).name,
        };
        Some(Self {
            stage: stage.to_owned(),
            sequence: cause.sequence,
        })
    }
}

/// The events of a reader's next page; none at the end of the log.
///
/// # Errors
/// If NATS does not answer.
pub async fn next(reader: &mut LogReader) -> anyhow::Result<Option<Vec<Recorded>>> {
    let entries = reader.next_batch().await?;
    if entries.is_empty() {
        return Ok(None);
    }
    let events = entries.into_iter().filter_map(|entry| match entry {
        Entry::Event(event) => Some(*event),
        Entry::Unreadable { .. } => None,
    });
    Ok(Some(events.collect()))
}

/// The reader of one type of event, and what it has read.
struct LetterSource {
    reader: LogReader,
    read: VecDeque<Located>,
    is_over: bool,
}

/// Letters, a page at a time. Only one page of each type is in memory.
pub struct Pages {
    connection: Connection,
    sources: Vec<LetterSource>,
    kind: LetterKind,
    filter: Filter,
    last_sequence: u64,
    with_confirmed: bool,
}

impl Pages {
    /// The same, with those that another announcement has confirmed.
    #[must_use]
    pub fn with_confirmed(self) -> Self {
        Self {
            with_confirmed: true,
            ..self
        }
    }

    /// The next page, which may be empty; none at the end.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<ListedMessage>>> {
        for source in &mut self.sources {
            let (since, last) = (Instant::now(), self.last_sequence);
            while source.read.is_empty() && !source.is_over {
                source.read = source.reader.next_located().await?.into();
                let is_behind =
                    source.read.is_empty() && !source.reader.has_ended(&self.connection, last, since).await?;
                source.read.retain(|located| located.entry.sequence() <= last);
                source.is_over = source.read.is_empty() && !is_behind;
            }
        }
        if self.sources.iter().all(|source| source.is_over) {
            return Ok(None);
        }
        let mut page = Vec::new();
        // Until a source has to read on: its next events may come before those of the others.
        while self
            .sources
            .iter()
            .all(|source| source.is_over || !source.read.is_empty())
            && let Some(located) = self.first()
        {
            page.push(ListedMessage::from(located));
        }
        page.retain(|found| match found {
            ListedMessage::Letter(letter) => self.kind.includes(letter) && self.filter.lets_through(letter),
            // Its provider, stage and code are unknown, so only an unfiltered list shows it.
            ListedMessage::Garbage(_) => self.kind == LetterKind::Dead && self.filter.is_about_place_only(),
        });
        if !self.with_confirmed {
            self.leave_out_confirmed(&mut page).await?;
        }
        Ok(Some(page))
    }

    async fn leave_out_confirmed(&self, page: &mut Vec<ListedMessage>) -> anyhow::Result<()> {
        let letters = page.iter().filter_map(|found| match found {
            ListedMessage::Letter(letter) => Some(&**letter),
            ListedMessage::Garbage(_) => None,
        });
        let confirmed = confirmed::confirmed(&self.connection, letters).await?;
        page.retain(|found| match found {
            ListedMessage::Letter(letter) => !confirmed.contains(&letter.id()),
            ListedMessage::Garbage(_) => true,
        });
        Ok(())
    }

    fn first(&mut self) -> Option<Located> {
        let of = |source: &&mut LetterSource| source.read.front().map(|located| located.entry.sequence());
        let sources = self.sources.iter_mut().filter(|source| !source.read.is_empty());
        sources.min_by_key(of)?.read.pop_front()
    }
}

/// Finds letters by their ids: dead letters and ignored events.
///
/// # Errors
/// If NATS does not answer, or an id is not on the log.
pub async fn named(log: &Log, ids: &[EventId]) -> anyhow::Result<Vec<Letter>> {
    let wanted: HashSet<EventId> = ids.iter().copied().collect();
    let mut found: Vec<Letter> = Vec::new();
    for kind in [LetterKind::Dead, LetterKind::Ignored] {
        let mut pages = log.letters(kind, &Filter::default()).with_confirmed();
        while found.len() < wanted.len()
            && let Some(page) = pages.next().await?
        {
            let letters = page.into_iter().filter_map(|one| match one {
                ListedMessage::Letter(letter) => Some(*letter),
                ListedMessage::Garbage(_) => None,
            });
            found.extend(letters.filter(|letter| wanted.contains(&letter.id())));
        }
    }
    let known: HashSet<EventId> = found.iter().map(Letter::id).collect();
    let missing: Vec<_> = ids
        .iter()
        .filter(|id| !known.contains(id))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        bail!(
            "no dead letter {} is on the log; `webhook-hub dead-letters list` shows the open ones",
            missing.join(", ")
        );
    }
    found.sort_unstable_by_key(|letter| letter.event.sequence);
    Ok(found)
}
