//! Providers that wait for the word whether the backend has an order, and announce it more than once: they are told that it is lost only if
//! it is, and an order that was reported as lost is not created any more.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::{
    harness::{
        backend,
        hub::{Hub, run},
        platform::CLIENT_SECRET,
        wait::PATIENCE,
    },
    provider_words::{Played, json_of, numbered},
};

const JUST_EAT: &str = include_str!("../providers/just-eat.toml");

/// A platform that plays Just Eat, an order of it, and a second announcement of it with another price.
async fn just_eat(file: &str, id: &str) -> (Played, Value, Value) {
    let played = Played::new("just-eat", file, "AKZ12", "GBP").await;
    let provider = &played.outside.provider;
    provider.takes_calls_that(|heard| heard.header("x-flyt-api-key") == CLIENT_SECRET);
    let order = json_of(include_str!("fixtures/providers/just-eat/receive_order.json"));
    let order = numbered(&order, "/id", id);
    let mut picked = order.clone();
    picked["items"][0]["price"] = json!(1500);
    (played, order, picked)
}

/// What Just Eat was or will be told, once something was given up: that is requested before the end is recorded.
async fn told_until_given_up(played: &Played, end: EventType) -> Vec<Value> {
    let log = &played.outside.world.log;
    log.wait_for(end, 1).await;
    let events = log.events().await;
    let requested = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderStatusRequested);
    let status = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap()["status"].clone();
    requested.map(|event| status(&event.payload)).collect()
}

/// The backend has the order by the first announcement. It refuses the second one, which changes the lines.
#[tokio::test(flavor = "multi_thread")]
async fn an_amendment_that_is_refused_does_not_lose_the_order() {
    let (played, order, picked) = just_eat(JUST_EAT, "JE-picked").await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    let refuses = Some(backend::Answer::status(422));
    played.outside.world.backend.always_for("JE-picked", refuses);
    played.post(&hub, &picked).await;
    let told = told_until_given_up(&played, EventType::OrderDeadLettered).await;
    assert_eq!(told, ["received"]);
}

/// The hub cannot read the second announcement.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_announcement_that_cannot_be_read_does_not_lose_the_order() {
    let (played, order, mut picked) = just_eat(JUST_EAT, "JE-empty").await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    picked["items"] = json!([]);
    played.post(&hub, &picked).await;
    let told = told_until_given_up(&played, EventType::OrderRejected).await;
    assert_eq!(told, ["received"]);
}

/// The hub gives the second announcement up by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_announcement_that_the_hub_gives_up_does_not_lose_the_order() {
    let (played, order, picked) = just_eat(JUST_EAT, "JE-panic2").await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    hub.terminate().await;
    let panics = played.settings.clone().set("HUB_TEST_PANIC_AT", "forward:JE-panic2");
    let hub = Hub::start(&panics).await;
    assert_eq!(played.post(&hub, &picked).await, 202);
    let told = told_until_given_up(&played, EventType::OrderDeadLettered).await;
    assert_eq!(told, ["received"]);
}

/// Just Eat was told that the order is lost, so it is on the restaurant's tablet. The backend does not get it by a second announcement, until
/// a person wants that.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_reported_as_lost_is_not_created() {
    let file = JUST_EAT.replace("confirm_within = \"150s\"", "confirm_within = \"2s\"");
    let (played, order, picked) = just_eat(&file, "JE-late").await;
    let world = &played.outside.world;
    let hub = Hub::start(&played.settings.clone().set("RETRY_MAX_ATTEMPTS", 50)).await;
    world.backend.otherwise(backend::Answer::status(503));
    assert_eq!(played.post(&hub, &order).await, 202);
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "ORDER_EXPIRED", "{}", dead[0]);
    world.backend.otherwise(backend::Answer::Accept);
    assert_eq!(played.post(&hub, &picked).await, 202);
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let told = told_until_given_up(&played, EventType::OrderDeadLettered).await;
    assert_eq!(told, ["lost", "lost"], "the second one says no more than the first one");
    let why: Value = serde_json::from_slice(&dead[1].payload).unwrap();
    assert_eq!(why["error"]["code"], "REPORTED_LOST", "{why}");
    assert!(world.backend.accepted().is_empty());
    let id = dead[1].envelope.id.to_string();
    let arguments = ["dead-letters", "retry", &id];
    run(&world.nats.settings("hub"), &arguments).await.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}

