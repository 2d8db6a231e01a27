//! Whether a newer event has superseded an event that is retried.
//!
//! An event that was given up may be retried hours later. By then the provider may have a later menu, or a later status of
//! the order: the old one would overwrite the newer one. So before a retry is handled, the log is searched for what came
//! after its event:
//!
//! | event | superseded by |
//! |---|---|
//! | `menu.sync_requested` | a later `menu.sync_requested` of the same branch, whatever its outcome: it is the backend's latest request |
//! | `store.state_requested` | a later `store.state_requested` of the same branch, for the same reason |
//! | `order.status_requested` | a later status of the same order that was pushed to the provider, or another order of the same number |
//! | `order.transformed` with news of an order | newer news of the same order that the backend has, including an announcement that was sent as news. A webhook that was accepted again is as old as its first acceptance ([`news`]). Also another order of the same number: the backend would take the news for that one's |
//!
//! Another order of the same number is one that the backend has, or may have, with a webhook that was accepted more than
//! `ORDER_MEMORY` later.
//!
//! An `order.transformed` of a webhook that was forwarded after all, because the provider sent it again, is a repeat, unless the person
//! wants it sent again. Otherwise
//! a new order is never superseded, and neither is news without a status (about the courier). Of `items.availability_requested`
//! single items are superseded; the stage `push` finds them.

use std::{collections::HashMap, fmt, future::Future};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::de::DeserializeOwned;

use self::news::{Accepted, ToldAs, Verdict, Word};
use crate::{
    event::{
        EventId, EventType, Recorded,
        outcome::{DUPLICATE_WEBHOOK, DeadLettered, Forwarded, Ignored, SUPERSEDED},
        push::StatusPushed,
        stage::FORWARD,
    },
    journal::{
        codec::{self, partition_token},
        connection::Connection,
        read::{Entry, LogReader, Start, event_at},
    },
    order::body,
};

pub mod news;

/// News that are this much younger than their webhook come from a retry of the webhook by a person; fetching a provider's order
/// takes less.
const LATE: TimeDelta = TimeDelta::minutes(1);
/// How far the clock of NATS may be behind a hub's.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);
/// At most this many events of one order are compared, the latest ones: far more than a provider sends about an order.
const MAX_FOUND: usize = 1000;

/// Knows the acceptances of an order's webhooks, beyond what the events about them say.
pub trait KnownAcceptances: Send + Sync {
    /// The start for reading what was reported to the backend after the first acceptance of an event's webhook.
    ///
    /// # Errors
    /// If NATS does not answer.
    fn begin(&self, event: &Recorded) -> impl Future<Output = anyhow::Result<Start>> + Send;

    /// The sequence of the first acceptance of each of these webhooks of the event's order, or of the first event that came of it.
    /// Webhooks for which it is unknown are left out.
    ///
    /// # Errors
    /// If NATS does not answer.
    fn first(
        &self,
        event: &Recorded,
        webhooks: Vec<EventId>,
    ) -> impl Future<Output = anyhow::Result<HashMap<EventId, u64>>> + Send;

    /// The longest time between the acceptances of two webhooks of one order; after it, the same number means another order.
    fn window(&self) -> TimeDelta;
}

impl<T: KnownAcceptances> KnownAcceptances for &T {
    fn begin(&self, event: &Recorded) -> impl Future<Output = anyhow::Result<Start>> + Send {
        (*self).begin(event)
    }

    fn first(
        &self,
        event: &Recorded,
        webhooks: Vec<EventId>,
    ) -> impl Future<Output = anyhow::Result<HashMap<EventId, u64>>> + Send {
        (*self).first(event, webhooks)
    }

    fn window(&self) -> TimeDelta {
        (*self).window()
    }
}

/// For a stage that handles no events of orders.
#[derive(Debug, Clone, Copy)]
pub struct NoOrders;

impl KnownAcceptances for NoOrders {
    async fn begin(&self, event: &Recorded) -> anyhow::Result<Start> {
        Ok(since(event))
    }

    async fn first(&self, _: &Recorded, _: Vec<EventId>) -> anyhow::Result<HashMap<EventId, u64>> {
        Ok(HashMap::new())
    }

