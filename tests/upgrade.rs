//! An older version and this one, on one log, in both orders of upgrade, under load: `make upgrade FROM=<commit>` builds the
//! older one and names its program in `HUB_OLD_BINARY`. Without that variable there is nothing to test.

use std::{path::PathBuf, time::Duration};

use async_nats::jetstream;
use webhook_hub::{
    event::{EventType, Recorded},
    journal::codec::{self, Form},
};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::{MERCHANT, order},
    hub::{Hub, Settings, run},
    ids,
    load::Load,
    port::Port,
};

/// Webhooks that are accepted between two changes of the fleet.
const BETWEEN: usize = 150;
/// Orders that are parked when the fleet changes.
const PARKED: usize = 5;
/// Longer than elsewhere: events that an instance had at SIGTERM are redelivered only after the consumer's wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which version an instance is.
#[derive(Debug, Clone, Copy)]
enum Version {
    Old,
    New,
}

fn old_binary() -> Option<PathBuf> {
    let path = std::env::var("HUB_OLD_BINARY").ok()?;
    let path = PathBuf::from(path);
    assert!(path.is_file(), "HUB_OLD_BINARY is no file: {}", path.display());
    Some(path)
}

/// The newer version writes what the older one can read, as long as the older one is to be able to come back.
fn of_version(settings: Settings, version: Version) -> Settings {
    match (version, old_binary()) {
        (Version::Old, Some(path)) => settings.set("HUB_TEST_BINARY", path.display()),
        _ => settings.set("EVENT_FORMAT", "headers"),
    }
}

/// Two instances of one version are replaced by two of the other one, one after the other, while orders come in and others
/// are parked.
async fn replaced(from: Version, to: Version) {
    let world = World::new().await;
    // The older version's consumers and streams, then what this version adds.
    for version in [Version::Old, Version::New] {
        let provision = world.nats.settings("provision").set("PARTITIONS", PARTITIONS);
        let ran = run(&of_version(provision, version), &["streams", "apply"]).await;
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.said());
    }
    world.backend.keeps_orders_in(&world.database);
    world.backend.takes(Duration::from_millis(5));
    let ports = [Port::reserve(), Port::reserve()];
    let settings = |at: usize, version| {
        let settings = world.settings().set("PORT", ports[at].number());
        of_version(settings.set("CIRCUIT_BREAKER_ENABLED", false), version)
    };
    let urls = ports.each_ref().map(|port| format!("http://{}", port.address()));
    let load = Load::with_patience(100, PATIENCE);
    let away = Answer::Say(503, String::new(), vec![("retry-after", "15".into())]);
    let upgrading = async {
        let mut fleet = vec![
            Hub::start(&settings(0, from)).await,
            Hub::start(&settings(1, from)).await,
        ];
        for at in 0..2 {
            load.more(&world, false, BETWEEN).await;
            let parked = ids(&format!("parked-{at}"), PARKED);
            for id in &parked {
                world.backend.next_for(id, [away.clone()]);
            }
            world.post_orders(&fleet[at], parked).await;
            world
                .log
                .wait_for(EventType::OrderForwardFailed, (at + 1) * PARKED)
                .await;
            let stopped = fleet.remove(at).terminate().await;
            assert!(stopped.0.success(), "{stopped:?}");
            fleet.insert(at, Hub::start(&settings(at, to)).await);
        }
        load.more(&world, false, BETWEEN).await;
        load.end();
        fleet
    };
    let (mut fleet, ()) = tokio::join!(upgrading, load.run(&world, &urls));
    if let Version::Old = to {
        // What ARCHITECTURE says of a rollback: an older instance takes up the lanes of a newer one at its start.
        for at in 0..2 {
            world.lanes_are_due().await;
            assert!(fleet.remove(at).terminate().await.0.success());
            fleet.insert(at, Hub::start(&settings(at, to)).await);
        }
        // The older version has handled everything. It does not know `hub.orders`: the newer one fills it when it comes back.
        world.hand_out_again_within(PATIENCE).await;
        for at in 0..2 {
            assert!(fleet.remove(at).terminate().await.0.success());
            fleet.insert(at, Hub::start(&settings(at, from)).await);
        }
    }
    let mut expected = load.accepted() + 2 * PARKED;
    if let Version::New = to {
        // The last step of the upgrade: no older instance comes back.
        for at in 0..2 {
            assert!(fleet.remove(at).terminate().await.0.success());
            fleet.insert(at, Hub::start(&settings(at, to).set("EVENT_FORMAT", "compact")).await);
            world
                .post_orders(&fleet[at], ids(&format!("compact-{at}"), PARKED))
                .await;
            expected += PARKED;
        }
    }
    world.hand_out_again_within(PATIENCE).await;
    world.at_end_within(PATIENCE, Ends::forwarded(expected)).await;
}