/// The hub cannot read the first announcement, and Just Eat was told so. A second one can be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_order_that_was_reported_as_lost_is_not_created() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-rejected").await;
    let world = &played.outside.world;
    let hub = Hub::start(&played.settings).await;
    let mut unreadable = order.clone();
    unreadable["items"] = json!([]);
    assert_eq!(played.post(&hub, &unreadable).await, 202);
    let told = told_until_given_up(&played, EventType::OrderRejected).await;
    assert_eq!(told, ["lost"]);
    assert_eq!(played.post(&hub, &order).await, 202);
    let why = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(why["error"]["code"], "REPORTED_LOST", "{why}");
    assert!(world.backend.accepted().is_empty());
}

/// The backend has the order. Its webhook comes again when the log has forgotten it, and its branch is switched off by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_finds_no_branch_does_not_lose_the_order() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-off").await;
    let world = &played.outside.world;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    played.outside.payloads(EventType::OrderStatusPushed, 1).await;
    world.log_forgets(&hub).await;
    hub.terminate().await;
    switch_branches(&played, false).await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    let told = told_until_given_up(&played, EventType::OrderDeadLettered).await;
    assert_eq!(told, ["received"]);
}

async fn switch_branches(played: &Played, is_on: bool) {
    let switch = format!("UPDATE branch_delivery_configs SET is_active = {is_on}");
    played.outside.world.database.run(&switch).await.unwrap();
}

/// The branch has no row, so Just Eat was told that the order is lost. A person adds the row and retries the dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_have_a_lost_order_created() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-retry").await;
    let world = &played.outside.world;
    switch_branches(&played, false).await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    hub.terminate().await;
    switch_branches(&played, true).await;
    let _hub = Hub::start(&played.settings).await;
    let id = dead[0].envelope.id.to_string();
    let arguments = ["dead-letters", "retry", &id];
    run(&world.nats.settings("hub"), &arguments).await.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}

/// The same, but its webhook comes again when the log has forgotten it, and no person has looked at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_a_lost_order_does_not_create_it() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-again").await;
    let world = &played.outside.world;
    switch_branches(&played, false).await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.log_forgets(&hub).await;
    hub.terminate().await;
    switch_branches(&played, true).await;
    let hub = Hub::start(&played.settings).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    let why = &world.log.payloads(EventType::OrderDeadLettered, 2).await[1];
    assert_eq!(why["error"]["code"], "REPORTED_LOST", "{why}");
    assert!(world.backend.accepted().is_empty());
}

/// An order of a store without a row was reported as lost. Whether another one with its number is the same order is not known, so it is not
/// created, and Just Eat is told so: it reaches its restaurant by the tablet.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_may_be_a_lost_one_is_reported_itself() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-17").await;
    let world = &played.outside.world;
    let hub = Hub::start(&played.settings).await;
    let mut elsewhere = order.clone();
    elsewhere["posLocationId"] = json!("NOPE1");
    assert_eq!(played.post(&hub, &elsewhere).await, 202);
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let told = told_until_given_up(&played, EventType::OrderDeadLettered).await;
    assert_eq!(told, ["lost", "lost"]);
}

/// The hub dies when it has asked for Just Eat to be told that the order is lost, and has not recorded the dead letter. The next one ends the
/// order, and does not ask for it again.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_dies_between_the_loss_and_the_dead_letter() {
    dies_between("JE-die", [422].as_slice()).await;
}

/// The same where an attempt had failed before, so that requests of the order were made for certain.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_dies_between_the_loss_and_the_dead_letter_of_a_second_attempt() {
    dies_between("JE-die2", [503, 422].as_slice()).await;
}

async fn dies_between(id: &str, answers: &[u16]) {
    let (played, order, _) = just_eat(JUST_EAT, id).await;
    let world = &played.outside.world;
    world
        .backend
        .next_for(id, answers.iter().copied().map(backend::Answer::status));
    let dies = played.settings.clone().set("HUB_TEST_CRASH_AT", "forward/between");
    let mut hub = Hub::start(&dies).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    hub.wait_exit(PATIENCE).await;
    world.log_forgets(&hub).await;
    let _hub = Hub::start(&played.settings).await;
    assert_eq!(
        told_until_given_up(&played, EventType::OrderDeadLettered).await,
        ["lost"]
    );
    assert!(world.backend.accepted().is_empty());
}

