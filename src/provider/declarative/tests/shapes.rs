//! Shapes that providers were seen to send, each with what it must become. The shapes are from public material, the names,
//! numbers and ids are invented. `docs/providers.md` says how sure each fact is.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::provider::{
    declarative::sample::{Outcome, Sample, Tried},
    outbound::FetchPlace,
};

/// A shape, and values of what it becomes by their JSON pointers; `null` where there must be none.
struct Shape {
    name: &'static str,
    provider: &'static str,
    path: &'static str,
    sent: &'static str,
    document: Option<&'static str>,
    currency: &'static str,
    kind: &'static str,
    expected: Value,
}

macro_rules! fixture {
    ($provider:literal, $name:literal) => {
        include_str!(concat!(
            "../../../../tests/fixtures/providers/",
            $provider,
            "/shape.",
            $name,
            ".json"
        ))
    };
}

macro_rules! shape {
    ($provider:literal, $name:literal, $path:literal, $currency:literal, $kind:literal, $expected:tt) => {
        Shape {
            name: concat!($provider, " ", $name),
            provider: $provider,
            path: $path,
            sent: fixture!($provider, $name),
            document: None,
            currency: $currency,
            kind: $kind,
            expected: json!($expected),
        }
    };
}

macro_rules! fetched {
    ($name:literal, $webhook:literal, $document:literal, $expected:tt) => {
        Shape {
            name: concat!("uber-eats ", $name),
            provider: "uber-eats",
            path: "",
            sent: fixture!("uber-eats", $webhook),
            document: Some(fixture!("uber-eats", $document)),
            currency: "EUR",
            kind: "order_created",
            expected: json!($expected),
        }
    };
}

fn provider(name: &str, currency: &str) -> Declarative {
    let file = Catalogue::shipped().get(name).unwrap().file().clone();
    Declarative::new(file, Some(currency.parse().unwrap()))
}

impl Shape {
    fn tried(&self) -> Tried {
        let sample = Sample {
            body: self.sent.as_bytes(),
            headers: &HeaderMap::new(),
            path: self.path,
            document: self.document.map(str::as_bytes),
            now: Utc::now(),
        };
        let tried = provider(self.provider, self.currency).try_sample(&sample);
        tried.unwrap_or_else(|why| panic!("{}: {why}", self.name))
    }

    /// What is not as it must be.
    fn differences(&self) -> Vec<String> {
        let tried = self.tried();
        let Outcome::Posted(posted) = tried.outcome else {
            return vec![format!("{}: {:?}", self.name, tried.outcome)];
        };
        let body: Value = serde_json::from_slice(&posted.body).unwrap();
        let kind = json!(tried.kind);
        let expected = self.expected.as_object().unwrap().iter();
        let places = expected.map(|(pointer, expected)| {
            let found = body.pointer(pointer).unwrap_or(&Value::Null);
            (pointer.as_str(), expected.clone(), found)
        });
        places
            .chain([("kind", json!(self.kind), &kind)])
            .filter(|(_, expected, found)| *found != expected)
            .map(|(pointer, expected, found)| format!("{} {pointer}: {found}, not {expected}", self.name))
            .collect()
    }
}