    fn window(&self) -> TimeDelta {
        TimeDelta::MAX
    }
}

/// The start for reading what came after the acceptance of an event's webhook if the acceptance's sequence is unknown.
pub fn since(event: &Recorded) -> Start {
    from(event.envelope.received_at)
}

/// The start for reading what was appended at a time of a hub's clock, or later.
pub(crate) fn from(time: DateTime<Utc>) -> Start {
    Start::Time(time - CLOCK_SKEW)
}

/// What superseded an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// A later menu.
    Menu,
    /// A later state of the branch.
    StoreState,
    /// A later status that the provider has.
    Status,
    /// Later news that the backend has.
    News,
    /// Another order that has the same number by now.
    AnotherOrder,
    /// The same webhook, which was forwarded.
    Repeat,
}

impl Newer {
    const fn text(self) -> &'static str {
        match self {
            Self::Menu => "a later menu",
            Self::StoreState => "a later state of the branch",
            Self::Status => "a later status",
            Self::News => "later news",
            Self::AnotherOrder => "another order of this number, accepted after ORDER_MEMORY,",
            Self::Repeat => "the same webhook, forwarded",
        }
    }

    /// What an operator can do; none if nothing is left to do.
    const fn advice(self) -> Option<&'static str> {
        match self {
            Self::AnotherOrder => {
                Some("this is about the earlier order and would change the later one: change the earlier one by hand")
            }
            _ => None,
        }
    }
}

/// The event that superseded another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerEvent {
    /// What it is.
    pub newer: Newer,
    /// The event on the log that says so.
    pub id: EventId,
    time: DateTime<Utc>,
    /// The backend's id of the order, if the event names it.
    pub order_id: Option<String>,
}

impl NewerEvent {
    fn new(newer: Newer, event: &Recorded) -> Self {
        Self {
            newer,
            id: event.envelope.id,
            time: event.envelope.time,
            order_id: None,
        }
    }

    /// The same, with the backend's id of the order.
    fn of_order(newer: Newer, event: &Recorded) -> Self {
        Self {
            order_id: payload::<Forwarded>(event).and_then(|forwarded| forwarded.internal_order_id),
            ..Self::new(newer, event)
        }
    }

    /// Whether it comes from the same webhook, so that the backend has the retried event.
    pub fn is_repeat(&self) -> bool {
        self.newer == Newer::Repeat
    }

    /// The reason with which the retried event is ignored.
    pub fn reason(&self) -> &'static str {
        if self.is_repeat() {
            DUPLICATE_WEBHOOK
        } else {
            SUPERSEDED
        }
    }
}

impl fmt::Display for NewerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "{} of {time}, event {}", self.newer.text(), self.id)?;
        match self.newer.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// Whether a person had an event taken up again, or it follows late from a retried webhook.
pub(crate) fn is_late(event: &Recorded) -> bool {
    let envelope = &event.envelope;
    let is_late = envelope.time - envelope.received_at > LATE && envelope.cause_id != Some(envelope.root_id);
    event.run.is_some() || is_late
}

/// Whether a call of [`by`] is worth it: the event is retried, or follows late from a retried one. Without I/O.
pub fn may_be(event: &Recorded) -> bool {
    let envelope = &event.envelope;
    let is_taken_up = event.run.is_some();
    match envelope.event_type {
        EventType::MenuSyncRequested | EventType::OrderStatusRequested | EventType::StoreRequested => is_taken_up,
        EventType::OrderTransformed => is_taken_up || (!envelope.is_creation() && is_late(event)),
        _ => false,
    }
}

/// The event that superseded it; none if it is still current.
///
/// # Errors
/// If NATS does not answer.
pub async fn by(
    connection: &Connection,
    event: &Recorded,
    partitions: u16,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    in_partition(connection, event, &partition_of(event, partitions), acceptances).await
}

/// The subject token of the partition in which an order's events are.
pub(crate) fn partition_of(event: &Recorded, partitions: u16) -> String {
    let envelope = &event.envelope;
    partition_token(codec::partition(
        &envelope.provider,
        &envelope.external_order_id,
        partitions,
    ))
}

