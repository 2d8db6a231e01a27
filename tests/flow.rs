//! No hazard: what happens to a webhook when nothing goes wrong, to the last byte, header and column.

use futures_util::StreamExt;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    SERVICE_TOKEN, World,
    at_end::Ends,
    backend::ORDERS,
    careem::{self, MERCHANT, ORDER, ORDER_ID, order},
    golden::compact,
    wait::{PATIENCE, eventually},
};

/// Reviewed by hand: what the backend gets for the sample order, and for a change of it.
const GOLDEN_ORDER: &str = include_str!("fixtures/backend.order.json");
const GOLDEN_CHANGE: &str = include_str!("fixtures/backend.change.json");
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The golden text with the one time in it that is not known before; that it is one is checked here.
fn golden(text: &str, body: &Value) -> String {
    let transformed_at = body["metadata"]["transformedAt"].as_str().unwrap();
    let time = chrono::DateTime::parse_from_rfc3339(transformed_at).unwrap();
    let age = chrono::Utc::now().signed_duration_since(time);
    assert!(
        age < chrono::TimeDelta::minutes(2) && transformed_at.ends_with('Z'),
        "{transformed_at}"
    );
    compact(text).replace("{transformedAt}", transformed_at)
}

async fn status(world: &World, event_id: &str) -> String {
    let rows = world
        .database
        .rows(&format!("SELECT status FROM webhook_logs WHERE id = '{event_id}'"))
        .await
        .unwrap();
    rows.first()
        .map_or("no row".into(), |row| row["status"].as_str().unwrap().to_owned())
}

async fn status_becomes(world: &World, event_id: &str, wanted: &str) {
    eventually(&format!("status {wanted}"), PATIENCE, async || {
        let status = status(world, event_id).await;
        if status == wanted { Ok(()) } else { Err(status) }
    })
    .await;
}

