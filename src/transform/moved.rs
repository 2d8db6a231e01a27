//! Finds the branch of an order that was announced before its merchant was moved to another branch. The order stays where it was announced:
//! there is what became of it, and its news go there.

use super::{
    NotYet, Transform,
    news_branch::Announcement,
    reading::Reading,
    tenants::{Allowed, Resolved, allow},
};
use crate::{
    branches::BranchLookup,
    event::Recorded,
    memory::EntryState,
    order::body::{self, BranchRef},
    provider::{Content, Fact},
};

impl Transform {
    /// The branch of a webhook. That of a new order is its merchant's, `now`, unless the order was announced for another one before.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn settle_branch(
        &self,
        received: &Recorded,
        (reading, fact): (&Reading<'_>, &Fact),
        now: Allowed,
    ) -> Result<Allowed, NotYet> {
        let envelope = &received.envelope;
        // What a branch's secret proved is that branch's.
        if !matches!(fact.content, Content::NewOrder(_)) || envelope.principal.branch().is_some() {
            return Ok(now);
        }
        let Some(earlier) = self.earlier_branch(received, (reading, fact), now.branch()).await? else {
            return Ok(now);
        };
        tracing::warn!(
            provider = &*envelope.provider,
            order_id = envelope.external_order_id,
            request_id = envelope.request_id,
            branch_id = earlier.branch_id,
            "the order was announced for this branch before its merchant was moved to another one, and stays there"
        );
        Ok(match allow(&envelope.principal, BranchLookup::Found(earlier))? {
            Resolved::Allowed(earlier) => earlier,
            _ => now,
        })
    }

    /// The branch for which an order was announced before, if that is another one than its merchant's branch now: by the same webhook, or by
    /// another one of the same merchant that is not about another order. None if the backend refused that announcement, so that the order
    /// can be created at the new branch; unless the order was called off since, which a repeat of the webhook does not undo.
    async fn earlier_branch(
        &self,
        received: &Recorded,
        (reading, fact): (&Reading<'_>, &Fact),
        now: &BranchRef,
    ) -> Result<Option<BranchRef>, NotYet> {
        let (orders, root) = (&self.orders, received.envelope.root_id);
        let announcements = orders.announcements_of_others(received, Some(&now.branch_id)).await?;
        if announcements.is_empty() {
            return Ok(None);
        }
        let Ok(own) = reading.body(received, fact, now) else {
            return Ok(None);
        };
        for announced in &announcements {
            let Some(order) = Announcement::of(announced).filter(|order| order.is_by_provider) else {
                continue;
            };
            let is_repeat = announced.envelope.root_id == root;
            let is_of_merchant = order.store.as_deref() == fact.store_ref.as_deref();
            let is_same = is_repeat || is_of_merchant && !body::are_two_orders(&announced.payload, &own.body);
            if is_same && order.branch.branch_id == now.branch_id {
                return Ok(None);
            }
            let is_refused = || orders.state_of(announced) == Some(EntryState::CreationRefused);
            if is_same && (!is_refused() || is_repeat && orders.is_called_off(announced).await?) {
                return Ok(Some(order.branch));
            }
        }
        Ok(None)
    }
}
