//! What an instance that takes over a stage finds before it reads the log: the consumer, the note of the previous instance, and
//! whether the lanes are as they were left.

use anyhow::Context as _;
use async_nats::jetstream::consumer;

use super::{
    Stage,
    floor::{self, InheritedFloor},
    rebuild::Check,
    tenure::Tenure,
};
use crate::{
    delivery::{lanes::LanesRead, lease::note::Floor},
    journal::{Journal, connection::Connection, identity::LogState, read::appended_at, streams},
};

/// Messages before the end of what is believed to be settled that are read at once, too, where the log went back: what was acknowledged
/// there may be another event, acknowledged when the log went back, or one with a lost outcome. The messages before them are read while
/// the stage works ([`Check::rest`]).
const READ_AGAIN: u64 = 5000;

/// What the previous instance and the consumer left.
pub(super) struct Inherited {
    pub(super) info: consumer::Info,
    pub(super) log: LogState,
    /// How the lanes differ from what was left; none if they do not.
    pub(super) check: Option<Check>,
    pub(super) floor: Floor,
    pub(super) has_floor: bool,
    /// The consumer is new and the log is old.
    pub(super) is_new: bool,
    /// Events up to this place count as delivered.
    pub(super) delivered: u64,
}

impl Inherited {
    /// Asks NATS for it. `lanes`: those that were read, of a stage that parks.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn look<S: Stage>(
        journal: &Journal,
        lanes: Option<&LanesRead>,
        tenure: &Tenure,
    ) -> anyhow::Result<Self> {
        let connection = journal.connection();
        let mut consumer = streams::consumer(connection, super::EVENTS, S::NAME).await?;
        let info = consumer.info().await.context("cannot look up the consumer")?.clone();
        let log = LogState::look(connection).await?;
        let left = floor::inherited_floor(connection, journal.identity(), log, tenure, S::NAME).await?;
        let acknowledged = believed(info.ack_floor.stream_sequence, &left);
        let may_be_missing = may_have_been_parked(connection, log, &info).await?;
        let check = lanes.and_then(|read| Check::of::<S>(read, &left, acknowledged, may_be_missing));
        // A floor of this log names all open events outside of lanes, so it is used even if the lanes differ.
        let is_of_other_log = check.as_ref().is_some_and(|check| check.is_of_other_log);
        let left = match left {
            InheritedFloor::Floor(floor) if !is_of_other_log => Some(floor),
            _ => None,
        };
        let has_floor = left.is_some();
        let floor = left.unwrap_or_else(|| floor::acknowledged(log, acknowledged));
        // A new consumer on an old log, as on a promoted mirror, delivers events that have an outcome. So the whole log is read as
        // if it had been delivered; then events up to the last handled one count as delivered.
        let is_new = !has_floor && info.delivered.stream_sequence == 0;
        let delivered = if is_new {
            log.last
        } else {
            info.delivered.stream_sequence
        };
        Ok(Self {
            info,
            log,
            check,
            floor,
            has_floor,
            is_new,
            delivered,
        })
    }

    /// The last event of the log that may have been delivered to any client. A consumer that was made anew does not know what was
    /// delivered before.
    pub(super) fn may_have_come(&self) -> u64 {
        if self.has_floor && self.delivered >= self.floor.settled {
            self.delivered
        } else {
            self.log.last
        }
    }
}

/// Whether an event on the log may have been parked. At the first start it cannot: no event was handed out, and none is older than
/// the consumer. On a promoted mirror they are older.
async fn may_have_been_parked(connection: &Connection, log: LogState, info: &consumer::Info) -> anyhow::Result<bool> {
    if info.delivered.stream_sequence > 0 {
        return Ok(true);
    }
    if log.last == 0 || log.first > log.last {
        return Ok(false);
    }
    let oldest = appended_at(connection, log.first).await?;
    let created = info.created.unix_timestamp_nanos();
    Ok(oldest
        .and_then(|oldest| oldest.timestamp_nanos_opt())
        .is_some_and(|oldest| i128::from(oldest) < created))
}

/// Up to where what the server counts as acknowledged is believed.
fn believed(acknowledged: u64, left: &InheritedFloor) -> u64 {
    match left {
        InheritedFloor::OfOther(compared) => {
            let common = compared.common().unwrap_or(acknowledged);
            acknowledged.min(common).saturating_sub(READ_AGAIN)
        }
        _ => acknowledged,
    }
}
