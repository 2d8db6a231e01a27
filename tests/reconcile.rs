//! Orders with webhooks that never came: the provider's lists have them, and the hub takes them in, once and in order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use async_nats::jetstream;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::{
    event::{EventType, Recorded, WebhookOrigin},
    journal::codec::{self, Form},
    provider::Catalogue,
};

use crate::harness::{
    PARTITIONS,
    at_end::Ends,
    hub::{Hub, Settings},
    outside::{DELIVERY_HERO, Outside, UBER_EATS, send},
    platform::{CLIENT_ID, CLIENT_SECRET, Say},
    provider::{Provider, Webhook},
    wait::{PATIENCE, eventually},
};

const DELIVEROO: &str = include_str!("../providers/deliveroo.toml");
const DOCUMENT: &str = include_str!("fixtures/providers/uber-eats/order.v1_delivery.amount_e5.json");
/// Delivery Hero's list of ids.
const IDS: &str = "/v2/chains/chain-1/orders/ids";
/// A hub looks often, and counts as having been away, or a provider as silent, after a second.
const TIMES: &str = "reconcile_look=50ms,reconcile_away=1s,reconcile_again=300ms,reconcile_retry=50ms,reconcile_pause=1ms,reconcile_first=50ms";

/// A provider with lists, and a hub that reads them.
struct Listed {
    outside: Outside,
    provider: Provider,
    settings: Settings,
}

impl Listed {
    async fn new(name: &str, file: &str, times: &str) -> Self {
        let prefix = name.to_ascii_uppercase().replace('-', "_");
        let outside = Outside::with_file(&format!("{name}.toml"), file).await;
        let provider = Provider::all(&Catalogue::shipped());
        let provider = provider.into_iter().find(|one| one.name == name).unwrap();
        provider.branch(&outside.world, "store-9").await;
        let row = format!(
            "UPDATE branch_delivery_configs SET store_id = 'store-9', settings = '{{\"brandId\": \"brand-7\", \"chainCode\": \"chain-1\"}}'
             WHERE id = 'config-{name}-store-9'"
        );
        outside.world.database.run(&row).await.unwrap();
        let settings = provider.enable(outside.settings_for(&prefix), "EUR");
        let settings = settings
            .set(&format!("{prefix}_CLIENT_ID"), CLIENT_ID)
            .set(&format!("{prefix}_CLIENT_SECRET"), CLIENT_SECRET)
            .set("HUB_TEST_TIMES", format!("{TIMES},{times}"));
        Self {
            outside,
            provider,
            settings,
        }
    }