/// The subject token of an event's branch; any branch where the event names none.
pub(crate) fn branch_token(event: &Recorded) -> String {
    let branch = event.envelope.branch.as_deref();
    branch.map_or_else(|| "*".to_owned(), codec::token)
}

/// The same, with the subject token of the partition in which the order's events are.
///
/// # Errors
/// The same as [`by`].
pub async fn in_partition(
    connection: &Connection,
    event: &Recorded,
    partition: &str,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let is_newer_status = |later: &Recorded| {
        payload::<StatusPushed>(later).is_some_and(|told| !told.skipped && told.requested_at > event.envelope.time)
    };
    let newest = |found: Vec<Recorded>, newer| found.last().map(|event| NewerEvent::new(newer, event));
    // Of any branch, because the branch may have been unknown when the event was published and known later.
    let of_any_branch = |event_type| subjects(event, event_type, "*", partition);
    let after = Start::Sequence(event.sequence + 1);
    match event.envelope.event_type {
        EventType::MenuSyncRequested => {
            let subjects = of_any_branch(EventType::MenuSyncRequested);
            let found = find(connection, event, subjects, after, |_| true).await?;
            Ok(newest(found, Newer::Menu))
        }
        EventType::StoreRequested => {
            let subjects = of_any_branch(EventType::StoreRequested);
            let found = find(connection, event, subjects, after, |_| true).await?;
            Ok(newest(found, Newer::StoreState))
        }
        EventType::OrderStatusRequested => {
            let subjects = of_any_branch(EventType::OrderStatusPushed);
            let found = find(connection, event, subjects, after, is_newer_status).await?;
            if let Some(told) = newest(found, Newer::Status) {
                return Ok(Some(told));
            }
            another_order(connection, event, ("*", partition), acceptances.window()).await
        }
        EventType::OrderTransformed => of_order(connection, event, partition, acceptances).await,
        _ => Ok(None),
    }
}

/// An event by which the backend has something newer about the order of an `order.transformed`, or the same.
async fn of_order(
    connection: &Connection,
    event: &Recorded,
    partition: &str,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let branch = branch_token(event);
    let begin = acceptances.begin(event).await?;
    let is_other_run = |later: &Recorded| {
        let is_of_order = later.envelope.received_at - envelope.received_at <= acceptances.window();
        is_of_order && later.envelope.cause_id != Some(event.run_id())
    };
    let mut told = Vec::new();
    for event_type in [EventType::OrderForwarded, EventType::OrderIgnored] {
        let subjects = subjects(event, event_type, &branch, partition);
        told.extend(find(connection, event, subjects, begin, is_other_run).await?);
    }
    let is_repeat = |told: &&Recorded| {
        told.envelope.event_type == EventType::OrderForwarded && told.envelope.root_id == envelope.root_id
    };
    if let Some(told) = told.iter().rfind(is_repeat).filter(|_| !event.is_again) {
        return Ok(Some(NewerEvent::of_order(Newer::Repeat, told)));
    }
    if envelope.is_creation() {
        return Ok(None);
    }
    // A person who has it sent again although the backend has it says which order it is about.
    if !event.is_again
        && let Some(other) = another_order(connection, event, (&branch, partition), acceptances.window()).await?
    {
        return Ok(Some(other));
    }
    newer_news(connection, event, &told, acceptances).await
}

/// News by which the backend has something newer about an order, among the events that told it something.
async fn newer_news(
    connection: &Connection,
    event: &Recorded,
    told: &[Recorded],
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let said = |event: &Recorded| body::announced(&event.payload).ok().and_then(|said| said.status);
    let status = said(event);
    let told = told.iter().filter(|told| told.envelope.root_id != envelope.root_id);
    let told: Vec<_> = told.filter_map(|told| Some((told, told_as(told)?))).collect();
    if status.is_none() || told.is_empty() {
        return Ok(None);
    }
    let webhooks = told
        .iter()
        .map(|(told, _)| told.envelope.root_id)
        .chain([envelope.root_id]);
    let first = acceptances.first(event, webhooks.collect()).await?;
    let word = |event: &Recorded, status| Word {
        webhook: event.envelope.root_id,
        accepted: Accepted {
            first: first.get(&event.envelope.root_id).copied(),
            received_at: event.envelope.received_at,
        },
        status,
    };
    for (told, told_as) in told.into_iter().rev() {
        // Only the body contains the status of an announcement.
        let cause = told.envelope.cause_sequence.filter(|_| told_as == ToldAs::Announcement);
        let announced = match cause {
            Some(sequence) => event_at(connection, sequence).await?.as_ref().and_then(said),
            None => None,
        };
        if news::judge(&word(event, status), &word(told, announced), told_as) == Verdict::Superseded {
            return Ok(Some(NewerEvent::new(Newer::News, told)));
        }
    }
    Ok(None)
}

