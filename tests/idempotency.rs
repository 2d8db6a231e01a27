//! Tests the `Idempotency-Key`: that of a new order stays the same after a crash, with another version of the provider's file, and on
//! a log that no longer contains the order; that of a change where its webhook comes again.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Hub, run},
    log::Log,
    outside::{CAREEM, Outside},
    wait::PATIENCE,
};

/// The order as sent in this attempt: the provider puts the attempt counter and the time of sending in the body.
fn sent(id: &str, attempt: u32) -> String {
    let mut webhook: Value = serde_json::from_str(&order(id)).unwrap();
    webhook["delivery_attempt"] = attempt.into();
    webhook["sent_at"] = format!("2025-10-01T12:00:{attempt:02}Z").into();
    webhook.to_string()
}

impl World {
    /// The keys of the requests that created this order, in sequence.
    pub(crate) fn keys_of(&self, id: &str) -> Vec<String> {
        let requests = self.backend.requests().into_iter();
        let of_order = requests.filter(|request| request.path == ORDERS && request.external_order_id() == id);
        of_order.map(|request| request.key().to_owned()).collect()
    }

    /// Both possible keys of an order that was transformed once: the one stored with its event, and the event's id.
    async fn names_of(&self, id: &str) -> [String; 2] {
        let events = self.log.events().await;
        let is_it = |event_type, order: &str| event_type == EventType::OrderTransformed && order == id;
        let mut of_order = events
            .iter()
            .filter(|event| is_it(event.envelope.event_type, &event.envelope.external_order_id));
        let envelope = &of_order.next().expect("a transformed order").envelope;
        assert!(of_order.next().is_none(), "{id} was transformed once");
        [envelope.request_key().to_string(), envelope.id.to_string()]
    }

    /// The log server loses everything and is set up again from scratch.
    async fn loses_the_log(&mut self) {
        let server = &self.nats.server;
        server.kill().await.unwrap();
        std::fs::remove_dir_all(server.dir().join("jetstream")).unwrap();
        server.restart().await.unwrap();
        let provision = self.nats.settings("provision").set("PARTITIONS", PARTITIONS);
        run(&provision, &["streams", "apply"]).await.expect_success();
        self.log = Log::open(&self.nats).await;
    }
}

/// The log lost an order that the backend has. The provider sends it again, in another body and behind other orders, and the
/// backend knows it by its key. An order of the same number that was placed at another time is another one.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_log_lost_has_the_same_key() {
    let mut world = World::new().await;
    let hub = world.hub().await;
    for id in ["CR-lost", "CR-number", "CR-amended"] {
        world.careem.post(&hub, &sent(id, 1)).await.event_id();
    }
    world.at_end(Ends::forwarded(3)).await;
    hub.kill().await;
    world.loses_the_log().await;
    let hub = world.hub().await;
    world.careem.post(&hub, &sent("CR-other", 1)).await.event_id();
    let next_day = sent("CR-number", 2).replace("2025-10-01T12:00:00Z", "2025-10-02T12:00:00Z");
    let amended = sent("CR-amended", 2).replace("16.24", "26.24");
    for body in [sent("CR-lost", 2), next_day, amended] {
        world.careem.post(&hub, &body).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let keys = |id| -> [String; 2] { world.keys_of(id).try_into().expect("two requests") };
    let [first, again] = keys("CR-lost");
    assert_eq!(first, again);
    for id in ["CR-number", "CR-amended"] {
        let [first, again] = keys(id);
        assert_ne!(first, again, "{id}");
    }
}

