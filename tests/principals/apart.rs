//! One number at two branches, and the platform's secret: what belongs to one branch's order does not wait for the other's.

use super::{
    another_order::away,
    news_first::{forgetful_tenants, window_is_over},
    two_lanes::{corrected, of_another_day, patient_tenants},
    *,
};
use std::sync::{Arc, Mutex};

use crate::{harness::backend::ORDERS, identity::announced};

/// Branch A's order, by its own secret, waits for its retry, and news of it by the platform's secret for it. An order of branch B with the
/// number comes by the platform's secret, and a later one by B's own.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_does_not_wait_behind_news_of_another_branch() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-71";
    world.backend.next_for(id, [away()]);
    tenants.say(A, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, A, &change(id, "preparing")).await;
    world.has_parked(2).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let later = of_another_day(id).replace("2025-10-04", "2025-10-07");
    tenants.say(B, B, &later).await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["differs"], true, "{ignored}");
    assert_eq!(world.lanes().await.len(), 2, "A's order and its news wait on");
}

/// Branch B's order is at the backend. Branch A's order with the number waits for its retry. What is said of B's order goes on, by either
/// secret, and A's order is not given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn news_do_not_wait_behind_another_branchs_order() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-72";
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next_for(id, [away()]);
    tenants.say(Platform, A, &of_another_day(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &change(id, "preparing")).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    tenants.say(B, B, &change(id, "ready")).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    tenants.say(Platform, B, &announced(id, "pending")).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let status = format!("{ORDERS}/{id}/status");
    let told: Vec<_> = tenants
        .paths_of(id)
        .into_iter()
        .filter(|path| *path == status)
        .collect();
    assert_eq!(told.len(), 3);
    let events = world.log.events().await;
    let is_dead = |event: EventType| event == EventType::OrderDeadLettered;
    assert!(!events.iter().any(|one| is_dead(one.envelope.event_type)));
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
}

/// The backend cannot take branch A's order for an hour, nor branch B's with the number for a second. B's does not wait for A's, nor does what comes
/// of it: its cancellation, which the backend cannot take at first either, and a second announcement.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_fails_beside_another_branchs_is_tried_at_its_own_time() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-74";
    let soon = || Said::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for(id, [away(), soon()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    tenants.say(Platform, B, &change(id, "preparing")).await;
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 2).await;
    let took = forwarded[0].envelope.time - forwarded[0].envelope.received_at;
    assert!(
        took.num_milliseconds() >= 10_900,
        "the backend was asked before the time that it named: {took}"
    );
    let status = format!("{ORDERS}/{id}/status");
    assert_eq!(tenants.paths_of(id), [ORDERS, ORDERS, ORDERS, &status]);
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
    let events = world.log.events().await;
    let is_dead = |event: EventType| event == EventType::OrderDeadLettered;
    assert!(!events.iter().any(|one| is_dead(one.envelope.event_type)));
}

/// News of branch B's order come before it, beside the lane of branch A's order, and wait for it. It passes them.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_passes_its_news_in_another_branchs_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-75";
    let unknown = || Said::status(404);
    world
        .backend
        .next_for(id, [away(), unknown(), unknown(), unknown(), unknown()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 5).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let told = tenants.paths_of(id);
    let status = format!("{ORDERS}/{id}/status");
    assert_eq!(told[5..], [ORDERS.to_owned(), status]);
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
}

/// The backend cannot take branch A's order, nor yesterday's of branch B with the number. Today's order of B ends the wait of that one, and not of A's.
#[tokio::test(flavor = "multi_thread")]
async fn another_order_of_a_branch_does_not_wait_in_another_branchs_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-76";
    world.backend.next_for(id, [away(), away(), away()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    let todays = of_another_day(id).replace("2025-10-04", "2025-10-07");
    tenants.say(Platform, B, &todays).await;
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(
        forwarded[0].envelope.branch.as_deref(),
        world.log.wait_for(EventType::OrderTransformed, 3).await[2]
            .envelope
            .branch
            .as_deref()
    );
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "NUMBER_USED_AGAIN", "{}", dead[0]);
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
}

