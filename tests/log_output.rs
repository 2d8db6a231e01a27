//! The log output is full, closed, or not read: only log lines are lost.

use std::{fs::File, path::Path, process::Command};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    World,
    at_end::Ends,
    hub::{Hub, Settings},
    ids,
    port::Port,
    wait::{PATIENCE, eventually},
};

/// Orders that say more than a pipe holds (64 KiB).
const ORDERS: usize = 150;

/// A pipe with a name; while the file is open, it has a reader.
fn pipe() -> (TempDir, String, File) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = open(&path);
    (folder, path.display().to_string(), reader)
}

/// Opened for reading and writing, which does not block.
fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

struct Unheard {
    world: World,
    hub: Hub,
}

impl Unheard {
    /// A hub that says everything on both of its outputs, to there.
    async fn start(to: &str) -> Self {
        let world = World::new().await;
        let (port, metrics_port) = (Port::reserve(), Port::reserve());
        let settings: Settings = world.settings().set("LOG_LEVEL", "trace");
        let settings = settings.through(&format!("exec \"$@\" >{to} 2>&1"));
        let hub = Hub::start_unheard(&settings, &port, &metrics_port).await;
        Self { world, hub }
    }

    /// Orders are taken and forwarded, and the hub ends as it should.
    async fn works(mut self, lost: bool) {
        self.world.post_orders(&self.hub, ids("unheard", ORDERS)).await;
        self.world.at_end(Ends::forwarded(ORDERS)).await;
        assert!(self.hub.runs());
        if lost {
            eventually("lost lines are counted", PATIENCE, async || {
                let metrics = self.world.metrics(&self.hub).await;
                let line = metrics
                    .lines()
                    .find(|line| line.starts_with("log_lines_lost_total{reason=\"unwritable\"}"));
                let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
                if count > Some(0.0) { Ok(()) } else { Err(count) }
            })
            .await;
        }
        let (status, _) = self.hub.terminate().await;
        assert_eq!(status.code(), Some(0), "{}", json!(status.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    Unheard::start("/dev/full").await.works(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_is_gone() {
    let (_folder, path, reader) = pipe();
    let unheard = Unheard::start(&path).await;
    drop(reader);
    unheard.works(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_stands_still() {
    let (_folder, path, _reader) = pipe();
    Unheard::start(&path).await.works(false).await;
}
