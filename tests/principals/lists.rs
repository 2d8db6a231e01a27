//! The provider's lists of orders, read beside webhooks that a branch proves by its own secret.

use super::*;

/// The hub reads the lists often, and takes in at once what is missing.
const TIMES: &str = "reconcile_look=50ms,reconcile_away=1h,reconcile_silent=1h,reconcile_every=300ms,reconcile_again=300ms,\
                     reconcile_pause=1ms,reconcile_first=50ms,reconcile_grace=1ms";

/// The hub reads the lists when it starts, and then where webhooks are missing.
const SILENCE: &str = "reconcile_look=50ms,reconcile_away=1ms,reconcile_silent=1500ms,reconcile_every=1h,reconcile_again=300ms,\
                       reconcile_pause=1ms,reconcile_first=50ms,reconcile_grace=1ms";

/// A webhook of Uber Eats about an order of a store.
fn uber(tenants: &Tenants, event: &str, order: &str, store: Who) -> String {
    json!({
        "event_type": event, "event_id": format!("{event}-{order}-{store:?}"), "event_time": 1_759_320_000,
        "meta": { "resource_id": order, "user_id": store.store(), "status": "pos" },
        "resource_href": format!("{}/v2/eats/order/{order}", tenants.outside.provider.url()),
    })
    .to_string()
}

/// A announces and cancels orders of B by its own secret, naming its own store. B's list has them: what never came is taken in.
#[tokio::test(flavor = "multi_thread")]
async fn a_branchs_webhooks_hide_nothing_of_another_branchs_list() {
    let tenants = Tenants::new(|settings| settings.set("HUB_TEST_TIMES", TIMES)).await;
    let (world, played) = (&tenants.outside.world, &tenants.outside.provider);
    for (order, owner) in [("UE-a", A), ("UE-lost", B), ("UE-cancelled", B)] {
        let mut document: Value = serde_json::from_str(DOCUMENT).unwrap();
        document["order"]["store"]["id"] = owner.store().into();
        for path in ["/v2/eats/order", "/v1/delivery/order"] {
            let query = if path.starts_with("/v1") {
                "?expand=carts,deliveries,payment"
            } else {
                ""
            };
            played.has(&format!("{path}/{order}{query}"), &document.to_string());
        }
    }
    for (order, owner) in [("UE-cancelled", B), ("UE-a", A)] {
        let webhook = uber(&tenants, "orders.notification", order, owner);
        let sent = tenants.send("uber-eats", owner, Some(owner), &webhook).await;
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    for (event, order) in [("orders.notification", "UE-lost"), ("orders.cancel", "UE-cancelled")] {
        let sent = tenants
            .send("uber-eats", A, Some(A), &uber(&tenants, event, order, A))
            .await;
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    let dead = world.log.payloads(EventType::OrderDeadLettered, 2).await;
    assert!(
        dead.iter().all(|dead| dead["error"]["code"] == "NOT_YOURS"),
        "{dead:#?}"
    );
    played.lists(
        "/v1/delivery/store/store-1/orders",
        |_| json!({ "data": [{ "id": "UE-a", "state": "ACCEPTED" }] }),
    );
    played.lists("/v1/delivery/store/store-2/orders", |_| {
        json!({ "data": [{ "id": "UE-lost", "state": "ACCEPTED" }, { "id": "UE-cancelled", "state": "CANCELED" }] })
    });
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let told = |order: &str| -> Vec<String> {
        let requests = world.backend.requests();
        let of_order = requests.iter().filter(|request| request.external_order_id() == order);
        let branch = |body: Value| {
            let told = if body["statusChange"].is_null() {
                &body["transformedOrder"]
            } else {
                &body["statusChange"]
            };
            format!("{} {}", told["branchId"], told["status"])
        };
        of_order.map(|request| branch(request.json())).collect()
    };
    assert_eq!(told("UE-lost").len(), 1, "{:?}", told("UE-lost"));
    assert!(told("UE-lost")[0].starts_with("\"branch-b\""), "{:?}", told("UE-lost"));
    assert_eq!(told("UE-cancelled").len(), 2, "{:?}", told("UE-cancelled"));
    assert_eq!(told("UE-cancelled")[1], "\"branch-b\" \"cancelled\"");
    // What a branch announced itself is known of its own list.
    let count = world.log.events().await.len();
    let reads = || {
        let calls = played.calls();
        calls.iter().filter(|call| call.path.contains("/orders?")).count()
    };
    let before = reads();
    eventually("the lists are read again", PATIENCE, async || {
        let now = reads();
        if now >= before + 6 { Ok(()) } else { Err(now) }
    })
    .await;
    let events = world.log.events().await;
    assert_eq!(events.len(), count, "{:?}", &events[count..]);
    world.at_end(Ends::forwarded(4).dead_lettered(2)).await;
}

/// A sends webhooks all the time. That B's do not come any more is noticed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_branchs_webhooks_do_not_hide_that_anothers_are_missing() {
    let tenants = Tenants::new(|settings| settings.set("HUB_TEST_TIMES", SILENCE)).await;
    let (world, played) = (&tenants.outside.world, &tenants.outside.provider);
    let has = |order: &str, owner: Who| {
        let mut document: Value = serde_json::from_str(DOCUMENT).unwrap();
        document["order"]["store"]["id"] = owner.store().into();
        for path in [
            "/v2/eats/order/ID",
            "/v1/delivery/order/ID?expand=carts,deliveries,payment",
        ] {
            played.has(&path.replace("ID", order), &document.to_string());
        }
    };
    let announce = async |order: &str, owner: Who| {
        has(order, owner);
        let webhook = uber(&tenants, "orders.notification", order, owner);
        let sent = tenants.send("uber-eats", owner, Some(owner), &webhook).await;
        assert_eq!(sent.status, 200, "{sent:?}");
    };
    for store in ["store-1", "store-2"] {
        played.lists(&format!("/v1/delivery/store/{store}/orders"), |_| json!({ "data": [] }));
    }
    announce("UE-b-0", B).await;
    let reads = || {
        let calls = played.calls();
        calls
            .iter()
            .filter(|call| call.path.contains("/store-2/orders?"))
            .count()
    };
    eventually("B's list is read at the start", PATIENCE, async || match reads() {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    announce("UE-b-1", B).await;
    has("UE-lost", B);
    played.lists(
        "/v1/delivery/store/store-2/orders",
        |_| json!({ "data": [{ "id": "UE-lost", "state": "ACCEPTED" }] }),
    );
    let mut sent = 0;
    let sending = async {
        loop {
            announce(&format!("UE-a-{sent}"), A).await;
            sent += 1;
            tokio::time::sleep(10 * POLL).await;
        }
    };
    let found = eventually("the lost order is found", PATIENCE, async || {
        let events = world.log.events().await;
        let is_lost =
            |event: &&std::sync::Arc<webhook_hub::event::Recorded>| event.envelope.external_order_id == "UE-lost";
        events.iter().find(is_lost).map(|_| ()).ok_or(events.len())
    });
    tokio::select! {
        () = sending => {}
        () = found => {}
    }
    world.log.settled().await;
    let forwarded = world.log.wait_for(EventType::OrderForwarded, sent + 3).await.len();
    world.at_end(Ends::forwarded(forwarded)).await;
}
