//! Records the acts that are noted on the stream: the user `provision`, who did them, may append no event.

use std::collections::HashSet;

use chrono::{TimeDelta, Utc};

use crate::{
    dead_letters::CLOCK_SKEW,
    event::{
        Envelope, EventId, EventType, NewEvent, Principal,
        operator::{PROVIDER, WEBHOOK_TYPE},
    },
    journal::{
        Journal,
        connection::Connection,
        read::{Entry, LogReader, Start},
        streams::notes::ActNote,
    },
};

/// Which of the noted acts are on the log.
#[derive(Default)]
pub(super) struct NotedActs(HashSet<EventId>);

impl NotedActs {
    /// Appends the event of each act that is not on the log. `kept`: how long the log keeps events; none if for ever.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn record(
        &mut self,
        journal: &Journal,
        notes: &[ActNote],
        kept: Option<TimeDelta>,
    ) -> anyhow::Result<()> {
        self.0.retain(|id| notes.iter().any(|note| note.id == *id));
        for note in notes {
            if self.0.contains(&note.id) {
                continue;
            }
            // An older record has left the log.
            let is_over = kept.is_some_and(|kept| Utc::now() - note.at >= kept);
            if !is_over && !is_on_log(journal.connection(), note).await? {
                journal.append(event(note)).await?;
                tracing::info!(
                    kind = note.acted.kind,
                    by = note.acted.by,
                    "an act of the user provision is on the log now"
                );
            }
            self.0.insert(note.id);
        }
        Ok(())
    }
}

async fn is_on_log(connection: &Connection, note: &ActNote) -> anyhow::Result<bool> {
    let subjects = format!("{}.>", EventType::OperatorActed.subject_root());
    let mut reader = LogReader::of_subjects(connection, subjects, Start::Time(note.at - CLOCK_SKEW));
    loop {
        let entries = reader.next_batch().await?;
        if entries.is_empty() {
            return Ok(false);
        }
        let mut events = entries.into_iter().filter_map(|entry| match entry {
            Entry::Event(event) => Some(event.envelope.id),
            Entry::Unreadable { .. } => None,
        });
        if events.any(|id| id == note.id) {
            return Ok(true);
        }
    }
}

/// One event: act and result are known together.
fn event(note: &ActNote) -> NewEvent {
    let envelope = Envelope {
        id: note.id,
        event_type: EventType::OperatorActed,
        root_id: note.id,
        cause_id: None,
        cause_sequence: None,
        provider: PROVIDER.into(),
        external_order_id: note.acted.kind.clone(),
        webhook_type: WEBHOOK_TYPE.to_owned(),
        branch: None,
        principal: Principal::of_backend(),
        time: note.at,
        received_at: note.at,
        request_id: note.id.to_string(),
        traceparent: None,
        request: None,
        idempotency_key: None,
    };
    NewEvent::new(envelope, &note.acted)
}
