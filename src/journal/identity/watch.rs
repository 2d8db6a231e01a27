//! Checks the log for the hub as a whole: whether it is still the same log, and whether a reader is about to lose events that age out unread.
//!
//! The running hub may not change the stream, so it cannot stop the server from deleting old events. It reports what is left: always as a
//! metric, as a warning when a quarter of the time is left, as an error and in health when it is a twentieth. A stage gives up what it
//! could not complete by then, so that its end is on the log and an operator can still retry it. Events that the tables lose
//! all the same are noted in `hub.log_gaps`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::stream;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Compared, LogState, Remembered, compare,
    finding::{self, Finding},
    mark_at, message_at,
};
use crate::{
    event::stage::{PROJECTION, READERS},
    fault_injection,
    journal::{EVENTS, connection::Connection, read::LogReader, streams},
    telemetry::tables::Tables,
};

/// How often it is looked whether the log is the same, beside once after each connection, and what other instances found. It costs three
/// requests.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked who is about to lose something. It costs two requests for each consumer.
const LOSS_EVERY: Duration = Duration::from_secs(30);
/// Pause between two lines about the same.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// The part of `max_age`, or of `max_bytes`, that is left when a warning is logged, and when it is an error.
const SOON: f64 = 0.25;
const NEXT: f64 = 0.05;

/// For how long this hub needs the events of the log.
#[derive(Debug, Clone, Copy)]
pub struct NeededAge {
    /// The time from the first request about an event to the last.
    pub longest_retry: Duration,
    /// `ORDER_MEMORY`.
    pub order_memory: Duration,
}

/// The state of the log's identity. Cheap to clone.
#[derive(Clone)]
pub struct LogIdentity(Arc<Shared>);

struct Shared {
    finding: Mutex<Option<Finding>>,
    /// The readers that are about to lose events, for health.
    risk: Mutex<Option<String>>,
    /// Something was found that the server does not have yet.
    is_new: Notify,
    /// Up to here, events are to be completed by now.
    aged_up_to: AtomicU64,
    /// The oldest event that a stage of this instance has not completed, and when it was appended.
    waiting: Mutex<BTreeMap<&'static str, Waiting>>,
}

/// A place on the log, and when the event there was appended.
type Waiting = (u64, DateTime<Utc>);

impl Default for LogIdentity {
    fn default() -> Self {
        Self(Arc::new(Shared {
            finding: Mutex::default(),
            risk: Mutex::default(),
            is_new: Notify::new(),
            aged_up_to: AtomicU64::new(0),
            waiting: Mutex::default(),
        }))
    }
}

impl LogIdentity {
    /// The last finding of any instance; none if there is none, or if it is too old to be shown.
    pub fn finding(&self) -> Option<Finding> {
        let finding = lock(&self.0.finding).clone();
        finding.filter(|finding| finding.is_shown(Utc::now()))
    }

    /// The reader that is about to lose events of the log; none if there is none.
    pub fn risk(&self) -> Option<String> {
        lock(&self.0.risk).clone()
    }

    /// Notes the oldest event that a stage of this instance has not completed; none if there is none, or the stage is another instance's.
    /// What is parked is acknowledged, so the consumer does not tell of it.
    pub fn waits(&self, stage: &'static str, oldest: Option<(u64, DateTime<Utc>)>) {
        let mut waiting = lock(&self.0.waiting);
        match oldest {
            Some(oldest) => drop(waiting.insert(stage, oldest)),
            None => drop(waiting.remove(stage)),
        }
    }

    /// Whether the event at this place is to be completed now: soon the log deletes it, by the time at which it stored it.
    pub fn is_aged(&self, sequence: u64) -> bool {
        sequence <= self.aged_up_to()
    }

    /// The last place on the log for which that is so, by the last look; 0 if it is for no event.
    pub fn aged_up_to(&self) -> u64 {
        self.0.aged_up_to.load(Ordering::Relaxed)
    }

    /// Waits until that is so.
    pub async fn until_aged(&self, sequence: u64) {
        while !self.is_aged(sequence) {
            tokio::time::sleep(fault_injection::time("loss_every", LOSS_EVERY)).await;
        }
    }

