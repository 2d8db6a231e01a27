//! Times without a zone, of a provider that is active in several countries: each branch's row says its own.

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::harness::{
    World,
    at_end::Ends,
    hub::{Hub, run},
    provider::{Provider, Webhook},
};

const ORDER: &str = include_str!("fixtures/providers/rappi/order.delivery.json");
const READY: &str = include_str!("fixtures/providers/rappi/delivered.json");
/// A store in Mexico, one in Colombia, one with a zone that cannot be read, and one without.
const STORES: [(&str, &str); 4] = [
    ("900105814", r#"{"timeZone": "-06:00"}"#),
    ("900200001", r#"{"timeZone": "-05:00"}"#),
    ("900300001", r#"{"timeZone": "America/Lima"}"#),
    ("900400001", "{}"),
];

/// The sample order as one of this store.
fn order(store: &str) -> Webhook {
    let mut order: Value = serde_json::from_str(ORDER).unwrap();
    order["order_detail"]["order_id"] = format!("o-{store}").into();
    order["store"]["internal_id"] = store.into();
    Webhook::new(order)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_branch_has_its_own_zone() {
    let world = World::new().await;
    let mut known = Provider::all(&Catalogue::shipped()).into_iter();
    let rappi = known.find(|provider| provider.name == "rappi").unwrap();
    for (store, settings) in STORES {
        rappi.branch(&world, store).await;
        let row =
            format!("UPDATE branch_delivery_configs SET settings = '{settings}' WHERE id = 'config-rappi-{store}'");
        world.database.run(&row).await.unwrap();
    }
    let hub = Hub::start(&rappi.enable(world.settings(), "MXN")).await;
    for (store, _) in STORES {
        // The header is not signed: the store that the order names counts.
        let order = order(store).with("x-merchant-id", STORES[0].0);
        assert_eq!(rappi.post(&hub, &order).await.status, 200);
    }
    world.log.wait_for(EventType::OrderForwarded, STORES.len()).await;
    // News name the store, too, and have a time of their own.
    let mut ready: Value = serde_json::from_str(READY).unwrap();
    ready["order_id"] = "o-900200001".into();
    ready["store_id"] = "900200001".into();
    assert_eq!(rappi.post(&hub, &Webhook::new(ready)).await.status, 200);
    world.at_end(Ends::forwarded(STORES.len() + 1)).await;
    let bodies: Vec<_> = world.backend.requests().iter().map(|request| request.json()).collect();
    let of = |store: &str, pointer: &str| {
        let id = format!("o-{store}");
        let mut of_store = bodies
            .iter()
            .filter(|body| body["originalWebhook"]["orderId"] == *id && body.pointer("/transformedOrder").is_some());
        of_store.next().unwrap().pointer(pointer).cloned()
    };
    let expected = [
        (json!("2026-09-18T16:19:09Z"), json!("-06:00")),
        (json!("2026-09-18T15:19:09Z"), json!("-05:00")),
    ];
    for ((store, _), (placed_at, zone)) in STORES.into_iter().zip(expected) {
        assert_eq!(of(store, "/transformedOrder/placedAt"), Some(placed_at), "{store}");
        assert_eq!(of(store, "/metadata/timeZone"), Some(zone), "{store}");
        assert_eq!(of(store, "/transformedOrder/storeRef"), Some(json!(store)));
    }
    for (store, _) in &STORES[2..] {
        assert_eq!(of(store, "/transformedOrder/placedAt"), None, "{store}");
        assert_eq!(of(store, "/metadata/timeZone"), None, "{store}");
        let flags = of(store, "/transformedOrder/flags").unwrap();
        assert!(flags.as_array().unwrap().contains(&json!("time_unreadable")), "{flags}");
    }
    hub.says("expected an offset from UTC such as +03:00").await;
    let news = bodies.iter().find(|body| body.get("statusChange").is_some()).unwrap();
    assert_eq!(news["originalWebhook"]["timestamp"], "2026-09-18T15:58:03Z");
    // A replay has no table, and reads the zone from the log.
    let operator = world.nats.settings("hub").set("RAPPI_CURRENCY", "MXN");
    let ran = run(&operator, &["replay", "--diff", "--json"]).await;
    let found: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.said()));
    assert_eq!(
        (&found["isSame"], &found["compared"]),
        (&json!(true), &json!(STORES.len() + 1)),
        "{found}"
    );
}
