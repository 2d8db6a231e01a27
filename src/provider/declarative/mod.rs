//! Providers that are one file: where values are in their webhooks, and what they mean.
//!
//! [`load`] reads a file and reports all its faults. [`mod@file`], [`tables`], [`pick`], [`amount`], [`choice`], [`lists`],
//! [`words`], [`clock`] and [`path`] are its shape, [`response`] its answers. `head` is what the intake reads by it; `reader`,
//! `texts`, `values`, `zone`, `order`, `pricing`, `lines` and `amendment` what the transformation reads. Evaluation always ends: nothing in a file repeats, and a document is read within the limits of
//! [`crate::json::tree`]. `docs/providers.md` explains the format to authors of files.

use std::{borrow::Cow, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::FixedOffset;
use serde_json::{Map, Value};

pub mod file;
pub mod tables;
pub mod load;
pub mod pick;
pub mod amount;
pub mod choice;
pub mod lists;
pub mod path;
pub mod clock;
pub mod words;
pub mod response;
mod head;
mod reader;
mod values;
mod zone;
mod texts;
mod order;
mod pricing;
mod lines;
mod amendment;
pub mod menu_word;
pub mod sample;

use self::{
    file::{Document, File, Kind},
    head::Arriving,
    order::Common,
    pick::Source,
    reader::{Habits, OrderReader, WebhookRequest},
    response::{FormattedAnswer, WebhookAnswer},
};
use super::{
    Admission, AdmissionRefusal, Content, Fact, Provider, StoreOfDocument, Stores, TransformError, merchant_header,
    sent_merchant,
};
use crate::{
    event::{Envelope, Recorded},
    json::{
        fault::Fault,
        pointer::Pointer,
        tree::{Tree, TreeError, ValueId},
    },
    order::money::Currency,
    verification::{Scheme, Unverified, Verified},
};

/// A provider that is a file.
#[derive(Debug, Clone)]
pub struct Declarative {
    file: Arc<File>,
    /// `<PROVIDER>_CURRENCY`, where it is set.
    currency: Option<Currency>,
}

/// What follows in a path below the provider's own, as it was sent: slashes may be doubled (see `intake::receive::unmatched_route`).
fn below<'p>(path: &'p str, name: &str) -> &'p str {
    let without = |path: &'p str, part: &str| path.trim_start_matches('/').strip_prefix(part);
    let parts = ["api", "webhooks", name];
    let own = parts.into_iter().try_fold(path, without);
    own.unwrap_or(path)
}

impl Declarative {
    /// The provider of a file, with the currency of this installation.
    pub const fn new(file: Arc<File>, currency: Option<Currency>) -> Self {
        Self { file, currency }
    }

    /// The type and the order of a webhook on the log, read by this file as the intake would read them today. Of the headers it sees
    /// those that were kept.
    ///
    /// # Errors
    /// Why the intake would refuse it.
    pub fn read_again(&self, envelope: &Envelope, body: &[u8]) -> Result<(&'static str, String), String> {
        let request = envelope.request.as_ref();
        let mut headers = HeaderMap::new();
        for (name, value) in request.into_iter().flat_map(|request| &request.headers) {
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            let value = value
                .as_str()
                .and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
            headers.extend(name.zip(value));
        }
        let arriving = Arriving {
            body,
            headers: &headers,
            path: below(request.map_or("", |request| &request.path), self.name()),
        };
        let head = head::read(&self.file, &arriving)?;
        Ok((head.kind.as_str(), head.order_id))
    }

