//! Gives up events that the log is about to delete, and retries of such events. So their end is on the log while an operator can still
//! retry it.

use std::sync::atomic::Ordering;

use super::{
    Stage, Worker,
    attempt::{Attempted, TaskContext},
    given_up::aged,
    out_of_turn::GivenUp,
};
use crate::{delivery::lanes::Lane, event::Recorded, journal::codec::OrderKey};

impl<S: Stage> Worker<S> {
    /// Gives up an event that the log is about to delete.
    pub(super) async fn end_aged(
        &self,
        context: &TaskContext,
        about: u64,
        event: &Recorded,
        requests: u32,
    ) -> anyhow::Result<Attempted> {
        if !context.lease.holds() {
            anyhow::bail!("the lease ran out");
        }
        let end = self.given_up(event, aged::<S>(event, requests)).await?;
        let ended = self.record_end(context, about, end).await?;
        self.wake_other_lane(context, event, false);
        Ok(ended)
    }

    /// Gives up one of the events that wait in a lane, if the log is about to delete what it needs: a retry of an older event waits
    /// behind a younger head, or the head is an event that passed it. It cannot be tried, because the head comes before it. False if
    /// there is none, or none can be ended now.
    pub(super) async fn end_one_aged_behind(
        &self,
        key: OrderKey,
        lane: Lane,
        context: &TaskContext,
    ) -> anyhow::Result<bool> {
        let Some((sequence, requests)) = lane.first_that_needs(self.journal.identity().aged_up_to()) else {
            return Ok(false);
        };
        if context.halt.is_cancelled() {
            return Ok(false);
        }
        if !context.lease.holds() {
            anyhow::bail!("the lease ran out");
        }
        match self.event_in(key, &lane, sequence).await? {
            Ok(recorded) if !context.has_ended(&recorded) => {
                let end = |event: &Recorded| GivenUp::Told(aged::<S>(event, requests));
                if !self.record_out_of_turn(&recorded, requests, end, context).await? {
                    return Ok(false);
                }
            }
            Ok(_) | Err(Attempted::Ended) => {}
            Err(_) => return Ok(false),
        }
        // The lane belongs to the next instance, which reads the outcomes from the log.
        if context.handed_over.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.lanes(context)?.put(key, &lane.without(sequence)).await?;
        context.settle(sequence);
        Ok(true)
    }
}
