//! The fields of a body, in their order.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{
    BodySource, BranchRef, VERSION,
    amendment::{Amended, amended},
    content::{BodyItem, Pricing, item, pricing},
};
use crate::{
    event::push::PushStatus,
    order::{
        flag::Flag,
        model::{self, Amendment, Extra, Order, StatusChange},
    },
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    original_webhook: OriginalWebhook<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transformed_order: Option<Box<NewOrder<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_change: Option<Change<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment: Option<Box<Amended<'a>>>,
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
    /// The zone of the branch, if times without a zone were read by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    brand_ref: Option<&'a str>,
    branch_id: &'a str,
    company_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_phone: Option<&'a str>,
    #[serde(rename = "customerPhoneE164", skip_serializing_if = "Option::is_none")]
    customer_phone_e164: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_phone_pin: Option<&'a str>,
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
    confirm_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    ready_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    deliver_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_takes: Option<&'a [PushStatus]>,
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

pub(super) struct Flags<'a>(pub(super) &'a [Flag]);

impl Flags<'_> {
    pub(super) const fn is_empty(&self) -> bool {
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

    pub(super) fn of_amendment(amendment: &'a Amendment, place: &'a BranchRef, origin: BodySource<'a>) -> Self {
        let mut body = Self::without_content(origin, amendment.provider_event_id.as_deref(), &amendment.flags);
        body.amendment = Some(Box::new(amended(amendment, place)));
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
            amendment: None,
            metadata: Metadata {
                provider: origin.provider,
                transformed_at: origin.transformed_at,
                version: VERSION,
                time_zone: origin.zone.map(|zone| zone.to_string()),
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
        brand_ref: order.brand_ref.as_deref(),
        branch_id: &branch.branch_id,
        company_id: &branch.company_id,
        customer_name: order.customer.name.as_deref(),
        customer_phone: order.customer.phone.as_deref(),
        customer_phone_e164: order.customer.phone_e164.as_deref(),
        customer_phone_pin: order.customer.phone_pin.as_deref(),
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
        confirm_at: order.confirm_at,
        ready_by: order.ready_by,
        deliver_by: order.deliver_by,
        scheduled: order.scheduled,
        table_number: order.table_number.as_deref(),
        provider_takes: order.provider_takes.as_deref(),
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

pub(super) const fn is_nothing(extra: &&Extra) -> bool {
    extra.0.is_empty()
}

pub(super) fn extra<S: Serializer>(extra: &&Extra, serializer: S) -> Result<S::Ok, S::Error> {
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

pub(super) fn optional_time<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}
