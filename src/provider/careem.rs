//! Careem, in the format of the platform's design document: one JSON object an order, signed with HMAC-SHA256.
//!
//! Signature: `x-careem-signature`, hex HMAC-SHA256 over the raw body; merchant: `x-merchant-id`. The order's status
//! tells what the webhook is: `created` and `pending` announce a new order, any other is news about one that exists.
//! Careem sends no currency; it is configured.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Admission, Content, Fact, Provider, Refusal, TransformError, merchant_header, own_scheme, sent_merchant};
use crate::{
    event::Recorded,
    order::{
        model::{Address, Courier, Customer, Fulfillment, Line, Modifier, Order, Payment, Pricing, StatusChange},
        money::{Currency, Money},
        node::{Faults, Node, Object},
        status::OrderStatus,
    },
    verification::{Scheme, Unverified, Verified},
};

/// Name in URLs, subjects and tables.
pub const NAME: &str = "careem";

/// Careem.
#[derive(Debug, Clone)]
pub struct Careem {
    currency: Currency,
    scheme: Scheme,
}

impl Careem {
    /// Careem with the currency of this installation (`CAREEM_CURRENCY`).
    pub fn new(currency: Currency) -> Self {
        Self {
            currency,
            scheme: own_scheme(NAME),
        }
    }
}

/// The two fields that the intake needs; the rest of the body is passed over.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
}

/// What a status word announces.
fn webhook_type(status: &str) -> &'static str {
    match status.to_ascii_lowercase().as_str() {
        "created" | "pending" => "order_created",
        "cancelled" | "canceled" => "order_cancelled",
        _ => "order_status_updated",
    }
}

/// Careem's word in the platform's words; none for a word that is not known (it is passed on verbatim).
fn status(word: &str) -> Option<OrderStatus> {
    let word = word.to_ascii_lowercase();
    Some(match word.as_str() {
        "created" => OrderStatus::Pending,
        "accepted" => OrderStatus::Confirmed,
        "ready" => OrderStatus::ReadyForPickup,
        "picked_up" | "trip_started" => OrderStatus::OutForDelivery,
        "trip_ended" => OrderStatus::Delivered,
        "canceled" => OrderStatus::Cancelled,
        same => OrderStatus::from_word(same)?,
    })
}

/// `CAREEM-123456789` for `CR123456789`: the provider's name takes the place of Careem's own prefix.
fn order_number(external_id: &str) -> String {
    let digits = external_id.strip_prefix("CR").filter(|rest| !rest.is_empty());
    format!("CAREEM-{}", digits.unwrap_or(external_id))
}

impl Provider for Careem {
    fn name(&self) -> &str {
        NAME
    }

    fn display_name(&self) -> &str {
        "Careem"
    }

    fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    fn read(&self, request: &Verified<'_>) -> Result<Admission, Refusal> {
        if request.body().iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Refusal::InvalidPayload("expected a JSON object".into()));
        }
        let head: Head<'_> = serde_json::from_slice(request.body()).map_err(|error| {
            Refusal::InvalidPayload(format!(
                "not the JSON that was expected, at line {} column {}",
                error.line(),
                error.column()
            ))
        })?;
        let mut faults = Faults::default();
        let id = head
            .id
            .and_then(|raw| Node::root(raw.get().as_bytes()).ok()?.verbatim(&mut faults));
        let id = id.ok_or_else(|| Refusal::InvalidPayload("id: expected the order id, as text or a number".into()))?;
        let webhook_type = webhook_type(head.status.as_deref().unwrap_or("created"));
        let event_id = request.event_id(NAME, &id, webhook_type);
        Admission::new(request, event_id, id, webhook_type)
    }

    fn store_ref(&self, request: &Unverified<'_>) -> Option<String> {
        sent_merchant(request).map(str::to_owned).or_else(|| {
            let root = Node::root(request.body()).ok()?;
            branch_id(&root.object(&mut Faults::default()))
        })
    }

    fn transform(&self, received: &Recorded) -> Result<Fact, TransformError> {
        let root = Node::root(&received.payload).map_err(|_| TransformError::NotJson)?;
        let mut faults = Faults::default();
        let body = root.object(&mut faults);
        let store_ref = merchant_header(&received.envelope)
            .map(str::to_owned)
            .or_else(|| branch_id(&body));
        let (content, timestamp) = if received.envelope.webhook_type == "order_created" {
            let order = self.order(&body, &mut faults);
            let placed_at = order.placed_at;
            (Content::NewOrder(Box::new(order)), placed_at)
        } else {
            let change = change(&body, &mut faults);
            let changed_at = change.changed_at;
            (Content::StatusChange(change), changed_at)
        };
        faults
            .none_or(Fact {
                timestamp,
                store_ref,
                content,
            })
            .map_err(TransformError::Faults)
    }
}

