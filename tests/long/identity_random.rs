//! Any mix of repeats, second announcements, cancellations and news, of two platforms, two branches and two years with the same
//! numbers, by a seed, cut by outages and restarts: each order is created once, and none is dropped.
//!
//! What belongs together is worked out from the times at which the log says that webhooks were accepted, so a machine that is
//! slow changes what the test expects, not whether it holds. `HUB_RANDOM_SEED` makes a run again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::sleep;
use webhook_hub::{
    event::{EventType, Recorded, outcome::SUPERSEDED},
    provider::Catalogue,
};

use crate::harness::{
    World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::Hub,
    log::payload,
    port::Port,
    provider::{Provider, Webhook},
    random::{Random, new_seed},
};

/// How long an order is known again, here.
const WINDOW: Duration = Duration::from_secs(12);
const HUBS: usize = 2;
/// Numbers that each platform uses in each branch and year.
const NUMBERS: usize = 5;
/// Platforms and their stores; the first store of both is one branch.
const STORES: [(&str, &str); 4] = [
    ("careem", "merchant-1"),
    ("careem", "merchant-2"),
    ("talabat", "store-1"),
    ("talabat", "store-2"),
];
/// How many of a hundred requests the backend does not accept.
const FAULT_PERCENT: usize = 20;
/// After so many faults under one key it accepts.
const MOST_FAULTS: usize = 3;
const PATIENCE_AT_END: Duration = Duration::from_secs(60);

/// The webhooks of one order, in their order.
struct Plan {
    provider: &'static str,
    store: &'static str,
    posts: Vec<(String, Duration, usize)>,
}

impl Plan {
    fn new(seed: u64, year: usize, (provider, store): (&'static str, &'static str), number: usize) -> Self {
        let mut random = Random::labelled(seed, &format!("{year}/{provider}/{store}/{number}"));
        let id = format!("N-{number}");
        // Orders of different years and stores differ, as real ones do.
        let of_year = |body: String| {
            body.replace("Ahmed Ali", &format!("Customer {year} of {store}"))
                .replace("2025-10-01", &format!("20{:02}-10-01", 25 + year))
        };
        let announced = |status: &str| of_year(order(&id).replace("\"created\"", &format!("\"{status}\"")));
        let news = |status: &str| {
            change(&id, status)
                .replace("2025-10-01", &format!("20{:02}-10-01", 25 + year))
                .replace("12:30:00", if store.ends_with('1') { "12:30:01" } else { "12:30:02" })
        };
        let mut bodies = vec![announced(if random.percent(50) { "pending" } else { "created" })];
        for status in ["pending", "created"] {
            if random.percent(40) {
                bodies.push(announced(status));
            }
        }
        let changes = ["accepted", "ready", "picked_up"];
        bodies.extend(
            changes[..random.below(changes.len() + 1)]
                .iter()
                .map(|status| news(status)),
        );
        if random.percent(30) {
            bodies.push(news("cancelled"));
        }
        // Repeats come at any time after the first.
        for _ in 0..random.below(3) {
            let (from, to) = (random.below(bodies.len()), bodies.len());
            let at = from + 1 + random.below(to - from);
            bodies.insert(at, bodies[from].clone());
        }
        let posts = bodies
            .into_iter()
            .map(|body| (body, random.millis(0, 300), random.below(HUBS)));
        Self {
            provider,
            store,
            posts: posts.collect(),
        }
    }

    fn all(seed: u64, year: usize) -> Vec<Self> {
        let of = |store| (0..NUMBERS).map(move |number| Self::new(seed, year, store, number));
        STORES.into_iter().flat_map(of).collect()
    }

    async fn deliver(&self, providers: &[Provider], urls: &[String]) {
        let provider = providers.iter().find(|one| one.name == self.provider).unwrap();
        for (body, pause, first) in &self.posts {
            sleep(*pause).await;
            let webhook = Webhook::new(body).with("x-merchant-id", self.store);
            provider.deliver_to_any(urls, *first, &webhook).await;
        }
    }
}

/// What the backend says; with lost answers also what it says although it has the order.
fn answer(seed: u64, key: &str, times: usize, loses: bool) -> Answer {
    let mut random = Random::labelled(seed, &format!("{key}/{times}"));
    if times >= MOST_FAULTS || !random.percent(FAULT_PERCENT) {
        return Answer::Accept;
    }
    match random.below(if loses { 5 } else { 2 }) {
        0 => Answer::status(500),
        1 => Answer::Say(429, String::new(), Vec::new()),
        2 => Answer::Hang,
        3 => Answer::Conflict,
        _ => Answer::Cut,
    }
}

