//! Which order is which: the same number elsewhere or long ago, one order announced twice, webhooks that come again, and
//! branches that changed meanwhile. ARCHITECTURE.md, "Which order is which", says what is meant.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::harness::{
    World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{ORDER_ID, SECRET, change, order, sign},
    hub::{Hub, run},
    log::payload,
    played::Heard,
    provider::{Provider, Webhook},
    proxy::Proxy,
};

impl World {
    /// The keys under which the backend was asked to create orders, in the order in which they first came.
    pub(crate) fn creations(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut keys = Vec::new();
        for request in self.backend.requests().iter().filter(|request| request.path == ORDERS) {
            if seen.insert(request.key().to_owned()) {
                keys.push(request.key().to_owned());
            }
        }
        keys
    }

    /// The changes of orders that the backend received: path and canonical status.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let requests = self.backend.requests();
        let changes = requests.iter().filter(|request| request.path != ORDERS);
        changes
            .map(|request: &Heard| {
                let status = &request.json()["statusChange"]["canonicalStatus"];
                (request.path.clone(), status.as_str().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// Posts as this merchant of Careem's.
    pub(crate) async fn post_as(&self, hub: &Hub, merchant: &str, body: &str) {
        let signature = sign(SECRET, body.as_bytes());
        let headers = [("x-merchant-id", merchant), ("x-careem-signature", signature.as_str())];
        let answer = self.careem.post_raw(hub, body.to_owned(), &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The sample order with this status.
pub(crate) fn announced(id: &str, status: &str) -> String {
    order(id).replace(r#""status": "created""#, &format!(r#""status": "{status}""#))
}

fn reasons(events: &[std::sync::Arc<webhook_hub::event::Recorded>]) -> Vec<String> {
    let ignored = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderIgnored);
    ignored
        .map(|event| payload(event)["reason"].as_str().unwrap().to_owned())
        .collect()
}

/// The platform's table has a row of Careem that is 400 days old; a new order of another platform, and a new one of Careem, have
/// its number. The table does not show which order the row belongs to.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_used_elsewhere_before_is_no_duplicate() {
    let world = World::new().await;
    let row = format!(
        "INSERT INTO orders (id, order_number, branch_id, provider_order_id, created_at)
         VALUES ('last-year', 'CAREEM-1', 'branch-uuid', '{ORDER_ID}', now() - interval '400 days')"
    );
    world.database.run(&row).await.unwrap();
    let providers = Provider::all(&Catalogue::shipped());
    let generic = providers.iter().find(|one| one.name == "generic").unwrap();
    generic.branch(&world, "store-7").await;
    let to_branch = "UPDATE branch_delivery_configs SET branch_id = 'branch-uuid' WHERE merchant_id = 'store-7'";
    world.database.run(to_branch).await.unwrap();
    let hub = Hub::start(&generic.enable(world.settings(), "KWD")).await;
    world.careem.post(&hub, &order(ORDER_ID)).await.event_id();
    let body = include_str!("fixtures/providers/generic/order.created.json").replace("A-1001", ORDER_ID);
    let webhook = Webhook::new(body).with("webhook-id", "message-1");
    assert_eq!(generic.post(&hub, &webhook).await.status, 200);
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.creations().len(), 2);
}

/// `pending` and `created` within 50 ms, while the backend takes 450 ms for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn one_order_announced_twice_is_created_once() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.takes(Duration::from_millis(450));
    world
        .careem
        .post(&hub, &announced("CR-twice", "pending"))
        .await
        .event_id();
    tokio::time::sleep(Duration::from_millis(50)).await;
    world
        .careem
        .post(&hub, &announced("CR-twice", "created"))
        .await
        .event_id();
    let events = world.log.settled().await;
    assert_eq!(world.creations().len(), 1, "{:?}", world.creations());
    assert_eq!(reasons(&events), ["DUPLICATE_ORDER"]);
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["internalOrderId"], "order-1", "{ignored}");
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// The same, with each announcement waiting for a backend that is away.
#[tokio::test(flavor = "multi_thread")]
async fn one_order_announced_twice_during_an_outage_is_created_once() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("RETRY_DELAYS", "300ms")
        .set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings).await;
    world.backend.otherwise(Answer::status(503));
    for status in ["pending", "created"] {
        world
            .careem
            .post(&hub, &announced("CR-outage", status))
            .await
            .event_id();
    }
    world
        .careem
        .post(&hub, &change("CR-outage", "cancelled"))
        .await
        .event_id();
    world.backend.wait_for(2).await;
    world.backend.otherwise(Answer::Accept);
    let events = world.log.settled().await;
    assert_eq!(world.creations().len(), 1, "{:?}", world.creations());
    assert_eq!(reasons(&events).len(), 1, "{:?}", reasons(&events));
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2).ignored(1)).await;
}