fn uber() -> Vec<Shape> {
    vec![
        fetched!("classic", "classic.webhook", "classic.document", {
            "/transformedOrder/externalOrderId": "o-78",
            "/transformedOrder/items/0/quantity": 2,
            "/transformedOrder/items/0/unitPrice": 10.00,
            "/transformedOrder/items/0/totalPrice": 23.00,
            "/transformedOrder/items/0/modifiers/0/price": 1.50,
            "/transformedOrder/pricing/currency": "USD",
            "/transformedOrder/pricing/subtotal": 23.00,
            "/transformedOrder/pricing/taxAmount": 2.30,
            "/transformedOrder/pricing/total": 25.30,
            "/transformedOrder/fulfillment": "merchant_courier",
            "/transformedOrder/customerName": "Zed",
            "/transformedOrder/customerPhone": "+10000000000",
            "/transformedOrder/placedAt": "2026-10-04T12:00:00Z",
            "/transformedOrder/readyBy": "2026-10-04T12:20:00Z",
            "/transformedOrder/providerStatus": "CREATED",
            "/transformedOrder/flags": null,
        }),
        fetched!("scheduled", "scheduled.webhook", "scheduled.document", {
            "/transformedOrder/items/0/unitPrice": 169.00,
            "/transformedOrder/items/0/totalPrice": 388.00,
            "/transformedOrder/items/0/notes": "Sin cebolla\nAllergy: PEANUTS\nAllergy: severe",
            "/transformedOrder/notes":
                "Sin timbre\nCutlery: yes\nPhone PIN: 111 22 333\nNot before: 2026-10-04T18:00:00Z",
            "/transformedOrder/customerPhonePin": "111 22 333",
            "/transformedOrder/scheduled": true,
            "/transformedOrder/deliverBy": "2026-10-04T18:30:00Z",
            "/transformedOrder/pricing/subtotal": 388.00,
            "/transformedOrder/pricing/total": 388.00,
            "/transformedOrder/captain": null,
            "/transformedOrder/flags": ["line_total_computed"],
        }),
        fetched!("tax with more decimals", "scheduled.webhook", "scheduled.tax.document", {
            "/transformedOrder/pricing/taxAmount": 53.52,
            "/transformedOrder/pricing/total": 388.00,
            "/transformedOrder/flags": ["line_total_computed", "amount_rounded"],
        }),
    ]
}

fn careem_and_jahez() -> Vec<Shape> {
    vec![
        shape!("careem-pos", "driver_coming", "", "AED", "courier_updated", {
            "/statusChange/externalOrderId": "62509999",
            "/statusChange/status": null,
            "/statusChange/captain/state": "coming",
            "/statusChange/captain/providerState": "driver_coming",
            "/statusChange/captain/name": "Cap",
            "/statusChange/captain/eta": "2026-11-01T09:14:30Z",
            "/statusChange/flags": null,
        }),
        shape!("jahez", "timed_out", "", "SAR", "order_cancelled", {
            "/statusChange/externalOrderId": "557",
            "/statusChange/canonicalStatus": "cancelled",
            "/statusChange/providerStatus": "T",
            "/statusChange/flags": null,
        }),
        shape!("jahez", "with_price", "", "SAR", "order_created", {
            "/transformedOrder/items/0/totalPrice": 30.00,
            "/transformedOrder/pricing/subtotal": 30.00,
            "/transformedOrder/pricing/discount": 5.00,
            "/transformedOrder/pricing/total": 25.00,
            "/transformedOrder/flags": ["name_missing"],
        }),
    ]
}

