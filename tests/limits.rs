//! Too many requests: a provider's limit is kept by all instances together, a stranger's refused requests cost the stranger
//! and nobody else, and operators see who is blocked and can end it.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, MERCHANT, SECRET, order, sign},
    hub::{Hub, Ran, Settings, run},
    ids,
    wait::{PATIENCE, eventually},
};

const GOOD: &str = "203.0.113.1";
const STRANGER: &str = "198.51.100.7";

/// A window that does not end while a test runs.
fn long_window() -> &'static str {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    if since.as_secs() % 3600 < 3500 { "1h" } else { "59m" }
}

/// A hub behind a proxy, so that a test can call from any address; each may be refused three times.
fn settings(world: &World) -> Settings {
    world
        .settings()
        .set("TRUSTED_PROXIES", "127.0.0.1")
        .set("RATE_LIMIT_ADDRESS", "3/60s/300s")
}

async fn post(world: &World, hub: &Hub, from: &str, body: &str, secret: &str) -> Answer {
    let signature = sign(secret, body.as_bytes());
    let headers = [
        ("x-forwarded-for", from),
        ("x-merchant-id", MERCHANT),
        ("x-careem-signature", signature.as_str()),
    ];
    world.careem.post_raw(hub, body, &headers).await
}

async fn good(world: &World, hub: &Hub, from: &str, id: &str) -> Answer {
    post(world, hub, from, &order(id), SECRET).await
}

async fn bad(world: &World, hub: &Hub, from: &str) -> u16 {
    post(world, hub, from, "{}", "of a stranger").await.status
}

/// Refused by a limit; after how many seconds it may come back.
fn limited(answer: &Answer) -> u64 {
    let seen = (answer.status, answer.code());
    assert_eq!(seen, (429, "RATE_LIMITED".to_owned()), "{answer:?}");
    answer.header("retry-after").parse().unwrap()
}

/// Starts so many, and waits until each knows of all.
async fn fleet(world: &World, settings: &Settings, size: usize) -> Vec<Hub> {
    let hubs = join_all((0..size).map(|_| Hub::start(settings))).await;
    for hub in &hubs {
        world.metrics_say(hub, &format!("rate_limit_instances {size}")).await;
    }
    hubs
}

async fn blocks(world: &World, arguments: &[&str]) -> Ran {
    let arguments: Vec<_> = std::iter::once(&"blocks").chain(arguments).copied().collect();
    run(&world.nats.settings("hub"), &arguments).await
}

