//! The hub is killed at any moment, again and again: what it answered with 200 is forwarded, once, and in order.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{change, order},
    hub::Hub,
    ids,
    port::Port,
    random::Random,
    wait::{PATIENCE, eventually},
};

/// Providers that post side by side, each one order after the other.
const PROVIDERS: usize = 16;
/// What each order goes through, in this order.
const CHANGES: [&str; 2] = ["ready", "cancelled"];

/// Providers that post until told to stop, each webhook until it is accepted.
struct Load {
    /// Accepted webhooks that may be on their way at a time; a provider waits while there are more.
    max_on_the_way: usize,
    accepted: AtomicUsize,
    enough: AtomicBool,
}

impl Load {
    fn new(max_on_the_way: usize) -> Self {
        Self {
            max_on_the_way,
            accepted: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        }
    }

    async fn run(&self, world: &World, hubs: &[String]) {
        join_all((0..PROVIDERS).map(async |provider| {
            for number in 0.. {
                if self.enough.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("CR-{provider}-{number}");
                let words = CHANGES.iter().map(|status| change(&id, status));
                for (step, body) in std::iter::once(order(&id)).chain(words).enumerate() {
                    self.room(world).await;
                    world.careem.deliver(&hubs[(provider + step) % hubs.len()], &body).await;
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }))
        .await;
    }

    /// Waits until there is room for one more on the way.
    async fn room(&self, world: &World) {
        eventually("orders are forwarded", PATIENCE, async || {
            let on_the_way = self
                .accepted
                .load(Ordering::Relaxed)
                .saturating_sub(world.backend.count());
            if on_the_way < self.max_on_the_way {
                Ok(())
            } else {
                Err(on_the_way)
            }
        })
        .await;
    }

    /// Waits for a random moment: so many more webhooks accepted, or so many more requests at the backend, which is a
    /// moment when that one is not answered yet.
    async fn random_moment(&self, world: &World, random: &mut Random) {
        let at_backend = random.below(2) == 0;
        let count = || {
            if at_backend {
                world.backend.count()
            } else {
                self.accepted.load(Ordering::Relaxed)
            }
        };
        let until = count() + 1 + random.below(40);
        eventually("the load goes on", PATIENCE, async || {
            let now = count();
            if now >= until {
                Ok(())
            } else {
                Err(format!("{now} of {until}, at the backend: {at_backend}"))
            }
        })
        .await;
    }

    fn end(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again() {
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
    world
        .at_end(Ends::forwarded(load.accepted.load(Ordering::Relaxed)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_a_time_and_one_or_the_other_is_killed() {
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
    world
        .at_end(Ends::forwarded(load.accepted.load(Ordering::Relaxed)))
        .await;
}

/// An instance that is frozen, not dead, comes back to a world that went on without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_works_is_frozen_for_a_while() {
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
    world
        .at_end(Ends::forwarded(1 + load.accepted.load(Ordering::Relaxed) + PROVIDERS))
        .await;
}

/// Messages of a stage that were handed to a client that does nothing with them: an instance that stood still, woke up
/// and asked for more before it found its lease gone.
#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_somebody_else() {
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
