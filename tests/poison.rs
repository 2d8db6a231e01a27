//! What must not be on the log but is, and what PostgreSQL cannot keep: it ends, says why, and stops nothing behind it.

use async_nats::{HeaderMap, jetstream};
use serde_json::{Value, json};
use webhook_hub::event::{EventId, EventType};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{self, ORDER, order},
    ids,
    log::payload,
};

/// Publishes straight to NATS, past the intake, as the hub's user could; the message's sequence.
async fn publish(world: &World, subject: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> u64 {
    let nats = jetstream::new(world.nats.connect("hub").await);
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.insert(*name, *value);
    }
    let acknowledged = nats
        .publish_with_headers(subject.to_owned(), all, body.into().into())
        .await
        .unwrap();
    acknowledged.await.unwrap().sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_events() {
    let world = World::new().await;
    let hub = world.hub().await;
    let id = uuid::Uuid::new_v4().to_string();
    let complete = [
        ("ce-specversion", "1.0"),
        ("ce-id", id.as_str()),
        ("ce-rootid", id.as_str()),
        ("ce-source", "/providers/careem"),
        ("ce-type", "webhook.received"),
        ("ce-subject", "CR1"),
        ("ce-time", "2025-10-01T12:00:00Z"),
    ];
    let mut poisoned = Vec::new();
    for partition in ["p00", "p03"] {
        for subject in [
            format!("webhooks.received.careem.{partition}"),
            format!("orders.transformed.careem._.{partition}"),
        ] {
            poisoned.push(publish(&world, &subject, &[], "no headers at all").await);
            // Each header that an event has is missing once.
            for left_out in 1..complete.len() {
                let headers: Vec<_> = complete
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|(at, _)| *at != left_out)
                    .map(|(_, header)| header)
                    .collect();
                poisoned.push(publish(&world, &subject, &headers, ORDER).await);
            }
            let mut unknown = complete;
            unknown[4].1 = "Order eaten";
            poisoned.push(publish(&world, &subject, &unknown, ORDER).await);
        }
    }
    // Only the tables consume these, and must not stop at them.
    publish(&world, "orders.forwarded.careem._.p00", &[], "garbage").await;
    publish(&world, "menus.synced.careem._.p00", &[], "garbage").await;
    publish(&world, "webhooks.elsewhere", &[], "garbage").await;
    world.post_orders(&hub, ids("behind", 10)).await;

    let rejected = world.log.wait_for(EventType::OrderRejected, poisoned.len()).await;
    for sequence in &poisoned {
        let root = EventId::of_unreadable(*sequence);
        let found: Vec<_> = rejected.iter().filter(|event| event.envelope.root_id == root).collect();
        assert_eq!(found.len(), 1, "message {sequence} is rejected once");
        assert_eq!(payload(found[0])["error"]["code"], "UNREADABLE_EVENT");
        assert_eq!(payload(found[0])["error"]["details"]["sequence"], *sequence);
    }
    assert_eq!(world.log.unreadable().await.len(), poisoned.len() + 3);
    world.at_end(Ends::forwarded(10).rejected(poisoned.len())).await;
}

