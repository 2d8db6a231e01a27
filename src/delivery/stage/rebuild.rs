//! Compares lanes that differ from what was left with the log, and rebuilds them from it.
//!
//! That takes as long as reading the relevant part of the log, which may be all of it. Meanwhile the stage works on the
//! orders that cannot have a lane (see [`super::doubt`]). Until the end the lease keeps the checksum of before, so an
//! instance that takes over in between compares the lanes again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Stage, floor::InheritedFloor, recovery_scan::RecoveryScan, work_queue::MAX_MENDS};
use crate::{
    delivery::lanes::{Lane, Lanes, LanesRead, checksum::LanesChecksum},
    fault_injection::time,
    journal::{
        codec::OrderKey,
        connection::Connection,
        identity::LogState,
        read::{End, Entry, LogReader},
    },
};

/// How lanes are compared with the log.
pub(super) struct Check {
    /// From this place of the log on: no older event is in a lane, or was.
    pub(super) from: u64,
    /// There may be lanes that are missing.
    pub(super) makes_lost: bool,
    pub(super) is_whole: bool,
    /// Whether the lanes may name other events than when they were written.
    pub(super) is_of_other_log: bool,
    /// The checksum of lanes that the lease keeps until they are repaired.
    pub(super) checksum: Option<LanesChecksum>,
}

impl Check {
    /// None if the lanes are as they were left. `may_be_missing` says that an event may have been in a lane, which is then reported.
    pub(super) fn of<S: Stage>(
        read: &LanesRead,
        left: &InheritedFloor,
        acknowledged: u64,
        may_be_missing: bool,
    ) -> Option<Self> {
        let checksum = match left {
            InheritedFloor::Floor(floor) => floor.lanes.map(|checksum| (floor, checksum)),
            _ => None,
        };
        let oldest = read.oldest();
        let beyond = acknowledged + 1;
        let check = Self {
            from: 1,
            makes_lost: true,
            is_whole: read.is_whole,
            is_of_other_log: false,
            checksum: None,
        };
        let check = match checksum {
            _ if matches!(left, InheritedFloor::OfOther(_)) => Self {
                from: oldest.unwrap_or(beyond).min(beyond),
                is_of_other_log: true,
                ..check
            },
            Some((_, checksum)) if read.is_whole && read.matches_checksum(checksum) => return None,
            // Events that joined a lane since then were not settled at that time.
            Some((floor, checksum)) => {
                let open = floor.open.iter().map(|(sequence, _)| *sequence).min();
                let first = [checksum.oldest, open, oldest, Some(floor.settled + 1)];
                let from = first.into_iter().flatten().fold(beyond, u64::min);
                let oldest = Some(from);
                Self {
                    from,
                    checksum: Some(LanesChecksum { oldest, ..checksum }),
                    ..check
                }
            }
            None if !read.is_whole => check,
            // An older hub leaves no checksum, so the events of existing lanes may have ended.
            None => Self {
                from: oldest?.min(beyond),
                makes_lost: false,
                ..check
            },
        };
        if check.makes_lost && may_be_missing {
            tracing::warn!(
                stage = S::NAME,
                from = check.from,
                lanes = read.lanes.len(),
                "LANES is new or was emptied, or does not hold what was left there; what is open is read from the log"
            );
        }
        Some(check)
    }

    /// What is to be compared once lanes are as the part of the log says that was read at once: an event before that part may have lost
    /// its outcome with the log of before, however old it is. `first`: the log's first event. None if the whole log was read.
    pub(super) fn rest(&self, first: u64) -> Option<Self> {
        let from = first.max(1);
        (self.is_of_other_log && self.from > from).then_some(Self {
            from,
            makes_lost: true,
            is_whole: self.is_whole,
            is_of_other_log: false,
            checksum: Some(LanesChecksum::of_others(from)),
        })
    }
}

/// The events that a lane lacks, and those in it that have ended.
pub(super) struct Mend {
    over: HashSet<u64>,
    missing: Option<Lane>,
}

/// All of them.
pub(super) struct Mends {
    queue: VecDeque<(OrderKey, Mend)>,
    /// `LANES` does not say yet that it holds every lane.
    marks: bool,
    /// Events of a newer version that may have been parked: for those no lane could be made.
    newer: u64,
}

impl Mends {
    /// By what was found on the log. `strange`: what lanes name that is not on it.
    pub(super) fn of(
        found: &mut RecoveryScan,
        check: &Check,
        lanes: &[(OrderKey, Lane)],
        strange: &HashSet<(OrderKey, u64)>,
        now: DateTime<Utc>,
    ) -> Self {
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
        let mut queue = VecDeque::new();
        let mut ended = 0;
        for (key, lane) in lanes {
            let is_over = |event: &u64| found.ended_in_lanes.contains(event) || strange.contains(&(*key, *event));
            let over: HashSet<u64> = lane.sequences().filter(is_over).collect();
            let missing = lost.remove(key);
            if missing.is_none() && lane.sequences().all(|event| over.contains(&event)) {
                ended += 1;
            }
            if missing.is_some() || !over.is_empty() {
                queue.push_back((*key, Mend { over, missing }));
            }
        }
        if ended > 0 && !check.is_of_other_log {
            tracing::warn!(orders = ended, "ended lanes had come back; they are ended again");
        }
        let missing = lost.into_iter().map(|(key, lane)| {
            let (over, missing) = (HashSet::new(), Some(lane));
            (key, Mend { over, missing })
        });
        queue.extend(missing);
        Self {
            queue,
            marks: !check.is_whole,
            newer: if check.makes_lost { found.newer } else { 0 },
        }
    }