/// The backend fails for branch A alone.
async fn branch_a_fails(tenants: &Tenants) {
    let world = &tenants.outside.world;
    for number in 0..8 {
        let failing = format!("CR-f-{number}");
        world.backend.always_for(&failing, Some(Said::status(500)));
        tenants.say(Platform, B, &order(&format!("CR-w-{number}"))).await;
        tenants.say(Platform, A, &order(&failing)).await;
    }
    tenants.hub.says("the backend fails for this branch").await;
}

async fn breaking_tenants() -> Tenants {
    Tenants::new(|more| {
        more.set("CIRCUIT_BREAKER_RESET_TIMEOUT", "120s")
            .set("RETRY_DELAYS", "1h")
    })
    .await
}

/// The backend fails for branch A alone, so an order of A waits in memory. Branch B's order with its number does not wait behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_does_not_wait_in_memory_behind_one_of_a_failing_branch() {
    let tenants = breaking_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-77";
    branch_a_fails(&tenants).await;
    world.log.wait_for(EventType::OrderForwarded, 8).await;
    tenants.say(Platform, A, &order(id)).await;
    world.log.wait_for(EventType::OrderTransformed, 17).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 9).await;
    assert_eq!(tenants.paths_of(id), [ORDERS], "A's order waits on");
}

/// Orders of both branches with one number are parked, and then the backend fails for branch A alone. B's order goes when it is due, though A's is due
/// first.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_order_does_not_wait_behind_one_of_a_failing_branch() {
    let tenants = breaking_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-78";
    let in_seconds = |seconds: &str| Said::Say(503, String::new(), vec![("retry-after", seconds.to_owned())]);
    world.backend.next_for(id, [in_seconds("11"), in_seconds("13")]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.backend.wait_for(2).await;
    branch_a_fails(&tenants).await;
    world.log.wait_for(EventType::OrderForwarded, 9).await;
    assert_eq!(tenants.paths_of(id).len(), 3, "A's order waits on");
}

/// News of branch A's order come before it, and the connection breaks after the backend took branch B's order. The next attempt of A's news lets no
/// second announcement of B's order pass the first: the order would be created twice.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_one_branch_let_no_announcement_of_another_pass() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-79";
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    world.backend.by_rule(Some(Box::new(move |key, _| {
        let mut keys = seen.lock().unwrap();
        keys.push(key.to_owned());
        match keys.iter().position(|one| one == key) {
            Some(0) => Said::status(404),
            Some(1) => Said::Cut,
            _ => Said::Accept,
        }
    })));
    tenants.say(Platform, A, &change(id, "cancelled")).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    eventually("B's order is parked", PATIENCE, async || {
        let lanes = world.lanes().await;
        let is_mixed = lanes.iter().any(|lane| lane["isMixed"] == true);
        if is_mixed { Ok(()) } else { Err(lanes) }
    })
    .await;
    let again = of_another_day(id).replace("26.24", "36.24");
    tenants.say(Platform, B, &again).await;
    world.log.wait_for(EventType::OrderTransformed, 3).await;
    let different = || {
        let keys = keys.lock().unwrap();
        let of_news = keys.iter().filter(|key| **key == keys[0]).count();
        let all: std::collections::HashSet<_> = keys.iter().collect();
        (of_news, all.len())
    };
    eventually("A's news were tried four times", PATIENCE, async || {
        let seen = different();
        if seen.0 >= 4 { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(different().1, 2, "the second announcement waits behind the first");
}

/// Branch A's order, and yesterday's of branch B behind it in the lane, wait for their retries. Today's order of B, by B's own secret, has B's tried at
/// once, though it is not the first in its lane.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_the_other_lane_does_not_wait_for_one_behind_another_branchs() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-80";
    world.backend.next_for(id, [away(), away(), away()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "NUMBER_USED_AGAIN", "{}", dead[0]);
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
}

/// The same with news of yesterday's order of B.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_the_other_lane_does_not_wait_for_news_behind_another_branchs() {
    let tenants = forgetful_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-81";
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next_for(id, [away(), away()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    window_is_over().await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    let status = format!("{ORDERS}/{id}/status");
    assert_eq!(tenants.paths_of(id), [ORDERS, ORDERS, &status, &status, ORDERS]);
}
