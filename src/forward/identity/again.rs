//! An order that is announced again: what the backend has of it, and what the later announcement says in addition.

use super::{DUPLICATE_ORDER, OrderIdentity, Plan, Posting, accepted, is_same_branch, superseded};
use crate::{
    delivery::superseded::news::{Accepted, ToldAs},
    event::{
        Recorded,
        outcome::{Forwarded, Ignored},
    },
    forward::classify::RequestKind,
    memory::{EntryState, OrderEvents},
    order::{
        body::{self, AnnouncedContent, Difference},
        status::Status,
    },
};

/// Label of the key of the status that an announcement says in addition to its amendment.
const STATUS_TOO: &str = "status_of_amendment";

impl OrderIdentity {
    /// The order is announced again: as an amendment where the provider tells one so and the content is not what the backend was
    /// told last, as news where its status is further, else it goes no further. What is perhaps another order amends none and tells no
    /// status of it. An announcement that is older than the one that the backend was told last is superseded, except if it is wanted
    /// nevertheless.
    pub(super) async fn again(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        (forwarded, first): (Forwarded, Option<Recorded>),
        is_wanted: bool,
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
        let (difference, is_older) = match amends {
            Some(_) => {
                let told = self.told_content(event, known, &first, &old).await?;
                (told.difference(&new), !is_wanted && self.is_before(event, &told).await?)
            }
            None => (new.difference(&old), false),
        };
        if is_older && difference == Some(Difference::Content) {
            return Ok(Plan::End(superseded(event)));
        }
        let status = self.last_status(event, known, &first, &old).await?;
        // What is perhaps another order says nothing of this one.
        let is_news = difference != Some(Difference::Order)
            && new
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
            return Ok(Plan::Amend {
                posting: amendment,
                status: news(id.derive(STATUS_TOO).0),
                differs: new.has_other_address(&old),
            });
        }
        let end = difference.map(|how| duplicate(event, order_id.clone(), Some(how)));
        match news(id.0) {
            Some(posting) => Ok(Plan::News(posting, end)),
            None => Ok(Plan::End(end.unwrap_or_else(|| duplicate(event, order_id, None)))),
        }
    }

    /// The content that the backend has of an order, by the announcement that created it and those that followed. An event that is sent
    /// again is judged as it was.
    async fn told_content(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        first: &Recorded,
        created: &AnnouncedContent,
    ) -> anyhow::Result<ToldContent> {
        let mut told = ToldContent {
            content: created.clone(),
            accepted: self.accepted_first(first, first.sequence).await?,
            is_certain: true,
        };
        let others = known.of_branch().filter(|found| {
            let is_before = found.sequence < event.sequence || !event.is_again;
            is_before && ![event.sequence, first.sequence].contains(&found.sequence)
        });
        for found in others {
            let is_amendment = matches!(found.state, EntryState::NewsForwarded | EntryState::NewsGivenUp);
            if !is_amendment && !found.state.is_creation() {
                continue;
            }
            let Some(one) = self
                .orders
                .read(event, found)
                .await?
                .filter(|one| is_same_branch(one, event))
            else {
                continue;
            };
            if is_amendment {
                // It says its lines in its own way.
                told.is_certain &= !body::has_lines(&one.payload);
            } else if let Ok(content) = body::announced(&one.payload)
                && !content.is_of_another_order(created)
            {
                let accepted = self.accepted_first(&one, found.sequence).await?;
                told.note(found.state, content, accepted, found.sequence > first.sequence);
            }
        }
        Ok(told)
    }

    /// When the webhook of an announcement at this sequence was accepted first.
    async fn accepted_first(&self, announcement: &Recorded, sequence: u64) -> anyhow::Result<Accepted> {
        let first = self
            .orders
            .first_acceptance(announcement, announcement.envelope.root_id)
            .await?;
        Ok(accepted(announcement, first.unwrap_or(sequence).min(sequence)))
    }

    /// Whether an announcement was accepted before the one by which the backend has its content.
    async fn is_before(&self, event: &Recorded, told: &ToldContent) -> anyhow::Result<bool> {
        let own = self.accepted_first(event, event.sequence).await?;
        Ok(told.accepted.is_after(own))
    }

    /// The status that the backend knows of an order: the first announcement's, or a later one that was sent.
    async fn last_status(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        first: &Recorded,
        created: &AnnouncedContent,
    ) -> anyhow::Result<Option<Status>> {
        let mut words = Vec::new();
        let since = known.of_branch().filter(|found| found.sequence > first.sequence);
        for found in since.filter(|found| found.state != EntryState::CreationForwarded) {
            words.extend(self.told(event, found, Some(created)).await?);
        }
        // A webhook that was accepted again, or retried by a person, is as old as its first acceptance.
        words.sort_by_key(|(word, _)| word.accepted.first);
        let last = words.iter().rposition(|(_, told_as)| *told_as == ToldAs::News);
        let mut status = last.map_or(created.status, |last| words[last].0.status);
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

/// The content that the backend has of an order.
struct ToldContent {
    /// What it was told last, as far as that is certain.
    content: AnnouncedContent,
    /// The last announcement that says so.
    accepted: Accepted,
    /// False if an amendment was given up since that the backend may have, or has.
    is_certain: bool,
}

impl ToldContent {
    /// Another announcement; `is_later`: on the log after the one that created the order.
    fn note(&mut self, state: EntryState, content: AnnouncedContent, accepted: Accepted, is_later: bool) {
        let is_same = content.is_same_content(&self.content);
        match state {
            EntryState::CreationAsNews => {
                (self.content, self.accepted, self.is_certain) = (content, accepted, is_later);
            }
            EntryState::CreationIgnored if is_same && accepted.is_after(self.accepted) => self.accepted = accepted,
            EntryState::CreationUncertain if is_later && !is_same => self.is_certain = false,
            _ => {}
        }
    }

    /// How another announcement differs. Where it is not certain what the backend has, it is told the lines in any case.
    fn difference(&self, new: &AnnouncedContent) -> Option<Difference> {
        match new.difference(&self.content) {
            Some(Difference::Order) => Some(Difference::Order),
            _ if !self.is_certain => Some(Difference::Content),
            difference => difference,
        }
    }
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

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;

    fn content(total: f64) -> AnnouncedContent {
        let order = json!({ "items": [], "pricing": { "currency": "JOD", "total": total } });
        body::announced(json!({ "transformedOrder": order }).to_string().as_bytes()).unwrap()
    }

    fn at(first: u64) -> Accepted {
        Accepted {
            first: Some(first),
            received_at: Utc::now(),
        }
    }

    /// What the backend has after these announcements of an order that was created with a total of 5.
    fn told(announcements: &[(EntryState, f64)]) -> ToldContent {
        let mut told = ToldContent {
            content: content(5.0),
            accepted: at(1),
            is_certain: true,
        };
        for (place, (state, total)) in (2..).zip(announcements) {
            told.note(*state, content(*total), at(place), true);
        }
        told
    }

    #[test]
    fn the_last_content_counts_and_one_without_an_answer_makes_it_uncertain() {
        use EntryState::{CreationAsNews as Told, CreationIgnored as Same, CreationRefused, CreationUncertain};
        let (same, other) = (None, Some(Difference::Content));
        for (announcements, of_five, last) in [
            (&[][..], same, 1),
            (&[(Same, 5.0)], same, 2),
            (&[(CreationRefused, 6.0)], same, 1),
            (&[(CreationRefused, 6.0), (Same, 5.0)], same, 3),
            (&[(Told, 6.0)], other, 2),
            (&[(Told, 6.0), (Same, 6.0), (Same, 5.0)], other, 3),
            (&[(Told, 6.0), (Told, 5.0)], same, 3),
            (&[(CreationUncertain, 6.0)], other, 1),
            (&[(CreationUncertain, 5.0)], same, 1),
            (&[(CreationUncertain, 6.0), (Told, 5.0)], same, 3),
        ] {
            let told = told(announcements);
            assert_eq!(told.difference(&content(5.0)), of_five, "{announcements:?}");
            assert_eq!(told.accepted.first, Some(last), "{announcements:?}");
        }
        // One that was sent, though it stands before the one that created the order, was retried at a time that is not known.
        let mut told = told(&[(Told, 6.0)]);
        told.note(Told, content(7.0), at(0), false);
        assert_eq!(told.difference(&content(7.0)), other);
    }
}
