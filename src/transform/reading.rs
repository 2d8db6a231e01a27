//! What a webhook means, from its event and its provider's file alone: the part of the stage that asks no other party. It has no
//! client, no database and no clock, so a [`Reading`] can be repeated at any time. Both the stage and `replay` use it.
//!
//! What depends on others comes in as values: the branch, and the document that was fetched.

use bytes::Bytes;
use chrono::FixedOffset;
use serde_json::{Value, json};

use super::{MAX_WORD_CHARS, UNKNOWN_EVENT};
use crate::{
    event::{
        EventType, Recorded,
        outcome::{ErrorReport, ErrorType, TEST_ORDER},
        push::PushStatus,
    },
    order::body::{BodySource, BranchRef},
    provider::{
        Content, Fact, Posted, Provider, TransformError,
        declarative::menu_word::{self, MenuWord},
        merchant_header,
        outbound::Spec,
    },
};

/// Reason of an `order.ignored` about an event that the backend does not want.
const EVENT_NOT_WANTED: &str = "EVENT_NOT_WANTED";

/// A provider, as far as the meaning of its webhooks depends on it.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Its file.
    pub provider: &'a dyn Provider,
    /// The tables for requests to it; none if it gets no requests.
    pub spec: Option<&'a Spec>,
    /// Whether test orders go to the backend like any other.
    pub forward_test_orders: bool,
    /// The zone of the branch, for times that name none; it is not known before the branch is.
    pub zone: Option<FixedOffset>,
}

/// What a webhook, or a fetched order, says.
#[derive(Debug)]
pub enum Meaning {
    /// The provider's result for a menu.
    Menu(MenuWord),
    /// It ends here.
    End(End),
    /// News of an order.
    News(Box<Fact>),
}

/// How a webhook ends in the transformation, without having been forwarded.
#[derive(Debug, PartialEq)]
pub enum End {
    /// It cannot be read as an order.
    Rejected(ErrorReport),
    /// Nothing is left to do.
    Ignored {
        /// For machines: `EVENT_NOT_WANTED` …
        reason: &'static str,
        /// For people.
        message: String,
        /// What is counted about it.
        flag: Option<&'static str>,
    },
    /// It is given up.
    GivenUp(ErrorReport),
}

/// What follows from news of an order before their branch is looked up.
#[derive(Debug, PartialEq)]
pub enum BeforeBranch {
    /// The order is at the provider and is fetched first.
    Fetch,
    /// It ends here.
    End(End),
    /// The branch is looked up.
    Branch,
}

