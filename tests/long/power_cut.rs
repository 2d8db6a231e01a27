//! The power fails under a single NATS server: what was acknowledged had reached the disk.

use std::{collections::HashSet, time::Duration};

use webhook_hub::event::{EventId, EventType};

use crate::harness::{
    World,
    disk::Disk,
    hub::Hub,
    ids,
    load::Load,
    random::Random,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// How often the power fails; `make power-cuts CUTS=50` asks for more.
const CUTS: &str = "HUB_POWER_CUTS";
const DEFAULT_CUTS: usize = 3;
const FSYNC: &str = "sync_interval: always";

/// A disk, or none and a line that says why.
async fn disk() -> Option<Disk> {
    match Disk::new().await {
        Ok(disk) => Some(disk),
        Err(why) => {
            eprintln!("SKIPPED: no file system can be made and mounted here, so the power was not cut ({why})");
            None
        }
    }
}

/// With NATS that keeps its data there.
async fn world_on(disk: &Disk, sync: &str) -> World {
    let store = format!("store_dir: \"{}\"", disk.path().display());
    World::with_nats(Nats::start_with(
        |config| {
            assert!(config.contains(FSYNC) && config.contains("store_dir: $NATS_STORE_DIR"));
            config
                .replace("store_dir: $NATS_STORE_DIR", &store)
                .replace(FSYNC, sync)
        },
        None,
    ))
    .await
}

/// The server stops at the moment when the disk does. One that ran on would answer for what it could not write: as a duplicate, by the
/// ids that it has in memory.
async fn power_fails(world: &World, disk: &Disk) {
    world.nats.server.pause().await.unwrap();
    disk.cut().await;
    world.nats.server.kill().await.unwrap();
    disk.back().await;
    world.nats.server.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let cuts = std::env::var(CUTS).map_or(DEFAULT_CUTS, |cuts| cuts.parse().unwrap());
    let Some(disk) = disk().await else { return };
    let world = world_on(&disk, FSYNC).await;
    // NATS does not sync what makes a stream or a consumer; those were made long ago.
    disk.sync().await;
    world.backend.takes(Duration::from_millis(5));
    let (load, mut random) = (Load::new(100), Random::new());
    let hub = Hub::start(&world.settings_on_fixed_port()).await;
    let cutting = async {
        for _cut in 0..cuts {
            load.random_moment(&world, &mut random).await;
            power_fails(&world, &disk).await;
        }
        load.random_moment(&world, &mut random).await;
        load.end();
    };
    let hubs = [world.fixed_url()];
    tokio::join!(cutting, load.run(&world, &hubs));
    world.hand_out_again().await;
    let events = world.log.settled_within(2 * PATIENCE).await;
    // A webhook that was lost before it was acknowledged may have been handled, and then comes again: it ends twice, the second time
    // as a duplicate. So what is counted is each webhook, not each acceptance.
    let of_type = |wanted: EventType| -> HashSet<EventId> {
        let of_it = events.iter().filter(|event| event.envelope.event_type == wanted);
        of_it.map(|event| event.envelope.root_id).collect()
    };
    let (accepted, forwarded) = (of_type(EventType::WebhookReceived), of_type(EventType::OrderForwarded));
    assert_eq!(accepted.len(), load.accepted(), "accepted, and on the log");
    assert_eq!(
        accepted.symmetric_difference(&forwarded).count(),
        0,
        "each one was forwarded"
    );
    assert!(of_type(EventType::OrderDeadLettered).is_empty());
    drop(hub);
    world.nats.server.stop().await.unwrap();
}

/// The disk of these tests does lose what was not synced: without the setting that the project insists on, accepted webhooks
/// are gone.
#[tokio::test(flavor = "multi_thread")]
async fn without_fsync_acknowledged_events_are_lost() {
    const ORDERS: usize = 40;
    let Some(disk) = disk().await else { return };
    let world = world_on(&disk, "sync_interval: 2m").await;
    disk.sync().await;
    let hub = Hub::start(&world.settings()).await;
    world.post_orders(&hub, ids("cut", ORDERS)).await;
    power_fails(&world, &disk).await;
    let provision = world.nats.provision().await;
    let left = eventually("the stream is recovered", PATIENCE, async || {
        let stream = provision
            .get_stream("EVENTS")
            .await
            .map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.cached_info().state.messages)
    })
    .await;
    assert!(left < ORDERS as u64, "{left} messages survived that were never synced");
    drop(hub);
    world.nats.server.stop().await.unwrap();
}
