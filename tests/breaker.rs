//! The circuit breaker of several instances is one: all show what the one that works finds, and who takes over goes on
//! with it. Open, it costs no order an attempt and leaves what comes on the log.

use std::time::{Duration, Instant};

use async_nats::{Event, ServerError, Subscriber};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use webhook_hub::event::EventType;

use crate::harness::{
    SERVICE_TOKEN, World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{self, order},
    hub::{Hub, Settings},
    ids,
    log::payload,
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

/// How soon every instance must know.
const SOON: Duration = Duration::from_secs(1);
/// The subject of reports to instances and subscribers.
const SUBJECT: &str = "hub.breaker";

fn settings(world: &World, reset: Duration) -> Settings {
    world
        .settings()
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", format!("{}ms", reset.as_millis()))
}

/// Waits for a line of the hub's log.
async fn logs(hub: &Hub, what: &str, test: impl Fn(&Value) -> bool) {
    eventually(&format!("the log says: {what}"), PATIENCE, async || {
        let log = hub.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if lines.any(|line| test(&line)) { Ok(()) } else { Err(()) }
    })
    .await;
}

/// Waits until it is the one that forwards.
async fn works(hub: &Hub) {
    logs(hub, "it forwards", |line| {
        line["message"] == "working" && line["metadata"]["stage"] == "forward"
    })
    .await;
}

/// Starts a hub and waits until it stands by, or works if no other instance does.
async fn start(settings: &Settings) -> Hub {
    let hub = Hub::start(settings).await;
    logs(&hub, "it serves", |line| line["message"] == "serving").await;
    hub
}

/// Waits until health and metrics of a hub agree on the state; returns what health says.
async fn says(world: &World, hub: &Hub, state: &str, within: Duration) -> Value {
    let metric = format!("circuit_breaker_state{{state=\"{state}\"}} 1");
    eventually(&format!("the breaker is {state}"), within, async || {
        let health = world.breaker(hub).await;
        let metrics = world.metrics(hub).await;
        if health["state"] == state && metrics.lines().any(|line| line == metric) {
            return Ok(health);
        }
        let shown = metrics.lines().filter(|line| line.starts_with("circuit_breaker_state"));
        Err((health, shown.map(str::to_owned).collect::<Vec<_>>()))
    })
    .await
}

/// The next message that is a change, no repeat.
async fn change(subscription: &mut Subscriber) -> Value {
    let next = async {
        loop {
            let message = subscription.next().await.expect("the subscription stands");
            let said: Value = serde_json::from_slice(&message.payload).unwrap();
            assert!(!said.to_string().contains(SERVICE_TOKEN), "{said}");
            if said["repeat"] == false {
                return said;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a change is said")
}

/// Every order was forwarded at its first attempt: what was refused before was none.
async fn first_attempts(world: &World, count: usize) {
    for event in world.log.wait_for(EventType::OrderForwarded, count).await {
        let payload: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(payload["attempts"], 1, "{payload}");
    }
    let events = world.log.events().await;
    let mut types = events.iter().map(|event| event.envelope.event_type);
    assert!(types.all(|one| one != EventType::OrderForwardFailed));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_show_its_state_within_a_second() {
    let world = World::new().await;
    let listener = world.nats.connect("subscriber").await;
    let mut changes = listener.subscribe(SUBJECT).await.unwrap();
    listener.flush().await.unwrap();
    let settings = settings(&world, Duration::from_secs(3));
    let at_work = start(&settings).await;
    works(&at_work).await;
    let stands_by = start(&settings).await;

    world.backend.otherwise(Answer::status(503));
    world.post_orders(&stands_by, ids("shared", 8)).await;
    let said = says(&world, &at_work, "open", PATIENCE).await;
    assert_eq!(says(&world, &stands_by, "open", SOON).await["reason"], said["reason"]);
    let open = change(&mut changes).await;
    assert_eq!(
        (&open["state"], &open["reason"]),
        (&json!("open"), &json!("5 requests in a row failed"))
    );
    let remaining = open["remainingMs"].as_u64().unwrap();
    assert!((2_000..=3_000).contains(&remaining), "{open}");

    world.backend.otherwise(Answer::Accept);
    says(&world, &at_work, "closed", PATIENCE).await;
    assert_eq!(says(&world, &stands_by, "closed", SOON).await["reason"], Value::Null);
    for state in ["half_open", "closed"] {
        let said = change(&mut changes).await;
        assert_eq!((&said["state"], &said["remainingMs"]), (&json!(state), &json!(0)));
        assert_eq!(said["instance"], open["instance"], "who stands by says nothing");
    }
    world.at_end(Ends::forwarded(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_takes_over_starts_with_its_state() {
    const RESET: Duration = Duration::from_secs(10);
    let world = World::new().await;
    let settings = settings(&world, RESET);
    let at_work = start(&settings).await;
    works(&at_work).await;
    let stands_by = start(&settings).await;

    world.backend.otherwise(Answer::status(401));
    world.post_orders(&at_work, ids("first", 1)).await;
    says(&world, &at_work, "open", PATIENCE).await;
    says(&world, &stands_by, "open", SOON).await;
    // One that asked too soon would now be heard.
    world.backend.otherwise(Answer::Accept);
    world.post_orders(&at_work, ids("waiting", 2)).await;
    at_work.kill().await;
    works(&stands_by).await;
    let taken_over = Instant::now();
    world.post_orders(&stands_by, ids("after", 1)).await;
    world.log.wait_for(EventType::OrderTransformed, 4).await;
    let health = world.breaker(&stands_by).await;
    assert_eq!(health["state"], "open", "{health}");
    assert!(health["reason"].as_str().unwrap().contains("SERVICE_TOKEN"), "{health}");

    let requests = world.backend.wait_for(2).await;
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= RESET, "left alone for {pause:?} only");
    assert!(taken_over < requests[0].at + RESET, "taken over too late to tell");
    says(&world, &stands_by, "closed", PATIENCE).await;
    first_attempts(&world, 4).await;
    assert_eq!(world.backend.count(), 5, "the refused one, and each order once");
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
}

/// An instance that starts late, and one that heard nothing for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_missed_report_is_repeated() {
    let world = World::new().await;
    let settings = settings(&world, Duration::from_secs(3));
    let at_work = start(&settings).await;
    works(&at_work).await;
    world.backend.otherwise(Answer::status(401));
    world.post_orders(&at_work, ids("missed", 4)).await;
    says(&world, &at_work, "open", PATIENCE).await;

    let wire = Proxy::to(([127, 0, 0, 1], world.nats.server.port()).into());
    let late = start(&settings.set("NATS_URL", format!("nats://{}", wire.address()))).await;
    eventually("the newcomer knows", SOON, async || {
        // The backend refuses each trial, so it may be half-open at times.
        let health = world.breaker(&late).await;
        if health["state"] == "closed" {
            Err(health)
        } else {
            Ok(())
        }
    })
    .await;
    wire.cut();
    logs(&late, "the wire is cut", |line| {
        line["message"]
            .as_str()
            .unwrap_or_default()
            .contains("lost the connection to NATS")
    })
    .await;
    world.backend.otherwise(Answer::Accept);
    says(&world, &at_work, "closed", PATIENCE).await;
    let health = world.breaker(&late).await;
    assert_ne!(health["state"], "closed", "it cannot know: {health}");
    wire.heal();
    says(&world, &late, "closed", PATIENCE).await;
    world.at_end(Ends::forwarded(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_open_nothing_is_pulled_and_no_attempt_counts() {
    let world = World::new().await;
    // Longer than this part of the test.
    let hub = start(&settings(&world, Duration::from_secs(60))).await;
    works(&hub).await;
    world.backend.otherwise(Answer::status(401));
    world.post_orders(&hub, ids("refused", 1)).await;
    says(&world, &hub, "open", PATIENCE).await;
    let stream = world.nats.provision().await.get_stream("EVENTS").await.unwrap();
    let consumer = async || stream.consumer_info("forward").await.map_err(|error| error.to_string());
    // The request that stands from before it opened runs out, and no other follows.
    eventually("no request for messages stands", PATIENCE, async || {
        let info = consumer().await?;
        if info.num_waiting == 0 {
            Ok(())
        } else {
            Err(format!("{info:?}"))
        }
    })
    .await;
    world.post_orders(&hub, ids("waiting", 10)).await;
    world.log.wait_for(EventType::OrderTransformed, 11).await;
    let info = consumer().await.unwrap();
    assert_eq!((info.num_waiting, info.num_pending), (0, 10), "{info:?}");
    assert_eq!(world.backend.count(), 1);
    assert_eq!(world.breaker(&hub).await["state"], "open");

    // An operator corrects the set-up and restarts it.
    hub.kill().await;
    world.backend.otherwise(Answer::Accept);
    let _hub = world.hub().await;
    first_attempts(&world, 11).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(11)).await;
}

/// Subscribers may not receive the instances' other messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_may_receive_its_reports_and_no_more() {
    let world = World::new().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let options = world.nats.options("subscriber").event_callback(move |event| {
        let tell = tell.clone();
        async move {
            if let Event::ServerError(ServerError::Other(reason)) = event {
                tell.send(reason).unwrap();
            }
        }
    });
    let client = options.connect(world.nats.server.url()).await.unwrap();
    let mut subscriptions = Vec::new();
    for subject in ["hub.>", "hub.*", "hub.lease.forward"] {
        subscriptions.push(client.subscribe(subject).await.unwrap());
        let reason = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert!(reason.to_lowercase().contains(&format!("\"{subject}\"")), "{reason}");
    }
    // Nor may it tell a hub anything.
    client.publish(SUBJECT, "{}".into()).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert!(reason.to_lowercase().contains("publish"), "{reason}");
    let hub = world.hub().await;
    world.post_orders(&hub, ids("quiet", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
}

/// Five requests hang, and while they do the backend answers others: it is there, whatever their order of ending says.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_requests_before_an_answered_one_do_not_open_it() {
    let world = World::new().await;
    let hub = start(&settings(&world, Duration::from_secs(60)).set("BACKEND_TIMEOUT", "2s")).await;
    works(&hub).await;
    for id in ids("hang", 5) {
        world.backend.next_for(&id, [Answer::Hang]);
    }
    world.post_orders(&hub, ids("hang", 5)).await;
    world.backend.wait_for(5).await;
    world.post_orders(&hub, ids("fine", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log.wait_for(EventType::OrderForwardFailed, 5).await;
    let health = world.breaker(&hub).await;
    assert_eq!(health["state"], "closed", "{health}");
    world.at_end(Ends::forwarded(6)).await;
}

/// Never five in a row, and yet two of three fail: their share opens it.
#[tokio::test(flavor = "multi_thread")]
async fn it_opens_when_most_requests_fail() {
    let world = World::new().await;
    let one_at_a_time = settings(&world, Duration::from_secs(60)).set("BACKEND_MAX_REQUESTS", 1);
    let hub = start(&one_at_a_time).await;
    works(&hub).await;
    let pattern = (0..90).map(|at| {
        if at % 3 == 2 {
            Answer::Accept
        } else {
            Answer::status(503)
        }
    });
    world.backend.next(pattern);
    world.post_orders(&hub, ids("share", 40)).await;
    let open = says(&world, &hub, "open", PATIENCE).await;
    let reason = open["reason"].as_str().unwrap();
    assert!(
        reason.contains("of the last") && reason.contains("requests failed"),
        "{reason}"
    );
    let count = world.backend.count();
    assert!((20..=30).contains(&count), "{count} requests before it opened");
}

/// Requests that hang at SIGTERM fail during the drain. The next instance begins with a closed breaker.
#[tokio::test(flavor = "multi_thread")]
async fn failures_during_a_drain_open_no_breaker() {
    let world = World::new().await;
    let settings = settings(&world, Duration::from_secs(60)).set("BACKEND_TIMEOUT", "3s");
    let at_work = start(&settings).await;
    works(&at_work).await;
    let stands_by = start(&settings).await;
    for id in ids("hang", 6) {
        world.backend.next_for(&id, [Answer::Hang]);
    }
    world.post_orders(&stands_by, ids("hang", 6)).await;
    world.backend.wait_for(6).await;
    let said = at_work.transcript();
    assert!(at_work.terminate().await.0.success());
    assert!(!said.text().contains("circuit breaker open"), "{}", said.text());
    works(&stands_by).await;
    says(&world, &stands_by, "closed", PATIENCE).await;
    world.post_orders(&stands_by, ids("after", 2)).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(8)).await;
}

/// An order that was parked before the breaker opened is a trial in one half-open window after the other. Those trials count
/// for nothing: when the backend is back, the order waits for its first delay, not for the next ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_costs_a_parked_order_no_attempt() {
    /// Four quick attempts, and the retry that opens the breaker.
    const COUNTED: u64 = 5;
    const TRIALS: usize = 3;
    let world = World::new().await;
    let settings = settings(&world, Duration::from_millis(200)).set("RETRY_DELAYS", "1s,1s,1h");
    let hub = start(&settings).await;
    works(&hub).await;
    world.backend.by_rule(Some(Box::new(|_, _| Answer::status(503))));
    world.post_orders(&hub, ids("trial", 1)).await;
    let trials = eventually("three trials of the parked order fail", PATIENCE, async || {
        let events = world.log.events().await;
        let failed = events
            .iter()
            .filter(|event| event.envelope.event_type == EventType::OrderForwardFailed);
        let attempts: Vec<_> = failed.map(|event| payload(event)["attempt"].as_u64()).collect();
        let trials = attempts.iter().filter(|attempt| **attempt == Some(COUNTED)).count();
        if trials > TRIALS { Ok(trials - 1) } else { Err(attempts) }
    })
    .await;
    world.backend.by_rule(None);
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(payload(&forwarded[0])["attempts"], COUNTED + 1, "after {trials} trials");
    world.at_end(Ends::forwarded(1)).await;
}

/// 50 orders of one branch are answered 500. That is this branch's trouble: orders of another one are forwarded meanwhile, and
/// those of the first one, in their order, when the backend can take them.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_the_backend_fails_for_waits_alone() {
    const BAD: usize = 50;
    const GOOD: usize = 5;
    /// Longer than the good orders are waited for.
    const RESET: Duration = Duration::from_secs(60);
    let world = World::new().await;
    let other = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
                 VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";
    world.database.run(other).await.unwrap();
    let patient = settings(&world, RESET).set("RETRY_DELAYS", "1s");
    let at_work = start(&patient).await;
    works(&at_work).await;
    let stands_by = start(&patient).await;
    for id in ids("bad", BAD) {
        world.backend.always_for(&id, Some(Answer::status(500)));
    }
    world.post_orders(&at_work, ids("bad", BAD)).await;
    // No other branch has an order yet.
    says(&world, &at_work, "open", PATIENCE).await;
    for id in ids("good", GOOD) {
        world.post_as(&at_work, "merchant-2", &order(&id)).await;
        eventually("an order of another branch is forwarded", PATIENCE, async || {
            let requests = world.backend.requests();
            let is_there = requests.iter().any(|request| request.external_order_id() == id);
            if is_there { Ok(()) } else { Err(requests.len()) }
        })
        .await;
    }
    for hub in [&at_work, &stands_by] {
        says(&world, hub, "closed", PATIENCE).await;
        eventually("the failing branch is counted", PATIENCE, async || {
            let metrics = world.metrics(hub).await;
            let is_counted = metrics.contains("circuit_breaker_failing_branches 1");
            if is_counted { Ok(()) } else { Err(metrics) }
        })
        .await;
    }
    let forwarded = world.log.wait_for(EventType::OrderForwarded, GOOD).await;
    assert_eq!(forwarded.len(), GOOD);
    at_work.says("the backend fails for this branch").await;

    // Later words about its orders wait behind them.
    world
        .careem
        .post(&stands_by, &careem::change("CR-bad-7", "cancelled"))
        .await
        .event_id();
    at_work.kill().await;
    works(&stands_by).await;
    for id in ids("bad", BAD) {
        world.backend.always_for(&id, None);
    }
    stands_by.terminate().await;
    let _hub = start(&settings(&world, Duration::from_secs(1))).await;
    // What the first instance had taken is on the log; the server still waits for its acknowledgements.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(BAD + GOOD + 1)).await;
    let requests = world.backend.requests();
    let of_one = requests.iter().filter(|request| {
        request.path.contains("CR-bad-7") || request.path == ORDERS && request.external_order_id() == "CR-bad-7"
    });
    let paths: Vec<_> = of_one.map(|request| request.path.as_str()).collect();
    let (last, before) = paths.split_last().unwrap();
    assert_eq!(*last, "/api/integration/orders/CR-bad-7/status");
    assert!(before.iter().all(|path| *path == ORDERS), "{paths:?}");
}

/// Yesterday's order, which is tried at once for today's with its number, fails in a trial. When the backend is well again, both go, and today's does
/// not wait for the next attempt of yesterday's.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_does_not_sleep_after_a_trial_of_yesterdays() {
    const OTHERS: usize = 8;
    let world = World::new().await;
    let settings = settings(&world, SOON)
        .set("RETRY_DELAYS", "1h")
        .set("RETRY_MAX_ATTEMPTS", 50)
        .set("HUB_TEST_TIMES", "look_at_lane_again=1s");
    let hub = start(&settings).await;
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.has_parked(1).await;
    let before = world.requests_about("CR-1");
    world.backend.otherwise(Answer::status(503));
    world.post_orders(&hub, ids("other", OTHERS)).await;
    world.breaker_becomes(&hub, "open").await;
    let todays = order("CR-1").replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    world.careem.post(&hub, &todays).await.event_id();
    eventually("yesterday's is tried", PATIENCE, async || {
        let now = world.requests_about("CR-1");
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    world.backend.otherwise(Answer::Accept);
    world.backend.always_for("CR-1", None);
    eventually("today's order is judged", PATIENCE, async || {
        let events = world.log.events().await;
        let mut ends = events
            .iter()
            .filter(|event| event.envelope.event_type == EventType::OrderIgnored);
        if ends.any(|event| event.envelope.external_order_id == "CR-1") {
            Ok(())
        } else {
            Err(world.lanes().await)
        }
    })
    .await;
    hub.kill().await;
}