impl Reading<'_> {
    /// Whether an event is a document that was fetched for a webhook, which is read together with that.
    pub fn is_document(&self, event: &Recorded) -> bool {
        let fetch = self.spec.and_then(|spec| spec.fetch.as_ref());
        event.envelope.event_type == EventType::OrderFetched
            && fetch.is_some_and(|fetch| fetch.webhooks.contains(&event.envelope.webhook_type))
    }

    /// The meaning of an event. `webhook` is the body of the webhook that a document was fetched for; without it, what the document's
    /// event says of the order has to do.
    pub fn meaning(&self, event: &Recorded, webhook: Option<Bytes>) -> Meaning {
        if let Some(word) = self.menu_word(event) {
            return Meaning::Menu(word);
        }
        let read = if self.is_document(event) {
            let webhook = Recorded {
                payload: webhook.unwrap_or_else(|| event.payload.clone()),
                ..event.clone()
            };
            self.provider.transform_in(&webhook, Some(&event.payload), self.zone)
        } else {
            self.provider.transform_in(event, None, self.zone)
        };
        match read {
            Err(error) => Meaning::End(rejected(&error)),
            Ok(Fact {
                content: Content::Ignored(word),
                is_unknown,
                ..
            }) => Meaning::End(not_wanted(word.as_deref(), is_unknown)),
            Ok(fact) => Meaning::News(Box::new(fact)),
        }
    }

    /// News, read once more for a branch with this zone, if that can make a difference.
    pub fn news_in(
        self,
        zone: Option<FixedOffset>,
        event: &Recorded,
        webhook: Option<Bytes>,
        fact: Box<Fact>,
    ) -> (Self, Box<Fact>) {
        let Some(zone) = zone.filter(|_| fact.has_local_times) else {
            return (self, fact);
        };
        let reading = Self {
            zone: Some(zone),
            ..self
        };
        match reading.meaning(event, webhook) {
            Meaning::News(mut again) => {
                if let Some(store) = &fact.store_ref {
                    again.stands_for(store);
                }
                (reading, again)
            }
            // A zone changes times only.
            Meaning::Menu(_) | Meaning::End(_) => (self, fact),
        }
    }

    /// What the provider says of a menu; none if the event is about something else, as nearly all are.
    fn menu_word(&self, event: &Recorded) -> Option<MenuWord> {
        if event.envelope.event_type != EventType::WebhookReceived {
            return None;
        }
        let word = menu_word::read(self.spec?, &event.payload)?;
        let store = word
            .store
            .or_else(|| merchant_header(&event.envelope).map(str::to_owned));
        Some(MenuWord { store, ..word })
    }

    /// What follows from news of an order that its principal may tell.
    pub fn before_branch(&self, event: &Recorded, fact: &Fact) -> BeforeBranch {
        let is_webhook = event.envelope.event_type == EventType::WebhookReceived;
        if is_webhook && self.spec.is_some_and(|spec| spec.fetch.is_some()) {
            return BeforeBranch::Fetch;
        }
        if fact.is_test && !self.forward_test_orders {
            return BeforeBranch::End(End::Ignored {
                reason: TEST_ORDER,
                message: "a test order; it goes no further unless the provider's _FORWARD_TEST_ORDERS is true".into(),
                flag: None,
            });
        }
        BeforeBranch::Branch
    }

    /// The body for the backend, for this branch.
    ///
    /// # Errors
    /// How it ends instead.
    pub fn body(&self, event: &Recorded, fact: &Fact, branch: &BranchRef) -> Result<Posted, End> {
        let envelope = &event.envelope;
        // A test order must never reach a kitchen.
        let can_accept = !fact.is_test
            && self
                .spec
                .is_some_and(|spec| spec.status.contains_key(&PushStatus::Accepted));
        let origin = BodySource {
            provider: &envelope.provider,
            webhook_type: &envelope.webhook_type,
            external_order_id: &envelope.external_order_id,
            timestamp: fact.timestamp.unwrap_or(envelope.time),
            transformed_at: envelope.time,
            zone: self.zone.filter(|_| fact.has_local_times),
            auto_accept: can_accept && branch.auto_accept && matches!(fact.content, Content::NewOrder(_)),
        };
        match (fact.posted(branch, origin), &fact.content) {
            (Some(posted), _) => posted.map_err(|error| {
                let report = ErrorReport::new(ErrorType::Validation, "UNSERIALIZABLE_ORDER", error.to_string());
                End::Rejected(report)
            }),
            // An ignored webhook ends before its branch is looked up.
            (None, Content::Ignored(word)) => Err(not_wanted(word.as_deref(), false)),
            (None, _) => Err(End::GivenUp(not_fetched(&envelope.provider))),
        }
    }
}

/// The webhook cannot be read as an order. It is a dead letter: after the provider's file is corrected, a retry reads the body
/// again, which is on the log byte for byte.
fn rejected(error: &TransformError) -> End {
    let details = match error {
        TransformError::NotJson => Value::Null,
        TransformError::Faults(faults) => json!({ "faults": faults }),
    };
    let error = ErrorReport::new(ErrorType::Validation, "INVALID_ORDER", error.to_string());
    End::Rejected(error.with(details))
}

/// The provider's word is cut to a length that can be shown.
fn not_wanted(word: Option<&str>, is_unknown: bool) -> End {
    let message = match word {
        Some(word) => format!(
            "the backend wants nothing of the provider's event {:?}",
            word.chars().take(MAX_WORD_CHARS).collect::<String>()
        ),
        None => "the backend wants nothing of this event".into(),
    };
    End::Ignored {
        reason: EVENT_NOT_WANTED,
        message,
        flag: is_unknown.then_some(UNKNOWN_EVENT),
    }
}

fn not_fetched(provider: &str) -> ErrorReport {
    let message = format!("the order is at {provider} and was not fetched");
    ErrorReport::new(ErrorType::Configuration, "ORDER_NOT_FETCHED", message)
}