impl World {
    /// Waits until no lane is left, or each is due.
    async fn lanes_are_due(&self) {
        crate::harness::wait::eventually("the lanes are due", PATIENCE, async || {
            let now = chrono::Utc::now().to_rfc3339();
            let mut lanes = self.lanes().await;
            lanes.retain(|lane| lane["dueAt"].as_str().is_none_or(|due| due > now.as_str()));
            if lanes.is_empty() { Ok(()) } else { Err(lanes) }
        })
        .await;
    }
}

/// The older version takes an event in the compact form for garbage. It is a dead letter then, from which the newer version
/// takes it up again: what an operator does who let both run although `EVENT_FORMAT=compact` was set.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_versions_dead_letter_is_retried() {
    if old_binary().is_none() {
        return;
    }
    let world = World::new().await;
    let body = order("CR-too-early");
    let sample = Recorded::sample(
        "careem",
        "CR-too-early",
        "order_created",
        body.as_bytes(),
        chrono::Utc::now(),
    );
    let mut envelope = sample.envelope;
    if let Some(request) = &mut envelope.request {
        request.headers.insert("x-merchant-id".into(), MERCHANT.into());
    }
    let headers = codec::headers(&envelope, Form::Compact).unwrap();
    let publisher = jetstream::new(world.nats.connect("hub").await);
    let sent = publisher.publish_with_headers(codec::subject(&envelope, PARTITIONS), headers, body.into());
    sent.await.unwrap().await.unwrap();
    let older = Hub::start(&of_version(world.settings(), Version::Old)).await;
    let rejected = world.log.payloads(EventType::OrderRejected, 1).await;
    assert_eq!(rejected[0]["error"]["code"], "UNREADABLE_EVENT");
    assert!(older.terminate().await.0.success());
    world.retry_dead_letters().await;
    let _newer = world.hub().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(world.backend.requests()[0].external_order_id(), "CR-too-early");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_version_is_replaced() {
    if old_binary().is_some() {
        replaced(Version::Old, Version::New).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_version_is_rolled_back() {
    if old_binary().is_some() {
        replaced(Version::New, Version::Old).await;
    }
}

/// An instance is killed while the backend has its request, and one of the other version takes over, forth and back: each asks by
/// the key that the other one used, of what it transformed itself and of what the other one did.
async fn killed_between(dying: Version, next: Version) {
    let world = World::new().await;
    for version in [Version::Old, Version::New] {
        let provision = world.nats.settings("provision").set("PARTITIONS", PARTITIONS);
        let ran = run(&of_version(provision, version), &["streams", "apply"]).await;
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.said());
    }
    let hub = async |version| {
        let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
        Hub::start(&of_version(settings, version)).await
    };
    let killed_at_request = async |hub: Hub, count| {
        world.backend.wait_for(count).await;
        hub.kill().await;
        world.backend.release();
    };
    world.backend.hold();
    let first = hub(dying).await;
    world.careem.post(&first, &order("CR-killed")).await.event_id();
    killed_at_request(first, 1).await;
    let second = hub(next).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-parked", [away]);
    world.careem.post(&second, &order("CR-parked")).await.event_id();
    world.has_parked(1).await;
    second.kill().await;
    world.backend.hold();
    killed_at_request(hub(dying).await, 4).await;
    let mut last = hub(next).await;
    world.hand_out_again_within(PATIENCE).await;
    if let Version::Old = next {
        // Which knows nothing of `hub.orders`.
        assert!(last.terminate().await.0.success());
        last = hub(Version::New).await;
    }
    world.at_end_within(PATIENCE, Ends::forwarded(2)).await;
    drop(last);
    for (id, times) in [("CR-killed", 2), ("CR-parked", 3)] {
        let mut keys = world.keys_of(id);
        assert_eq!(keys.len(), times, "{id}: {keys:?}");
        keys.dedup();
        assert_eq!(keys.len(), 1, "{id}: {keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_version_takes_over_from_a_killed_older_one() {
    if old_binary().is_some() {
        killed_between(Version::Old, Version::New).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_version_takes_over_from_a_killed_newer_one() {
    if old_binary().is_some() {
        killed_between(Version::New, Version::Old).await;
    }
}