/// A second announcement with a further status is news; one with other lines is a duplicate that a person must see.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_announcement_that_differs() {
    let world = World::new().await;
    let hub = world.hub().await;
    world
        .careem
        .post(&hub, &announced("CR-differs", "pending"))
        .await
        .event_id();
    world.log.settled().await;
    let other =
        announced("CR-differs", "created").replace("\"total_taxable_price\": 16.24", "\"total_taxable_price\": 26.24");
    world.careem.post(&hub, &other).await.event_id();
    world.log.settled().await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(
        (&ignored["reason"], &ignored["differs"]),
        (&json!("DUPLICATE_ORDER"), &json!(true)),
        "{ignored}"
    );
    assert_eq!(world.creations().len(), 1);
    hub.says("announced again in another way").await;
    world
        .metrics_say(&hub, r#"duplicate_orders_total{provider="careem",differs="true"} 1"#)
        .await;
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// A platform counts its orders anew each day. The order of the next day has the same lines and the same total.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_used_again_the_next_day_needs_a_person() {
    let world = World::new().await;
    let hub = world.hub().await;
    let operator = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let first = order("CR-17");
    world.careem.post(&hub, &first).await.event_id();
    // Repeated with the time of a second try: the same order.
    let repeated = first.replace("12:00:00Z", "12:05:00Z");
    world.careem.post(&hub, &repeated).await.event_id();
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    run(&operator, &["status"]).await.expect_success();
    let next_day = first.replace("2025-10-01T12:00:00Z", "2025-10-02T19:00:00Z");
    assert_ne!(first, next_day);
    world.careem.post(&hub, &next_day).await.event_id();
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert_eq!(ignored[0]["differs"], Value::Null, "{}", ignored[0]);
    assert_eq!(
        (&ignored[1]["reason"], &ignored[1]["differs"]),
        (&json!("DUPLICATE_ORDER"), &json!(true)),
        "{}",
        ignored[1]
    );
    world.at_end(Ends::forwarded(1).ignored(2)).await;
    let rows = world.database.rows("SELECT flags FROM hub.orders").await.unwrap();
    let flags = rows[0]["flags"].as_array().unwrap();
    assert!(flags.contains(&json!("announced_differently")), "{rows:?}");
    let ran = run(&operator, &["status", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        status["problems"][0]["code"], "orders_announced_differently",
        "{status}"
    );
    assert_eq!(status["database"]["announcedDifferently"], 1);
    // A day after the last word about the order it is past.
    let earlier = "UPDATE hub.orders SET last_at = last_at - interval '25 hours'";
    world.database.run(earlier).await.unwrap();
    run(&operator, &["status"]).await.expect_success();
}

/// The kitchen cooks, and the branch is switched off, or its merchant is given to another branch.
#[tokio::test(flavor = "multi_thread")]
async fn news_go_to_the_orders_branch_whatever_its_outcome() {
    let world = World::new().await;
    let hub = world.hub().await;
    for id in ["CR-off", "CR-moved"] {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.settled().await;
    assert!(hub.terminate().await.0.success());
    world
        .database
        .run("UPDATE branch_delivery_configs SET is_active = false")
        .await
        .unwrap();
    let hub = world.hub().await;
    world.careem.post(&hub, &change("CR-off", "cancelled")).await.event_id();
    world.log.settled().await;
    assert_eq!(
        world.told(),
        [(format!("{ORDERS}/CR-off/status"), "cancelled".to_owned())]
    );
    // A new order does not go to a branch that is switched off.
    world.careem.post(&hub, &order("CR-new")).await.event_id();
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "BRANCH_NOT_FOUND");
    assert!(hub.terminate().await.0.success());
    let moved = "UPDATE branch_delivery_configs SET is_active = true, branch_id = 'branch-2', company_id = 'company-2'";
    world.database.run(moved).await.unwrap();
    let hub = world.hub().await;
    world
        .careem
        .post(&hub, &change("CR-moved", "cancelled"))
        .await
        .event_id();
    world.log.settled().await;
    let requests = world.backend.requests();
    let told = &requests.last().unwrap().json()["statusChange"];
    assert_eq!(
        (&told["branchId"], &told["companyId"]),
        (&json!("branch-uuid"), &json!("company-uuid")),
        "{told}"
    );
    let ends = Ends {
        forwarded: 4,
        dead_lettered: 1,
        ..Ends::default()
    };
    world.at_end(ends).await;
}

/// Its branch was unknown; it is sent again, after the log forgot its id, to another instance than the one that works.
#[tokio::test(flavor = "multi_thread")]
async fn each_acceptance_has_its_own_outcome() {
    let world = World::new().await;
    let working = world.hub().await;
    working.says("stage taken over").await;
    let other = world.hub().await;
    world.post_as(&working, "merchant-2", &order("CR-again")).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    let row = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
               VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";
    world.database.run(row).await.unwrap();
    world.log_forgets(&other).await;
    world.post_as(&other, "merchant-2", &order("CR-again")).await;
    assert_eq!(world.backend.wait_for(1).await[0].path, ORDERS);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
    let rows = world.database.rows("SELECT status FROM webhook_logs").await.unwrap();
    assert_eq!(rows, [json!({ "status": "completed" })]);
}

/// The provider sends its first webhooks again after the log forgot them, while PostgreSQL is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_the_window_while_postgres_is_away() {
    let world = World::new().await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    let settings = world
        .settings()
        .set("DATABASE_URL", world.database.url_through(postgres.address()));
    let (first, other) = (Hub::start(&settings).await, Hub::start(&settings).await);
    let webhooks = [
        order("CR-back"),
        change("CR-back", "ready"),
        change("CR-back", "cancelled"),
    ];
    for body in &webhooks {
        world.careem.post(&first, body).await.event_id();
    }
    world.at_end(Ends::forwarded(3)).await;
    world.log_forgets(&other).await;
    postgres.cut();
    for body in &webhooks {
        let answer = world.careem.post(&other, body).await.json();
        assert_eq!(answer["data"]["duplicate"], false, "{answer}");
    }
    let ignored = world.log.wait_for(EventType::OrderIgnored, 3).await;
    assert!(
        ignored
            .iter()
            .all(|event| payload(event)["reason"] == "DUPLICATE_WEBHOOK"),
        "{:?}",
        ignored.iter().map(|event| payload(event)).collect::<Vec<Value>>()
    );
    assert_eq!(world.backend.count(), 3);
    postgres.heal();
    world.at_end(Ends::forwarded(3).ignored(3)).await;
    let rows = "SELECT provider_status, mapped_status FROM provider_order_logs";
    assert_eq!(
        world.database.rows(rows).await.unwrap(),
        [json!({ "provider_status": "cancelled", "mapped_status": "cancelled" })]
    );
}