/// Takes a row's times out; they are there, and in order.
fn take_times(row: &mut Value, names: &[&str]) -> Vec<String> {
    let row = row.as_object_mut().unwrap();
    let times: Vec<String> = names
        .iter()
        .map(|name| row.remove(*name).unwrap().as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{names:?}: {times:?}");
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_order_from_end_to_end() {
    let world = World::new().await;
    world.backend.hold();
    // The branches cannot be read yet, so the transformation waits.
    world
        .database
        .run("BEGIN; LOCK TABLE branch_delivery_configs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let hub = world.hub().await;
    let signature = careem::sign(careem::SECRET, ORDER.as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("x-careem-signature", signature.as_str()),
        ("x-merchant-id", MERCHANT),
        ("x-request-id", "req-sample-1"),
        ("traceparent", TRACE),
    ];
    let answer = world.careem.post_raw(&hub, ORDER, &headers).await;
    let event_id = answer.event_id();
    let data = json!({ "requestId": "req-sample-1", "eventId": event_id, "status": "accepted", "duplicate": false });
    assert_eq!(
        answer.json(),
        json!({ "success": true, "message": "Webhook accepted", "data": data })
    );
    assert_eq!(
        (answer.header("x-request-id"), answer.header("content-type")),
        ("req-sample-1", "application/json")
    );

    status_becomes(&world, &event_id, "received").await;
    world.database.run("COMMIT").await.unwrap();
    let requests = world.backend.wait_for(1).await;
    status_becomes(&world, &event_id, "processing").await;
    world.backend.release();
    status_becomes(&world, &event_id, "completed").await;

    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", ORDERS));
    assert_eq!(
        std::str::from_utf8(&request.body).unwrap(),
        golden(GOLDEN_ORDER, &request.json())
    );
    for (name, value) in [
        ("x-integration-service", "true"),
        ("x-service-token", SERVICE_TOKEN),
        ("x-request-id", "req-sample-1"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(uuid::Uuid::parse_str(request.key()).is_ok(), "{}", request.key());
    let trace = request.header("traceparent");
    assert!(
        trace.starts_with(&TRACE[..36]) && trace != TRACE,
        "the same trace, another span: {trace}"
    );

    webhook_row(&world, &event_id, &signature).await;
    order_row(&world).await;
    assert_eq!(
        world.database.rows("SELECT * FROM delivery_error_logs").await.unwrap(),
        [] as [Value; 0]
    );
    world.at_end(Ends::forwarded(1)).await;
}

async fn webhook_row(world: &World, event_id: &str, signature: &str) {
    let mut rows = world.database.rows("SELECT * FROM webhook_logs").await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &mut rows[0];
    take_times(row, &["created_at", "received_at", "processed_at", "updated_at"]);
    let headers = row.as_object_mut().unwrap().remove("headers").unwrap();
    assert_eq!(
        (&headers["x-merchant-id"], &headers["x-request-id"]),
        (&json!(MERCHANT), &json!("req-sample-1"))
    );
    assert_eq!(
        *row,
        json!({
            "id": event_id, "provider_id": "provider-careem", "branch_id": "branch-uuid", "company_id": "company-uuid",
            "webhook_type": "order_created", "external_order_id": ORDER_ID, "internal_order_id": "order-1",
            "endpoint": "/api/webhooks/careem", "method": "POST", "payload": serde_json::from_str::<Value>(ORDER).unwrap(),
            "signature": signature, "ip_address": "127.0.0.1", "status": "completed", "retry_count": 0, "max_retries": 10,
            "next_retry_at": null, "response": { "success": true, "orderId": "order-1", "status": "pending" },
            "error_message": null, "error_stack": null,
        })
    );
}

async fn order_row(world: &World) {
    let query = "SELECT *, delivery_fee::text AS fee, service_fee::text AS service, total_amount::text AS total FROM provider_order_logs";
    let mut rows = world.database.rows(query).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &mut rows[0];
    take_times(row, &["created_at", "updated_at"]);
    let row = row.as_object_mut().unwrap();
    for number in ["id", "delivery_fee", "service_fee", "total_amount"] {
        assert!(row.remove(number).is_some_and(|value| !value.is_null()), "{number}");
    }
    assert_eq!(
        Value::Object(row.clone()),
        json!({
            "order_id": "order-1", "provider_id": "provider-careem", "branch_id": "branch-uuid", "company_id": "company-uuid",
            "external_order_id": ORDER_ID, "provider_status": "created", "mapped_status": "pending", "delivery_type": "careem",
            "estimated_delivery": null, "actual_delivery": null, "captain_name": null, "captain_phone": null,
            "captain_id": null, "fee": "2.000", "service": "1.000", "total": "16.240", "payment_method": "cash",
            "is_prepaid": false, "raw_data": serde_json::from_str::<Value>(ORDER).unwrap(),
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_an_order_goes_to_that_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.careem.post(&hub, ORDER).await.event_id();
    let cancelled = json!({
        "id": ORDER_ID, "status": "cancelled", "updated_at": "2025-10-01T12:30:00Z",
        "cancellation_reason": "customer changed their mind",
    });
    world.careem.post(&hub, &cancelled.to_string()).await.event_id();
    let requests = world.backend.wait_for(2).await;
    assert_eq!(requests[1].path, "/api/integration/orders/CR123456789/status");
    assert_eq!(
        std::str::from_utf8(&requests[1].body).unwrap(),
        golden(GOLDEN_CHANGE, &requests[1].json())
    );
    assert_ne!(requests[0].key(), requests[1].key());
    world.at_end(Ends::forwarded(2)).await;
    let rows = world
        .database
        .rows("SELECT provider_status, mapped_status FROM provider_order_logs")
        .await
        .unwrap();
    assert_eq!(
        rows,
        [json!({ "provider_status": "cancelled", "mapped_status": "cancelled" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_webhook_again_is_forwarded_once() {
    let world = World::new().await;
    let hub = world.hub().await;
    let first = world.careem.post(&hub, ORDER).await;
    world.backend.wait_for(1).await;
    let again = world.careem.post(&hub, ORDER).await;
    assert_eq!(again.event_id(), first.event_id());
    assert_eq!(
        (&first.json()["data"]["duplicate"], &again.json()["data"]["duplicate"]),
        (&json!(false), &json!(true))
    );
    // Killed before its outcome is recorded, the request would be made again, with the same key.
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    drop(hub);
    // Another instance has never seen it; the log has.
    let other = world.hub().await;
    let again = world.careem.post(&other, ORDER).await;
    assert_eq!(
        (again.event_id(), &again.json()["data"]["duplicate"]),
        (first.event_id(), &json!(true))
    );
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1)).await;
    assert_eq!(world.backend.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_own_rows_do_not_decide() {
    let world = World::new().await;
    let insert = "INSERT INTO orders (id, order_number, branch_id, provider_order_id)
                  VALUES ('from-the-till', 'TILL-7', 'branch-uuid', 'CR123456789'),
                         ('of-another-branch', 'TILL-8', 'branch-2', 'CR-other')";
    world.database.run(insert).await.unwrap();
    let hub = world.hub().await;
    // The row does not say which provider's number that is; the backend knows.
    world.careem.post(&hub, ORDER).await.event_id();
    world.careem.post(&hub, &careem::order("CR-other")).await.event_id();
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_sees_what_was_forwarded() {
    let world = World::new().await;
    let hub = world.hub().await;
    let subscriber = world.nats.connect("subscriber").await;
    let mut forwarded = subscriber.subscribe("orders.forwarded.>").await.unwrap();
    subscriber.flush().await.unwrap();
    let root = world.careem.post(&hub, ORDER).await.event_id();
    let message = tokio::time::timeout(PATIENCE, forwarded.next())
        .await
        .expect("it is told")
        .unwrap();
    let subject: Vec<_> = message.subject.split('.').collect();
    assert_eq!(subject[..4], ["orders", "forwarded", "careem", "branch-uuid"]);
    let headers = message.headers.unwrap();
    let header = |name: &str| headers.get(name).map_or("", |value| value.as_str());
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "order.forwarded"),
        ("ce-source", "/providers/careem"),
        ("ce-subject", ORDER_ID),
        ("content-type", "application/json"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    assert!(chrono::DateTime::parse_from_rfc3339(header("ce-time")).is_ok());
    let hub: Value = serde_json::from_str(header("hub")).unwrap();
    assert_eq!((&hub["v"], hub["rootId"].as_str()), (&json!(1), Some(root.as_str())));
    let transformed = &world.log.wait_for(EventType::OrderTransformed, 1).await[0].envelope;
    assert_eq!(hub["causeId"].as_str(), Some(&*transformed.id.to_string()));
    assert_eq!(hub.get("idempotencyKey"), None, "only what is posted has a key");
    assert_eq!(hub["branch"], "branch-uuid");
    let told: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(
        (&told["internalOrderId"], &told["backendStatus"], &told["attempts"]),
        (&json!("order-1"), &json!(200), &json!(1))
    );
    assert_eq!(told["order"]["total"], "16.240");
    world.at_end(Ends::forwarded(1)).await;
}

/// What is on the log is what the provider sent, also if it is unusual.
#[tokio::test(flavor = "multi_thread")]
async fn the_body_is_kept_byte_for_byte() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = format!(
        "\r\n  {}\t \n\n",
        order("CR-bytes").replace("Ahmed Ali", "A\\u0000h\\u006ded  <b>&amp; \u{202e}Ali")
    );
    world.careem.post(&hub, &body).await.event_id();
    world.log.settled().await;
    let events = world.log.events().await;
    let received = events
        .iter()
        .find(|event| event.envelope.event_type == EventType::WebhookReceived)
        .unwrap();
    assert_eq!(received.payload, body.as_bytes());
    world.at_end(Ends::forwarded(1)).await;
}
