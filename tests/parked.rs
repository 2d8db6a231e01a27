//! Orders that are parked are taken up at their time, whatever else happens, and a line that is too long says so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use webhook_hub::{
    delivery::lanes::MAX_WAITING,
    event::EventType,
    journal::codec::{OrderKey, partition_token},
};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::change,
    hub::{Hub, Settings},
    ids,
    wait::PATIENCE,
};

/// What parks an order at once: longer than an event is held in memory.
fn away(seconds: u32) -> Answer {
    Answer::Say(503, String::new(), vec![("retry-after", seconds.to_string())])
}

impl World {
    /// With no breaker in the way of what is tested.
    fn parking(&self) -> Settings {
        self.settings()
            .set("RETRY_DELAYS", "1s")
            .set("CIRCUIT_BREAKER_ENABLED", false)
    }

    fn times_of(&self, order: &str) -> Vec<Instant> {
        let requests = self.backend.requests().into_iter();
        let of_order = requests.filter(|request| request.external_order_id() == order);
        of_order.map(|request| request.at).collect()
    }
}

/// Versions before this one were woken by messages of the server. Whatever becomes of such a message, the order is taken up
/// at its time: all are lost, and one comes early, twice.
#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_are_lost_or_come_early() {
    let world = World::new().await;
    let _hub = Hub::start(&world.parking()).await;
    for id in ids("wake", 3) {
        world.backend.next_for(&id, [away(11)]);
    }
    world.post_orders(&_hub, ids("wake", 3)).await;
    world.has_parked(3).await;
    let lanes = world.nats.provision().await.get_stream("LANES").await.unwrap();
    for subject in ["sch.>", "due.>"] {
        lanes.purge().filter(subject).await.unwrap();
    }
    let early = jetstream::new(world.nats.connect("hub").await);
    let key = OrderKey::new("careem", "CR-wake-0");
    let subject = format!("due.{}.{key}", partition_token(key.partition(PARTITIONS)));
    for due_at in ["0", "1700000000000"] {
        let sent = early.publish(subject.clone(), due_at.into()).await.unwrap();
        sent.await.unwrap();
    }
    world.at_end(Ends::forwarded(3)).await;
    for id in ids("wake", 3) {
        let times = world.times_of(&id);
        assert!(
            times.len() == 2 && times[1] - times[0] >= Duration::from_millis(10_980),
            "{id}: {times:?}"
        );
    }
}

/// A lane is not as it was left, which begins the work anew. A request that is under way meanwhile is not dropped, which would
/// make it a second time: what becomes of it is recorded first.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_outlives_trouble_with_another_lane() {
    let world = World::new().await;
    let hub = Hub::start(&world.parking()).await;
    world.backend.next_for("CR-trouble-0", [away(11)]);
    world.post_orders(&hub, ["CR-trouble-0".into()]).await;
    world.has_parked(1).await;
    world.backend.hold();
    world.post_orders(&hub, ["CR-trouble-1".into()]).await;
    world.backend.wait_for(2).await;
    let lane = serde_json::to_vec(&world.lanes().await[0]).unwrap();
    let key = OrderKey::new("careem", "CR-trouble-0");
    let subject = format!("lane.{}.{key}", partition_token(key.partition(PARTITIONS)));
    let somebody_else = jetstream::new(world.nats.connect("hub").await);
    let written = somebody_else.publish(subject, lane.into()).await.unwrap();
    written.await.unwrap();
    world
        .careem
        .post(&hub, &change("CR-trouble-0", "ready"))
        .await
        .event_id();
    hub.says("another program writes LANES").await;
    world.backend.release();
    world.log.settled().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    assert_eq!(world.times_of("CR-trouble-1").len(), 1, "it was asked about twice");
}

mod long {
    use super::*;

    /// More events of one order than its line takes: the last ones are given up at once and can be taken up again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_lane_makes_a_dead_letter() {
        const MORE: usize = 10;
        let world = World::new().await;
        let hub = Hub::start(&world.parking().set("RETRY_MAX_ATTEMPTS", 100)).await;
        let is_away = Arc::new(AtomicBool::new(true));
        let rule = Arc::clone(&is_away);
        world.backend.by_rule(Some(Box::new(move |_, _| {
            if rule.load(Ordering::Relaxed) {
                away(11)
            } else {
                Answer::Accept
            }
        })));
        world.post_orders(&hub, ["CR-line".into()]).await;
        world.has_parked(1).await;
        let words = (0..MAX_WAITING + MORE).map(|number| {
            json!({ "id": "CR-line", "status": "ready", "updated_at": "2025-10-01T12:30:00Z", "number": number })
                .to_string()
        });
        // Of one order, so they come in any order; what counts is that all are accepted.
        let posting = stream::iter(words).for_each_concurrent(16, async |word| {
            world.careem.post(&hub, &word).await.event_id();
        });
        posting.await;
        let dead = world.log.wait_for(EventType::OrderDeadLettered, MORE).await;
        world
            .metrics_say(
                &hub,
                &format!("lane_full_total{{stage=\"forward\",provider=\"careem\"}} {MORE}"),
            )
            .await;
        // A retry while the line is full ends in the same way.
        world.retry_dead_letters().await;
        world.log.wait_for(EventType::OrderDeadLettered, 2 * MORE).await;
        is_away.store(false, Ordering::Relaxed);
        world
            .at_end_within(4 * PATIENCE, Ends::forwarded(1 + MAX_WAITING).dead_lettered(MORE))
            .await;
        for one in &dead {
            let payload = crate::harness::log::payload(one);
            assert_eq!(
                (&payload["stage"], &payload["error"]["code"]),
                (&json!("forward"), &json!("LANE_FULL"))
            );
        }
        world.retry_dead_letters().await;
        // One that found no room before the line moved on may be older than news that the backend has by now.
        let events = world.log.settled_within(4 * PATIENCE).await;
        let superseded = events
            .iter()
            .filter(|event| event.envelope.event_type == EventType::OrderIgnored)
            .inspect(|event| assert_eq!(crate::harness::log::payload(event)["reason"], "SUPERSEDED"))
            .count();
        assert!(superseded < MORE, "{superseded} of {MORE} were superseded");
        let ends = Ends::forwarded(1 + MAX_WAITING + MORE - superseded).ignored(superseded);
        world.at_end_within(4 * PATIENCE, ends).await;
    }
}
