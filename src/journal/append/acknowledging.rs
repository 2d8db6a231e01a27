//! Whether the log acknowledges appends, as far as this instance knows.
//!
//! The connection says little about it: a full stream refuses every append, and a frozen server keeps its connections. So the
//! results of the latest appends count and, where there are none, those of the probes of `super::watch`.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::fill::Fill;
use crate::{journal::streams::restoring, telemetry::metrics::declared::labels::LOG_TROUBLE};

/// For how long appends may be without an acknowledgement before the log counts as not acknowledging. Elections in a
/// cluster and restarts of a server take less, and webhooks wait for those.
const KNOWN_AFTER: Duration = Duration::from_secs(3);
/// How often one append of the doors is let through while the log does not acknowledge.
const TRIAL_EVERY: Duration = Duration::from_secs(1);
/// How long questions alone do not count, after an append was refused or not answered although they found nothing wrong.
const DISTRUST: Duration = Duration::from_secs(30);
/// The same after the appends that found out were not answered again and again: each time it is twice as long, up to this.
const MAX_DISTRUST: Duration = Duration::from_secs(300);
/// How much later than an append a probe must be sent to show that NATS answers while the append waits.
const ASKED_LATER: Duration = Duration::from_secs(2);
/// Added to the size of a payload for the room that a message needs: its subject, headers and the record around it.
const OVERHEAD_BYTES: u64 = 2048;

/// Why the log does not acknowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTrouble {
    /// No probe was sent yet.
    NotAsked,
    /// The connection to NATS does not stand.
    NoConnection,
    /// NATS is there and does not answer.
    NoAnswer,
    /// No stream takes events: JetStream starts or is off, has no leader, or `EVENTS` is missing.
    NoStream,
    /// `EVENTS` is being restored, or that was interrupted: it takes nothing until it is whole.
    Restoring,
    /// The server has no room for an event, in its words.
    NoRoom(String),
    /// NATS answers, but what is sent to it is neither stored nor refused; why, where its health check says it. A stream that could
    /// not write once, as when the disk was full, answers no append until the server is restarted.
    StoresNothing(Option<String>),
}

impl LogTrouble {
    /// Label `reason` of `event_log_trouble`; none before the first probe.
    pub const fn label(&self) -> Option<&'static str> {
        match self {
            Self::NotAsked => None,
            Self::NoConnection => Some("no_connection"),
            Self::NoAnswer => Some("no_answer"),
            Self::NoStream => Some("no_stream"),
            Self::Restoring => Some("restoring"),
            Self::NoRoom(_) => Some("no_room"),
            Self::StoresNothing(_) => Some("stores_nothing"),
        }
    }

    /// Whether it shows by silence, so that later silence may say more about it.
    const fn is_silence(&self) -> bool {
        !matches!(self, Self::NoRoom(_))
    }
}

impl fmt::Display for LogTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("it was not asked yet"),
            Self::NoConnection => f.write_str("there is no connection to NATS"),
            Self::NoAnswer => f.write_str("NATS does not answer"),
            Self::NoStream => f.write_str("JetStream is starting or off, has no leader, or EVENTS is missing"),
            Self::Restoring => write!(
                f,
                "EVENTS is not whole: a restore is under way, or {}",
                restoring::ADVICE
            ),
            Self::NoRoom(reason) => write!(f, "the log refuses: no space: {reason}"),
            Self::StoresNothing(why) => {
                if let Some(why) = why {
                    write!(f, "{why}: ")?;
                }
                f.write_str(
                    "NATS answers but stores nothing, as after its disk was full (or its cluster has no majority): make room on \
                     the disk of its store_dir, then restart NATS, for it does not write again by itself; its log, and /healthz on \
                     its monitoring port, say why",
                )
            }
        }
    }
}

/// Whether the log acknowledges appends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acknowledging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: Mutex<AckState>,
    /// Whether there is no trouble, for those who wait for that.
    up: watch::Sender<bool>,
    fill: Fill,
}

/// The results of the latest appends and probes.
#[derive(Debug)]
struct AckState {
    /// Why the log does not acknowledge; none if it does.
    trouble: Option<LogTrouble>,
    /// Since when something was sent and nothing acknowledged, and what is seen of it.
    unanswered: Option<(Instant, LogTrouble)>,
    /// Since when appends were sent and none was acknowledged or refused.
    appends: Option<Instant>,
    /// A probe that was sent well after that found nothing wrong.
    passed_meanwhile: bool,
    /// How long questions will not be believed the next time.
    distrust: Duration,
    /// When an append was acknowledged last.
    acknowledged: Option<Instant>,
    /// Whether what makes it up is a question rather than an append.
    by_question: bool,
    distrust_until: Option<Instant>,
    next_trial: Option<Instant>,
    /// Bytes that the last refused event needs.
    needs: u64,
}

