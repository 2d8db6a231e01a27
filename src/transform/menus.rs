//! Webhooks in which a provider says what it made of a menu: no orders, but words that the push stage waits for.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{LABEL, NotYet, Transform, branch_not_found, branches::Lookup, dead_letter};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::Ignored,
        push::{SyncReported, menu_subject},
    },
    order::body::Place,
    provider::merchant_header,
    push::remote::Remote,
};

/// A provider's word about a menu, in a webhook.
pub(super) struct MenuWord {
    store: Option<String>,
    /// None where it is still at it.
    said: Option<SyncReported>,
}

/// None where the webhook is about something else, as nearly all are.
pub(super) fn word(remote: &Remote, received: &Recorded) -> Option<MenuWord> {
    let table = &remote.spec.menu.as_ref()?.result.as_ref()?.table;
    let is = table.when.as_ref()?.is.as_bytes();
    // A look at the bytes spares most webhooks being read twice.
    if is.is_empty() || !received.payload.windows(is.len()).any(|part| part == is) {
        return None;
    }
    let body: Value = serde_json::from_slice(&received.payload).ok()?;
    if !table.is_one(&body) {
        return None;
    }
    let store = table.store.as_ref().and_then(|pointer| match body.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Some(MenuWord {
        store: store.or_else(|| merchant_header(&received.envelope).map(str::to_owned)),
        said: table.read(&received.payload),
    })
}

/// The push stage, where the menu waits, has it next.
fn reported(received: &Recorded, now: DateTime<Utc>, word: &SyncReported, place: Place) -> NewEvent {
    let mut envelope = received.follow(LABEL, EventType::MenuSyncReported, now);
    envelope.external_order_id = menu_subject(&place.branch_id);
    envelope.branch = Some(place.branch_id);
    NewEvent::new(envelope, word)
}

impl Transform {
    /// What the provider made of a menu, as its file reads the webhook.
    pub(super) async fn menu_result(
        &self,
        received: &Recorded,
        now: DateTime<Utc>,
        word: MenuWord,
    ) -> Result<NewEvent, NotYet> {
        let provider = &received.envelope.provider;
        let store = word.store.as_deref();
        let place = match self.branches.find(provider, store).await {
            Lookup::Found(place) => place,
            Lookup::NotFound => return Ok(dead_letter(received, branch_not_found(provider, store))),
            Lookup::Unknown => return Err(NotYet::Branches),
        };
        Ok(match word.said {
            Some(said) => reported(received, now, &said, place),
            None => {
                let mut envelope = received.follow(LABEL, EventType::OrderIgnored, now);
                envelope.branch = Some(place.branch_id);
                let payload = Ignored {
                    reason: "MENU_RESULT_PENDING".into(),
                    message: "the provider is still at the menu".into(),
                    internal_order_id: None,
                };
                NewEvent::new(envelope, &payload)
            }
        })
    }
}
