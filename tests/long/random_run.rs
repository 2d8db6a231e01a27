//! Everything at once, by a seed: three hubs, a backend that fails in every way that it can, hubs and NATS killed every
//! few seconds. When the faults end, what was accepted has ended, once, in order, and the tables say so.
//!
//! In the ordinary suite it is short, and has another seed each time. A run that failed says how to make it again: what
//! is posted where, what the backend answers and who is killed after how long are then the same, the scheduling of the
//! processes is not. Environment variables:
//!
//! - `HUB_RANDOM_SEED`: the seed;
//! - `HUB_RANDOM_ORDERS`: how many orders. `make random` takes 2,000 with 20 seeds, one after the other.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings},
    port::Port,
    random::{Random, new_seed},
};

/// Orders of a run of the ordinary suite.
const FEW_ORDERS: usize = 150;
const HUBS: usize = 3;
/// Orders that each provider posts, one after the other; the providers post side by side.
const ORDERS_EACH: usize = 10;
/// Most providers: more would open more connections than tell anything new.
const MOST_PROVIDERS: usize = 80;
/// What becomes of an order after it was created, as far as it gets.
const CHANGES: [&str; 4] = ["accepted", "ready", "picked_up", "trip_ended"];
/// A provider's longest pause between two webhooks, in milliseconds.
const LONGEST_PAUSE: usize = 600;
/// How many of a hundred webhooks the provider sends once more though they were accepted.
const REPEATED_PERCENT: usize = 5;
/// How many of a hundred requests the backend does not simply accept.
const FAULT_PERCENT: usize = 15;
/// After so many faults under one key the backend accepts it: fewer than an order has attempts, so none is given up.
const MOST_FAULTS: usize = 3;
/// Pause between two kills, in milliseconds: some shorter than what a takeover takes, most longer.
const BETWEEN_KILLS: (usize, usize) = (2000, 6000);
/// How long NATS stays away, in milliseconds.
const NATS_AWAY: usize = 1500;
/// Kills of a run at least; it goes on for as long as there is something to post.
const LEAST_KILLS: usize = 3;
/// How long it may take until all is well after the last fault: what was held up, and the pauses of retries. Less than the
/// two minutes after which NATS hands a message out again: what only came through because of that was stuck.
const PATIENCE_AT_END: Duration = Duration::from_secs(60);

/// One webhook: what, to which hub first, after which pause, and to which once more.
struct Post {
    body: String,
    first: usize,
    pause: Duration,
    repeat: Option<usize>,
}

/// An order's webhooks, in their order.
struct Plan {
    id: String,
    posts: Vec<Post>,
}

impl Plan {
    fn new(seed: u64, number: usize) -> Self {
        let id = format!("CR-{number}");
        let mut random = Random::labelled(seed, &id);
        let mut bodies = vec![order(&id)];
        let changes = random.below(CHANGES.len() + 1);
        bodies.extend(CHANGES[..changes].iter().map(|word| change(&id, word)));
        // A cancellation comes at any time, instead of what would have come next.
        if changes > 0 && random.percent(25) {
            bodies.pop();
            bodies.push(change(&id, "cancelled"));
        }
        let post = |body| Post {
            body,
            first: random.below(HUBS),
            pause: random.millis(0, LONGEST_PAUSE),
            repeat: random.percent(REPEATED_PERCENT).then(|| random.below(HUBS)),
        };
        Self {
            posts: bodies.into_iter().map(post).collect(),
            id,
        }
    }

    /// Posts all of it, each when the one before is accepted; the events' ids.
    async fn deliver(&self, world: &World, hubs: &[String]) -> Vec<String> {
        let mut accepted = Vec::new();
        for post in &self.posts {
            sleep(post.pause).await;
            let id = world.careem.deliver_to_any(hubs, post.first, &post.body).await;
            if let Some(hub) = post.repeat {
                let again = world.careem.deliver_to_any(hubs, hub, &post.body).await;
                assert_eq!(again, id, "the same webhook is the same event");
            }
            accepted.push(id);
        }
        accepted
    }
}

/// What the backend says to a key that came so many times before.
fn answer(seed: u64, key: &str, times: usize) -> Answer {
    let mut random = Random::labelled(seed, &format!("{key}/{times}"));
    if times >= MOST_FAULTS || !random.percent(FAULT_PERCENT) {
        return Answer::Accept;
    }
    let busy = |headers| Answer::Say(429, String::new(), headers);
    match random.below(6) {
        0 => Answer::status(500),
        1 => Answer::Hang,
        2 => busy(Vec::new()),
        3 => busy(vec![("retry-after", "1".into())]),
        4 => Answer::Conflict,
        _ => Answer::Cut,
    }
}

/// The hubs, and what they are started with.
struct Hubs {
    settings: Vec<Settings>,
    running: Vec<Hub>,
}

