//! The memory of orders: earlier orders and webhooks, as the log has them.
//!
//! Every instance reads the log's `orders.>` as it grows and keeps for each webhook where its events are (`index`), for as
//! long as `ORDER_MEMORY` says. Before anything is decided, the event of an entry is read from the log. So the answer is the
//! same on every instance, and no table is used. An instance that works on a stage adds its own appends at once; one that
//! takes a stage over first waits until it has read the log to its end ([`Orders::catch_up`]).
//!
//! ARCHITECTURE.md, "Which order is which", defines an order's identity and its consequences.

mod forgotten;
mod index;
mod log_identity;
mod look;
mod reported;
mod state;
mod taken_up;
mod waiting;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use self::waiting::{EarlierOutcome, OutcomeWait, WebhookOutcome};
pub(crate) use self::{
    index::{EntryState, IndexEntry},
    look::{OrderEvents, Standing},
};
use self::{
    index::{Index, Prints},
    reported::Losses,
    taken_up::TakenUp,
    waiting::{WATCH_EVERY, Waiting},
};
use crate::{
    delivery::superseded::{End, Searches},
    event::{Envelope, EventId, EventType, NewEvent, Recorded, outcome::DeadLettered, stage::FORWARD},
    journal::{
        EVENTS, Journal,
        connection::Connection,
        identity::{Remembered, watch::LogIdentity},
        read::{BATCH, Entry, LogReader, Start, last_of},
    },
};

/// The subjects that are read.
const SUBJECTS: &str = "orders.>";
/// How often the log is checked for new events. Nothing waits for it: code that needs the current state requests it.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Pause after a batch that came with less than the log could bring: under traffic there is always something new, and each
/// reading is a request to the log server.
const GATHER: Duration = Duration::from_millis(100);
/// Entries and bytes of a batch from which on there may be more at once.
const MANY: usize = BATCH / 2;
const MANY_BYTES: usize = 4 * 1024 * 1024;
/// How often it is looked whether the log is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pause after trouble with NATS.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);
/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most own events that are kept until they are read. Only the last of them is compared.
const MAX_AHEAD: usize = 10_000;
/// How often the end of the log is requested while something waits for it.
const CATCH_UP_EVERY: Duration = Duration::from_millis(50);
/// How much longer than the window an entry is kept: an announcement is compared when its turn comes, which may be long after
/// it was accepted where the backend was away.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(24);
/// How long it is waited for: what is read then is what came within the last second.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How many read the log at a time for what the memory does not know. They share one connection with everything else.
const LOSSES_READ_AT_A_TIME: usize = 2;
/// How often it is said that the window is shorter than it should be.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The branch of an order, by its announcements.
#[derive(Debug)]
pub(crate) enum AnnouncedBy {
    /// An order of the branch in question: its last announcement that the backend did not refuse.
    Own(Box<Recorded>),
    /// Only other branches have one of that number.
    Others,
    /// None is known.
    NotAnnounced,
}

/// The memory; see the module.
pub struct Orders {
    connection: Arc<Connection>,
    identity: LogIdentity,
    window: TimeDelta,
    /// How long an entry is kept.
    kept: TimeDelta,
    index: Mutex<Index>,
    taken_up: Mutex<TakenUp>,
    losses: Mutex<Losses>,
    /// How many read the log for losses that are not known.
    losses_are_read: Semaphore,
    /// Sequence up to which the log was read; 0 where nothing was.
    position: watch::Sender<u64>,
    /// The log was read to its end once.
    is_warm: watch::Sender<bool>,
    /// A caller waits for the end of the log.
    wanted: Notify,
    /// Requests that wait for the outcome of their webhook.
    waiting: Waiting,
    /// Where events about orders are that retries asked for.
    searches: Searches,
    /// Which log the memory is of, and what was read of it last.
    log: Mutex<Remembered>,
    /// Held while the log is compared with that.
    comparing: tokio::sync::Mutex<()>,
    /// What this instance appended itself, by sequence, as far as it was not read yet. Nothing else says whether that is still on the
    /// log.
    ahead: Mutex<BTreeMap<u64, EventId>>,
    /// How often the connection had been made when it was seen last that the log is the same.
    compared_at: AtomicU64,
    /// Held while what was read is noted, and while everything is dropped: nothing of a lost log is noted afterwards.
    noting: Mutex<()>,
    /// The log is another one; reading begins anew.
    is_lost: AtomicBool,
    reported_at: Mutex<Option<Instant>>,
}