impl Default for Acknowledging {
    fn default() -> Self {
        Self(Arc::new(Shared {
            known: Mutex::new(AckState::new()),
            up: watch::Sender::new(false),
            fill: Fill::default(),
        }))
    }
}

impl Acknowledging {
    /// Why appends are not acknowledged; none if they are.
    pub fn trouble(&self) -> Option<LogTrouble> {
        self.known(|known, _| known.trouble.clone())
    }

    /// How full the log is.
    pub fn fill(&self) -> &Fill {
        &self.0.fill
    }

    /// When an append was acknowledged last, by any event of this instance.
    pub fn last(&self) -> Option<Instant> {
        self.known(|known, _| known.acknowledged)
    }

    /// Whether an append of a door may wait for the log: always while it acknowledges, else one now and then, to find out.
    ///
    /// # Errors
    /// Why the log does not acknowledge.
    pub(super) fn lets_in(&self) -> Result<(), LogTrouble> {
        self.known(AckState::lets_in)
    }

    /// Waits until the log acknowledges.
    pub(super) async fn wait_up(&self) {
        let mut up = self.0.up.subscribe();
        // It cannot fail: `self` holds the sender.
        let _ = up.wait_for(|up| *up).await;
    }

    /// Something is being sent, or would be if there were a connection.
    pub(super) fn asked(&self, seen: &LogTrouble) {
        self.known(|known, now| known.asked(seen, now));
    }

    /// Appends are being sent.
    pub(super) fn append_sent(&self) {
        self.known(|known, now| {
            known.asked(&LogTrouble::NoAnswer, now);
            known.appends.get_or_insert(now);
        });
    }

    /// The connection to NATS went or came: what was sent before is answered no more, and the server may be another.
    pub(super) fn connection_changed(&self) {
        self.known(|known, _| known.forget_appends());
    }

    /// The only NATS server says by its own health check that it cannot write the log.
    pub fn server_cannot_write(&self, why: &str) {
        self.known(|known, now| known.stores_nothing(Some(why.to_owned()), now));
    }

    /// An append was acknowledged.
    pub(super) fn acknowledged(&self) {
        self.known(AckState::acknowledged);
    }

    /// All appends of a round were answered as duplicates.
    pub(super) fn recognised(&self) {
        self.known(AckState::recognised);
    }

    /// An append of so many bytes was refused, because there is no room or for another reason that is not the event's.
    pub(super) fn refused(&self, reason: &str, payload_bytes: usize) {
        self.known(|known, now| known.refused(reason, payload_bytes, now));
    }

    /// A probe that was sent at that time found nothing wrong.
    pub(super) fn question_passed(&self, asked: Instant) {
        self.known(|known, now| known.question_passed(asked, now));
    }

    /// A question found no room.
    pub(super) fn question_refused(&self, reason: &str) {
        self.known(|known, now| known.set(Some(LogTrouble::NoRoom(reason.to_owned())), now));
    }

    /// A question found that the log is being restored.
    pub(super) fn question_found_restoring(&self) {
        self.known(|known, now| {
            known.unanswered = None;
            known.set(Some(LogTrouble::Restoring), now);
        });
    }

    /// For how long something was sent and nothing answered.
    pub(super) fn silent_for(&self) -> Duration {
        self.known(|known, now| {
            known
                .unanswered
                .as_ref()
                .map_or(Duration::ZERO, |(since, _)| now - *since)
        })
    }

    /// Bytes that must be free before a question can find nothing wrong.
    pub(super) fn needs(&self) -> u64 {
        self.known(|known, _| known.needs)
    }

    fn known<T>(&self, what: impl FnOnce(&mut AckState, Instant) -> T) -> T {
        let mut known: MutexGuard<'_, AckState> = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.look(now);
        let found = what(&mut known, now);
        let is_up = known.trouble.is_none();
        self.0.up.send_if_modified(|up| std::mem::replace(up, is_up) != is_up);
        found
    }
}

impl AckState {
    fn new() -> Self {
        Self {
            trouble: Some(LogTrouble::NotAsked),
            unanswered: None,
            appends: None,
            passed_meanwhile: false,
            distrust: DISTRUST,
            acknowledged: None,
            by_question: true,
            distrust_until: None,
            next_trial: None,
            needs: OVERHEAD_BYTES,
        }
    }