    async fn post(&self, hub: &Hub, path: &str, webhook: &Value) {
        let answer = self.provider.post(hub, &Webhook::new(webhook).at(path)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Webhooks on the log that the hub made itself, as order and type, sorted.
    async fn made(&self) -> Vec<(String, String)> {
        let events = self.outside.world.log.events().await;
        let mut made: Vec<_> = events.iter().filter(|event| is_made(event)).collect();
        made.sort_by_key(|event| {
            (
                event.envelope.external_order_id.clone(),
                event.envelope.webhook_type.clone(),
            )
        });
        let made = made.into_iter();
        made.map(|event| {
            (
                event.envelope.external_order_id.clone(),
                event.envelope.webhook_type.clone(),
            )
        })
        .collect()
    }

    /// Waits until the platform has answered so many reads of lists so.
    async fn reads(&self, status: u16, count: usize) {
        eventually("the list is read", PATIENCE, async || {
            let calls = self.outside.provider.calls();
            let is_one = |path: &str| path.contains("/orders?") || path.contains("/orders/ids?");
            let reads = calls.iter().filter(|call| is_one(&call.path) && call.status == status);
            let reads = reads.count();
            if reads >= count { Ok(()) } else { Err(reads) }
        })
        .await;
    }

    /// What the backend was told of an order, by path.
    fn told(&self, order: &str) -> Vec<String> {
        let requests = self.outside.world.backend.requests().into_iter();
        let of_order = requests.filter(|request| request.external_order_id() == order);
        of_order.map(|request| request.path.replace(order, "ID")).collect()
    }
}

fn is_made(event: &Recorded) -> bool {
    let facts = event.envelope.request.as_ref();
    event.envelope.event_type == EventType::WebhookReceived
        && facts.is_some_and(|facts| facts.origin == Some(WebhookOrigin::Reconciled))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(one, other)| ((*one).to_owned(), (*other).to_owned()))
        .collect()
}

/// An order of Delivery Hero, placed so many minutes ago.
fn dispatched(id: &str, minutes: i64) -> Value {
    let at = Utc::now() - TimeDelta::minutes(minutes);
    json!({
        "token": id, "code": id, "shortCode": id, "expeditionType": "pickup",
        "createdAt": at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "platformRestaurant": { "id": "store-9" },
        "products": [{ "id": "p-1", "name": "Falafel", "quantity": "1", "paidPrice": "5.99" }],
        "price": { "grandTotal": "5.99" },
    })
}

const NEW: &str = "/api/integration/orders";
const STATUS: &str = "/api/integration/orders/ID/status";

/// How long ago the hub took in its last webhook, in minutes.
const AWAY: i64 = 65;
/// What Delivery Hero has of that time: the order, how many minutes ago it was placed, and what became of it.
const OF_AN_HOUR: [(&str, i64, &str); 6] = [
    ("dh-early", 58, "accepted"),
    ("dh-late", 45, "accepted"),
    ("dh-gone", 30, "cancelled"),
    ("dh-lost", 12, "cancelled"),
    ("dh-new", 0, "accepted"),
    // What was placed before the provider's first webhook was another system's.
    ("dh-of-yesterday", 24 * 60, "accepted"),
];

/// Delivery Hero has these orders in its lists, and one of each that the hub knows. All were cancelled or accepted meanwhile.
fn orders_at_delivery_hero(played: &crate::harness::platform::Provider) {
    played.lists(IDS, |query| {
        let wanted = query["status"].clone();
        let known = [("dh-known", AWAY, "accepted"), ("dh-cancelled", AWAY, "cancelled")];
        let all = known.into_iter().chain(OF_AN_HOUR);
        let ids: Vec<_> = all
            .filter(|(.., status)| *status == wanted)
            .map(|(id, ..)| id)
            .collect();
        json!({ "orderIdentifiers": ids, "count": ids.len() })
    });
    for (id, minutes, status) in OF_AN_HOUR {
        let mut answer = json!({ "order": dispatched(id, minutes) });
        answer["order"]["status"] = status.into();
        played.has(&format!("/v2/chains/chain-1/orders/{id}"), &answer.to_string());
    }
}

/// A hub took this webhook in, and died before it did anything of it.
async fn took_in(listed: &Listed, webhook: &Value, minutes_ago: i64) {
    let (id, body) = (webhook["token"].as_str().unwrap(), webhook.to_string());
    let at = Utc::now() - TimeDelta::minutes(minutes_ago);
    let event = Recorded::sample("delivery-hero", id, "order_created", body.as_bytes(), at);
    let publisher = jetstream::new(listed.outside.world.nats.connect("hub").await);
    let headers = codec::headers(&event.envelope, Form::Compact).unwrap();
    let subject = codec::subject(&event.envelope, PARTITIONS);
    let sent = publisher.publish_with_headers(subject, headers, body.into());
    sent.await.unwrap().await.unwrap();
}

/// The hub is down for an hour of the provider's orders: one is cancelled that it had taken in, some are new, some are new and
/// cancelled, one was another system's, and some come as webhooks as well, once or twice. The list fails at first, and wants to be
/// asked later once.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_an_outage_reach_the_backend_once_and_in_order() {
    let file = DELIVERY_HERO.replace("requests_per_second = 10", "requests_per_second = 1000");
    let listed = Listed::new("delivery-hero", &file, "").await;
    let (world, played) = (&listed.outside.world, &listed.outside.provider);
    let sent = |id: &str, minutes: i64| dispatched(id, minutes);
    let known = sent("dh-known", AWAY);
    for webhook in [&known, &sent("dh-cancelled", AWAY)] {
        took_in(&listed, webhook, AWAY).await;
    }
    orders_at_delivery_hero(played);
    let throttled = Say {
        retry_after: Some(1),
        ..Say::status(429)
    };
    played.next([Say::status(503), throttled, Say::status(500)]);
    let hub = Hub::start(&listed.settings).await;
    assert_eq!(world.log.wait_for(EventType::OrderForwarded, 10).await.len(), 10);
    // The provider repeats what it could not deliver, and what it could.
    let (early, late) = (sent("dh-early", 58), sent("dh-late", 45));
    for webhook in [&early, &late, &late, &known] {
        listed.post(&hub, "/order/store-9", webhook).await;
    }
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(10).ignored(3)).await;
    let made = [
        ("dh-cancelled", "order_cancelled"),
        ("dh-early", "order_created"),
        ("dh-gone", "order_cancelled"),
        ("dh-gone", "order_created"),
        ("dh-late", "order_created"),
        ("dh-lost", "order_cancelled"),
        ("dh-lost", "order_created"),
        ("dh-new", "order_created"),
    ];
    assert_eq!(listed.made().await, pairs(&made));
    for (id, told) in [
        ("dh-known", &[NEW][..]),
        ("dh-early", &[NEW]),
        ("dh-late", &[NEW]),
        ("dh-new", &[NEW]),
        ("dh-gone", &[NEW, STATUS]),
        ("dh-lost", &[NEW, STATUS]),
        ("dh-cancelled", &[NEW, STATUS]),
        ("dh-of-yesterday", &[]),
    ] {
        assert_eq!(listed.told(id), told, "{id}");
    }
    let requests = world.backend.requests();
    let statuses = requests.iter().filter(|request| request.path.ends_with("/status"));
    let statuses: Vec<_> = statuses
        .map(|request| request.json()["statusChange"]["status"].clone())
        .collect();
    assert_eq!(statuses, ["cancelled"; 3]);
    hub.says("a webhook never came").await;
    for count in [
        r#"found_total{provider="delivery-hero",type="order_created"} 5"#,
        r#"found_total{provider="delivery-hero",type="order_cancelled"} 3"#,
        r#"readings_total{provider="delivery-hero",outcome="unavailable"} 1"#,
    ] {
        world.metrics_say(&hub, &format!("reconciliation_{count}")).await;
    }
}

