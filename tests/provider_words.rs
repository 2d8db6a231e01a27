//! What the hub tells single providers, and what they make of it: that an order has arrived or is lost, why it is refused,
//! that it has to be asked again, that it is too late.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::harness::{
    at_end::Ends,
    backend,
    hub::{Hub, Settings},
    outside::{DELIVERY_HERO, Outside, UBER_EATS, send},
    platform::{CLIENT_ID, CLIENT_SECRET, Say},
    played::Heard,
    provider::{Provider, Webhook},
};

const JUST_EAT: &str = include_str!("../providers/just-eat.toml");
const DELIVEROO: &str = include_str!("../providers/deliveroo.toml");
const DOORDASH: &str = include_str!("../providers/doordash.toml");
const JAHEZ: &str = include_str!("../providers/jahez.toml");
const RAPPI: &str = include_str!("../providers/rappi.toml");

/// A platform that plays this provider, and its branch.
pub(crate) struct Played {
    pub(crate) outside: Outside,
    provider: Provider,
    pub(crate) settings: Settings,
}

impl Played {
    pub(crate) async fn new(name: &str, file: &str, store: &str, currency: &str) -> Self {
        let prefix = name.to_ascii_uppercase().replace('-', "_");
        let outside = Outside::with_file(&format!("{name}.toml"), file).await;
        let all = Provider::all(&Catalogue::shipped());
        let provider = all.into_iter().find(|one| one.name == name).unwrap();
        provider.branch(&outside.world, store).await;
        let settings = provider.enable(outside.settings_for(&prefix), currency);
        let settings = settings
            .set(&format!("{prefix}_CLIENT_ID"), CLIENT_ID)
            .set(&format!("{prefix}_CLIENT_SECRET"), CLIENT_SECRET);
        Self {
            outside,
            provider,
            settings,
        }
    }

    pub(crate) async fn post(&self, hub: &Hub, webhook: &Value) -> u16 {
        self.provider.post(hub, &Webhook::new(webhook)).await.status
    }

    /// Calls that the platform said yes to, without their times.
    pub(crate) fn told(&self) -> Vec<(String, Value)> {
        let calls = self.outside.provider.calls().into_iter();
        let taken = calls.filter(|call| call.status == 200);
        taken
            .map(|call| {
                let mut body = call.json();
                if let Some(body) = body.as_object_mut() {
                    body.remove("occurred_at");
                }
                (format!("{} {}", call.method, call.path), body)
            })
            .collect()
    }
}

pub(crate) fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The order under another number.
pub(crate) fn numbered(order: &Value, pointer: &str, id: &str) -> Value {
    let mut order = order.clone();
    *order.pointer_mut(pointer).unwrap() = id.into();
    order
}

/// Just Eat is told which orders the backend has and which it will not have; without that word an order reaches no restaurant.
#[tokio::test(flavor = "multi_thread")]
async fn just_eat_is_told_what_arrived_and_what_is_lost() {
    let played = Played::new("just-eat", JUST_EAT, "AKZ12", "GBP").await;
    let key = |heard: &Heard| heard.header("x-flyt-api-key") == CLIENT_SECRET;
    played.outside.provider.takes_calls_that(key);
    let hub = Hub::start(&played.settings).await;
    let order = json_of(include_str!("fixtures/providers/just-eat/receive_order.json"));
    let refused = backend::Answer::status(422);
    played.outside.world.backend.always_for("JE-refused", Some(refused));
    for id in ["JE-taken", "JE-refused"] {
        assert_eq!(played.post(&hub, &numbered(&order, "/id", id)).await, 202);
    }
    // An order that cannot be read is lost, too.
    let mut broken = numbered(&order, "/id", "JE-broken");
    broken["items"] = json!([{ "name": "no price" }]);
    assert_eq!(played.post(&hub, &broken).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 3).await;
    let ends = Ends::forwarded(1).dead_lettered(1).rejected(1);
    played.outside.world.at_end(ends).await;
    let mut told = played.told();
    told.sort_by(|(one, _), (other, _)| one.cmp(other));
    let lost =
        json!({ "errorCode": "UNKNOWN", "errorMessage": "the restaurant's system did not take the order in time" });
    assert_eq!(
        told,
        [
            ("POST /order/JE-broken/sent-to-pos-failed".into(), lost.clone()),
            ("POST /order/JE-refused/sent-to-pos-failed".into(), lost),
            ("POST /order/JE-taken/sent-to-pos-success".into(), json!({})),
        ]
    );
}

