//! Floods: connections that send nothing, bodies that do not end, packed bodies that cost much to verify. Honest webhooks come
//! meanwhile, from an address of their own and from the attacker's, and none of them is lost.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Method;
use tokio::{net::TcpStream, task::JoinSet};

use super::{PATH, Siege, good, signed};
use crate::harness::{
    outside::{CAREEM_POS, Outside, send},
    packed::gzip,
    raw::{Raw, RawAnswer, request},
    wait::{PATIENCE, POLL, eventually, heavy},
};

/// Connections of a flood: more than the hub holds.
pub(super) const FLOOD: usize = 4200;
/// Honest webhooks of a measurement.
const HONEST: usize = 60;
/// How many times slower than without an attack honest webhooks may be answered. Two cores run the attack, the hub, NATS and
/// PostgreSQL; a webhook that waits for an attacker's time-out takes a thousand times as long.
const SLOWER: u32 = 40;
/// What counts as the time without an attack at least: a log in memory answers in less than the cores need for an attacker.
const AT_LEAST: Duration = Duration::from_millis(25);

pub(super) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
pub(super) const PROVIDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
pub(super) const NEWCOMER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));

/// The addresses of a crowd.
pub(super) fn crowd(count: u16) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|number| {
        let [high, low] = number.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 1, high, low))
    })
}

impl Siege {
    /// Sends honest webhooks from this address, one after another, each on a new connection; returns the slowest but for one
    /// in ten. All of them must be accepted.
    pub(super) async fn honest(&self, from: IpAddr, meanwhile: &str) -> Duration {
        let mut times = Vec::new();
        for _ in 0..HONEST {
            let began = Instant::now();
            let answer = self.send_good(from).await;
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status, Some(200), "{from}, {meanwhile}: {answer:?}");
            times.push(began.elapsed());
        }
        times.sort();
        times[HONEST - 1 - HONEST / 10]
    }

    /// Sends an honest webhook from this address.
    pub(super) async fn send_good(&self, from: IpAddr) -> Option<RawAnswer> {
        let mut client = Raw::connect_from(from, self.hub.address()).await;
        client.write(good(&self.next())).await;
        client.answer().await
    }

    pub(super) async fn is_as_quick(&self, from: IpAddr, before: Duration, meanwhile: &str) {
        let now = self.honest(from, meanwhile).await;
        assert!(
            now < before.max(AT_LEAST) * SLOWER,
            "{from}, {meanwhile}: {now:?}, before it {before:?}"
        );
    }
}

