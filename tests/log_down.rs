//! The log is away: nothing is accepted that is not on it, the provider is told to come again, and all is well again by
//! itself when NATS is back.

use std::time::Instant;

use reqwest::Method;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::{Ends, ONE_APPEND},
    careem::order,
    hub::Hub,
    ids,
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

/// Refused as our own fault, soon enough for a provider's patience.
async fn refuses(world: &World, hub: &Hub, body: &str) {
    let asked = Instant::now();
    let answer = world.careem.post(hub, body).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "EVENT_LOG_UNAVAILABLE"),
        "{answer:?}"
    );
    assert_eq!(answer.header("retry-after"), "5");
    assert!(asked.elapsed() < ONE_APPEND, "{:?}", asked.elapsed());
}

async fn outage(world: World, down: impl AsyncFn(&World), up: impl AsyncFn(&World)) {
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    down(&world).await;
    let during = order("CR-during");
    refuses(&world, &hub, &during).await;
    up(&world).await;
    // The provider sends it again, and it does not matter whether it is on the log already.
    world.careem.deliver(&hub.url(), &during).await;
    world.post_orders(&hub, ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    assert_eq!(world.backend.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_stopped() {
    let world = World::new().await;
    let down = async |world: &World| world.nats.server.stop().await.unwrap();
    outage(world, down, async |world| world.nats.server.restart().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_killed() {
    let world = World::new().await;
    let down = async |world: &World| world.nats.server.kill().await.unwrap();
    outage(world, down, async |world| world.nats.server.restart().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_hangs() {
    let world = World::new().await;
    let down = async |world: &World| world.nats.server.pause().await.unwrap();
    outage(world, down, async |world| world.nats.server.resume().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_starts_before_nats() {
    let world = World::new().await;
    world.nats.server.stop().await.unwrap();
    let hub = world.hub().await;
    let ready = format!("{}/health/ready", hub.url());
    assert_eq!(world.careem.request(Method::GET, &ready).await.status, 503);
    assert_eq!(
        world
            .careem
            .request(Method::GET, &format!("{}/health/live", hub.url()))
            .await
            .status,
        200
    );
    refuses(&world, &hub, &order("CR-early")).await;
    world.nats.server.restart().await.unwrap();
    eventually("the hub is ready", PATIENCE, async || {
        let status = world.careem.request(Method::GET, &ready).await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    world.careem.deliver(&hub.url(), &order("CR-early")).await;
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_lost() {
    let world = World::new().await;
    let wire = Proxy::to(([127, 0, 0, 1], world.nats.server.port()).into());
    let hub = Hub::start(&world.settings().set("NATS_URL", format!("nats://{}", wire.address()))).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    wire.lose_answers();
    let lost = order("CR-lost-ack");
    refuses(&world, &hub, &lost).await;
    // It is on the log all the same: refusing was the careful answer, not the true one.
    world.log.wait_for(EventType::WebhookReceived, 2).await;
    wire.heal();
    world.careem.deliver(&hub.url(), &lost).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.backend.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_breaks_again_and_again() {
    let world = World::new().await;
    let wire = Proxy::to(([127, 0, 0, 1], world.nats.server.port()).into());
    let hub = Hub::start(&world.settings().set("NATS_URL", format!("nats://{}", wire.address()))).await;
    let (url, orders) = (hub.url(), ids("wire", 60));
    let delivering = futures_util::future::join_all(
        orders
            .iter()
            .map(async |id| world.careem.deliver(&url, &order(id)).await),
    );
    let noticed = async |what: &str, times: usize| {
        eventually(&format!("the hub has {what} {times} times"), PATIENCE, async || {
            let count = hub.log().matches(what).count();
            if count >= times { Ok(()) } else { Err(count) }
        })
        .await;
    };
    let breaking = async {
        for round in 1..=4 {
            noticed("connected to NATS", round).await;
            let (before, more) = (world.backend.count(), 5);
            eventually("more is forwarded", PATIENCE, async || {
                let count = world.backend.count();
                // Repeats count, too: when all may be through there is nothing more to wait for.
                if count >= before + more || count >= orders.len() {
                    Ok(())
                } else {
                    Err(count)
                }
            })
            .await;
            wire.cut();
            noticed("lost the connection to NATS", round).await;
            wire.heal();
        }
    };
    tokio::join!(delivering, breaking);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(60)).await;
}
