//! Whether the log acknowledges appends, as far as this instance knows.
//!
//! The connection says little about it: a stream that is full answers every append with a refusal, a server that stands
//! still keeps its connections. So what counts is what became of the latest appends and, where there are none, of the
//! questions of `super::watch`.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// For how long appends may be without an acknowledgement before the log counts as not acknowledging. Elections in a
/// cluster and restarts of a server take less, and webhooks wait for those.
const KNOWN_AFTER: Duration = Duration::from_secs(3);
/// How often one append of the doors is let through while the log does not acknowledge.
const TRIAL_EVERY: Duration = Duration::from_secs(1);
/// How long questions alone do not count, after an append was refused although they found nothing wrong.
const DISTRUST: Duration = Duration::from_secs(30);
/// Duplicate window of the log until it was read from the stream: that of `streams/EVENTS.json`.
const DEFAULT_WINDOW: Duration = Duration::from_secs(300);
/// Added to the size of a payload for the room that a message needs: its subject, headers and the record around it.
const OVERHEAD_BYTES: u64 = 2048;

/// Why the log does not acknowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was asked yet.
    NotAsked,
    /// The connection to NATS does not stand.
    NoConnection,
    /// NATS is there and does not answer.
    NoAnswer,
    /// No stream takes events: JetStream starts or is off, has no leader, or `EVENTS` is missing.
    NoStream,
    /// The server has no room for an event, in its words.
    NoRoom(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("it was not asked yet"),
            Self::NoConnection => f.write_str("there is no connection to NATS"),
            Self::NoAnswer => f.write_str("NATS does not answer"),
            Self::NoStream => f.write_str("JetStream is starting or off, has no leader, or EVENTS is missing"),
            Self::NoRoom(reason) => write!(f, "there is no room: {reason}"),
        }
    }
}

/// What is known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acknowledging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    /// Whether there is no trouble, for those who wait for that.
    up: watch::Sender<bool>,
    window: Mutex<Window>,
}

/// For how long the log knows ids.
#[derive(Debug)]
struct Window {
    length: Duration,
    /// What was sent before it may have been forgotten, also where the window was shorter for a while only.
    known_since: Option<Instant>,
}

impl Window {
    /// From when on the log knows what was sent; none where that is before this machine started.
    fn known_since(&self, now: Instant) -> Option<Instant> {
        self.known_since.max(now.checked_sub(self.length))
    }

    fn set(&mut self, length: Duration, now: Instant) {
        self.length = length;
        self.known_since = self.known_since(now);
    }
}

/// What the latest appends and questions found.
#[derive(Debug)]
struct Known {
    /// Why the log does not acknowledge; none where it does.
    trouble: Option<Trouble>,
    /// Since when something was sent and nothing acknowledged, and what is seen of it.
    unanswered: Option<(Instant, Trouble)>,
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
            known: Mutex::new(Known::new()),
            up: watch::Sender::new(false),
            window: Mutex::new(Window {
                length: crate::fault_injection::time("recent_ids", DEFAULT_WINDOW),
                known_since: None,
            }),
        }))
    }
}

impl Acknowledging {
    /// Why appends are not acknowledged; none where they are.
    pub fn trouble(&self) -> Option<Trouble> {
        self.known(|known, _| known.trouble.clone())
    }

    /// When an append was acknowledged last, by any event of this instance.
    pub fn last(&self) -> Option<Instant> {
        self.known(|known, _| known.acknowledged)
    }

    /// From when on the log knows the ids of what was sent (`duplicate_window` of `EVENTS`); none: from the beginning.
    pub(super) fn ids_known_since(&self, now: Instant) -> Option<Instant> {
        self.window().known_since(now)
    }