/// The provider's clock is hours behind ours: its orders are as old as that clock says.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_a_provider_with_a_wrong_clock_are_found() {
    const BEHIND: i64 = 5 * 60;
    let listed = Listed::new("delivery-hero", DELIVERY_HERO, "").await;
    let (world, played) = (&listed.outside.world, &listed.outside.provider);
    played.clock().store(-BEHIND * 60, Ordering::Relaxed);
    took_in(&listed, &dispatched("dh-known", AWAY + BEHIND), AWAY).await;
    played.lists(IDS, |query| {
        let ids = match query["status"].as_str() {
            "accepted" => vec!["dh-late", "dh-of-yesterday"],
            _ => vec![],
        };
        json!({ "orderIdentifiers": ids, "count": ids.len() })
    });
    for (id, minutes) in [("dh-late", 30), ("dh-of-yesterday", 24 * 60)] {
        let answer = json!({ "order": dispatched(id, minutes + BEHIND) });
        played.has(&format!("/v2/chains/chain-1/orders/{id}"), &answer.to_string());
    }
    let hub = Hub::start(&listed.settings).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world
        .metrics_say(
            &hub,
            r#"reconciliation_readings_total{provider="delivery-hero",outcome="complete"} 1"#,
        )
        .await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(listed.made().await, pairs(&[("dh-late", "order_created")]));
}

const UBER_LIST: &str = "/v1/delivery/store/store-9/orders";

/// Uber's list has two pages, of three orders; the queries that asked for it.
fn pages_of_uber(played: &crate::harness::platform::Provider) -> Arc<Mutex<Vec<HashMap<String, String>>>> {
    let asked: Arc<Mutex<Vec<HashMap<String, String>>>> = Arc::default();
    let heard = Arc::clone(&asked);
    played.lists(UBER_LIST, move |query| {
        heard.lock().unwrap().push(query.clone());
        let order = |id: &str, state: &str| json!({ "id": id, "state": state });
        match query.get("next_page_token").map(String::as_str) {
            None => json!({
                "data": [order("ue-known", "ACCEPTED"), order("ue-first", "ACCEPTED")],
                "pagination_data": { "next_page_token": "two/2=" },
            }),
            Some("two/2=") => json!({ "data": [order("ue-second", "CANCELED")], "pagination_data": {} }),
            other => panic!("there is no page {other:?}"),
        }
    });
    for id in ["ue-known", "ue-first", "ue-second"] {
        played.has(&format!("/v2/eats/order/{id}"), DOCUMENT);
        let query = "expand=carts,deliveries,payment";
        played.has(&format!("/v1/delivery/order/{id}?{query}"), DOCUMENT);
    }
    asked
}

