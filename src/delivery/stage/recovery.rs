//! What an instance must know when it takes over a stage: which events were delivered to the previous instance and have no
//! outcome.
//!
//! The server would deliver them again, but only after a while, and newer events of the same orders before. So the previous
//! instance stored with its lease which events were open and how far it had read (see [`super::progress`]). What came after
//! that is read from the log: events of the stage that the consumer has delivered, and the causes that later events name.
//! Attempts are on the log, too, and are counted. Without such a floor, as an older hub leaves none, or with one of another
//! log, the consumer's acknowledgement floor is used instead.
//!
//! Parked events are in the lanes. When `LANES` does not hold what was left there (it was lost or emptied, it is an older
//! copy, or ended lanes came back: see [`crate::delivery::lanes::checksum`]), the log is read from the oldest parked event
//! on; lanes of events with an outcome are ended, and missing lanes are created. Meanwhile the stage works on orders that
//! cannot have a lane ([`super::rebuild`]).
//!
//! When the log itself went back or was replaced, other events may be at the sequences that the lanes name and that were
//! acknowledged, so neither is trusted: what a lane names must be an event of its order, and the log is read from before the
//! common point, before anything is handled. An event that was parked at the common point may be much older and may have lost its
//! outcome as well. So the rest of the log is read while the stage works, as when lanes are missing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::consumer;
use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Stage,
    action::is_ours,
    cause_names::outcome_of,
    floor::is_taken,
    inherited::Inherited,
    progress::Progress,
    rebuild::{Check, Mends, Rebuild, report_strange, segment},
    recovery_scan::RecoveryScan,
    tenure::Tenure,
    work_queue::QueuedEvent,
};
use crate::{
    delivery::{
        lanes::{Lane, Lanes, LanesRead, checksum::LanesChecksum},
        lease::note::Floor,
    },
    event::EventId,
    journal::{
        Journal,
        codec::{self, CodecError, Newer, OrderKey},
        connection::Connection,
        identity::{LogState, Mark, Trail, id_of, message_at},
        read::event_at,
    },
};

/// Single events that are read at a time.
const READS_AT_ONCE: usize = 64;

/// The delivered, unacknowledged events, and the parked ones.
#[derive(Default)]
pub(super) struct OpenWork {
    /// Without an outcome and not parked, in the log's order.
    pub(super) open: Vec<QueuedEvent>,
    /// The consumer's number of the last message that it delivered to any client.
    pub(super) handed_out: u64,
    /// The last event of the log that may have been delivered to any client.
    pub(super) delivered: u64,
    /// Events of a newer version that were handed out.
    pub(super) left: Vec<(u64, Newer)>,
    /// Events in lanes that have an outcome, though their lane does not say so; by what outcomes name ([`outcome_of`]).
    pub(super) ended: HashSet<EventId>,
    /// Events that another instance is still asking about, and their orders.
    pub(super) elsewhere: HashMap<u64, OrderKey>,
    /// The end of the log up to which all of this is known.
    pub(super) end: u64,
    /// Messages of the log that were read to find it.
    pub(super) read: usize,
    /// Lanes that were read, and by how many requests.
    pub(super) parked: (usize, u32),
    /// Lanes are made again from the log while the stage works.
    pub(super) rebuild: Option<Rebuild>,
}

impl OpenWork {
    /// What is known before the log is read. `busy`: events that another instance still has requests for.
    fn before_reading(inherited: &Inherited, lanes: Option<&LanesRead>, busy: &HashSet<u64>) -> Self {
        let read = lanes.map_or(&[][..], |read| &read.lanes);
        let heads = read.iter().filter(|(_, lane)| busy.contains(&lane.head));
        Self {
            handed_out: inherited.info.delivered.consumer_sequence,
            delivered: inherited.may_have_come(),
            end: inherited.log.last,
            parked: lanes.map_or((0, 0), |read| (read.lanes.len(), read.requests)),
            elsewhere: heads.map(|(key, lane)| (lane.head, *key)).collect(),
            ..Self::default()
        }
    }
}

