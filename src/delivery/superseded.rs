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
//! | `order.status_requested` | a later status of the same order that was pushed to the provider, or that the provider may have; a later request to tell that the order is rejected or cancelled, however it ended; or another order of the same number |
//! | `order.transformed` | a later word about its order ([`history`]). News also by another order of the same number: the backend would take them for that one's |
//!
//! A status that waits for its provider is compared with other orders of the number before each request (`of_number`).
//!
//! Another order of the same number is one that the backend has, or may have, with a webhook that was accepted more than
//! `ORDER_MEMORY` later; or within that, one that was announced after the event and is not the order that was announced last before
//! the event ([`body::are_two_orders`](crate::order::body::are_two_orders)).
//!
//! An `order.transformed` of a webhook that was forwarded after all, because the provider sent it again, is a repeat, unless the person
//! wants it sent again. A new order that ended as superseded or as a duplicate, and that a person has retried by that end, is sent. News
//! without a status (about the courier) are never superseded. Of `items.availability_requested`
//! single items are superseded; the stage `push` finds them.

use std::{collections::HashMap, fmt, future::Future};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::de::DeserializeOwned;

use crate::{
    event::{
        EventId, EventType, Recorded,
        outcome::{DUPLICATE_WEBHOOK, DeadLettered, ErrorType, Forwarded, SUPERSEDED},
        push::{STATUS_REQUEST, StatusPushed, StatusRequested},
    },
    journal::{codec, connection::Connection, read::Start},
};

mod end;
pub mod history;
pub mod news;
mod order;
mod says;
mod search;

pub use self::{end::End, order::of_repeat, search::Searches};
pub(crate) use self::{
    order::ended_at,
    says::{event_says, is_untransformed},
    search::find,
};

/// News that are this much younger than their webhook come from a retry of the webhook by a person; fetching a provider's order
/// takes less.
const LATE: TimeDelta = TimeDelta::minutes(1);
/// How far the clock of NATS may be behind a hub's.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);
/// The subject token of any branch.
const ANY_BRANCH: &str = "*";

/// Knows the acceptances of an order's webhooks, beyond what the events about them say.
pub trait KnownAcceptances: Send + Sync {
    /// The start for reading what was reported to the backend after the first acceptance of an event's webhook.
    ///
    /// # Errors
    /// If NATS does not answer.
    fn begin(&self, event: &Recorded) -> impl Future<Output = anyhow::Result<Start>> + Send;

    /// Where each of these webhooks of the event's order was accepted first ([`Recorded::accepted_at`]).
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

    /// What earlier searches found; none if each search reads the log from its start.
    fn searches(&self) -> Option<&Searches>;
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

    fn searches(&self) -> Option<&Searches> {
        (*self).searches()
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

    fn searches(&self) -> Option<&Searches> {
        None
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
    /// A later status that was given up without an answer, so that the provider may have it.
    UncertainStatus,
    /// Later news that the backend has.
    News,
    /// Later lines of the order that the backend has or may have.
    Lines,
    /// The same, of an event that also asks for money back.
    LinesOfRefund,
    /// The order was called off before it was created: the backend was told so, it was given up, or there was nothing to cancel.
    CalledOff,
    /// The order was called off, by the provider after the backend had it, or by the backend.
    Cancelled,
    /// The order was announced anew after it was called off.
    AnnouncedAnew,
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
            Self::UncertainStatus => "a later status that the provider may have",
            Self::News => "later news",
            Self::Lines | Self::LinesOfRefund => "later lines of the order",
            Self::CalledOff | Self::Cancelled => "a cancellation of the order",
            Self::AnnouncedAnew => "an announcement of the order after its cancellation",
            Self::AnotherOrder => "another order of this number",
            Self::Repeat => "the same webhook, forwarded",
        }
    }

