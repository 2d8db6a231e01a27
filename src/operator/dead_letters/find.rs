//! Finds dead letters and ignored events on the log, and which of them were retried.

use std::collections::{HashSet, VecDeque};

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::LetterFilter;
use crate::{
    delivery::stage::Stage,
    event::{
        EventId, EventType, Recorded,
        outcome::{self, DeadLettered, ErrorReport, ErrorType, Ignored, OUTCOME, Rejected, RetryRequested},
        push, stage,
    },
    journal::{
        EVENTS, codec,
        connection::Connection,
        read::{Entry, Located, LogReader, Start, event_at},
    },
    operator::CLOCK_SKEW,
    transform::Transform,
};

/// Most retries that are kept in memory while dead letters are read; some 40 bytes each.
const MAX_RETRIES: usize = 2_000_000;
/// Events that one request returns while an event of a partition is searched for.
const BATCH: usize = 200;

/// What to search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetterKind {
    /// Dead letters: events that were given up or rejected.
    Dead,
    /// Ignored events.
    Ignored,
    /// Events that were ignored because their order existed.
    Duplicates,
}

/// Reason of an `order.ignored`.
const DUPLICATE_ORDER: &str = "DUPLICATE_ORDER";

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

/// The log as it was when the command began.
pub(super) struct Log {
    pub(super) connection: Connection,
    /// The oldest sequence on the log.
    pub(super) first_sequence: u64,
    /// Later events are not read: a retry may fail at once, and must not be retried endlessly.
    last_sequence: u64,
}

impl Log {
    pub(super) async fn open(connection: Connection) -> anyhow::Result<Self> {
        let stream = connection.context.get_stream(EVENTS).await?;
        let state = &stream.cached_info().state;
        let (first_sequence, last_sequence) = (state.first_sequence, state.last_sequence);
        Ok(Self {
            connection,
            first_sequence,
            last_sequence,
        })
    }

    /// The letters of a kind that pass the filter, page by page and in the log's order, retried or not.
    pub(super) fn letters(&self, kind: LetterKind, filter: &LetterFilter) -> Pages {
        let of = |event_type: &EventType| LetterSource {
            reader: self.reader(*event_type, filter),
            read: VecDeque::new(),
            is_over: false,
        };
        Pages {
            sources: kind.types().iter().map(of).collect(),
            kind,
            filter: filter.clone(),
            last_sequence: self.last_sequence,
        }
    }