/// The hub says in time that an order is lost, and no longer forwards it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_forwarded_in_time_is_lost_and_stays_so() {
    let file = JUST_EAT.replace("confirm_within = \"150s\"", "confirm_within = \"2s\"");
    let played = Played::new("just-eat", &file, "AKZ12", "GBP").await;
    played
        .outside
        .provider
        .takes_calls_that(|heard| heard.header("x-flyt-api-key") == CLIENT_SECRET);
    let settings = played.settings.clone().set("RETRY_MAX_ATTEMPTS", 50);
    let hub = Hub::start(&settings).await;
    played.outside.world.backend.otherwise(backend::Answer::status(503));
    let order = json_of(include_str!("fixtures/providers/just-eat/receive_order.json"));
    assert_eq!(played.post(&hub, &numbered(&order, "/id", "JE-late")).await, 202);
    let dead = &played.outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "ORDER_EXPIRED", "{dead}");
    played.outside.world.backend.otherwise(backend::Answer::Accept);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    played.outside.world.at_end(Ends::default().dead_lettered(1)).await;
    let told: Vec<_> = played.told().into_iter().map(|(path, _)| path).collect();
    assert_eq!(told, ["POST /order/JE-late/sent-to-pos-failed"]);
}

/// The hub gives an order up itself, for a fault of its own. The provider is told so, and does not wait until its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_hub_gives_up_itself_is_lost() {
    let played = Played::new("just-eat", JUST_EAT, "AKZ12", "GBP").await;
    let provider = &played.outside.provider;
    provider.takes_calls_that(|heard| heard.header("x-flyt-api-key") == CLIENT_SECRET);
    let settings = played.settings.clone().set("HUB_TEST_PANIC_AT", "forward:JE-panic");
    let hub = Hub::start(&settings).await;
    let order = json_of(include_str!("fixtures/providers/just-eat/receive_order.json"));
    assert_eq!(played.post(&hub, &numbered(&order, "/id", "JE-panic")).await, 202);
    let dead = &played.outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "PANIC", "{dead}");
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    played.outside.world.at_end(Ends::default().dead_lettered(1)).await;
    let told: Vec<_> = played.told().into_iter().map(|(path, _)| path).collect();
    assert_eq!(told, ["POST /order/JE-panic/sent-to-pos-failed"]);
}

/// Deliveroo is told that the order has arrived, what the kitchen does and why the order is refused.
#[tokio::test(flavor = "multi_thread")]
async fn deliveroo_is_told_in_its_words() {
    let file = DELIVEROO.replace("https://auth.developers.deliveroo.com/oauth2/token", "/token");
    let file = file.replace("credentials = \"basic\"", "credentials = \"body\"");
    let played = Played::new("deliveroo", &file, "test-location-123", "EUR").await;
    let hub = Hub::start(&played.settings).await;
    let order = json_of(include_str!("fixtures/providers/deliveroo/webhook_order.new.json"));
    let order = numbered(&order, "/body/order/id", "DR-1");
    assert_eq!(played.post(&hub, &order).await, 200);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    for status in ["accepted", "preparing", "ready", "picked_up"] {
        ask(&hub, "deliveroo/DR-1", &json!({ "status": status })).await;
    }
    let refused = json!({ "status": "rejected", "reasonCode": "too_busy", "reason": "full" });
    ask(&hub, "deliveroo/DR-2", &refused).await;
    played.outside.payloads(EventType::OrderStatusPushed, 6).await;
    played.outside.world.at_end(Ends::forwarded(1)).await;
    let mut told = played.told();
    // The last is about another order, which may be told meanwhile.
    told.sort_by_key(|(path, _)| path.contains("DR-2"));
    let stage = |stage: &str| {
        (
            "POST /order/v1/orders/DR-1/prep_stage".to_owned(),
            json!({ "stage": stage }),
        )
    };
    assert_eq!(
        told,
        [
            (
                "POST /order/v1/orders/DR-1/sync_status".into(),
                json!({ "status": "succeeded" })
            ),
            ("PATCH /order/v1/orders/DR-1".into(), json!({ "status": "accepted" })),
            stage("in_kitchen"),
            stage("ready_for_collection"),
            stage("collected"),
            (
                "PATCH /order/v1/orders/DR-2".into(),
                json!({ "status": "rejected", "reject_reason": "busy", "notes": "full" })
            ),
        ]
    );
}

