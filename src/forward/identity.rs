//! Decides which order a body is about, and whether it is sent to the backend or is a duplicate. That is decided when the event
//! is next for its order, after everything before it in the order has ended. ARCHITECTURE.md, "Which order is which", explains
//! the rules.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use uuid::Uuid;

use super::classify::RequestKind;
use crate::{
    event::{
        EventType, NotYours, Recorded,
        outcome::{
            CALLED_OFF, DUPLICATE_ORDER, DUPLICATE_WEBHOOK, ErrorReport, ErrorType, Forwarded, Ignored, SUPERSEDED,
        },
    },
    journal::{
        codec::token,
        connection::Connection,
        read::{Entry, LogReader, Start, event_at},
    },
    memory::{AnnouncedBy, EntryState, OrderEvents, Orders},
    order::{body, model::AmendmentKind, status::Status},
};

mod acceptances;
mod again;
mod another;
mod elsewhere;
mod lost;
mod said_before;

pub(super) use self::{acceptances::Acceptances, elsewhere::are_apart};

/// Label of the key of an order that a person declared to be one of its own (see [`crate::event::EventId::derive`]).
const OF_ITS_OWN: &str = "order_of_its_own";

/// A request to the backend.
#[derive(Debug, Clone)]
pub struct Posting {
    /// What it is about.
    pub request: RequestKind,
    /// Its `Idempotency-Key`.
    pub key: Uuid,
    /// Its body.
    pub body: Bytes,
}

impl Posting {
    fn own(event: &Recorded) -> Self {
        let request = if event.envelope.is_creation() {
            RequestKind::NewOrder
        } else if event.envelope.is_amendment() {
            RequestKind::Amendment
        } else {
            RequestKind::StatusChange
        };
        Self {
            request,
            key: event.envelope.request_key(),
            body: event.payload.clone(),
        }
    }

    /// Of a duplicate that a person declared to be an order of its own.
    fn of_its_own(event: &Recorded) -> Self {
        Self {
            key: event.envelope.id.derive(OF_ITS_OWN).0,
            ..Self::own(event)
        }
    }
}

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Plan {
    /// It goes to the backend.
    Send(Posting),
    /// Another announcement of the order was given up without knowing whether the backend has it: the request of that one is
    /// repeated, with its own key and body, before this one is looked at. Never one of perhaps another order with the same number.
    Confirm(Box<Recorded>, Posting),
    /// It says something new about an order that the backend has; and how it ends, where not as forwarded.
    News(Posting, Option<Ignored>),
    /// It changes an order that the backend has, and then tells a further status of it, if it says one.
    Amend {
        posting: Posting,
        status: Option<Posting>,
        /// It also says something that no amendment says.
        differs: bool,
    },
    /// It goes no further.
    End(Ignored),
    /// The same, and a person has to see it.
    GiveUp(ErrorReport),
    /// A branch's secret proved it, and the order is another branch's.
    NotYours(NotYours),
}

/// Decides which order an event is about.
pub(super) struct OrderIdentity {
    pub(super) orders: Arc<Orders>,
    pub(super) log: Arc<Connection>,
    pub(super) acceptances: Acceptances,
    /// What was done to an order that a provider announces again with another content, by the provider's name.
    pub(super) announced_again: HashMap<String, AmendmentKind>,
}

