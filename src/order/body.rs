//! What is posted to the backend, and so the payload of `order.transformed`, byte for byte.
//!
//! Amounts are JSON numbers with all of the currency's decimals (`16.240`). Fields that a provider did not send are
//! left out; none is ever `null`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    model::{Address, Courier, Order, StatusChange},
    money::Money,
};
use crate::event::outcome::OrderSummary;

/// Version of this format, `metadata.version`.
pub const VERSION: &str = "1.0.0";

/// Branch and company that an order belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `branch_delivery_configs.branch_id`.
    pub branch_id: String,
    /// `branch_delivery_configs.company_id`.
    pub company_id: String,
    /// `branch_delivery_configs.auto_accept_orders`: the provider is told that an order is accepted as soon as the backend
    /// has it.
    pub auto_accept: bool,
}

/// Where a body comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// What the provider wanted to tell, `order_created`.
    pub webhook_type: &'a str,
    /// The provider's order id.
    pub external_order_id: &'a str,
    /// The provider's own time of it; when the webhook was received, where it sent none.
    pub timestamp: DateTime<Utc>,
    /// When it was transformed.
    pub transformed_at: DateTime<Utc>,
    /// The hub tells the provider that the order is accepted, as soon as the backend has it.
    pub auto_accept: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    original_webhook: OriginalWebhook<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transformed_order: Option<NewOrder<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_change: Option<Change<'a>>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OriginalWebhook<'a> {
    provider_id: &'a str,
    webhook_type: &'a str,
    order_id: &'a str,
    #[serde(serialize_with = "time")]
    timestamp: DateTime<Utc>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    provider: &'a str,
    #[serde(serialize_with = "time")]
    transformed_at: DateTime<Utc>,
    version: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auto_accept: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder<'a> {
    order_number: &'a str,
    external_order_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_id: Option<&'a str>,
    branch_id: &'a str,
    company_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_address: Option<DeliveryAddress<'a>>,
    order_type: &'static str,
    status: &'static str,
    provider_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    placed_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    items: Vec<Item<'a>>,
    pricing: Pricing,
    payment: Payment<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<Captain<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryAddress<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    street: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    building: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    area: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latitude: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longitude: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    quantity: &'a RawValue,
    unit_price: Money,
    total_price: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    modifiers: Vec<ItemModifier<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemModifier<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    quantity: &'a RawValue,
    price: Money,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pricing {
    currency: &'static str,
    subtotal: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discount: Option<Money>,
    total: Money,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payment<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    is_prepaid: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Captain<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    external_order_id: &'a str,
    branch_id: &'a str,
    company_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    provider_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<Captain<'a>>,
}

/// The body for a new order.
///
/// # Errors
/// Only what serde reports for a value that has no JSON; none of ours is such.
pub fn new_order(order: &Order, place: &Place, origin: Origin<'_>) -> serde_json::Result<Vec<u8>> {
    let transformed = NewOrder {
        order_number: &order.order_number,
        external_order_id: &order.external_id,
        display_id: order.display_id.as_deref(),
        branch_id: &place.branch_id,
        company_id: &place.company_id,
        customer_name: order.customer.name.as_deref(),
        customer_phone: order.customer.phone.as_deref(),
        customer_email: order.customer.email.as_deref(),
        delivery_address: order.address.as_ref().map(delivery_address),
        order_type: order.fulfillment.order_type(),
        status: order.status.as_str(),
        provider_status: &order.provider_status,
        delivery_type: order.delivery_type.as_deref(),
        placed_at: order.placed_at,
        notes: order.notes.as_deref(),
        items: order.lines.iter().map(item).collect(),
        pricing: Pricing {
            currency: order.pricing.currency.code(),
            subtotal: order.pricing.subtotal,
            delivery_fee: order.pricing.delivery_fee,
            service_fee: order.pricing.service_fee,
            tax_amount: order.pricing.tax,
            discount: order.pricing.discount,
            total: order.pricing.total,
        },
        payment: Payment {
            method: order.payment.method.as_deref(),
            is_prepaid: order.payment.is_prepaid,
        },
        captain: order.courier.as_ref().map(captain),
    };
    serde_json::to_vec(&Body {
        transformed_order: Some(transformed),
        status_change: None,
        ..body(origin)
    })
}

/// The body for a change of an order that exists.
///
/// # Errors
/// As [`new_order`].
pub fn status_change(change: &StatusChange, place: &Place, origin: Origin<'_>) -> serde_json::Result<Vec<u8>> {
    let change = Change {
        external_order_id: &change.external_id,
        branch_id: &place.branch_id,
        company_id: &place.company_id,
        status: change.status.map(|status| status.as_str()),
        provider_status: &change.provider_status,
        reason: change.reason.as_deref(),
        captain: change.courier.as_ref().map(captain),
    };
    serde_json::to_vec(&Body {
        transformed_order: None,
        status_change: Some(change),
        ..body(origin)
    })
}

fn body<'a>(origin: Origin<'a>) -> Body<'a> {
    Body {
        original_webhook: OriginalWebhook {
            provider_id: origin.provider,
            webhook_type: origin.webhook_type,
            order_id: origin.external_order_id,
            timestamp: origin.timestamp,
        },
        transformed_order: None,
        status_change: None,
        metadata: Metadata {
            provider: origin.provider,
            transformed_at: origin.transformed_at,
            version: VERSION,
            auto_accept: origin.auto_accept,
        },
    }
}