    /// What an operator can do; none if nothing is left to do.
    const fn advice(self) -> Option<&'static str> {
        match self {
            Self::AnotherOrder => {
                Some("this is about the earlier order and would change the later one: change the earlier one by hand")
            }
            Self::AnnouncedAnew => Some(
                "this is about the order before its cancellation and would change the new one: if the backend has the earlier one, change it by hand",
            ),
            Self::LinesOfRefund => Some("its lines are old, but it also asks for money back: refund that by hand"),
            Self::CalledOff => {
                Some("the order was not created; retry the event that says so to create it nevertheless")
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

/// Whether a dead letter says that the provider may have a later status than this one.
fn is_uncertain_status(letter: &Recorded, status: &Recorded) -> bool {
    let is_status = letter.envelope.webhook_type == STATUS_REQUEST;
    is_status
        && payload::<DeadLettered>(letter).is_some_and(|dead| {
            let is_uncertain = matches!(dead.error.error_type, ErrorType::Temporary | ErrorType::Unknown);
            dead.sequence > status.sequence && is_uncertain && dead.attempts > 0 && !dead.is_unposted()
        })
}

/// Whether a later request says that the order of a status is off. It holds however it ended: the backend does not want the order.
fn calls_off(later: &Recorded, status: &Recorded) -> bool {
    let wanted = payload::<StatusRequested>(later).filter(|wanted| wanted.status.is_called_off());
    let order = |id: Option<StatusRequested>| id.and_then(|wanted| wanted.order_id);
    wanted.is_some_and(|wanted| {
        let orders = wanted.order_id.zip(order(payload(status)));
        orders.is_none_or(|(one, other)| one == other)
    })
}

/// The subject token of an event's branch; any branch where the event names none.
pub(crate) fn branch_token(event: &Recorded) -> String {
    let branch = event.envelope.branch.as_deref();
    branch.map_or_else(|| ANY_BRANCH.to_owned(), codec::token)
}

/// The event that superseded it; none if it is still current. Events in any partition count: `PARTITIONS` may have been changed since the
/// event was published.
///
/// # Errors
/// If NATS does not answer.
pub async fn by(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let is_newer_status = |later: &Recorded| {
        payload::<StatusPushed>(later).is_some_and(|told| !told.skipped && told.requested_at > event.envelope.time)
    };
    let newest = |found: Vec<Recorded>, newer| found.last().map(|event| NewerEvent::new(newer, event));
    // Of any branch, because the branch may have been unknown when the event was published and known later.
    let of_any_branch = |event_type| subjects(event, event_type, ANY_BRANCH);
    let of_branch = |event_type| subjects(event, event_type, &branch_token(event));
    let (after, searches) = (Start::Sequence(event.sequence + 1), acceptances.searches());
    match event.envelope.event_type {
        EventType::MenuSyncRequested => {
            let subjects = of_branch(EventType::MenuSyncRequested);
            let found = find(connection, searches, event, (subjects, after), |_| true).await?;
            Ok(newest(found, Newer::Menu))
        }
        EventType::StoreRequested => {
            let subjects = of_branch(EventType::StoreRequested);
            let found = find(connection, searches, event, (subjects, after), |_| true).await?;
            Ok(newest(found, Newer::StoreState))
        }
        EventType::OrderStatusRequested => {
            let subjects = of_any_branch(EventType::OrderStatusPushed);
            let found = find(connection, searches, event, (subjects, after), is_newer_status).await?;
            if let Some(told) = newest(found, Newer::Status) {
                return Ok(Some(told));
            }
            let subjects = of_any_branch(EventType::OrderDeadLettered);
            let is_uncertain = |dead: &Recorded| is_uncertain_status(dead, event);
            let found = find(connection, searches, event, (subjects, after), is_uncertain).await?;
            if let Some(uncertain) = newest(found, Newer::UncertainStatus) {
                return Ok(Some(uncertain));
            }
            let subjects = of_any_branch(EventType::OrderStatusRequested);
            let is_called_off = |later: &Recorded| calls_off(later, event);
            let found = find(connection, searches, event, (subjects, after), is_called_off).await?;
            if let Some(called_off) = newest(found, Newer::Cancelled) {
                return Ok(Some(called_off));
            }
            order::another_than_meant(connection, event, acceptances).await
        }
        EventType::OrderTransformed => order::superseded(connection, event, acceptances).await,
        _ => Ok(None),
    }
}

/// Another order that has the number of a status by now; none if the number still means the order that the status is about. `announced`: the
/// announcements of the number in the log's order, where they are known from the beginning of the window up to now; otherwise the log is
/// read for them.
///
/// # Errors
/// If NATS does not answer.
pub(crate) async fn of_number(
    connection: &Connection,
    status: &Recorded,
    announced: Option<&[Recorded]>,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let Some(announced) = announced else {
        return order::another_than_meant(connection, status, acceptances).await;
    };
    let other = order::not_meant(status, announced, acceptances.window());
    Ok(other.map(|other| NewerEvent::new(Newer::AnotherOrder, other)))
}

/// The subjects of events of a type about an event's order or menu, in any partition.
pub(crate) fn subjects(event: &Recorded, event_type: EventType, branch: &str) -> String {
    let (root, provider) = (event_type.subject_root(), codec::token(&event.envelope.provider));
    format!("{root}.{provider}.{branch}.*")
}

fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    serde_json::from_slice(&event.payload).ok()
}
