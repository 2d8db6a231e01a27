//! Puts what follows from an event onto the log, as often as it takes, and not a second time.

use std::time::Instant;

use super::{
    PAUSE_AFTER_TROUBLE, Stage, Worker,
    attempt::{Attempted, TaskContext},
    log_lines,
};
use crate::{
    delivery::lease::Validity,
    event::{Envelope, EventId, EventType, NewEvent},
    fault_injection::crash_stage_at,
    journal::{
        Appended, codec,
        read::{self, Entry, LogReader, Start},
    },
};

/// Where an event is on the log.
struct OnLog {
    /// Its id there, which may be that of [`own_id`].
    id: EventId,
    appended: Appended,
    /// It is of the type that was to be appended.
    is_same: bool,
}

impl<S: Stage> Worker<S> {
    /// Records how an event ended.
    pub(super) async fn record_end(
        &self,
        context: &TaskContext,
        about: u64,
        events: Vec<NewEvent>,
    ) -> anyhow::Result<Attempted> {
        crash_stage_at(S::NAME, "after_request");
        let recorded = self.record(context, about, events).await;
        crash_stage_at(S::NAME, "after_outcome");
        Ok(if recorded { Attempted::Ended } else { Attempted::Stopped })
    }

    /// Appends what follows from the event at the sequence `about`, as often as it takes. False if the hub goes down
    /// before it is on the log: then the message is not acknowledged and is taken up again.
    pub(super) async fn record(&self, context: &TaskContext, about: u64, events: Vec<NewEvent>) -> bool {
        let tenure = &context.tenure;
        tenure.progress(|progress| progress.record(about));
        let Some(end) = events.last().map(|end| end.envelope.clone()) else {
            return true;
        };
        let last = events.len() - 1;
        for (place, mut event) in events.into_iter().enumerate() {
            let id = event.envelope.id;
            loop {
                match self.append_once(&context.lease, about, &event, &end).await {
                    Ok(None) => break,
                    Ok(Some(OnLog {
                        id: as_id,
                        appended,
                        is_same,
                    })) => {
                        event.envelope.id = as_id;
                        if event.envelope.id == id
                            && let Some(own) = own_id(&event, appended)
                        {
                            event.envelope.id = own;
                            continue;
                        }
                        let id = as_id.to_string();
                        tenure.progress(|progress| progress.know(appended.sequence, &id));
                        if is_same {
                            self.stage.recorded(&event, appended);
                        }
                        if !appended.duplicate {
                            log_lines::order_ended::<S>(&event);
                        }
                        if place < last {
                            crash_stage_at(S::NAME, "between");
                        }
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(
                            stage = S::NAME,
                            event = %event.envelope.event_type,
                            error = format!("{error:#}"),
                            "cannot record, trying again"
                        );
                    }
                }
                if self.stop.is_cancelled() {
                    return false;
                }
                tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
            }
        }
        true
    }

    /// Appends an event that follows from the one at the sequence `about`. Without the lease it is looked for on the log before: another
    /// instance may have appended it, and if this one was frozen for longer than the server knows ids, the server would take it again.
    /// With the id that it has on the log, which may be the one of [`own_id`].
    /// None if it is a request to tell the provider something, and another instance has recorded the end, which is the last of the events that
    /// are recorded together: it may have ended otherwise, and then what was to be told is not true.
    async fn append_once(
        &self,
        lease: &Validity,
        about: u64,
        event: &NewEvent,
        end: &Envelope,
    ) -> anyhow::Result<Option<OnLog>> {
        if !lease.holds() {
            if let Some((id, sequence)) = self.appended_by_another(about, &event.envelope).await? {
                let duplicate = true;
                return self.on_log(event, id, Appended { sequence, duplicate }).await.map(Some);
            }
            let is_request = event.envelope.event_type == EventType::OrderStatusRequested;
            if is_request && event.envelope.id != end.id && self.appended_by_another(about, end).await?.is_some() {
                return Ok(None);
            }
        }
        let appended = self.journal.append(event.clone()).await?;
        self.on_log(event, event.envelope.id, appended).await.map(Some)
    }

    /// An event is known by its id, however it ends what it follows from. So another instance may have appended one of another type.
    async fn on_log(&self, event: &NewEvent, id: EventId, appended: Appended) -> anyhow::Result<OnLog> {
        let mut is_same = true;
        if appended.duplicate {
            let there = read::event_at(self.journal.connection(), appended.sequence).await?;
            is_same = there.is_some_and(|there| there.envelope.event_type == event.envelope.event_type);
        }
        Ok(OnLog { id, appended, is_same })
    }

    /// The id and the place of this event where it is on the log behind the sequence `about`; none if it is not.
    async fn appended_by_another(&self, about: u64, envelope: &Envelope) -> anyhow::Result<Option<(EventId, u64)>> {
        let connection = self.journal.connection();
        let of_acceptance = envelope.cause_sequence.map(|cause| envelope.id.at(cause));
        let is_it = |found: &Envelope| found.id == envelope.id || Some(found.id) == of_acceptance;
        let end = read::end(connection).await?.sequence;
        let subjects = subjects_of_order(envelope);
        let mut reader = LogReader::of_subjects(connection, subjects, Start::Sequence(about + 1));
        let mut since = Instant::now();
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                if reader.has_ended(connection, end, since).await? {
                    return Ok(None);
                }
                continue;
            }
            since = Instant::now();
            let found = entries.iter().find_map(|entry| match entry {
                Entry::Event(found) if is_it(&found.envelope) => Some((found.envelope.id, found.sequence)),
                _ => None,
            });
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

/// The subjects of all types of events about an order. Its branch may have become known later, and the other instance may have another
/// number of partitions.
fn subjects_of_order(envelope: &Envelope) -> String {
    format!("*.*.{}.*.*", codec::token(&envelope.provider))
}

/// Another id for an event that is known by its own where that is older than what it follows from: that one is the outcome of
/// an earlier acceptance of the same webhook, and this one has none yet.
fn own_id(event: &NewEvent, appended: Appended) -> Option<EventId> {
    let cause = event.envelope.cause_sequence?;
    (appended.duplicate && appended.sequence < cause).then(|| event.envelope.id.at(cause))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::event::Recorded;

    /// What another instance appended is found whatever its number of partitions is.
    #[test]
    fn an_order_has_subjects_in_any_partition() {
        let event = Recorded::sample("careem", "CR-1", "order_created", b"", Utc::now());
        let envelope = Envelope {
            event_type: EventType::OrderForwarded,
            branch: Some("branch-1".into()),
            ..event.envelope
        };
        let wanted = subjects_of_order(&envelope);
        for partitions in [1, 8, 64] {
            let subject = codec::subject(&envelope, partitions);
            let mut tokens = wanted.split('.').zip(subject.split('.'));
            assert_eq!(wanted.split('.').count(), subject.split('.').count(), "{subject}");
            assert!(
                tokens.all(|(wanted, token)| wanted == "*" || wanted == token),
                "{subject} is not among {wanted}"
            );
        }
    }
}
