//! The fields of a body, in their order.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{BodySource, BranchRef, VERSION};
use crate::order::{
    flag::Flag,
    model::{self, Extra, Order, StatusChange, Translation},
    money::Money,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    original_webhook: OriginalWebhook<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transformed_order: Option<Box<NewOrder<'a>>>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
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
    /// Whether the hub accepts it at the provider.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auto_accept: bool,
    /// The flags of the order or the change again, at a location that all bodies share.
    #[serde(skip_serializing_if = "Flags::is_empty")]
    flags: Flags<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder<'a> {
    order_number: &'a str,
    external_order_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_ref: Option<&'a str>,
    branch_id: &'a str,
    company_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_phone: Option<&'a str>,
    #[serde(rename = "customerPhoneE164", skip_serializing_if = "Option::is_none")]
    customer_phone_e164: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_email: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    customer_redacted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_address: Option<DeliveryAddress<'a>>,
    order_type: &'static str,
    fulfillment: &'static str,
    status: &'static str,
    canonical_status: &'static str,
    provider_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    placed_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    accept_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    ready_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    deliver_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    items: Vec<BodyItem<'a>>,
    pricing: Pricing<'a>,
    payment: Payment<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<Captain<'a>>,
    #[serde(skip_serializing_if = "Flags::is_empty")]
    flags: Flags<'a>,
    #[serde(skip_serializing_if = "is_nothing", serialize_with = "extra")]
    extra: &'a Extra,
}

#[derive(Serialize)]
struct DeliveryAddress<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    street: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    building: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apartment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    area: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postcode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latitude: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longitude: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BodyItem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_ref: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    #[serde(skip_serializing_if = "Names::is_empty")]
    names: Names<'a>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_ref: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    #[serde(skip_serializing_if = "Names::is_empty")]
    names: Names<'a>,
    quantity: &'a RawValue,
    price: Money,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modifiers: Vec<ItemModifier<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pricing<'a> {
    currency: &'static str,
    exponent: u32,
    subtotal: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_fees: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tip: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discount: Option<Money>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    discounts: Vec<Discount<'a>>,
    total: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    collect_cash: Option<Money>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discount<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    funded_by: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    eta: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_state: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    external_order_id: &'a str,
    branch_id: &'a str,
    company_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    changed_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<Captain<'a>>,
    #[serde(skip_serializing_if = "Flags::is_empty")]
    flags: Flags<'a>,
    #[serde(skip_serializing_if = "is_nothing", serialize_with = "extra")]
    extra: &'a Extra,
}

/// Names by language, as a JSON object.
struct Names<'a>(&'a [Translation]);

impl Names<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|name| (&name.language, &name.text)))
    }
}

struct Flags<'a>(&'a [Flag]);

impl Flags<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Flags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|flag| flag.as_str()))
    }
}

impl<'a> Body<'a> {
    pub(super) fn of_order(order: &'a Order, branch: &'a BranchRef, origin: BodySource<'a>) -> Self {
        let mut body = Self::without_content(origin, order.provider_event_id.as_deref(), &order.flags);
        body.transformed_order = Some(Box::new(new_order(order, branch)));
        body
    }

    pub(super) fn of_change(change: &'a StatusChange, branch: &'a BranchRef, origin: BodySource<'a>) -> Self {
        let mut body = Self::without_content(origin, change.provider_event_id.as_deref(), &change.flags);
        body.status_change = Some(Change {
            external_order_id: &change.external_id,
            branch_id: &branch.branch_id,
            company_id: &branch.company_id,
            status: change.status.map(|status| status.platform().as_str()),
            canonical_status: change.status.map(|status| status.as_str()),
            provider_status: change.provider_status.as_deref(),
            changed_at: change.changed_at,
            reason: change.reason.as_deref(),
            captain: change.courier.as_ref().map(captain),
            flags: Flags(&change.flags),
            extra: &change.extra,
        });
        body
    }

    fn without_content(origin: BodySource<'a>, event_id: Option<&'a str>, flags: &'a [Flag]) -> Self {
        Body {
            original_webhook: OriginalWebhook {
                provider_id: origin.provider,
                webhook_type: origin.webhook_type,
                order_id: origin.external_order_id,
                event_id,
                timestamp: origin.timestamp,
            },
            transformed_order: None,
            status_change: None,
            metadata: Metadata {
                provider: origin.provider,
                transformed_at: origin.transformed_at,
                version: VERSION,
                auto_accept: origin.auto_accept,
                flags: Flags(flags),
            },
        }
    }
}

