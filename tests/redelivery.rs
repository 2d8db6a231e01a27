//! The hub is killed at any moment, again and again: what it answered with 200 is forwarded, once, and in order.

use std::time::Duration;

use futures_util::future::join_all;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::Hub,
    ids,
    load::{Load, PROVIDERS},
    port::Port,
    random::Random,
    wait::PATIENCE,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_killed_repeatedly() {
    let world = World::new().await;
    world.backend.keeps_orders_in(&world.database);
    world.backend.takes(Duration::from_millis(5));
    let (load, mut random) = (Load::new(100), Random::new());
    let settings = world.settings_on_fixed_port();
    let killing = async {
        let mut hub = Hub::start(&settings).await;
        for _round in 0..4 {
            load.random_moment(&world, &mut random).await;
            hub.kill().await;
            hub = Hub::start(&settings).await;
        }
        load.random_moment(&world, &mut random).await;
        load.end();
        hub
    };
    let hubs = [world.fixed_url()];
    let (_hub, ()) = tokio::join!(killing, load.run(&world, &hubs));
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(load.accepted())).await;
}

/// An instance that is frozen, not dead, comes back to a world that went on without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_working_instance_is_frozen_for_a_while() {
    let world = World::new().await;
    world.backend.takes(Duration::from_millis(5));
    let (load, mut random) = (Load::new(2 * PROVIDERS), Random::new());
    let frozen = world.hub().await;
    world.post_orders(&frozen, ids("first", 1)).await;
    world.log.settled().await;
    let steady = world.hub().await;
    let urls = [steady.url()];
    let freezing = async {
        load.random_moment(&world, &mut random).await;
        frozen.pause().await;
        load.random_moment(&world, &mut random).await;
        load.end();
    };
    tokio::join!(freezing, load.run(&world, &urls));
    // The other one gets what it had in hand, and what NATS still sent to it.
    world.log.settled().await;
    frozen.resume().await;
    // Now both have it. More of the same orders comes while they sort that out.
    let more = (0..PROVIDERS).map(async |provider| {
        let body = change(&format!("CR-{provider}-0"), "refunded");
        world.careem.deliver(&urls[0], &body).await;
    });
    join_all(more).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1 + load.accepted() + PROVIDERS)).await;
}

/// Messages of a stage that were handed to a client that does nothing with them: an instance that stood still, woke up
/// and asked for more before it found its lease gone.
#[tokio::test(flavor = "multi_thread")]
async fn another_client_takes_the_stages_messages() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    let thief = world.nats.connect("hub").await;
    let mut stolen = thief.subscribe("_INBOX_hub.thief").await.unwrap();
    for stage in ["transform", "forward"] {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{stage}");
        let pull = r#"{"batch":2,"expires":15000000000}"#;
        thief
            .publish_with_reply(subject, "_INBOX_hub.thief", pull.into())
            .await
            .unwrap();
    }
    thief.flush().await.unwrap();
    world.post_orders(&hub, ids("meanwhile", 10)).await;
    let first = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut stolen)).await;
    assert!(first.unwrap().unwrap().status.is_none(), "nothing was stolen");
    // Long before the server would hand them out again.
    world.backend.wait_for(11).await;
    world.log.settled().await;
    drop(thief);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(11)).await;
}

/// An instance is frozen while the backend has not answered it; the other one takes over and is done with the order. When
/// the first comes back its request has timed out, and it must not say so on the log any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_frozen_with_a_request_under_way() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "2s");
    let frozen = Hub::start(&settings).await;
    world.post_orders(&frozen, ids("first", 1)).await;
    world.log.settled().await;
    let steady = Hub::start(&settings).await;
    world.backend.next([Answer::Hang]);
    world.post_orders(&steady, ids("under-way", 1)).await;
    world.backend.wait_for(2).await;
    frozen.pause().await;
    world.backend.wait_for(3).await;
    world.log.settled().await;
    frozen.resume().await;
    // It has heard that it is replaced when it is ready to stand by; then whatever it had to say is said.
    frozen.says("the stage starts again after an error").await;
    world.post_orders(&steady, ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    let row = world
        .database
        .rows("SELECT status FROM webhook_logs WHERE external_order_id = 'CR-under-way-0'")
        .await
        .unwrap();
    assert_eq!(row[0]["status"], "completed");
}

mod long {
    use super::*;

    /// Much more was handed out to instances that died than one instance may hold: new orders go on all the same.
    #[tokio::test(flavor = "multi_thread")]
    async fn dead_instances_leave_many_events_open() {
        let world = World::new().await;
        let orders = ids("heap", 3600);
        let mut hub = Hub::start(&world.settings_on_fixed_port()).await;
        world.backend.hold();
        let url = world.fixed_url();
        let posting = orders.chunks(100).map(async |some| {
            for id in some {
                world.careem.deliver(&url, &order(id)).await;
            }
        });
        join_all(posting).await;
        world.log.wait_for(EventType::OrderTransformed, orders.len()).await;
        for forwarded in [1500, orders.len()] {
            hub.kill().await;
            hub = Hub::start(&world.settings_on_fixed_port()).await;
            // The last time within less than the two minutes after which the server hands out again what they held.
            world.backend.release();
            world.log.wait_for(EventType::OrderForwarded, forwarded).await;
            world.backend.hold();
        }
        world.backend.release();
        world.hand_out_again().await;
        world.at_end_within(4 * PATIENCE, Ends::forwarded(orders.len())).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_two_hubs_is_killed_repeatedly() {
        let world = World::new().await;
        world.backend.keeps_orders_in(&world.database);
        world.backend.takes(Duration::from_millis(5));
        let (load, mut random) = (Load::new(100), Random::new());
        let ports = [Port::reserve(), Port::reserve()];
        let settings = ports.each_ref().map(|port| world.settings().set("PORT", port.number()));
        // Every webhook of an order goes to the other hub than the one before.
        let urls = ports.each_ref().map(|port| format!("http://{}", port.address()));
        let killing = async {
            let mut hubs = vec![Hub::start(&settings[0]).await, Hub::start(&settings[1]).await];
            for _round in 0..4 {
                load.random_moment(&world, &mut random).await;
                let victim = random.below(2);
                hubs.remove(victim).kill().await;
                hubs.insert(victim, Hub::start(&settings[victim]).await);
            }
            load.random_moment(&world, &mut random).await;
            load.end();
            hubs
        };
        let (_hubs, ()) = tokio::join!(killing, load.run(&world, &urls));
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(load.accepted())).await;
    }
}