fn is_of_one_order(one: &Recorded, other: &Recorded) -> bool {
    let (one, other) = (&one.envelope, &other.envelope);
    let is_of_branch = one.branch.is_none() || one.branch == other.branch;
    one.provider == other.provider && one.external_order_id == other.external_order_id && is_of_branch
}

/// Whether the backend had got a cancellation of an event's order before the event.
fn was_cancelled_before(events: &[Arc<Recorded>], event: &Recorded) -> bool {
    let is_cancelled = |earlier: &Arc<Recorded>| {
        let envelope = &earlier.envelope;
        let is_it = envelope.event_type == EventType::OrderForwarded && envelope.webhook_type == "order_cancelled";
        is_it && earlier.sequence < event.sequence && is_of_one_order(earlier, event)
    };
    events.iter().any(is_cancelled)
}

/// The events of an event's order, a line each.
fn story(events: &[Arc<Recorded>], of: &Recorded) -> Vec<String> {
    let line = |event: &Arc<Recorded>| {
        let status = &payload(event)["transformedOrder"]["status"];
        let (envelope, sequence) = (&event.envelope, event.sequence);
        let (webhook, cause) = (envelope.root_id, envelope.cause_sequence);
        let (event_type, webhook_type, time) = (envelope.event_type, &envelope.webhook_type, envelope.time);
        format!("{sequence} {event_type} {webhook_type} {webhook} {cause:?} {status} {time}")
    };
    let of_order = events.iter().filter(|event| is_of_one_order(event, of));
    of_order.map(line).collect()
}

/// Provider, branch and number.
type Identity = (String, String, String);

/// The keys of the orders that there are of each identity: an announcement belongs to the order that was made at most a window before.
/// One that comes again after that, because this machine is slow, is made once more, and may have the key that it had.
fn orders(events: &[Arc<Recorded>]) -> BTreeMap<Identity, BTreeSet<String>> {
    let mut made: BTreeMap<Identity, Vec<(DateTime<Utc>, String)>> = BTreeMap::new();
    let window = TimeDelta::from_std(WINDOW).unwrap();
    for event in events {
        let envelope = &event.envelope;
        if envelope.event_type != EventType::OrderTransformed || !envelope.is_creation() {
            continue;
        }
        let of = (
            envelope.provider.to_string(),
            envelope.branch.clone().unwrap(),
            envelope.external_order_id.clone(),
        );
        let made = made.entry(of).or_default();
        if !made.iter().any(|(made, _)| envelope.received_at - *made <= window) {
            made.push((envelope.received_at, envelope.request_key().to_string()));
        }
    }
    let keys = |made: Vec<(DateTime<Utc>, String)>| made.into_iter().map(|(_, key)| key).collect();
    made.into_iter().map(|(of, made)| (of, keys(made))).collect()
}

impl World {
    /// Each order was created by one key, and none by another.
    fn each_was_created_once(&self, expected: &BTreeMap<Identity, BTreeSet<String>>) {
        let mut keys: BTreeMap<Identity, BTreeSet<String>> = BTreeMap::new();
        for request in self.backend.requests().iter().filter(|request| request.path == ORDERS) {
            let body = request.json();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let (webhook, order) = (&body["originalWebhook"], &body["transformedOrder"]);
            let of = (
                text(&webhook["providerId"]),
                text(&order["branchId"]),
                text(&webhook["orderId"]),
            );
            keys.entry(of).or_default().insert(request.key().to_owned());
        }
        assert_eq!(&keys, expected);
    }
}

/// Kills a hub every now and then, and NATS with it, while there is something to post.
async fn kill_again_and_again(
    seed: u64,
    world: &World,
    hubs: &mut Vec<Hub>,
    settings: &[crate::harness::hub::Settings],
    posted: &AtomicBool,
) {
    let mut random = Random::labelled(seed, "kills");
    loop {
        sleep(random.millis(1500, 3500)).await;
        let (one, with_nats) = (random.below(HUBS), random.percent(30));
        eprintln!("kill of hub {one}, and NATS: {with_nats}");
        if with_nats {
            world.nats.server.kill().await.unwrap();
        }
        hubs.remove(one).kill().await;
        hubs.insert(one, Hub::start(&settings[one]).await);
        if with_nats {
            world.nats.server.restart().await.unwrap();
        }
        if posted.load(Ordering::Relaxed) {
            return;
        }
    }
}

struct Again(u64);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "to run it again: HUB_RANDOM_SEED={} cargo test --test hub identity_random",
                self.0
            );
        }
    }
}