fn delivery_hero() -> Vec<Shape> {
    let of_order = "/remoteId/R-1/remoteOrder/tok-1/posOrderStatus";
    let mut shapes = vec![
        shape!("delivery-hero", "vendor_delivery", "/order/R-1", "OMR", "order_created", {
            "/transformedOrder/fulfillment": "merchant_courier",
            "/transformedOrder/pricing/deliveryFee": 0.500,
            "/transformedOrder/pricing/otherFees": null,
            "/transformedOrder/pricing/discount": 1.000,
            "/transformedOrder/pricing/discounts": [
                { "name": "First", "amount": 0.600, "fundedBy": "provider" },
                { "name": "First", "amount": 0.400, "fundedBy": "merchant" },
            ],
            "/transformedOrder/pricing/total": 5.500,
            "/transformedOrder/deliveryAddress/notes": "call\nCompany: Co\nEntrance: left\nIntercom: 77",
            "/transformedOrder/acceptBy": "2026-10-04T17:15:00Z",
            "/transformedOrder/flags": null,
        }),
        shape!("delivery-hero", "fees_listed", "/order/R-1", "OMR", "order_created", {
            "/transformedOrder/pricing/deliveryFee": 0.500,
            "/transformedOrder/pricing/otherFees": null,
            "/transformedOrder/flags": null,
        }),
        shape!("delivery-hero", "tax_digits", "/order/R-1", "OMR", "order_created", {
            "/transformedOrder/pricing/taxAmount": 0.262,
            "/transformedOrder/pricing/total": 5.500,
            "/transformedOrder/flags": ["amount_rounded"],
        }),
        shape!("delivery-hero", "modification", "", "OMR", "order_amended", {
            "/amendment/externalOrderId": "tok-1",
            "/amendment/kind": "adjusted",
            "/amendment/providerKind": "PRODUCT_ORDER_MODIFICATION_SUCCESSFUL",
            "/amendment/reason": "ok",
            "/amendment/items/0/quantity": 1,
            "/amendment/pricing/total": 2.500,
            // The shape's own total is not that of its parts.
            "/amendment/flags": ["total_mismatch"],
        }),
        shape!("delivery-hero", "rider_waiting", "", "OMR", "courier_updated", {
            "/statusChange/externalOrderId": "tok-1",
            "/statusChange/status": null,
            "/statusChange/captain/state": "arrived",
            "/statusChange/changedAt": "2026-10-04T17:40:00Z",
            "/statusChange/flags": null,
        }),
        shape!("delivery-hero", "no_response", "", "OMR", "order_cancelled", {
            "/statusChange/externalOrderId": "tok-1",
            "/statusChange/canonicalStatus": "cancelled",
            "/statusChange/reason": "NO_RESPONSE",
            "/statusChange/flags": null,
        }),
    ];
    for shape in &mut shapes {
        if shape.path.is_empty() {
            shape.path = of_order;
        }
    }
    shapes
}

fn deliveroo_and_just_eat() -> Vec<Shape> {
    vec![
        shape!("deliveroo", "rider_delivered", "", "AED", "courier_updated", {
            "/statusChange/captain/state": "delivered",
            "/statusChange/flags": null,
        }),
        shape!("deliveroo", "restaurant_delivery", "", "EUR", "order_created", {
            "/transformedOrder/pricing/currency": "AED",
            "/transformedOrder/pricing/subtotal": 45.00,
            "/transformedOrder/pricing/deliveryFee": 7.90,
            "/transformedOrder/pricing/total": 41.00,
            "/transformedOrder/deliveryAddress/street": "15 S",
            "/transformedOrder/deliveryAddress/postcode": "X1",
            "/transformedOrder/confirmAt": "2026-10-04T12:00:00Z",
            "/transformedOrder/deliverBy": "2026-10-04T12:50:00Z",
            "/transformedOrder/customerPhonePin": "1234",
            "/transformedOrder/notes": "n\nNO CUTLERY\nPhone PIN: 1234",
            "/transformedOrder/brandRef": "br",
            "/transformedOrder/fulfillment": "merchant_courier",
            // What the restaurant gets is without the fee for the delivery.
            "/transformedOrder/flags": ["total_mismatch"],
        }),
        shape!("just-eat", "free_item", "", "GBP", "order_created", {
            "/transformedOrder/items/0/totalPrice": 6.00,
            "/transformedOrder/items/1/name": "Free Twist",
            "/transformedOrder/items/1/totalPrice": 0.00,
            "/transformedOrder/items/2": null,
            "/transformedOrder/pricing/subtotal": 7.20,
            "/transformedOrder/pricing/deliveryFee": 2.40,
            "/transformedOrder/pricing/serviceFee": 0.15,
            "/transformedOrder/pricing/tip": 1.00,
            "/transformedOrder/pricing/tips": [{ "amount": 1.00, "receiver": "courier" }],
            "/transformedOrder/pricing/total": 10.75,
            "/transformedOrder/deliverBy": "2026-09-21T15:13:20Z",
            "/transformedOrder/deliveryAddress/notes": "blue house",
            "/transformedOrder/deliveryAddress/latitude": 49.8,
            "/transformedOrder/customerPhonePin": "99",
            "/transformedOrder/flags": ["lines_without_tax", "line_total_computed"],
        }),
        shape!("just-eat", "driver_at_restaurant", "", "GBP", "courier_updated", {
            "/statusChange/captain/state": "arrived",
            "/statusChange/captain/name": "D",
            "/statusChange/flags": null,
        }),
        shape!("just-eat", "collection", "", "GBP", "order_created", {
            "/transformedOrder/fulfillment": "pickup",
            "/transformedOrder/customerName": "Zed Q",
            "/transformedOrder/customerPhone": "020 0000 0000",
            "/transformedOrder/customerPhonePin": "123456",
            "/transformedOrder/notes": "green dress",
            "/transformedOrder/pricing/total": 10.00,
        }),
    ]
}

