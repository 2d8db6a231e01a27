//! Orders that the hub gives up, and when their provider is told that they are lost.
//!
//! Some providers wait for the word whether the backend has an order (`confirm_within`). When such an order is lost, the restaurant makes it
//! without the backend. So an order is reported as lost only if the backend does not have it by another announcement and no earlier
//! announcement is still tried. An order that was reported as lost is not created any more.

use super::{Attempt, Forward, record::dead_letter, waits::cannot_see};
use crate::{
    delivery::stage::RequestFacts,
    event::{NewEvent, Recorded, outcome::ErrorReport, push},
    retry::Failure,
};

impl Forward {
    /// It will not be forwarded any more. A provider that waits for the word gets it, so that it tells the restaurant itself.
    ///
    /// # Errors
    /// While the log does not say whether the backend has the order.
    pub(super) async fn dead(
        &self,
        attempt: Attempt<'_>,
        attempts: u32,
        error: ErrorReport,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Attempt {
            event,
            confirming,
            amended,
            ..
        } = attempt;
        let requests = RequestFacts {
            confirming,
            unposted: self.arrivals.is_none(event, attempts),
            amended,
        };
        let dead = dead_letter(event, attempts, error, requests);
        let lost = self.report(event, &dead).await.map_err(|error| cannot_see(&error))?;
        self.arrivals.end(event);
        Ok(lost.into_iter().chain([dead]).collect())
    }

    /// What tells the provider that an order that ends so is lost, if it waits for that and the order is.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn report(&self, event: &Recorded, end: &NewEvent) -> anyhow::Result<Option<NewEvent>> {
        if !self.is_awaited(event) || self.identity.may_be_created(event).await? {
            return Ok(None);
        }
        // An instance that died may have asked for it, longer ago than the log knows ids.
        let was_reported =
            self.arrivals.may_be_anothers(event) && self.identity.orders.was_reported(event, event.sequence).await?;
        Ok((!was_reported).then(|| push::lost(event, end)))
    }

    /// The error of an announcement whose order was reported as lost before; none if it was not. `is_unsent`: no request of the event can have
    /// reached the backend. If one can, reports about earlier announcements do not count.
    ///
    /// # Errors
    /// While the log does not say.
    pub(super) async fn reported(&self, event: &Recorded, is_unsent: bool) -> Result<Option<ErrorReport>, Failure> {
        if !self.is_awaited(event) {
            return Ok(None);
        }
        // The stage `transform` may be another instance's, and may have given an earlier announcement up a moment ago.
        let known = self.identity.orders.know_all_before(event).await;
        known.map_err(|error| cannot_see(&error))?;
        // An instance that died may have told it and not recorded the end.
        let itself = self.arrivals.may_be_anothers(event);
        let earlier = self.identity.reported_lost(event, (itself, is_unsent)).await;
        let earlier = earlier.map_err(|error| cannot_see(&error))?;
        Ok(earlier.map(|earlier| ErrorReport::reported_lost(earlier.envelope.received_at)))
    }

    /// Whether its provider waits for the word whether the backend has the order. What a person has retried is for that person to judge.
    fn is_awaited(&self, event: &Recorded) -> bool {
        event.envelope.is_creation() && event.run.is_none() && self.rules.confirms.contains(&*event.envelope.provider)
    }
}
