//! Takes up lanes that are due, and lanes that have to be repaired, from the instance's own memory.

use std::time::Duration;

use chrono::Utc;

use super::{
    attempt::TaskContext,
    in_flight::InFlight,
    rebuild::Mends,
    work_queue::{Done, WorkQueue},
};
use crate::delivery::lanes::Lanes;

/// How often the clock is looked at, at least: it may be set, and the machine may have slept. Much less than the five
/// seconds within which a lane is to be taken up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes up due lanes as far as there is room, and lanes that have to be repaired.
pub(super) fn take_up(context: &TaskContext, in_flight: &mut InFlight) {
    let Some(lanes) = &context.lanes else { return };
    while in_flight.queue.has_room_for_lanes()
        && let Some(key) = lanes.take_due(Utc::now())
    {
        if !context.doubt.puts_off(key) {
            in_flight.queue.push_due(key);
        }
    }
    if let Some(mends) = &mut in_flight.mends {
        while in_flight.queue.has_room_for_mends()
            && let Some((key, mend)) = mends.next()
        {
            in_flight.queue.push_mend(key, mend);
        }
    }
}

/// Takes up lanes before they are due, as far as there is room: the log is about to delete events that they need, which stand up to
/// this place on it.
pub(super) fn take_up_aged(up_to: u64, context: &TaskContext, in_flight: &mut InFlight) {
    let Some(lanes) = &context.lanes else { return };
    for key in lanes.take_older(up_to, in_flight.queue.room()) {
        if !context.doubt.puts_off(key) {
            in_flight.queue.push_due(key);
        }
    }
}

/// A task has ended: a lane is taken up again when it is due the next time.
pub(super) fn finish(done: Done, context: &TaskContext, queue: &mut WorkQueue) {
    if let Some(lanes) = &context.lanes
        && (done.is_released() || done.is_mended() && context.doubt.mended(done.key))
    {
        lanes.release(done.key);
    }
    queue.finish(done);
}

/// The log was read: only these lanes have to be repaired, all others may be taken up.
pub(super) fn begin_mending(mends: Mends, context: &TaskContext, in_flight: &mut InFlight) {
    let free = context.doubt.read(mends.orders().collect());
    if let Some(lanes) = &context.lanes {
        free.into_iter().for_each(|key| lanes.release(key));
    }
    in_flight.mends = Some(mends);
}

/// If all lanes are repaired, records that in `LANES` and with the lease; not while some may be missing.
///
/// # Errors
/// If NATS does not acknowledge.
pub(super) async fn end_mending(
    stage: &'static str,
    context: &TaskContext,
    in_flight: &mut InFlight,
) -> anyhow::Result<()> {
    let is_over = |mends: &mut Mends| mends.is_empty() && context.doubt.is_over();
    if let Some(mends) = in_flight.mends.take_if(is_over)
        && let Some(lanes) = &context.lanes
        && mends.are_all(stage)
    {
        mends.mark(lanes).await?;
        context.tenure.lanes_are_whole();
        context.tenure.at_once.notify_one();
        tracing::info!(stage, "LANES holds every order that waits");
    }
    Ok(())
}

/// Waits until a lane may be due; for ever where a stage has no lanes.
pub(super) async fn wait(lanes: Option<&Lanes>) {
    let Some(lanes) = lanes else {
        return std::future::pending().await;
    };
    let until = lanes
        .first_due()
        .map(|at| (at - Utc::now()).to_std().unwrap_or_default());
    tokio::time::sleep(until.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)).await;
}
