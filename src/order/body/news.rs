//! A second announcement of an order: finds the differences from the first one, and makes news of the order from it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::order::{
    model::{AmendmentKind, Fulfillment},
    status::Status,
};

/// Two announcements with times this far apart are about two orders, although they have one number: a provider that repeats an
/// announcement repeats the time at which the customer placed the order, and one that uses its numbers again does so after hours.
const ANOTHER_TIME: TimeDelta = TimeDelta::hours(1);

/// The parts in which two announcements of an order may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedContent {
    /// In canonical words; none if the body says none that is known.
    pub status: Option<Status>,
    /// What is cooked and charged: lines, currency and total.
    content: Option<(Value, Value, Value)>,
    /// When the customer placed the order.
    placed_at: Option<DateTime<Utc>>,
    /// The customer's name and phone, if the body has both.
    customer: Option<(String, String)>,
    /// Where the restaurant's own courier brings it.
    address: Option<Value>,
}

/// How two announcements of one order number differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Other lines, or another total.
    Content,
    /// Another time of the order, or another customer: perhaps the provider used the number again.
    Order,
    /// The restaurant's own courier would bring it elsewhere.
    Address,
}

impl AnnouncedContent {
    /// How the other announcement differs in what a person must know; none if it does not.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        if self.is_of_another_order(other) {
            Some(Difference::Order)
        } else if self.content != other.content {
            Some(Difference::Content)
        } else {
            self.has_other_address(other).then_some(Difference::Address)
        }
    }

    /// Whether the restaurant's own courier would bring it elsewhere.
    pub fn has_other_address(&self, other: &Self) -> bool {
        let both = self.address.as_ref().zip(other.address.as_ref());
        both.is_some_and(|(one, two)| one != two)
    }

    /// Whether the same is cooked and charged.
    pub fn is_same_content(&self, other: &Self) -> bool {
        self.content == other.content
    }

    /// A masked phone changes with each message, and a name may be shortened. So only another name with another phone is another
    /// customer.
    pub fn is_of_another_order(&self, other: &Self) -> bool {
        let customers = self.customer.as_ref().zip(other.customer.as_ref());
        self.has_another_time(other) || customers.is_some_and(|(one, two)| one.0 != two.0 && one.1 != two.1)
    }

    /// Whether it was placed at another time, which no provider writes in two ways, as it does a customer's name.
    fn has_another_time(&self, other: &Self) -> bool {
        let times = self.placed_at.zip(other.placed_at);
        times.is_some_and(|(one, two)| (one - two).abs() >= ANOTHER_TIME)
    }
}

/// Whether the bodies of two announcements with one number are about two orders; false where one of them cannot be read.
pub fn are_two_orders(one: &[u8], other: &[u8]) -> bool {
    let both = announced(one).ok().zip(announced(other).ok());
    both.is_some_and(|(one, other)| one.is_of_another_order(&other))
}

/// Whether the orders of two announcements with one number were certainly placed at two times; false where one of them names none.
pub fn were_placed_apart(one: &[u8], other: &[u8]) -> bool {
    let both = announced(one).ok().zip(announced(other).ok());
    both.is_some_and(|(one, other)| one.has_another_time(&other))
}