impl Careem {
    fn order(&self, body: &Object<'_>, faults: &mut Faults) -> Order {
        let external_id = body.get("id").required_text(faults);
        let provider_status = body.get("status").text(faults).unwrap_or_else(|| "created".into());
        let delivery_type = body.get("delivery_type").text(faults);
        let lines: Vec<_> = body
            .get("items")
            .elements(faults)
            .iter()
            .map(|node| self.line(node, faults))
            .collect();
        if lines.is_empty() {
            faults.add("/items", "expected at least one item");
        }
        Order {
            order_number: order_number(&external_id),
            external_id,
            display_id: body.get("order_number").text(faults),
            status: status(&provider_status).unwrap_or(OrderStatus::Pending),
            provider_status,
            fulfillment: match delivery_type.as_deref() {
                Some("pickup" | "self_pickup" | "takeaway") => Fulfillment::Pickup,
                Some("merchant" | "self" | "self_delivery") => Fulfillment::MerchantCourier,
                _ => Fulfillment::PlatformCourier,
            },
            delivery_type,
            placed_at: body.get("created_at").time(faults),
            customer: customer(&body.get("customer"), faults),
            address: address(&body.get("customer").object(faults).get("address"), faults),
            pricing: self.pricing(&body.get("price"), faults),
            payment: payment(body, faults),
            courier: courier(&body.get("captain"), faults),
            notes: body.get("notes").text(faults),
            lines,
        }
    }

    fn line(&self, node: &Node<'_>, faults: &mut Faults) -> Line {
        let item = node.object(faults);
        let mut modifiers = Vec::new();
        for group in item.get("groups").elements(faults) {
            let group = group.object(faults);
            let group_name = group.get("name").text(faults);
            for option in group.get("options").elements(faults) {
                modifiers.push(self.modifier(&option, group_name.clone(), faults));
            }
        }
        let total_price = item.get("total_price").required_money(self.currency, faults);
        Line {
            external_id: item.get("id").text(faults),
            name: item.get("name").required_text(faults),
            name_ar: item.get("name_ar").text(faults),
            quantity: quantity(&item.get("quantity"), faults),
            unit_price: item.get("item_price").required_money(self.currency, faults),
            total_price,
            notes: item.get("notes").text(faults),
            modifiers,
        }
    }

    fn modifier(&self, node: &Node<'_>, group: Option<String>, faults: &mut Faults) -> Modifier {
        let option = node.object(faults);
        let free = Money {
            minor: 0,
            currency: self.currency,
        };
        Modifier {
            group,
            external_id: option.get("id").text(faults),
            name: option.get("name").required_text(faults),
            name_ar: option.get("name_ar").text(faults),
            quantity: quantity(&option.get("quantity"), faults),
            price: option.get("price").money(self.currency, faults).unwrap_or(free),
        }
    }

    fn pricing(&self, node: &Node<'_>, faults: &mut Faults) -> Pricing {
        let price = node.object(faults);
        let mut money = |name: &str| price.get(name).money(self.currency, faults);
        let (delivery_fee, service_fee) = (money("delivery_fee"), money("service_fee"));
        let (tax, discount) = (money("tax_amount"), money("discount_amount"));
        Pricing {
            currency: self.currency,
            delivery_fee,
            service_fee,
            tax,
            discount,
            subtotal: price.get("subtotal").required_money(self.currency, faults),
            total: price.get("total_taxable_price").required_money(self.currency, faults),
        }
    }
}

/// The store that the payload names.
fn branch_id(body: &Object<'_>) -> Option<String> {
    let branch = body.get("branch").object(&mut Faults::default());
    branch.get("id").text(&mut Faults::default())
}

fn change(body: &Object<'_>, faults: &mut Faults) -> StatusChange {
    let provider_status = body.get("status").required_text(faults);
    StatusChange {
        external_id: body.get("id").required_text(faults),
        status: status(&provider_status),
        provider_status,
        reason: body.get("cancellation_reason").text(faults),
        courier: courier(&body.get("captain"), faults),
        changed_at: body.get("updated_at").time(faults),
    }
}

/// One, where nothing is said.
fn quantity(node: &Node<'_>, faults: &mut Faults) -> Box<RawValue> {
    node.decimal(faults)
        .unwrap_or_else(|| RawValue::from_string("1".into()).expect("1 is JSON"))
}

fn customer(node: &Node<'_>, faults: &mut Faults) -> Customer {
    let customer = node.object(faults);
    Customer {
        name: customer.get("name").text(faults),
        // Careem sends the number 0 where the phone is withheld.
        phone: customer.get("phone_number").text(faults).filter(|phone| phone != "0"),
        email: customer.get("email").text(faults),
    }
}

fn address(node: &Node<'_>, faults: &mut Faults) -> Option<Address> {
    if !node.is_present() {
        return None;
    }
    let address = node.object(faults);
    Some(Address {
        street: address.get("street").text(faults),
        building: address.get("building").text(faults),
        area: address.get("area").text(faults),
        city: address.get("city").text(faults),
        latitude: address.get("latitude").decimal(faults),
        longitude: address.get("longitude").decimal(faults),
        notes: address.get("note").text(faults),
    })
}

fn payment(body: &Object<'_>, faults: &mut Faults) -> Payment {
    let method = body.get("merchant_pay_type").text(faults);
    // `cash` is collected by the courier; every other way of paying is settled before.
    let is_prepaid = method.as_deref().is_some_and(|word| !word.eq_ignore_ascii_case("cash"));
    Payment { method, is_prepaid }
}

fn courier(node: &Node<'_>, faults: &mut Faults) -> Option<Courier> {
    let captain = node.object(faults);
    let courier = Courier {
        id: captain.get("id").text(faults),
        name: captain.get("name").text(faults),
        phone: captain.get("phone_number").text(faults).filter(|phone| phone != "0"),
    };
    (courier.id.is_some() || courier.name.is_some() || courier.phone.is_some()).then_some(courier)
}

#[cfg(test)]
mod tests;
