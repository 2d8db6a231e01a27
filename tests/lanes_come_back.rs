//! `LANES` does not hold what was left there: what has its outcome is not asked about again, and what waits is not lost.

use async_nats::jetstream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use webhook_hub::event::EventType;

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::{Answer, ORDERS},
        careem::change,
        copies::StreamCopy,
        hub::Hub,
        ids,
        log::Log,
        wait::{PATIENCE, eventually},
    },
    takeover::floor_is_at_the_end,
};

/// Waits until nothing is left of lanes that ended, and writes enough behind it that the server does not find the end of the
/// stream where it was.
async fn marks_are_gone(world: &World) {
    let lanes = world.nats.provision().await.get_stream("LANES").await.unwrap();
    eventually("the marks of ended lanes are gone", PATIENCE, async || {
        let subjects = lanes.info_with_subjects("lane.*.*").await.unwrap();
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
        let is_key = |subject: &str| subject.rsplit('.').next().is_some_and(|key| key.len() == 32);
        let marks: Vec<_> = subjects.into_iter().filter(|(subject, _)| is_key(subject)).collect();
        if marks.is_empty() { Ok(()) } else { Err(marks) }
    })
    .await;
    let hub = jetstream::new(world.nats.connect("hub").await);
    for _ in 0..50 {
        let written = hub.publish("lane.forward.fence", "1".into()).await.unwrap();
        written.await.unwrap();
    }
}

/// Where NATS is killed after the mark of an ended lane expired, it shows the lane again.
#[tokio::test(flavor = "multi_thread")]
async fn ended_lanes_that_the_server_brings_back() {
    let world = World::new().await;
    let settings = world.settings().set("HUB_TEST_TIMES", "ended_lane=1s");
    let hub = Hub::start(&settings).await;
    let orders = ids("ended", 3);
    world.parks(&[hub.url()], &orders).await;
    world.at_end(Ends::forwarded(6)).await;
    assert_eq!(world.backend.count(), 9);
    marks_are_gone(&world).await;
    hub.kill().await;
    world.nats.server.kill().await.unwrap();
    world.nats.server.restart().await.unwrap();
    assert_eq!(
        world.lanes().await.len(),
        3,
        "what this is about: the server shows lanes that ended"
    );
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(7)).await;
    world.has_parked(0).await;
    assert_eq!(world.backend.count(), 10, "no order is forwarded a second time");
    world.metrics_say(&hub, "retries_parked{provider=\"careem\"} 0").await;
}

/// The log went back to an older copy, so lanes named events that it no longer has, and were ended. Other events have those
/// sequences when NATS is killed and shows the lanes again.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_of_a_log_that_went_back_that_the_server_brings_back() {
    let mut world = World::new().await;
    let settings = world.settings().set("HUB_TEST_TIMES", "ended_lane=1s");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let dir = world.nats.server.dir().to_owned();
    world.nats.server.stop().await.unwrap();
    let copied = StreamCopy::of(&dir, "EVENTS");
    world.nats.server.restart().await.unwrap();
    let orders = ids("gone", 3);
    world.parks(&[hub.url()], &orders).await;
    floor_is_at_the_end(&world).await;
    hub.kill().await;
    world.nats.server.stop().await.unwrap();
    copied.put_back();
    world.nats.server.restart().await.unwrap();
    world.log = Log::open(&world.nats).await;

    // Three events each, with the sequences of those that are gone.
    let hub = Hub::start(&settings).await;
    hub.says("lanes name events that are not on this log; their orders go on")
        .await;
    world.post_orders(&hub, ids("new", 8)).await;
    world.log.wait_for(EventType::OrderForwarded, 9).await;
    marks_are_gone(&world).await;
    let asked = world.backend.count();
    hub.kill().await;
    world.nats.server.kill().await.unwrap();
    world.nats.server.restart().await.unwrap();
    let lanes = world.lanes().await;
    assert_eq!(lanes.len(), 3, "what this is about: the server shows lanes that ended");
    let last = world.log.events().await.last().unwrap().sequence;
    let head = |lane: &Value| lane["head"].as_u64().unwrap();
    assert!(lanes.iter().all(|lane| head(lane) <= last), "{lanes:?} are on {last}");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("after", 1)).await;
    world.has_parked(0).await;
    world.hand_out_again().await;
    let events = world.log.events().await;
    let of_type = |wanted: EventType| {
        events
            .iter()
            .filter(|event| event.envelope.event_type == wanted)
            .count()
    };
    assert_eq!(of_type(EventType::OrderForwarded), 10);
    let given_up = of_type(EventType::OrderDeadLettered) + of_type(EventType::OrderRejected);
    assert_eq!(given_up, 0, "no event is given up for a lane that was not its own");
    assert_eq!(world.backend.count(), asked + 1, "no order is forwarded a second time");
}