/// The key with which the hub signs for DoorDash: 32 bytes.
const SIGNING_KEY: [u8; 32] = [7; 32];

/// Whether a call shows a token that the hub signed just now.
fn is_signed(heard: &Heard) -> bool {
    let token = heard
        .header("authorization")
        .strip_prefix("Bearer ")
        .unwrap_or_default();
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["doordash"]);
    validation.set_issuer(&[CLIENT_ID]);
    let Ok(token) = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(&SIGNING_KEY), &validation) else {
        return false;
    };
    let seconds = token.claims["exp"].as_i64().unwrap_or_default() - token.claims["iat"].as_i64().unwrap_or_default();
    let header: Option<String> = token.header.extras.get("dd-ver").ok().flatten();
    token.claims["kid"] == "key-1" && seconds == 300 && header.as_deref() == Some("DD-JWT-V1")
}

/// DoorDash is told that the order has arrived, with a token that the hub signs itself.
#[tokio::test(flavor = "multi_thread")]
async fn doordash_is_told_with_a_signed_token() {
    let played = Played::new("doordash", DOORDASH, "abc12345", "USD").await;
    played.outside.provider.takes_calls_that(is_signed);
    let settings = played.settings.clone();
    let settings = settings
        .set("DOORDASH_CLIENT_SECRET", URL_SAFE_NO_PAD.encode(SIGNING_KEY))
        .set("DOORDASH_KEY_ID", "key-1");
    let hub = Hub::start(&settings).await;
    let order = json_of(include_str!("fixtures/providers/doordash/webhook_OrderCreate.json"));
    let order = numbered(&order, "/order/id", "dd-1");
    assert_eq!(played.post(&hub, &order).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    let cancelled = json!({ "status": "cancelled", "reasonCode": "out_of_stock", "reason": "no rice" });
    ask(&hub, "doordash/dd-1", &cancelled).await;
    played.outside.payloads(EventType::OrderStatusPushed, 2).await;
    played.outside.world.at_end(Ends::forwarded(1)).await;
    assert_eq!(
        played.told(),
        [
            (
                "PATCH /api/v1/orders/dd-1".into(),
                json!({ "merchant_supplied_id": "order-1", "order_status": "success" })
            ),
            (
                "PATCH /api/v1/orders/dd-1/cancellation".into(),
                json!({ "cancel_reason": "ITEM_OUT_OF_STOCK", "cancel_details": "no rice" })
            ),
        ]
    );
}

/// Jahez takes the two words that its restaurants have.
#[tokio::test(flavor = "multi_thread")]
async fn jahez_is_told_what_is_accepted_and_what_is_not() {
    let played = Played::new("jahez", JAHEZ, "branch-uuid-1", "SAR").await;
    let shows = |heard: &Heard| heard.header("authorization") == format!("Bearer {CLIENT_SECRET}");
    played.outside.provider.takes_calls_that(shows);
    let hub = Hub::start(&played.settings).await;
    ask(&hub, "jahez/7", &json!({ "status": "accepted" })).await;
    ask(
        &hub,
        "jahez/7",
        &json!({ "status": "rejected", "reason": "closed today" }),
    )
    .await;
    played.outside.payloads(EventType::OrderStatusPushed, 2).await;
    played.outside.world.at_end(Ends::default()).await;
    let path = || "POST /webhooks/status_update".to_owned();
    assert_eq!(
        played.told(),
        [
            (path(), json!({ "jahezOrderId": "7", "status": "A" })),
            (
                path(),
                json!({ "jahezOrderId": "7", "status": "R", "reason": "closed today" })
            ),
        ]
    );
}

/// Rappi gives tokens for JSON and takes them in a header of its own; minutes go in the path, items by the integration's id of the store.
#[tokio::test(flavor = "multi_thread")]
async fn rappi_is_told_about_orders_items_and_the_store() {
    let played = Played::new("rappi", RAPPI, "900105814", "MXN").await;
    let settings = r#"UPDATE branch_delivery_configs SET settings = '{"storeIntegrationId": "s-7"}'"#;
    played.outside.world.database.run(settings).await.unwrap();
    played.outside.provider.gives_tokens_for_json("x-authorization");
    let hub = Hub::start(&played.settings).await;
    for said in [
        json!({ "status": "accepted", "preparationMinutes": 20 }),
        json!({ "status": "accepted" }),
        json!({ "status": "rejected", "reason": "no chicken", "reasonCode": "out_of_stock" }),
        json!({ "status": "rejected", "reasonCode": "address" }),
        json!({ "status": "ready" }),
    ] {
        ask(&hub, "rappi/7", &said).await;
    }
    played.outside.payloads(EventType::OrderStatusPushed, 5).await;
    let put = async |what: &str, body: Value| {
        let path = format!("{what}/rappi/branch-rappi-900105814");
        let answer = send(&hub, Method::PUT, &path, &body.to_string(), &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    };
    put("items", json!({ "items": [{ "id": "ENS-01", "available": false }] })).await;
    played.outside.payloads(EventType::ItemsPushed, 1).await;
    put("stores", json!({ "state": "paused" })).await;
    played.outside.payloads(EventType::StorePushed, 1).await;
    played.outside.world.at_end(Ends::default()).await;
    let api = |rest: &str| format!("/api/v2/restaurants-integrations-public-api/{rest}");
    let order = |method: &str, rest: &str| format!("{method} {}", api(&format!("orders/7/{rest}")));
    let refused = |reason: &str, kind: &str| json!({ "reason": reason, "cancel_type": kind });
    let items = json!([{ "store_integration_id": "s-7", "items": { "turn_off": ["ENS-01"] } }]);
    let store = json!({ "stores": [{ "store_id": "900105814", "is_enabled": false }] });
    assert_eq!(
        played.told(),
        [
            (order("PUT", "take/20"), Value::Null),
            (order("PUT", "take/15"), Value::Null),
            (
                order("PUT", "reject"),
                refused("no chicken", "ORDER_MISSING_INFORMATION")
            ),
            (
                order("PUT", "reject"),
                refused(
                    "The restaurant cannot prepare the order",
                    "ORDER_MISSING_ADDRESS_INFORMATION"
                )
            ),
            (order("POST", "ready-for-pickup"), Value::Null),
            (format!("PUT {}", api("availability/stores/items")), items),
            (format!("PUT {}", api("availability/stores/enable")), store),
        ]
    );
}

/// While Delivery Hero assigns an order it wants to be asked again, for which no attempt is counted. Any other 409 is a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_hero_is_asked_again_while_it_assigns_the_order() {
    let file = DELIVERY_HERO.replace("every = \"10s\"", "every = \"1s\"");
    let played = Played::new("delivery-hero", &file, "store-9", "EGP").await;
    let hub = Hub::start(&played.settings).await;
    let assigned = |code: &str| Say {
        body: json!({ "code": code, "message": "not now" }).to_string(),
        ..Say::status(409)
    };
    played
        .outside
        .provider
        .next((0..4).map(|_| assigned("ASSIGNED_TO_TRANSPORT")));
    let asked = ask(&hub, "delivery-hero/dh-1", &json!({ "status": "accepted" })).await;
    let pushed = &played.outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(pushed["status"], "accepted");
    assert_eq!(
        played.outside.provider.token_fields()["grant_type"],
        "client_credentials"
    );
    let (_, accepted) = &played.told()[0];
    let time: chrono::DateTime<chrono::Utc> = accepted["acceptanceTime"].as_str().unwrap().parse().unwrap();
    assert!(time >= asked + chrono::TimeDelta::minutes(3), "{time} is too soon");
    played.outside.provider.next([assigned("ORDER_CANCELLED")]);
    ask(&hub, "delivery-hero/dh-2", &json!({ "status": "accepted" })).await;
    let dead = &played.outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (&dead["error"]["code"], &dead["attempts"]),
        (&json!("PROVIDER_409"), &json!(1))
    );
    played.outside.world.at_end(Ends::default().dead_lettered(1)).await;
}

