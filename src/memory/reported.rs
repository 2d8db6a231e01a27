//! Orders of which the provider was told that they are lost.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Orders, lock};
use crate::{
    event::{Envelope, EventType, Recorded, push},
    journal::{
        codec::token,
        read::{Entry, LogReader, Start},
    },
};

/// Most losses that are kept, some 100 bytes each. If there are more, the oldest go.
const MAX_LOSSES: usize = 100_000;
/// How far the clocks of the hub and of the log may be apart.
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// The requests to tell a provider that an order is lost. Pure.
#[derive(Debug)]
pub(super) struct Losses {
    /// By the place of the event that was given up.
    by_cause: BTreeMap<u64, Loss>,
    /// Of what is older, some may be missing.
    complete_since: DateTime<Utc>,
    /// The time of the newest loss that was dropped because there were too many.
    dropped_up_to: DateTime<Utc>,
}

/// One of them.
#[derive(Debug)]
struct Loss {
    order: String,
    time: DateTime<Utc>,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            by_cause: BTreeMap::new(),
            complete_since: DateTime::<Utc>::MAX_UTC,
            dropped_up_to: DateTime::<Utc>::MIN_UTC,
        }
    }
}

impl Losses {
    /// Notes an event. Noting it twice changes nothing.
    pub(super) fn note(&mut self, envelope: &Envelope, payload: &[u8]) {
        if envelope.event_type != EventType::OrderStatusRequested || !push::is_loss(payload) {
            return;
        }
        // Every version that requests it records the cause.
        let Some(cause) = envelope.cause_sequence else { return };
        let (order, time) = (envelope.external_order_id.clone(), envelope.time);
        self.by_cause.insert(cause, Loss { order, time });
        if self.by_cause.len() > MAX_LOSSES
            && let Some((_, gone)) = self.by_cause.pop_first()
        {
            self.dropped_up_to = self.dropped_up_to.max(gone.time);
            self.complete_since = self.complete_since.max(gone.time);
        }
    }

    /// All from a time on was read. What was dropped meanwhile is not known.
    pub(super) fn is_complete_since(&mut self, since: DateTime<Utc>) {
        self.complete_since = since.max(self.dropped_up_to);
    }

    /// Forgets what is older.
    pub(super) fn forget(&mut self, before: DateTime<Utc>) {
        while self
            .by_cause
            .first_entry()
            .is_some_and(|first| first.get().time < before)
        {
            self.by_cause.pop_first();
        }
        self.complete_since = self.complete_since.max(before);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether an event that was given up, which stands at the sequence `cause`, was reported; none if that is not known.
    fn has(&self, given_up: &Envelope, cause: u64) -> Option<bool> {
        let loss = self.by_cause.get(&cause);
        if loss.is_some_and(|loss| loss.order == given_up.external_order_id) {
            return Some(true);
        }
        let is_known = self.complete_since < given_up.received_at - CLOCKS;
        is_known.then_some(false)
    }
}

impl Orders {
    /// Whether the log has the request to tell the provider that the order of an announcement is lost. `cause`: the sequence of the event that
    /// was given up. Of what is older than the memory the log is read, a few at a time.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn was_reported(&self, given_up: &Recorded, cause: u64) -> anyhow::Result<bool> {
        let known = lock(&self.losses).has(&given_up.envelope, cause);
        match known {
            Some(known) => Ok(known),
            None => {
                let _turn = self.losses_are_read.acquire().await?;
                self.is_reported_on_log(given_up, cause).await
            }
        }
    }

    async fn is_reported_on_log(&self, given_up: &Recorded, cause: u64) -> anyhow::Result<bool> {
        let branch = token(given_up.envelope.branch.as_deref().unwrap_or_default());
        let root = EventType::OrderStatusRequested.subject_root();
        let subjects = format!("{root}.{}.{branch}.>", token(&given_up.envelope.provider));
        let mut reader = LogReader::of_subjects(&self.connection, subjects, Start::Sequence(given_up.accepted_at()));
        loop {
            let entries = reader.next_batch_to_end(&self.connection).await?;
            if entries.is_empty() {
                return Ok(false);
            }
            let is_about_it = |entry: &Entry| match entry {
                Entry::Event(told) => {
                    told.envelope.external_order_id == given_up.envelope.external_order_id
                        && told.envelope.cause_sequence.is_none_or(|told| told == cause)
                        && push::is_loss(&told.payload)
                }
                Entry::Unreadable { .. } => false,
            };
            if entries.iter().any(is_about_it) {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_759_320_000_000).unwrap()
    }

    fn given_up(sequence: u64) -> Recorded {
        let order = format!("JE-{sequence}");
        Recorded {
            sequence,
            ..Recorded::sample("just-eat", &order, "order_created", b"{}", now())
        }
    }

    /// The request that the stage makes.
    fn loss_of(given_up: &Recorded) -> NewEvent {
        let end = NewEvent::new(given_up.follow("transform", EventType::OrderDeadLettered, now()), &());
        push::lost(given_up, &end)
    }

    fn note(losses: &mut Losses, loss: &NewEvent) {
        losses.note(&loss.envelope, &loss.payload);
    }

    #[test]
    fn a_loss_is_known_by_the_event_that_was_given_up() {
        let mut losses = Losses::default();
        let (one, other) = (given_up(5), given_up(6));
        let has = |losses: &Losses, event: &Recorded| losses.has(&event.envelope, event.sequence);
        assert_eq!(has(&losses, &one), None, "nothing was read");
        note(&mut losses, &loss_of(&one));
        assert_eq!((has(&losses, &one), has(&losses, &other)), (Some(true), None));
        losses.is_complete_since(now() - TimeDelta::hours(1));
        assert_eq!((has(&losses, &one), has(&losses, &other)), (Some(true), Some(false)));
        // Another status of the order is none.
        let mut ready = loss_of(&other);
        ready.payload = bytes::Bytes::from_static(br#"{"status":"ready"}"#);
        note(&mut losses, &ready);
        assert_eq!(has(&losses, &other), Some(false));
        losses.clear();
        assert_eq!(has(&losses, &one), None);
    }

    /// What is forgotten, by time or by number, is no longer known not to be there.
    #[test]
    fn what_was_forgotten_is_read_again() {
        let mut loss = loss_of(&given_up(5));
        loss.envelope.time = now();
        let given_up_at = |cause: u64| {
            let mut envelope = given_up(5).envelope;
            (envelope.received_at, envelope.cause_sequence) = (now(), Some(cause));
            envelope
        };
        for is_read_before in [true, false] {
            let mut losses = Losses::default();
            let read = |losses: &mut Losses| losses.is_complete_since(now() - TimeDelta::hours(1));
            if is_read_before {
                read(&mut losses);
            }
            for cause in 1..=MAX_LOSSES as u64 + 1 {
                loss.envelope.cause_sequence = Some(cause);
                note(&mut losses, &loss);
            }
            if !is_read_before {
                read(&mut losses);
            }
            assert_eq!(losses.has(&given_up_at(1), 1), None, "it was dropped");
            assert_eq!(losses.has(&given_up_at(2), 2), Some(true));
            assert_eq!(losses.has(&given_up(2).envelope, 2), None, "another order");
        }
        let mut losses = Losses::default();
        losses.is_complete_since(now() - TimeDelta::hours(1));
        loss.envelope.cause_sequence = Some(5);
        note(&mut losses, &loss);
        losses.forget(now() + TimeDelta::hours(1));
        assert_eq!(losses.has(&given_up(5).envelope, 5), None);
    }
}