    /// The ids of retried letters. A retry is later than its dead letter, so the same filter finds all relevant ones.
    pub(super) async fn retried(&self, filter: &LetterFilter) -> anyhow::Result<HashSet<EventId>> {
        let mut reader = self.reader(EventType::OrderRetryRequested, filter);
        let mut retried = HashSet::new();
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                return Ok(retried);
            }
            let events = entries.iter().filter_map(|entry| match entry {
                Entry::Event(event) => event.envelope.cause_id,
                // It names no dead letter, so it retried none.
                Entry::Unreadable { .. } => None,
            });
            retried.extend(events);
            if retried.len() > MAX_RETRIES {
                bail!("more than {MAX_RETRIES} retries are on the log; narrow the search with --since or --provider");
            }
        }
    }

    /// The event at this sequence; none if it has left the log or cannot be read.
    pub(super) async fn event(&self, sequence: u64) -> anyhow::Result<Option<Recorded>> {
        event_at(&self.connection, sequence).await
    }

    /// A reader of subjects that begins shortly before a time.
    pub(super) fn since(&self, subjects: impl Into<String>, time: DateTime<Utc>) -> LogReader {
        LogReader::of_subjects(&self.connection, subjects, Start::Time(time - CLOCK_SKEW))
    }

    fn reader(&self, event_type: EventType, filter: &LetterFilter) -> LogReader {
        let root = event_type.subject_root();
        let subjects = match &filter.provider {
            Some(provider) => format!("{root}.{}.>", codec::token(provider)),
            None => format!("{root}.>"),
        };
        match filter.since {
            Some(since) => self.since(subjects, since.0),
            None => LogReader::of_subjects(&self.connection, subjects, Start::Sequence(1)),
        }
    }

    /// The event that the letter ended, and its stage; none if it has left the log. If the letter does not give its sequence, the
    /// event is the letter's cause, and its partition is searched from the time at which the webhook was accepted.
    pub(super) async fn given_up(&self, letter: &Letter) -> anyhow::Result<Option<GivenUp>> {
        let Ok(facts) = &letter.facts else { return Ok(None) };
        if let (Some(stage), Some(sequence)) = (facts.stage.clone(), facts.sequence) {
            return Ok(Some(GivenUp { stage, sequence }));
        }
        let envelope = &letter.event.envelope;
        let (provider, partition) = (codec::token(&envelope.provider), letter.partition());
        for subjects in [
            format!("webhooks.received.{provider}.{partition}"),
            format!("*.*.{provider}.*.{partition}"),
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

/// The event that a stage gave up, rejected or ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) stage: String,
    pub(super) sequence: u64,
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
pub(super) async fn next(reader: &mut LogReader) -> anyhow::Result<Option<Vec<Recorded>>> {
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
pub(super) struct Pages {
    sources: Vec<LetterSource>,
    kind: LetterKind,
    filter: LetterFilter,
    last_sequence: u64,
}

impl Pages {
    /// The next page, which may be empty; none at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<ListedMessage>>> {
        for source in &mut self.sources {
            if source.read.is_empty() && !source.is_over {
                source.read = source.reader.next_located().await?.into();
                let last = self.last_sequence;
                source.read.retain(|located| located.entry.sequence() <= last);
                source.is_over = source.read.is_empty();
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
        Ok(Some(page))
    }

    fn first(&mut self) -> Option<Located> {
        let of = |source: &&mut LetterSource| source.read.front().map(|located| located.entry.sequence());
        let sources = self.sources.iter_mut().filter(|source| !source.read.is_empty());
        sources.min_by_key(of)?.read.pop_front()
    }
}

/// A message on the subjects of letters.
pub(super) enum ListedMessage {
    Letter(Box<Letter>),
    /// The message is no event.
    Garbage(Garbage),
}

/// A message that is no event of the hub.
#[derive(Debug, Serialize)]
pub(super) struct Garbage {
    pub(super) sequence: u64,
    pub(super) unreadable: String,
}

/// The content of a letter, of any type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LetterFacts {
    /// Number of requests that were made.
    pub(super) attempts: u32,
    /// Number of retries that counted.
    pub(super) retries: u32,
    /// The stage in which it ended; none if neither the event nor its id shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<String>,
    /// Sequence of the event that ended; none if the letter does not give it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence: Option<u64>,
    /// Why it ended.
    pub(super) error: ErrorReport,
}

impl LetterFacts {
    fn of(event: &Recorded) -> Result<Self, String> {
        let read = match event.envelope.event_type {
            EventType::OrderRejected => serde_json::from_slice(&event.payload).map(|said| Self::rejected(event, said)),
            EventType::OrderIgnored => serde_json::from_slice(&event.payload).map(|said| Self::ignored(event, said)),
            _ => serde_json::from_slice(&event.payload).map(Self::dead),
        };
        read.map_err(|error| format!("its payload cannot be read ({error}); an older version may have written it"))
    }

    fn dead(said: DeadLettered) -> Self {
        Self {
            attempts: said.attempts,
            retries: said.retries,
            stage: Some(said.stage),
            sequence: Some(said.sequence),
            error: said.error,
        }
    }

    fn rejected(event: &Recorded, said: Rejected) -> Self {
        // For an unreadable message, earlier versions put the sequence into the details.
        let of_message = said.error.details.get("sequence").and_then(serde_json::Value::as_u64);
        let subject = said.error.details.get("subject").and_then(serde_json::Value::as_str);
        let by_subject = subject.and_then(|subject| match subject.split('.').next()? {
            "webhooks" => Some(stage::TRANSFORM.name),
            _ if subject.starts_with("orders.transformed.") => Some(stage::FORWARD.name),
            _ => None,
        });
        let of_earlier = by_subject.map(str::to_owned).or_else(|| stage_by_id(event));
        Self {
            attempts: 0,
            retries: 0,
            stage: said.stage.or(of_earlier),
            sequence: said.sequence.or(of_message),
            error: said.error,
        }
    }

    fn ignored(event: &Recorded, said: Ignored) -> Self {
        Self {
            attempts: 0,
            retries: 0,
            stage: stage_by_id(event),
            sequence: None,
            error: ErrorReport::new(ErrorType::Validation, said.reason, said.message),
        }
    }
}

/// The stage that recorded an event, found by the label from which its id derives.
fn stage_by_id(event: &Recorded) -> Option<String> {
    let envelope = &event.envelope;
    let cause = envelope.cause_id?;
    let stage = if envelope.id == cause.derive(Transform::LABEL) {
        stage::TRANSFORM.name
    } else if envelope.id != cause.derive(OUTCOME) {
        return None;
    } else if push::is_of_backend(envelope) {
        stage::PUSH.name
    } else {
        stage::FORWARD.name
    };
    Some(stage.to_owned())
}

/// An event that ended and may be retried: a dead letter, or an ignored event.
pub(super) struct Letter {
    pub(super) event: Recorded,
    pub(super) subject: String,
    /// Its content, or why it cannot be read.
    pub(super) facts: Result<LetterFacts, String>,
}

impl Letter {
    pub(super) fn id(&self) -> EventId {
        self.event.envelope.id
    }

    /// The subject token of its order's partition.
    pub(super) fn partition(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or("*")
    }

    /// Whether it is about a menu, the items or the state of a branch, and not about an order.
    pub(super) fn is_about_branch(&self) -> bool {
        self.event.envelope.webhook_type == push::MENU_SYNC
    }
}

impl From<Located> for ListedMessage {
    fn from(located: Located) -> Self {
        let Located { subject, entry } = located;
        match entry {
            Entry::Event(event) => Self::Letter(Box::new(Letter {
                facts: LetterFacts::of(&event),
                event: *event,
                subject,
            })),
            Entry::Unreadable { sequence, .. } => Self::Garbage(Garbage {
                sequence,
                unreadable: format!("message {sequence} of the event log, on {subject}, is not an event"),
            }),
        }
    }
}

/// Finds letters by their ids: dead letters and ignored events.
pub(super) async fn named(log: &Log, ids: &[EventId]) -> anyhow::Result<Vec<Letter>> {
    let wanted: HashSet<EventId> = ids.iter().copied().collect();
    let mut found: Vec<Letter> = Vec::new();
    for kind in [LetterKind::Dead, LetterKind::Ignored] {
        let mut pages = log.letters(kind, &LetterFilter::default());
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
