//! What the backend says about a branch to its providers: which items can be ordered, and whether it takes orders.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{SecondsFormat, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    careem::Answer,
    hub::Hub,
    log::payload,
    outside::{CAREEM_POS, DELIVERY_HERO, Outside, UBER_EATS, send},
    platform::{CLIENT_SECRET, Call, Say},
};

const DELIVEROO: &str = include_str!("../providers/deliveroo.toml");
const DOORDASH: &str = include_str!("../providers/doordash.toml");
const JUST_EAT: &str = include_str!("../providers/just-eat.toml");

async fn put(hub: &Hub, what: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let path = format!("{what}/careem/branch-uuid");
    send(hub, Method::PUT, &path, &body.to_string(), headers).await
}

/// How a provider is spoken to, without the lists of its orders: Careem's webhooks are others.
fn calls_of(file: &str) -> &str {
    let ends = ["\n[fetch]\n", "\n[reconcile]\n"];
    let end = ends.iter().filter_map(|end| file.find(end)).min();
    &file[..end.unwrap_or(file.len())]
}

/// The backend says something, and the hub takes it.
async fn say(hub: &Hub, what: &str, body: Value) {
    let answer = put(hub, what, &body, &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// What the hub refuses: the code and the first fault.
async fn refused(hub: &Hub, what: &str, body: Value) -> (u16, String, String, String) {
    let answer = put(hub, what, &body, &[]).await;
    let error = &answer.json()["error"];
    let fault = &error["details"]["faults"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (
        answer.status,
        text(&error["code"]),
        text(&fault["pointer"]),
        text(&fault["message"]),
    )
}

fn of_calls(calls: &[Call]) -> Vec<(String, Value)> {
    calls.iter().map(|call| (call.path.clone(), call.json())).collect()
}

fn gone(ids: &[&str]) -> Value {
    let items: Vec<_> = ids.iter().map(|id| json!({ "id": id, "available": false })).collect();
    json!({ "items": items })
}

fn limited(seconds: u64) -> Say {
    Say {
        retry_after: Some(seconds),
        ..Say::status(429)
    }
}

/// `DoorDash` takes 40 at a time, and says of each what became of it.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_not_taken_is_sent_again() {
    let outside = Outside::new(calls_of(DOORDASH)).await;
    let signed = |call: &crate::harness::played::Heard| call.header("authorization").starts_with("Bearer ey");
    outside.provider.takes_calls_that(signed);
    let settings = outside
        .settings()
        .set("CAREEM_KEY_ID", "key-1")
        .set("CAREEM_CLIENT_SECRET", STANDARD.encode("signing-secret"));
    let hub = Hub::start(&settings).await;
    let ids: Vec<_> = (0..45).map(|id| format!("item-{id}")).collect();
    let items: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(at, id)| json!({ "id": id, "available": at % 2 == 0 }))
        .collect();
    let became = |at: usize| match at {
        1 => "Server Error",
        2 => "Unknown item",
        _ => "Success",
    };
    let answered: Vec<_> = (0..40)
        .map(|at| json!({ "merchant_supplied_id": ids[at], "response": became(at) }))
        .collect();
    outside.provider.next([Say {
        status: 400,
        ..Say::json(&answered.into())
    }]);
    say(&hub, "items", json!({ "items": items })).await;
    let pushed = &outside.payloads(EventType::ItemsPushed, 1).await[0];
    let unknown = json!([{ "kind": "item", "id": "item-2", "code": "Unknown item" }]);
    assert_eq!(
        (
            &pushed["taken"],
            &pushed["refused"],
            &pushed["requests"],
            &pushed["attempts"]
        ),
        (&json!(44), &unknown, &json!(3), &json!(2))
    );
    let calls = of_calls(&outside.provider.calls());
    let path = "/api/v1/stores/merchant-1/items/status";
    assert!(calls.iter().all(|(called, _)| called == path), "{calls:?}");
    let counts: Vec<_> = calls.iter().map(|(_, body)| body.as_array().unwrap().len()).collect();
    assert_eq!(counts, [40, 5, 1]);
    assert_eq!(
        (&calls[0].1[1], &calls[2].1),
        (
            &json!({ "merchant_supplied_id": "item-1", "is_active": false }),
            &json!([{ "merchant_supplied_id": "item-1", "is_active": false }])
        )
    );
    let failed = &outside.payloads(EventType::ItemsPushFailed, 1).await[0];
    assert_eq!(failed["error"]["code"], "ITEMS_LATER");
    let progress = &outside.payloads(EventType::ItemsProgressed, 1).await[0];
    assert_eq!(
        (progress["taken"].as_array().unwrap().len(), &progress["refused"]),
        (43, &json!([{ "at": 2, "code": "Unknown item" }]))
    );
    // What DoorDash calls a reason, and no end.
    let body = json!({ "state": "paused", "reasonCode": "technical" });
    say(&hub, "stores", body).await;
    outside.payloads(EventType::StorePushed, 1).await;
    let closed = json!({
        "is_active": false, "reason": "store_pos_connectivity_issues", "notes": "paused by the restaurant",
    });
    let last = of_calls(&outside.provider.calls()).pop().unwrap();
    assert_eq!(last, ("/api/v1/stores/merchant-1/status".to_owned(), closed));
    outside.world.at_end(Ends::default()).await;
}

/// Deliveroo does not say which item it does not know. The hub is killed on the way.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_item_is_found_by_halves_and_another_instance_goes_on() {
    let outside = Outside::new(calls_of(DELIVEROO)).await;
    let hub = outside.hub().await;
    outside.provider.next([Say::status(404), Say::status(200), limited(1)]);
    outside
        .provider
        .next([Say::status(404), Say::status(404), Say::status(200)]);
    say(&hub, "items", gone(&["a", "b", "c", "d"])).await;
    let progress = &outside.payloads(EventType::ItemsProgressed, 1).await[0];
    assert_eq!(progress["taken"], json!([0, 1]));
    hub.kill().await;
    let hub = outside.hub().await;
    let pushed = &outside.payloads(EventType::ItemsPushed, 1).await[0];
    assert_eq!(
        (&pushed["taken"], &pushed["refused"]),
        (
            &json!(3),
            &json!([{ "kind": "item", "id": "c", "code": "PROVIDER_404" }])
        )
    );
    let calls = outside.provider.calls();
    let sent: Vec<_> = calls
        .iter()
        .map(|call| {
            let body = call.json();
            let items = body["item_unavailabilities"].as_array().unwrap().iter();
            assert!(items.clone().all(|item| item["status"] == "hidden"), "{body}");
            items.map(|item| item["item_id"].as_str().unwrap()).collect::<String>()
        })
        .collect();
    assert_eq!(sent, ["abcd", "ab", "cd", "cd", "c", "d"]);
    let path = "/menu/v2/brands/brand-7/sites/merchant-1/menu/item_unavailabilities";
    assert!(calls.iter().all(|call| call.path == path), "{calls:?}");
    assert!(
        calls[3].at - calls[2].at >= Duration::from_millis(980),
        "it was not left alone"
    );
    for two in calls.windows(2) {
        assert!(two[1].at - two[0].at >= Duration::from_millis(95), "too soon");
    }
    // Two calls make it busy.
    say(&hub, "stores", json!({ "state": "busy", "preparationMinutes": 40 })).await;
    outside.payloads(EventType::StorePushed, 1).await;
    let calls = of_calls(&outside.provider.calls());
    let site = "/site/v1/brands/brand-7/sites/merchant-1";
    assert_eq!(
        calls[6..],
        [
            (format!("{site}/status"), json!({ "status": "OPEN" })),
            (format!("{site}/workload/mode"), json!({ "mode": "BUSY" })),
        ]
    );
    let until = json!({ "items": [{ "id": "a", "available": false, "until": "2031-01-01T00:00:00Z" }] });
    let (status, code, pointer, message) = refused(&hub, "items", until).await;
    assert_eq!(
        (status, &*code, &*pointer),
        (422, "NOT_SUPPORTED", "/items/0/until"),
        "{message}"
    );
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// One item in a call, times as seconds, and the requests of the backend as those about menus.
#[tokio::test(flavor = "multi_thread")]
async fn uber_is_told_each_item_and_until_when() {
    let outside = Outside::new(calls_of(UBER_EATS)).await;
    let settings = outside
        .settings()
        .set("CAREEM_TOKEN_SCOPES", "eats.store eats.store.status.write");
    let hub = Hub::start(&settings).await;
    let until = "2031-01-01T00:00:00Z";
    let body = json!({
        "items": [{ "id": "a b", "available": false, "until": until }, { "id": "c", "available": true }],
        "options": [{ "id": "o", "available": false }],
    });
    let keyed = async |body: &Value| put(&hub, "items", body, &[("idempotency-key", "k-1")]).await;
    // The token is no longer good for the second call.
    outside.provider.next([Say::status(200), Say::status(401)]);
    let first = keyed(&body).await;
    assert_eq!((first.status, &first.json()["data"]["duplicate"]), (202, &json!(false)));
    let pushed = &outside.payloads(EventType::ItemsPushed, 1).await[0];
    assert_eq!((&pushed["taken"], &pushed["attempts"]), (&json!(3), &json!(1)));
    let suspended = |until: u64| json!({ "suspension_info": { "suspension": { "suspend_until": until, "reason": "out of stock" } } });
    let items = "/v2/eats/stores/merchant-1/menus/items";
    let available = json!({ "suspension_info": { "suspension": { "suspend_until": 0 } } });
    let expected = [
        (format!("{items}/a%20b"), suspended(1_924_992_000)),
        (format!("{items}/c"), available),
        (format!("{items}/o"), suspended(8_640_000_000)),
    ];
    let mut calls = of_calls(&outside.provider.calls());
    calls.dedup();
    assert_eq!(calls, expected);
    assert_eq!(outside.provider.tokens(), 2);
    // The same once more, and something else under the same key.
    let again = keyed(&body).await;
    assert_eq!((again.status, &again.json()["data"]["duplicate"]), (202, &json!(true)));
    let other = keyed(&gone(&["c"])).await;
    assert_eq!(
        (other.status, &other.json()["error"]["code"]),
        (422, &json!("IDEMPOTENCY_KEY_REUSED"))
    );
    let before = outside.provider.calls().len();
    // It is open already.
    outside.provider.next([Say::status(409)]);
    say(&hub, "stores", json!({ "state": "busy", "preparationMinutes": 25 })).await;
    say(
        &hub,
        "stores",
        json!({ "state": "paused", "until": until, "reason": "no gas" }),
    )
    .await;
    outside.payloads(EventType::StorePushed, 2).await;
    let store = "/v1/delivery/store/merchant-1";
    let paused = json!({ "status": "OFFLINE", "is_offline_until": until, "reason": "no gas" });
    assert_eq!(
        of_calls(&outside.provider.calls())[before..],
        [
            (format!("{store}/update-store-status"), json!({ "status": "ONLINE" })),
            (
                format!("{store}/update-store-prep-time"),
                json!({ "default_prep_time": 1500 })
            ),
            (format!("{store}/update-store-status"), paused),
        ]
    );
    for (what, body, at) in [
        ("stores", json!({ "state": "paused" }), (422, "NOT_SUPPORTED", "/until")),
        (
            "stores",
            json!({ "state": "busy" }),
            (422, "NOT_SUPPORTED", "/preparationMinutes"),
        ),
        ("stores", json!({ "state": "shut" }), (400, "INVALID_REQUEST", "/state")),
        ("items", json!({ "items": [] }), (400, "INVALID_REQUEST", "")),
    ] {
        let (status, code, pointer, message) = refused(&hub, what, body).await;
        assert_eq!((status, &*code, &*pointer), at, "{message}");
    }
    outside.world.at_end(Ends::default()).await;
}

/// Delivery Hero answers 200 where it took some only, and is away for a while.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_hero_is_away_and_then_takes_all_but_one() {
    let outside = Outside::new(calls_of(DELIVERY_HERO)).await;
    let settings = r#"UPDATE branch_delivery_configs SET settings = '{"chainCode": "chain-1", "globalEntityId": "TB_JO",
        "platformKey": "TB", "platformRestaurantId": "77"}'"#;
    outside.world.database.run(settings).await.unwrap();
    let hub = outside.hub().await;
    let until = Utc::now() + TimeDelta::hours(2);
    let written = until.to_rfc3339_opts(SecondsFormat::Secs, true);
    outside.provider.close().await;
    let body = json!({ "items": [
        { "id": "a", "available": false, "until": written }, { "id": "b", "available": false, "until": written },
        { "id": "c", "available": true },
    ] });
    say(&hub, "items", body).await;
    let failed = &outside.payloads(EventType::ItemsPushFailed, 1).await[0];
    assert_eq!(failed["error"]["code"], "PROVIDER_UNREACHABLE");
    outside
        .provider
        .next([Say::status(200), Say::status(200), Say::status(204), Say::status(204)]);
    outside.provider.on("/v2/chains/", Say::status(204));
    outside.provider.open();
    let pushed = &outside.payloads(EventType::ItemsPushed, 1).await[0];
    let first = json!([{ "kind": "item", "id": "a", "code": "PROVIDER_200" }]);
    assert_eq!((&pushed["taken"], &pushed["refused"]), (&json!(2), &first));
    let at = |ids: Value| {
        json!({
            "globalEntityId": "TB_JO", "items": ids, "type": "ITEM", "isAvailable": false, "willBeAvailable": "AT_TIMESTAMP",
            "atTimeStamp": written,
        })
    };
    let back = json!({ "globalEntityId": "TB_JO", "items": ["c"], "type": "ITEM", "isAvailable": true });
    let path = "/v2/chains/chain-1/vendors/store-9/catalog/items/availability";
    let expected = [at(json!(["a", "b"])), at(json!(["a"])), at(json!(["b"])), back];
    let calls = of_calls(&outside.provider.calls());
    assert_eq!(calls, expected.map(|body| (path.to_owned(), body)));
    // A pause that is over is not sent any more.
    let over = (Utc::now() - TimeDelta::seconds(5)).to_rfc3339_opts(SecondsFormat::Secs, true);
    say(&hub, "stores", json!({ "state": "paused", "until": over })).await;
    let half_an_hour = (Utc::now() + TimeDelta::seconds(1795)).to_rfc3339_opts(SecondsFormat::Secs, true);
    say(
        &hub,
        "stores",
        json!({ "state": "paused", "until": half_an_hour, "reasonCode": "too_busy" }),
    )
    .await;
    let pushed = outside.payloads(EventType::StorePushed, 2).await;
    assert_eq!(
        (&pushed[0]["outdated"], &pushed[1]["providerStatus"]),
        (&json!(true), &json!(204))
    );
    let calls = of_calls(&outside.provider.calls());
    let closed = json!({
        "availabilityState": "CLOSED_UNTIL", "platformKey": "TB", "platformRestaurantId": "77",
        "closedReason": "TOO_BUSY_KITCHEN", "closingMinutes": 30,
    });
    assert_eq!(calls.len(), 5);
    let path = "/v2/chains/chain-1/remoteVendors/store-9/availability";
    assert_eq!(calls[4], (path.to_owned(), closed));
    outside.world.at_end(Ends::default()).await;
}