fn new_order<'a>(order: &'a Order, branch: &'a BranchRef) -> NewOrder<'a> {
    NewOrder {
        order_number: &order.order_number,
        external_order_id: &order.external_id,
        display_id: order.display_id.as_deref(),
        store_ref: order.store_ref.as_deref(),
        branch_id: &branch.branch_id,
        company_id: &branch.company_id,
        customer_name: order.customer.name.as_deref(),
        customer_phone: order.customer.phone.as_deref(),
        customer_phone_e164: order.customer.phone_e164.as_deref(),
        customer_email: order.customer.email.as_deref(),
        customer_redacted: order.customer.redacted,
        delivery_address: order.address.as_ref().map(delivery_address),
        order_type: order.fulfillment.order_type(),
        fulfillment: order.fulfillment.as_str(),
        status: order.status.platform().as_str(),
        canonical_status: order.status.as_str(),
        provider_status: &order.provider_status,
        delivery_type: order.delivery_type.as_deref(),
        placed_at: order.placed_at,
        accept_by: order.accept_by,
        ready_by: order.ready_by,
        deliver_by: order.deliver_by,
        scheduled: order.scheduled,
        notes: order.notes.as_deref(),
        items: order.lines.iter().map(item).collect(),
        pricing: pricing(&order.pricing),
        payment: Payment {
            method: order.payment.method.as_deref(),
            is_prepaid: order.payment.is_prepaid,
        },
        captain: order.courier.as_ref().map(captain),
        flags: Flags(&order.flags),
        extra: &order.extra,
    }
}

fn pricing(pricing: &model::Pricing) -> Pricing<'_> {
    Pricing {
        currency: pricing.currency.code(),
        exponent: pricing.currency.exponent(),
        subtotal: pricing.subtotal,
        delivery_fee: pricing.delivery_fee,
        service_fee: pricing.service_fee,
        other_fees: pricing.other_fees,
        tax_amount: pricing.tax,
        tax_mode: pricing.tax_mode.map(model::TaxMode::as_str),
        tip: pricing.tip,
        discount: pricing.discount,
        discounts: pricing
            .discounts
            .iter()
            .map(|one| Discount {
                name: one.name.as_deref(),
                amount: one.amount,
                funded_by: one.funded_by.as_deref(),
            })
            .collect(),
        total: pricing.total,
        collect_cash: pricing.collect_cash,
    }
}

fn delivery_address(address: &model::Address) -> DeliveryAddress<'_> {
    DeliveryAddress {
        street: address.street.as_deref(),
        number: address.number.as_deref(),
        building: address.building.as_deref(),
        floor: address.floor.as_deref(),
        apartment: address.apartment.as_deref(),
        area: address.area.as_deref(),
        city: address.city.as_deref(),
        postcode: address.postcode.as_deref(),
        country: address.country.as_deref(),
        latitude: address.latitude.as_deref(),
        longitude: address.longitude.as_deref(),
        notes: address.notes.as_deref(),
    }
}

fn item(line: &model::Line) -> BodyItem<'_> {
    BodyItem {
        external_id: line.external_id.as_deref(),
        merchant_ref: line.merchant_ref.as_deref(),
        name: &line.name,
        name_ar: arabic(&line.names),
        names: Names(&line.names),
        quantity: &line.quantity,
        unit_price: line.unit_price,
        total_price: line.total_price,
        notes: line.notes.as_deref(),
        modifiers: line.modifiers.iter().map(modifier).collect(),
    }
}

/// As deep as the document that it was read from, which is read to [`crate::json::tree::MAX_DEPTH`].
fn modifier(modifier: &model::Modifier) -> ItemModifier<'_> {
    ItemModifier {
        group: modifier.group.as_deref(),
        external_id: modifier.external_id.as_deref(),
        merchant_ref: modifier.merchant_ref.as_deref(),
        name: &modifier.name,
        name_ar: arabic(&modifier.names),
        names: Names(&modifier.names),
        quantity: &modifier.quantity,
        price: modifier.price,
        modifiers: modifier.modifiers.iter().map(self::modifier).collect(),
    }
}

fn arabic(names: &[Translation]) -> Option<&str> {
    names
        .iter()
        .find(|name| name.language == "ar")
        .map(|name| name.text.as_str())
}

fn captain(courier: &model::Courier) -> Captain<'_> {
    Captain {
        id: courier.id.as_deref(),
        name: courier.name.as_deref(),
        phone: courier.phone.as_deref(),
        eta: courier.eta,
        state: courier.state.map(model::CourierState::as_str),
        provider_state: courier.provider_state.as_deref(),
    }
}

const fn is_false(flag: &bool) -> bool {
    !*flag
}

const fn is_nothing(extra: &&Extra) -> bool {
    extra.0.is_empty()
}

fn extra<S: Serializer>(extra: &&Extra, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(extra.0.len()))?;
    for (pointer, value) in &extra.0 {
        map.serialize_entry(pointer, value)?;
    }
    map.end()
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
