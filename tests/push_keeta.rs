//! Statuses for Keeta, as its reference describes them: signed bodies, numbers as ids, and codes in answers that are all 200.

use std::collections::BTreeMap;

use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::harness::{
    at_end::Ends,
    hub::Hub,
    log::payload,
    outside::{Outside, send},
    platform::{CLIENT_SECRET, Call, Say},
    played::Heard,
    provider::{Provider, Webhook},
};

const KEETA: &str = include_str!("../providers/keeta.toml");
const ORDER: &str = include_str!("fixtures/providers/keeta/webhook_envelope.full.synthetic.json");
const APP_ID: i64 = 2_061_048_026;
/// The merchant's token.
const TOKEN: &str = "merchant-token";
/// An order that the customer picks up.
const PICKUP: u64 = 9_007_199_254_740_995;
/// One that the restaurant delivers.
const OWN: u64 = 9_007_199_254_740_997;
/// One that Keeta delivers.
const KEETAS: u64 = 9_007_199_254_740_999;

/// Whether a call is signed as the Authorization Guide says; written down here once more.
fn is_signed(call: &Heard) -> bool {
    let Value::Object(mut fields) = call.json() else {
        return false;
    };
    let Some(Value::String(signature)) = fields.remove("sig") else {
        return false;
    };
    let shown: BTreeMap<_, _> = fields.iter().collect();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pairs: Vec<_> = shown
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    let url = format!("http://{}{}", call.header("host"), call.path);
    let digest = Sha256::digest(format!("{url}?{}{CLIENT_SECRET}", pairs.join("&")));
    let age = Utc::now().timestamp() - fields["timestamp"].as_i64().unwrap_or_default();
    signature == hex::encode(digest)
        && fields["appId"] == APP_ID
        && fields["accessToken"] == TOKEN
        && (0..60).contains(&age)
}

fn order(id: u64, delivery_mode: Option<u64>) -> Webhook {
    let mut envelope: Value = serde_json::from_str(ORDER).unwrap();
    let mut order: Value = serde_json::from_str(envelope["message"].as_str().unwrap()).unwrap();
    order["merchantOrder"]["orderViewId"] = id.into();
    if let Some(mode) = delivery_mode {
        order["merchantOrder"]["userGetMode"] = "delivery".into();
        order["merchantOrderDeliveries"] = json!([{ "deliveryMode": mode }]);
    }
    envelope["message"] = order.to_string().into();
    envelope["messageId"] = format!("m-{id}").into();
    Webhook::new(envelope)
}

fn code(code: u64) -> Say {
    Say::json(&json!({ "code": code, "message": "said by Keeta" }))
}