    /// An append or probe that is unanswered for too long is trouble.
    fn look(&mut self, now: Instant) {
        let known_after = crate::fault_injection::time("known_after", KNOWN_AFTER);
        if let Some((since, seen)) = &self.unanswered
            && now.duration_since(*since) >= known_after
            && self.trouble.as_ref().is_none_or(LogTrouble::is_silence)
            && self.trouble.as_ref() != Some(seen)
            // Silence does not replace a reason that came from the server or from an append.
            && self.distrust_until.is_none_or(|until| until <= now)
        {
            let seen = seen.clone();
            self.set(Some(seen), now);
        }
        if self.passed_meanwhile
            && self
                .appends
                .is_some_and(|since| now.duration_since(since) >= known_after)
            && matches!(self.trouble, None | Some(LogTrouble::NotAsked))
        {
            self.stores_nothing(None, now);
        }
    }

    fn stores_nothing(&mut self, why: Option<String>, now: Instant) {
        // While the reason persists, the server reports it again.
        let distrust = if why.is_some() { DISTRUST } else { self.distrust };
        self.distrust_until = Some(now + distrust);
        if why.is_none() {
            self.distrust = (distrust * 2).min(MAX_DISTRUST);
        }
        self.set(Some(LogTrouble::StoresNothing(why)), now);
    }

    fn forget_appends(&mut self) {
        (self.appends, self.passed_meanwhile, self.distrust_until) = (None, false, None);
    }

    fn asked(&mut self, seen: &LogTrouble, now: Instant) {
        match &mut self.unanswered {
            Some((_, known)) => known.clone_from(seen),
            none => *none = Some((now, seen.clone())),
        }
    }

    fn acknowledged(&mut self, now: Instant) {
        (self.unanswered, self.by_question) = (None, false);
        self.forget_appends();
        self.distrust = DISTRUST;
        self.acknowledged = Some(now);
        self.needs = OVERHEAD_BYTES;
        self.set(None, now);
    }

    /// A server recognises an id also when it is full or cannot write. So such an answer ends silence and no other trouble.
    fn recognised(&mut self, now: Instant) {
        use LogTrouble::{NoAnswer, NoConnection, NoStream, NotAsked};
        self.unanswered = None;
        if matches!(self.trouble, None | Some(NotAsked | NoConnection | NoAnswer | NoStream)) {
            self.forget_appends();
            self.set(None, now);
        }
    }

    fn refused(&mut self, reason: &str, payload_bytes: usize, now: Instant) {
        self.unanswered = None;
        (self.appends, self.passed_meanwhile) = (None, false);
        self.needs = payload_bytes as u64 + OVERHEAD_BYTES;
        if self.trouble.is_none() && self.by_question {
            self.distrust_until = Some(now + DISTRUST);
        }
        self.set(Some(LogTrouble::NoRoom(reason.to_owned())), now);
    }

    /// What the questions find does not show whether `EVENTS` stores what is sent: where appends have waited since well before a
    /// question was asked, the question's answer says that NATS is there and the log is not.
    fn question_passed(&mut self, asked: Instant, now: Instant) {
        self.unanswered = None;
        let is_meanwhile = self.appends.is_some_and(|since| asked >= since + ASKED_LATER);
        if is_meanwhile && matches!(self.trouble, None | Some(LogTrouble::NotAsked)) {
            self.passed_meanwhile = true;
            self.look(now);
        } else if self.trouble.is_some() && self.distrust_until.is_none_or(|until| until <= now) {
            self.by_question = true;
            self.forget_appends();
            self.set(None, now);
        }
    }

    fn lets_in(&mut self, now: Instant) -> Result<(), LogTrouble> {
        match &self.trouble {
            // Not known yet: the first answer may come in a moment.
            None | Some(LogTrouble::NotAsked) => Ok(()),
            Some(trouble) if self.next_trial.is_some_and(|next| now < next) => Err(trouble.clone()),
            Some(_) => {
                self.next_trial = Some(now + TRIAL_EVERY);
                Ok(())
            }
        }
    }

    fn set(&mut self, trouble: Option<LogTrouble>, now: Instant) {
        metrics::gauge!("event_log_up").set(if trouble.is_none() { 1.0 } else { 0.0 });
        let label = trouble.as_ref().and_then(LogTrouble::label);
        for one in LOG_TROUBLE {
            metrics::gauge!("event_log_trouble", "reason" => one).set(if label == Some(one) { 1.0 } else { 0.0 });
        }
        match (&self.trouble, &trouble) {
            (Some(_), None) => tracing::info!("the event log acknowledges"),
            (None | Some(LogTrouble::NotAsked), Some(reason)) => {
                tracing::warn!(%reason, "the event log does not acknowledge; webhooks are refused until it does");
                self.next_trial = Some(now + TRIAL_EVERY);
            }
            (Some(before), Some(reason)) if before.label() != reason.label() => {
                tracing::warn!(%reason, "the event log does not acknowledge");
            }
            _ => {}
        }
        self.trouble = trouble;
    }
}

#[cfg(test)]
mod tests;
