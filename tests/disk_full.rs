//! The disk of NATS is full, and has room again. The disk is a small file system in memory, which only root can make: elsewhere the
//! tests say that they were skipped.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::{Hub, Settings},
    ids,
    port::Port,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// Size of the disk: room for the streams, and soon full.
const SIZE: &str = "size=24m";

/// A small disk; unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// None, and a line that says so, where this user may not mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("hub-disk-").tempdir().unwrap().keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(&folder)
            .output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        std::fs::remove_dir(&folder).unwrap();
        eprintln!("skipped: a small disk can only be mounted by root ({reason})");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is left; another program's file, as it usually is.
    fn fill(&self) {
        let room = vec![0_u8; 32 * 1024 * 1024];
        assert!(
            std::fs::write(self.filler(), room).is_err(),
            "the disk is larger than it should be"
        );
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// NATS with its store on this disk and its monitoring port here.
async fn world_on(disk: &Path, monitoring: &Port) -> World {
    let (store, port) = (disk.join("store"), monitoring.number());
    let variant = move |config: &str| {
        let moved = config.replace("$NATS_STORE_DIR", &format!("{:?}", store.display().to_string()));
        assert_ne!(moved, config);
        format!("{moved}\nhttp: \"127.0.0.1:{port}\"\n")
    };
    World::with_nats(Nats::start_with(variant, None)).await
}

fn quick(settings: Settings) -> Settings {
    settings.set("HUB_TEST_TIMES", "ask_nats=300ms")
}

/// Posts orders until one is refused: what is left of a page of the disk takes some. Returns how many were accepted, and the id of
/// the one that was not.
async fn until_refused(world: &World, hub: &Hub) -> (usize, String) {
    for (accepted, id) in ids("filling", 50).into_iter().enumerate() {
        let answer = world.careem.post(hub, &order(&id)).await;
        if answer.status == 503 {
            return (accepted, id);
        }
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    panic!("the disk is not full");
}

/// Waits until the log counts as one that stores nothing, and returns the reason.
async fn stores_nothing(world: &World, hub: &Hub) -> String {
    world
        .metrics_say(hub, "event_log_trouble{reason=\"stores_nothing\"} 1")
        .await;
    world.metrics_say(hub, "event_log_up 0").await;
    let health = world.health(hub).await;
    assert_eq!(health["checks"]["eventLog"], "unhealthy", "{health}");
    health["reasons"]["eventLog"].as_str().unwrap_or_default().to_owned()
}

async fn is_up(world: &World, hub: &Hub) {
    world.metrics_say(hub, "event_log_up 1").await;
    world
        .metrics_say(hub, "event_log_trouble{reason=\"stores_nothing\"} 0")
        .await;
}

/// Without the monitoring port: the hub sees that NATS answers and stores nothing, also when there is room again, and says that it
/// must be restarted; after that all goes on by itself, and what was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn nats_stores_again_only_after_a_restart() {
    let Some(disk) = Disk::mount() else { return };
    let world = world_on(&disk.0, &Port::reserve()).await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 3)).await;
    world.log.settled().await;
    disk.fill();
    let (accepted, refused) = until_refused(&world, &hub).await;
    let reason = stores_nothing(&world, &hub).await;
    assert!(reason.contains("restart NATS"), "{reason}");
    disk.make_room();
    let again = world.careem.post(&hub, &order(&refused)).await;
    assert_eq!(
        again.status, 503,
        "NATS writes again by itself: then the advice to restart it is wrong"
    );
    stores_nothing(&world, &hub).await;
    world.nats.server.restart().await.unwrap();
    is_up(&world, &hub).await;
    world.careem.deliver(&hub.url(), &order(&refused)).await;
    world.post_orders(&hub, ids("after", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(5 + accepted)).await;
}

/// With the monitoring port: the reason, the free space, and that nothing can be stored, even without traffic.
#[tokio::test(flavor = "multi_thread")]
async fn the_monitoring_port_says_why_and_how_much_room_there_is() {
    let Some(disk) = Disk::mount() else { return };
    let monitoring = Port::reserve();
    let world = world_on(&disk.0, &monitoring).await;
    let url = format!("http://{}", monitoring.address());
    let hub = Hub::start(&quick(world.settings().set("NATS_MONITORING_URL", &url))).await;
    let server = format!("server=\"{}\"", monitoring.address());
    world.metrics_say(&hub, &format!("nats_healthy{{{server}}} 1")).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    let metrics = world.metrics(&hub).await;
    let value = |name: &str| {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}{{{server}}} ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}"))
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!(
        value("nats_store_limit_bytes"),
        64.0 * 1024.0 * 1024.0 * 1024.0,
        "max_file_store of nats.conf"
    );
    assert_eq!(value("nats_disk_size_bytes"), 24.0 * 1024.0 * 1024.0);
    assert!(value("nats_disk_free_bytes") < value("nats_disk_size_bytes"));
    // The limit is never reached on this disk.
    hub.says("lower it").await;
    disk.fill();
    let (accepted, refused) = until_refused(&world, &hub).await;
    let reason = stores_nothing(&world, &hub).await;
    world.metrics_say(&hub, &format!("nats_healthy{{{server}}} 0")).await;
    world
        .metrics_say(&hub, &format!("nats_disk_free_bytes{{{server}}} 0"))
        .await;
    let said = eventually("the reason is the server's own", PATIENCE, async || {
        let health = world.health(&hub).await;
        let reason = health["reasons"]["eventLog"].as_str().unwrap_or_default().to_owned();
        if reason.contains("no space left") {
            Ok(reason)
        } else {
            Err(reason)
        }
    })
    .await;
    assert!(said.contains("restart NATS"), "{reason}; {said}");
    disk.make_room();
    world.nats.server.restart().await.unwrap();
    is_up(&world, &hub).await;
    world.metrics_say(&hub, &format!("nats_healthy{{{server}}} 1")).await;
    world.careem.deliver(&hub.url(), &order(&refused)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2 + accepted)).await;
}