    pub(super) fn set_window(&self, window: Duration) {
        let length = window.min(crate::fault_injection::time("recent_ids", Duration::MAX));
        self.window().set(length, Instant::now());
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an append of a door may wait for the log: always while it acknowledges, else one now and then, to find out.
    ///
    /// # Errors
    /// Why the log does not acknowledge.
    pub(super) fn lets_in(&self) -> Result<(), Trouble> {
        self.known(Known::lets_in)
    }

    /// Waits until the log acknowledges.
    pub(super) async fn wait_up(&self) {
        let mut up = self.0.up.subscribe();
        // The sender lives as long as this.
        let _ = up.wait_for(|up| *up).await;
    }

    /// Something is being sent, or would be if there were a connection.
    pub(super) fn asked(&self, seen: &Trouble) {
        self.known(|known, now| known.asked(seen, now));
    }

    /// An append was acknowledged.
    pub(super) fn acknowledged(&self) {
        self.known(Known::acknowledged);
    }

    /// An append of so many bytes was refused, because there is no room or for another reason that is not the event's.
    pub(super) fn refused(&self, reason: &str, payload_bytes: usize) {
        self.known(|known, now| known.refused(reason, payload_bytes, now));
    }

    /// A question found nothing wrong.
    pub(super) fn question_passed(&self) {
        self.known(Known::question_passed);
    }

    /// A question found no room.
    pub(super) fn question_refused(&self, reason: &str) {
        self.known(|known, now| known.set(Some(Trouble::NoRoom(reason.to_owned())), now));
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

    fn known<T>(&self, what: impl FnOnce(&mut Known, Instant) -> T) -> T {
        let mut known: MutexGuard<'_, Known> = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.look(now);
        let found = what(&mut known, now);
        let is_up = known.trouble.is_none();
        self.0.up.send_if_modified(|up| std::mem::replace(up, is_up) != is_up);
        found
    }
}

impl Known {
    fn new() -> Self {
        Self {
            trouble: Some(Trouble::NotAsked),
            unanswered: None,
            acknowledged: None,
            by_question: true,
            distrust_until: None,
            next_trial: None,
            needs: OVERHEAD_BYTES,
        }
    }

    /// What is without an answer for long enough is trouble.
    fn look(&mut self, now: Instant) {
        let known_after = crate::fault_injection::time("known_after", KNOWN_AFTER);
        if let Some((since, seen)) = &self.unanswered
            && now.duration_since(*since) >= known_after
            && matches!(self.trouble, None | Some(Trouble::NotAsked))
        {
            let seen = seen.clone();
            self.set(Some(seen), now);
        }
    }

    fn asked(&mut self, seen: &Trouble, now: Instant) {
        match &mut self.unanswered {
            Some((_, known)) => known.clone_from(seen),
            none => *none = Some((now, seen.clone())),
        }
    }

    fn acknowledged(&mut self, now: Instant) {
        (self.unanswered, self.distrust_until, self.by_question) = (None, None, false);
        self.acknowledged = Some(now);
        self.needs = OVERHEAD_BYTES;
        self.set(None, now);
    }

    fn refused(&mut self, reason: &str, payload_bytes: usize, now: Instant) {
        self.unanswered = None;
        self.needs = payload_bytes as u64 + OVERHEAD_BYTES;
        if self.trouble.is_none() && self.by_question {
            self.distrust_until = Some(now + DISTRUST);
        }
        self.set(Some(Trouble::NoRoom(reason.to_owned())), now);
    }

    fn question_passed(&mut self, now: Instant) {
        self.unanswered = None;
        if self.trouble.is_some() && self.distrust_until.is_none_or(|until| until <= now) {
            self.by_question = true;
            self.set(None, now);
        }
    }

    fn lets_in(&mut self, now: Instant) -> Result<(), Trouble> {
        match &self.trouble {
            // Not known yet: it may answer in a moment.
            None | Some(Trouble::NotAsked) => Ok(()),
            Some(trouble) if self.next_trial.is_some_and(|next| now < next) => Err(trouble.clone()),
            Some(_) => {
                self.next_trial = Some(now + TRIAL_EVERY);
                Ok(())
            }
        }
    }

    fn set(&mut self, trouble: Option<Trouble>, now: Instant) {
        metrics::gauge!("event_log_up").set(if trouble.is_none() { 1.0 } else { 0.0 });
        match (&self.trouble, &trouble) {
            (Some(_), None) => tracing::info!("the event log acknowledges"),
            (None | Some(Trouble::NotAsked), Some(reason)) => {
                tracing::warn!(%reason, "the event log does not acknowledge; webhooks are refused until it does");
                self.next_trial = Some(now + TRIAL_EVERY);
            }
            _ => {}
        }
        self.trouble = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn full() -> Option<Trouble> {
        Some(Trouble::NoRoom("maximum bytes exceeded".into()))
    }

    /// Up by an append, at that time.
    fn up(now: Instant) -> Known {
        let mut known = Known::new();
        known.acknowledged(now);
        known
    }

    #[test]
    fn silence_counts_from_the_first_that_has_no_answer() {
        let began = Instant::now();
        let mut known = up(began);
        known.asked(&Trouble::NoAnswer, began);
        known.asked(&Trouble::NoStream, began + 2 * SECOND);
        known.look(began + KNOWN_AFTER - SECOND / 10);
        assert_eq!(known.trouble, None, "a restart of the server takes so long");
        known.look(began + KNOWN_AFTER);
        assert_eq!(known.trouble, Some(Trouble::NoStream));
        known.acknowledged(began + KNOWN_AFTER);
        assert_eq!(known.trouble, None);
        known.look(began + 10 * KNOWN_AFTER);
        assert_eq!(known.trouble, None, "nothing is without an answer");
    }

    #[test]
    fn a_refusal_is_known_at_once_and_one_a_second_finds_out() {
        let began = Instant::now();
        let mut known = up(began);
        known.refused("maximum bytes exceeded", 10, began);
        assert_eq!(known.trouble, full());
        let let_in = |known: &mut Known, at| known.lets_in(at).is_ok();
        assert!(!let_in(&mut known, began), "it was just found out");
        assert!(let_in(&mut known, began + TRIAL_EVERY));
        assert!(!let_in(&mut known, began + TRIAL_EVERY));
        assert!(let_in(&mut known, began + 2 * TRIAL_EVERY));
        known.acknowledged(began + 2 * TRIAL_EVERY);
        assert!((0..3).all(|_| let_in(&mut known, began + 2 * TRIAL_EVERY)));
    }

    #[test]
    fn a_question_that_was_wrong_is_not_believed_for_a_while() {
        let began = Instant::now();
        let mut known = up(began);
        known.refused("maximum bytes exceeded", 10, began);
        known.question_passed(began + SECOND);
        assert_eq!(known.trouble, None);
        known.refused("maximum bytes exceeded", 10, began + 2 * SECOND);
        known.question_passed(began + 3 * SECOND);
        assert_eq!(known.trouble, full());
        known.question_passed(began + 2 * SECOND + DISTRUST);
        assert_eq!(known.trouble, None);
        // An append is believed at any time.
        known.refused("maximum bytes exceeded", 10, began + 3 * SECOND + DISTRUST);
        known.acknowledged(began + 4 * SECOND + DISTRUST);
        assert_eq!(known.trouble, None);
    }

    #[test]
    fn what_a_shorter_window_forgot_is_not_known_again() {
        let began = Instant::now();
        let mut window = Window {
            length: 300 * SECOND,
            known_since: None,
        };
        window.set(300 * SECOND, began + 300 * SECOND);
        assert_eq!(window.known_since(began + 300 * SECOND), Some(began));
        window.set(SECOND, began + 310 * SECOND);
        window.set(300 * SECOND, began + 311 * SECOND);
        assert_eq!(window.known_since(began + 311 * SECOND), Some(began + 309 * SECOND));
        assert_eq!(window.known_since(began + 700 * SECOND), Some(began + 400 * SECOND));
    }

    #[test]
    fn before_the_first_answer_it_is_not_up_and_nobody_is_refused() {
        let began = Instant::now();
        let mut known = Known::new();
        assert_eq!(
            (known.trouble.clone(), known.lets_in(began)),
            (Some(Trouble::NotAsked), Ok(()))
        );
        known.asked(&Trouble::NoConnection, began);
        known.look(began + KNOWN_AFTER);
        assert_eq!(known.lets_in(began + KNOWN_AFTER), Err(Trouble::NoConnection));
    }
}
