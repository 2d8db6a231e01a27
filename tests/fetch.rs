//! Webhooks that only say where the order is: it is fetched, from nowhere but the provider, and goes its way.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::{
    harness::{
        at_end::Ends,
        careem::{answer, http, sign},
        hub::{Hub, Settings, run},
        outside::{Outside, UBER_EATS},
        platform::Say,
        wait::{PATIENCE, eventually},
    },
    providers::golden,
};

const SECRET: &str = "uber-test-secret";
/// As the provider would give it.
const DOCUMENT: &str = include_str!("fixtures/providers/uber-eats/order.v1_delivery.amount_e5.json");
/// What the backend gets of it, reviewed by hand.
const ORDER: &str = include_str!("fixtures/providers/uber-eats/order.v1_delivery.amount_e5.body.json");
const RESTAURANT: &str = "
    INSERT INTO delivery_providers (id, code, name) VALUES ('provider-uber', 'uber-eats', 'Uber Eats');
    INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, store_id)
    VALUES ('config-uber', 'branch-uuid', 'provider-uber', 'company-uuid', 'store-1');";

impl Outside {
    /// Of Uber Eats, which issues tokens on another host.
    pub(crate) async fn of_uber() -> Self {
        let outside = Self::with_file("uber-eats.toml", UBER_EATS).await;
        outside.world.database.run(RESTAURANT).await.unwrap();
        outside
    }

    pub(crate) fn uber(&self) -> Settings {
        self.settings_for("UBER_EATS")
            .set("UBER_EATS_ENABLED", true)
            .set("UBER_EATS_WEBHOOK_SECRET", SECRET)
    }

    /// Posts a webhook as Uber Eats does; its event's id.
    async fn say(&self, hub: &Hub, webhook: &Value) -> String {
        let body = webhook.to_string();
        let signature = sign(SECRET, body.as_bytes());
        let post = http().post(format!("{}/api/webhooks/uber-eats", hub.url())).body(body);
        let answer = answer(post.header("x-uber-signature", signature)).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let webhooks = self.world.log.wait_for(EventType::WebhookReceived, 1).await;
        webhooks.last().unwrap().envelope.id.to_string()
    }

    /// There is an order, and a webhook says where; its event's id.
    pub(crate) async fn announce(&self, hub: &Hub, id: &str) -> String {
        self.point(hub, id, &format!("{}/v2/eats/order/{id}", self.provider.url()))
            .await
    }

    async fn point(&self, hub: &Hub, id: &str, href: &str) -> String {
        let webhook = json!({
            "event_type": "orders.notification", "event_id": format!("event-{id}"), "event_time": 1_759_320_000,
            "meta": { "resource_id": id, "status": "pos", "user_id": "store-1" }, "resource_href": href,
        });
        self.say(hub, &webhook).await
    }

    async fn cancel(&self, hub: &Hub, id: &str) {
        let webhook = json!({
            "event_type": "orders.cancel", "event_id": format!("cancel-{id}"), "event_time": 1_759_320_060,
            "meta": { "resource_id": id, "status": "pos", "user_id": "store-1" },
        });
        self.say(hub, &webhook).await;
    }

    pub(crate) fn has(&self, id: &str) {
        self.provider.has(&format!("/v2/eats/order/{id}"), DOCUMENT);
    }