    /// Reports that the position of a reader refers to another log than the current one, and what the reader does about it.
    pub fn report(
        &self,
        by: &'static str,
        compared: Compared,
        remembered: &Remembered,
        log: &LogState,
        consequence: &str,
    ) {
        metrics::counter!("log_identity_changes_total", "by" => by).increment(1);
        let finding = compared.found();
        tracing::error!(
            by,
            finding,
            position = remembered.position,
            common = compared.common(),
            first = log.first,
            last = log.last,
            created = %DateTime::from_timestamp_nanos(log.created),
            advice = Finding::ADVICE,
            "{consequence}"
        );
        let common = compared.common().map_or_else(
            || "no common point is known".to_owned(),
            |common| format!("common up to {common}"),
        );
        *lock(&self.0.finding) = Some(Finding {
            at: Utc::now(),
            by: by.to_owned(),
            what: format!(
                "{finding} ({common}; the position was {}, the log ends at {}); {consequence}",
                remembered.position, log.last
            ),
        });
        self.0.is_new.notify_one();
    }

    /// Takes the finding of another instance, or of this one before it was restarted; gives the server its own where that is newer.
    async fn agree(&self, connection: &Connection) -> anyhow::Result<()> {
        let own = lock(&self.0.finding).clone();
        let agreed = finding::agree(connection, own).await?;
        let mut finding = lock(&self.0.finding);
        // A newer finding may have come meanwhile.
        if agreed.as_ref().map(|one| one.at) > finding.as_ref().map(|one| one.at) {
            *finding = agreed;
        }
        Ok(())
    }

