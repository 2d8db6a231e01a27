//! What an instance that takes over a stage must know: which events were handed to the one before it and have no outcome.
//!
//! The server would hand them out again, but only after a while, and newer events of the same orders before. So the instance
//! before left with its lease which events were open and how far it had read (see [`super::progress`]); what came after that
//! is read from the log: events of the stage that the consumer has delivered, and what later events name as their cause.
//! Attempts that were made are on the log, too, and are counted on. Where there is no such floor, as an older hub leaves
//! none, or where it is not about this log, the consumer's acknowledgement floor stands in for it.
//!
//! What is parked is in the lanes. Where `LANES` does not hold what was left there (it was lost or emptied, it is an older copy,
//! lanes came back that had ended: see [`crate::journal::lanes::told`]), the log is read from the oldest event on that was
//! parked, lanes of what has its outcome are ended, and those that are missing are made.
//!
//! Where the log itself went back or is another, other events may stand at the sequences that the lanes name and that were acknowledged,
//! so neither is believed: what the lanes name must be an event of their order, and the log is read from before the common point.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use async_nats::jetstream::consumer;
use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Stage,
    attempt::is_ours,
    floor::{self, Left, is_taken},
    found::Found,
    held::Item,
    names::outcome_of,
    progress::Progress,
    tenure::Tenure,
};
use crate::{
    event::EventId,
    journal::{
        Journal,
        codec::{self, CodecError, Newer, OrderKey},
        connection::Connection,
        identity::{LogState, Mark, Trail, id_of, message_at},
        lanes::{Lane, Lanes, Read},
        lease::note::Floor,
        read::{End, Entry, Reader, event_at},
        streams,
    },
};

/// Lanes that are mended at a time.
const LANES_AT_ONCE: usize = 400;
/// Messages before the end of what is believed to be settled that are read, too, where the log went back: what was acknowledged there
/// may be another event, acknowledged when the log went back, or one whose outcome is lost.
const READ_AGAIN: u64 = 5000;
/// Single events that are read at a time.
const READS_AT_ONCE: usize = 64;

/// What was handed out and not acknowledged, and what is parked.
#[derive(Default)]
pub(super) struct Unsettled {
    /// Without an outcome and not parked, in the log's order.
    pub(super) open: Vec<Item>,
    /// The consumer's number of the last message that it handed to anybody.
    pub(super) handed_out: u64,
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
}

/// Reads it from the log, and mends lanes where they are not as they were left. From then on the stage's progress is told.
pub(super) async fn read<S: Stage>(
    journal: &Journal,
    parked: Option<(&Lanes, Read)>,
    tenure: &Tenure,
) -> anyhow::Result<Unsettled> {
    let (connection, times) = (journal.connection(), journal.connection().times());
    let mut consumer = streams::consumer(connection, super::EVENTS, S::NAME).await?;
    let info = consumer.info().await.context("cannot look up the consumer")?.clone();
    let log = LogState::look(connection).await?;
    let left = floor::left(connection, journal.identity(), log, tenure, S::NAME).await?;
    let acknowledged = believed(info.ack_floor.stream_sequence, &left);
    let check = parked
        .as_ref()
        .and_then(|(_, read)| Check::of::<S>(read, &left, acknowledged));
    let left = match left {
        Left::Floor(floor) if check.is_none() => Some(floor),
        _ => None,
    };
    let has_floor = left.is_some();
    let floor = left.unwrap_or_else(|| floor::acknowledged(log, acknowledged));
    // A consumer that is new beside a log that is not, as on a mirror that was promoted, hands out once more what has its outcome.
    // So all that is there is read as if it had been handed out, and then counts as that up to the last event that was handled.
    let is_new = !has_floor && info.delivered.stream_sequence == 0;
    let delivered = if is_new {
        log.last
    } else {
        info.delivered.stream_sequence
    };
    let mut found = Found {
        settled: floor.settled,
        delivered,
        checks_lanes: check.is_some(),
        ..Found::default()
    };
    let reading = Reading {
        connection,
        log,
        trail: floor.trail.clone(),
    };
    let busy: HashSet<u64> = tenure.at_work().into_iter().flat_map(|busy| busy.events).collect();
    let mut unsettled = Unsettled {
        handed_out: info.delivered.consumer_sequence,
        end: log.last,
        ..Unsettled::default()
    };
    let mut behind = Vec::new();
    if let Some((_, read)) = &parked {
        let heads = read.lanes.iter().filter(|(_, lane)| busy.contains(&lane.head));
        unsettled.elsewhere.extend(heads.map(|(key, lane)| (lane.head, *key)));
    }
    if let Some((check, (lanes, read))) = check.zip(parked.as_ref()) {
        found.in_lanes = read.lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect();
        reading.segment::<S>(&mut found, check.from - 1, log.last).await?;
        if is_new {
            found.leave_to_consumer();
        }
        mend_lanes(lanes, read, &check, &mut found).await?;
    } else {
        if let Some((_, read)) = &parked {
            found.with_lanes = read.lanes.iter().map(|(key, _)| *key).collect();
        }
        reading.open::<S>(&mut found, &floor).await?;
        for (after, last) in segments(&floor, found.delivered, log.last, has_floor) {
            reading.segment::<S>(&mut found, after, last).await?;
        }
        if is_new {
            found.leave_to_consumer();
        }
        if let Some((_, read)) = &parked {
            for (head, id) in reading.ended_in_lanes(&found, read).await? {
                unsettled.ended.insert(id);
                behind.push((head, floor.recorded));
            }
            let parked: HashSet<u64> = read.lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect();
            found.open.retain(|_, open| !parked.contains(&open.sequence));
        }
    }
    unsettled.read = found.read;
    let mut progress = reading.progress(&found, &info.config, &mut unsettled.left).await?;
    take_open(found, &busy, floor.recorded, &mut behind, &mut unsettled);
    behind.extend(unsettled.elsewhere.keys().map(|event| (*event, log.last)));
    behind
        .iter()
        .for_each(|(event, place)| progress.record_behind(*event, *place));
    busy.iter()
        .filter(|event| !unsettled.elsewhere.contains_key(event))
        .for_each(|event| tenure.has_ended(*event));
    tenure.begin(progress, parked.map(|(lanes, _)| lanes.told()), times);
    Ok(unsettled)
}

