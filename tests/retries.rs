//! Orders that have to wait: parked at their times, in their order, through crashes, and given up by a rule.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::json;
use webhook_hub::{
    delivery::lanes::Lane,
    event::EventType,
    journal::codec::{OrderKey, partition_token},
};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Hub, Settings},
    ids,
    log::payload,
    wait::{PATIENCE, eventually},
};

/// Where news about an order go.
fn status_path(order: &str) -> String {
    format!("{ORDERS}/{order}/status")
}

impl World {
    /// With delays that a test can wait for, and no breaker in the way of what is tested.
    fn impatient(&self, delays: &str) -> Settings {
        self.settings()
            .set("RETRY_DELAYS", delays)
            .set("CIRCUIT_BREAKER_ENABLED", false)
    }

    /// The times of the requests about an order, on this path.
    fn times(&self, path: &str, order: &str) -> Vec<Instant> {
        let requests = self.backend.requests().into_iter();
        requests
            .filter(|request| request.path == path && request.external_order_id() == order)
            .map(|request| request.at)
            .collect()
    }
}

/// Quick attempts, then the schedule, then the dead letter; a later word waits behind, and other orders do not.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_through_the_whole_schedule() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("300ms,1s").set("RETRY_MAX_ATTEMPTS", 3)).await;
    let failures = std::iter::repeat_n(Answer::status(500), 7);
    world.backend.next_for("CR-schedule-0", failures);
    world.post_orders(&hub, ids("schedule", 1)).await;
    world
        .careem
        .post(&hub, &change("CR-schedule-0", "cancelled"))
        .await
        .event_id();
    world.post_orders(&hub, ["CR-other".into()]).await;
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;

    let times = world.times(ORDERS, "CR-schedule-0");
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = [1000, 2000, 4000, 300, 1000, 1000].map(Duration::from_millis);
    assert_eq!(pauses.len(), least.len(), "{pauses:?}");
    for (pause, least) in pauses.iter().zip(least) {
        // A lane may be taken up a bit early; on a busy machine, late.
        assert!(
            *pause + Duration::from_millis(20) >= least && *pause < least + Duration::from_secs(3),
            "{pauses:?}"
        );
    }
    let later = world.times(&status_path("CR-schedule-0"), "CR-schedule-0");
    assert!(later.len() == 1 && later[0] > times[6], "the later word waited behind");
    let other = world.times(ORDERS, "CR-other");
    assert!(other.len() == 1 && other[0] < times[2], "another order did not wait");

    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    assert_eq!(
        (
            &dead["attempts"],
            &dead["retries"],
            &dead["error"]["code"],
            &dead["stage"]
        ),
        (&json!(7), &json!(3), &json!("BACKEND_500"), &json!("forward"))
    );
    let failed = world.log.wait_for(EventType::OrderForwardFailed, 6).await;
    let counted: Vec<_> = failed.iter().map(|event| payload(event)["retries"].clone()).collect();
    assert_eq!(json!(counted), json!([0, 0, 0, 0, 1, 2]));
    let row = world.database.rows("SELECT retry_count, status FROM webhook_logs WHERE webhook_type = 'order_created' AND external_order_id = 'CR-schedule-0'").await.unwrap();
    assert_eq!(row, [json!({ "retry_count": 3, "status": "failed" })]);
}

