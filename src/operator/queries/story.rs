//! The story of one order: every event about it, in both directions, in the order of the log.
//!
//! It needs only the log. If `hub.orders` can be read as well, any id of the order will do, and only the time of the order is
//! searched.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;

use super::{difference, mask::Masking, orders::ListedOrder, steps::Step};
use crate::{
    event::{EventId, EventType, Recorded},
    journal::{
        codec,
        connection::Connection,
        read::{self, Entry, Located, LogReader, Start},
    },
    operator::CLOCK_SKEW,
};

/// How long after an order's last event in `hub.orders` the log is searched for requests to its provider.
pub const LATER: TimeDelta = TimeDelta::hours(48);
/// Most events of a story; an order has some ten.
pub const MOST_STEPS: usize = 10_000;

/// Which order.
#[derive(Debug, Clone)]
pub struct OrderSelection {
    /// The provider's name.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// Its row in `hub.orders`. Without it the story contains every event about the id.
    pub order: Option<ListedOrder>,
    /// When the next order of that id begins.
    pub next_order_at: Option<DateTime<Utc>>,
}

impl OrderSelection {
    /// One of several orders that share the provider's id.
    pub fn among(order: &ListedOrder, all: &[ListedOrder]) -> Self {
        let is_next = |other: &&ListedOrder| {
            other.external_order_id == order.external_order_id
                && other.first_at > order.first_at
                && (other.branch_id.is_none() || other.branch_id == order.branch_id)
        };
        Self {
            provider: order.provider.clone(),
            external_order_id: order.external_order_id.clone(),
            order: Some(order.clone()),
            next_order_at: all.iter().filter(is_next).map(|other| other.first_at).min(),
        }
    }

    fn includes(&self, event: &Recorded) -> bool {
        let envelope = &event.envelope;
        let is_named = *envelope.provider == *self.provider && envelope.external_order_id == self.external_order_id;
        let Some(order) = &self.order else { return is_named };
        let own = envelope.principal.branch().map(|branch| &**branch);
        let branch = envelope.branch.as_deref().filter(|branch| !branch.is_empty()).or(own);
        let is_here = match (branch, order.branch_id.as_deref()) {
            (Some(branch), Some(of_order)) => branch == of_order,
            _ => true,
        };
        // The table keeps milliseconds.
        let accepted = envelope.received_at + TimeDelta::milliseconds(1);
        let is_after = self.next_order_at.is_some_and(|next| envelope.received_at >= next);
        is_named && is_here && accepted >= order.first_at && !is_after
    }
}

/// What to include beside the content of each event.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoryOptions {
    /// Each webhook as received.
    pub raw: bool,
    /// Each body for the backend.
    pub body: bool,
    /// What differs between attempts, and between bodies.
    pub differences: bool,
    /// Also what came long after the order: the log is read to its end.
    pub all: bool,
    /// Whether personal data is hidden.
    pub masking: Masking,
}

/// The story.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// The provider's name.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// Its row in `hub.orders`.
    pub order: Option<ListedOrder>,
    /// Ids, in `hub.orders`, of other orders with that id.
    pub others: Vec<String>,
    /// The events.
    pub steps: Vec<Step>,
    /// The time up to which the log was searched; none if that is its end.
    pub until: Option<DateTime<Utc>>,
    /// There are more events than [`MOST_STEPS`].
    pub is_cut: bool,
}