/// Up to where what the server counts as acknowledged is believed.
fn believed(acknowledged: u64, left: &Left) -> u64 {
    match left {
        Left::OfOther(compared) => {
            let common = compared.common().unwrap_or(acknowledged);
            acknowledged.min(common).saturating_sub(READ_AGAIN)
        }
        _ => acknowledged,
    }
}

/// Sorts what is open into what is to be handled. `behind`: what was recorded about some of it is accounted for later.
fn take_open(
    found: Found,
    busy: &HashSet<u64>,
    recorded: u64,
    behind: &mut Vec<(u64, u64)>,
    unsettled: &mut Unsettled,
) {
    for open in found.open.into_values() {
        let Some(event) = open.event else { continue };
        if busy.contains(&event.sequence) {
            unsettled.elsewhere.insert(event.sequence, open.key);
        }
        if open.parked.is_some() {
            behind.push((event.sequence, recorded));
        }
        unsettled.open.push(Item {
            event,
            requests: open.requests,
            parked: open.parked,
            message: None,
        });
    }
    unsettled.open.sort_unstable_by_key(|item| item.event.sequence);
}

/// Lanes that are not known to be as they were left are compared with the log.
struct Check {
    /// From this place of the log on: no older event is in a lane, or was.
    from: u64,
    /// There may be lanes that are missing.
    makes_lost: bool,
    is_whole: bool,
    /// What they name may be other events than when they were written.
    is_of_other_log: bool,
}

impl Check {
    /// None where the lanes are as they were left.
    fn of<S: Stage>(read: &Read, left: &Left, acknowledged: u64) -> Option<Self> {
        let told = match left {
            Left::Floor(floor) => floor.lanes.map(|told| (floor, told)),
            _ => None,
        };
        let oldest = read.oldest();
        let beyond = acknowledged + 1;
        let check = match told {
            _ if matches!(left, Left::OfOther(_)) => Self {
                from: oldest.unwrap_or(beyond).min(beyond),
                makes_lost: true,
                is_whole: read.is_whole,
                is_of_other_log: true,
            },
            Some((_, told)) if read.is_whole && read.is_as_told(told) => return None,
            // What has come into a lane since then was not settled before.
            Some((floor, told)) => {
                let open = floor.open.iter().map(|(sequence, _)| *sequence).min();
                let first = [told.oldest, open, oldest, Some(floor.settled + 1)];
                Self {
                    from: first.into_iter().flatten().fold(beyond, u64::min),
                    makes_lost: true,
                    is_whole: read.is_whole,
                    is_of_other_log: false,
                }
            }
            None if !read.is_whole => Self {
                from: 1,
                makes_lost: true,
                is_whole: false,
                is_of_other_log: false,
            },
            // As an older hub leaves them: what is there may have ended.
            None => Self {
                from: oldest?.min(beyond),
                makes_lost: false,
                is_whole: true,
                is_of_other_log: false,
            },
        };
        if check.makes_lost {
            tracing::warn!(
                stage = S::NAME,
                from = check.from,
                lanes = read.lanes.len(),
                "LANES is new or was emptied, or does not hold what was left there; what is open is read from the log"
            );
        }
        Some(check)
    }
}

