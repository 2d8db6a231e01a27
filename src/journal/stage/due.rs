//! Lanes whose time has come: taken up from what the instance knows, whatever else happens.

use std::time::Duration;

use chrono::Utc;

use super::held::{Done, Held};
use crate::journal::lanes::Lanes;

/// How often the clock is looked at, at least: it may be set, and the machine may have slept. Much less than the five
/// seconds within which a lane is to be taken up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes up as many lanes as are due and as there is room for.
pub(super) fn take_up(lanes: Option<&Lanes>, held: &mut Held) {
    let Some(lanes) = lanes else { return };
    while held.has_room_for_lanes()
        && let Some(key) = lanes.take_due(Utc::now())
    {
        held.push_due(key);
    }
}

/// A task has ended: a lane is taken up again when it is due the next time.
pub(super) fn finish(done: Done, lanes: Option<&Lanes>, held: &mut Held) {
    if done.is_released()
        && let Some(lanes) = lanes
    {
        lanes.release(done.key);
    }
    held.finish(done);
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
