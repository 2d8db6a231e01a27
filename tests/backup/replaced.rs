//! Tests that a log is backed up to the disk before it is deleted, and that what the server would refuse is found before that.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;

/// A snapshot with a valid form but nothing that NATS can restore: "123456789" in an unpacked block.
pub(super) const OF_NOTHING: &[u8] = b"\xff\x06\x00\x00S2sTwO\x01\x0d\x00\x00\xe5\xb0\x8a\xc7123456789";

/// The folder beside the backup that holds the replaced log.
fn replaced_beside(place: &Path) -> Vec<String> {
    let beside = std::fs::read_dir(place.parent().unwrap()).unwrap();
    let names = beside.map(|entry| entry.unwrap().path());
    let is_it = |path: &std::path::PathBuf| path.to_str().unwrap().contains("log.replaced-");
    names
        .filter(is_it)
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
}

/// Changes the manifest of a backup.
fn change_manifest(place: &Path, change: impl FnOnce(&mut Value)) {
    let path = place.join("backup.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(&path, manifest.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_that_is_replaced_can_be_restored() {
    let backed_up = BackedUp::of_events(2).await;
    let BackedUp {
        nats,
        provision,
        place: to,
        ..
    } = &backed_up;
    let place = Path::new(to);
    append(nats, 3).await;
    let last = async || events(nats).await.cached_info().state.last_sequence;
    let was = events(nats).await.cached_info().created;

    // A log that NATS would not create, or that the hub does not have, is refused while the old log is still there.
    let manifest = std::fs::read(place.join("backup.json")).unwrap();
    let leak = json!({"src": "webhooks.>", "dest": "hub.breaker"});
    for (config, reason) in [
        (json!({"num_replicas": 3}), "--replicas 1"),
        (json!({"description": "x".repeat(5000)}), "NATS cannot make this log"),
        (json!({"max_bytes": 1_i64 << 50}), "NATS cannot make this log"),
        (
            json!({"max_age": 1, "metadata": {"webhook-hub.max_age": "1"}}),
            "--max-age",
        ),
        (json!({"max_age": 1}), "EVENTS: max_age is 1 but should be"),
        (json!({"name": "LEASES"}), "EVENTS: name is \"LEASES\""),
        (json!({"storage": "memory"}), "EVENTS: storage is \"memory\""),
        (json!({"deny_delete": false}), "EVENTS: deny_delete is false"),
        (json!({"republish": leak}), "EVENTS: republish is {"),
        (json!({"subject_transform": leak}), "EVENTS: subject_transform is {"),
        (json!({"sources": [{"name": "LEASES"}]}), "EVENTS: sources is ["),
        (
            json!({"of_tomorrow": 1}),
            "EVENTS: of_tomorrow is 1 but should not be set",
        ),
    ] {
        change_manifest(place, |manifest| {
            for (setting, value) in config.as_object().unwrap() {
                manifest["config"][setting] = value.clone();
            }
        });
        for how in [
            &["restore", to, "--replace"][..],
            &["restore", to, "--replace", "--no-backup"],
        ] {
            refused(&run(provision, how).await, reason);
        }
        std::fs::write(place.join("backup.json"), &manifest).unwrap();
    }
    let in_use = place.parent().unwrap().to_str().unwrap();
    let into_it = ["restore", to, "--replace", "--backup-to", in_use];
    refused(&run(provision, &into_it).await, "the existing log stays");
    let now = events(nats).await.cached_info().clone();
    assert_eq!((now.created, now.state.last_sequence), (was, 5));
    assert!(replaced_beside(place).is_empty());
    append(nats, 1).await;

    // The backup is useless, which NATS notices only once the old log is gone.
    let whole = std::fs::read(place.join("stream.tar.s2")).unwrap();
    std::fs::write(place.join("stream.tar.s2"), OF_NOTHING).unwrap();
    change_manifest(place, |manifest| {
        manifest["backup"]["bytes"] = OF_NOTHING.len().into();
        manifest["backup"]["sha256"] = hex::encode(Sha256::digest(OF_NOTHING)).into();
    });
    let ran = run(provision, &["restore", to, "--replace"]).await;
    let [kept] = &replaced_beside(place)[..] else {
        panic!("one backup of the old log: {}", ran.said())
    };
    refused(&ran, &format!("a backup of the log that was deleted is in {kept}"));
    assert!(ran.stderr.contains("run the same command again"), "{}", ran.said());
    std::fs::write(place.join("stream.tar.s2"), whole).unwrap();
    std::fs::write(place.join("backup.json"), manifest).unwrap();

    // A second run completes; then the replaced log is restored from its backup.
    run(provision, &["restore", to]).await.expect_success();
    assert_eq!(last().await, 2);
    let ran = run(provision, &["--json", "restore", kept, "--replace", "--no-backup"]).await;
    let said: Value = serde_json::from_str(&ran.expect_success().stdout).unwrap();
    assert_eq!((&said["lastSequence"], said.get("replaced")), (&6.into(), None));
    assert_eq!(last().await, 6);
    run(provision, &["streams", "apply"]).await.expect_success();
    run(provision, &["streams", "diff"]).await.expect_success();
    append(nats, 1).await;
    assert_eq!(last().await, 7, "it takes events");
}

/// Hubs that were not stopped append while the log is replaced: each acknowledged event is on the log or in the backup of the
/// replaced log.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_comes_between_its_backup_and_its_deletion() {
    let backed_up = BackedUp::of_events(2).await;
    let BackedUp {
        nats,
        provision,
        place: to,
        ..
    } = &backed_up;
    let place = Path::new(to);

    let hub = jetstream::new(nats.connect("hub").await);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let appending = async {
        let (mut acknowledged, mut stopped) = (2, stopped);
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            let published = hub.publish("orders.forwarded.careem.b.p00", "{}".into()).await;
            acknowledged += u64::from(published.unwrap().await.is_ok());
        }
        acknowledged
    };
    let restoring = async {
        let ran = run(provision, &["restore", to, "--replace"]).await;
        stop.send(()).unwrap();
        ran
    };
    let (acknowledged, ran) = tokio::join!(appending, restoring);
    assert!(acknowledged > 2, "it appended meanwhile");
    if ran.code == Some(0) {
        let [kept] = &replaced_beside(place)[..] else {
            panic!("one backup of the old log: {}", ran.said())
        };
        let manifest = std::fs::read(Path::new(kept).join("backup.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let restored = events(nats).await.cached_info().state.last_sequence - 2;
        let kept = manifest["backup"]["lastSequence"].as_u64().unwrap();
        assert_eq!(kept + restored, acknowledged, "{manifest}");
    } else {
        refused(&ran, "meanwhile, and stays: stop the hubs");
        append(nats, 1).await;
        assert_eq!(events(nats).await.cached_info().state.last_sequence, acknowledged + 1);
    }
    run(provision, &["streams", "apply"]).await.expect_success();
}