fn doordash() -> Vec<Shape> {
    vec![
        shape!("doordash", "cancellation", "", "USD", "order_cancelled", {
            "/statusChange/externalOrderId": "dd-1",
            "/statusChange/canonicalStatus": "cancelled",
            "/statusChange/flags": null,
        }),
        shape!("doordash", "merchant_fleet", "", "USD", "order_created", {
            "/transformedOrder/fulfillment": "merchant_courier",
            "/transformedOrder/items/0/modifiers/0/modifiers/0/name": "Thin",
            "/transformedOrder/pricing/otherFees": 0.48,
            "/transformedOrder/pricing/discount": 5.00,
            "/transformedOrder/pricing/discounts": [
                { "name": "1", "amount": 3.00, "fundedBy": "merchant" },
                { "name": "1", "amount": 2.00, "fundedBy": "provider" },
            ],
            "/transformedOrder/pricing/taxRemittedBy": "provider",
            "/transformedOrder/pricing/total": 16.05,
            "/transformedOrder/notes": "Cutlery: no",
            "/transformedOrder/flags": ["total_computed", "line_total_computed"],
        }),
        shape!("doordash", "dasher_arrived", "", "USD", "courier_updated", {
            "/statusChange/externalOrderId": "dd-1",
            "/statusChange/captain/state": "arrived",
            "/statusChange/captain/name": "J D.",
            "/statusChange/flags": null,
        }),
        shape!("doordash", "adjustment", "", "USD", "order_amended", {
            "/amendment/externalOrderId": "dd-1",
            "/amendment/kind": "adjusted",
            "/amendment/providerKind": "OrderAdjustment",
            "/amendment/reason": "MERCHANT",
            "/amendment/changedAt": "2026-10-04T17:41:29Z",
            "/amendment/items/0/name": "Bagel",
            "/amendment/pricing/subtotal": 9.00,
            "/amendment/pricing/total": 9.41,
        }),
    ]
}