/// Which parts of the log are to be read, each from behind one place up to another: what the consumer handed out beyond the
/// floor, and what was recorded since. They may overlap; between them nothing is of interest, however much it is.
fn segments(floor: &Floor, delivered: u64, last: u64, has_floor: bool) -> Vec<(u64, u64)> {
    let handed_out = (delivered > floor.settled).then_some((floor.settled, delivered));
    match handed_out {
        // Without a floor nothing is known of lanes either, and their outcomes are looked for elsewhere.
        None if !has_floor => Vec::new(),
        None => vec![(floor.recorded, last)],
        Some((settled, delivered)) if floor.recorded <= delivered => vec![(settled.min(floor.recorded), last)],
        Some(handed_out) => vec![handed_out, (floor.recorded, last)],
    }
}

/// The log, read for what is open.
struct Reading<'a> {
    connection: &'a Connection,
    log: LogState,
    /// What was known to stand on it.
    trail: Trail,
}

impl Reading<'_> {
    /// Events that the floor lists.
    async fn open<S: Stage>(&self, found: &mut Found, floor: &Floor) -> anyhow::Result<()> {
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

    async fn segment<S: Stage>(&self, found: &mut Found, after: u64, last: u64) -> anyhow::Result<()> {
        if last <= after {
            return Ok(());
        }
        let end = End {
            sequence: last,
            time: Utc::now(),
        };
        let mut reader = Reader::from(self.connection, after + 1).up_to(end);
        loop {
            let entries = reader.next_batch().await?;
            let Some(newest) = entries.last().map(Entry::sequence) else {
                return Ok(());
            };
            for entry in entries {
                if entry.sequence() <= last {
                    found.note::<S>(entry);
                }
            }
            if newest >= last {
                return Ok(());
            }
        }
    }

    /// Events in lanes that have ended, which their lanes do not say yet.
    async fn ended_in_lanes(&self, found: &Found, read: &Read) -> anyhow::Result<Vec<(u64, EventId)>> {
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

    /// What is known to stand on the log, with its end.
    fn trail(&self, newest: Option<Mark>) -> Trail {
        let mut trail = self.trail.clone();
        newest.into_iter().for_each(|newest| trail.add(newest));
        trail
    }

    /// How far the stage is after all that was found; what is of a newer version is noted in `left`.
    async fn progress(
        &self,
        found: &Found,
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
            // It comes again, and is looked at then.
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

/// Ends lanes, or what is in them, where it has an outcome, and makes those that are missing.
async fn mend_lanes(lanes: &Lanes, read: &Read, check: &Check, found: &mut Found) -> anyhow::Result<()> {
    let now = Utc::now();
    let strange = if check.is_of_other_log {
        found.strange(&read.lanes)
    } else {
        HashSet::new()
    };
    if !strange.is_empty() {
        tracing::error!(
            events = strange.len(),
            "lanes name events that are not on this log; their orders go on without them, and are to be sent again"
        );
    }
    let in_lanes = std::mem::take(&mut found.in_lanes);
    found.open.retain(|_, open| !in_lanes.contains(&open.sequence));
    let mut lost = if check.makes_lost {
        found.lost_lanes(now)
    } else {
        BTreeMap::new()
    };
    if !lost.is_empty() {
        tracing::warn!(orders = lost.len(), "lanes made again from the log");
    }
    let mut mended: Vec<(OrderKey, Option<Lane>)> = Vec::new();
    for (key, lane) in &read.lanes {
        let is_over = |event: u64| found.ended_in_lanes.contains(&event) || strange.contains(&(*key, event));
        let rest = lane.clone().mended(is_over, lost.remove(key), now);
        if rest.as_ref() != Some(lane) {
            mended.push((*key, rest));
        }
    }
    let ended = mended.iter().filter(|(_, lane)| lane.is_none()).count();
    if ended > 0 && !check.is_of_other_log {
        tracing::warn!(
            orders = ended,
            "lanes had come back that had ended; they are ended again"
        );
    }
    mended.extend(lost.into_iter().map(|(key, lane)| (key, Some(lane))));
    stream::iter(mended.iter().map(Ok))
        .try_for_each_concurrent(LANES_AT_ONCE, async |(key, lane)| match lane {
            Some(lane) => lanes.put(*key, lane).await,
            None => lanes.end(*key).await,
        })
        .await?;
    if !check.is_whole {
        lanes.mark_whole().await?;
    }
    Ok(())
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
            // A stage that keeps up.
            (990, 991, 992, true, vec![(990, 1000)]),
            (990, 995, 992, true, vec![(990, 992), (995, 1000)]),
            (990, 980, 992, true, vec![(980, 1000)]),
            // One that is far behind: what waits in between is not read.
            (100, 990, 150, true, vec![(100, 150), (990, 1000)]),
            (150, 990, 150, true, vec![(990, 1000)]),
            // The consumer went back.
            (150, 990, 120, true, vec![(990, 1000)]),
            // No floor but the consumer's.
            (100, 100, 150, false, vec![(100, 1000)]),
            (150, 150, 150, false, vec![]),
        ] {
            let read = segments(&floor(settled, recorded), delivered, 1000, has_floor);
            assert_eq!(read, expected, "{settled} {recorded} {delivered}");
        }
    }
}