impl OrderIdentity {
    /// Decides. The same log gives the same answer, on every instance. `is_unsent`: no request of the event can have reached the backend, as
    /// far as is known.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn plan(&self, event: &Recorded, is_unsent: bool) -> anyhow::Result<Plan> {
        if event.envelope.is_creation() {
            self.of_creation(event, is_unsent).await
        } else {
            self.of_news(event).await
        }
    }

    /// How an announcement ends when its order is there already by the first announcement; none if it has something to
    /// say about that order, or the log does not answer: then it is looked at again.
    pub(super) async fn end_after(
        &self,
        event: &Recorded,
        order_id: Option<String>,
        first: &Recorded,
    ) -> Option<Ignored> {
        if first.envelope.root_id == event.envelope.root_id {
            return Some(repeat(event, order_id));
        }
        let known = self.orders.history(event).await.ok()?;
        let created = (order_id, Some(first.clone()));
        let plan = self.again(event, &known, created, false).await;
        match plan {
            Ok(Plan::End(ignored)) => Some(ignored),
            _ => None,
        }
    }

    /// Whether news are of an order that only another branch has. The transformation has asked the same, the tables as well; since
    /// then the order may have been announced that it knew nothing of.
    async fn is_of_another(&self, event: &Recorded) -> anyhow::Result<Option<NotYours>> {
        let envelope = &event.envelope;
        let Some(own) = envelope.principal.branch() else {
            return Ok(None);
        };
        let since = envelope.cause_sequence.unwrap_or_default();
        let is_others = matches!(self.orders.announced(event, own, since).await?, AnnouncedBy::Others);
        let claimed = || format!("order {}, which is another branch's", envelope.external_order_id);
        Ok(is_others.then(|| envelope.principal.refused(claimed())))
    }

    /// Whether the backend's id of a new order, which a branch's secret proved, is that of another branch's order of this number:
    /// the backend takes the two for one.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn is_taken_for_another(
        &self,
        event: &Recorded,
        order_id: &str,
    ) -> anyhow::Result<Option<NotYours>> {
        let envelope = &event.envelope;
        if envelope.principal.branch().is_none() {
            return Ok(None);
        }
        let known = self.orders.known(event);
        for found in known.found.iter().filter(|found| found.state == EntryState::Created) {
            let Some(end) = self.orders.read(event, *found).await? else {
                continue;
            };
            let forwarded = serde_json::from_slice::<Forwarded>(&end.payload).ok();
            let is_same = forwarded.is_some_and(|other| other.internal_order_id.as_deref() == Some(order_id));
            if is_same && !is_same_branch(&end, event) {
                let number = &envelope.external_order_id;
                let claimed = format!("order {number}: the backend takes it for another branch's, {order_id}");
                return Ok(Some(envelope.principal.refused(claimed)));
            }
        }
        Ok(None)
    }

    async fn of_news(&self, event: &Recorded) -> anyhow::Result<Plan> {
        if let Some(not_yours) = self.is_of_another(event).await? {
            return Ok(Plan::NotYours(not_yours));
        }
        let known = self.orders.history(event).await?;
        let before = known.of_webhook().filter(|found| found.sequence < event.sequence);
        for found in before.filter(|found| found.state == EntryState::NewsForwarded && !event.is_again) {
            let earlier = self.orders.read(event, found).await?;
            if earlier.is_some_and(|earlier| earlier.envelope.root_id == event.envelope.root_id) {
                return Ok(Plan::End(repeat(event, None)));
            }
        }
        if let Some(overtaken) = self.overtaken(event, &known).await? {
            return Ok(Plan::End(overtaken));
        }
        if let Some(error) = self.told_of_another(event).await? {
            return Ok(Plan::GiveUp(error));
        }
        let said_before = self.said_before(event, &known).await?;
        Ok(Plan::Send(Posting {
            key: said_before.as_ref().unwrap_or(event).envelope.request_key(),
            ..Posting::own(event)
        }))
    }

    async fn of_creation(&self, event: &Recorded, is_unsent: bool) -> anyhow::Result<Plan> {
        let ended = match event.run {
            Some(_) => self.end_before(event).await?,
            None => None,
        };
        if ended == Some(DUPLICATE_ORDER) {
            return Ok(Plan::Send(Posting::of_its_own(event)));
        }
        let known = self.orders.history(event).await?;
        if known.found.iter().all(|found| found.sequence == event.sequence) {
            return Ok(Plan::Send(Posting::own(event)));
        }
        let created = self.created(event, &known).await?;
        if event.is_again {
            // The announcement that created the order is sent as it was; a later one is judged as it was.
            let is_later = matches!(&created, Some((_, Some(first))) if first.sequence != event.sequence);
            if !is_later {
                return Ok(Plan::Send(Posting::own(event)));
            }
        } else if self.is_repeat(event, &known).await? {
            let order_id = created.and_then(|(order_id, _)| order_id);
            return Ok(Plan::End(repeat(event, order_id)));
        } else if let Some(end) = self.created_elsewhere(event, &known).await? {
            return Ok(Plan::End(end));
        }
        // Later events of its order wait behind it, but not those in the other lane, nor what ended in the stage before.
        if (is_unsent || created.is_none())
            && let Some(overtaken) = self.overtaken(event, &known).await?
        {
            return Ok(match is_unsent {
                true => Plan::End(overtaken),
                false => Plan::GiveUp(called_off(&overtaken)),
            });
        }
        if let Some(created) = created {
            // A person who has the end of an earlier run retried wants it nevertheless.
            return self.again(event, &known, created, ended.is_some()).await;
        }
        let uncertain = known
            .of_branch()
            .filter(|found| found.state == EntryState::CreationUncertain);
        // A later one can have been given up as well where a person retries this one.
        for found in uncertain.filter(|found| found.sequence != event.sequence) {
            let is_of_order = |first: &Recorded| {
                is_same_branch(first, event) && !body::are_two_orders(&first.payload, &event.payload)
            };
            // One that was called off is not sent any more: it could be created by that.
            if let Some(first) = self.orders.read(event, found).await?.filter(is_of_order)
                && !self.is_called_off(event, &known, &first).await?
            {
                let posting = match self.end_before(&first).await? {
                    Some(DUPLICATE_ORDER) => Posting::of_its_own(&first),
                    _ => Posting::own(&first),
                };
                return Ok(Plan::Confirm(Box::new(first), posting));
            }
        }
        Ok(Plan::Send(Posting::own(event)))
    }

    /// Whether the webhook itself was forwarded before.
    async fn is_repeat(&self, event: &Recorded, known: &OrderEvents) -> anyhow::Result<bool> {
        let forwarded = [
            EntryState::CreationForwarded,
            EntryState::CreationAsNews,
            EntryState::CreationOutOfTurn,
        ];
        let before = known
            .of_webhook()
            .filter(|found| found.sequence < event.sequence && forwarded.contains(&found.state));
        for found in before {
            let earlier = self.orders.read(event, found).await?;
            if earlier.is_some_and(|earlier| earlier.envelope.root_id == event.envelope.root_id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The backend's id of an order that was created, and the body that created it, where that is still on the log.
    async fn created(
        &self,
        event: &Recorded,
        known: &OrderEvents,
    ) -> anyhow::Result<Option<(Option<String>, Option<Recorded>)>> {
        for found in known.of_branch().filter(|found| found.state == EntryState::Created) {
            let Some(end) = self
                .orders
                .read(event, found)
                .await?
                .filter(|end| is_same_branch(end, event))
            else {
                continue;
            };
            let forwarded: Forwarded =
                serde_json::from_slice(&end.payload).context("an order.forwarded that cannot be read")?;
            // An older version did not record which body was forwarded, so the webhook's latest body before it is taken.
            let of_older = || {
                let mut creations = known
                    .found
                    .iter()
                    .filter(|one| one.state == EntryState::CreationForwarded);
                creations.rfind(|one| one.webhook == found.webhook && one.sequence < found.sequence)
            };
            let sequence = end.envelope.cause_sequence.or_else(|| Some(of_older()?.sequence));
            let first = match sequence {
                Some(sequence) => event_at(&self.log, sequence).await?,
                None => None,
            };
            return Ok(Some((forwarded.internal_order_id, first)));
        }
        Ok(None)
    }

    /// The reason of the end that an announcement had before a person had it retried: a duplicate, which is an order of its own then, or
    /// superseded.
    async fn end_before(&self, event: &Recorded) -> anyhow::Result<Option<&'static str>> {
        let branch = token(event.envelope.branch.as_deref().unwrap_or_default());
        let (root, provider) = (EventType::OrderIgnored.subject_root(), token(&event.envelope.provider));
        let subjects = format!("{root}.{provider}.{branch}.>");
        let mut reader = LogReader::of_subjects(&self.log, subjects, Start::Sequence(event.sequence + 1));
        let mut reason = None;
        loop {
            let entries = reader.next_batch_to_end(&self.log).await?;
            if entries.is_empty() || reason == Some(DUPLICATE_ORDER) {
                return Ok(reason);
            }
            let end_of = |entry: &Entry| match entry {
                Entry::Event(end) => {
                    // Another acceptance of the webhook can have the same id.
                    let of_event = match end.envelope.cause_sequence {
                        Some(sequence) => sequence == event.sequence,
                        None => end.envelope.cause_id == Some(event.envelope.id),
                    };
                    let ignored = of_event.then(|| serde_json::from_slice::<Ignored>(&end.payload).ok());
                    Some(ignored??.reason)
                }
                Entry::Unreadable { .. } => None,
            };
            let found: Vec<_> = entries.iter().filter_map(end_of).collect();
            for wanted in [SUPERSEDED, DUPLICATE_ORDER] {
                if found.iter().any(|found| found == wanted) {
                    reason = Some(wanted);
                }
            }
        }
    }
}

pub(super) fn status_of(event: &Recorded) -> Option<Status> {
    body::announced(&event.payload).ok()?.status
}

pub(super) fn is_same_branch(one: &Recorded, other: &Recorded) -> bool {
    one.envelope.branch == other.envelope.branch
}

/// The backend may have the order by an earlier request. To ask for it again would create what was called off.
fn called_off(overtaken: &Ignored) -> ErrorReport {
    let message = format!(
        "no more requests are made because of {}; the backend may have the order by an earlier request: if it has, cancel it by hand",
        overtaken.message
    );
    ErrorReport::new(ErrorType::Unknown, CALLED_OFF, message)
}

fn repeat(event: &Recorded, order_id: Option<String>) -> Ignored {
    let order = &event.envelope.external_order_id;
    Ignored {
        reason: DUPLICATE_WEBHOOK.into(),
        message: format!("this webhook about order {order} was forwarded before"),
        internal_order_id: order_id,
        sequence: None,
        differs: false,
    }
}