impl Orders {
    /// Nothing is known until [`Self::run`] runs.
    pub fn new(journal: &Journal, window: Duration) -> Self {
        let (connection, identity) = (Arc::clone(journal.connection()), journal.identity().clone());
        Self {
            identity,
            ..Self::of_log(connection, window)
        }
    }

    /// For a command, which only reads the log.
    pub(crate) fn of_log(connection: Arc<Connection>, window: Duration) -> Self {
        let window = crate::fault_injection::time("order_memory", window);
        // `order_memory` is at most 30 days, so it fits.
        let window = TimeDelta::from_std(window).unwrap_or(LONGEST_WAIT);
        let wait = crate::fault_injection::time("order_memory_wait", LONGEST_WAIT.to_std().unwrap_or_default());
        let kept = window + TimeDelta::from_std(wait).unwrap_or(LONGEST_WAIT);
        Self {
            connection,
            identity: LogIdentity::default(),
            window,
            kept,
            index: Mutex::new(Index::new(kept)),
            taken_up: Mutex::default(),
            losses: Mutex::default(),
            losses_are_read: Semaphore::new(LOSSES_READ_AT_A_TIME),
            position: watch::Sender::new(0),
            is_warm: watch::Sender::new(false),
            wanted: Notify::new(),
            waiting: Waiting::default(),
            searches: Searches::default(),
            log: Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            ahead: Mutex::default(),
            compared_at: AtomicU64::new(0),
            noting: Mutex::default(),
            is_lost: AtomicBool::new(false),
            reported_at: Mutex::new(None),
        }
    }