    fn reader<'t>(
        &'t self,
        received: &'t Recorded,
        document: (&'t Tree<'t>, ValueId),
        body: &'t Tree<'t>,
        (nothing, branch_zone): (&'t Map<String, Value>, Option<FixedOffset>),
    ) -> OrderReader<'t> {
        let file = &*self.file;
        let facts = received.envelope.request.as_ref();
        let path = facts.map_or("", |facts| facts.path.as_str());
        let head = &file.order.head;
        let habits = Habits {
            amounts: head.amounts,
            times: head.times,
            zone: head.zone.as_ref(),
            branch_zone,
        };
        let request = WebhookRequest {
            headers: facts.map_or(nothing, |facts| &facts.headers),
            path: below(path, &file.identity.name),
            paths: &file.webhook.paths,
        };
        OrderReader::new(document, body, request, habits)
    }

    /// The stores that a webhook names, and that its document does where it was fetched.
    fn stores(&self, reader: &OrderReader<'_>, is_fetched: bool) -> Stores {
        let named = |counts: &dyn Fn(&Source) -> bool| reader.glimpse(self.file.webhook.store.as_ref()?, counts);
        if !is_fetched {
            return Stores {
                of_payload: named(&|_| true),
                of_document: StoreOfDocument::NotFetched,
            };
        }
        let is_of_document = |source: &Source| matches!(source, Source::Here(_) | Source::Document(_));
        Stores {
            of_payload: named(&|source| !is_of_document(source)),
            of_document: named(&is_of_document).map_or(StoreOfDocument::Unnamed, StoreOfDocument::Named),
        }
    }

    fn fact<'t>(
        &'t self,
        received: &'t Recorded,
        document: (&'t Tree<'t>, ValueId),
        body: &'t Tree<'t>,
        (is_fetched, zone): (bool, Option<FixedOffset>),
    ) -> Result<Fact, TransformError> {
        let (envelope, file) = (&received.envelope, &*self.file);
        let nothing = Map::new();
        let reader = self.reader(received, document, body, (&nothing, zone));
        let root = reader.root();
        // Mark what the intake has read as taken.
        let text = |sources| reader.text_at(sources, root);
        text(&file.webhook.order_id);
        let is_test = file.webhook.test.iter().any(|test| reader.is_so(test, root));
        let store_ref = merchant_header(envelope).map(str::to_owned);
        let store_ref = store_ref.or_else(|| reader.optional(&file.webhook.store, root));
        let event_id = file.webhook.event_id.as_ref().and_then(text);
        let type_word = file.events.r#type.as_ref().and_then(text);
        reader.leave_out(&file.webhook.leave_out);
        let timestamp = reader.time(&file.webhook.time, root);
        let ignores_words =
            file.events.other == Kind::Ignored && file.events.when.iter().all(|when| when.becomes != Kind::Ignored);
        let is_unknown = |word: &String| ignores_words && file.events.types.get(word).is_none();
        let is_unknown = type_word.as_ref().is_some_and(is_unknown);
        let common = Common {
            external_id: &envelope.external_order_id,
            event_id,
            store_ref: store_ref.clone(),
            type_word: type_word.clone(),
            is_test,
        };
        let (content, own_time) = match Kind::from_word(&envelope.webhook_type) {
            Some(Kind::OrderCreated) => {
                let order = order::new_order(&reader, file, common, self.currency);
                let placed_at = order.placed_at;
                (Content::NewOrder(Box::new(order)), placed_at)
            }
            Some(Kind::OrderAmended) => {
                let amendment = amendment::amendment(&reader, file, common, self.currency);
                let changed_at = amendment.changed_at;
                (Content::Amendment(Box::new(amendment)), changed_at)
            }
            Some(Kind::Ignored) => (Content::Ignored(type_word), None),
            kind => {
                let kind = kind.unwrap_or(Kind::OrderStatusUpdated);
                let change = order::change(&reader, file, common, kind);
                let changed_at = change.changed_at;
                (Content::StatusChange(Box::new(change)), changed_at)
            }
        };
        let fact = Fact {
            timestamp: own_time.or(timestamp),
            store_ref,
            stores: self.stores(&reader, is_fetched),
            is_test,
            is_unknown: is_unknown && matches!(content, Content::Ignored(_)),
            has_local_times: reader.has_local_times.get(),
            content,
        };
        reader.finish(fact).map_err(TransformError::Faults)
    }
}

fn tree(bytes: &[u8]) -> Result<Tree<'_>, TransformError> {
    Tree::parse(bytes).map_err(|error| match error {
        TreeError::NotJson => TransformError::NotJson,
        error => fault("", error),
    })
}