async fn run(loses: bool) {
    let seed = std::env::var("HUB_RANDOM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(new_seed);
    let _again = Again(seed);
    let world = World::new().await;
    let providers = Provider::all(&Catalogue::shipped());
    for (provider, store) in STORES {
        let one = providers.iter().find(|one| one.name == provider).unwrap();
        one.branch(&world, store).await;
    }
    let same = "UPDATE branch_delivery_configs SET branch_id = 'branch-uuid' WHERE merchant_id = 'store-1'";
    world.database.run(same).await.unwrap();
    world
        .backend
        .by_rule(Some(Box::new(move |key, times| answer(seed, key, times, loses))));
    let ports: [_; HUBS] = std::array::from_fn(|_| Port::reserve());
    let urls = ports.each_ref().map(|port| format!("http://{}", port.address()));
    let settings = ports.each_ref().map(|port| {
        let settings = world.settings().set("PORT", port.number()).set("BACKEND_TIMEOUT", "1s");
        let settings = settings.set("RETRY_DELAYS", "500ms,1s").set("RETRY_MAX_ATTEMPTS", 20);
        let settings = settings.set("HUB_TEST_TIMES", format!("order_memory={}s", WINDOW.as_secs()));
        STORES.iter().fold(settings, |settings, (name, _)| {
            providers
                .iter()
                .find(|one| one.name == *name)
                .unwrap()
                .enable(settings, "JOD")
        })
    });
    let mut hubs = join_all(settings.iter().map(Hub::start)).await;
    for year in 0..2 {
        let plans = Plan::all(seed, year);
        let posted = AtomicBool::new(false);
        let posting = async {
            join_all(plans.iter().map(|plan| plan.deliver(&providers, &urls))).await;
            posted.store(true, Ordering::Relaxed);
        };
        if loses {
            tokio::join!(
                posting,
                kill_again_and_again(seed, &world, &mut hubs, &settings, &posted)
            );
        } else {
            posting.await;
        }
        world.log.settled_within(PATIENCE_AT_END).await;
        // Some come again after the log forgot them, while they are still known.
        world.log_forgets(&hubs[0]).await;
        let repeats = plans.iter().step_by(3);
        join_all(repeats.map(async |plan| {
            let last = Plan {
                posts: plan.posts[plan.posts.len() - 1..].to_vec(),
                ..*plan
            };
            last.deliver(&providers, &urls).await;
            let first = Plan {
                posts: plan.posts[..1].to_vec(),
                ..*plan
            };
            first.deliver(&providers, &urls).await;
        }))
        .await;
        world.log.settled_within(PATIENCE_AT_END).await;
        // The years are a window apart.
        sleep(WINDOW).await;
    }
    world.backend.by_rule(None);
    let events = world.log.settled_within(PATIENCE_AT_END).await;
    let expected = orders(&events);
    assert_eq!(expected.len(), STORES.len() * NUMBERS);
    assert!(
        expected.values().all(|keys| keys.len() >= 2),
        "the years are told apart: {expected:?}"
    );
    world.each_was_created_once(&expected);
    if !loses {
        // No answer was lost, so each event was taken once, whether the backend honours its key or not.
        let (mut times, mut taken): (HashMap<String, usize>, HashSet<_>) = Default::default();
        for request in world.backend.requests() {
            let (key, times) = (request.key(), times.entry(request.key().to_owned()).or_default());
            let event = (key.to_owned(), request.body.clone());
            assert!(
                !taken.contains(&event),
                "{key} was sent again though the backend had said yes"
            );
            if matches!(answer(seed, key, *times, loses), Answer::Accept) {
                taken.insert(event);
            }
            *times += 1;
        }
    }
    let ends: Vec<_> = events.iter().filter(|event| event.envelope.event_type.ends()).collect();
    let of = |one: EventType| ends.iter().filter(|end| end.envelope.event_type == one).count();
    for end in ends
        .iter()
        .filter(|end| end.envelope.event_type == EventType::OrderIgnored)
    {
        let reason = payload(end)["reason"].as_str().unwrap().to_owned();
        let is_repeat = ["DUPLICATE_ORDER", "DUPLICATE_WEBHOOK"].contains(&reason.as_str());
        assert!(
            is_repeat || reason == SUPERSEDED && was_cancelled_before(&events, end),
            "{}: {:?} of {:#?}",
            payload(end),
            end.envelope,
            story(&events, end)
        );
    }
    world.hand_out_again_within(PATIENCE_AT_END).await;
    let ends = Ends::forwarded(of(EventType::OrderForwarded)).ignored(of(EventType::OrderIgnored));
    world.at_end_within(PATIENCE_AT_END, ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_is_created_once_through_outages_and_restarts() {
    run(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_is_created_once_without_idempotency_keys() {
    run(false).await;
}
