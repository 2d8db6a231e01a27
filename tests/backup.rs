//! Backups that are restored: by the steps of `docs/backup.md`, and every order is counted.

mod interrupted;
mod mirror;
mod recorded;
mod replaced;
mod runbook;
mod runbook_outages;
mod sent_again;
mod slow;

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use async_nats::{
    HeaderMap,
    jetstream::{self, stream},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;
use webhook_hub::event::EventType;

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::{self, order},
    hub::{Ran, Settings, begin, run},
    ids,
    log::Log,
    port::Port,
    servers::{Nats, postgres_program},
    wait::{PATIENCE, eventually},
};

const DOCUMENT: &str = include_str!("../docs/backup.md");
/// More than the server sends without an acknowledgement (8 MiB).
const LARGE: usize = 20 * 1024 * 1024;
/// Enough for a server to be at it for a while.
const MANY: usize = 3000;
/// As many as the server takes at once.
const BATCH: usize = 1000;
const INTERRUPTED: &str = "a restore of this stream was interrupted: run `webhook-hub restore FOLDER` again";

/// The block of this language under a heading of the document.
fn block(heading: &str, language: &str) -> &'static str {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("a heading");
    let section = section.split("\n## ").next().unwrap();
    let (_, block) = section.split_once(&format!("\n```{language}\n")).expect("a block");
    block.split_once("\n```").unwrap().0
}

/// An operator's shell: a folder, and the variables that the document names.
struct Shell {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    fn of(world: &World, programs: &Path) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_webhook-hub")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let variables = vec![
            ("PATH", format!("{}:{}:{path}", binary.display(), programs.display())),
            ("NATS_URL", world.nats.url()),
            ("NATS_BACKUP_PASSWORD", world.nats.password("backup").to_owned()),
            ("NATS_PROVISION_PASSWORD", world.nats.password("provision").to_owned()),
            ("DATABASE_URL", world.database.url.clone()),
        ];
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables,
        }
    }

    /// Runs the steps under a heading, as they stand there.
    async fn does(&self, heading: &str) {
        self.runs(block(heading, "sh"), 0).await;
    }

    /// Runs a script that ends with this exit status; what it printed.
    async fn runs(&self, script: &str, code: i32) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(self.folder.path()).env_clear();
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = shell.stdin(Stdio::null()).kill_on_drop(true).output();
        // A script has several commands.
        let output = tokio::time::timeout(3 * PATIENCE, output).await.unwrap().unwrap();
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{script}\n{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

async fn lose_tables(world: &World) {
    let statements = "DROP SCHEMA hub CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;";
    world.database.run(statements).await.unwrap();
}

async fn lose_nats(world: &World) {
    let server = &world.nats.server;
    server.kill().await.unwrap();
    std::fs::remove_dir_all(server.dir().join("jetstream")).unwrap();
    server.restart().await.unwrap();
}

/// Whether each of these orders came to the backend under one key.
fn each_has_one_key(world: &World, named: &str, count: usize) {
    for id in ids(named, count) {
        let mut keys = world.keys_of(&id);
        keys.dedup();
        assert_eq!(keys.len(), 1, "{id}: {keys:?}");
    }
}

/// The orders that the backend was asked to take, each with how often.
fn orders_at(world: &World, named: &str) -> Vec<usize> {
    let requests = world.backend.requests();
    let count = |id: &str| requests.iter().filter(|one| one.external_order_id() == id).count();
    ids(named, 20)
        .iter()
        .map(|id| count(id))
        .take_while(|count| *count > 0)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drill() {
    let Some(pg_dump) = postgres_program("pg_dump") else {
        eprintln!("this PostgreSQL comes without pg_dump: the drill is not run");
        return;
    };
    let mut world = World::new().await;
    let shell = Shell::of(&world, pg_dump.parent().unwrap());
    let hub = world.hub().await;
    // One order is waiting for its retry while the backup is made: its lane is not in it, and must be found again.
    let parked = ids("parked", 1);
    let later = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for(&parked[0], [later]);
    world.post_orders(&hub, parked).await;
    world.post_orders(&hub, ids("kept", 6)).await;
    world.log.wait_for(EventType::OrderForwarded, 6).await;
    world.has_parked(1).await;
    shell.does("Making a backup").await;

    // The tables alone are lost: nothing is.
    world.post_orders(&hub, ids("later", 3)).await;
    world.log.wait_for(EventType::OrderForwarded, 9).await;
    hub.terminate().await;
    lose_tables(&world).await;
    shell.does("Restoring the tables").await;
    let hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(10)).await;

    // Both are lost; then what came after the backup is gone, until providers send it again.
    hub.kill().await;
    lose_nats(&world).await;
    lose_tables(&world).await;
    shell.does("Restoring the log").await;
    shell.does("Restoring the tables").await;
    world.log = Log::open(&world.nats).await;
    let hub = world.hub().await;
    world.hand_out_again().await;
    world.log_and_tables_end(Ends::forwarded(7)).await;
    for (attempt, id) in ids("later", 3).iter().enumerate() {
        // As some providers send an order again: they count in the body.
        let counted = |first: &str| first.replacen('{', &format!("{{\"attempt\": {attempt},"), 1);
        let body = if attempt == 0 { order(id) } else { counted(&order(id)) };
        world.careem.post(&hub, &body).await.event_id();
    }
    world.log_and_tables_end(Ends::forwarded(10)).await;
    world.post_orders(&hub, ids("new", 2)).await;
    world.log_and_tables_end(Ends::forwarded(12)).await;
    assert_eq!(
        orders_at(&world, "kept"),
        [1; 6],
        "no order that the log knows is asked for again"
    );
    assert_eq!(
        orders_at(&world, "later"),
        [2; 3],
        "the restored log does not have them"
    );
    assert_eq!(orders_at(&world, "new"), [1; 2]);
    assert!(!orders_at(&world, "parked").is_empty());
    for (named, count) in [("kept", 6), ("later", 3), ("new", 2), ("parked", 1)] {
        each_has_one_key(&world, named, count);
    }
}

fn settings(nats: &Nats, user: &str) -> Settings {
    nats.settings(user).set("PARTITIONS", PARTITIONS)
}

fn refused(ran: &Ran, reason: &str) {
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.stderr.contains(reason), "{reason}: {}", ran.said());
}

