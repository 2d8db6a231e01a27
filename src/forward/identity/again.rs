//! An order that is announced again: what the backend has of it, and what the later announcement says in addition.

use super::{DUPLICATE_ORDER, OrderIdentity, Plan, Posting, is_same_branch};
use crate::{
    delivery::superseded::news::ToldAs,
    event::{
        Recorded,
        outcome::{Forwarded, Ignored},
    },
    forward::classify::RequestKind,
    memory::{EntryState, IndexEntry, OrderEvents},
    order::{
        body::{self, AnnouncedContent, Difference},
        status::Status,
    },
};

/// Label of the key of the status that an announcement says in addition to its amendment.
const STATUS_TOO: &str = "status_of_amendment";

impl OrderIdentity {
    /// The order is announced again: as an amendment where the provider tells one so and the content is not what the backend was
    /// told last, as news where its status is further, else it goes no further. What is perhaps another order amends none.
    pub(super) async fn again(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        forwarded: Forwarded,
        first: Option<Recorded>,
    ) -> anyhow::Result<Plan> {
        let order_id = forwarded.internal_order_id;
        let read = |one: &Recorded| body::announced(&one.payload).ok();
        let (Some(new), Some(first)) = (read(event), first) else {
            return Ok(Plan::End(duplicate(event, order_id, None)));
        };
        let Some(old) = read(&first) else {
            return Ok(Plan::End(duplicate(event, order_id, None)));
        };
        let amends = self.announced_again.get(&*event.envelope.provider).copied();
        let told = match amends {
            Some(_) => self.last_content(event, known, first.sequence).await?,
            None => None,
        };
        let told = told.as_ref().unwrap_or(&old);
        let difference = new.difference(told);
        let status = self.last_status(event, known, first.sequence, old.status).await?;
        let is_news = new
            .status
            .is_some_and(|new| status.is_none_or(|status| new.follows(status)));
        let id = event.envelope.id;
        let news = |key| {
            let body = body::as_news(&event.payload).ok().filter(|_| is_news)?;
            Some(Posting {
                request: RequestKind::StatusChange,
                key,
                body: body.into(),
            })
        };
        let amends = amends.filter(|_| difference == Some(Difference::Content));
        if let Some(body) = amends.and_then(|kind| body::as_amendment(&event.payload, kind).ok()) {
            let amendment = Posting {
                request: RequestKind::Amendment,
                key: id.0,
                body: body.into(),
            };
            return Ok(Plan::Amend(amendment, news(id.derive(STATUS_TOO).0)));
        }
        let end = difference.map(|how| duplicate(event, order_id.clone(), Some(how)));
        match news(id.0) {
            Some(posting) => Ok(Plan::News(posting, end)),
            None => Ok(Plan::End(end.unwrap_or_else(|| duplicate(event, order_id, None)))),
        }
    }

    /// The content that the backend has of an order by a later announcement that was forwarded as an amendment, or with the content
    /// of that; none if it has the first announcement's.
    async fn last_content(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        first: u64,
    ) -> anyhow::Result<Option<AnnouncedContent>> {
        // An event that is sent again is judged as it was.
        let is_told = |found: &IndexEntry| {
            found.state == EntryState::CreationAsNews
                && found.sequence > first
                && (found.sequence < event.sequence || !event.is_again)
                && found.sequence != event.sequence
        };
        for found in known.of_branch().rev().filter(is_told) {
            if let Some(told) = self.orders.read(event, found).await?
                && is_same_branch(&told, event)
            {
                return Ok(body::announced(&told.payload).ok());
            }
        }
        Ok(None)
    }

    /// The status that the backend knows of an order: the first announcement's, or a later one that was sent.
    async fn last_status(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        first: u64,
        announced: Option<Status>,
    ) -> anyhow::Result<Option<Status>> {
        let mut words = Vec::new();
        let since = known.of_branch().filter(|found| found.sequence > first);
        for found in since.filter(|found| found.state != EntryState::CreationForwarded) {
            words.extend(self.told(event, found).await?);
        }
        // A webhook that was accepted again, or retried by a person, is as old as its first acceptance.
        words.sort_by_key(|(word, _)| word.accepted.first);
        let last = words.iter().rposition(|(_, told_as)| *told_as == ToldAs::News);
        let mut status = last.map_or(announced, |last| words[last].0.status);
        // A duplicate was sent as a change if its status was further than the last one.
        for (told, _) in words.drain(last.map_or(0, |last| last + 1)..) {
            if told
                .status
                .zip(status)
                .is_none_or(|(told, status)| told.follows(status))
            {
                status = told.status;
            }
        }
        Ok(status)
    }
}

/// Whether two announcements of one number are about two orders: then neither says anything about the other one.
pub(super) fn is_of_another_order(one: &Recorded, other: &Recorded) -> bool {
    let read = |event: &Recorded| body::announced(&event.payload).ok();
    let difference = read(one)
        .zip(read(other))
        .and_then(|(one, other)| one.difference(&other));
    difference == Some(Difference::Order)
}

fn duplicate(event: &Recorded, order_id: Option<String>, difference: Option<Difference>) -> Ignored {
    let order = &event.envelope.external_order_id;
    let of = order_id.as_ref().map(|id| format!(" as {id}")).unwrap_or_default();
    let but = match difference {
        None => "",
        Some(Difference::Content) => ", with other lines or another total",
        Some(Difference::Order) => {
            ", placed at another time or by another customer: perhaps the provider used its number again"
        }
        Some(Difference::Address) => ", with another address",
    };
    Ignored {
        reason: DUPLICATE_ORDER.into(),
        message: format!("order {order} exists already{of}{but}"),
        internal_order_id: order_id,
        sequence: Some(event.sequence),
        differs: difference.is_some(),
    }
}