/// Well-formed events with payloads that no stage could have made.
#[tokio::test(flavor = "multi_thread")]
async fn events_with_a_payload_that_makes_no_sense() {
    let world = World::new().await;
    let hub = world.hub().await;
    let events = [
        ("webhook.received", "webhooks.received.careem.p01", "no JSON"),
        ("webhook.received", "webhooks.received.careem.p01", ""),
        ("webhook.received", "webhooks.received.careem.p01", "[1]"),
        ("order.transformed", "orders.transformed.careem._.p01", "no JSON"),
        ("order.transformed", "orders.transformed.careem._.p01", "{}"),
    ];
    for (event_type, subject, body) in events {
        let id = uuid::Uuid::new_v4().to_string();
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", id.as_str()),
            ("ce-rootid", id.as_str()),
            ("ce-source", "/providers/careem"),
            ("ce-type", event_type),
            ("ce-subject", "CR-nonsense"),
            ("ce-time", "2025-10-01T12:00:00Z"),
            ("ce-webhooktype", "order_created"),
        ];
        publish(&world, subject, &headers, body).await;
    }
    world.post_orders(&hub, ids("behind", 10)).await;
    world.at_end(Ends::forwarded(10).rejected(3).dead_lettered(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_jsonb_refuses() {
    let world = World::new().await;
    let hub = world.hub().await;
    let with = |id: &str, field: &str| {
        let order = order(id);
        format!("{}, \"notes\": {field}}}", order.trim_end().strip_suffix('}').unwrap())
    };
    let unread = |id: &str, field: &str| with(id, "null").replace("\"notes\": null", &format!("\"unread\": {field}"));
    let bodies = [
        with("CR-nul", r#""no onions\u0000 please""#),
        with("CR-escaped", r#""C:\\u0000""#),
        with("CR-between", "\"before\u{fffd}after\""),
        unread("CR-lone-surrogate", r#""\ud800""#),
        unread("CR-long-number", &"9".repeat(100)),
        unread("CR-deep", &format!("{}{}", "[".repeat(60), "]".repeat(60))),
        unread("CR-nul-key", r#"{"a\u0000b": 1}"#),
    ];
    for body in &bodies {
        let answer = world.careem.post(&hub, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    world.post_orders(&hub, ids("behind", 10)).await;
    // Each has its row, which at_end compares with the log, and was forwarded like any other.
    world.at_end(Ends::forwarded(bodies.len() + 10)).await;
    let requests = world.backend.requests();
    let nul = requests
        .iter()
        .find(|request| request.external_order_id() == "CR-nul")
        .unwrap();
    assert_eq!(nul.json()["transformedOrder"]["orderNumber"], "CAREEM--nul");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_with_faults() {
    let world = World::new().await;
    let hub = world.hub().await;
    let mut faulty: Value = serde_json::from_str(ORDER).unwrap();
    faulty["items"][0]["item_price"] = json!("cheap");
    faulty["items"][0]["name"] = Value::Null;
    faulty["price"]["subtotal"] = json!(1.2345);
    faulty["price"].as_object_mut().unwrap().remove("total_taxable_price");
    faulty["created_at"] = json!("yesterday");
    world.careem.post(&hub, &faulty.to_string()).await.event_id();
    world.careem.post(&hub, r#"{"id": "CR-bare"}"#).await.event_id();
    world.post_orders(&hub, ids("behind", 1)).await;
    world.at_end(Ends::forwarded(1).rejected(2)).await;

    let rejected = world.log.wait_for(EventType::OrderRejected, 2).await;
    let of = |id: &str| {
        payload(
            rejected
                .iter()
                .find(|event| event.envelope.external_order_id == id)
                .unwrap(),
        )
    };
    assert_eq!(
        (&of("CR-bare")["error"]["type"], &of("CR-bare")["error"]["code"]),
        (&json!("validation"), &json!("INVALID_ORDER"))
    );
    let pointers = |id: &str| {
        let error = of(id);
        let faults = error["error"]["details"]["faults"].as_array().unwrap();
        let mut pointers: Vec<_> = faults
            .iter()
            .map(|fault| fault["pointer"].as_str().unwrap().to_owned())
            .collect();
        pointers.sort();
        pointers
    };
    // What only informs (the name, the time) is left out and flagged; what is charged by is a fault.
    let all = ["/items/0/item_price", "/price/total_taxable_price"];
    assert_eq!(pointers(careem::ORDER_ID), all);
    assert_eq!(pointers("CR-bare"), ["/items", "/price/total_taxable_price"]);
    let query =
        "SELECT status, error_message IS NOT NULL AS explained FROM webhook_logs WHERE external_order_id = 'CR-bare'";
    assert_eq!(
        world.database.rows(query).await.unwrap(),
        [json!({ "status": "failed", "explained": true })]
    );
    assert_eq!(world.backend.count(), 1);
}
