//! Foretells how the stage would end an event without a request, for a dry run. It asks what the stage asks: the memory of orders, read
//! from the log, and the same rules. The stage decides again when the event is next for its order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::identity::{Acceptances, OrderIdentity, Plan};
use crate::{
    delivery::superseded::{self, NewerEvent},
    event::{
        EventType, Recorded,
        outcome::{DUPLICATE_ORDER, DUPLICATE_WEBHOOK, Ignored},
    },
    journal::{connection::Connection, read::event_at},
    memory::Orders,
    order::model::AmendmentKind,
};

/// Label of the run of a retry that is only foretold.
const RETRY: &str = "retry";

/// How an event would end.
#[derive(Debug)]
pub enum Foretold {
    /// Something newer superseded it.
    Superseded(String),
    /// The backend has it, from the same webhook.
    Repeat(String),
    /// Another announcement created the order.
    Duplicate(String),
}

/// The place of the announcement that is to create an order, by provider, number and branch.
pub type ToBeCreated = HashMap<(Arc<str>, String, Option<String>), u64>;

/// See the module.
pub struct Foresight {
    identity: OrderIdentity,
}

impl Foresight {
    /// By the log on this connection. `window`: `ORDER_MEMORY`. `announced_again`: what was done to an order that is announced again, by
    /// the provider's name. Nothing is known until [`Self::during`] reads the log.
    pub fn new(log: Connection, window: Duration, announced_again: HashMap<String, AmendmentKind>) -> Self {
        let log = Arc::new(log);
        Self {
            identity: OrderIdentity {
                orders: Arc::new(Orders::of_log(Arc::clone(&log), window)),
                log,
                acceptances: Acceptances::default(),
                announced_again,
            },
        }
    }

    /// Works while the memory of orders follows the log; begins when it has read the log to its end once.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn during<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let orders = &self.identity.orders;
        let followed = Arc::clone(orders).run(CancellationToken::new());
        let worked = async {
            orders.warm().await;
            work.await
        };
        tokio::select! {
            worked = worked => worked,
            ended = followed => match ended {
                Ok(()) => anyhow::bail!("the memory of orders stopped"),
                Err(error) => Err(error),
            },
        }
    }

    /// How an event would end if it were retried now; none if a request would be made. `before`: what is to be created before it, by the
    /// same command.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn end_of(&self, event: Recorded, before: &ToBeCreated) -> anyhow::Result<Option<Foretold>> {
        let event = Recorded {
            run: Some(event.envelope.id.derive(RETRY)),
            ..event
        };
        let orders = &*self.identity.orders;
        if let Some(newer) = superseded::by(&self.identity.log, &event, &orders).await? {
            return Ok(Some(Foretold::of_newer(&newer)));
        }
        if event.envelope.event_type != EventType::OrderTransformed {
            return Ok(None);
        }
        match self.identity.plan(&event, true).await? {
            Plan::End(ignored) => Ok(Some(Foretold::of(ignored))),
            Plan::GiveUp(error) => Ok(Some(Foretold::Superseded(error.message))),
            Plan::Send(_) if event.envelope.is_creation() && !event.is_again => {
                let Some(first) = before.get(&key(&event)) else {
                    return Ok(None);
                };
                let Some(first) = event_at(&self.identity.log, *first).await? else {
                    return Ok(None);
                };
                let ended = self.identity.end_after(&event, None, &first).await;
                Ok(ended.map(Foretold::of))
            }
            _ => Ok(None),
        }
    }
}

/// Notes that an event is to be sent, by the same command, before those that are foretold next.
pub fn note_sent(before: &mut ToBeCreated, event: &Recorded) {
    let is_announced = event.envelope.event_type == EventType::OrderTransformed && event.envelope.is_creation();
    if is_announced {
        before.entry(key(event)).or_insert(event.sequence);
    }
}

fn key(event: &Recorded) -> (Arc<str>, String, Option<String>) {
    let envelope = &event.envelope;
    let branch = envelope.branch.clone();
    (envelope.provider.clone(), envelope.external_order_id.clone(), branch)
}

impl Foretold {
    fn of_newer(newer: &NewerEvent) -> Self {
        if newer.is_repeat() {
            Self::Repeat(newer.to_string())
        } else {
            Self::Superseded(newer.to_string())
        }
    }

    fn of(ended: Ignored) -> Self {
        match &*ended.reason {
            DUPLICATE_ORDER => Self::Duplicate(ended.message),
            DUPLICATE_WEBHOOK => Self::Repeat(ended.message),
            _ => Self::Superseded(ended.message),
        }
    }
}
