//! Computes the `Idempotency-Key` of a request to the backend: of a new order a UUID derived from the order's content, of a change of one a
//! UUID derived from its webhook and its content.
//!
//! A provider may send an order again after the hub's log was restored from a backup that does not contain it. Then nothing on
//! the log says that the backend has the order, and only the key can show it. So the key depends on the order alone: neither on
//! its position on the log nor on the webhook: an attempt counter or a sent-at time may differ the next time.
//!
//! Providers reuse numbers. A backend that remembers keys for ever must not mistake a new order for an old one, so an order for
//! which the provider gives no time has no such key. A change names its webhook, so that two changes with the same content (two refunds of
//! one amount) have two keys; and its content, because a thin webhook that comes again may fetch another one.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use super::model::{Line, Modifier, Order};
use crate::event::EventId;

/// Namespace of the keys (a random UUID, fixed for ever: changing it changes every key).
const NAMESPACE: Uuid = Uuid::from_u128(0x3d1c_9a0e_72b5_4f6b_8c47_d0e9_615f_2ab8);
/// The canonical form and its version. A changed form needs a new version and gives every order a new key: orders that
/// are sent again across that change are created twice.
const FORM: &[u8] = b"order/1";
/// The same of a change of an order.
const CHANGE_FORM: &[u8] = b"change/1";
/// What a body says of a change beside what changed: what the provider may send differently the next time, and notes about that.
const BESIDE: [&str; 3] = ["changedAt", "extra", "flags"];

/// The key of an order of this provider for this branch; none if nothing distinguishes it from an earlier order with the same
/// number. `reported_at` is the time in the message itself.
///
/// The key covers the provider, the branch, the provider's number, a time (the first that is present of: placed, deliver by,
/// ready by, accept by, reported), the currency, the total, and the lines with their modifiers: item, quantity and price. The
/// sequence of the lines, the notation of numbers and times, and everything else are left out, because the provider may send
/// them differently the next time.
pub fn key(order: &Order, provider: &str, branch: &str, reported_at: Option<DateTime<Utc>>) -> Option<Uuid> {
    let times = [
        order.placed_at,
        order.deliver_by,
        order.ready_by,
        order.accept_by,
        reported_at,
    ];
    let (which, time) = (0_u8..).zip(times).find_map(|(which, time)| Some((which, time?)))?;
    let mut form = Canonical::default();
    form.part(FORM);
    for text in [provider, branch, &order.external_id] {
        form.part(text.as_bytes());
    }
    form.part(&[which]);
    form.part(&time.timestamp_millis().to_be_bytes());
    form.part(order.pricing.currency.code().as_bytes());
    form.part(&order.pricing.total.minor.to_be_bytes());
    form.set(order.lines.iter().map(line));
    Some(Uuid::new_v5(&NAMESPACE, &form.0))
}

/// The key of a change of an order (news or an amendment) that a webhook announced to this branch; none if the bytes are no body of one.
///
/// The key covers the webhook's identity, the branch, and what the body says about the change. When the hub accepted the webhook, and when
/// the provider says that it changed, are left out.
pub fn change_key(webhook: EventId, branch: &str, body: &[u8]) -> Option<Uuid> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let name = ["statusChange", "amendment"]
        .into_iter()
        .find(|name| body[name].is_object())?;
    let change = body[name].as_object_mut()?;
    for beside in BESIDE {
        change.remove(beside);
    }
    let mut form = Canonical::default();
    form.part(CHANGE_FORM);
    form.part(webhook.0.as_bytes());
    for text in [branch, name] {
        form.part(text.as_bytes());
    }
    // Its keys come sorted.
    form.part(serde_json::to_string(change).ok()?.as_bytes());
    Some(Uuid::new_v5(&NAMESPACE, &form.0))
}

fn line(line: &Line) -> Canonical {
    let mut form = item(line.external_id.as_deref(), line.merchant_ref.as_deref(), &line.name);
    form.part(number(line.quantity.get()).as_bytes());
    form.part(&line.unit_price.minor.to_be_bytes());
    form.part(&line.total_price.minor.to_be_bytes());
    form.set(line.modifiers.iter().map(modifier));
    form
}

/// The recursion is as deep as the document that the order was read from: at most [`crate::json::tree::MAX_DEPTH`].
fn modifier(modifier: &Modifier) -> Canonical {
    let (external_id, merchant_ref) = (modifier.external_id.as_deref(), modifier.merchant_ref.as_deref());
    let mut form = item(external_id, merchant_ref, &modifier.name);
    form.part(number(modifier.quantity.get()).as_bytes());
    form.part(&modifier.price.minor.to_be_bytes());
    form.set(modifier.modifiers.iter().map(self::modifier));
    form
}

/// Identifies the item, if possible by an id: names are changed more often.
fn item(external_id: Option<&str>, merchant_ref: Option<&str>, name: &str) -> Canonical {
    let (kind, text) = match (external_id, merchant_ref) {
        (Some(id), _) => (b"id", id),
        (None, Some(code)) => (b"mr", code),
        (None, None) => (b"nm", name),
    };
    let mut form = Canonical::default();
    form.part(kind);
    form.part(text.as_bytes());
    form
}

/// The same text for `1`, `1.0` and `1e0`.
fn number(text: &str) -> String {
    let read = Decimal::from_str(text).or_else(|_| Decimal::from_scientific(text));
    read.map_or_else(|_| text.to_owned(), |number| number.normalize().to_string())
}

/// Bytes that the parts can be read back from, so that different parts never give the same bytes.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Canonical(Vec<u8>);

impl Canonical {
    fn part(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// Adds these forms; their sequence does not matter.
    fn set(&mut self, forms: impl Iterator<Item = Self>) {
        let mut forms: Vec<Self> = forms.collect();
        forms.sort_unstable();
        self.0.extend_from_slice(&(forms.len() as u64).to_be_bytes());
        forms.iter().for_each(|form| self.part(&form.0));
    }
}

#[cfg(test)]
mod tests;
