//! Tests what the key depends on and what it does not, with webhooks as a provider sends them.

use std::sync::LazyLock;

use chrono::Utc;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{ORDER_CREATED, Recorded},
    provider::{Catalogue, Content, Provider as _, declarative::Declarative},
};

fn webhook() -> Value {
    json!({
        "id": "CR-1", "status": "created", "created_at": "2025-10-01T12:00:00Z",
        "customer": { "name": "Ahmed Ali", "phone_number": "+962791234567" },
        "items": [
            { "id": "burger", "name": "Burger", "quantity": 2, "item_price": 5.5, "total_price": 11.0, "groups": [
                { "name": "Add-ons", "options": [
                    { "id": "cheese", "name": "Cheese", "price": 0.5, "quantity": 1 },
                    { "id": "onions", "name": "Onions", "price": 0, "quantity": 1 },
                ] },
            ] },
            { "id": "cola", "name": "Cola", "quantity": 1, "item_price": 1, "total_price": 1 },
            { "name": "Water", "quantity": 1, "item_price": 1, "total_price": 1 },
        ],
        "price": { "subtotal": 13.0, "delivery_fee": 2.0, "total_taxable_price": 15.0 },
        "delivery_type": "careem", "merchant_pay_type": "cash",
    })
}

/// A provider's file for webhooks that name no currency of their own.
fn file_of(provider: &str, currency: &str) -> Declarative {
    static SHIPPED: LazyLock<Catalogue> = LazyLock::new(Catalogue::shipped);
    Declarative::new(
        SHIPPED.get(provider).unwrap().file().clone(),
        Some(currency.parse().unwrap()),
    )
}

/// The key of the order in a webhook of this provider for a branch.
fn key_of(provider: &str, webhook: &Value, branch: &str) -> Option<Uuid> {
    let provider_of_file = file_of(provider, "JOD");
    let body = webhook.to_string();
    let id = webhook["id"].as_str().unwrap_or("CR-1");
    let received = Recorded::sample(provider, id, ORDER_CREATED, body.as_bytes(), Utc::now());
    let fact = provider_of_file.transform(&received).unwrap();
    let Content::NewOrder(order) = &fact.content else {
        panic!("not a new order: {fact:?}");
    };
    key(order, provider, branch, fact.timestamp)
}

fn key_of_careem(webhook: &Value) -> Uuid {
    key_of("careem", webhook, "branch-1").unwrap()
}

/// The webhook with another value at the pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut webhook = webhook();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = webhook.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        object => object[name] = value,
    }
    webhook
}

/// Any change of the form gives every order a new key: then [`FORM`] needs another version, and CHANGELOG.md a warning.
#[test]
fn the_form_stays_as_it_is() {
    let known = "38690f1d-a9a2-5092-9166-14e02921a392";
    assert_eq!(key_of_careem(&webhook()).to_string(), known);
}

#[test]
fn the_same_order_has_the_same_key_however_it_is_sent() {
    let first = key_of_careem(&webhook());
    let no_cheese_first = json!([
        { "id": "onions", "name": "Onions", "price": "0.00", "quantity": 1 },
        { "id": "cheese", "name": "Extra cheese", "price": 0.5, "quantity": "1.0" },
    ]);
    for same in [
        with("/attempt", 2.into()),
        with("/sent_at", "2025-10-03T08:00:00Z".into()),
        with("/event_id", "another".into()),
        with("/status", "pending".into()),
        with("/customer", json!({ "name": "****" })),
        with("/created_at", "2025-10-01T15:00:00.000+03:00".into()),
        with("/price/delivery_fee", Value::Null),
        with("/price/total_taxable_price", "15.000".into()),
        with("/items/0/name", "Beef burger".into()),
        with("/items/0/quantity", json!(2.0)),
        with("/items/0/groups/0/options", no_cheese_first),
        with("/delivery_type", "restaurant".into()),
    ] {
        assert_eq!(key_of_careem(&same), first, "{same}");
    }
}