fn delivery_address(address: &Address) -> DeliveryAddress<'_> {
    DeliveryAddress {
        street: address.street.as_deref(),
        building: address.building.as_deref(),
        area: address.area.as_deref(),
        city: address.city.as_deref(),
        latitude: address.latitude.as_deref(),
        longitude: address.longitude.as_deref(),
        notes: address.notes.as_deref(),
    }
}

fn item(line: &super::model::Line) -> Item<'_> {
    Item {
        external_id: line.external_id.as_deref(),
        name: &line.name,
        name_ar: line.name_ar.as_deref(),
        quantity: &line.quantity,
        unit_price: line.unit_price,
        total_price: line.total_price,
        notes: line.notes.as_deref(),
        modifiers: line
            .modifiers
            .iter()
            .map(|modifier| ItemModifier {
                group: modifier.group.as_deref(),
                external_id: modifier.external_id.as_deref(),
                name: &modifier.name,
                name_ar: modifier.name_ar.as_deref(),
                quantity: &modifier.quantity,
                price: modifier.price,
            })
            .collect(),
    }
}

fn captain(courier: &Courier) -> Captain<'_> {
    Captain {
        id: courier.id.as_deref(),
        name: courier.name.as_deref(),
        phone: courier.phone.as_deref(),
    }
}

/// Seconds where nothing finer was sent, as the providers write it: `2025-10-01T12:00:00Z`.
fn time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn optional_time<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// Reads the order in short from a body that was made here.
///
/// # Errors
/// Where the bytes are no such body.
pub fn summary(body: &[u8]) -> serde_json::Result<OrderSummary> {
    let read: Read<'_> = serde_json::from_slice(body)?;
    Ok(match (read.transformed_order, read.status_change) {
        (Some(order), _) => {
            let (captain, pricing) = (order.captain.unwrap_or_default(), order.pricing);
            OrderSummary {
                order_number: Some(order.order_number),
                branch_id: order.branch_id,
                company_id: order.company_id,
                provider_status: order.provider_status,
                status: Some(order.status),
                delivery_type: order.delivery_type,
                currency: Some(pricing.currency),
                delivery_fee: amount(pricing.delivery_fee),
                service_fee: amount(pricing.service_fee),
                total: amount(pricing.total),
                payment_method: order.payment.method,
                is_prepaid: order.payment.is_prepaid,
                captain_id: captain.id,
                captain_name: captain.name,
                captain_phone: captain.phone,
                auto_accept: read.metadata.auto_accept,
            }
        }
        (None, Some(change)) => {
            let captain = change.captain.unwrap_or_default();
            OrderSummary {
                branch_id: change.branch_id,
                company_id: change.company_id,
                provider_status: change.provider_status,
                status: change.status,
                captain_id: captain.id,
                captain_name: captain.name,
                captain_phone: captain.phone,
                ..OrderSummary::default()
            }
        }
        (None, None) => return Err(serde::de::Error::missing_field("transformedOrder")),
    })
}

fn amount(raw: Option<&RawValue>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(borrow)]
    transformed_order: Option<ReadOrder<'a>>,
    status_change: Option<ReadChange>,
    #[serde(default)]
    metadata: ReadMetadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ReadMetadata {
    #[serde(default)]
    auto_accept: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadOrder<'a> {
    order_number: String,
    branch_id: String,
    company_id: String,
    status: String,
    provider_status: String,
    delivery_type: Option<String>,
    #[serde(borrow)]
    pricing: ReadPricing<'a>,
    payment: ReadPayment,
    captain: Option<ReadCaptain>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPricing<'a> {
    currency: String,
    #[serde(borrow)]
    delivery_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    service_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    total: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPayment {
    method: Option<String>,
    is_prepaid: bool,
}

#[derive(Deserialize, Default)]
struct ReadCaptain {
    id: Option<String>,
    name: Option<String>,
    phone: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadChange {
    branch_id: String,
    company_id: String,
    status: Option<String>,
    provider_status: String,
    captain: Option<ReadCaptain>,
}