    /// Whether every lane exists once all are repaired. Logs if events of a newer version may be missing.
    pub(super) fn are_all(&self, stage: &'static str) -> bool {
        if self.newer > 0 {
            tracing::warn!(
                stage,
                events = self.newer,
                "LANES may lack orders that wait: events of a newer version cannot be read; an instance of that version reads \
                 the log again when it takes the stage over"
            );
        }
        self.newer == 0
    }

    /// The orders with lanes that have to be repaired.
    pub(super) fn orders(&self) -> impl Iterator<Item = OrderKey> {
        self.queue.iter().map(|(key, _)| *key)
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<(OrderKey, Mend)> {
        self.queue.pop_front()
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Says in `LANES` that it holds every lane, where it does not and that is known.
    ///
    /// # Errors
    /// If NATS does not acknowledge.
    pub(super) async fn mark(&self, lanes: &Lanes) -> anyhow::Result<()> {
        if self.marks && self.newer == 0 {
            lanes.mark_whole().await?;
        }
        Ok(())
    }

    /// Mends all of them at once, where nothing else is done with the lanes. Returns those that were mended and are still open.
    ///
    /// # Errors
    /// The same as [`mend`].
    pub(super) async fn apply(&mut self, lanes: &Lanes) -> anyhow::Result<Vec<(OrderKey, Lane)>> {
        let queue = std::mem::take(&mut self.queue);
        let mends = queue
            .into_iter()
            .map(|(key, one)| async move { anyhow::Ok(mend(lanes, key, one).await?.map(|lane| (key, lane))) });
        let mended = stream::iter(mends).buffer_unordered(MAX_MENDS);
        mended.try_filter_map(async |lane| Ok(lane)).try_collect().await
    }
}

/// Logs that lanes name events that are not on this log, or belong to another order there.
pub(super) fn report_strange(stage: &'static str, strange: &HashSet<(OrderKey, u64)>, is_of_other_log: bool) {
    let events = strange.len();
    if events == 0 {
        return;
    }
    if is_of_other_log {
        tracing::error!(
            stage,
            events,
            "lanes name events that are not on this log; their orders go on without them, and are to be sent again"
        );
    } else {
        // Reported as lost when the log became this one.
        tracing::warn!(
            stage,
            events,
            "lanes name events that are not on this log: lanes of an earlier one had come back; they are ended again"
        );
    }
}

/// Mends an order's lane as it is now: events may have joined it since it was read. Returns the lane if it is still open.
///
/// # Errors
/// If NATS does not answer, or another writer writes the lane.
pub(super) async fn mend(lanes: &Lanes, key: OrderKey, mend: Mend) -> anyhow::Result<Option<Lane>> {
    let lane = lanes.get(key).await?;
    let is_over = |event: u64| mend.over.contains(&event);
    let mended = match lane.clone() {
        Some(lane) => lane.mended(is_over, mend.missing, Utc::now()),
        None => mend.missing,
    };
    match &mended {
        Some(mended) if lane.as_ref() == Some(mended) => {}
        Some(mended) => {
            lanes.put(key, mended).await?;
            // Another order may have joined it meanwhile, for which the head must not wait.
            if !mended.waiting.is_empty() {
                lanes.look_at(key);
            }
        }
        None => lanes.end(key).await?,
    }
    Ok(mended)
}

/// The reading that remains while the stage works.
pub(super) struct Rebuild {
    pub(super) connection: Arc<Connection>,
    pub(super) found: RecoveryScan,
    pub(super) check: Check,
    pub(super) lanes: Vec<(OrderKey, Lane)>,
    /// Events below the floor that are open and in no lane: they are handled by themselves.
    pub(super) open: HashSet<u64>,
    /// The log, which is read up to the end that it has here.
    pub(super) log: LogState,
}

impl Rebuild {
    /// Orders that have a lane which may not be as it should be.
    pub(super) fn orders(&self) -> HashSet<OrderKey> {
        self.lanes.iter().map(|(key, _)| *key).collect()
    }

    /// Reads the log; returns how the lanes have to be repaired.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn read<S: Stage>(self) -> anyhow::Result<Mends> {
        let began = Instant::now();
        let Self {
            connection,
            mut found,
            check,
            lanes,
            open,
            log,
        } = self;
        let pause = time(&format!("{}_rebuild_pause", S::NAME), Duration::ZERO);
        segment::<S>(&connection, &mut found, (check.from - 1, log.last), pause).await?;
        found.open.retain(|_, one| !open.contains(&one.sequence));
        // Events that have expired, or that were appended beyond the end meanwhile, are checked when the lane is due.
        let strange = found.strange(&lanes, log.first..=log.last);
        report_strange(S::NAME, &strange, check.is_of_other_log);
        let mends = Mends::of(&mut found, &check, &lanes, &strange, Utc::now());
        tracing::info!(
            stage = S::NAME,
            read = found.read,
            orders = mends.queue.len(),
            took_ms = began.elapsed().as_millis() as u64,
            "the log was read for lanes; the stage worked meanwhile on orders that have none"
        );
        Ok(mends)
    }
}

/// Reads a part of the log: from behind the first place up to the second. `pause`: between two batches.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn segment<S: Stage>(
    connection: &Connection,
    found: &mut RecoveryScan,
    (after, last): (u64, u64),
    pause: Duration,
) -> anyhow::Result<()> {
    if last <= after {
        return Ok(());
    }
    let end = End {
        sequence: last,
        time: Utc::now(),
    };
    let mut reader = LogReader::from(connection, after + 1).up_to(end);
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
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if newest >= last {
            return Ok(());
        }
    }
}