/// An order without a time could be last year's with the same number, so its key is its event's id. The same holds for orders that an older
/// version may have to forward.
#[tokio::test(flavor = "multi_thread")]
async fn orders_without_a_time_use_their_event_id() {
    let world = World::new().await;
    let mut timeless: Value = serde_json::from_str(&order("CR-timeless")).unwrap();
    timeless.as_object_mut().unwrap().remove("created_at");
    let hub = world.hub().await;
    world.careem.post(&hub, &timeless.to_string()).await.event_id();
    world.careem.post(&hub, &order("CR-timed")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let [key, id] = world.names_of("CR-timeless").await;
    assert_eq!((&key, world.keys_of("CR-timeless")), (&id, vec![id.clone()]));
    let [key, id] = world.names_of("CR-timed").await;
    assert_ne!(key, id);
    assert_eq!(world.keys_of("CR-timed"), std::slice::from_ref(&key));
    assert!(hub.terminate().await.0.success());

    // An operator finds it in the log by the same name as in the backend's.
    let operator = world.nats.settings("hub");
    let events = world.log.events().await;
    let transformed = events.iter().find(|event| event.envelope.id.to_string() == id).unwrap();
    let args = ["events", "show", &transformed.sequence.to_string(), "--json"];
    let shown = run(&operator, &args).await.expect_success();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["idempotencykey"], key);

    let hub = Hub::start(&world.settings().set("EVENT_FORMAT", "headers")).await;
    world.careem.post(&hub, &order("CR-headers")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    let [key, id] = world.names_of("CR-headers").await;
    assert_eq!((&key, world.keys_of("CR-headers")), (&id, vec![id.clone()]));
    world.at_end(Ends::forwarded(3)).await;
}

/// The backend took the order and the instance died. The one that takes over writes the other form, and transforms and
/// forwards accordingly; an order that is on the log keeps its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_changes_the_form_keeps_the_key() {
    for (dying, next) in [("compact", "headers"), ("headers", "compact")] {
        let world = World::new().await;
        let settings = world.settings_on_fixed_port();
        let crashing = settings.clone().set("EVENT_FORMAT", dying);
        let mut hub = Hub::start(&crashing.set("HUB_TEST_CRASH_AT", "forward/after_request")).await;
        world.careem.post(&hub, &order("CR-taken")).await.event_id();
        hub.wait_exit(PATIENCE).await;
        let hub = Hub::start(&settings.set("EVENT_FORMAT", next)).await;
        world.careem.post(&hub, &order("CR-next")).await.event_id();
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        let ([key, id], keys) = (world.names_of("CR-taken").await, world.keys_of("CR-taken"));
        assert_eq!(keys, [key.clone(), key.clone()], "{dying}, then {next}");
        assert_eq!(key == id, dying == "headers");
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(2)).await;
    }
}

/// The backend took the order and did not answer, until it was given up. Then the provider's file is fixed, and the same
/// webhook now means another total. Whoever repeats the request, the provider or an operator, it has the first key.
#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_provider_file_does_not_change_the_key() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    let world = &outside.world;
    let settings = outside
        .settings()
        .set("RETRY_MAX_ATTEMPTS", 1)
        .set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings).await;
    for id in ["CR-again", "CR-retried"] {
        world.backend.always_for(id, Some(Answer::Cut));
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log_forgets(&hub).await;
    assert!(hub.terminate().await.0.success());
    let mended = CAREEM.replace("/price/total_taxable_price", "/price/subtotal");
    assert_ne!(mended, CAREEM);
    outside.rewrite("careem.toml", &mended);
    let hub = Hub::start(&settings).await;
    for id in ["CR-again", "CR-retried"] {
        world.backend.always_for(id, None);
    }
    world.careem.post(&hub, &order("CR-again")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    for id in ["CR-again", "CR-retried"] {
        let mut keys = world.keys_of(id);
        assert!(keys.len() > 4, "{id}: {keys:?}");
        keys.dedup();
        assert_eq!(keys.len(), 1, "{id}: {keys:?}");
    }
    let orders: Vec<_> = world.log.payloads(EventType::OrderForwarded, 2).await;
    let totals: Vec<_> = orders.iter().map(|one| one["order"]["total"].clone()).collect();
    assert_eq!(totals, [json!("16.240"), json!("16.240")], "and with the first body");
}

/// The backend took news of an order, and an announcement that tells a further status, and no answer arrived until they were given up. The
/// provider sends the webhooks again: each word keeps its key. What says something else has another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_again_keeps_its_key() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("CIRCUIT_BREAKER_ENABLED", false)
        .set("RETRY_DELAYS", "100ms")
        .set("RETRY_MAX_ATTEMPTS", 1);
    let hub = Hub::start(&settings).await;
    let further = order("CR-2").replace(r#""status": "created""#, r#""status": "accepted""#);
    let changes = [("CR-2", further), ("CR-1", change("CR-1", "refunded"))];
    for (id, _) in &changes {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    for (id, webhook) in &changes {
        world.backend.next_for(id, [Answer::Cut]);
        world.backend.always_for(id, Some(Answer::status(503)));
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log_forgets(&hub).await;
    for (id, webhook) in &changes {
        world.backend.always_for(id, None);
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let keys = |id: &str| {
        let requests = world.backend.requests().into_iter();
        let of_order = requests.filter(|one| one.path.ends_with("/status") && one.external_order_id() == id);
        of_order.map(|one| one.key().to_owned()).collect::<Vec<_>>()
    };
    for (id, _) in &changes {
        let mut keys = keys(id);
        assert!(keys.len() > 2, "{id}: {keys:?}");
        keys.dedup();
        assert_eq!(keys.len(), 1, "{id}: {keys:?}");
    }
    world.careem.post(&hub, &change("CR-1", "closed")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    let keys = keys("CR-1");
    assert_ne!(keys.first(), keys.last(), "{keys:?}");
}