/// Reads it from the log, and repairs lanes that differ from what was left. From then on the note has the stage's progress.
pub(super) async fn read<S: Stage>(
    journal: &Journal,
    parked: Option<(&Lanes, LanesRead)>,
    tenure: &Tenure,
) -> anyhow::Result<OpenWork> {
    let (connection, times) = (journal.connection(), journal.connection().times());
    let lanes_read = parked.as_ref().map(|(_, read)| read);
    let inherited = Inherited::look::<S>(journal, lanes_read, tenure).await?;
    let busy: HashSet<u64> = tenure.at_work().into_iter().flat_map(|busy| busy.events).collect();
    let mut open_work = OpenWork::before_reading(&inherited, lanes_read, &busy);
    let Inherited {
        info,
        log,
        check,
        floor,
        has_floor,
        is_new,
        delivered,
    } = inherited;
    let at_once = check.as_ref().filter(|check| check.is_of_other_log || is_new);
    let mut found = RecoveryScan {
        settled: floor.settled,
        delivered,
        checks_lanes: at_once.is_some(),
        is_of_new_consumer: is_new,
        ..RecoveryScan::default()
    };
    let reading = RecoveryReader {
        connection,
        log,
        trail: floor.trail.clone(),
    };
    let (mut behind, mut before, mut later) = (Vec::new(), None, None);
    if let Some((check, (lanes, read))) = at_once.zip(parked.as_ref()) {
        (later, before) = reading.mended::<S>(&mut found, check, (lanes, read)).await?;
    } else {
        let lanes = parked.as_ref().map(|(_, read)| (read, check.is_none()));
        for (head, id) in reading.open_ones::<S>(&mut found, &floor, has_floor, lanes).await? {
            open_work.ended.insert(id);
            behind.push((head, floor.recorded));
        }
    }
    open_work.read = found.read;
    let mut progress = reading.progress(&found, &info.config, &mut open_work.left).await?;
    take_open(found, &busy, floor.recorded, &mut behind, &mut open_work);
    behind.extend(open_work.elsewhere.keys().map(|event| (*event, log.last)));
    behind
        .iter()
        .for_each(|(event, place)| progress.record_behind(*event, *place));
    let is_known = |event: &&u64| open_work.elsewhere.contains_key(event);
    let ended = busy.iter().filter(|event| !is_known(event));
    ended.for_each(|event| tenure.has_ended(*event));
    let (lanes, read) = parked.unzip();
    let in_background = check.filter(|check| !(check.is_of_other_log || is_new));
    let later = later.or_else(|| in_background.zip(read.map(|read| read.lanes)));
    let before = later.as_ref().map_or(before, |(check, _)| Some(check.checksum));
    tenure.begin(progress, (lanes.map(Lanes::checksum), before), times);
    open_work.rebuild = later.map(|(check, lanes)| Rebuild {
        connection: Arc::clone(connection),
        found: RecoveryScan::of_lanes(floor.settled, &lanes),
        check,
        lanes,
        open: floor.open.iter().map(|(sequence, _)| *sequence).collect(),
        log,
    });
    Ok(open_work)
}

/// Mends lanes before anything else is done with them: the log is another one, or the consumer is new. Returns false if this version
/// cannot tell whether some are missing, and the lanes that are open then.
async fn mend_at_once<S: Stage>(
    lanes: &Lanes,
    read: &LanesRead,
    (check, log): (&Check, LogState),
    found: &mut RecoveryScan,
) -> anyhow::Result<(bool, Vec<(OrderKey, Lane)>)> {
    // On another log, none of the events that a lane names is expected; on this one, those before its first event have expired.
    let places = if check.is_of_other_log { 0 } else { log.first }..=u64::MAX;
    let strange = found.strange(&read.lanes, places);
    report_strange(S::NAME, &strange, check.is_of_other_log);
    let over = if check.is_of_other_log {
        found.leave_lanes(&read.lanes)
    } else {
        strange
    };
    let mut mends = Mends::of(found, check, &read.lanes, &over, Utc::now());
    let are_all = mends.are_all(S::NAME);
    let orders: HashSet<OrderKey> = mends.orders().collect();
    let mut open = mends.apply(lanes).await?;
    let untouched = read.lanes.iter().filter(|(key, _)| !orders.contains(key));
    open.extend(untouched.cloned());
    if check.rest(log.first).is_none() {
        mends.mark(lanes).await?;
    }
    Ok((are_all, open))
}

