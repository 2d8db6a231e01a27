//! Ends of events that do not have their turn.

use super::{
    Stage, Worker,
    action::EventAction,
    attempt::TaskContext,
    given_up::{superseded_end, without_room},
    unreadable::gone,
};
use crate::{
    event::{NewEvent, Recorded},
    telemetry::panics,
};

/// The dead letter of an event that the runner gives up.
pub(super) enum GivenUp {
    /// The provider is told that the order is lost, if it waits for that word.
    Told(NewEvent),
    /// The provider is told nothing.
    Untold(NewEvent),
}

impl<S: Stage> Worker<S> {
    /// Records that an event finds no room in its order's lane. False if the hub goes down before it is recorded.
    pub(super) async fn record_without_room(
        &self,
        recorded: &Recorded,
        requests: u32,
        waiting: usize,
        context: &TaskContext,
    ) -> anyhow::Result<bool> {
        let end = |event: &Recorded| GivenUp::Told(without_room::<S>(event, requests, waiting));
        self.record_out_of_turn(recorded, 0, end, context).await
    }

    /// The events that the runner records when it gives an event up: first the status for a provider that waits for it, then the dead letter.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn given_up(&self, event: &Recorded, end: NewEvent) -> anyhow::Result<Vec<NewEvent>> {
        let lost = self.stage.lost(event, &end).await?;
        Ok(lost.into_iter().chain([end]).collect())
    }

    /// The same after a panic. If the code panics again while it looks whether the order is lost, the provider is told nothing.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn given_up_after_panic(&self, event: &Recorded, end: NewEvent) -> anyhow::Result<Vec<NewEvent>> {
        let given_up = panics::catch(S::NAME, self.given_up(event, end.clone())).await;
        given_up.unwrap_or_else(|_| Ok(vec![end]))
    }

    /// Records the end of an event that does not have its turn. False if the hub goes down before it is recorded, or if this
    /// version cannot end it.
    pub(super) async fn record_out_of_turn(
        &self,
        recorded: &Recorded,
        requests: u32,
        end: impl Fn(&Recorded) -> GivenUp,
        context: &TaskContext,
    ) -> anyhow::Result<bool> {
        if S::only_wakes(recorded.envelope.event_type) {
            return Ok(true);
        }
        let end = match self.order(recorded.clone(), requests).await? {
            EventAction::Handle(event) => match end(&event) {
                GivenUp::Told(end) => self.given_up(&event, end).await?,
                GivenUp::Untold(end) => vec![end],
            },
            EventAction::NotOurs => return Ok(true),
            EventAction::Left => return Ok(false),
            EventAction::Gone(sequence, is_there) => vec![gone(recorded, S::NAME, sequence, is_there)],
            EventAction::Superseded(event, newer) => vec![superseded_end::<S>(&event, &newer)],
        };
        let is_recorded = self.record(context, recorded.sequence, end).await;
        self.wake_other_lane(context, recorded, false);
        Ok(is_recorded)
    }
}