/// Delivery Hero takes about an order only the calls that the order lists.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_hero_is_told_only_what_the_order_lists() {
    let played = Played::new("delivery-hero", DELIVERY_HERO, "store-9", "EGP").await;
    let hub = Hub::start(&played.settings).await;
    let mut order = json_of(include_str!(
        "fixtures/providers/delivery-hero/order_dispatch.talabat.json"
    ));
    order["token"] = "dh-listed".into();
    let webhook = Webhook::new(&order).at("/order/store-9");
    assert_eq!(played.provider.post(&hub, &webhook).await.status, 200);
    played.outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    for (at, status) in ["accepted", "ready", "picked_up"].into_iter().enumerate() {
        ask(&hub, "delivery-hero/dh-listed", &json!({ "status": status })).await;
        played.outside.payloads(EventType::OrderStatusPushed, at + 1).await;
    }
    played.outside.world.at_end(Ends::forwarded(1)).await;
    let told: Vec<_> = played.told().into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        told,
        [
            "POST /v2/order/status/dh-listed",
            "POST /v2/orders/dh-listed/preparation-completed"
        ]
    );
    let pushed = played.outside.payloads(EventType::OrderStatusPushed, 3).await;
    assert_eq!(pushed[2]["skipped"], true);
    let body = played.outside.world.backend.requests()[0].json();
    assert_eq!(
        body["transformedOrder"]["providerTakes"],
        json!(["accepted", "rejected", "ready", "cancelled"])
    );
}

