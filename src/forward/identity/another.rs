//! Whether a number means another order: the provider used it again.
//!
//! An announcement is about the order that it announces. News are about the order that their branch announced last before them. News that
//! came before every announcement overtook their order, so they are about the first one after them.

use super::{OrderIdentity, elsewhere::was_moved, is_same_branch};
use crate::{
    delivery::superseded::KnownAcceptances as _,
    event::{
        EventType, Recorded,
        outcome::{ANOTHER_ORDER, ErrorReport, ErrorType},
    },
    memory::{EntryState, IndexEntry},
    order::body,
};

/// What the backend has of a number, by the orders that are known to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberAtBackend {
    /// The order that is meant.
    Meant,
    /// Only another order.
    Another,
    /// None.
    Nothing,
}

impl OrderIdentity {
    /// Whether an event announces another order than the one that an earlier event of its number is about, and a later one. It does not if
    /// its webhook came before that event or with it, as far as the memory reaches. An order of another branch is another one, unless its
    /// merchant was moved.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn announces_another(
        &self,
        event: &Recorded,
        earlier: &Recorded,
    ) -> anyhow::Result<bool> {
        let (own, other) = (&event.envelope, &earlier.envelope);
        if own.event_type != EventType::OrderTransformed || !own.is_creation() || own.root_id == other.root_id {
            return Ok(false);
        }
        let known = self.orders.known(event);
        let first = self.orders.first_acceptance(event, &known, own.root_id).await?;
        if first.is_some_and(|first| first <= earlier.accepted_at()) {
            return Ok(false);
        }
        let meant = self.meant(earlier).await?;
        let branches = own.branch.as_ref().zip(other.branch.as_ref());
        if branches.is_some_and(|(one, other)| one != other) {
            return Ok(!meant.is_some_and(|meant| was_moved(&meant, event)));
        }
        let is_later = own.received_at - other.received_at > self.orders.window();
        let is_other = |meant: Recorded| {
            meant.envelope.root_id != own.root_id && body::were_placed_apart(&meant.payload, &event.payload)
        };
        Ok(is_later || meant.is_some_and(is_other))
    }

    /// Whether the backend has the order that news are about. Of news that no announcement came before, any order of the branch is theirs.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn has_order_of(&self, news: &Recorded) -> anyhow::Result<bool> {
        Ok(self.orders_of(news).await? == NumberAtBackend::Meant)
    }

    /// Whether news need not wait for their order any more: the backend has it, or has another one of the number, for which they are given up.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn wait_is_over(&self, news: &Recorded) -> anyhow::Result<bool> {
        Ok(self.orders_of(news).await? != NumberAtBackend::Nothing)
    }

    /// An error if the backend does not have the order of news, but another order with the number that was placed at another time. The
    /// backend would apply the news to that order. None for news that the backend has and that a person sends again.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn told_of_another(&self, news: &Recorded) -> anyhow::Result<Option<ErrorReport>> {
        if news.is_again || self.orders_of(news).await? != NumberAtBackend::Another {
            return Ok(None);
        }
        let order = &news.envelope.external_order_id;
        let message = format!(
            "the backend was not told, because it has another order of number {order} than the one that this is about"
        );
        Ok(Some(ErrorReport::new(ErrorType::Validation, ANOTHER_ORDER, message)))
    }

    /// What the backend has of the number of news, as far as the memory reaches.
    async fn orders_of(&self, news: &Recorded) -> anyhow::Result<NumberAtBackend> {
        let (known, meant) = (self.orders.known(news), self.announced_before(news).await?);
        let mut has = NumberAtBackend::Nothing;
        for found in known
            .of_branch()
            .filter(|found| found.state == EntryState::CreationForwarded)
        {
            let Some(created) = self.announced_at(news, found).await? else {
                continue;
            };
            // A customer who is written in another way makes a duplicate that a person sees. It must not keep a cancellation from the backend.
            let is_other = meant
                .as_ref()
                .is_some_and(|meant| body::were_placed_apart(&meant.payload, &created.payload));
            if !is_other {
                return Ok(NumberAtBackend::Meant);
            }
            has = NumberAtBackend::Another;
        }
        Ok(has)
    }

    /// The announcement of the order that an event is about; none if none is known.
    async fn meant(&self, event: &Recorded) -> anyhow::Result<Option<Recorded>> {
        if event.envelope.is_creation() {
            return Ok(Some(event.clone()));
        }
        let before = self.announced_before(event).await?;
        if before.is_some() {
            return Ok(before);
        }
        let known = self.orders.known(event);
        let is_after = |found: &IndexEntry| found.state.is_creation() && found.sequence > event.sequence;
        for found in known.of_branch().filter(is_after) {
            if let Some(announced) = self.announced_at(event, found).await? {
                return Ok(Some(announced));
            }
        }
        Ok(None)
    }

    /// The last announcement of an event's branch before the event; none if none is known. Each counts from the first acceptance of its webhook: one
    /// that came again, or that a person had taken up again, is no newer for that.
    async fn announced_before(&self, event: &Recorded) -> anyhow::Result<Option<Recorded>> {
        let known = self.orders.known(event);
        let mut announced = Vec::new();
        for found in known.of_branch().rev().filter(|found| found.state.is_creation()) {
            announced.extend(self.announced_at(event, found).await?);
        }
        if let [only] = &*announced
            && only.sequence < event.sequence
        {
            return Ok(announced.pop());
        }
        let own = self.accepted_at(event, event).await?;
        let mut last: Option<(u64, Recorded)> = None;
        for one in announced {
            let place = self.accepted_at(event, &one).await?;
            if place < own && last.as_ref().is_none_or(|(last, _)| place > *last) {
                last = Some((place, one));
            }
        }
        Ok(last.map(|(_, announced)| announced))
    }

    /// Where the first event of a webhook stands, as far as the memory reaches.
    async fn accepted_at(&self, about: &Recorded, event: &Recorded) -> anyhow::Result<u64> {
        let known = self.orders.known(about);
        let first = self
            .orders
            .first_acceptance(about, &known, event.envelope.root_id)
            .await?;
        Ok(first.unwrap_or_else(|| event.accepted_at()))
    }

    /// An announcement of an event's branch.
    async fn announced_at(&self, event: &Recorded, found: IndexEntry) -> anyhow::Result<Option<Recorded>> {
        let announced = self.orders.read(event, found).await?;
        Ok(announced.filter(|announced| is_same_branch(announced, event)))
    }
}