    async fn status_of(&self, webhook: &str) -> String {
        let query = format!("SELECT status::text AS status FROM webhook_logs WHERE id = '{webhook}'");
        let rows = self.world.database.rows(&query).await.unwrap();
        let status = rows
            .first()
            .map(|row| row["status"].as_str().unwrap_or_default().to_owned());
        status.unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_webhook_becomes_the_order_it_refers_to() {
    let outside = Outside::of_uber().await;
    let hub = Hub::start(&outside.uber()).await;
    outside.has("CR-thin");
    outside.announce(&hub, "CR-thin").await;
    let fetched = outside.world.log.wait_for(EventType::OrderFetched, 1).await;
    assert_eq!(fetched[0].payload, DOCUMENT, "byte for byte");
    outside.world.at_end(Ends::forwarded(1)).await;
    let transformed = outside.world.log.wait_for(EventType::OrderTransformed, 1).await;
    let key = transformed[0]
        .envelope
        .idempotency_key
        .expect("a key made of the document");
    assert_eq!(outside.world.backend.requests()[0].key(), key.to_string());
    let body = outside.world.backend.requests()[0].json();
    assert_eq!(
        (
            &body["transformedOrder"]["externalOrderId"],
            &body["transformedOrder"]["branchId"]
        ),
        (&json!("CR-thin"), &json!("branch-uuid"))
    );
    // To the last digit, and with what only the webhook says.
    let href = format!("{}/v2/eats/order/CR-thin", outside.provider.url());
    let expected = golden(ORDER, &body).replace("{href}", &href);
    let sent = &outside.world.backend.requests()[0].body;
    assert_eq!(std::str::from_utf8(sent).unwrap(), expected);
    assert_eq!((outside.provider.calls().len(), outside.provider.tokens()), (1, 1));
    // Both documents are on the log.
    let events = outside.world.log.events().await;
    let webhook = events
        .iter()
        .find(|event| event.envelope.event_type == EventType::WebhookReceived)
        .unwrap();
    assert!(std::str::from_utf8(&webhook.payload).unwrap().contains("resource_href"));
    assert!(events.iter().all(|event| event.envelope.root_id == webhook.envelope.id));
}

/// Not there yet, then the provider is away, then the hub: the order is had, and what was said about it later follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fetch_is_retried_in_order() {
    let outside = Outside::of_uber().await;
    let settings = outside.uber().set("RETRY_MAX_ATTEMPTS", 50);
    let hub = Hub::start(&settings).await;
    let webhook = outside.announce(&hub, "CR-soon").await;
    // Taken as it is, but not before the order.
    outside.cancel(&hub, "CR-soon").await;
    outside.world.log.wait_for(EventType::OrderFetchFailed, 1).await;
    eventually("the webhook is being retried", PATIENCE, async || {
        let status = outside.status_of(&webhook).await;
        if status == "retrying" { Ok(()) } else { Err(status) }
    })
    .await;
    outside.provider.close().await;
    outside.world.log.wait_for(EventType::OrderFetchFailed, 3).await;
    hub.kill().await;
    outside.has("CR-soon");
    outside.provider.open();
    let _hub = Hub::start(&settings).await;
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    let paths: Vec<_> = outside
        .world
        .backend
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(
        paths,
        ["/api/integration/orders", "/api/integration/orders/CR-soon/status"]
    );
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::forwarded(2)).await;
}

/// An order that is never there is given up, and a person may ask again.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_there_is_given_up() {
    let outside = Outside::of_uber().await;
    let hub = Hub::start(&outside.uber().set("RETRY_MAX_ATTEMPTS", 1)).await;
    let webhook = outside.announce(&hub, "CR-never").await;
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (&dead["stage"], &dead["error"]["code"]),
        (&json!("push"), &json!("PROVIDER_404"))
    );
    eventually("the webhook has failed", PATIENCE, async || {
        let status = outside.status_of(&webhook).await;
        if status == "failed" { Ok(()) } else { Err(status) }
    })
    .await;
    outside.has("CR-never");
    outside.world.retry_dead_letters().await;
    outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.world.at_end(Ends::forwarded(1)).await;
}