async fn listed(world: &World) -> Vec<Value> {
    let ran = blocks(world, &["list", "--json"]).await.expect_success();
    serde_json::from_str(&ran.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_keeps_its_limit() {
    let world = World::new().await;
    let limit = format!("50/{}", long_window());
    let hub = Hub::start(&settings(&world).set("RATE_LIMIT_CAREEM", limit)).await;
    for id in ids("within", 50) {
        good(&world, &hub, GOOD, &id).await.event_id();
    }
    for id in ids("beyond", 5) {
        assert!((1..=3600).contains(&limited(&good(&world, &hub, GOOD, &id).await)));
    }
    // Before anything is read, so it makes no difference what it is.
    assert_eq!(bad(&world, &hub, GOOD).await, 429);
    let health = format!("{}/api/webhooks/health/careem", hub.url());
    let health = world.careem.request(Method::GET, &health).await.json();
    assert_eq!(health["configuration"]["rateLimiting"], true);
    world
        .metrics_say(&hub, "rate_limited_total{provider=\"careem\",scope=\"provider\"} 6")
        .await;
    // Off, there is none.
    let off = Hub::start(&settings(&world).set("RATE_LIMIT_ENABLED", false)).await;
    for _ in 0..5 {
        assert_eq!(bad(&world, &off, STRANGER).await, 401);
    }
    let health = format!("{}/api/webhooks/health/careem", off.url());
    let health = world.careem.request(Method::GET, &health).await.json();
    assert_eq!(health["configuration"]["rateLimiting"], false);
    world.at_end(Ends::forwarded(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_correct() {
    let world = World::new().await;
    let hub = Hub::start(&settings(&world).set("RATE_LIMIT_CAREEM", "3/2s")).await;
    let mut accepted = 0;
    for round in 0..3 {
        let mut refused = None;
        for id in ids(&format!("round{round}"), 20) {
            let answer = good(&world, &hub, GOOD, &id).await;
            if answer.status == 200 {
                accepted += 1;
            } else {
                refused = Some((limited(&answer), id));
                break;
            }
        }
        let (seconds, id) = refused.expect("more than the limit is refused");
        assert!((1..=2).contains(&seconds), "{seconds} s");
        // What is tested is that this is long enough.
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        good(&world, &hub, GOOD, &id).await.event_id();
        accepted += 1;
    }
    world.at_end(Ends::forwarded(accepted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_counter_each_has_its_share() {
    let world = World::new().await;
    let limit = format!("100/{}", long_window());
    let hubs = fleet(&world, &settings(&world).set("RATE_LIMIT_CAREEM", limit), 2).await;
    world.nats.provision().await.delete_stream("LIMITS").await.unwrap();
    let mut accepted = 0;
    for (at, hub) in hubs.iter().enumerate() {
        let mut slowest = Duration::ZERO;
        for id in ids(&format!("alone{at}"), 60) {
            let asked = Instant::now();
            let answer = good(&world, hub, GOOD, &id).await;
            slowest = slowest.max(asked.elapsed());
            if answer.status == 200 {
                accepted += 1;
            } else {
                limited(&answer);
            }
        }
        // No request waited for the answer that never comes, which has a time limit of one second.
        assert!(slowest < Duration::from_millis(900), "{slowest:?}");
        assert_eq!(accepted, 50 * (at + 1));
    }
    world.at_end(Ends::forwarded(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_blocked_without_nats() {
    let world = World::new().await;
    let hub = Hub::start(&settings(&world)).await;
    good(&world, &hub, GOOD, "CR-before").await.event_id();
    world.at_end(Ends::forwarded(1)).await;
    world.nats.server.stop().await.unwrap();
    let asked = Instant::now();
    for _ in 0..3 {
        assert_eq!(bad(&world, &hub, STRANGER).await, 401);
    }
    limited(&good(&world, &hub, STRANGER, "CR-blocked").await);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // It is reported as soon as there is another instance.
    world.nats.server.restart().await.unwrap();
    eventually("the block is stored", PATIENCE, async || {
        let listed = listed(&world).await;
        if listed.len() == 1 { Ok(()) } else { Err(listed) }
    })
    .await;
}

/// Posts good orders, one after the other; none may be refused.
async fn provider(world: &World, hub: &Hub, name: &str, count: usize) {
    for id in ids(name, count) {
        good(world, hub, GOOD, &id).await.event_id();
    }
}

/// A request whose body never comes; what is answered all the same, and sooner than a body is waited for that is read
/// and thrown away.
async fn without_body(hub: &Hub, from: &str) -> String {
    let mut stream = TcpStream::connect(hub.address()).await.unwrap();
    let head = format!(
        "POST /api/webhooks/careem HTTP/1.1\r\nHost: hub\r\nX-Forwarded-For: {from}\r\nContent-Length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(Duration::from_millis(900), stream.read(&mut answer)).await;
    let length = read.expect("an answer before the body").unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_seen_and_lifted() {
    let world = World::new().await;
    let settings = settings(&world);
    let mut hubs = fleet(&world, &settings, 2).await;
    // What strangers try: another provider, a body that cannot be read, a signature.
    let url = format!("{}/api/webhooks/talabat", hubs[0].url());
    assert_eq!(world.careem.request(Method::POST, &url).await.status, 404);
    let odd = [("x-forwarded-for", STRANGER), ("content-encoding", "odd")];
    assert_eq!(world.careem.post_raw(&hubs[0], "{}", &odd).await.status, 400);
    assert_eq!(bad(&world, &hubs[0], STRANGER).await, 401);
    assert_eq!(good(&world, &hubs[0], GOOD, "CR-neighbour").await.status, 200);
    assert_eq!(bad(&world, &hubs[0], STRANGER).await, 401);
    let seconds = limited(&good(&world, &hubs[0], STRANGER, "CR-blocked").await);
    assert!((295..=300).contains(&seconds), "{seconds}");
    assert!(without_body(&hubs[0], STRANGER).await.starts_with("HTTP/1.1 429 "));

    // Everyone knows, also who comes later, and an operator.
    let is_blocked = async |hub: &Hub| {
        eventually("it is blocked here, too", PATIENCE, async || {
            let answer = post(&world, hub, STRANGER, "[]", SECRET).await;
            if answer.status == 429 {
                Ok(())
            } else {
                Err(answer.status)
            }
        })
        .await;
        world.metrics_say(hub, "blocks_active 1").await;
    };
    is_blocked(&hubs[1]).await;
    hubs.remove(0).kill().await;
    hubs.push(Hub::start(&settings).await);
    is_blocked(&hubs[1]).await;
    let shown = listed(&world).await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    let facts = ["who", "scope", "provider", "requests"].map(|name| &shown[0][name]);
    assert_eq!(json!(facts), json!([STRANGER, "address", "careem", 3]));
    let text = blocks(&world, &["list"]).await.expect_success().stdout;
    assert!(text.contains(STRANGER) && text.ends_with("1 block\n"), "{text}");

    // An address that is not, and used wrongly.
    let other = blocks(&world, &["lift", GOOD]).await;
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("203.0.113.1 is not blocked"), "{}", other.said());
    for arguments in [&["lift"][..], &["lift", "nowhere"], &["lift", STRANGER, "--all"]] {
        assert_eq!(blocks(&world, arguments).await.code, Some(2), "{arguments:?}");
    }
    let lifted = blocks(&world, &["lift", STRANGER, "--json"]).await.expect_success();
    assert_eq!(lifted.stdout, format!("{{\"lifted\":[\"{STRANGER}\"]}}\n"));
    for (at, hub) in hubs.iter().enumerate() {
        world.metrics_say(hub, "blocks_active 0").await;
        good(&world, hub, STRANGER, &format!("CR-lifted-{at}")).await.event_id();
    }
    assert_eq!(listed(&world).await, Vec::<Value>::new());
    let none = blocks(&world, &["lift", "--all"]).await.expect_success();
    assert_eq!(none.stdout, "no blocks\n");
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_verified_webhooks_is_not_blocked() {
    let world = World::new().await;
    let settings = settings(&world);
    let hubs = fleet(&world, &settings, 2).await;
    // Blocked at one for what a neighbour behind the same gateway does, it comes in through the other.
    for _ in 0..2 {
        assert_eq!(bad(&world, &hubs[0], GOOD).await, 401);
    }
    good(&world, &hubs[1], GOOD, "CR-gateway").await.event_id();
    // Instances hear the stream in order: one that has heard of this later block knows the address as well.
    for _ in 0..3 {
        assert_eq!(bad(&world, &hubs[1], STRANGER).await, 401);
    }
    for hub in &hubs {
        world.metrics_say(hub, "blocks_active 1").await;
    }
    blocks(&world, &["lift", STRANGER]).await.expect_success();
    for _ in 0..10 {
        assert_eq!(bad(&world, &hubs[0], GOOD).await, 401);
        assert_eq!(bad(&world, &hubs[1], GOOD).await, 401);
    }
    drop(hubs);
    // An instance that has never seen a webhook of it knows, too.
    let later = Hub::start(&settings).await;
    for _ in 0..10 {
        assert_eq!(bad(&world, &later, GOOD).await, 401);
    }
    good(&world, &later, GOOD, "CR-later").await.event_id();
    assert_eq!(listed(&world).await, Vec::<Value>::new());
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_set_up_to_be_blocked() {
    let world = World::new().await;
    let limit = format!("2/{}/300s", long_window());
    let hub = Hub::start(&settings(&world).set("RATE_LIMIT_CAREEM", limit)).await;
    for id in ids("within", 2) {
        good(&world, &hub, GOOD, &id).await.event_id();
    }
    // The limit is reached, but no stranger can make a block of it.
    assert_eq!(bad(&world, &hub, STRANGER).await, 401);
    assert_eq!(listed(&world).await, Vec::<Value>::new());
    assert_eq!(limited(&good(&world, &hub, GOOD, "CR-beyond").await), 300);
    assert_eq!(bad(&world, &hub, STRANGER).await, 429);
    let shown = eventually("the block is stored", PATIENCE, async || {
        listed(&world).await.pop().ok_or("no block")
    });
    let facts = shown.await;
    assert_eq!((&facts["who"], &facts["scope"]), (&json!("careem"), &json!("provider")));
    blocks(&world, &["lift", "careem"]).await.expect_success();
    world.metrics_say(&hub, "blocks_active 0").await;
    world.at_end(Ends::forwarded(2)).await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_of_strangers() {
        const ORDERS: usize = 200;
        let world = World::new().await;
        // Room for the provider's own, and for nothing of what the strangers send.
        let limit = format!("{}/{}", 2 * ORDERS, long_window());
        let hub = Hub::start(&settings(&world).set("RATE_LIMIT_CAREEM", limit)).await;
        provider(&world, &hub, "quiet", ORDERS).await;

        let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        let stranger = async |lane: u32| {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            let mut refused = [0; 2];
            while !enough.load(Ordering::Relaxed) {
                ticks.tick().await;
                let number = u32::try_from(sent.fetch_add(1, Ordering::Relaxed)).unwrap();
                // From ever new addresses, from one again and again, and from where the provider sends.
                let from = match lane % 4 {
                    0 => STRANGER.to_owned(),
                    1 => GOOD.to_owned(),
                    2 => format!("2001:db8:{:x}::1", number % 0xffff),
                    _ => std::net::Ipv4Addr::from(0xc612_0000 + number).to_string(),
                };
                match bad(&world, &hub, &from).await {
                    401 => refused[0] += 1,
                    429 => refused[1] += 1,
                    other => panic!("{other} for a stranger"),
                }
            }
            refused
        };
        let flood = join_all((0..8).map(stranger));
        let order = async {
            provider(&world, &hub, "flooded", ORDERS).await;
            enough.store(true, Ordering::Relaxed);
        };
        let (refused, ()) = tokio::join!(flood, order);
        let (verified, blocked) = refused.iter().fold((0, 0), |sum, one| (sum.0 + one[0], sum.1 + one[1]));
        assert!(verified > 20 && blocked > 20, "{verified} refused, {blocked} blocked");
        let metrics = world.metrics(&hub).await;
        for address in [STRANGER, GOOD, "198.18.", "2001:db8"] {
            assert!(!metrics.contains(address), "{address} is in the metrics");
        }
        world.at_end(Ends::forwarded(2 * ORDERS)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn three_instances_share_a_limit() {
        const POINTS: usize = 600;
        let world = World::new().await;
        let limit = format!("{POINTS}/{}", long_window());
        let hubs = fleet(&world, &settings(&world).set("RATE_LIMIT_CAREEM", limit), 3).await;
        let (next, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // One gets most of it, one next to nothing.
        let share = |number: usize| match number % 10 {
            0 => &hubs[2],
            1 | 2 => &hubs[1],
            _ => &hubs[0],
        };
        let worker = async || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= 2 * POINTS {
                    return;
                }
                let answer = good(&world, share(number), GOOD, &format!("CR-shared-{number}")).await;
                if answer.status == 200 {
                    accepted.fetch_add(1, Ordering::Relaxed);
                } else {
                    limited(&answer);
                }
            }
        };
        join_all((0..8).map(|_| worker())).await;
        let accepted = accepted.into_inner();
        let slack = POINTS / 20;
        assert!(
            (POINTS - slack..=POINTS + slack).contains(&accepted),
            "{accepted} of {POINTS}"
        );
        // All of them know, also the one that took next to nothing.
        for hub in &hubs {
            limited(&good(&world, hub, GOOD, "CR-late").await);
        }
        world.at_end(Ends::forwarded(accepted)).await;
    }
}
