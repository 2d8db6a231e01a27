//! A row of the table of crashes in ARCHITECTURE is a test here, or is named below: the process ends exactly at that point, and
//! after its restart every order is at the backend, in order, asked about as often as the row says.
//!
//! Handing over and taking over with requests under way: `handover::the_one_that_hands_over_dies` and
//! `handover::the_one_that_takes_over_dies`. `LANES` lost or emptied: `retries::the_lanes_are_lost`,
//! `push_waits::the_lanes_are_lost`; making lanes again: `lanes_made_again::the_hub_dies_while_it_reads` and `…_writes`.

use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::Hub,
    ids,
    outside::{CAREEM_POS, Outside},
    platform::{Call, Say},
    wait::PATIENCE,
};

/// More than an event waits for in memory, in seconds.
const LONG: u64 = 12;

/// An order and two words about it, one after another, through a crash at a point.
async fn one_order_through_a_crash(point: &str) -> World {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let mut hub = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", point)).await;
    let url = world.fixed_url();
    let delivering = async {
        for body in [order("CR-1"), change("CR-1", "ready"), change("CR-1", "cancelled")] {
            world.careem.deliver(&url, &body).await;
            world.log.settled().await;
        }
    };
    let restarting = async {
        hub.wait_exit(PATIENCE).await;
        Hub::start(&settings).await
    };
    let ((), _hub) = tokio::join!(delivering, restarting);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_request_before_its_outcome_was_recorded() {
    let world = one_order_through_a_crash("forward/after_request:2").await;
    let keys: Vec<_> = world
        .backend
        .requests()
        .iter()
        .map(|one| one.key().to_owned())
        .collect();
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[1], keys[2], "asked again, under the same key");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_outcome_before_the_acknowledgement() {
    let world = one_order_through_a_crash("forward/after_outcome:2").await;
    assert_eq!(world.backend.count(), 3, "each was asked about once");
}

/// How often the backend was asked depends on whether the other stage had begun.
async fn transformed_once(point: &str) {
    let world = one_order_through_a_crash(point).await;
    world.log.payloads(EventType::OrderTransformed, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_transformation_before_it_was_recorded() {
    transformed_once("transform/after_request:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_transformation_was_recorded() {
    transformed_once("transform/after_outcome:2").await;
}

/// A change waits in a lane for the event that creates its order, which leads the lane then: the process ends at a point of
/// that.
async fn a_lane_through_a_crash(point: &str) -> Vec<String> {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let mut hub = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", point)).await;
    let url = world.fixed_url();
    // A backend that has never said anything but 404 has another address.
    world.careem.deliver(&url, &order("CR-before")).await;
    world.log.settled().await;
    world.backend.next_for("CR-1", [Answer::status(404)]);
    world.careem.deliver(&url, &change("CR-1", "ready")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    world.careem.deliver(&url, &order("CR-1")).await;
    hub.wait_exit(PATIENCE).await;
    let _hub = Hub::start(&settings).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    let requests = world.backend.requests().into_iter();
    let about = requests.filter(|one| one.external_order_id() == "CR-1");
    about
        .map(|one| one.path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_request_for_the_head_of_a_lane() {
    let asked = a_lane_through_a_crash("forward/after_request:2").await;
    assert_eq!(asked, ["status", "orders", "orders", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_outcome_before_the_lane_was_written() {
    let asked = a_lane_through_a_crash("forward/after_outcome:2").await;
    assert_eq!(asked, ["status", "orders", "status"]);
}

/// An attempt failed and is to be parked; when the process is back, its lane says what was tried and when it is due.
async fn an_attempt_through_a_crash(point: &str) {
    let world = World::new().await;
    let settings = world.settings();
    let mut hub = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", point)).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", LONG.to_string())]);
    world.backend.next_for("CR-1", [wait]);
    world.post_orders(&hub, ["CR-1".to_owned()]).await;
    hub.wait_exit(PATIENCE).await;
    let hub = Hub::start(&settings).await;
    world.careem.deliver(&hub.url(), &change("CR-1", "ready")).await;
    world.post_orders_to(&hub.url(), ids("other", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    let forwarded = world.log.payloads(EventType::OrderForwarded, 3).await;
    let mut attempts: Vec<_> = forwarded.iter().map(|one| one["attempts"].as_u64()).collect();
    attempts.sort_unstable();
    assert_eq!(
        attempts,
        [Some(1), Some(1), Some(2)],
        "what was tried before the crash counts"
    );
    let requests = world.backend.requests();
    let of: Vec<_> = requests
        .iter()
        .filter(|one| one.external_order_id() == "CR-1")
        .collect();
    assert_eq!(of.len(), 3, "twice its creation, once the word about it");
    let waited = of[1].at - of[0].at;
    assert!(
        waited.as_millis() + 50 >= u128::from(LONG) * 1000,
        "it came back after {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_attempt_before_its_lane_was_written() {
    an_attempt_through_a_crash("forward/after_attempt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_lane_before_the_acknowledgement() {
    an_attempt_through_a_crash("forward/after_lane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_lane_was_due_before_it_was_taken_up() {
    an_attempt_through_a_crash("forward/lane_due").await;
}

/// Two statuses for a provider, through a crash at a point; returns what the provider received.
async fn statuses_through_a_crash(point: &str, answers: Vec<Say>) -> Vec<String> {
    let outside = Outside::new(&CAREEM_POS.replace("requests_per_second = 10\n", "")).await;
    let settings = outside.settings();
    let mut hub = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", point)).await;
    outside.provider.next(answers);
    outside.ask(&hub, "CR-1", "accepted").await;
    hub.wait_exit(PATIENCE).await;
    let hub = Hub::start(&settings).await;
    outside.ask(&hub, "CR-1", "ready").await;
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
    let calls = outside.provider.calls();
    let of = calls.iter().filter(|call| call.path == "/orders/CR-1");
    let state = |call: &Call| call.json()["state"].as_str().unwrap().to_owned();
    of.map(state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn push_after_the_request_before_its_outcome_was_recorded() {
    let told = statuses_through_a_crash("push/after_request", Vec::new()).await;
    assert_eq!(told, ["accepted", "accepted", "ready"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_after_the_outcome_before_the_acknowledgement() {
    let told = statuses_through_a_crash("push/after_outcome", Vec::new()).await;
    assert_eq!(told, ["accepted", "ready"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_after_a_failed_attempt_before_its_lane_was_written() {
    let later = Say {
        retry_after: Some(LONG),
        ..Say::status(503)
    };
    let told = statuses_through_a_crash("push/after_attempt", vec![later]).await;
    assert_eq!(told, ["accepted", "accepted", "ready"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_after_the_lane_before_the_acknowledgement() {
    let later = Say {
        retry_after: Some(LONG),
        ..Say::status(503)
    };
    let told = statuses_through_a_crash("push/after_lane", vec![later]).await;
    assert_eq!(told, ["accepted", "accepted", "ready"]);
}