/// Reads the story. Events that have left the log are not in it.
///
/// # Errors
/// If NATS does not answer.
pub async fn read(connection: &Connection, which: &OrderSelection, with: StoryOptions) -> anyhow::Result<Story> {
    let end = read::end(connection).await?.sequence;
    let until = which
        .order
        .as_ref()
        .map(|order| order.last_at + LATER)
        .filter(|_| !with.all);
    let range = ReadRange { end, until };
    let start = match &which.order {
        Some(order) => Start::Time(order.first_at - CLOCK_SKEW),
        None => Start::Sequence(1),
    };
    let provider = codec::token(&which.provider);
    let of_subjects = |subjects: String, start| {
        let reader = LogReader::of_subjects(connection, subjects, start);
        OrderEventReader::new(reader, range, which)
    };
    let mut events = Vec::new();
    // The subject of its first webhook names the partition: the number of partitions may have been different then.
    let first = of_subjects(format!("webhooks.received.{provider}.*"), start)
        .next()
        .await?;
    let (partition, start) = match first {
        Some((subject, event)) => {
            let partition = subject.rsplit('.').next().unwrap_or("*").to_owned();
            let after = Start::Sequence(event.sequence + 1);
            events.push(event);
            (partition, after)
        }
        None => ("*".to_owned(), start),
    };
    for subjects in [
        format!("webhooks.received.{provider}.{partition}"),
        // What followed from the webhooks, and what the backend requested.
        format!("*.*.{provider}.*.{partition}"),
    ] {
        let mut found = of_subjects(subjects, start);
        let most = events.len() + MOST_STEPS;
        while events.len() <= most
            && let Some((_, event)) = found.next().await?
        {
            events.push(event);
        }
    }
    events.sort_unstable_by_key(|event| event.sequence);
    let is_cut = events.len() > MOST_STEPS;
    events.truncate(MOST_STEPS);
    Ok(Story {
        provider: which.provider.clone(),
        external_order_id: which.external_order_id.clone(),
        order: which.order.clone(),
        others: Vec::new(),
        steps: steps(&events, with),
        until,
        is_cut,
    })
}

/// The end of a story.
#[derive(Clone, Copy)]
struct ReadRange {
    /// The last event of the log when the reading began.
    end: u64,
    until: Option<DateTime<Utc>>,
}

impl ReadRange {
    fn is_over(self, located: &Located) -> bool {
        let is_late = match (&located.entry, self.until) {
            (Entry::Event(event), Some(until)) => event.envelope.time > until + CLOCK_SKEW,
            _ => false,
        };
        is_late || located.entry.sequence() > self.end
    }
}

/// Events of an order on some subjects, a page at a time.
struct OrderEventReader<'a> {
    reader: LogReader,
    page: VecDeque<Located>,
    range: ReadRange,
    which: &'a OrderSelection,
}

impl<'a> OrderEventReader<'a> {
    fn new(reader: LogReader, range: ReadRange, which: &'a OrderSelection) -> Self {
        Self {
            reader,
            page: VecDeque::new(),
            range,
            which,
        }
    }

    /// The next one, with its subject; none at the end.
    async fn next(&mut self) -> anyhow::Result<Option<(String, Recorded)>> {
        loop {
            if self.page.is_empty() {
                self.page = self.reader.next_located().await?.into();
            }
            let Some(located) = self.page.pop_front() else {
                return Ok(None);
            };
            if self.range.is_over(&located) {
                return Ok(None);
            }
            if let Entry::Event(event) = located.entry
                && self.which.includes(&event)
            {
                return Ok(Some((located.subject, *event)));
            }
        }
    }
}

fn steps(events: &[Recorded], with: StoryOptions) -> Vec<Step> {
    let mut answers: HashMap<EventId, Value> = HashMap::new();
    let mut last_body: Option<Value> = None;
    let mut steps = Vec::with_capacity(events.len());
    for event in events {
        let mut step = Step::of(event);
        if with.raw {
            step = step.with_raw(event, with.masking);
        }
        if with.body {
            step = step.with_body(event, with.masking);
        }
        if with.differences {
            if let Some(answer) = step.detail.answer() {
                if let Some(before) = answers.get(&step.webhook_id) {
                    step.changes = difference::between(before, &answer, Masking::Off);
                }
                answers.insert(step.webhook_id, answer);
            }
            if event.envelope.event_type == EventType::OrderTransformed
                && let Ok(body) = serde_json::from_slice::<Value>(&event.payload)
            {
                if let Some(before) = &last_body {
                    step.changes = difference::between(before, &body, with.masking);
                }
                last_body = Some(body);
            }
        }
        steps.push(step);
    }
    steps
}
