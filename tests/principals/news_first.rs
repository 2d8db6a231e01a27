//! A number that is used again, and one order in two lanes: news of yesterday's order come to the backend before today's order, which they would
//! change otherwise.

use super::{
    another_order::away,
    two_lanes::{corrected, of_another_day, patient_tenants},
    wakes::waiting_settings,
    *,
};
use crate::harness::backend::ORDERS;

/// The memory of orders reaches two seconds back: what comes later with the same number is another order. What is parked waits for longer than the
/// test.
pub(super) async fn forgetful_tenants() -> Tenants {
    Tenants::new(|more| {
        more.set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "1h")
            .set("RETRY_MAX_ATTEMPTS", 5)
            .set("HUB_TEST_TIMES", "order_memory=2s,order_memory_wait=60s")
    })
    .await
}

/// Waits until nothing that was accepted so far is within the memory of orders.
pub(super) async fn window_is_over() {
    let began = std::time::Instant::now();
    eventually("the window is over", PATIENCE, async || {
        let passed = began.elapsed();
        if passed > std::time::Duration::from_millis(2500) {
            Ok(())
        } else {
            Err(passed)
        }
    })
    .await;
}

fn paths(id: &str, orders_and_news: &[bool]) -> Vec<String> {
    let path = |is_order: &bool| match is_order {
        true => ORDERS.to_owned(),
        false => format!("{ORDERS}/{id}/status"),
    };
    orders_and_news.iter().map(path).collect()
}

/// Yesterday's order is at the backend, and its cancellation, by the branch's secret, waits for its retry. Today's order comes by the platform's. The
/// cancellation is told first.
#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_cancellation_is_told_before_todays_order_in_the_other_lane() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-90";
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next_for(id, [away()]);
    tenants.say(B, B, &change(id, "cancelled")).await;
    world.has_parked(1).await;
    window_is_over().await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    assert_eq!(tenants.paths_of(id), paths(id, &[true, false, false, true]));
}

/// The same, and the backend cannot take yesterday's news. Today's order does not wait for their retries, and a person sees them.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_does_not_wait_for_retries_of_yesterdays_news() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-91";
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next_for(id, [away(), away()]);
    tenants.say(B, B, &change(id, "preparing")).await;
    world.has_parked(1).await;
    window_is_over().await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "NUMBER_USED_AGAIN", "{}", dead[0]);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    assert_eq!(tenants.paths_of(id), paths(id, &[true, false, false, true]));
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
}

/// News of yesterday's order, which the backend refused, wait for it, and let today's order in their lane pass. That one waits for a retry of
/// yesterday's order in the other lane. When that is there, its news come first.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_let_todays_order_pass_are_told_before_it_once_their_order_is_there() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-92";
    let unknown = || Said::status(404);
    world.backend.next_for(
        id,
        [Said::status(422), unknown(), unknown(), unknown(), unknown(), away()],
    );
    tenants.say(Platform, B, &order(id)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.say(B, B, &change(id, "preparing")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 4).await;
    world.has_parked(1).await;
    tenants.retry(&dead[0]).await;
    world.has_parked(2).await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    let expected = [true, false, false, false, false, true, true, false, true];
    assert_eq!(tenants.paths_of(id), paths(id, &expected));
}

/// News of an order that the backend took and does not know any more do not keep another order in the other lane for their attempts.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_the_backend_knows_no_order_of_do_not_keep_todays() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-93";
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let unknown = Said::status(404);
    world.backend.next_for(id, [0; 5].map(|_| unknown.clone()));
    tenants.say(B, B, &change(id, "preparing")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 4).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
}

impl Tenants {
    /// The backend has an order. A status of it waits for its retry, and its cancellation, by the other secret, for that.
    async fn cancellation_waits_for_a_status(&self, id: &str) {
        let world = &self.outside.world;
        self.say(Platform, B, &order(id)).await;
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        world.backend.next_for(id, [away()]);
        self.say(B, B, &change(id, "preparing")).await;
        world.has_parked(1).await;
        self.say(Platform, B, &change(id, "cancelled")).await;
        world.has_parked(2).await;
    }
}