async fn ask(hub: &Hub, order: u64, body: Value) {
    let path = format!("orders/keeta/{order}/status");
    let answer = send(hub, Method::POST, &path, &body.to_string(), &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// A hub with Keeta's branch.
async fn with_branch() -> (Outside, Hub, Provider) {
    let outside = Outside::with_file("keeta.toml", KEETA).await;
    outside.provider.takes_calls_that(is_signed);
    outside.provider.on("/order/", code(0));
    let mut known = Provider::all(&Catalogue::shipped()).into_iter();
    let keeta = known.find(|provider| provider.name == "keeta").unwrap();
    keeta.branch(&outside.world, "123").await;
    let settings = outside
        .settings_for("KEETA")
        .set("KEETA_CLIENT_ID", APP_ID)
        .set("KEETA_ACCESS_TOKEN", TOKEN);
    let hub = Hub::start(&keeta.enable(settings, "SAR")).await;
    (outside, hub, keeta)
}

/// A hub with Keeta's three orders, which the backend has.
async fn with_orders() -> (Outside, Hub) {
    let (outside, hub, keeta) = with_branch().await;
    for order in [order(PICKUP, None), order(OWN, Some(9001)), order(KEETAS, Some(1001))] {
        let answer = keeta.post(&hub, &order).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    outside.world.log.wait_for(EventType::OrderForwarded, 3).await;
    (outside, hub)
}

/// Its path, and what it says beside who the hub is.
fn said(call: &Call) -> (String, Value) {
    let mut body = call.json();
    let fields = body.as_object_mut().unwrap();
    for field in ["appId", "accessToken", "timestamp", "sig"] {
        assert!(fields.remove(field).is_some(), "{field}");
    }
    (call.path.clone(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn keeta_is_told_what_it_has_a_call_for() {
    let (outside, hub) = with_orders().await;
    for (order, body) in [
        (PICKUP, json!({ "status": "accepted" })),
        (PICKUP, json!({ "status": "ready" })),
        (PICKUP, json!({ "status": "picked_up" })),
        (PICKUP, json!({ "status": "delivered" })),
        (OWN, json!({ "status": "picked_up" })),
        (OWN, json!({ "status": "delivered" })),
        (KEETAS, json!({ "status": "picked_up" })),
        (
            KEETAS,
            json!({ "status": "cancelled", "reasonCode": "out_of_stock", "reason": "no bread" }),
        ),
    ] {
        ask(&hub, order, body).await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 8).await;
    // Keeta's own riders say themselves what they picked up, and there is no call for a customer who comes for the order.
    let skipped = pushed.iter().filter(|one| one["skipped"] == true);
    let skipped: Vec<_> = skipped.map(|one| (&one["status"], &one["attempts"])).collect();
    assert_eq!(skipped, [(&json!("picked_up"), &json!(0)); 2]);
    let calls = outside.provider.wait_for(6).await;
    let of = |order: u64| {
        let calls = calls.iter().map(said).filter(|(_, body)| body["orderViewId"] == order);
        calls.collect::<Vec<_>>()
    };
    let about = |order: u64, path: &str| (format!("/order/{path}"), json!({ "orderViewId": order, "shopId": 123 }));
    assert_eq!(
        of(PICKUP),
        ["confirm", "prepare", "collect"].map(|path| about(PICKUP, path))
    );
    assert_eq!(of(OWN), ["dispatched", "delivered"].map(|path| about(OWN, path)));
    let cancel = json!({
        "orderViewId": KEETAS, "shopId": 123, "cancelCode": 500_000, "cancelReason": "Out of stock: no bread",
    });
    assert_eq!(of(KEETAS), [("/order/cancel".to_owned(), cancel)]);
    outside.world.at_end(Ends::forwarded(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeta_answers_is_in_the_code() {
    let (outside, hub) = with_orders().await;
    let failed = async |count: usize| {
        let failed = outside.payloads(EventType::OrderStatusPushFailed, count).await;
        let last = &failed[count - 1];
        (
            last["error"]["code"].clone(),
            last["givenUp"] == true,
            last["error"]["details"].clone(),
        )
    };
    let keetas = |code: &str| json!({ "branch": "branch-keeta-123", "providerCode": code });
    // A fault of Keeta's and one of the token, then a limit: all pass.
    let limited = Say {
        retry_after: Some(1),
        ..Say::status(429)
    };
    outside.provider.next([code(315_000_100), code(115_000_103), limited]);
    ask(&hub, PICKUP, json!({ "status": "accepted" })).await;
    assert_eq!(failed(1).await, (json!("PROVIDER_503"), false, keetas("315000100")));
    assert_eq!(failed(2).await, (json!("PROVIDER_401"), false, keetas("115000103")));
    assert_eq!(failed(3).await.0, "PROVIDER_429");
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(
        (&pushed["attempts"], &pushed["providerStatus"]),
        (&json!(4), &json!(200))
    );
    let calls = outside.provider.calls();
    assert!(
        calls[3].at - calls[2].at >= std::time::Duration::from_millis(980),
        "it was not left alone"
    );
    // Anything else is a refusal, which a person may take up again.
    outside.provider.next([code(115_000_201)]);
    ask(&hub, OWN, json!({ "status": "accepted" })).await;
    assert_eq!(failed(4).await, (json!("PROVIDER_422"), true, keetas("115000201")));
    let dead = outside.world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    assert_eq!(payload(&dead[0])["error"]["code"], "PROVIDER_422");
    // It is away.
    outside.provider.close().await;
    ask(&hub, KEETAS, json!({ "status": "accepted" })).await;
    assert_eq!(failed(5).await.0, "PROVIDER_UNREACHABLE");
    outside.provider.open();
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    outside.world.retry_dead_letters().await;
    outside.payloads(EventType::OrderStatusPushed, 3).await;
    outside.world.at_end(Ends::forwarded(3)).await;
}

/// Keeta lists the items that it does not take, and wants to know the groups of options.
#[tokio::test(flavor = "multi_thread")]
async fn keeta_takes_some_items_and_lists_the_others() {
    let (outside, hub, _) = with_branch().await;
    let put = async |what: &str, body: Value| {
        let path = format!("{what}/keeta/branch-keeta-123");
        send(&hub, Method::PUT, &path, &body.to_string(), &[]).await
    };
    let without_group = json!({ "options": [{ "id": "o", "available": false }] });
    let answer = put("items", without_group).await;
    let pointer = answer.json()["error"]["details"]["faults"][0]["pointer"].clone();
    assert_eq!((answer.status, pointer), (422, json!("/options/0/groupId")));
    let errors = json!([{ "openItemCode": "b", "code": 115_000_401, "message": "no such item" }]);
    let partly = json!({ "code": 0, "message": "Success", "data": [{ "openItemCode": "a" }], "errorList": errors });
    outside.provider.next([Say::json(&partly), code(0), code(0)]);
    let entry = |id: &str, available: bool| json!({ "id": id, "available": available });
    let body = json!({
        "items": [entry("a", false), entry("b", false), entry("c", true)],
        "options": [{ "id": "o", "groupId": "g", "available": false }],
    });
    assert_eq!(put("items", body).await.status, 202);
    let pushed = &outside.payloads(EventType::ItemsPushed, 1).await[0];
    let refused = json!([{ "kind": "item", "id": "b", "code": "115000401" }]);
    assert_eq!((&pushed["taken"], &pushed["refused"]), (&json!(3), &refused));
    let items = |ids: &[&str], status: u8| {
        let body = json!({ "shopId": 123, "spuOpenItemCodeList": ids, "status": status, "needLinkage": 0 });
        ("/product/spustatus/batchupdatebycode".to_owned(), body)
    };
    let options = json!({
        "shopId": 123, "status": 0,
        "choiceGroupSkuCodePackList": [{ "choiceGroupCode": "g", "choiceGroupSkuCodes": ["o"] }],
    });
    let options = ("/product/choicegroupskustatus/batchupdatebycode".to_owned(), options);
    let calls: Vec<_> = outside.provider.calls().iter().map(said).collect();
    assert_eq!(calls, [items(&["a", "b"], 0), items(&["c"], 1), options]);
    // Its shop rests until it is opened again.
    outside.provider.on("/scm/", code(0));
    for state in ["paused", "open"] {
        assert_eq!(put("stores", json!({ "state": state })).await.status, 202);
    }
    outside.payloads(EventType::StorePushed, 2).await;
    let calls = outside.provider.calls();
    let paths: Vec<_> = calls[3..].iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["/scm/shop/status/rest", "/scm/shop/status/open"]);
    outside.world.at_end(Ends::default()).await;
}