/// Connections that are opened again as they end, each with one byte, until they are stopped.
struct Flood {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    async fn of(siege: &Siege, addresses: impl Iterator<Item = IpAddr>) -> Self {
        let (hub, stop) = (siege.hub.address(), Arc::new(AtomicBool::new(false)));
        let opened = join_all(addresses.map(async |from| {
            let stream = Raw::<TcpStream>::try_connect_from(from, hub).await;
            if let Ok(stream) = &stream {
                let _ = stream.try_write(b"P");
            }
            (from, stream)
        }))
        .await;
        let mut tasks = JoinSet::new();
        for (from, stream) in opened {
            let stop = Arc::clone(&stop);
            tasks.spawn(async move {
                let mut open = stream.ok();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(stream) = open.take() {
                        // Nothing is ever answered, so it is readable when the hub has ended it.
                        let _ = stream.readable().await;
                    }
                    tokio::time::sleep(50 * POLL).await;
                    open = Raw::<TcpStream>::try_connect_from(from, hub).await.ok();
                    if let Some(stream) = &open {
                        let _ = stream.try_write(b"P");
                    }
                }
            });
        }
        Self { tasks, stop }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.abort_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address() {
    let _turn = heavy().await;
    let siege = Siege::new().await;
    let before = siege.honest(PROVIDER, "before").await;
    let flood = Flood::of(&siege, std::iter::repeat_n(STRANGER, FLOOD)).await;
    for from in [PROVIDER, NEWCOMER, STRANGER] {
        siege.is_as_quick(from, before, "4,200 connections of 127.0.0.2").await;
    }
    let ready = format!("{}/health/ready", siege.hub.private_url());
    let ready = siege.world.careem.request(Method::GET, &ready).await;
    assert_eq!(ready.status, 200, "{ready:?}");
    let metrics = siege.world.metrics(&siege.hub).await;
    let refused: f64 = sum(&metrics, "connections_refused_total");
    assert!(refused >= 500.0, "{refused} refused\n{metrics}");
    let open = sum(&metrics, "connections_open");
    assert!((1.0..=4096.0).contains(&open), "{open} open");
    siege.hub.says("connections are refused").await;
    flood.end();
    siege.stands("a flood of connections").await;
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_thousand_addresses() {
    let _turn = heavy().await;
    let siege = Siege::new().await;
    let before = siege.honest(PROVIDER, "before").await;
    let addresses: Vec<IpAddr> = crowd(1050).collect();
    // One of the crowd is an address that honest webhooks come from.
    siege.honest(addresses[7], "before").await;
    let flood = Flood::of(&siege, addresses.iter().copied().cycle().take(FLOOD)).await;
    for from in [PROVIDER, addresses[7], NEWCOMER] {
        siege
            .is_as_quick(from, before, "4,200 connections of 1,050 addresses")
            .await;
    }
    flood.end();
    siege.stands("a flood of connections").await;
    siege.ends().await;
}

/// The sum of a metric over all labels.
pub(super) fn sum(metrics: &str, name: &str) -> f64 {
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_it = series == name || series.starts_with(&format!("{name}{{"));
        is_it.then(|| value.parse::<f64>().ok()).flatten()
    };
    metrics.lines().filter_map(of).sum()
}

/// Bodies that are all there but for their end fill the room for bodies; who holds most of it loses it first, and is blocked.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_end() {
    let _turn = heavy().await;
    const BODY: usize = 1024 * 1024;
    let outside = Outside::new(CAREEM_POS).await;
    let settings = outside.settings().set("RATE_LIMIT_ADDRESS", "30/60s/600s");
    let hub = crate::harness::hub::Hub::start(&settings).await;
    let siege = Siege {
        world: outside.world,
        hub,
        good: 0.into(),
    };
    let before = siege.honest(PROVIDER, "before").await;
    let whole = request("POST", PATH, &[], &"x".repeat(BODY));
    let unfinished = async |from: IpAddr| {
        let mut client = Raw::connect_from(from, siege.hub.address()).await;
        client.write(&whole[..whole.len() - 1]).await;
        client
    };
    let fill = async || {
        let all = std::iter::repeat_n(STRANGER, 40).chain(std::iter::repeat_n(PROVIDER, 20));
        join_all(all.map(unfinished)).await
    };
    let flood = fill().await;
    for from in [PROVIDER, NEWCOMER] {
        siege.is_as_quick(from, before, "unfinished bodies").await;
    }
    let body = r#"{"status":"accepted","branchId":"branch-uuid"}"#;
    for number in 0..10 {
        let path = format!("orders/careem/CR-good-{number}/status");
        let answer = send(&siege.hub, Method::POST, &path, body, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // More of the same: the stranger is blocked, the known address is not.
    let more = fill().await;
    eventually("the stranger is blocked", PATIENCE, async || {
        let mut client = Raw::connect_from(STRANGER, siege.hub.address()).await;
        client.write(request("POST", PATH, &[], "{}")).await;
        match client.answer().await.map(|answer| answer.status) {
            Some(429) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    siege.honest(PROVIDER, "unfinished bodies").await;
    let metrics = siege.world.metrics(&siege.hub).await;
    assert!(sum(&metrics, "bodies_refused_total") >= 30.0, "{metrics}");
    drop((flood, more));
    siege.stands("unfinished bodies").await;
}

/// A body has to come at a least rate once a grace is over; that is long before the time for a whole body.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_trickle() {
    let _turn = heavy().await;
    let siege = Siege::with(&[("HUB_TEST_TIMES", "body_grace=500ms")]).await;
    let began = Instant::now();
    let mut client = Raw::connect(siege.hub.address()).await;
    client
        .write(format!(
            "POST {PATH} HTTP/1.1\r\nHost: hub\r\nContent-Length: 5000\r\n\r\n"
        ))
        .await;
    let answer = loop {
        match tokio::time::timeout(5 * POLL, client.answer()).await {
            Ok(answer) => break answer.expect("an answer"),
            Err(_) => drop(client.write("x").await),
        }
    };
    assert_eq!((answer.status, answer.code().as_str()), (408, "REQUEST_TIMEOUT"));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    siege.stands("a body that trickles").await;
    siege.ends().await;
}

/// Five KB of gzip that unpack to five MB, which eight secrets would be tried with; and as much without any packing.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_expensive_to_verify() {
    let _turn = heavy().await;
    let secrets = format!("{},a,b,c,d,e,f,g", crate::harness::careem::SECRET);
    let siege = Siege::with(&[("CAREEM_WEBHOOK_SECRET", &secrets), ("RATE_LIMIT_ENABLED", "false")]).await;
    let before = siege.honest(PROVIDER, "before").await;
    let packed = gzip(&vec![b' '; 5_000_000]);
    assert!(packed.len() < 6000);
    let head = |encoding: &str, length: usize| {
        let signature = signed("{}").join("\r\n");
        format!("POST {PATH} HTTP/1.1\r\nHost: hub\r\n{signature}\r\n{encoding}Content-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    let bomb = [head("Content-Encoding: gzip\r\n", packed.len()), packed].concat();
    assert_eq!(siege.told(&bomb).await, (413, "PAYLOAD_TOO_LARGE".to_owned()));
    let large = [head("", 4_000_000), vec![b' '; 4_000_000]].concat();
    let (bomb, large, stop) = (Arc::new(bomb), Arc::new(large), Arc::new(AtomicBool::new(false)));
    let mut attackers = JoinSet::new();
    for number in 0..12 {
        let (hub, stop) = (siege.hub.address(), Arc::clone(&stop));
        let bytes = Arc::clone(if number < 4 { &large } else { &bomb });
        attackers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let mut client = Raw::connect_from(STRANGER, hub).await;
                client.write(&*bytes).await;
                let _ = client.answer().await;
            }
        });
    }
    siege
        .is_as_quick(PROVIDER, before, "bodies that are dear to verify")
        .await;
    siege
        .is_as_quick(NEWCOMER, before, "bodies that are dear to verify")
        .await;
    stop.store(true, Ordering::Relaxed);
    while attackers.join_next().await.is_some() {}
    siege.stands("bodies that are dear to verify").await;
    siege.ends().await;
}
