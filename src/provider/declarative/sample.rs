//! Tries a file on a sample, without signature, log or branch, for `webhook-hub providers try`.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use super::{
    Declarative,
    head::{self, Arriving},
    menu_word::{self, MenuWord},
    response::{FormattedAnswer, WebhookAnswer},
};
use crate::{
    event::Recorded,
    json::fault::Fault,
    order::body::{BodySource, BranchRef},
    provider::{Content, Fact, Posted, Provider, TransformError},
};

/// A webhook that is tried.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Its body.
    pub body: &'a [u8],
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The path below `/api/webhooks/{provider}`.
    pub path: &'a str,
    /// The document that the hub would fetch for it.
    pub document: Option<&'a [u8]>,
    /// When it is tried.
    pub now: DateTime<Utc>,
}

/// The result of trying a sample.
#[derive(Debug)]
pub struct Tried {
    /// The type of the webhook, `order_created`.
    pub kind: &'static str,
    /// The order that it is about.
    pub order_id: String,
    /// The provider's own id of the message.
    pub event_id: Option<String>,
    /// The store that it names.
    pub store: Option<String>,
    /// Whether it is a test order.
    pub is_test: bool,
    /// What follows.
    pub outcome: Outcome,
    /// The answer, if it is not in the hub's own format.
    pub answer: Option<FormattedAnswer>,
}

/// What follows from a sample.
#[derive(Debug)]
pub enum Outcome {
    /// This is posted to the backend.
    Posted(Posted),
    /// It is what the provider made of a menu; the push stage has it.
    Menu(MenuWord),
    /// Nothing; and why.
    Ignored(String),
    /// The order is fetched first.
    Fetched,
    /// It is a heartbeat: it is answered, and no more.
    Heartbeat,
    /// It is rejected.
    Faults(Vec<Fault>),
}

impl Declarative {
    /// Tries a sample. Branch and company in the body are `BRANCH` and `COMPANY`.
    ///
    /// # Errors
    /// Why the intake would refuse it.
    pub fn try_sample(&self, sample: &Sample<'_>) -> Result<Tried, String> {
        let arriving = Arriving {
            body: sample.body,
            headers: sample.headers,
            path: sample.path,
        };
        if let Some(answer) = self.answer(WebhookAnswer::Heartbeat, "REQUEST", sample.body) {
            return Ok(Tried {
                kind: "heartbeat",
                order_id: String::new(),
                event_id: None,
                store: None,
                is_test: false,
                outcome: Outcome::Heartbeat,
                answer: Some(answer),
            });
        }
        let head = head::read(&self.file, &arriving)?;
        let received = self.received(sample, &head);
        if let Some(word) = self
            .file
            .outbound
            .as_ref()
            .and_then(|spec| menu_word::read(spec, sample.body))
        {
            return Ok(Tried {
                kind: head.kind.as_str(),
                order_id: head.order_id,
                event_id: head.event_id,
                store: word.store.clone(),
                is_test: false,
                outcome: Outcome::Menu(word),
                answer: None,
            });
        }
        let fact = match sample.document {
            Some(document) => self.transform_fetched(&received, document),
            None => self.transform(&received),
        };
        let said = WebhookAnswer::Accepted {
            order_id: &head.order_id,
            event_id: "EVENT",
            duplicate: false,
            pending: false,
        };
        let (mut store, mut is_test) = (None, false);
        let outcome = match fact {
            Ok(fact) => {
                let outcome = outcome(&received, &fact);
                (store, is_test) = (fact.store_ref, fact.is_test);
                outcome
                    .unwrap_or_else(|| Outcome::Ignored(head::why_ignored(&self.file, &arriving).unwrap_or_default()))
            }
            Err(TransformError::Faults(faults)) => Outcome::Faults(faults),
            Err(error @ TransformError::NotJson) => Outcome::Faults(vec![Fault {
                pointer: String::new(),
                message: error.to_string(),
            }]),
        };
        Ok(Tried {
            kind: head.kind.as_str(),
            answer: self.file.response.answer(said, "REQUEST", sample.body),
            order_id: head.order_id,
            event_id: head.event_id,
            store,
            is_test,
            outcome,
        })
    }

    fn received(&self, sample: &Sample<'_>, head: &head::Head) -> Recorded {
        let mut received = Recorded::sample(self.name(), &head.order_id, head.kind.as_str(), sample.body, sample.now);
        if let Some(request) = &mut received.envelope.request {
            request.path.push_str(sample.path);
            request.headers.extend(sample.headers.iter().map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value.into())
            }));
        }
        received
    }
}

/// What follows; none if that is nothing.
fn outcome(received: &Recorded, fact: &Fact) -> Option<Outcome> {
    let place = BranchRef {
        branch_id: "BRANCH".into(),
        company_id: "COMPANY".into(),
        auto_accept: false,
    };
    let envelope = &received.envelope;
    let origin = BodySource {
        provider: &envelope.provider,
        webhook_type: &envelope.webhook_type,
        external_order_id: &envelope.external_order_id,
        timestamp: fact.timestamp.unwrap_or(envelope.time),
        transformed_at: envelope.time,
        zone: None,
        auto_accept: false,
    };
    match (fact.posted(&place, origin), &fact.content) {
        (Some(Ok(posted)), _) => Some(Outcome::Posted(posted)),
        (Some(Err(error)), _) => Some(Outcome::Faults(vec![Fault {
            pointer: String::new(),
            message: error.to_string(),
        }])),
        (None, Content::Elsewhere) => Some(Outcome::Fetched),
        (None, _) => None,
    }
}