/// Sorts what is open into what is to be handled. `behind`: what was recorded about some of it is accounted for later.
fn take_open(
    found: RecoveryScan,
    busy: &HashSet<u64>,
    recorded: u64,
    behind: &mut Vec<(u64, u64)>,
    open_work: &mut OpenWork,
) {
    for open in found.open.into_values() {
        let Some(event) = open.event else { continue };
        if busy.contains(&event.sequence) {
            open_work.elsewhere.insert(event.sequence, open.key);
        }
        if open.parked.is_some() {
            behind.push((event.sequence, recorded));
        }
        open_work.open.push(QueuedEvent {
            event,
            requests: open.requests,
            parked: open.parked,
            message: None,
        });
    }
    open_work.open.sort_unstable_by_key(|item| item.event.sequence);
}

/// Which parts of the log are to be read, each from behind one place up to another: what the consumer handed out beyond the
/// floor, and what was recorded since. They may overlap; between them nothing is of interest, however much it is.
fn segments(floor: &Floor, delivered: u64, last: u64, has_floor: bool) -> Vec<(u64, u64)> {
    let handed_out = (delivered > floor.settled).then_some((floor.settled, delivered));
    match handed_out {
        // Without a floor nothing is known about lanes either, and their outcomes are read elsewhere.
        None if !has_floor => Vec::new(),
        None => vec![(floor.recorded, last)],
        Some((settled, delivered)) if floor.recorded <= delivered => vec![(settled.min(floor.recorded), last)],
        Some(handed_out) => vec![handed_out, (floor.recorded, last)],
    }
}

/// The log, read for what is open.
struct RecoveryReader<'a> {
    connection: &'a Connection,
    log: LogState,
    /// The known marks of the log.
    trail: Trail,
}

/// Lanes that are compared with the rest of the log while the stage works, and what the instance before had told of them.
type LanesLater = (Option<(Check, Vec<(OrderKey, Lane)>)>, Option<Option<LanesChecksum>>);