/// Where pointers begin: at the first of these parts that is there, else at the whole.
fn first_part(whole: &Tree<'_>, parts: &[Pointer]) -> ValueId {
    let part = parts.iter().find_map(|pointer| whole.find(whole.root(), pointer));
    part.unwrap_or(whole.root())
}

fn fault(pointer: &str, message: impl ToString) -> TransformError {
    TransformError::Faults(vec![Fault {
        pointer: pointer.to_owned(),
        message: message.to_string(),
    }])
}

impl Provider for Declarative {
    fn name(&self) -> &str {
        &self.file.identity.name
    }

    fn display_name(&self) -> &str {
        &self.file.identity.display_name
    }

    fn scheme(&self) -> &Scheme {
        &self.file.verification
    }

    fn read(&self, request: &Verified<'_>) -> Result<Admission, AdmissionRefusal> {
        let path = request.path();
        let arriving = Arriving {
            body: request.body(),
            headers: request.headers(),
            path: below(path, self.name()),
        };
        let head = head::read(&self.file, &arriving).map_err(AdmissionRefusal::InvalidPayload)?;
        let kind = head.kind.as_str();
        let event_id = request.event_id(self.name(), &head.order_id, kind, head.event_id.as_deref());
        Admission::new(request, event_id, head.order_id, kind)
    }

    fn store_ref(&self, request: &Unverified<'_>) -> Option<String> {
        let path = request.path();
        let arriving = Arriving {
            body: request.body(),
            headers: request.headers(),
            path: below(path, self.name()),
        };
        sent_merchant(request).or_else(|| head::store(&self.file, &arriving))
    }

    fn transform_in(
        &self,
        received: &Recorded,
        document: Option<&[u8]>,
        zone: Option<FixedOffset>,
    ) -> Result<Fact, TransformError> {
        let body = tree(&received.payload)?;
        if let Some(document) = document {
            let document = tree(document)?;
            let parts = self.file.webhook.document.as_ref().map_or(&[][..], Document::parts);
            let begin = (&document, first_part(&document, parts));
            return self.fact(received, begin, &body, (true, zone));
        }
        let kind = Kind::from_word(&received.envelope.webhook_type);
        match &self.file.webhook.document {
            None => self.fact(received, (&body, body.root()), &body, (false, zone)),
            Some(Document::Fetched(kinds, _)) if kind.is_some_and(|kind| kinds.contains(&kind)) => Ok(Fact {
                timestamp: None,
                store_ref: merchant_header(&received.envelope).map(str::to_owned),
                stores: self.stores(
                    &self.reader(received, (&body, body.root()), &body, (&Map::new(), None)),
                    false,
                ),
                is_test: false,
                is_unknown: false,
                has_local_times: false,
                content: Content::Elsewhere,
            }),
            Some(Document::Part(parts) | Document::Fetched(_, parts)) => {
                self.fact(received, (&body, first_part(&body, parts)), &body, (false, zone))
            }
            Some(Document::Text(pointer, parts)) => {
                let found = body.find(body.root(), pointer);
                let text: Option<(ValueId, Cow<'_, str>)> = found.and_then(|place| Some((place, body.text(place)?)));
                let Some((place, text)) = text else {
                    return Err(fault(&pointer.to_string(), "expected JSON in a text"));
                };
                body.take(place);
                let document = Tree::parse(text.as_bytes()).map_err(|error| fault(&pointer.to_string(), error))?;
                let begin = (&document, first_part(&document, parts));
                self.fact(received, begin, &body, (false, zone))
            }
        }
    }

    fn knows_path(&self, below: &str) -> bool {
        below.is_empty()
            || self
                .file
                .webhook
                .paths
                .iter()
                .any(|template| template.has_shape_of(below))
    }

    fn answer(&self, said: WebhookAnswer<'_>, request_id: &str, body: &[u8]) -> Option<FormattedAnswer> {
        self.file.response.answer(said, request_id, body)
    }
}

#[cfg(test)]
mod tests;
