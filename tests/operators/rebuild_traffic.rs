//! All tables are dropped and made again while three providers send orders: intake and forwarding do not notice.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use webhook_hub::provider::Catalogue;

use super::rebuild::{owner, rebuild};
use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::{Hub, run},
    provider::{Provider, Webhook},
    wait::{PATIENCE, eventually},
};

/// How often a provider sends an order.
const EVERY: Duration = Duration::from_millis(25);
/// The other providers: their stores, a sample of each, and the number in it.
const OTHERS: [(&str, &str, &str, &str); 2] = [
    (
        "talabat",
        "talabat-1",
        include_str!("../fixtures/providers/talabat/order.json"),
        "TB123456789",
    ),
    (
        "generic",
        "store-7",
        include_str!("../fixtures/providers/generic/order.created.json"),
        "A-1001",
    ),
];

/// Three providers and a hub.
struct Traffic {
    world: World,
    hub: Hub,
    others: Vec<Provider>,
}

/// What became of the orders that were sent in a time: for each, how long the hub took to accept it, and the backend to have it.
struct Times {
    accepted: Vec<Duration>,
    arrived: Vec<Duration>,
}

/// The time that one of a hundred exceeds.
fn p99(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)]
}

impl Traffic {
    async fn new() -> Self {
        let world = World::new().await;
        let mut settings = world.settings();
        let mut others = Provider::all(&Catalogue::shipped());
        others.retain(|one| OTHERS.iter().any(|(name, ..)| one.name == *name));
        for other in &others {
            let (name, store, ..) = Self::sample(other);
            other.branch(&world, store).await;
            settings = other.enable(settings, "JOD");
            settings = settings.set(&format!("RATE_LIMIT_{}", name.to_uppercase()), 1_000_000);
        }
        let hub = Hub::start(&settings).await;
        Self { world, hub, others }
    }

    fn sample(of: &Provider) -> (&'static str, &'static str, &'static str, &'static str) {
        OTHERS.into_iter().find(|(name, ..)| *name == of.name).unwrap()
    }

    /// Sends an order of the next provider. It must be accepted at once.
    async fn send(&self, name: &str, number: usize) -> (String, Instant, Duration) {
        let (id, began) = (format!("CR-{name}-{number}"), Instant::now());
        let answer = match self.others.get(number % 3) {
            None => self.world.careem.post(&self.hub, &order(&id)).await,
            Some(other) => {
                let (_, store, body, sample) = Self::sample(other);
                let webhook = Webhook::new(body.replace(sample, &id)).with("x-merchant-id", store);
                other.post(&self.hub, &webhook.with("webhook-id", &id)).await
            }
        };
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
        (id, began, began.elapsed())
    }

    /// Sends until it is enough, whatever becomes of the orders before.
    async fn until(&self, name: &str, is_enough: impl Fn(usize) -> bool) -> Times {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut under_way, mut sent, mut number) = (FuturesUnordered::new(), Vec::new(), 0);
        loop {
            tokio::select! {
                Some(one) = under_way.next() => sent.push(one),
                _ = tick.tick(), if !is_enough(number) => {
                    under_way.push(self.send(name, number));
                    number += 1;
                }
                else => break,
            }
        }
        self.world.log.settled().await;
        let requests = self.world.backend.requests();
        let at: HashMap<String, Instant> = requests.iter().map(|one| (one.external_order_id(), one.at)).collect();
        Times {
            accepted: sent.iter().map(|(.., took)| *took).collect(),
            arrived: sent.iter().map(|(id, began, _)| at[id] - *began).collect(),
        }
    }

    /// Drops all tables and makes them again, once orders are forwarded without them.
    async fn drop_and_rebuild(&self) -> Value {
        // Under the lock of the writer, so that the two do not wait for each other.
        let drop = "BEGIN; SELECT FROM hub.cursors FOR UPDATE;
            DROP TABLE delivery_error_logs, provider_order_logs, webhook_logs, hub.orders; COMMIT";
        self.world.database.run(drop).await.unwrap();
        let forwarded = self.world.backend.count();
        eventually("orders are forwarded without tables", PATIENCE, async || {
            let more = self.world.backend.count() - forwarded;
            if more >= 30 { Ok(()) } else { Err(more) }
        })
        .await;
        rebuild(&self.world, &[]).await
    }
}

/// Returns the times of so many orders before, of those while the tables are dropped and made again so often, and of so many afterwards.
async fn dropped_under_traffic(before: usize, times: usize, after: usize) -> [Times; 3] {
    let traffic = Traffic::new().await;
    let quiet = traffic.until("before", |sent| sent == before).await;
    let is_over = AtomicBool::new(false);
    let rebuilding = async {
        let mut all = Vec::new();
        for _ in 0..times {
            all.push(traffic.drop_and_rebuild().await);
        }
        is_over.store(true, Ordering::Relaxed);
        all
    };
    let (during, all) = tokio::join!(traffic.until("during", |_| is_over.load(Ordering::Relaxed)), rebuilding);
    let afterwards = traffic.until("after", |sent| sent == after).await;
    for rebuilt in all {
        let tables = rebuilt["tables"].as_array().unwrap();
        assert_eq!(tables.len(), 4, "{rebuilt}");
        let is_new = |table: &&Value| table["wasMissing"] == json!(true) && table["extra"] == json!(0);
        assert_eq!(tables.iter().filter(is_new).count(), 4, "{rebuilt}");
    }
    let world = &traffic.world;
    let sent = [&quiet, &during, &afterwards].map(|times| times.accepted.len());
    world.at_end(Ends::forwarded(sent.iter().sum())).await;
    let ran = run(&owner(world), &["verify"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    [quiet, during, afterwards]
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tables_are_dropped_under_traffic() {
    dropped_under_traffic(60, 1, 0).await;
}

mod long {
    use std::time::Duration;

    use super::{dropped_under_traffic, p99};

    /// Below this a difference says more about the machine, which the servers, the hub and the rebuild share, than about the hub.
    const LEAST: Duration = Duration::from_millis(100);

    /// The slowest of a hundred takes at most twice as long as before or afterwards.
    #[tokio::test(flavor = "multi_thread")]
    async fn neither_intake_nor_forwarding_is_slower() {
        let times = dropped_under_traffic(1500, 3, 750).await;
        let accepted = times.each_ref().map(|times| p99(&times.accepted));
        let arrived = times.each_ref().map(|times| p99(&times.arrived));
        for (what, [before, during, after]) in [("accepted", accepted), ("at the backend", arrived)] {
            eprintln!("{what}: p99 {before:?} before, {during:?} during, {after:?} afterwards");
            let most = 2 * before.max(after).max(LEAST);
            assert!(during <= most, "{what}: {during:?}, at most {most:?}");
        }
    }
}