/// The log went back to a copy in which an order's first news is open. Since then it was refused, so its lane names only those that wait
/// behind it, and they are on the copy as well.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_lost_their_outcome_go_before_those_that_wait() {
    const ORDER: &str = "CR-back";
    let later = |seconds: &str| Answer::Say(503, String::new(), vec![("retry-after", seconds.to_owned())]);
    let mut world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, [ORDER.to_owned()]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world
        .backend
        .next_for(ORDER, [later("11"), Answer::status(422), later("15")]);
    for word in ["preparing", "ready", "picked_up"] {
        world.careem.post(&hub, &change(ORDER, word)).await.event_id();
    }
    let waiting = |lanes: &[Value]| {
        lanes
            .iter()
            .map(|lane| lane["waiting"].as_array().map_or(0, Vec::len))
            .sum::<usize>()
    };
    eventually("two wait behind the first", PATIENCE, async || {
        let lanes = world.lanes().await;
        if waiting(&lanes) == 2 { Ok(()) } else { Err(lanes) }
    })
    .await;
    let dir = world.nats.server.dir().to_owned();
    world.nats.server.stop().await.unwrap();
    let copied = StreamCopy::of(&dir, "EVENTS");
    world.nats.server.restart().await.unwrap();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    floor_is_at_the_end(&world).await;
    hub.kill().await;
    world.nats.server.stop().await.unwrap();
    copied.put_back();
    world.nats.server.restart().await.unwrap();
    world.log = Log::open(&world.nats).await;

    let before = world.backend.count();
    let _hub = world.hub().await;
    world.hand_out_again().await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let asked = world.backend.requests().split_off(before);
    let told: Vec<_> = asked
        .iter()
        .map(|heard| heard.json()["statusChange"]["status"].clone())
        .collect();
    assert_eq!(
        told,
        ["preparing", "ready_for_pickup", "out_for_delivery"],
        "in the order of the log"
    );
    world.has_parked(0).await;
}

/// So many messages that no stage takes.
async fn messages_of_no_stage(world: &World, count: usize) {
    let hub = jetstream::new(world.nats.connect("hub").await);
    let publish = async |_| {
        hub.publish("webhooks.operator.none.p00", "{}".into())
            .await
            .unwrap()
            .await
    };
    let published = stream::iter(0..count).map(publish).buffer_unordered(200);
    published.try_for_each(async |_| Ok(())).await.unwrap();
}

/// The log went back to a copy in which an order was parked, with more events behind it than are read at once. Since then it was given up,
/// so no lane names it, and its outcome is on no log. News of it are close to the end of the copy.
async fn an_order_that_was_parked_long_before(while_it_runs: bool) {
    const ORDER: &str = "CR-long-before";
    let mut world = World::new().await;
    let hub = world.hub().await;
    let later = Answer::Say(503, String::new(), vec![("retry-after", "20".to_owned())]);
    world.backend.next_for(ORDER, [later, Answer::status(422)]);
    world.post_orders_to(&hub.url(), [ORDER.to_owned()]).await;
    world.has_parked(1).await;
    messages_of_no_stage(&world, 5_600).await;
    world.careem.post(&hub, &change(ORDER, "preparing")).await.event_id();
    world.post_orders_to(&hub.url(), ids("before", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let copied = StreamCopy::of(server.dir(), "EVENTS");
    server.restart().await.unwrap();
    assert_eq!(world.lanes().await.len(), 1, "what this is about: it is still parked");
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.has_parked(0).await;
    floor_is_at_the_end(&world).await;
    let running = if while_it_runs {
        Some(hub)
    } else {
        hub.kill().await;
        None
    };
    server.stop().await.unwrap();
    copied.put_back();
    server.restart().await.unwrap();
    world.log = Log::open(&world.nats).await;

    let before = world.requests_about(ORDER);
    let hub = match running {
        Some(hub) => hub,
        None => world.hub().await,
    };
    world.careem.post(&hub, &change(ORDER, "ready")).await.event_id();
    world.post_orders_to(&hub.url(), ids("new", 2)).await;
    world.hand_out_again().await;
    world.log.wait_for(EventType::OrderForwarded, 1 + 3 + 2).await;
    let asked = world.backend.requests().into_iter();
    let paths: Vec<_> = asked
        .filter(|request| request.external_order_id() == ORDER)
        .map(|request| request.path)
        .collect();
    let status = format!("{ORDERS}/{ORDER}/status");
    assert_eq!(paths[before..], [ORDERS, &status, &status], "in the order of the log");
    world.has_parked(0).await;
    hub.says("LANES holds every order that waits").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_parked_long_before_the_log_went_back() {
    an_order_that_was_parked_long_before(false).await;
}

/// An older copy holds lanes that ended since, and none of those that were made since. `told`: the lease tells of that; else it is
/// written no more after what the copy holds.
async fn the_lanes_go_back_to_an_older_copy(told: bool) {
    let world = World::new().await;
    let hub = world.hub().await;
    let urls = [hub.url()];
    world.parks(&urls, &ids("ended", 3)).await;
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let copied = StreamCopy::of(server.dir(), "LANES");
    server.restart().await.unwrap();
    world.backend.wait_for(9).await;
    world.has_parked(0).await;
    world.parks(&urls, &ids("lost", 2)).await;
    if told {
        floor_is_at_the_end(&world).await;
    }
    hub.kill().await;
    server.stop().await.unwrap();
    copied.put_back();
    server.restart().await.unwrap();
    assert_eq!(world.lanes().await.len(), 3);
    let hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(10)).await;
    world.has_parked(0).await;
    assert_eq!(
        world.backend.count(),
        15,
        "each of five orders failed once, and each of ten events went through once"
    );
    world.metrics_say(&hub, "retries_parked{provider=\"careem\"} 0").await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lanes_go_back_at_once() {
        the_lanes_go_back_to_an_older_copy(false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lanes_go_back_and_the_lease_describes_newer_ones() {
        the_lanes_go_back_to_an_older_copy(true).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_that_was_parked_long_before_the_log_went_back_under_a_running_hub() {
        an_order_that_was_parked_long_before(true).await;
    }
}