    /// Follows the log until it is stopped.
    ///
    /// # Errors
    /// Never; a NATS that is away is waited for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let followed = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                followed = self.follow() => followed,
            };
            if let Err(error) = followed {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot read what is known of orders, trying again"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PAUSE_AFTER_TROUBLE) => {}
            }
        }
    }

    /// Waits until the log was read to its end once: an instance that just started must not take a stage from others that
    /// know more.
    pub async fn warm(&self) {
        // It cannot fail: `self` holds the sender.
        let _ = self.is_warm.subscribe().wait_for(|warm| *warm).await;
    }

    /// Waits until all is known that is on the log now.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn catch_up(&self) -> anyhow::Result<()> {
        self.look_at_log().await?;
        let last = last_of(&self.connection, EVENTS, SUBJECTS, ANSWER_TIMEOUT).await?;
        // What is older is not read: it says nothing of today's orders.
        let since = i128::from((Utc::now() - self.kept).timestamp_micros()) * 1000;
        let last = last.filter(|message| message.time.unix_timestamp_nanos() >= since);
        let end = last.map_or(0, |message| message.sequence);
        let (mut position, began) = (self.position.subscribe(), Instant::now());
        while began.elapsed() < CATCH_UP_TIMEOUT {
            self.wanted.notify_one();
            let reached = position.wait_for(|position| *position >= end);
            // A copy of the log may be behind its leader, so the end is requested again.
            if tokio::time::timeout(CATCH_UP_EVERY, reached).await.is_ok() {
                return Ok(());
            }
        }
        bail!("the event log was not read to its end in time, so it is not known which orders were there before")
    }

    async fn follow(&self) -> anyhow::Result<()> {
        self.connection.wait_up().await;
        self.look_at_log().await?;
        self.is_lost.store(false, Ordering::Relaxed);
        let since = Utc::now() - self.kept;
        // Set when everything was read, which an earlier reading may not have come to.
        let mut complete_since = (self.index().complete_since == DateTime::<Utc>::MAX_UTC).then_some(since);
        let start = match *self.position.borrow() {
            0 => Start::Time(since),
            position => Start::Sequence(position + 1),
        };
        let mut reader = LogReader::of_subjects(&self.connection, SUBJECTS, start);
        let follow_every = crate::fault_injection::time("order_memory_follow", FOLLOW_EVERY);
        let gather = crate::fault_injection::time("order_memory_gather", GATHER);
        let (mut looked, began) = (Instant::now(), Instant::now());
        if !*self.is_warm.borrow() {
            metrics::gauge!("order_memory_warm").set(0.0);
            tracing::info!(
                window_hours = self.kept.num_hours(),
                "reading the event log for known orders; this instance takes no stage over before"
            );
        }
        while !self.is_lost.load(Ordering::Relaxed) {
            let entries = reader.next_batch().await?;
            if self.connection.times() != self.compared_at.load(Ordering::Relaxed) {
                // The entries came over a new connection, so they may be of another log.
                self.look_at_log().await?;
                if self.is_lost.load(Ordering::Relaxed) {
                    break;
                }
            }
            let has_all = !is_full(&entries);
            let complete = if has_all { complete_since.take() } else { None };
            if !self.note_read(&entries, &reader, complete) {
                break;
            }
            if !has_all {
                continue;
            }
            self.has_read_all(began);
            if looked.elapsed() > LOOK_EVERY {
                self.look_at_log().await?;
                looked = Instant::now();
            }
            let pause = match self.waiting.is_any() {
                true => WATCH_EVERY,
                false if entries.is_empty() => follow_every,
                false => gather,
            };
            let _ = tokio::time::timeout(pause, self.wanted.notified()).await;
        }
        Ok(())
    }

    /// Notes what was read, the new position, and since when all is known with it. False if the log was lost meanwhile: then
    /// nothing is noted.
    fn note_read(&self, entries: &[Entry], reader: &LogReader, complete: Option<DateTime<Utc>>) -> bool {
        let _noting = lock(&self.noting);
        if self.is_lost.load(Ordering::Relaxed) {
            return false;
        }
        for entry in entries {
            if let Entry::Event(event) = entry {
                self.note(&event.envelope, &event.payload, event.sequence);
            }
        }
        if let Some(since) = complete {
            self.index().is_complete_since(since);
            lock(&self.losses).is_complete_since(since);
        }
        if let Some(last) = entries.last() {
            self.position.send_modify(|position| {
                *position = last.sequence();
                let mut log = lock(&self.log);
                log.position = *position;
                reader.mark().into_iter().for_each(|mark| log.trail.add(mark));
            });
        }
        true
    }

    /// The log was read to its end, which it was for the first time since `began`, or again.
    fn has_read_all(&self, began: Instant) {
        if self.is_warm.send_if_modified(|warm| !std::mem::replace(warm, true)) {
            metrics::gauge!("order_memory_warm").set(1.0);
            let (entries, took_ms) = (self.index().count(), began.elapsed().as_millis() as u64);
            tracing::info!(entries, took_ms, "known orders were read; stages can be taken over");
        }
        let read = *self.position.borrow();
        lock(&self.ahead).retain(|sequence, _| *sequence > read);
        self.tidy();
    }

    fn tidy(&self) {
        let now = Utc::now();
        lock(&self.losses).forget(now - self.kept);
        let mut index = lock(&self.index);
        index.forget(now);
        metrics::gauge!("order_memory_entries").set(index.count() as f64);
        let back = index.reaches_back_to().map_or(TimeDelta::zero(), |oldest| now - oldest);
        metrics::gauge!("order_memory_reach_seconds").set(back.num_seconds().max(0) as f64);
    }

    /// Notes an event that this instance appended, before it is read from the log.
    pub(crate) fn note_own(&self, event: &NewEvent, sequence: u64) {
        let mut ahead = lock(&self.ahead);
        if sequence > *self.position.borrow() {
            ahead.insert(sequence, event.envelope.id);
            if ahead.len() > MAX_AHEAD {
                ahead.pop_first();
            }
        }
        drop(ahead);
        self.note(&event.envelope, &event.payload, sequence);
    }

    /// Notes a body, or a request to take one up again, that a stage received, before it is read from the log.
    pub(crate) fn note_arrived(&self, event: &Recorded) {
        if [EventType::OrderTransformed, EventType::OrderRetryRequested].contains(&event.envelope.event_type) {
            self.note(&event.envelope, &event.payload, event.sequence);
        }
    }

    /// Notes an event that is on the log. Noting it twice changes nothing.
    fn note(&self, envelope: &Envelope, payload: &[u8], sequence: u64) {
        if envelope.event_type.is_for_provider() {
            lock(&self.losses).note(envelope, payload);
            return;
        }
        lock(&self.taken_up).note(envelope, payload, sequence);
        if !settle(&mut self.index(), envelope, payload, sequence) {
            self.tell_short();
        }
        self.waiting.note(envelope, payload);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn tell_short(&self) {
        let mut reported_at = lock(&self.reported_at);
        if reported_at.is_none_or(|at| at.elapsed() > TELL_EVERY) {
            *reported_at = Some(Instant::now());
            tracing::warn!(
                entries = index::MAX_ENTRIES,
                "more orders than are remembered came within ORDER_MEMORY; the oldest are forgotten before their time"
            );
        }
    }
}