/// The first order of an event's number that is not the event's own: its webhook was accepted so much later that the number means
/// another order, and the backend has it, or may have it.
async fn another_order(
    connection: &Connection,
    event: &Recorded,
    (branch, partition): (&str, &str),
    window: TimeDelta,
) -> anyhow::Result<Option<NewerEvent>> {
    let is_another = |outcome: &Recorded| {
        let (one, other) = (&event.envelope, &outcome.envelope);
        other.is_creation() && other.received_at - one.received_at > window && may_be_created(outcome)
    };
    // Before that no order can be so much later.
    if Utc::now() - event.envelope.received_at <= window {
        return Ok(None);
    }
    let after = Start::Sequence(event.sequence + 1);
    for event_type in [EventType::OrderForwarded, EventType::OrderDeadLettered] {
        let subjects = subjects(event, event_type, branch, partition);
        let found = find(connection, event, subjects, after, is_another).await?;
        if let Some(first) = found.first() {
            return Ok(Some(NewerEvent::of_order(Newer::AnotherOrder, first)));
        }
    }
    Ok(None)
}

/// Whether the backend has the order of a creation's outcome, or may have it.
fn may_be_created(outcome: &Recorded) -> bool {
    match outcome.envelope.event_type {
        EventType::OrderForwarded => payload::<Forwarded>(outcome).is_some_and(|forwarded| !forwarded.as_news),
        _ => payload::<DeadLettered>(outcome)
            .is_some_and(|dead| dead.stage == FORWARD.name && !dead.is_refused() && !dead.is_unposted()),
    }
}

/// How an outcome reported a status to the backend; none if it reported none.
fn told_as(outcome: &Recorded) -> Option<ToldAs> {
    if outcome.envelope.event_type == EventType::OrderIgnored {
        return payload::<Ignored>(outcome)?.differs.then_some(ToldAs::Announcement);
    }
    let has = payload::<Forwarded>(outcome)?;
    if has.order.provider_status.is_empty() {
        return None;
    }
    let is_news = has.as_news || !outcome.envelope.is_creation();
    Some(if is_news { ToldAs::News } else { ToldAs::Announcement })
}

/// The subjects of events of a type about an event's order or menu.
pub(crate) fn subjects(event: &Recorded, event_type: EventType, branch: &str, partition: &str) -> String {
    let (root, provider) = (event_type.subject_root(), codec::token(&event.envelope.provider));
    format!("{root}.{provider}.{branch}.{partition}")
}

/// The events on these subjects that are about the same order or menu and match, in the log's order.
pub(crate) async fn find(
    connection: &Connection,
    event: &Recorded,
    subjects: String,
    start: Start,
    matches: impl Fn(&Recorded) -> bool,
) -> anyhow::Result<Vec<Recorded>> {
    let envelope = &event.envelope;
    let mut reader = LogReader::of_subjects(connection, subjects, start);
    let mut found = Vec::new();
    loop {
        let entries = reader.next_batch().await?;
        if entries.is_empty() {
            return Ok(found);
        }
        for entry in entries {
            let Entry::Event(later) = entry else { continue };
            let branches = later.envelope.branch.as_ref().zip(envelope.branch.as_ref());
            let is_same = later.envelope.provider == envelope.provider
                && later.envelope.external_order_id == envelope.external_order_id
                && branches.is_none_or(|(one, other)| one == other);
            if is_same && matches(&later) {
                found.push(*later);
                if found.len() > MAX_FOUND {
                    found.remove(0);
                }
            }
        }
    }
}

fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    serde_json::from_slice(&event.payload).ok()
}