fn keeta() -> Vec<Shape> {
    vec![
        shape!("keeta", "order_info", "", "SAR", "order_created", {
            "/transformedOrder/externalOrderId": "756823555555859",
            "/transformedOrder/fulfillment": "merchant_courier",
            "/transformedOrder/placedAt": "2026-09-21T14:13:20.803Z",
            "/transformedOrder/readyBy": "2026-09-21T14:33:20Z",
            "/transformedOrder/deliverBy": "2026-09-21T15:03:20Z",
            "/transformedOrder/customerPhone": "501234567",
            "/transformedOrder/customerPhoneE164": "+971501234567",
            "/transformedOrder/deliveryAddress/street": "Marina",
            "/transformedOrder/deliveryAddress/number": "T5",
            "/transformedOrder/deliveryAddress/latitude": 25.08,
            "/transformedOrder/items/0/unitPrice": 20.00,
            "/transformedOrder/items/0/totalPrice": 46.00,
            "/transformedOrder/items/0/notes": "Size: Large\nspicy",
            "/transformedOrder/items/0/modifiers/0/merchantRef": "opt-1",
            "/transformedOrder/items/0/modifiers/0/nameAr": "جبن",
            "/transformedOrder/items/0/modifiers/0/price": 3.00,
            "/transformedOrder/pricing/currency": "AED",
            "/transformedOrder/pricing/otherFees": 3.00,
            "/transformedOrder/pricing/tips": [{ "amount": 5.00, "receiver": "courier" }],
            "/transformedOrder/pricing/discounts": [
                { "amount": 9.00, "fundedBy": "merchant" },
                { "amount": 10.00, "fundedBy": "provider" },
            ],
            "/transformedOrder/pricing/total": 56.00,
            "/transformedOrder/notes": "Cutlery: yes",
            "/transformedOrder/flags": null,
        }),
        shape!("keeta", "cancelled", "", "SAR", "order_cancelled", {
            "/statusChange/externalOrderId": "756823555555859",
            "/statusChange/canonicalStatus": "cancelled",
            "/statusChange/reason": "customer changed mind",
            "/statusChange/changedAt": "2026-09-21T14:21:40Z",
            "/statusChange/flags": null,
        }),
        shape!("keeta", "courier", "", "SAR", "courier_updated", {
            "/statusChange/status": null,
            "/statusChange/captain/state": "arrived",
            "/statusChange/captain/name": "R",
            "/statusChange/captain/phone": "9",
            "/statusChange/flags": null,
        }),
        shape!("keeta", "refund", "", "SAR", "order_amended", {
            "/amendment/kind": "refund_requested",
            "/amendment/items": null,
            "/amendment/refund/externalId": "5",
            "/amendment/refund/providerStatus": "1001",
            "/amendment/refund/currency": "AED",
            "/amendment/refund/amount": 10.00,
            "/amendment/refund/decideBy": "2026-09-21T16:58:20Z",
            "/amendment/refund/items": [{ "name": "TUNA", "quantity": 1, "amount": 10.00 }],
            "/amendment/flags": null,
        }),
    ]
}

#[test]
fn each_shape_becomes_what_it_must() {
    let shapes = [
        uber(),
        careem_and_jahez(),
        delivery_hero(),
        deliveroo_and_just_eat(),
        doordash(),
        keeta(),
    ];
    let shapes: Vec<Shape> = shapes.into_iter().flatten().collect();
    let differences: Vec<String> = shapes.iter().flat_map(Shape::differences).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Without a query the delivery family leaves out what an order is made of.
#[test]
fn an_order_of_the_delivery_family_is_asked_for_with_its_parts() {
    let file = Catalogue::shipped().get("uber-eats").unwrap().file().clone();
    let fetch = file.outbound.as_ref().unwrap().fetch.as_ref().unwrap();
    let FetchPlace::Href(href) = &fetch.place else {
        panic!("{fetch:?}");
    };
    let query = |path: &str| {
        let known = href.paths.iter().find(|known| known.template.has_shape_of(path));
        known.unwrap().query.clone()
    };
    let whole = Some("expand=carts,deliveries,payment".to_owned());
    assert_eq!(query("/v1/delivery/order/o-77"), whole);
    assert_eq!(query("/v2/eats/order/o-78"), None);
    // Asked for without it, it is no order: nothing of it may reach a kitchen.
    let bare = Shape {
        sent: fixture!("uber-eats", "bare.webhook"),
        document: Some(fixture!("uber-eats", "bare.document")),
        ..uber().remove(0)
    };
    assert!(matches!(bare.tried().outcome, Outcome::Faults(_)));
}

#[test]
fn a_heartbeat_is_answered_and_nothing_else() {
    let shape = Shape {
        sent: fixture!("keeta", "heartbeat"),
        ..keeta().remove(0)
    };
    let tried = shape.tried();
    assert!(matches!(tried.outcome, Outcome::Heartbeat));
    assert_eq!(tried.answer.unwrap().body, r#"{"code":0}"#);
}