    /// Checks the log until `stop` is cancelled; waits while NATS is away. `tables`: their position, by their own cursor.
    ///
    /// # Errors
    /// Never; as a task of the hub has it.
    pub async fn run(
        self,
        connection: Arc<Connection>,
        tables: Tables,
        needed: NeededAge,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut changes = connection.changes();
        let (mut remembered, mut losses, mut looked_for_losses) = (Remembered::default(), Losses::default(), None);
        loop {
            let look = async {
                connection.wait_up().await;
                if let Err(error) = self.look(&connection, &mut remembered).await {
                    tracing::debug!(error = format!("{error:#}"), "cannot look at the event log");
                }
                if let Err(error) = self.agree(&connection).await {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "cannot read or keep what was found about the event log"
                    );
                }
                let every = fault_injection::time("loss_every", LOSS_EVERY);
                if looked_for_losses.is_none_or(|at: Instant| at.elapsed() >= every) {
                    looked_for_losses = Some(Instant::now());
                    if let Err(error) = self.look_for_losses(&connection, &tables, needed, &mut losses).await {
                        tracing::debug!(error = format!("{error:#}"), "cannot look how far the log is read");
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = look => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = changes.changed() => {}
                () = self.0.is_new.notified() => {}
                () = tokio::time::sleep(fault_injection::time("look_at_identity", LOOK_EVERY)) => {}
            }
        }
    }

    async fn look(&self, connection: &Connection, remembered: &mut Remembered) -> anyhow::Result<()> {
        let log = LogState::look(connection).await?;
        let compared = compare(connection, &log, remembered).await?;
        if !compared.holds() {
            let consequence =
                "webhooks are still accepted; stages, tables and the memory of orders look for the common point";
            self.report("hub", compared, remembered, &log, consequence);
            // Other events have these places now.
            self.0.aged_up_to.store(0, Ordering::Relaxed);
            remembered.trail = compared
                .common()
                .map(|common| remembered.trail.up_to(common))
                .unwrap_or_default();
        } else if compared == Compared::Copy {
            tracing::warn!("{}", compared.found());
        }
        remembered.created = Some(log.created);
        remembered.position = log.last;
        if let Some(mark) = mark_at(connection, log.last).await? {
            remembered.trail.add(mark);
        }
        Ok(())
    }

    async fn look_for_losses(
        &self,
        connection: &Connection,
        tables: &Tables,
        needed: NeededAge,
        losses: &mut Losses,
    ) -> anyhow::Result<()> {
        let stream = connection.context.get_stream(EVENTS).await;
        let stream = stream.context("cannot look up EVENTS")?;
        let info = stream.cached_info();
        self.look_for_aged(connection, info).await?;
        losses.warn_of_retries(needed.longest_retry, info.config.max_age);
        losses.warn_of_memory(needed.order_memory, info.config.max_age);
        let mut worst: Option<(f64, String)> = None;
        for reader in READERS {
            // A deleted consumer is reported elsewhere, and must not hide what other readers are about to lose.
            let Ok(consumer) = streams::consumer(connection, EVENTS, reader).await else {
                continue;
            };
            let handed_out = consumer.cached_info();
            let mut read = handed_out.ack_floor.stream_sequence;
            // The acknowledgement floor stays at the reader's last event, so it ages even if no event waits.
            let mut nothing_waits = handed_out.num_pending == 0 && handed_out.num_ack_pending == 0;
            if reader == PROJECTION {
                // After a restore of the database, the consumer is ahead of the tables' position.
                read = tables.position().map_or(read, |position| position.min(read));
                nothing_waits = false;
            }
            let mut next = (read + 1).max(info.state.first_sequence);
            let mut waits_since = if nothing_waits || next > info.state.last_sequence {
                None
            } else {
                message_at(connection, next)
                    .await?
                    .map(|message| message.time.unix_timestamp())
            };
            let waiting = lock(&self.0.waiting).get(reader).copied();
            if let Some((oldest, time)) = waiting
                && waits_since.is_none_or(|since| time.timestamp() < since)
            {
                (next, waits_since) = (oldest, Some(time.timestamp()));
            }
            let left = seconds_left(info.config.max_age, waits_since, Utc::now().timestamp());
            metrics::gauge!("log_left_seconds", "reader" => reader).set(left);
            let part = left / info.config.max_age.as_secs_f64();
            if part < SOON && worst.as_ref().is_none_or(|(least, _)| part < *least) {
                let what = format!(
                    "{reader} has not completed event {next}, which the log deletes in {left:.0} s (max_age): fix what {reader} waits for, or \
                     raise max_age of EVENTS"
                );
                worst = Some((part, what));
            }
        }
        if let Some((left, part, what)) = bytes_left(info) {
            metrics::gauge!("log_left_bytes").set(left);
            if part < SOON && worst.as_ref().is_none_or(|(least, _)| part < *least) {
                worst = Some((part, what));
            }
        }
        let is_next = worst.as_ref().is_some_and(|(part, _)| *part < NEXT);
        *lock(&self.0.risk) = worst.as_ref().filter(|_| is_next).map(|(_, what)| what.clone());
        losses.tell(worst, is_next);
        Ok(())
    }

    /// Finds the place on the log before which every event is to be completed by now.
    async fn look_for_aged(&self, connection: &Connection, info: &stream::Info) -> anyhow::Result<()> {
        let age = TimeDelta::from_std(info.config.max_age.mul_f64(1.0 - NEXT)).ok();
        let since = age.and_then(|age| Utc::now().checked_sub_signed(age));
        let up_to = match since.filter(|_| !info.config.max_age.is_zero()) {
            None => 0,
            Some(since) => {
                let next = LogReader::since(connection, since).at_most(1).next_batch().await?;
                let last = info.state.last_sequence;
                next.first()
                    .map_or(last, |next| next.sequence().saturating_sub(1).min(last))
            }
        };
        self.0.aged_up_to.store(up_to, Ordering::Relaxed);
        Ok(())
    }
}

/// When a loss was last reported, and whether as an error.
#[derive(Default)]
struct Losses {
    reported: Option<(Instant, bool)>,
    /// The `max_age` for which the retries were last said to be too long.
    too_short: Option<Duration>,
    /// The same for the memory of orders.
    too_short_for_memory: Option<Duration>,
}

impl Losses {
    /// Warns, once for each `max_age`, if orders are given up before their last retry because the log does not keep them for so long.
    fn warn_of_retries(&mut self, longest_retry: Duration, max_age: Duration) -> bool {
        let is_short = !max_age.is_zero() && longest_retry > max_age.mul_f64(1.0 - NEXT);
        if !is_short || self.too_short.replace(max_age) == Some(max_age) {
            return false;
        }
        tracing::warn!(
            longest_retry_days = longest_retry.as_secs() / 86_400,
            max_age_days = max_age.as_secs() / 86_400,
            "RETRY_DELAYS and RETRY_MAX_ATTEMPTS reach beyond max_age of EVENTS: events are given up (EVENT_AGED) before their last retry; \
             choose fewer retries, or a longer max_age"
        );
        true
    }

    /// Warns, once for each `max_age`, if orders are to be recognised for longer than the log keeps them.
    fn warn_of_memory(&mut self, order_memory: Duration, max_age: Duration) -> bool {
        if !is_memory_cut(order_memory, max_age) || self.too_short_for_memory.replace(max_age) == Some(max_age) {
            return false;
        }
        tracing::warn!(
            order_memory_hours = order_memory.as_secs() / 3600,
            max_age_hours = max_age.as_secs() / 3600,
            "ORDER_MEMORY reaches beyond max_age of EVENTS: an order that its provider repeats after max_age is created again; choose a \
             shorter ORDER_MEMORY, or a longer max_age"
        );
        true
    }