/// Uber's list has pages, and says no more than which orders there are; they are fetched as after a webhook. However often it is read,
/// each order is found once; and where it is refused, statuses reach the provider all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_pages_is_read_from_time_to_time_and_may_be_refused() {
    let listed = Listed::new("uber-eats", UBER_EATS, "reconcile_every=300ms,reconcile_grace=1ms").await;
    let (world, played) = (&listed.outside.world, &listed.outside.provider);
    let asked = pages_of_uber(played);
    for store in ["store-7", "store-8"] {
        listed.provider.branch(world, store).await;
        let list = UBER_LIST.replace("store-9", store);
        played.lists(&list, |_| json!({ "data": [], "pagination_data": {} }));
    }
    let stores = "UPDATE branch_delivery_configs SET store_id = merchant_id WHERE id LIKE 'config-uber-eats-%'";
    world.database.run(stores).await.unwrap();
    let hub = Hub::start(&listed.settings).await;
    let webhook = json!({
        "event_type": "orders.notification", "event_id": "event-1", "event_time": Utc::now().timestamp(),
        "meta": { "resource_id": "ue-known", "status": "pos", "user_id": "store-9" },
        "resource_href": format!("{}/v2/eats/order/ue-known", played.url()),
    });
    listed.post(&hub, "", &webhook).await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let before = asked.lock().unwrap().len();
    listed.reads(200, before + 6).await;
    let made = [
        ("ue-first", "order_created"),
        ("ue-second", "order_cancelled"),
        ("ue-second", "order_created"),
    ];
    assert_eq!(listed.made().await, pairs(&made));
    let told = (listed.told("ue-first"), listed.told("ue-second"));
    assert_eq!(told, (vec![NEW.to_owned()], vec![NEW.to_owned(), STATUS.to_owned()]));
    // Nothing from before the provider's first webhook is wanted.
    let since = asked.lock().unwrap()[0]["start_time"].clone();
    let first = world.log.wait_for(EventType::WebhookReceived, 1).await[0].envelope.time;
    assert_eq!(since, first.to_rfc3339_opts(SecondsFormat::Secs, true));
    // Its clock is hours ahead, and so are the times that are asked for.
    played.clock().store(5 * 3600, Ordering::Relaxed);
    eventually("the list is read by the provider's clock", PATIENCE, async || {
        let until = asked.lock().unwrap().last().unwrap()["end_time"].clone();
        let time: DateTime<Utc> = until.parse().unwrap();
        if time > Utc::now() + TimeDelta::hours(4) {
            Ok(())
        } else {
            Err(until)
        }
    })
    .await;
    // The application may not read the list of any store.
    let tokens = played.tokens();
    played.on("/v1/delivery/store/", Say::status(401));
    hub.says("cannot read the provider's list of orders").await;
    listed.reads(401, 6).await;
    let body = json!({ "status": "accepted", "branchId": "branch-uber-eats-store-9" }).to_string();
    let answer = send(&hub, Method::POST, "orders/uber-eats/ue-first/status", &body, &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert!(played.tokens() <= tokens + 1, "a refused list costs a token a minute");
    world.at_end(Ends::forwarded(4)).await;
}

