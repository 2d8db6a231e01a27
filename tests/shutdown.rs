//! The hub stops at SIGTERM, and finishes the work in memory.

use std::{
    collections::HashMap,
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use webhook_hub::{
    config,
    delivery::stage::{self, Stage},
    event::{
        EventType, NewEvent, Recorded,
        stage::{FORWARD, StageInfo},
    },
    journal::{
        Journal,
        connection::{Connection, HUB_INBOX},
    },
    retry::Failure,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::Hub,
    ids,
    raw::{Raw, request},
    wait::{PATIENCE, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load() {
    let world = World::new().await;
    world.backend.takes(Duration::from_millis(20));
    let settings = world.settings_on_fixed_port().set("SHUTDOWN_GRACE", "10s");
    let hub = Hub::start(&settings).await;
    let (url, orders, accepted) = (world.fixed_url(), ids("drain", 200), AtomicUsize::new(0));
    let lanes: Vec<_> = orders.chunks(20).collect();
    let delivering = join_all(lanes.into_iter().map(async |lane| {
        for id in lane {
            world.careem.deliver(&url, &order(id)).await;
            accepted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let stopping = async {
        eventually("some are accepted", PATIENCE, async || {
            let count = accepted.load(Ordering::Relaxed);
            if count >= 60 { Ok(()) } else { Err(count) }
        })
        .await;
        let (status, took) = hub.terminate().await;
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(10), "{took:?}");
        // Nothing was in hand any more: all that it had begun has its outcome.
        let seen: Vec<_> = world
            .backend
            .requests()
            .iter()
            .map(|request| request.key().to_owned())
            .collect();
        let events = world.log.events().await;
        let transformed = |event: &&Arc<Recorded>| event.envelope.event_type == EventType::OrderTransformed;
        let ids: HashMap<_, _> = events
            .iter()
            .filter(transformed)
            .map(|event| (event.envelope.request_key().to_string(), event.envelope.id.to_string()))
            .collect();
        let seen = seen.iter().map(|key| ids[key].clone());
        let outcomes = events.iter().filter_map(|event| {
            event
                .envelope
                .event_type
                .ends()
                .then_some(event.envelope.cause_id?.to_string())
        });
        let outcomes: Vec<_> = outcomes.collect();
        let open: Vec<_> = seen.filter(|id| !outcomes.contains(id)).collect();
        assert!(
            open.is_empty(),
            "the backend got them but the log does not know: {open:?}"
        );
        Hub::start(&settings).await
    };
    let (_delivered, _hub) = tokio::join!(delivering, stopping);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(200)).await;
    assert_eq!(world.backend.count(), 200, "none was sent twice");
}

/// A backend that hangs, and still SIGTERM ends the hub in time.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_the_backend_hangs() {
    let world = World::new().await;
    world.backend.hold();
    let settings = world
        .settings_on_fixed_port()
        .set("SHUTDOWN_GRACE", "2s")
        .set("BACKEND_TIMEOUT", "60s");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("hanging", 1)).await;
    world.backend.wait_for(1).await;
    let (status, took) = hub.terminate().await;
    assert!(took < Duration::from_secs(4), "{status} after {took:?}");
    world.backend.release();
    let _hub = Hub::start(&settings).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1)).await;
}

/// For `SHUTDOWN_DELAY` it is not ready, takes what comes all the same, and each answer ends its connection; a second signal
/// ends that time.
#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_it_serves_for_shutdown_delay() {
    let world = World::new().await;
    let mut hub = Hub::start(&world.settings().set("SHUTDOWN_DELAY", "300s")).await;
    let ready = format!("{}/health/ready", hub.url());
    // A hub that gets SIGTERM while it starts begins no stage.
    eventually("it is ready, and has begun", PATIENCE, async || {
        match world.careem.request(Method::GET, &ready).await.status {
            200 if hub.logs_contain("\"serving\"") => Ok(()),
            status => Err(status),
        }
    })
    .await;
    let mut kept = Raw::connect(hub.address()).await;
    kept.write(request("GET", "/health/ready", &[], "")).await;
    let before = kept.answer().await.unwrap();
    assert!(
        before.status == 200 && !before.head.to_lowercase().contains("connection: close"),
        "{before:?}"
    );
    hub.tell_to_stop().await;
    eventually("it is not ready any more", PATIENCE, async || {
        let answer = world.careem.request(Method::GET, &ready).await;
        let said = (answer.status, answer.json()["stopping"].clone());
        if said == (503, json!(true)) { Ok(()) } else { Err(said) }
    })
    .await;
    // A connection from before, and a new one.
    kept.write(request("GET", "/health/live", &[], "")).await;
    let last = kept.answer().await.unwrap();
    assert!(
        last.status == 200 && last.head.to_lowercase().contains("connection: close"),
        "{last:?}"
    );
    assert!(kept.is_closed().await);
    let answer = world.careem.post(&hub, &order("CR-late")).await;
    answer.event_id();
    assert_eq!(answer.header("connection"), "close", "{answer:?}");
    world.at_end(Ends::forwarded(1)).await;
    hub.tell_to_stop().await;
    assert_eq!(hub.wait_exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_before_nats_is_there() {
    let world = World::new().await;
    world.nats.server.stop().await.unwrap();
    let hub = world.hub().await;
    let (status, took) = hub.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A stage that waits for the memory of orders, which has ended with the hub: it never knows what is on the log.
#[derive(Default)]
struct WithoutMemory {
    waits: Notify,
}

impl Stage for WithoutMemory {
    const INFO: StageInfo = FORWARD;

    async fn ready(&self) {}

    fn is_ready(&self) -> bool {
        true
    }

    async fn catches_up(&self) -> anyhow::Result<()> {
        self.waits.notify_one();
        future::pending().await
    }

    async fn handle(&self, event: &Recorded, _: u32) -> Result<Vec<NewEvent>, Failure> {
        panic!("event {} before the log was read", event.sequence)
    }
}

/// A takeover ends when the hub stops, whatever it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_during_a_takeover() {
    let world = World::new().await;
    let environment = world.settings().environment();
    let settings = config::Nats::from_environment(&environment).unwrap();
    let connection = Arc::new(Connection::open(&settings, "test", HUB_INBOX).await.unwrap());
    let format = config::EventLog::from_environment(&environment).unwrap();
    let (journal, writer) = Journal::open(connection, format);
    let writing = tokio::spawn(writer.run());
    let (waiting, stop) = (Arc::new(WithoutMemory::default()), CancellationToken::new());
    let takeover = stage::run(Arc::clone(&waiting), journal, Duration::from_secs(10), stop.clone());
    let takeover = tokio::spawn(takeover);
    let waits = tokio::time::timeout(PATIENCE, waiting.waits.notified()).await;
    waits.expect("the stage is taken over");
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, takeover).await;
    ended.expect("the takeover ends with the hub").unwrap().unwrap();
    writing.abort();
}