    fn tell(&mut self, worst: Option<(f64, String)>, is_next: bool) {
        let Some((part, what)) = worst else {
            self.reported = None;
            return;
        };
        let is_known = self
            .reported
            .is_some_and(|(at, was_next)| at.elapsed() < TELL_EVERY && (was_next || !is_next));
        if is_known {
            return;
        }
        self.reported = Some((Instant::now(), is_next));
        let percent_left = (part * 100.0).max(0.0) as u64;
        if is_next {
            tracing::error!(
                percent_left,
                what,
                "the event log is about to delete what is not read, or to be full"
            );
        } else {
            tracing::warn!(
                percent_left,
                what,
                "the event log will delete what is not read, or be full"
            );
        }
    }
}

/// Whether `ORDER_MEMORY` is longer than the log keeps the orders; 0 keeps them for ever.
pub(crate) fn is_memory_cut(order_memory: Duration, max_age: Duration) -> bool {
    !max_age.is_zero() && order_memory > max_age
}

/// Seconds until the server forgets what waits since then; all of `max_age` where nothing waits, for ever where there is none.
fn seconds_left(max_age: Duration, waits_since: Option<i64>, now: i64) -> f64 {
    if max_age.is_zero() {
        return f64::INFINITY;
    }
    let waits = waits_since.map_or(0, |since| (now - since).max(0));
    max_age.as_secs_f64() - waits as f64
}

/// Bytes until the stream is full, which part of its limit that is, and what happens then; none if it has no limit.
fn bytes_left(info: &stream::Info) -> Option<(f64, f64, String)> {
    let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0)?;
    let left = limit.saturating_sub(info.state.bytes);
    let then = match info.config.discard {
        stream::DiscardPolicy::New => "refuses every event",
        stream::DiscardPolicy::Old => "deletes its oldest events, read or not",
    };
    let what =
        format!("EVENTS has {left} bytes of max_bytes left; after that it {then}: raise max_bytes, or shorten max_age");
    Some((left as f64, left as f64 / limit as f64, what))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_that_of_the_first_unread_event() {
        let day = Duration::from_secs(86_400);
        assert_eq!(seconds_left(Duration::ZERO, Some(0), 1_000_000), f64::INFINITY);
        assert_eq!(seconds_left(day, None, 1_000_000), 86_400.0);
        assert_eq!(seconds_left(day, Some(1_000_000 - 86_000), 1_000_000), 400.0);
        assert_eq!(seconds_left(day, Some(1_000_000 - 90_000), 1_000_000), -3600.0);
        assert_eq!(seconds_left(day, Some(1_000_005), 1_000_000), 86_400.0, "another clock");
    }

    #[test]
    fn events_are_to_be_completed_before_the_log_deletes_them() {
        let identity = LogIdentity::default();
        assert!(!identity.is_aged(1), "it is not known yet how long the log keeps them");
        identity.0.aged_up_to.store(7, Ordering::Relaxed);
        assert!(identity.is_aged(7) && !identity.is_aged(8));
    }

    #[test]
    fn what_is_longer_than_the_log_is_said_once() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let mut losses = Losses::default();
        assert!(!losses.warn_of_retries(days(60), days(90)) && !losses.warn_of_retries(days(60), Duration::ZERO));
        assert!(losses.warn_of_retries(days(60), days(7)) && !losses.warn_of_retries(days(60), days(7)));
        assert!(losses.warn_of_retries(days(60), days(30)));
        assert!(!losses.warn_of_memory(days(2), days(2)) && !losses.warn_of_memory(days(30), Duration::ZERO));
        assert!(losses.warn_of_memory(days(30), days(29)) && !losses.warn_of_memory(days(30), days(29)));
    }

    #[test]
    fn an_error_follows_a_warning_at_once_and_the_same_is_not_repeated() {
        let mut losses = Losses::default();
        let worst = |part: f64| Some((part, String::new()));
        losses.tell(worst(0.2), false);
        let first = losses.reported.unwrap();
        losses.tell(worst(0.1), false);
        assert_eq!(losses.reported.unwrap().0, first.0);
        losses.tell(worst(0.01), true);
        assert!(losses.reported.unwrap().1);
        losses.tell(None, false);
        assert!(losses.reported.is_none());
    }
}
