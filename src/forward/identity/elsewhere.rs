//! Orders of another branch: a merchant was moved, and an order that the backend had refused was created at its new branch. A retry of the
//! refused announcement must not create it at the old branch as well.

use serde::Deserialize;

use super::{OrderIdentity, is_same_branch};
use crate::{
    event::{
        Recorded,
        outcome::{DUPLICATE_ORDER, DUPLICATE_WEBHOOK, Ignored},
    },
    memory::{EntryState, IndexEntry, OrderEvents},
    order::body,
};

/// The merchant that an announcement named.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Announced {
    transformed_order: Merchant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Merchant {
    store_ref: Option<String>,
}

impl OrderIdentity {
    /// The end of an announcement if another branch has its order, or may have it: by the same webhook, or by another one of the same
    /// merchant that is not about another order. None if no branch has, as far as the memory reaches. What a branch's secret proved is that
    /// branch's, so it says nothing of others.
    ///
    /// One without an outcome waits behind this event. The backend may have the order by this one: a request may have been made that is not on
    /// the log. So this one is not given up for that: if the backend takes it, the other is the duplicate.
    pub(super) async fn created_elsewhere(
        &self,
        event: &Recorded,
        known: &OrderEvents,
    ) -> anyhow::Result<Option<Ignored>> {
        if event.envelope.principal.branch().is_some() {
            return Ok(None);
        }
        let may_be_there = |found: &IndexEntry| {
            matches!(
                found.state,
                EntryState::CreationForwarded | EntryState::CreationUncertain
            )
        };
        for found in known.of_other_branches().filter(may_be_there) {
            let Some(other) = self.orders.read(event, found).await? else {
                continue;
            };
            if !is_same_branch(&other, event) && was_moved(&other, event) {
                let is_repeat = other.envelope.root_id == event.envelope.root_id;
                let reason = if is_repeat { DUPLICATE_WEBHOOK } else { DUPLICATE_ORDER };
                return Ok(Some(end(event, &other, reason)));
            }
        }
        Ok(None)
    }
}

/// A duplicate names its place, so that a person may have it sent as an order of its own.
fn end(event: &Recorded, other: &Recorded, reason: &str) -> Ignored {
    let is_duplicate = reason == DUPLICATE_ORDER;
    let difference = || {
        let both = body::announced(&event.payload)
            .ok()
            .zip(body::announced(&other.payload).ok());
        both.is_some_and(|(own, other)| own.difference(&other).is_some())
    };
    let (order, branch) = (&event.envelope.external_order_id, other.envelope.branch.as_deref());
    let branch = branch.unwrap_or_default();
    Ignored {
        reason: reason.into(),
        message: format!("order {order} is at branch {branch}, or may be: its merchant was moved there"),
        internal_order_id: None,
        sequence: is_duplicate.then_some(event.sequence),
        differs: is_duplicate && difference(),
    }
}

/// Whether two events with one number are of two branches, and of two orders: neither waits for the other.
pub(in crate::forward) fn are_apart(one: &Recorded, other: &Recorded) -> bool {
    let branches = one.envelope.branch.as_ref().zip(other.envelope.branch.as_ref());
    branches.is_some_and(|(one, other)| one != other) && !was_moved(one, other)
}

/// Whether two announcements for two branches are about one order, because its merchant was moved. They are if they come from one webhook, or
/// if both name the same merchant and nothing shows two orders. An order that a branch's secret proved stays with that branch.
pub(super) fn was_moved(one: &Recorded, other: &Recorded) -> bool {
    let is_proven = |event: &Recorded| event.envelope.principal.branch().is_some();
    if is_proven(one) || is_proven(other) {
        return false;
    }
    one.envelope.root_id == other.envelope.root_id
        || is_of_merchant(one, other) && !body::are_two_orders(&one.payload, &other.payload)
}

fn is_of_merchant(one: &Recorded, other: &Recorded) -> bool {
    let store = |event: &Recorded| serde_json::from_slice::<Announced>(&event.payload).ok();
    let stores = store(one).zip(store(other));
    stores.is_some_and(|(one, other)| one.transformed_order.store_ref == other.transformed_order.store_ref)
}