/// The order's branch has no row. The hub dies when it has asked for Just Eat to be told that the order is lost, and has not recorded the dead
/// letter. The row is there when the next one takes the order up.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_dies_between_the_loss_and_the_dead_letter_and_a_branch_is_added() {
    a_branch_is_added_after_the_loss("JE-row", None).await;
}

/// The same, longer ago than the memory of orders reaches.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_dies_between_the_loss_and_the_dead_letter_and_a_branch_is_added_days_later() {
    a_branch_is_added_after_the_loss("JE-old-row", Some("order_memory=1ms,order_memory_wait=1ms")).await;
}

async fn a_branch_is_added_after_the_loss(id: &str, times: Option<&str>) {
    let (played, order, _) = just_eat(JUST_EAT, id).await;
    let world = &played.outside.world;
    switch_branches(&played, false).await;
    let dies = played.settings.clone().set("HUB_TEST_CRASH_AT", "transform/between");
    let mut hub = Hub::start(&dies).await;
    assert_eq!(played.post(&hub, &order).await, 202);
    hub.wait_exit(PATIENCE).await;
    // The log would take the loss again.
    world.log_forgets(&hub).await;
    switch_branches(&played, true).await;
    let settings = times.map_or_else(
        || played.settings.clone(),
        |times| played.settings.clone().set("HUB_TEST_TIMES", times),
    );
    let hub = Hub::start(&settings).await;
    let why = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(why["error"]["code"], "REPORTED_LOST", "{why}");
    assert_eq!(
        told_until_given_up(&played, EventType::OrderDeadLettered).await,
        ["lost"]
    );
    assert!(world.backend.accepted().is_empty());
    // Other orders are not held back by that.
    assert_eq!(played.post(&hub, &numbered(&order, "/id", "JE-row-2")).await, 202);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(world.backend.accepted().len(), 1);
}

/// One instance transforms, another one forwards. The order's first announcement cannot be read, and a second one stands directly behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_another_instance_reported_as_lost_is_not_created() {
    const ORDERS: usize = 4;
    let (played, order, _) = just_eat(JUST_EAT, "JE-first").await;
    let world = &played.outside.world;
    let transforms = Hub::start(&played.settings).await;
    assert_eq!(played.post(&transforms, &order).await, 202);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    // It reads the log for known orders only when it must.
    let seldom = played
        .settings
        .clone()
        .set("HUB_TEST_TIMES", "order_memory_follow=30s,order_memory_gather=30s");
    let forwards = Hub::start(&seldom).await;
    forwards.says("known orders were read").await;
    let provision = world.nats.provision().await;
    let leases = provision.get_stream("LEASES").await.unwrap();
    leases.purge().filter("hub.lease.forward").await.unwrap();
    forwards.says("stage taken over").await;
    transforms.says("the lease is lost").await;
    for at in 0..ORDERS {
        let order = numbered(&order, "/id", &format!("JE-split-{at}"));
        let mut unreadable = order.clone();
        unreadable["items"] = json!([]);
        assert_eq!(played.post(&transforms, &unreadable).await, 202);
        assert_eq!(played.post(&transforms, &order).await, 202);
    }
    let dead = world.log.payloads(EventType::OrderDeadLettered, ORDERS).await;
    assert!(
        dead.iter().all(|why| why["error"]["code"] == "REPORTED_LOST"),
        "{dead:?}"
    );
    assert_eq!(world.backend.accepted().len(), 1);
}

/// The backend refuses the order. The instance is frozen before it records that, and the next one forwards the order. When the first one goes
/// on, it does not have Just Eat told that the order is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_does_not_report_what_the_next_one_forwarded() {
    let (played, order, _) = just_eat(JUST_EAT, "JE-frozen").await;
    let world = &played.outside.world;
    let answers = [backend::Answer::status(422), backend::Answer::Accept];
    world.backend.next_for("JE-frozen", answers);
    let stops = played.settings.clone().set("HUB_TEST_STOP_AT", "forward/after_request");
    let first = Hub::start(&stops).await;
    assert_eq!(played.post(&first, &order).await, 202);
    let _next = Hub::start(&played.settings).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    first.resume().await;
    // It ends when everything is recorded.
    first.terminate().await;
    let told = told_until_given_up(&played, EventType::OrderForwarded).await;
    assert_eq!(told, ["received"]);
}
