//! An order comes while lost lanes are made again, and joins a lane that is there. It must not wait for the retry of the order before it.

use super::{
    another_order::away,
    two_lanes::{corrected, of_another_day},
    wakes::waiting_settings,
    *,
};

/// One lane is lost, so `forward` reads the log for lanes. The lane of branch A's order is there. What comes with its number meanwhile joins it, and must
/// not wait for A's retry afterwards.
async fn comes_while_lanes_are_made_again(id: &str, first: Who, second: &str, is_killed: bool) {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    outside.world.database.run(BRANCHES).await.unwrap();
    let slowly = waiting_settings(&outside).set("HUB_TEST_TIMES", "forward_rebuild_pause=15s");
    let hub = Hub::start(&waiting_settings(&outside)).await;
    let mut tenants = Tenants {
        outside,
        hub,
        posted: Vec::new(),
    };
    {
        let world = &tenants.outside.world;
        for (number, who) in [("CR-lost", B), (id, first)] {
            world.backend.next_for(number, [away()]);
            tenants.say(Platform, who, &order(number)).await;
        }
        world.has_parked(2).await;
    }
    let kill = std::mem::replace(&mut tenants.hub, Hub::start(&slowly).await);
    // Not before: the new one has to find the lanes as they are then.
    let lanes = tenants
        .outside
        .world
        .nats
        .provision()
        .await
        .get_stream("LANES")
        .await
        .unwrap();
    let lost = format!(
        "lane.*.{}",
        webhook_hub::journal::codec::OrderKey::new("careem", "CR-lost")
    );
    lanes.purge().filter(lost).await.unwrap();
    kill.kill().await;
    let world = &tenants.outside.world;
    eventually("the next one forwards", PATIENCE, async || {
        let log = tenants.hub.log();
        let works = log
            .lines()
            .any(|line| line.contains("\"working\"") && line.contains("\"forward\""));
        if works { Ok(()) } else { Err(log.len()) }
    })
    .await;
    tenants.say(Platform, B, second).await;
    eventually("it joined the lane", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting = |lane: &Value| lane["waiting"].as_array().map_or(0, Vec::len);
        if lanes.iter().map(waiting).sum::<usize>() == 1 {
            Ok(())
        } else {
            Err(lanes)
        }
    })
    .await;
    if is_killed {
        let next = Hub::start(&waiting_settings(&tenants.outside)).await;
        std::mem::replace(&mut tenants.hub, next).kill().await;
    }
    let world = &tenants.outside.world;
    tenants.hub.says("LANES holds every order that waits").await;
    let began = std::time::Instant::now();
    eventually("it is forwarded", 2 * PATIENCE + PATIENCE / 2, async || {
        let events = world.log.events().await;
        let is_forwarded = |event: &std::sync::Arc<webhook_hub::event::Recorded>| {
            event.envelope.event_type == EventType::OrderForwarded && event.envelope.external_order_id == id
        };
        match events.iter().any(is_forwarded) {
            true => Ok(()),
            false => Err((began.elapsed(), world.lanes().await)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meanwhile_another_branchs_order_joins_a_lane_that_is_there() {
    comes_while_lanes_are_made_again("CR-110", A, &corrected("CR-110"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meanwhile_todays_order_joins_yesterdays_lane_that_is_there() {
    comes_while_lanes_are_made_again("CR-111", B, &of_another_day("CR-111"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meanwhile_todays_order_joins_yesterdays_lane_and_the_hub_is_killed() {
    comes_while_lanes_are_made_again("CR-112", B, &of_another_day("CR-112"), true).await;
}