async fn events(nats: &Nats) -> stream::Stream {
    nats.provision().await.get_stream("EVENTS").await.unwrap()
}

async fn append(nats: &Nats, count: usize) {
    let hub = jetstream::new(nats.connect("hub").await);
    for _ in 0..count {
        let published = hub.publish("orders.forwarded.careem.b.p00", "{}".into()).await;
        published.unwrap().await.unwrap();
    }
}

/// A server with a small log, and a backup of it.
struct BackedUp {
    nats: Nats,
    provision: Settings,
    _folder: tempfile::TempDir,
    /// The folder of the backup.
    place: String,
}

impl BackedUp {
    /// With so many events.
    async fn of_events(count: usize) -> Self {
        let nats = Nats::start().await;
        let (backup, provision) = (settings(&nats, "backup"), settings(&nats, "provision"));
        run(&provision, &["streams", "apply"]).await.expect_success();
        append(&nats, count).await;
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log").to_str().unwrap().to_owned();
        run(&backup, &["backup", &place]).await.expect_success();
        Self {
            nats,
            provision,
            _folder: folder,
            place,
        }
    }
}

/// A log of 20 MB, of which a consumer has read some.
async fn fill(nats: &Nats) {
    let hub = jetstream::new(nats.connect("hub").await);
    for _ in 0..LARGE / (512 * 1024) {
        // What cannot be packed, so that the snapshot is as large.
        let body: Vec<u8> = (0..32 * 1024).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
        let published = hub.publish("orders.forwarded.careem.b.p00", body.into()).await;
        published.unwrap().await.unwrap();
    }
    let stream = hub.get_stream("EVENTS").await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("projection").await.unwrap();
    let mut messages = consumer.batch().max_messages(7).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_whole_and_restores_over_nothing_but_an_empty_log() {
    let nats = Nats::start().await;
    let (backup, provision) = (settings(&nats, "backup"), settings(&nats, "provision"));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    refused(&run(&backup, &["backup", place]).await, "EVENTS is missing");
    std::fs::remove_dir_all(place).ok();
    run(&provision, &["streams", "apply", "--max-age", "100d"])
        .await
        .expect_success();
    fill(&nats).await;
    let before = events(&nats).await.cached_info().clone();

    let made = run(&backup, &["--json", "backup", place]).await.expect_success();
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(
        (&made["messages"], &made["lastSequence"]),
        (&before.state.messages.into(), &before.state.last_sequence.into())
    );
    let file = Path::new(place).join("stream.tar.s2");
    for path in [&file, &Path::new(place).join("backup.json")] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    refused(&run(&backup, &["backup", place]).await, "is not empty");
    refused(
        &run(&backup, &["restore", place, "--replace"]).await,
        "publish to \"$JS.API.STREAM.",
    );
    refused(
        &run(&settings(&nats, "hub"), &["backup", &format!("{place}2")]).await,
        "_INBOX_backup",
    );
    refused(&run(&provision, &["restore", place]).await, "--replace");
    assert_eq!(events(&nats).await.cached_info().state.messages, before.state.messages);
    assert_eq!(
        events(&nats).await.cached_info().config,
        before.config,
        "a refusal leaves it as it was"
    );

    // What is not as it was written is not restored.
    let whole = std::fs::read(&file).unwrap();
    let mut changed = whole.clone();
    changed[LARGE / 2] ^= 1;
    for (bytes, reason) in [
        (replaced::OF_NOTHING, "is not the file"),
        (&changed[..], "does not match its checksum"),
        (&whole[..LARGE / 2], "is broken"),
        (&[][..], "is broken"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        refused(&run(&provision, &["restore", place, "--replace"]).await, reason);
    }
    std::fs::write(&file, &whole).unwrap();
    let manifest = Path::new(place).join("backup.json");
    std::fs::rename(&manifest, folder.path().join("away")).unwrap();
    refused(&run(&provision, &["restore", place]).await, "no backup");
    std::fs::rename(folder.path().join("away"), &manifest).unwrap();

    // Over an empty log, and in place of another.
    nats.provision().await.delete_stream("EVENTS").await.unwrap();
    run(&provision, &["streams", "apply"]).await.expect_success();
    for args in [&["restore", place][..], &["restore", place, "--replace"]] {
        run(&provision, args).await.expect_success();
        let stream = events(&nats).await;
        let after = stream.cached_info();
        assert_eq!(after.state.messages, before.state.messages);
        assert_eq!(after.state.last_sequence, before.state.last_sequence);
        assert_eq!(
            (after.state.bytes, after.config.max_age),
            (before.state.bytes, before.config.max_age)
        );
        let projection = stream.consumer_info("projection").await.unwrap();
        assert_eq!(projection.ack_floor.stream_sequence, 7);
        run(&provision, &["streams", "apply"]).await.expect_success();
        run(&provision, &["streams", "diff"]).await.expect_success();
    }
}

/// Many small events that cannot be compressed, so that they take several chunks.
async fn fill_with_many(nats: &Nats) {
    let body = || -> Vec<u8> { (0..64).flat_map(|_| Uuid::new_v4().into_bytes()).collect() };
    fill_in_batches(nats, MANY / BATCH, || body().into()).await;
}

/// Appends events in batches that are stored together.
async fn fill_in_batches(nats: &Nats, batches: usize, body: impl Fn() -> Bytes) {
    let client = nats.connect("hub").await;
    for _ in 0..batches {
        let id = Uuid::new_v4().to_string();
        let mut answer = None;
        for number in 1..=BATCH {
            let body = body();
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", number.to_string());
            let subject = "orders.forwarded.careem.b.p00";
            if number < BATCH {
                let published = client.publish_with_headers(subject, headers, body);
                published.await.unwrap();
            } else {
                headers.insert("Nats-Batch-Commit", "1");
                let committed = client.request_with_headers(subject, headers, body);
                answer = Some(committed.await.unwrap());
            }
        }
        let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        assert_eq!(answer["count"], BATCH, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_leaves_no_log_that_looks_complete() {
    let world = World::new().await;
    let nats = &world.nats;
    fill_with_many(nats).await;
    let (backup, provision) = (settings(nats, "backup"), settings(nats, "provision"));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    run(&backup, &["backup", place]).await.expect_success();
    let all = events(nats).await.cached_info().state.messages;
    let context = nats.provision().await;
    context.delete_stream("EVENTS").await.unwrap();
    run(&provision, &["streams", "apply"]).await.expect_success();
    let hub = world.hub().await;

    // Killed as soon as the server has a part of it.
    let was = events(nats).await.cached_info().created;
    let restored = async || {
        let mut restore = begin(&provision, &["restore", place]);
        eventually("the server has a part", PATIENCE, async || {
            match context.get_stream("EVENTS").await {
                Ok(stream) if stream.cached_info().created != was => Ok(()),
                other => Err(format!("{:?}", other.map(|stream| stream.cached_info().created))),
            }
        })
        .await;
        restore.kill().await.unwrap();
    };
    let mut tries = 0..5;
    restored().await;
    let diff = loop {
        let diff = run(&provision, &["streams", "diff"]).await;
        if diff.code == Some(1) {
            break diff;
        }
        let messages = events(nats).await.cached_info().state.messages;
        assert_eq!(messages, all, "a part passes for whole: {}", diff.said());
        tries.next().expect("a restore that is interrupted");
        context.delete_stream("EVENTS").await.unwrap();
        restored().await;
    };
    for said in [INTERRUPTED, "could lose events"] {
        assert!(diff.stdout.contains(said), "{}", diff.said());
    }
    refused(&run(&provision, &["streams", "apply"]).await, INTERRUPTED);
    refused(&run(&backup, &["backup", &format!("{place}2")]).await, INTERRUPTED);
    refused(&run(&world.settings(), &["serve"]).await, INTERRUPTED);
    // The hub that runs takes nothing, and says so.
    let line = "event_log_trouble{reason=\"restoring\"} 1";
    world.metrics_say(&hub, line).await;
    let [order] = &ids("refused", 1)[..] else {
        unreachable!()
    };
    let answer = world.careem.post(&hub, &careem::order(order)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let ready = reqwest::get(format!("{}/health/ready", hub.url())).await.unwrap();
    assert_eq!(ready.status(), 503);
    hub.kill().await;

    // What would not hold it is found before anything is deleted.
    let left = events(nats).await.cached_info().created;
    let manifest = Path::new(place).join("backup.json");
    let whole = std::fs::read(&manifest).unwrap();
    let mut smaller: Value = serde_json::from_slice(&whole).unwrap();
    smaller["config"]["max_bytes"] = 1000.into();
    std::fs::write(&manifest, smaller.to_string()).unwrap();
    refused(&run(&provision, &["restore", place, "--replace"]).await, "--max-bytes");
    assert_eq!(events(nats).await.cached_info().created, left);
    std::fs::write(&manifest, whole).unwrap();

    // Again, and it is whole.
    run(&provision, &["restore", place]).await.expect_success();
    let after = events(nats).await.cached_info().clone();
    assert_eq!((after.state.messages, after.config.subjects.len()), (all, 3));
    run(&provision, &["streams", "apply"]).await.expect_success();
    run(&provision, &["streams", "diff"]).await.expect_success();
    refused(&run(&provision, &["restore", place]).await, "--replace");
}
