//! Statuses for Deliverect, as its reference describes them.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::{
    harness::{
        at_end::Ends,
        hub::Hub,
        platform::{CLIENT_ID, CLIENT_SECRET},
    },
    provider_words::{Played, ask, json_of, numbered},
};

const DELIVERECT: &str = include_str!("../providers/deliverect.toml");

/// What the backend says, in this order: of an order with the channel's courier, one that is picked up, one for a table, and one with the
/// restaurant's courier.
fn said() -> [(&'static str, Value); 13] {
    [
        ("dv-1", json!({ "status": "accepted", "orderId": "order-7" })),
        ("dv-1", json!({ "status": "preparing" })),
        ("dv-1", json!({ "status": "ready" })),
        ("dv-1", json!({ "status": "picked_up" })),
        ("dv-1", json!({ "status": "delivered" })),
        ("dv-3", json!({ "status": "picked_up" })),
        ("dv-3", json!({ "status": "delivered" })),
        ("dv-4", json!({ "status": "picked_up" })),
        ("dv-4", json!({ "status": "delivered" })),
        ("dv-4", json!({ "status": "rejected" })),
        ("dv-2", json!({ "status": "picked_up" })),
        ("dv-2", json!({ "status": "delivered" })),
        ("dv-2", json!({ "status": "cancelled", "reason": "fire" })),
    ]
}

/// Deliverect gives tokens for JSON that names the interface that they are for, and takes numbers for words: 90 when the order leaves
/// with its own courier, or when the restaurant's has brought it.
#[tokio::test(flavor = "multi_thread")]
async fn deliverect_is_told_by_numbers_what_the_kitchen_does() {
    let played = Played::new("deliverect", DELIVERECT, "5bf02f380000000000000001", "JOD").await;
    played.outside.provider.gives_tokens_for_json("authorization");
    let hub = Hub::start(&played.settings).await;
    let order = json_of(include_str!("fixtures/providers/deliverect/order.json"));
    // The channel's courier, the restaurant's, no courier, and a table.
    for (id, by, kind) in [
        ("dv-1", "ubereats", 2),
        ("dv-2", "restaurant", 2),
        ("dv-3", "", 1),
        ("dv-4", "", 3),
    ] {
        let mut order = numbered(&numbered(&order, "/_id", id), "/courier/deliveryBy", by);
        order["orderType"] = kind.into();
        assert_eq!(played.post(&hub, &order).await, 200);
    }
    played.outside.world.log.wait_for(EventType::OrderForwarded, 4).await;
    let mut count = 0;
    for (id, said) in said() {
        ask(&hub, &format!("deliverect/{id}"), &said).await;
        count += 1;
        played.outside.payloads(EventType::OrderStatusPushed, count).await;
    }
    played.outside.world.at_end(Ends::forwarded(4)).await;
    let told: Vec<_> = played
        .told()
        .into_iter()
        .map(|(path, body)| (path, body["status"].clone()))
        .collect();
    let told_of = |id: &str, status: u32| (format!("POST /orderStatus/{id}"), json!(status));
    let expected = [
        ("dv-1", 20),
        ("dv-1", 50),
        ("dv-1", 70),
        ("dv-1", 90),
        ("dv-3", 90),
        ("dv-4", 90),
        ("dv-4", 120),
    ];
    let expected = expected.into_iter().chain([("dv-2", 90), ("dv-2", 110)]);
    let expected: Vec<_> = expected.map(|(id, status)| told_of(id, status)).collect();
    assert_eq!(told, expected);
    let calls = played.outside.provider.calls();
    let last = calls.last().unwrap().json();
    assert_eq!((&last["orderId"], &last["reason"]), (&json!("dv-2"), &json!("fire")));
    // Without an id of the backend's it is called what Deliverect calls it.
    let receipts = calls.iter().map(|call| call.json()["receiptId"].clone());
    let receipts: Vec<_> = receipts.collect();
    assert_eq!(
        receipts,
        [
            "order-7", "dv-1", "dv-1", "dv-1", "dv-3", "dv-4", "dv-4", "dv-2", "dv-2"
        ]
    );
    for call in &calls {
        let body = call.json();
        let id = body["orderId"].as_str().unwrap_or_default();
        assert_eq!(call.path, format!("/orderStatus/{id}"));
        assert!(body["timeStamp"].is_string(), "{body}");
    }
    let asked = json!({
        "grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
        "audience": played.outside.provider.url(),
    });
    assert_eq!(played.outside.provider.token_fields(), asked);
    assert_eq!(played.outside.provider.token_requests(), 1);
}
