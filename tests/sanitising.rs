//! Text from outside: the backend gets it without active markup, the log keeps it byte for byte.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{ORDER, ORDER_ID, change},
};

/// Text that no log line may contain.
const WISH: &str = "no onions";

/// The sample order with texts that act.
fn hostile(id: &str) -> String {
    let mut order: Value = serde_json::from_str(&ORDER.replace(ORDER_ID, id)).unwrap();
    order["notes"] = json!(format!("{WISH}<script>steal()</script>\u{0}\u{1b}@"));
    order["customer"]["name"] = json!("\u{202e}ahmed\u{202c} <img src=x onerror=steal()>");
    order["items"][0]["name"] = json!("Tom & Jerry's <3");
    order["items"][0]["notes"] = json!("x".repeat(5000));
    order["captain"] = json!({ "id": "c1", "name": "javascript:steal()" });
    // A platform that cuts notes in the middle of an emoji.
    order["customer"]["address"]["note"] = json!("HALF");
    order.to_string().replace("HALF", r"بناء ٣ \ud83c")
}

#[tokio::test(flavor = "multi_thread")]
async fn active_markup_does_not_reach_the_backend() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = hostile("CR-hostile");
    world.careem.post(&hub, &body).await.event_id();
    let news =
        change("CR-hostile", "cancelled").replacen('{', r#"{"cancellation_reason":"<svg/onload=x> 5 < 6 > 4","#, 1);
    world.careem.post(&hub, &news).await.event_id();
    world.at_end(Ends::forwarded(2)).await;

    let requests = world.backend.requests();
    let order = &requests[0].json()["transformedOrder"];
    assert_eq!(order["notes"], format!("{WISH}@"));
    assert_eq!(order["customerName"], "ahmed img src=x steal()>");
    assert_eq!(order["deliveryAddress"]["notes"], "بناء ٣ \u{fffd}");
    assert_eq!(order["items"][0]["name"], "Tom & Jerry's <3");
    let notes = order["items"][0]["notes"].as_str().unwrap();
    assert!(notes.len() <= 4096 && notes.ends_with("xx…"), "{}", notes.len());
    assert_eq!(order["captain"]["name"], "steal()");
    assert_eq!(requests[1].json()["statusChange"]["reason"], "svg/x> 5 < 6 > 4");

    let received = world.log.wait_for(EventType::WebhookReceived, 2).await;
    assert_eq!(received[0].payload, body);
    assert_eq!(received[1].payload, news);
    let metrics = world.metrics(&hub).await;
    assert!(
        metrics.contains("sanitised_fields_total{provider=\"careem\"} 5"),
        "{metrics}"
    );
    hub.says("/transformedOrder/notes").await;
    hub.says("/statusChange/reason").await;
    assert!(!hub.log().contains(WISH), "{}", hub.log());
}
