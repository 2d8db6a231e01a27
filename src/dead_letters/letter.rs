//! Dead letters and ignored events as they stand on the log.

use serde::Serialize;

use crate::{
    delivery::stage::Stage,
    event::{
        EventId, EventType, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, Ignored, OUTCOME, Rejected},
        push, stage,
    },
    journal::read::{Entry, Located},
    transform::Transform,
};

/// A message on the subjects of letters.
pub enum ListedMessage {
    /// A letter.
    Letter(Box<Letter>),
    /// The message is no event.
    Garbage(Garbage),
}

/// A message that is no event of the hub.
#[derive(Debug, Serialize)]
pub struct Garbage {
    /// Its sequence.
    pub sequence: u64,
    /// That it is none, for people.
    pub unreadable: String,
}

/// The content of a letter, of any type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterFacts {
    /// Number of requests that were made.
    pub attempts: u32,
    /// Number of retries that counted.
    pub retries: u32,
    /// The stage in which it ended; none if neither the event nor its id shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Sequence of the event that ended; none if the letter does not give it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Why it ended.
    pub error: ErrorReport,
}

impl LetterFacts {
    fn of(event: &Recorded) -> Result<Self, String> {
        let read = match event.envelope.event_type {
            EventType::OrderRejected => serde_json::from_slice(&event.payload).map(|said| Self::rejected(event, said)),
            EventType::OrderIgnored => serde_json::from_slice(&event.payload).map(|said| Self::ignored(event, said)),
            _ => serde_json::from_slice(&event.payload).map(Self::dead),
        };
        read.map_err(|error| format!("its payload cannot be read ({error}); an older version may have written it"))
    }

    fn dead(said: DeadLettered) -> Self {
        Self {
            attempts: said.attempts,
            retries: said.retries,
            stage: Some(said.stage),
            sequence: Some(said.sequence),
            error: said.error,
        }
    }

    fn rejected(event: &Recorded, said: Rejected) -> Self {
        // For an unreadable message, earlier versions put the sequence into the details.
        let of_message = said.error.details.get("sequence").and_then(serde_json::Value::as_u64);
        let subject = said.error.details.get("subject").and_then(serde_json::Value::as_str);
        let by_subject = subject.and_then(|subject| match subject.split('.').next()? {
            "webhooks" => Some(stage::TRANSFORM.name),
            _ if subject.starts_with("orders.transformed.") => Some(stage::FORWARD.name),
            _ => None,
        });
        let of_earlier = by_subject.map(str::to_owned).or_else(|| stage_by_id(event));
        Self {
            attempts: 0,
            retries: 0,
            stage: said.stage.or(of_earlier),
            sequence: said.sequence.or(of_message),
            error: said.error,
        }
    }

    fn ignored(event: &Recorded, said: Ignored) -> Self {
        Self {
            attempts: 0,
            retries: 0,
            stage: stage_by_id(event),
            sequence: None,
            error: ErrorReport::new(ErrorType::Validation, said.reason, said.message),
        }
    }
}

/// The stage that recorded an event, found by the label from which its id derives.
fn stage_by_id(event: &Recorded) -> Option<String> {
    let envelope = &event.envelope;
    let cause = envelope.cause_id?;
    let stage = if envelope.id == cause.derive(Transform::LABEL) {
        stage::TRANSFORM.name
    } else if envelope.id != cause.derive(OUTCOME) {
        return None;
    } else if push::is_of_backend(envelope) {
        stage::PUSH.name
    } else {
        stage::FORWARD.name
    };
    Some(stage.to_owned())
}

/// An event that ended and may be retried: a dead letter, or an ignored event.
pub struct Letter {
    /// The event.
    pub event: Recorded,
    /// Where it was published.
    pub subject: String,
    /// Its content, or why it cannot be read.
    pub facts: Result<LetterFacts, String>,
}

impl Letter {
    /// Its id.
    pub fn id(&self) -> EventId {
        self.event.envelope.id
    }

    /// The subject token of its order's partition.
    pub fn partition(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or("*")
    }

    /// Whether it is about a menu, the items or the state of a branch, and not about an order.
    pub fn is_about_branch(&self) -> bool {
        self.event.envelope.webhook_type == push::MENU_SYNC
    }
}

impl From<Located> for ListedMessage {
    fn from(located: Located) -> Self {
        let Located { subject, entry } = located;
        match entry {
            Entry::Event(event) => Self::Letter(Box::new(Letter {
                facts: LetterFacts::of(&event),
                event: *event,
                subject,
            })),
            Entry::Unreadable { sequence, .. } => Self::Garbage(Garbage {
                sequence,
                unreadable: format!("message {sequence} of the event log, on {subject}, is not an event"),
            }),
        }
    }
}