impl RecoveryReader<'_> {
    /// Reads the log from where lanes may differ, and mends them before anything else is done.
    async fn mended<S: Stage>(
        &self,
        found: &mut RecoveryScan,
        check: &Check,
        (lanes, read): (&Lanes, &LanesRead),
    ) -> anyhow::Result<LanesLater> {
        found.in_lanes = read.lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect();
        self.segment::<S>(found, check.from - 1, self.log.last).await?;
        if found.is_of_new_consumer {
            found.leave_to_consumer();
        }
        let (are_all, mended) = mend_at_once::<S>(lanes, read, (check, self.log), found).await?;
        let later = check.rest(self.log.first).map(|rest| (rest, mended));
        let before = (!are_all).then(|| Some(LanesChecksum::of_others(check.from)));
        Ok((later, before))
    }

    /// What is open and in no lane. `lanes`: what was read of them, and whether they are as they were left. Returns what has ended
    /// and is in a lane that does not say so.
    async fn open_ones<S: Stage>(
        &self,
        found: &mut RecoveryScan,
        floor: &Floor,
        has_floor: bool,
        lanes: Option<(&LanesRead, bool)>,
    ) -> anyhow::Result<Vec<(u64, EventId)>> {
        if let Some((read, true)) = lanes {
            found.with_lanes = read.lanes.iter().map(|(key, _)| *key).collect();
        }
        self.open::<S>(found, floor).await?;
        for (after, last) in segments(floor, found.delivered, self.log.last, has_floor) {
            self.segment::<S>(found, after, last).await?;
        }
        if found.is_of_new_consumer {
            found.leave_to_consumer();
        }
        let Some((read, _)) = lanes else { return Ok(Vec::new()) };
        let ended = self.ended_in_lanes(found, read).await?;
        // Together with its order: a lane that was written for another log can name any event of this one.
        let in_lane = |(key, lane): &(OrderKey, Lane)| {
            let key = *key;
            lane.sequences().map(move |event| (key, event)).collect::<Vec<_>>()
        };
        let parked: HashSet<(OrderKey, u64)> = read.lanes.iter().flat_map(in_lane).collect();
        found
            .open
            .retain(|_, open| !parked.contains(&(open.key, open.sequence)));
        Ok(ended)
    }

    /// Events that the floor lists.
    async fn open<S: Stage>(&self, found: &mut RecoveryScan, floor: &Floor) -> anyhow::Result<()> {
        let (connection, first) = (self.connection, self.log.first);
        let left: Vec<_> = floor
            .open
            .iter()
            .copied()
            .filter(|(sequence, _)| *sequence >= first)
            .collect();
        let reads = left.into_iter().map(|(sequence, requests)| async move {
            let event = event_at(connection, sequence).await?;
            anyhow::Ok((sequence, requests, event))
        });
        let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
        while let Some((sequence, requests, event)) = reads.try_next().await? {
            found.read += 1;
            match event {
                Some(event) if is_ours::<S>(&event) => found.note_open(event, requests),
                Some(_) => {}
                None => found.unreadable.push(sequence),
            }
        }
        Ok(())
    }

    async fn segment<S: Stage>(&self, found: &mut RecoveryScan, after: u64, last: u64) -> anyhow::Result<()> {
        segment::<S>(self.connection, found, (after, last), Duration::ZERO).await
    }

    /// Events in lanes that have ended, which their lanes do not say yet.
    async fn ended_in_lanes(&self, found: &RecoveryScan, read: &LanesRead) -> anyhow::Result<Vec<(u64, EventId)>> {
        let mut ended = Vec::new();
        for (key, lane) in &read.lanes {
            let Some(names) = found.ended_with_lane.get(key) else {
                continue;
            };
            let mut left = names.len();
            for sequence in lane.sequences() {
                if left == 0 {
                    break;
                }
                let event = event_at(self.connection, sequence).await?;
                let mut of_it = event.as_ref().map(outcome_of).into_iter().flatten();
                if let Some(name) = of_it.find(|name| names.contains(name)) {
                    left -= 1;
                    ended.push((sequence, name));
                }
            }
        }
        Ok(ended)
    }

    /// The known marks of the log, and its end.
    fn trail(&self, newest: Option<Mark>) -> Trail {
        let mut trail = self.trail.clone();
        newest.into_iter().for_each(|newest| trail.add(newest));
        trail
    }

    /// How far the stage is after all that was found; what is of a newer version is noted in `left`.
    async fn progress(
        &self,
        found: &RecoveryScan,
        consumer: &consumer::Config,
        left: &mut Vec<(u64, Newer)>,
    ) -> anyhow::Result<Progress> {
        let newest = message_at(self.connection, self.log.last).await?;
        let mut open: Vec<_> = found
            .open
            .values()
            .filter(|open| open.event.is_some())
            .map(|open| (open.sequence, open.requests))
            .collect();
        for sequence in &found.unreadable {
            let message = message_at(self.connection, *sequence).await?;
            // Such an event is delivered again, and handled then.
            let Some(message) = message.filter(|message| is_taken(consumer, &message.subject)) else {
                continue;
            };
            open.push((*sequence, 0));
            if let Err(CodecError::Newer(newer)) = codec::decode(Some(&message.headers), message.payload, *sequence) {
                left.push((*sequence, newer));
            }
        }
        Ok(Progress::of(Floor {
            created: self.log.created,
            known: newest.as_ref().map_or(0, |newest| newest.sequence),
            known_id: newest.as_ref().map(id_of).unwrap_or_default(),
            trail: self.trail(newest.as_ref().map(Mark::of)),
            recorded: self.log.last,
            settled: found.settled.max(found.delivered),
            open,
            lanes: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(settled: u64, recorded: u64) -> Floor {
        Floor {
            created: 0,
            known: recorded,
            known_id: String::new(),
            trail: Trail::EMPTY,
            recorded,
            settled,
            open: Vec::new(),
            lanes: None,
        }
    }

    #[test]
    fn only_what_is_new_is_read() {
        for (settled, recorded, delivered, has_floor, expected) in [
            // The stage keeps up.
            (990, 991, 992, true, vec![(990, 1000)]),
            (990, 995, 992, true, vec![(990, 992), (995, 1000)]),
            (990, 980, 992, true, vec![(980, 1000)]),
            // The stage is far behind: the waiting events in between are not read.
            (100, 990, 150, true, vec![(100, 150), (990, 1000)]),
            (150, 990, 150, true, vec![(990, 1000)]),
            // The consumer went back to an earlier position.
            (150, 990, 120, true, vec![(990, 1000)]),
            // Without a note only the consumer's floor is known.
            (100, 100, 150, false, vec![(100, 1000)]),
            (150, 150, 150, false, vec![]),
        ] {
            let read = segments(&floor(settled, recorded), delivered, 1000, has_floor);
            assert_eq!(read, expected, "{settled} {recorded} {delivered}");
        }
    }
}
