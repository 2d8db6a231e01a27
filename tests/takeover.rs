//! An instance takes a stage over: what that costs does not depend on what happened before, and what it is told with the
//! lease counts only for the log that it was told about.

use futures_util::future::join_all;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    copies::StreamCopy,
    hub::Hub,
    ids,
    wait::{PATIENCE, eventually},
};

/// What a hub said when it took the stage `forward` over.
async fn taken_over(hub: &Hub) -> Value {
    eventually("it has the stage", PATIENCE, async || {
        let lines = hub.log();
        let said = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut taken = said.filter(|line| {
            let is_it = line["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("stage taken over"));
            is_it && line["metadata"]["stage"] == "forward"
        });
        taken.next_back().ok_or(lines.clone())
    })
    .await["metadata"]
        .clone()
}

/// Waits until the lease of the stage `forward` says that its holder knows all of the log.
pub(crate) async fn floor_is_at_the_end(world: &World) {
    let last = world.log.events().await.last().unwrap().sequence;
    lease_says(world, "recorded", last).await;
}

/// Waits until a place that the floor of the stage `forward` names is as far as this.
pub(crate) async fn lease_says(world: &World, name: &str, last: u64) {
    let provision = world.nats.provision().await;
    eventually("the lease says how far the stage is", PATIENCE, async || {
        let stream = provision
            .get_stream("LEASES")
            .await
            .map_err(|error| error.to_string())?;
        let lease = stream.get_last_raw_message_by_subject("hub.lease.forward").await;
        let lease = lease.map_err(|error| error.to_string())?;
        let note = lease
            .headers
            .get("Hub-Lease-Note")
            .map(ToString::to_string)
            .unwrap_or_default();
        let note: Value = serde_json::from_str(&note).unwrap_or_default();
        let place = note["floor"][name].as_u64();
        if place.is_some_and(|place| place >= last) {
            Ok(())
        } else {
            Err(format!("{note}, and {last} is the last"))
        }
    })
    .await;
}

async fn post_many(world: &World, hub: &Hub, orders: &[String]) {
    let posting = orders.chunks(orders.len().div_ceil(32)).map(async |some| {
        for id in some {
            world.careem.deliver(&hub.url(), &order(id)).await;
        }
    });
    join_all(posting).await;
}

/// The log goes back to an older copy while the leases stay: other events stand at the sequences that were settled.
async fn the_log_goes_back(while_it_runs: bool) {
    let world = World::new().await;
    let mut hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 5)).await;
    world.log.settled().await;
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let copied = StreamCopy::of(server.dir(), "EVENTS");
    server.restart().await.unwrap();
    world.post_orders_to(&hub.url(), ids("lost", 20)).await;
    world.backend.wait_for(25).await;
    floor_is_at_the_end(&world).await;
    if !while_it_runs {
        hub.kill().await;
        hub = {
            server.stop().await.unwrap();
            copied.put_back();
            server.restart().await.unwrap();
            world.hub().await
        };
    } else {
        server.stop().await.unwrap();
        copied.put_back();
        server.restart().await.unwrap();
    }
    world.post_orders_to(&hub.url(), ids("new", 30)).await;
    // Every one of them stands where another stood that was settled.
    world.backend.wait_for(55).await;
    let seen: Vec<_> = world
        .backend
        .requests()
        .iter()
        .map(|one| one.external_order_id())
        .collect();
    for id in ids("new", 30) {
        assert!(seen.contains(&id), "{id} was accepted and never forwarded");
    }
    eventually("it is said", PATIENCE, async || {
        if hub.logs_contain("the event log") && hub.logs_contain("went back") {
            Ok(())
        } else {
            Err(hub.log())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_back_while_no_hub_runs() {
    the_log_goes_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_back_under_a_running_hub() {
    the_log_goes_back(true).await;
}

/// An older hub had the stage, and left its id and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_hub_had_the_stage() {
    let world = World::new().await;
    let first = world.hub().await;
    world.post_orders(&first, ids("before", 5)).await;
    world.log.settled().await;
    world.backend.hold();
    world.post_orders(&first, ids("in-hand", 3)).await;
    world.backend.wait_for(8).await;
    first.kill().await;
    world.backend.release();
    world.an_older_hub_takes_the_leases().await;
    let next = world.hub().await;
    world.post_orders_to(&next.url(), ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(9)).await;
    assert_eq!(world.backend.count(), 12, "three were asked about twice");
}

mod long {
    use super::*;

    /// The server counts what a dead instance had in hand as not acknowledged until it hands it out again, two minutes later:
    /// what is settled meanwhile must not be read again and again.
    #[tokio::test(flavor = "multi_thread")]
    async fn takeover_does_not_grow_with_what_was_settled_before() {
        let world = World::new().await;
        let first = world.hub().await;
        // It dies with something in hand, which keeps the acknowledgement floor where it is.
        world.backend.hold();
        world.post_orders(&first, ids("in-hand", 3)).await;
        world.backend.wait_for(3).await;
        first.kill().await;
        world.backend.release();
        let second = world.hub().await;
        let orders = ids("settled", 700);
        post_many(&world, &second, &orders).await;
        world.log.wait_for(EventType::OrderForwarded, orders.len() + 3).await;
        let events = world.log.settled().await.len() as u64;
        floor_is_at_the_end(&world).await;
        second.kill().await;
        let third = world.hub().await;
        let read = taken_over(&third).await["read"].as_u64().unwrap();
        assert!(
            read < 100,
            "{read} of {events} messages were read again to take the stage over"
        );
        third.kill().await;
        // Without what the lease says, it is nearly all of them.
        world.an_older_hub_takes_the_leases().await;
        let fourth = world.hub().await;
        let read = taken_over(&fourth).await["read"].as_u64().unwrap();
        assert!(read > events - 100, "{read} of {events} messages");
        world.post_orders(&fourth, ids("after", 1)).await;
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(orders.len() + 4)).await;
        assert_eq!(world.backend.count(), 3 + orders.len() + 4);
    }

    /// With more open than the lease's note lists, what ended beyond those is known from the log.
    #[tokio::test(flavor = "multi_thread")]
    async fn events_with_an_outcome_behind_many_open_ones_are_not_repeated() {
        /// More than the note lists.
        const WAITING: usize = 520;
        let world = World::new().await;
        let settings = world.settings().set("BACKEND_TIMEOUT", "60s");
        let first = Hub::start(&settings).await;
        world.backend.next([Answer::Hang]);
        world.post_orders(&first, ["CR-hangs".to_owned()]).await;
        world.backend.wait_for(1).await;
        let bodies =
            (0..WAITING).map(|number| json!({ "id": "CR-hangs", "status": "preparing", "number": number }).to_string());
        let bodies: Vec<_> = bodies.collect();
        let url = first.url();
        let posting = bodies.chunks(WAITING.div_ceil(32)).map(async |some| {
            for body in some {
                world.careem.deliver(&url, body).await;
            }
        });
        join_all(posting).await;
        world.log.wait_for(EventType::OrderTransformed, 1 + WAITING).await;
        world.careem.deliver(&url, &order("CR-ends")).await;
        world.careem.deliver(&url, &change("CR-ends", "ready")).await;
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        let last = world.log.events().await.last().unwrap().sequence;
        lease_says(&world, "known", last).await;
        first.kill().await;
        let second = Hub::start(&settings).await;
        world.log.wait_for(EventType::OrderForwarded, 3 + WAITING).await;
        let requests = world.backend.requests();
        let told = requests
            .iter()
            .filter(|request| request.path.ends_with("/CR-ends/status"));
        assert_eq!(told.count(), 1, "it was told before the takeover");
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(3 + WAITING)).await;
        assert!(second.terminate().await.0.success());
    }

    /// Neither does an order that waits in its lane.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_that_waits_does_not_make_takeover_grow() {
        let world = World::new().await;
        let first = world.hub().await;
        let wait = Answer::Say(503, String::new(), vec![("retry-after", "20".into())]);
        world.backend.next_for("CR-waiting-0", [wait]);
        world.post_orders(&first, ids("waiting", 1)).await;
        world.has_parked(1).await;
        let orders = ids("settled", 700);
        post_many(&world, &first, &orders).await;
        world.log.wait_for(EventType::OrderForwarded, orders.len()).await;
        let events = world.log.events().await.len();
        floor_is_at_the_end(&world).await;
        first.kill().await;
        let next = world.hub().await;
        let read = taken_over(&next).await["read"].as_u64().unwrap();
        assert!(read < 100, "{read} of {events} messages were read again");
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(orders.len() + 1)).await;
        assert_eq!(world.backend.count(), orders.len() + 2);
    }

    /// What an instance shows of a stage goes with the stage.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_instance_that_lost_the_stage_has_no_gauges_of_it() {
        let world = World::new().await;
        let first = world.hub().await;
        world.post_orders(&first, ids("before", 5)).await;
        world.log.settled().await;
        let lag = async |hub: &Hub| {
            let metrics = world.metrics(hub).await;
            let lines = metrics
                .lines()
                .filter(|line| line.starts_with("stage_lag_seconds{stage=\"forward\"}"));
            lines.map(str::to_owned).collect::<String>()
        };
        let parked = "retries_parked{provider=\"careem\"}";
        let wait = Answer::Say(429, String::new(), vec![("retry-after", "15".into())]);
        world.backend.next_for("CR-parked", [wait]);
        world.post_orders(&first, ["CR-parked".to_owned()]).await;
        world.metrics_say(&first, &format!("{parked} 1")).await;
        // It has the stage. An event that is handed out within a millisecond has no lag, so there may have to be more of them.
        let mut more = 0;
        while lag(&first).await == "stage_lag_seconds{stage=\"forward\"} 0" {
            assert!(more < 100, "it shows no lag of {more} events");
            world.post_orders(&first, [format!("CR-more-{more}")]).await;
            more += 1;
            world.log.wait_for(EventType::OrderForwarded, 5 + more).await;
        }
        let next = world.hub().await;
        first.pause().await;
        taken_over(&next).await;
        first.resume().await;
        world.metrics_say(&first, &format!("{parked} 0")).await;
        for gauge in ["stage_lag_seconds", "stage_pending"] {
            for stage in ["transform", "forward"] {
                world
                    .metrics_say(&first, &format!("{gauge}{{stage=\"{stage}\"}} 0"))
                    .await;
            }
        }
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(6 + more)).await;
    }

    /// One order that hangs does not hold the floor for the others.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_that_hangs_does_not_make_takeover_grow() {
        let world = World::new().await;
        let settings = world.settings().set("BACKEND_TIMEOUT", "60s");
        let first = Hub::start(&settings).await;
        world.backend.next([Answer::Hang]);
        world.post_orders(&first, ids("hanging", 1)).await;
        world.backend.wait_for(1).await;
        let orders = ids("settled", 700);
        post_many(&world, &first, &orders).await;
        world.log.wait_for(EventType::OrderForwarded, orders.len()).await;
        let events = world.log.events().await.len();
        floor_is_at_the_end(&world).await;
        first.kill().await;
        let next = Hub::start(&settings).await;
        let taken = taken_over(&next).await;
        let (read, open) = (taken["read"].as_u64().unwrap(), taken["events"].as_u64().unwrap());
        assert!(read < 100, "{read} of {events} messages were read again");
        assert_eq!(open, 1, "what hung is taken up");
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(orders.len() + 1)).await;
        assert_eq!(world.backend.count(), orders.len() + 2);
    }
}