/// Reads what counts of a body, of a new order or of a change (which has no content).
///
/// # Errors
/// If the bytes are no such body.
pub fn announced(body: &[u8]) -> serde_json::Result<AnnouncedContent> {
    let mut body: Value = serde_json::from_slice(body)?;
    let order = body["transformedOrder"].take();
    let word = if order.is_null() { &body["statusChange"] } else { &order };
    let status = word["canonicalStatus"].as_str().and_then(Status::from_word);
    let content = (!order.is_null()).then(|| {
        let pricing = &order["pricing"];
        (
            order["items"].clone(),
            pricing["currency"].clone(),
            pricing["total"].clone(),
        )
    });
    let text = |name: &str| order[name].as_str().map(str::to_owned);
    let by_own_courier = order["fulfillment"] == Fulfillment::MerchantCourier.as_str();
    Ok(AnnouncedContent {
        status,
        content,
        placed_at: order["placedAt"].as_str().and_then(|time| time.parse().ok()),
        customer: text("customerName").zip(text("customerPhone")),
        address: (by_own_courier && order["deliveryAddress"].is_object()).then(|| order["deliveryAddress"].clone()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrderBody<'a> {
    #[serde(borrow)]
    original_webhook: &'a RawValue,
    #[serde(borrow)]
    transformed_order: Fields<'a>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    external_order_id: &'a RawValue,
    #[serde(borrow)]
    branch_id: &'a RawValue,
    #[serde(borrow)]
    company_id: &'a RawValue,
    #[serde(borrow)]
    status: &'a RawValue,
    #[serde(borrow)]
    canonical_status: &'a RawValue,
    #[serde(borrow)]
    provider_status: &'a RawValue,
    #[serde(borrow)]
    captain: Option<&'a RawValue>,
    #[serde(borrow)]
    items: &'a RawValue,
    #[serde(borrow)]
    pricing: &'a RawValue,
    #[serde(borrow)]
    flags: Option<&'a RawValue>,
    #[serde(borrow)]
    extra: Option<&'a RawValue>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    provider: &'a RawValue,
    #[serde(borrow)]
    transformed_at: &'a RawValue,
    #[serde(borrow)]
    version: &'a RawValue,
}

/// A body that is made of a new order's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LaterBody<'a> {
    original_webhook: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_change: Option<Change<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment: Option<Amendment<'a>>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    external_order_id: &'a RawValue,
    branch_id: &'a RawValue,
    company_id: &'a RawValue,
    status: &'a RawValue,
    canonical_status: &'a RawValue,
    provider_status: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<&'a RawValue>,
}

/// The body of a change with the status of a new order's body; the same bytes for the same body.
///
/// # Errors
/// If the bytes are no body of a new order.
pub fn as_news(body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let order: NewOrderBody<'_> = serde_json::from_slice(body)?;
    let fields = order.transformed_order;
    serde_json::to_vec(&LaterBody {
        original_webhook: order.original_webhook,
        status_change: Some(Change {
            external_order_id: fields.external_order_id,
            branch_id: fields.branch_id,
            company_id: fields.company_id,
            status: fields.status,
            canonical_status: fields.canonical_status,
            provider_status: fields.provider_status,
            captain: fields.captain,
        }),
        amendment: None,
        metadata: order.metadata,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Amendment<'a> {
    external_order_id: &'a RawValue,
    branch_id: &'a RawValue,
    company_id: &'a RawValue,
    kind: &'static str,
    items: &'a RawValue,
    pricing: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a RawValue>,
}

/// The body of an amendment with the lines and amounts of a new order's body; the same bytes for the same body.
///
/// # Errors
/// If the bytes are no body of a new order.
pub fn as_amendment(body: &[u8], kind: AmendmentKind) -> serde_json::Result<Vec<u8>> {
    let order: NewOrderBody<'_> = serde_json::from_slice(body)?;
    let fields = order.transformed_order;
    serde_json::to_vec(&LaterBody {
        original_webhook: order.original_webhook,
        status_change: None,
        amendment: Some(Amendment {
            external_order_id: fields.external_order_id,
            branch_id: fields.branch_id,
            company_id: fields.company_id,
            kind: kind.as_str(),
            items: fields.items,
            pricing: fields.pricing,
            flags: fields.flags,
            extra: fields.extra,
        }),
        metadata: order.metadata,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The content of an announcement with these fields changed.
    fn content(changes: &Value) -> AnnouncedContent {
        let mut order = json!({
            "canonicalStatus": "created",
            "items": [{ "name": "Burger", "quantity": 1 }],
            "pricing": { "currency": "JOD", "total": 5.0 },
            "placedAt": "2025-10-01T12:00:00Z",
            "customerName": "Ahmed Ali",
            "customerPhone": "+962791234567",
            "fulfillment": "merchant_courier",
            "deliveryAddress": { "street": "King Abdullah Street" },
        });
        for (name, value) in changes.as_object().unwrap() {
            order[name] = value.clone();
        }
        let body = json!({ "originalWebhook": {}, "transformedOrder": order, "metadata": {} });
        announced(body.to_string().as_bytes()).unwrap()
    }

    fn difference(changes: &Value) -> Option<Difference> {
        let (one, other) = (content(&json!({})), content(changes));
        assert_eq!(one.difference(&other), other.difference(&one), "{changes}");
        other.difference(&one)
    }

    #[test]
    fn other_lines_or_another_total_differ() {
        for changes in [
            json!({ "items": [{ "name": "Burger", "quantity": 2 }] }),
            json!({ "pricing": { "currency": "JOD", "total": 6.0 } }),
            json!({ "pricing": { "currency": "KWD", "total": 5.0 } }),
        ] {
            assert_eq!(difference(&changes), Some(Difference::Content), "{changes}");
        }
    }

    #[test]
    fn another_time_or_customer_is_another_order() {
        let (phone, name) = ("+962790000000", "Lina Haddad");
        for changes in [
            json!({ "placedAt": "2025-10-02T19:00:00Z" }),
            json!({ "placedAt": "2025-10-01T11:00:00Z" }),
            json!({ "customerName": name, "customerPhone": phone }),
            json!({ "placedAt": "2025-10-02T19:00:00Z", "pricing": { "currency": "JOD", "total": 6.0 } }),
        ] {
            assert_eq!(difference(&changes), Some(Difference::Order), "{changes}");
        }
    }

    #[test]
    fn another_address_differs_where_the_restaurant_delivers() {
        let elsewhere = json!({ "street": "Rainbow Street" });
        assert_eq!(
            difference(&json!({ "deliveryAddress": elsewhere })),
            Some(Difference::Address)
        );
        let by_platform =
            |address: &Value| content(&json!({ "fulfillment": "platform_courier", "deliveryAddress": address }));
        let first = by_platform(&json!({ "street": "King Abdullah Street" }));
        assert_eq!(by_platform(&elsewhere).difference(&first), None);
    }

    /// What a provider's repeats of one order differ in.
    #[test]
    fn a_masked_phone_a_shortened_name_and_a_few_minutes_are_no_difference() {
        for changes in [
            json!({}),
            json!({ "customerPhone": "+962790000000" }),
            json!({ "customerName": "Ahmed A." }),
            json!({ "customerName": "Ahmed A.", "customerPhone": null }),
            json!({ "placedAt": "2025-10-01T12:05:00Z" }),
            json!({ "placedAt": null }),
            json!({ "canonicalStatus": "accepted" }),
            json!({ "deliveryAddress": null }),
        ] {
            assert_eq!(difference(&changes), None, "{changes}");
        }
    }
}