/// Whoever made the hub believe a webhook cannot make it ask anybody else, nor show anybody its token.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_providers_hosts_are_called() {
    let outside = Outside::of_uber().await;
    let hub = Hub::start(&outside.uber()).await;
    let elsewhere = format!("{}/secrets", outside.world.backend.url());
    outside.point(&hub, "CR-evil", &elsewhere).await;
    outside
        .point(&hub, "CR-local", "http://169.254.169.254/latest/meta-data")
        .await;
    // Nor what is no order there, nor another one.
    for (id, path) in [
        ("CR-path", "/v2/eats/stores"),
        ("CR-dots", "/v2/eats/order/../stores"),
        ("CR-query", "/v2/eats/order/CR-query?as=admin"),
        ("CR-other", "/v2/eats/order/CR-local"),
    ] {
        outside
            .point(&hub, id, &format!("{}{path}", outside.provider.url()))
            .await;
    }
    // One that the provider itself leads away is not followed.
    let away = Say {
        location: Some(elsewhere.clone()),
        ..Say::status(302)
    };
    outside.provider.on("/v2/eats/order/CR-led-away", away);
    let settings = outside.uber().set("RETRY_MAX_ATTEMPTS", 1).set("RETRY_DELAYS", "100ms");
    hub.terminate().await;
    let hub = Hub::start(&settings).await;
    outside.announce(&hub, "CR-led-away").await;
    let dead = outside.payloads(EventType::OrderDeadLettered, 7).await;
    let codes: Vec<_> = dead
        .iter()
        .map(|one| one["error"]["code"].as_str().unwrap().to_owned())
        .collect();
    let refused = codes.iter().filter(|code| *code == "FETCH_HREF_REFUSED").count();
    assert_eq!((refused, codes[6].as_str()), (6, "PROVIDER_302"), "{codes:?}");
    let led_away = outside.provider.calls().into_iter().map(|call| call.path.clone());
    let others: Vec<_> = led_away.filter(|path| path != "/v2/eats/order/CR-led-away").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(outside.world.backend.count(), 0);
    // The first hub may have gone down with webhooks that it had not acknowledged.
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default().dead_lettered(7)).await;
}

/// A document without end is not read to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_has_a_limit() {
    let outside = Outside::of_uber().await;
    let hub = Hub::start(&outside.uber()).await;
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(6 * 1024 * 1024));
    outside.provider.has("/v2/eats/order/CR-large", &large);
    outside.announce(&hub, "CR-large").await;
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "PROVIDER_DOCUMENT_TOO_LARGE");
    outside.world.at_end(Ends::default().dead_lettered(1)).await;
}

/// What is fetched is held to what a webhook's body is: of a total that is there twice nobody knows which one is meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_a_key_twice_is_no_order() {
    let outside = Outside::of_uber().await;
    let hub = Hub::start(&outside.uber()).await;
    let twice = DOCUMENT.replacen('{', "{\"order\": {},", 1);
    outside.provider.has("/v2/eats/order/CR-twice", &twice);
    outside.announce(&hub, "CR-twice").await;
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (&dead["stage"], &dead["error"]["code"]),
        (&json!("push"), &json!("PROVIDER_DOCUMENT_INVALID"))
    );
    let message = dead["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("the same key twice, at /order"), "{message}");
    // The provider has corrected it, and a person requests a retry.
    outside.has("CR-twice");
    outside.world.retry_dead_letters().await;
    outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.world.at_end(Ends::forwarded(1)).await;
}

/// A page instead of the order, or a truncated compressed document, is a fault of the provider; it is retried automatically.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_no_json_is_retried() {
    let outside = Outside::of_uber().await;
    outside.has("CR-page");
    let page = Say {
        body: "<html>We will be back soon".into(),
        ..Say::status(200)
    };
    let cut = Say {
        body: DOCUMENT[..DOCUMENT.len() / 2].into(),
        ..Say::status(200)
    };
    outside.provider.next([page, cut]);
    let hub = Hub::start(&outside.uber()).await;
    outside.announce(&hub, "CR-page").await;
    let failed = outside.payloads(EventType::OrderFetchFailed, 1).await;
    assert_eq!(failed[0]["error"]["code"], "PROVIDER_DOCUMENT_INVALID");
    outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.world.at_end(Ends::forwarded(1)).await;
}

/// A provider with fetched orders cannot be enabled without credentials.
#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_hub_does_not_start() {
    let outside = Outside::of_uber().await;
    let settings = outside
        .uber()
        .set("UBER_EATS_CLIENT_SECRET", "")
        .set("UBER_EATS_CLIENT_ID", "");
    let ran = run(&settings, &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.said().contains("UBER_EATS_CLIENT_SECRET"), "{}", ran.said());
    // Nothing of this needs the platform.
    assert!(outside.provider.calls().is_empty());
}