/// An order that was placed a moment ago may still come by itself; Deliveroo's list has whole orders, which need no request.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_on_its_way_is_left_to_its_webhook() {
    let file = DELIVEROO.replace("https://auth.developers.deliveroo.com/oauth2/token", "/token");
    let file = file.replace("credentials = \"basic\"", "credentials = \"body\"");
    let listed = Listed::new(
        "deliveroo",
        &file,
        "reconcile_every=200ms,reconcile_again=200ms,reconcile_grace=4s",
    )
    .await;
    let (world, played) = (&listed.outside.world, &listed.outside.provider);
    let webhook: Value =
        serde_json::from_str(include_str!("fixtures/providers/deliveroo/webhook_order.new.json")).unwrap();
    let order = move |id: &str, status: &str| {
        let mut order = webhook["body"]["order"].clone();
        (order["id"], order["status"]) = (id.into(), status.into());
        order["location_id"] = "store-9".into();
        order
    };
    let new = |order: Value| json!({ "event": "order.new", "body": { "order": order } });
    let (sent, listed_order) = (order.clone(), order);
    played.lists("/order/v2/brand/brand-7/restaurant/store-9/orders", move |_| {
        let orders = ["DR-1", "DR-on-its-way", "DR-lost"].map(|id| listed_order(id, "accepted"));
        let cancelled = listed_order("DR-cancelled", "canceled");
        let all = [&orders[..], &[cancelled]].concat();
        json!({ "orders": all, "next": null })
    });
    let hub = Hub::start(&listed.settings).await;
    listed.post(&hub, "", &new(sent("DR-1", "placed"))).await;
    hub.says("listening").await;
    listed.reads(200, 2).await;
    assert_eq!(listed.made().await, [], "both may still come");
    listed.post(&hub, "", &new(sent("DR-on-its-way", "placed"))).await;
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    let made = listed.made().await;
    let expected = [
        ("DR-cancelled", "order_cancelled"),
        ("DR-cancelled", "order_created"),
        ("DR-lost", "order_created"),
    ];
    assert_eq!(made, pairs(&expected));
    // As the provider wrote it, but for what became of it.
    let events = world.log.events().await;
    let body = |id: &str| {
        let made = events
            .iter()
            .find(|event| is_made(event) && event.envelope.external_order_id == id);
        serde_json::from_slice::<Value>(&made.unwrap().payload).unwrap()
    };
    assert_eq!(body("DR-lost")["body"]["order"]["status"], Value::Null);
    assert_eq!(body("DR-lost")["body"]["order"]["items"], sent("x", "y")["items"]);
    world.at_end(Ends::forwarded(5)).await;
}

/// Entries of a list that nothing can be made of, branches without a setting, and branches that the provider does not know: what
/// other entries and other branches have is taken in.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_keeps_nothing_else_out() {
    let listed = Listed::new(
        "delivery-hero",
        DELIVERY_HERO,
        "reconcile_every=300ms,reconcile_grace=1ms",
    )
    .await;
    let (world, played) = (&listed.outside.world, &listed.outside.provider);
    for number in 1..=3 {
        for branch in ["aaa", "bbb"] {
            listed.provider.branch(world, &format!("{branch}-{number}")).await;
        }
    }
    let unknown = r#"UPDATE branch_delivery_configs SET store_id = merchant_id, settings = '{"chainCode": "chain-2"}'
        WHERE id LIKE 'config-delivery-hero-bbb-%'"#;
    world.database.run(unknown).await.unwrap();
    played.on("/v2/chains/chain-2/orders/ids", Say::status(404));
    played.lists(IDS, |query| {
        let ids = match &*query["status"] {
            "accepted" => json!(["dh-gone", "..", null, "dh-broken", "dh-good"]),
            _ => json!([]),
        };
        json!({ "orderIdentifiers": ids })
    });
    played.on("/v2/chains/chain-1/orders/dh-gone", Say::status(404));
    played.on("/v2/chains/chain-1/orders/dh-broken", Say::status(500));
    let hub = Hub::start(&listed.settings).await;
    listed.post(&hub, "/order/store-9", &dispatched("dh-known", 0)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    // What was placed before the provider's first webhook was another system's.
    let answer = json!({ "order": dispatched("dh-good", 0) });
    played.has("/v2/chains/chain-1/orders/dh-good", &answer.to_string());
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    assert_eq!(listed.made().await, pairs(&[("dh-good", "order_created")]));
    // It is read again and again, and what is there is not taken in twice.
    listed.reads(404, 7).await;
    world.at_end(Ends::forwarded(2)).await;
    world
        .metrics_say(
            &hub,
            r#"reconciliation_found_total{provider="delivery-hero",type="order_created"} 1"#,
        )
        .await;
}
