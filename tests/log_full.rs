//! The log answers but stores nothing, or does not answer: readiness and metrics say so, webhooks are refused at once,
//! and all is well again by itself, without an event that no webhook made.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use reqwest::Method;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, order},
    hub::Hub,
    ids,
    outside::{CAREEM_POS, Outside, send},
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// Webhooks that are sent at the same time to a hub that knows that its log does not acknowledge.
const CROWD: usize = 40;

/// What `/health/ready` answers.
async fn ready(world: &World, hub: &Hub) -> u16 {
    let url = format!("{}/health/ready", hub.url());
    world.careem.request(Method::GET, &url).await.status
}

async fn becomes_ready(world: &World, hub: &Hub, status: u16) {
    eventually(&format!("/health/ready answers {status}"), PATIENCE, async || {
        let found = ready(world, hub).await;
        if found == status { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Every webhook of a crowd is refused, nearly all of them before one that waits for an acknowledgement could be. Returns how
/// many waited for one.
async fn refuses_at_once(world: &World, hub: &Hub) -> usize {
    let bodies: Vec<_> = ids("refused", CROWD).iter().map(|id| order(id)).collect();
    let answers = bodies.iter().map(|body| world.careem.post(hub, body));
    all_refused_at_once(answers).await
}

/// The same of any requests.
async fn all_refused_at_once(answers: impl IntoIterator<Item = impl Future<Output = Answer>>) -> usize {
    let began = Instant::now();
    let timed = answers.into_iter().map(async |answer| {
        let began = Instant::now();
        let answer = answer.await;
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.header("retry-after")),
            (503, "EVENT_LOG_UNAVAILABLE", "5"),
            "{answer:?}"
        );
        began.elapsed()
    });
    let answers = join_all(timed).await;
    // One a second may be let through to find out.
    let waited = answers.iter().filter(|time| **time > Duration::from_secs(4)).count();
    let most = 2 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(
        waited <= most && most < CROWD,
        "{waited} of {CROWD} waited for an acknowledgement that cannot come"
    );
    waited
}

/// The log stops storing, and stores again; no event is on it that was not accepted.
async fn outage(world: World, down: impl AsyncFn(&World), up: impl AsyncFn(&World)) {
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    becomes_ready(&world, &hub, 200).await;
    world.metrics_say(&hub, "event_log_up 1").await;
    down(&world).await;
    let first = world.careem.post(&hub, &order("CR-first")).await;
    assert_eq!(first.status, 503, "{first:?}");
    becomes_ready(&world, &hub, 503).await;
    world.metrics_say(&hub, "event_log_up 0").await;
    refuses_at_once(&world, &hub).await;
    assert_eq!(ready(&world, &hub).await, 503, "the refused ones change nothing");
    up(&world).await;
    // Without any traffic: a load balancer sends none to an instance that is not ready.
    becomes_ready(&world, &hub, 200).await;
    world.metrics_say(&hub, "event_log_up 1").await;
    world.careem.deliver(&hub.url(), &order("CR-first")).await;
    world.post_orders(&hub, ids("after", 1)).await;
    world.at_end(Ends::forwarded(3)).await;
    assert_eq!(
        world.log.unreadable().await,
        [0_u64; 0],
        "the probes leave nothing on the log"
    );
}

async fn filled(world: &World) {
    world.limit_log(world.log_bytes().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_has_reached_its_limit() {
    outage(World::new().await, filled, async |world| world.limit_log(-1).await).await;
}

/// What the backend asks for is refused at once as well, with an `Idempotency-Key` and without.
#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_refused_at_once() {
    let outside = Outside::new(CAREEM_POS).await;
    let (world, hub) = (&outside.world, outside.hub().await);
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    becomes_ready(world, &hub, 200).await;
    filled(world).await;
    assert_eq!(world.careem.post(&hub, &order("CR-first")).await.status, 503);
    becomes_ready(world, &hub, 503).await;
    let body = r#"{"status":"accepted","branchId":"branch-uuid"}"#;
    for has_key in [true, false] {
        let hub = &hub;
        let answers = ids("refused", CROWD).into_iter().map(async |id| {
            let key = [("idempotency-key", id.as_str())];
            let headers = if has_key { &key[..] } else { &[] };
            send(hub, Method::POST, &format!("orders/careem/{id}/status"), body, headers).await
        });
        all_refused_at_once(answers).await;
    }
    world.limit_log(-1).await;
    becomes_ready(world, &hub, 200).await;
    world.careem.deliver(&hub.url(), &order("CR-first")).await;
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_has_no_room_for_any_stream() {
    // More than what LEASES, LIMITS and REFUSALS reserve.
    let small = |config: &str| {
        let limited = config.replace("max_file_store: 64GB", "max_file_store: 36MB");
        let filling = limited.replace(r#""webhooks.>", "orders.>","#, r#""filler", "webhooks.>", "orders.>","#);
        assert!(limited != config && filling != limited);
        filling
    };
    let nats = async {
        let nats = Nats::start_with(small, None).await;
        // The log as the files have it reserves more than this server has.
        let config: stream::Config = serde_json::from_str(include_str!("../streams/EVENTS.json")).unwrap();
        let config = stream::Config {
            max_bytes: -1,
            ..config
        };
        nats.provision().await.create_stream(config).await.unwrap();
        nats
    };
    let world = Box::pin(World::with_nats(nats)).await;
    let down = async |world: &World| {
        let provision = world.nats.provision().await;
        let config = stream::Config {
            name: "FILLER".to_owned(),
            subjects: vec!["filler".to_owned()],
            ..stream::Config::default()
        };
        provision.create_stream(config).await.unwrap();
        let hub = jetstream::new(world.nats.connect("hub").await);
        let room = vec![b'x'; 100_000];
        for _ in 0..500 {
            let sent = hub.publish("filler", room.clone().into()).await;
            if sent.unwrap().await.is_err() {
                return;
            }
        }
        panic!("there is still room");
    };
    let up = async |world: &World| {
        world.nats.provision().await.delete_stream("FILLER").await.unwrap();
    };
    outage(world, down, up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_frozen_and_nobody_sends() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    becomes_ready(&world, &hub, 200).await;
    world.nats.server.pause().await.unwrap();
    becomes_ready(&world, &hub, 503).await;
    world.metrics_say(&hub, "event_log_up 0").await;
    let waited = refuses_at_once(&world, &hub).await;
    world.nats.server.resume().await.unwrap();
    becomes_ready(&world, &hub, 200).await;
    world.post_orders(&hub, ids("after", 1)).await;
    let events = world.log.settled().await;
    // Webhooks that were let through to find out may be on the log though they were refused; each is an order.
    let accepted = events.iter().filter(|event| event.envelope.cause_id.is_none()).count();
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(accepted)).await;
    assert!(
        (2..=2 + waited).contains(&accepted),
        "{accepted}, {waited} of them let through to find out"
    );
}

/// A figure of the histogram of what the rounds of the writer hold.
async fn of_metric(world: &World, hub: &Hub, figure: &str) -> u64 {
    let metrics = world.metrics(hub).await;
    let name = format!("append_round_size_{figure} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |figure| figure.trim().parse::<f64>().unwrap() as u64)
}

/// A hub that has sent a repeat twice, because NATS stood still, must not take its own first try for the only one.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_while_nats_is_frozen_is_one() {
    let world = World::new().await;
    let first = world.hub().await;
    let second = Hub::start(&world.settings().set("HUB_TEST_TIMES", "ack_timeout=300ms")).await;
    let (known, new) = (order("CR-known"), order("CR-new"));
    assert_eq!(
        world.careem.post(&first, &known).await.json()["data"]["duplicate"],
        false
    );
    world.post_orders(&second, ids("warm", 1)).await;
    world.log.settled().await;
    let rounds = async || {
        let metrics = world.metrics(&second).await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("append_round_duration_seconds_count "));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let before = rounds().await;
    world.nats.server.pause().await.unwrap();
    let posting = [&known, &new].map(|body| world.careem.post(&second, body));
    let resuming = async {
        eventually("a round without an answer", PATIENCE, async || {
            let count = rounds().await;
            if count > before { Ok(()) } else { Err(count) }
        })
        .await;
        world.nats.server.resume().await.unwrap();
    };
    let (answers, ()) = tokio::join!(join_all(posting), resuming);
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let duplicates: Vec<_> = answers
        .iter()
        .map(|one| one.json()["data"]["duplicate"].clone())
        .collect();
    assert_eq!(
        duplicates,
        [true, false],
        "the one of the other hub is a repeat, the new one is none"
    );
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

/// A hub remembers ids no longer than the log does: every instance answers a repeat in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_the_same_by_every_instance() {
    let world = World::new().await;
    // The same webhook comes more often than is let in by the limits.
    let settings = world.settings().set("RATE_LIMIT_ENABLED", false);
    let (first, second) = (Hub::start(&settings).await, Hub::start(&settings).await);
    for hub in [&first, &second] {
        hub.says("\"serving\"").await;
    }
    let provision = world.nats.provision().await;
    let config = provision
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    let short = stream::Config {
        duplicate_window: Duration::from_secs(4),
        ..config
    };
    provision.update_stream(short).await.unwrap();
    for (at, hub) in [&first, &second].into_iter().enumerate() {
        let body = order(&format!("CR-again-{at}"));
        let told = async || world.careem.post(hub, &body).await.json()["data"]["duplicate"].clone();
        assert_eq!(told().await, false);
        eventually("the hub forgets what the log forgot", PATIENCE, async || {
            let duplicate = told().await;
            if duplicate == false { Ok(()) } else { Err(duplicate) }
        })
        .await;
        // The log remembers the one that it just took, and every instance asks it or remembers that one, too.
        let others: Vec<_> = FuturesUnordered::from_iter([&first, &second].map(|hub| world.careem.post(hub, &body)))
            .map(|answer| answer.json()["data"]["duplicate"].clone())
            .collect()
            .await;
        assert_eq!(others, [true, true]);
    }
}

mod long {
    use super::*;

    /// What the stages hold is not sent again and again, all of it, to a log that refuses it.
    #[tokio::test(flavor = "multi_thread")]
    async fn outcomes_wait_for_room_without_hammering_the_log() {
        const ORDERS: usize = 30;
        let world = World::new().await;
        let hub = world.hub().await;
        world.backend.hold();
        world.post_orders(&hub, ids("held", ORDERS)).await;
        world.backend.wait_for(ORDERS).await;
        filled(&world).await;
        world.backend.release();
        becomes_ready(&world, &hub, 503).await;
        // Every outcome may have been sent once before that was known.
        let sent = async || {
            (
                of_metric(&world, &hub, "count").await,
                of_metric(&world, &hub, "sum").await,
            )
        };
        let settled = async || {
            let before = sent().await;
            eventually("three more rounds", PATIENCE, async || {
                let now = sent().await;
                if now.0 >= before.0 + 3 { Ok(()) } else { Err(now) }
            })
            .await;
            let after = sent().await;
            (after.0 - before.0, after.1 - before.1)
        };
        settled().await;
        let (rounds, events) = settled().await;
        assert!(
            events <= 2 * rounds,
            "{events} events in {rounds} rounds to a log that refuses them"
        );
        world.limit_log(-1).await;
        world.at_end(Ends::forwarded(ORDERS)).await;
        assert_eq!(world.backend.count(), ORDERS);
    }
}
