//! One number at two branches, and the platform's secret: what belongs to one branch's order does not wait for the other's.

use super::{
    another_order::away,
    two_lanes::{corrected, of_another_day, patient_tenants},
    *,
};
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

/// Both branches' orders with a number cannot be taken. The one that came later does not wait for the retries of the other one, though a lane has
/// one due time.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_fails_beside_another_branchs_joins_its_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-73";
    world.backend.next_for(id, [away(), away(), away()]);
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}