/// Just Eat refuses everything: a person has to look. By then the backend has said something newer about one of the items.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_sends_what_no_later_request_names() {
    let outside = Outside::new(calls_of(JUST_EAT)).await;
    let shows = |call: &crate::harness::played::Heard| call.header("x-flyt-api-key") == CLIENT_SECRET;
    outside.provider.takes_calls_that(shows);
    let hub = outside.hub().await;
    outside.provider.next([Say::status(422), Say::status(403)]);
    say(&hub, "items", gone(&["a", "b"])).await;
    say(&hub, "stores", json!({ "state": "paused" })).await;
    let dead = outside.world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let mut codes: Vec<_> = dead.iter().map(|one| payload(one)["error"]["code"].clone()).collect();
    codes.sort_by_key(Value::to_string);
    assert_eq!(codes, ["PROVIDER_403", "PROVIDER_422"]);
    let back = json!({ "items": [{ "id": "a", "available": true }] });
    say(&hub, "items", back).await;
    say(&hub, "stores", json!({ "state": "open" })).await;
    outside.payloads(EventType::ItemsPushed, 1).await;
    outside.payloads(EventType::StorePushed, 1).await;
    outside.world.retry_dead_letters().await;
    let pushed = &outside.payloads(EventType::ItemsPushed, 2).await[1];
    assert_eq!((&pushed["taken"], &pushed["outdated"]), (&json!(1), &json!(1)));
    let ignored = &outside.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED");
    let mut calls = of_calls(&outside.provider.calls());
    let last = calls.pop().unwrap();
    let item = |event: &str, ids: Value| json!({ "event": event, "itemReferences": ids, "restaurant": "merchant-1" });
    assert_eq!(
        last,
        ("/item-availability".to_owned(), item("UNAVAILABLE", json!(["b"])))
    );
    assert!(
        calls.contains(&("/item-availability".to_owned(), item("AVAILABLE", json!(["a"])))),
        "{calls:?}"
    );
    let paths: Vec<_> = calls.iter().map(|(path, _)| &**path).collect();
    for state in ["/restaurants/merchant-1/offline", "/restaurants/merchant-1/online"] {
        assert_eq!(paths.iter().filter(|path| **path == state).count(), 1, "{paths:?}");
    }
    outside.world.at_end(Ends::default().ignored(1)).await;
}

