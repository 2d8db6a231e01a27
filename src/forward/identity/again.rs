//! An order that is announced again: what the backend has of it, and what the later announcement says in addition.

use super::{DUPLICATE_ORDER, OrderIdentity, Plan, Posting, is_same_branch};
use crate::{
    delivery::superseded::{
        self, End, event_says,
        history::{self, Again, Said},
        news::{Accepted, Word},
    },
    event::{
        Recorded,
        outcome::{Ignored, SUPERSEDED},
    },
    forward::classify::RequestKind,
    memory::OrderEvents,
    order::body::{self, Difference},
};

/// Label of the key of the status that an announcement says in addition to its amendment.
const STATUS_TOO: &str = "status_of_amendment";

impl OrderIdentity {
    /// The order is announced again: as an amendment where the provider tells one so and the content is not what the backend was
    /// told last, as news where its status is further, else it goes no further. What is perhaps another order amends none and tells no
    /// status of it. An announcement with other lines than a later one is superseded, unless it is wanted nevertheless.
    pub(super) async fn again(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        (order_id, first): (Option<String>, Option<Recorded>),
        is_wanted: bool,
    ) -> anyhow::Result<Plan> {
        let Some(first) = first.filter(|first| [event, first].iter().all(|one| body::announced(&one.payload).is_ok()))
        else {
            return Ok(Plan::End(duplicate(event, order_id, None)));
        };
        let amends = self.announced_again.get(&*event.envelope.provider).copied();
        let own = self.word((event, known), event, End::LeftOut).await?;
        let base = self.word((event, known), &first, End::Created).await?;
        let history = self.said(event, known, &first).await?;
        let again = history::again(&own, &base, &history, amends.is_some());
        if again.is_superseded && !is_wanted {
            return Ok(Plan::End(superseded(event, order_id)));
        }
        let Again {
            difference, is_news, ..
        } = again;
        let said_before = self.said_before(event, known).await?;
        let id = said_before.as_ref().unwrap_or(event).envelope.id;
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
                differs: again.has_other_address,
            });
        }
        let end = difference.map(|how| duplicate(event, order_id.clone(), Some(how)));
        match news(id.0) {
            Some(posting) => Ok(Plan::News(posting, end)),
            None => Ok(Plan::End(end.unwrap_or_else(|| duplicate(event, order_id, None)))),
        }
    }

    /// What others than the event itself and the announcement that created the order said about it, as far as the backend has it or may
    /// have it.
    async fn said(&self, event: &Recorded, known: &OrderEvents, first: &Recorded) -> anyhow::Result<Vec<Said>> {
        let (mut said, mut places) = (Vec::new(), Vec::new());
        for found in known.of_branch() {
            // An event that is sent again is judged as it was.
            let is_before = found.sequence < event.sequence || !event.is_again;
            let is_other = ![event.sequence, first.sequence].contains(&found.sequence);
            let end = found.state.end();
            let end = end.filter(|end| is_before && is_other && (end.is_heard() || !found.state.is_creation()));
            let Some(end) = end else {
                continue;
            };
            if let Some(body) = self.orders.read(event, found).await?
                && is_same_branch(&body, event)
            {
                said.push(self.word((event, known), &body, end).await?);
                places.push(found.sequence);
            }
        }
        if said.iter().any(|said| said.end == End::OutOfTurn) {
            let ended = superseded::ended_at(&self.log, event, &*self.orders).await?;
            for (said, place) in said.iter_mut().zip(&places) {
                said.ended_at = ended.get(place).copied();
            }
        }
        Ok(said)
    }

    /// A word is as old as the first acceptance of its webhook, also where that came again, or was retried by a person.
    pub(in crate::forward) async fn word(
        &self,
        (event, known): (&Recorded, &OrderEvents),
        body: &Recorded,
        end: End,
    ) -> anyhow::Result<Said> {
        let webhook = body.envelope.root_id;
        let first = self.orders.first_acceptance(event, known, webhook).await?;
        let (status, says) = event_says(body);
        Ok(Said {
            word: Word {
                webhook,
                accepted: Accepted {
                    first: Some(first.unwrap_or_else(|| body.accepted_at())),
                    received_at: body.envelope.received_at,
                },
                status,
            },
            says,
            end,
            ended_at: None,
        })
    }
}

fn superseded(event: &Recorded, order_id: Option<String>) -> Ignored {
    let order = &event.envelope.external_order_id;
    Ignored {
        reason: SUPERSEDED.into(),
        message: format!(
            "the backend has later lines of order {order}, of an announcement that was accepted after this one"
        ),
        internal_order_id: order_id,
        sequence: None,
        differs: false,
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