impl Hubs {
    async fn start(settings: Vec<Settings>) -> Self {
        let running = join_all(settings.iter().map(Hub::start)).await;
        Self { settings, running }
    }

    async fn kill(&mut self, one: usize) {
        self.running.remove(one).kill().await;
        self.running.insert(one, Hub::start(&self.settings[one]).await);
    }
}

/// Kills a hub, or NATS, or both, and lets them come back, for as long as there is something to post.
async fn kill_again_and_again(seed: u64, world: &World, hubs: &mut Hubs, posted: &AtomicBool) {
    let mut random = Random::labelled(seed, "kills");
    let mut kills = 0;
    while kills < LEAST_KILLS || !posted.load(Ordering::Relaxed) {
        sleep(random.millis(BETWEEN_KILLS.0, BETWEEN_KILLS.1)).await;
        let victim = random.below(HUBS + 2);
        let (hub, away) = (random.below(HUBS), random.millis(0, NATS_AWAY));
        if victim >= HUBS {
            eprintln!("kill {kills}: NATS, for {away:?}");
            world.nats.server.kill().await.unwrap();
            sleep(away).await;
        }
        if victim != HUBS {
            eprintln!("kill {kills}: hub {hub}");
            hubs.kill(hub).await;
        }
        if victim >= HUBS {
            world.nats.server.restart().await.unwrap();
        }
        kills += 1;
    }
}

/// Says how to make a run again that failed.
struct Again {
    seed: u64,
    orders: usize,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, orders } = self;
            eprintln!(
                "to run it again: HUB_RANDOM_SEED={seed} HUB_RANDOM_ORDERS={orders} cargo test --test hub long::random_run"
            );
        }
    }
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}: expected a whole number, found {text:?}")))
}

/// Each order's webhooks stand on the log as they were accepted, and no others do.
async fn accepted_is_on_the_log(world: &World, accepted: &HashMap<&str, Vec<String>>) {
    let mut on_log: HashMap<String, Vec<String>> = HashMap::new();
    for event in world.log.events().await {
        if event.envelope.event_type == EventType::WebhookReceived {
            let of_order = on_log.entry(event.envelope.external_order_id.clone()).or_default();
            of_order.push(event.envelope.id.to_string());
        }
    }
    for (id, events) in accepted {
        assert_eq!(
            on_log.get(*id),
            Some(events),
            "{id}: on the log, and as answered with 200"
        );
    }
    assert_eq!(on_log.len(), accepted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_fails_at_random() {
    let seed = from_environment("HUB_RANDOM_SEED").unwrap_or_else(new_seed);
    let orders = from_environment("HUB_RANDOM_ORDERS").unwrap_or(FEW_ORDERS);
    let _again = Again { seed, orders };
    let world = World::new().await;
    world.backend.keeps_orders_in(&world.database);
    world
        .backend
        .by_rule(Some(Box::new(move |key, times| answer(seed, key, times))));
    let ports: [_; HUBS] = std::array::from_fn(|_| Port::reserve());
    let urls = ports.each_ref().map(|port| format!("http://{}", port.address()));
    let settings = ports.each_ref().map(|port| {
        let settings = world.settings().set("PORT", port.number());
        settings
            .set("BACKEND_TIMEOUT", "1s")
            .set("RETRY_DELAYS", "1s,1s,2s")
            .set("RETRY_MAX_ATTEMPTS", 20)
            .set("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 3)
    });
    let mut hubs = Hubs::start(settings.into()).await;
    let plans: Vec<_> = (0..orders).map(|number| Plan::new(seed, number)).collect();
    let (posted, began) = (AtomicBool::new(false), Instant::now());
    let providers = (orders / ORDERS_EACH).clamp(1, MOST_PROVIDERS);
    let posting = async {
        let posting = (0..providers).map(async |provider| {
            let mut accepted = Vec::new();
            for plan in plans.iter().skip(provider).step_by(providers) {
                accepted.push((plan.id.as_str(), plan.deliver(&world, &urls).await));
            }
            accepted
        });
        let accepted: HashMap<_, _> = join_all(posting).await.into_iter().flatten().collect();
        posted.store(true, Ordering::Relaxed);
        accepted
    };
    let killing = kill_again_and_again(seed, &world, &mut hubs, &posted);
    let (accepted, ()) = tokio::join!(posting, killing);
    world.backend.by_rule(None);
    eprintln!("the faults end after {:?}", began.elapsed());
    world.log.settled_within(PATIENCE_AT_END).await;
    eprintln!("all have ended after {:?}", began.elapsed());
    world.hand_out_again_within(PATIENCE_AT_END).await;
    let count = accepted.values().map(Vec::len).sum();
    world.at_end_within(PATIENCE_AT_END, Ends::forwarded(count)).await;
    accepted_is_on_the_log(&world, &accepted).await;
    eprintln!(
        "{count} webhooks, {} requests at the backend, all is well after {:?}",
        world.backend.count(),
        began.elapsed()
    );
}