/// Careem takes the state of a branch; of items nothing is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_a_call_is_named() {
    let outside = Outside::new(calls_of(CAREEM_POS)).await;
    let hub = outside.hub().await;
    let (status, code, pointer, message) = refused(&hub, "items", gone(&["a"])).await;
    assert_eq!((status, &*code, &*pointer), (422, "NOT_SUPPORTED", ""));
    assert_eq!(message, "careem takes no availability of items");
    let busy = json!({ "state": "busy", "preparationMinutes": 20 });
    let (status, _, pointer, message) = refused(&hub, "stores", busy).await;
    assert_eq!((status, &*pointer), (422, "/state"));
    assert_eq!(message, "the provider takes no state busy; it takes open, paused");
    let answer = send(
        &hub,
        Method::PUT,
        "stores/talabat/branch-uuid",
        r#"{"state":"open"}"#,
        &[],
    )
    .await;
    assert_eq!(answer.status, 404, "{answer:?}");
    outside.provider.next([limited(1)]);
    say(&hub, "stores", json!({ "state": "paused" })).await;
    outside.payloads(EventType::StorePushed, 1).await;
    let calls = outside.provider.wait_for(2).await;
    let path = "/branches/store-9/status".to_owned();
    assert_eq!(
        of_calls(&calls),
        [
            (path.clone(), json!({ "active": false })),
            (path, json!({ "active": false }))
        ]
    );
    assert_eq!(
        (calls[0].method.as_str(), calls[0].header("branch-id")),
        ("PATCH", "store-9")
    );
    assert!(
        calls[1].at - calls[0].at >= Duration::from_millis(980),
        "it was not left alone"
    );
    outside.world.at_end(Ends::default()).await;
}