#[test]
fn another_order_has_another_key() {
    let mut keys = vec![key_of_careem(&webhook())];
    for other in [
        with("/id", "CR-2".into()),
        with("/created_at", "2025-10-02T12:00:00Z".into()),
        with("/price/total_taxable_price", 15.5.into()),
        with("/items/0/id", "pizza".into()),
        with("/items/0/quantity", 3.into()),
        with("/items/0/item_price", 5.25.into()),
        with("/items/0/total_price", 10.5.into()),
        with("/items/0/groups/0/options/0/id", "bacon".into()),
        with("/items/0/groups/0/options/0/quantity", 2.into()),
        with("/items/0/groups/0/options/0/price", 0.75.into()),
        with("/items/0/groups", json!([])),
        with("/items/2/name", "Sparkling water".into()),
        with("/items", json!([webhook()["items"][0], webhook()["items"][1]])),
        with(
            "/items",
            json!([webhook()["items"][0], webhook()["items"][1], webhook()["items"][1]]),
        ),
    ] {
        keys.push(key_of_careem(&other));
    }
    keys.push(key_of("careem", &webhook(), "branch-2").unwrap());
    keys.push(key_of("talabat", &webhook(), "branch-1").unwrap());
    let dollars = file_of("careem", "USD");
    let body = webhook().to_string();
    let received = Recorded::sample("careem", "CR-1", ORDER_CREATED, body.as_bytes(), Utc::now());
    match dollars.transform(&received).unwrap().content {
        Content::NewOrder(order) => keys.push(key(&order, "careem", "branch-1", None).unwrap()),
        other => panic!("not a new order: {other:?}"),
    }
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// An order from last year may have had the same number and the same dish.
#[test]
fn the_key_of_a_change_depends_on_its_webhook_and_on_what_it_says() {
    let webhook = |number: u8| EventId::of_webhook("careem", &[&[number]]);
    let body = |change: Value, received: &str| {
        let body = json!({
            "originalWebhook": { "timestamp": received },
            "statusChange": change,
            "metadata": { "transformedAt": received },
        });
        body.to_string()
    };
    let key = |number, branch, body: String| change_key(webhook(number), branch, body.as_bytes());
    let refunded = |more: Value| {
        let mut change = json!({ "branchId": "branch-1", "canonicalStatus": "refunded", "reason": "cold" });
        change
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        change
    };
    let first = key(1, "branch-1", body(refunded(json!({})), "2025-10-01T12:00:00Z"));
    assert_eq!(first.unwrap().to_string(), "7c2cdcf3-ec24-5e1d-8576-210a3ba95a3b");
    for same in [
        json!({ "changedAt": "2025-10-01T12:05:00Z" }),
        json!({ "extra": { "attempt": 2 } }),
        json!({ "flags": ["unknown_status"] }),
    ] {
        let again = key(1, "branch-1", body(refunded(same), "2025-10-02T12:00:00Z"));
        assert_eq!(again, first);
    }
    let says = |more| body(refunded(more), "2025-10-01T12:00:00Z");
    for other in [
        key(2, "branch-1", says(json!({}))),
        key(1, "branch-2", says(json!({}))),
        key(1, "branch-1", says(json!({ "canonicalStatus": "cancelled" }))),
        key(1, "branch-1", says(json!({ "reason": "late" }))),
        key(1, "branch-1", says(json!({})).replace("statusChange", "amendment")),
    ] {
        assert!(other.is_some() && other != first);
    }
    assert_eq!(change_key(webhook(1), "branch-1", b"{\"transformedOrder\":{}}"), None);
}

#[test]
fn an_order_that_names_no_time_has_no_key() {
    let mut timeless = webhook();
    timeless.as_object_mut().unwrap().remove("created_at");
    assert_eq!(key_of("careem", &timeless, "branch-1"), None);
}

/// Another time is enough: of two orders with the same number on one day at most one was placed.
#[test]
fn the_time_of_the_message_stands_in_for_one_of_the_order() {
    let mut timeless = webhook();
    timeless.as_object_mut().unwrap().remove("created_at");
    let body = timeless.to_string();
    let received = Recorded::sample("careem", "CR-1", ORDER_CREATED, body.as_bytes(), Utc::now());
    let fact = file_of("careem", "JOD").transform(&received).unwrap();
    let Content::NewOrder(mut order) = fact.content else {
        panic!("not a new order");
    };
    let at = |seconds: i64| DateTime::from_timestamp(1_759_320_000 + seconds, 0);
    let told = |order: &Order, seconds: i64| key(order, "careem", "branch-1", at(seconds)).unwrap();
    assert_eq!(told(&order, 1), told(&order, 1));
    assert_ne!(told(&order, 1), told(&order, 2));
    order.ready_by = at(3);
    assert_eq!(told(&order, 1), told(&order, 2), "a time of the order goes before it");
    order.placed_at = at(4);
    let placed = told(&order, 1);
    order.ready_by = at(5);
    assert_eq!(told(&order, 1), placed, "an estimate may change");
}

proptest! {
    /// The sequence of the lines does not matter.
    #[test]
    fn lines_in_any_sequence(lines in Just((0..3).collect::<Vec<usize>>()).prop_shuffle()) {
        let items: Vec<_> = lines.iter().map(|at| webhook()["items"][*at].clone()).collect();
        prop_assert_eq!(key_of_careem(&with("/items", items.into())), key_of_careem(&webhook()));
    }

    /// Parts cannot run into each other: no two lists of parts and sets give the same bytes.
    #[test]
    fn different_parts_give_different_bytes(
        one in prop::collection::vec("[ab]{0,3}", 0..4), other in prop::collection::vec("[ab]{0,3}", 0..4),
        members in prop::collection::vec("[ab]{0,3}", 0..4),
    ) {
        let canonical = |parts: &[String], members: &[String]| {
            let single = |text: &String| {
                let mut form = Canonical::default();
                form.part(text.as_bytes());
                form
            };
            let mut form = Canonical::default();
            parts.iter().for_each(|part| form.part(part.as_bytes()));
            form.set(members.iter().map(single));
            form.0
        };
        prop_assert_eq!(canonical(&one, &members) == canonical(&other, &members), one == other);
        let mut reversed = members.clone();
        reversed.reverse();
        prop_assert_eq!(canonical(&one, &members), canonical(&one, &reversed));
    }

    #[test]
    fn numbers_are_compared_by_value(whole in 0u32..1000, zeros in 0usize..5) {
        let text = whole.to_string();
        prop_assert_eq!(number(&format!("{text}.{}", "0".repeat(zeros + 1))), number(&text));
        prop_assert_eq!(number(&format!("{text}e0")), number(&text));
        prop_assert_ne!(number(&format!("{text}.5")), number(&text));
    }
}