/// A status of yesterday's order waits for its retry, and its cancellation, by the other secret, for that. Today's order comes behind the cancellation:
/// the status is tried at once, and the cancellation is told before today's order. The two lanes are not written in a loop.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_wait_for_news_are_told_before_todays_order() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-94";
    tenants.cancellation_waits_for_a_status(id).await;
    window_is_over().await;
    let before = world.lane_writes().await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let written = world.lane_writes().await - before;
    assert!(written < 50, "{written} writes of lanes");
    assert_eq!(tenants.paths_of(id), paths(id, &[true, false, false, false, true]));
}

/// The same within the memory of orders: today's order is a duplicate that is another order.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_wait_for_news_are_told_before_a_duplicate() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-95";
    tenants.cancellation_waits_for_a_status(id).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.at_end(Ends::forwarded(3).ignored(1)).await;
    assert_eq!(tenants.paths_of(id), paths(id, &[true, false, false, false]));
}

/// The instance that works ends. Until another one takes its stages, statuses by the branch's secret and a cancellation by the platform's wait for their
/// transformation, which handles the two secrets side by side. The cancellation is the last word that the backend hears.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_the_last_word_after_a_takeover() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    outside.world.database.run(BRANCHES).await.unwrap();
    let settings = waiting_settings(&outside);
    let hub = Hub::start(&settings).await;
    let mut tenants = Tenants {
        outside,
        hub,
        posted: Vec::new(),
    };
    let ids: Vec<_> = (0..8).map(|number| format!("CR-98-{number}")).collect();
    for id in &ids {
        tenants.say(Platform, B, &order(id)).await;
    }
    tenants
        .outside
        .world
        .log
        .wait_for(EventType::OrderForwarded, ids.len())
        .await;
    let next = Hub::start(&settings).await;
    std::mem::replace(&mut tenants.hub, next).kill().await;
    for (by, status) in [(B, "preparing"), (B, "ready"), (Platform, "cancelled")] {
        for id in &ids {
            tenants.say(by, B, &change(id, status)).await;
        }
    }
    let world = &tenants.outside.world;
    world.log.settled().await;
    for id in &ids {
        let requests = world.backend.requests().into_iter();
        let told: Vec<_> = requests
            .filter(|one| one.path.ends_with("/status") && one.path.contains(id.as_str()))
            .map(|one| one.json()["statusChange"]["canonicalStatus"].clone())
            .collect();
        assert_eq!(told.last(), Some(&json!("cancelled")), "{id}: {told:?}");
    }
}

mod long {
    use super::*;

    /// Yesterday's order is announced again after today's, while a status of yesterday's hangs and a later one waits for it. No three events wait for each
    /// other.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_announcement_of_yesterdays_order_after_todays_closes_no_circle() {
        let tenants = patient_tenants().await;
        let world = &tenants.outside.world;
        let id = "CR-96";
        tenants.say(Platform, B, &order(id)).await;
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        world.backend.next_for(id, [away(), Said::Hang]);
        tenants.say(B, B, &change(id, "preparing")).await;
        world.has_parked(1).await;
        tenants.say(Platform, B, &change(id, "ready")).await;
        world.has_parked(2).await;
        tenants.say(B, B, &of_another_day(id)).await;
        world.backend.wait_for(3).await;
        tenants.say(Platform, B, &corrected(id)).await;
        let before = world.lane_writes().await;
        world.log.wait_for(EventType::OrderIgnored, 2).await;
        world.at_end(Ends::forwarded(3).ignored(2)).await;
        let written = world.lane_writes().await - before;
        assert!(written < 100, "{written} writes of lanes");
    }
}