/// Whether the log may have brought less than it has: then it is read on at once.
fn is_full(entries: &[Entry]) -> bool {
    entries.len() >= MANY || entries.iter().map(Entry::payload_bytes).sum::<usize>() >= MANY_BYTES
}

/// What an event means for the index.
enum Noted {
    Nothing,
    /// There is such an event at this place.
    Place(EntryState),
    /// Its cause, if that is a body, has this state.
    Ignored(Option<u64>, EntryState),
    /// The announcement at this sequence was given up without a request of its own.
    Unposted(u64),
    /// What it is about has this state; none if an older version did not say what that is.
    Outcome(Option<u64>, EntryState),
}

/// Notes an event in an index. False if older entries had to go before their time.
fn settle(index: &mut Index, envelope: &Envelope, payload: &[u8], sequence: u64) -> bool {
    let prints = index.prints_of(envelope);
    let mut is_whole = true;
    match noted(envelope, payload, sequence) {
        Noted::Nothing => {}
        Noted::Place(state) => is_whole = index.put(prints, sequence, state, envelope.time),
        // If the ignored event is a body, `forward` ignored it; otherwise `transform` did.
        Noted::Ignored(cause, state) => {
            let is_body = cause.is_some_and(|cause| index.settle(prints.order, cause, state));
            if !is_body {
                is_whole = index.put(prints, sequence, EntryState::Ended, envelope.time);
            }
        }
        Noted::Unposted(cause) => {
            if !index.settle_unposted(prints.order, cause) {
                is_whole = index.put(prints, cause, EntryState::CreationRefused, envelope.time);
            }
        }
        Noted::Outcome(cause, state) => {
            if state == EntryState::CreationForwarded {
                is_whole = index.put(prints, sequence, EntryState::Created, envelope.time);
            }
            let cause = cause.or_else(|| cause_of(index, prints, sequence));
            if let Some(cause) = cause
                && !index.settle(prints.order, cause, state)
            {
                is_whole &= index.put(prints, cause, state, envelope.time);
            }
        }
    }
    is_whole
}

/// The state of a body without an outcome.
fn body_state(envelope: &Envelope) -> EntryState {
    if envelope.is_creation() {
        EntryState::Creation
    } else {
        EntryState::NewsOpen
    }
}

fn noted(envelope: &Envelope, payload: &[u8], sequence: u64) -> Noted {
    let (is_creation, cause) = (envelope.is_creation(), envelope.cause_sequence);
    let state = || End::of(envelope, payload).map(|end| EntryState::of(end, is_creation));
    match envelope.event_type {
        EventType::OrderTransformed => Noted::Place(body_state(envelope)),
        EventType::OrderRejected | EventType::OrderFetchRequested => Noted::Place(EntryState::Ended),
        EventType::OrderIgnored => {
            let left_out = EntryState::of(End::LeftOut, is_creation);
            Noted::Ignored(cause, state().unwrap_or(left_out))
        }
        EventType::OrderForwarded => {
            // Only a new order's can be unreadable for want of what counts here.
            let told = EntryState::of(if is_creation { End::Created } else { End::Told }, is_creation);
            Noted::Outcome(cause, state().unwrap_or(told))
        }
        EventType::OrderDeadLettered => match serde_json::from_slice::<DeadLettered>(payload) {
            Ok(dead) if dead.stage == FORWARD.name && is_creation && dead.is_unposted() && dead.sequence < sequence => {
                Noted::Unposted(dead.sequence)
            }
            Ok(dead) if dead.stage == FORWARD.name => {
                let refused = EntryState::of(End::Refused, is_creation);
                let cause = Some(dead.sequence).filter(|cause| *cause < sequence);
                Noted::Outcome(cause, state().unwrap_or(refused))
            }
            _ => Noted::Place(EntryState::Ended),
        },
        _ => Noted::Nothing,
    }
}

/// What an outcome of an older version, which does not say it, is about: the first of the webhook's events that has none.
fn cause_of(index: &mut Index, prints: Prints, outcome: u64) -> Option<u64> {
    let found = index.of(prints.order);
    let mut of_webhook = found
        .iter()
        .filter(|found| found.webhook == prints.webhook && found.sequence < outcome);
    let open = of_webhook.clone().find(|found| found.state.is_open());
    open.or_else(|| of_webhook.rfind(|found| !matches!(found.state, EntryState::Created | EntryState::Ended)))
        .map(|found| found.sequence)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