/// Uber Eats gets its own words for reasons, and says with a 404 that an order is past that.
#[tokio::test(flavor = "multi_thread")]
async fn uber_eats_is_told_why_and_says_when_it_is_too_late() {
    let played = Played::new("uber-eats", UBER_EATS, "store-9", "USD").await;
    let hub = Hub::start(&played.settings).await;
    let denied = json!({ "status": "rejected", "reasonCode": "out_of_stock", "reason": "no rice" });
    ask(&hub, "uber-eats/ue-1", &denied).await;
    ask(
        &hub,
        "uber-eats/ue-2",
        &json!({ "status": "delayed", "preparationMinutes": 30 }),
    )
    .await;
    played.outside.payloads(EventType::OrderStatusPushed, 2).await;
    let mut told = played.told();
    told.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(
        told[0],
        (
            "POST /v1/delivery/order/ue-1/deny".into(),
            json!({ "deny_reason": { "type": "ITEM_ISSUE", "info": "no rice" } })
        )
    );
    assert_eq!(told[1].0, "POST /v1/delivery/order/ue-2/update-ready-time");
    assert!(told[1].1["ready_for_pickup_time"].is_string());
    played.outside.provider.next([Say::status(404)]);
    ask(&hub, "uber-eats/ue-3", &json!({ "status": "ready" })).await;
    let dead = &played.outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["attempts"], 1, "it is not asked again: {dead}");
    played.outside.world.at_end(Ends::default().dead_lettered(1)).await;
}

/// The backend asks for a status; when that was.
pub(crate) async fn ask(hub: &Hub, order: &str, body: &Value) -> chrono::DateTime<chrono::Utc> {
    let asked = chrono::Utc::now();
    let answer = send(
        hub,
        Method::POST,
        &format!("orders/{order}/status"),
        &body.to_string(),
        &[],
    )
    .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    asked
}