/// What a `Retry-After` asks for is more than memory holds: parked at once, and taken up at its time after hub and NATS
/// were killed.
#[tokio::test(flavor = "multi_thread")]
async fn parked_time_survives_sigkill_of_hub_and_nats() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1s")).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "12".into())]);
    for id in ids("parked", 3) {
        world.backend.next_for(&id, [wait.clone()]);
    }
    world.post_orders(&hub, ids("parked", 3)).await;
    world.has_parked(3).await;
    for id in ids("parked", 3) {
        world.careem.post(&hub, &change(&id, "cancelled")).await.event_id();
    }
    world.log.wait_for(EventType::OrderTransformed, 6).await;
    hub.kill().await;
    world.nats.server.kill().await.unwrap();
    world.nats.server.restart().await.unwrap();
    let _hub = Hub::start(&world.impatient("1s")).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(6)).await;
    for id in ids("parked", 3) {
        let times = world.times(ORDERS, &id);
        let pause = times[1] - times[0];
        assert!(
            times.len() == 2 && pause >= Duration::from_millis(11_980),
            "{id}: {pause:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_takes_over_what_is_parked() {
    let world = World::new().await;
    let first = Hub::start(&world.impatient("1s")).await;
    world.post_orders(&first, ["CR-known".into()]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    // News about unknown orders are parked at once.
    for id in ids("moved", 20) {
        world.backend.next_for(&id, std::iter::repeat_n(Answer::status(404), 3));
        world.careem.post(&first, &change(&id, "ready")).await.event_id();
    }
    let _second = Hub::start(&world.impatient("1s")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 40).await;
    first.kill().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(21)).await;
    for id in ids("moved", 20) {
        let count = world.times(&status_path(&id), &id).len();
        assert!(
            (4..=5).contains(&count),
            "{id}: {count} requests, of which one may be a repeat after the crash"
        );
    }
}

/// Orders are parked by an instance with another number of partitions, and have news behind them.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_partitions_changes_while_orders_are_parked() {
    let world = World::new().await;
    let first = Hub::start(&world.impatient("4s")).await;
    let parked = ids("repartitioned", 20);
    for id in &parked {
        world.backend.next_for(id, std::iter::repeat_n(Answer::status(503), 4));
    }
    world.post_orders(&first, parked.clone()).await;
    world.has_parked(20).await;
    for id in &parked {
        world.careem.post(&first, &change(id, "ready")).await.event_id();
    }
    assert!(first.terminate().await.0.success());
    let _second = Hub::start(&world.impatient("1s").set("PARTITIONS", PARTITIONS + 3)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(40)).await;
}

/// A word about an order comes before the order: it lets that one pass, and follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_before_its_order() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("500ms")).await;
    world.post_orders(&hub, ["CR-known".into()]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let [early, never] = ["CR-early", "CR-never"];
    for id in [early, never] {
        // Until its order comes; for the one without an order, for ever.
        let unknown = std::iter::repeat_n(Answer::status(404), if id == early { 1 } else { 6 });
        world.backend.next_for(id, unknown);
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.has_parked(2).await;
    world.careem.post(&hub, &change(early, "ready")).await.event_id();
    world.careem.post(&hub, &order(early)).await.event_id();
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
    let requests = world.backend.requests();
    let of_early: Vec<_> = requests
        .iter()
        .filter(|request| request.external_order_id() == early)
        .map(|request| {
            (
                request.path.clone(),
                request.json()["transformedOrder"]["status"].clone(),
            )
        })
        .collect();
    let paths: Vec<_> = of_early.iter().map(|(path, _)| path.as_str()).collect();
    let news = status_path(early);
    assert_eq!(paths, [&news, ORDERS, &news, &news], "{of_early:?}");
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    assert_eq!(
        (&dead["attempts"], &dead["retries"], &dead["error"]["code"]),
        (&json!(6), &json!(2), &json!("BACKEND_404"))
    );
}

/// A word about an order waited because the backend was away, and the order queued behind it; now the backend says that it
/// does not know the order.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_behind_its_own_cancellation() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1h")).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-behind", [away, Answer::status(404)]);
    world
        .careem
        .post(&hub, &change("CR-behind", "cancelled"))
        .await
        .event_id();
    world.has_parked(1).await;
    world.careem.post(&hub, &change("CR-behind", "ready")).await.event_id();
    world.careem.post(&hub, &order("CR-behind")).await.event_id();
    world.at_end(Ends::forwarded(3)).await;
    let requests = world.backend.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    let news = &*status_path("CR-behind");
    assert_eq!(paths, [news, news, ORDERS, news, news]);
    let failed = world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    assert_eq!(payload(&failed[0])["waitsForOrder"], serde_json::Value::Null);
    assert_eq!(payload(&failed[1])["waitsForOrder"], true);
}

/// LANES is emptied while orders wait: the log says which.
#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_are_lost() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1s")).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "15".into())]);
    for id in ids("lost", 5) {
        world.backend.next_for(&id, [wait.clone()]);
    }
    world.post_orders(&hub, ids("lost", 5)).await;
    world.has_parked(5).await;
    for id in ids("lost", 5) {
        world.careem.post(&hub, &change(&id, "cancelled")).await.event_id();
    }
    eventually("the later words wait in the lanes", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting = lanes
            .iter()
            .filter(|lane| lane["waiting"].as_array().is_some_and(|one| one.len() == 1));
        if waiting.count() == 5 { Ok(()) } else { Err(lanes) }
    })
    .await;
    assert!(hub.terminate().await.0.success());
    world
        .nats
        .provision()
        .await
        .get_stream("LANES")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    let hub = Hub::start(&world.impatient("1s")).await;
    world.has_parked(5).await;
    hub.says("lanes made again from the log").await;
    world.at_end(Ends::forwarded(10)).await;
    for id in ids("lost", 5) {
        let times = world.times(ORDERS, &id);
        assert!(
            times.len() == 2 && times[1] - times[0] >= Duration::from_millis(14_980),
            "{id}: its time was kept"
        );
    }
}

