//! A process is frozen (SIGSTOP) in the middle of what the hub does with a stage, and comes back.

use std::time::Duration;

use crate::harness::{World, at_end::Ends, careem::change, hub::Hub, ids};

/// Orders that wait for a slot when their instance is frozen, and are forwarded by another, are not sent once more when the
/// first one comes back and has a slot for them.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_frozen_while_orders_wait_for_a_slot() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("BACKEND_MAX_REQUESTS", 1)
        .set("BACKEND_TIMEOUT", "60s");
    let first = Hub::start(&settings).await;
    world.backend.hold();
    world.post_orders(&first, ids("slot", 5)).await;
    world.backend.wait_for(1).await;
    world
        .log
        .wait_for(webhook_hub::event::EventType::OrderTransformed, 5)
        .await;
    let next = Hub::start(&settings).await;
    first.pause().await;
    // The other one asks about the first of them again.
    world.backend.wait_for(2).await;
    world.backend.release();
    world.log.settled().await;
    first.resume().await;
    first.says("the stage starts again after an error").await;
    world.post_orders_to(&next.url(), ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(6)).await;
    assert_eq!(world.backend.count(), 7, "only the first order was asked about twice");
}

/// The hub is frozen with requests under way for longer than the log knows ids. Meanwhile another instance records their outcomes. When the
/// first one comes back and reads the answers, it records no second ones.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_frozen_for_longer_than_the_log_knows_ids() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "60s");
    let first = Hub::start(&settings).await;
    world.backend.hold();
    world.post_orders(&first, ids("frozen", 3)).await;
    world.backend.wait_for(3).await;
    let next = Hub::start(&settings).await;
    first.pause().await;
    // The other one asks about each of them again.
    world.backend.wait_for(6).await;
    world.backend.release();
    world.log.settled().await;
    world.log_forgets(&next).await;
    first.resume().await;
    first.says("the stage starts again after an error").await;
    world.post_orders_to(&next.url(), ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.backend.count(), 7, "nothing is asked about a third time");
}

/// NATS is frozen at SIGTERM, so the instance cannot announce its handover.
#[tokio::test(flavor = "multi_thread")]
async fn nats_is_frozen_during_a_handover() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "18s");
    let first = Hub::start(&settings).await;
    world.post_orders(&first, ids("before", 1)).await;
    world.log.settled().await;
    let next = Hub::start(&settings).await;
    world.backend.hold();
    world.post_orders(&first, ids("under-way", 1)).await;
    world.backend.wait_for(2).await;
    world.nats.server.pause().await.unwrap();
    let going_on = async {
        first.says("handing over").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.nats.server.resume().await.unwrap();
        world.post_orders_to(&next.url(), ids("other", 1)).await;
        world
            .careem
            .deliver(&next.url(), &change("CR-under-way-0", "ready"))
            .await;
        world.backend.wait_for(3).await;
        world.backend.release();
    };
    first.tell_to_stop().await;
    going_on.await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.requests_about("CR-under-way-0"), 2, "its creation and its change");
    assert_eq!(world.backend.count(), 4);
}

/// NATS is frozen while an instance takes over, for longer than a lease holds.
#[tokio::test(flavor = "multi_thread")]
async fn nats_is_frozen_during_a_takeover() {
    let world = World::new().await;
    let first = world.hub().await;
    world.backend.hold();
    world.post_orders(&first, ids("in-hand", 3)).await;
    world.backend.wait_for(3).await;
    first.kill().await;
    world.backend.release();
    let next = world.hub().await;
    next.says("\"working\"").await;
    world.nats.server.pause().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.nats.server.resume().await.unwrap();
    world.post_orders_to(&next.url(), ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    for id in ids("in-hand", 3) {
        assert!(world.requests_about(&id) <= 3, "{id}");
    }
}