/// Too old to be cooked: it is given up when it expires, though the backend asked for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_expires() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1h").set("CAREEM_ORDER_TTL", "2s")).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.always_for("CR-late-0", Some(wait));
    world.post_orders(&hub, ids("late", 1)).await;
    world.at_end(Ends::default().dead_lettered(1)).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    let requests = world.times(ORDERS, "CR-late-0").len();
    assert_eq!(
        (&dead["attempts"], &dead["error"]["code"]),
        (&json!(requests), &json!("ORDER_EXPIRED"))
    );

    // A person may know better.
    world.backend.always_for("CR-late-0", None);
    world.retry_dead_letters().await;
    world.at_end(Ends::forwarded(1)).await;
}

/// The metric says how many wait.
#[tokio::test(flavor = "multi_thread")]
async fn parked_orders_are_visible() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1s")).await;
    let wait = Answer::Say(429, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-seen-0", [wait]);
    world.post_orders(&hub, ids("seen", 1)).await;
    let parked = async |count: u32| {
        let line = format!("retries_parked{{provider=\"careem\"}} {count}");
        world.metrics_say(&hub, &line).await;
    };
    parked(1).await;
    parked(0).await;
    world.at_end(Ends::forwarded(1)).await;
}

/// The hub died during the request of a lane that was due: the lane still says so.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_parked_order_is_tried_again() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("1s")).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-midway-0", [wait, Answer::Hang]);
    world.post_orders(&hub, ids("midway", 1)).await;
    world
        .careem
        .post(&hub, &change("CR-midway-0", "cancelled"))
        .await
        .event_id();
    world.backend.wait_for(2).await;
    hub.kill().await;
    let _hub = Hub::start(&world.impatient("1s")).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.times(ORDERS, "CR-midway-0").len(), 3);
}

/// The outcome was recorded, and an older hub died before its lane ended: what waits behind goes on, and the backend is not
/// asked twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_head_has_its_outcome() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("done", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    assert!(hub.terminate().await.0.success());
    let transformed = world.log.wait_for(EventType::OrderTransformed, 1).await;
    let key = OrderKey::of(&transformed[0]);
    let (head, due_at) = (transformed[0].sequence, transformed[0].envelope.time);
    let lane = Lane::new("careem".into(), head, 4, due_at, false);
    let lanes = jetstream::new(world.nats.connect("hub").await);
    let subject = format!("lane.{}.{key}", partition_token(key.partition(PARTITIONS)));
    let lane = serde_json::to_vec(&lane).unwrap();
    lanes.publish(subject, lane.into()).await.unwrap().await.unwrap();
    world.an_older_hub_takes_the_leases().await;
    let _hub = world.hub().await;
    world.at_end(Ends::forwarded(1)).await;
    assert_eq!(world.backend.count(), 1);
}

/// The backend refused yesterday's order. Today's order of its number waits, and the provider sends yesterday's once more: today's is given no
/// sooner up for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_an_earlier_order_does_not_end_a_later_one() {
    let world = World::new().await;
    let hub = Hub::start(&world.impatient("500ms")).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.next_for("CR-1", [Answer::status(422), away]);
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.log_forgets(&hub).await;
    let another_day = order("CR-1").replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    world.careem.post(&hub, &another_day).await.event_id();
    world.has_parked(1).await;
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    eventually("the repeat waits behind it", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting = lanes.first().and_then(|lane| lane["waiting"].as_array()).map(Vec::len);
        if waiting == Some(1) { Ok(()) } else { Err(lanes) }
    })
    .await;
    world.post_orders(&hub, ids("later", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(world.requests_about("CR-1"), 2, "it is not tried before its time");
    let lane: Lane = serde_json::from_value(world.lanes().await.remove(0)).unwrap();
    assert!(!lane.is_due(chrono::Utc::now()), "{lane:?}");
}

/// The backend refused yesterday's order and today's with its number, and both are retried. It cannot take yesterday's now. Today's does not wait for
/// that.
#[tokio::test(flavor = "multi_thread")]
async fn todays_retried_order_does_not_wait_for_yesterdays() {
    let world = World::new().await;
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings.set("RETRY_DELAYS", "1h")).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    let refused = Answer::status(422);
    world
        .backend
        .next_for("CR-1", [refused.clone(), refused, away.clone(), away]);
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    let todays = order("CR-1").replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    world.careem.post(&hub, &todays).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}
