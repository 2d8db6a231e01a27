//! What the user `provision` does with the log is on the log: a hub records it, once.

use serde_json::json;

use super::*;
use crate::harness::hub::Hub;

/// The acts that `operator audit` lists.
async fn acts(nats: &Nats) -> Vec<Value> {
    let audit = ["operator", "audit", "--json"];
    let ran = run(&settings(nats, "hub"), &audit).await.expect_success();
    let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
    listed["acts"].as_array().unwrap().clone()
}

pub(super) async fn acts_become(nats: &Nats, kinds: &[&str]) -> Vec<Value> {
    eventually("the acts are recorded", PATIENCE, async || {
        let acts = acts(nats).await;
        if acts.iter().map(|act| &act["kind"]).eq(kinds) {
            Ok(acts)
        } else {
            Err(acts)
        }
    })
    .await
}

/// Who, why, what, and the result.
pub(super) fn facts(act: &Value) -> Value {
    json!([act["by"], act["reason"], act["arguments"], act["result"]["counts"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_and_a_changed_limit() {
    let mut world = World::new().await;
    let provision = settings(&world.nats, "provision")
        .set("USER", "night")
        .set("HOSTNAME", "shift");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log").to_str().unwrap().to_owned();
    let times = world.settings().set("HUB_TEST_TIMES", "jobs_look=100ms");
    let hub = Hub::start(&times).await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    run(&settings(&world.nats, "backup"), &["backup", &place])
        .await
        .expect_success();
    world.post_orders(&hub, ids("lost", 1)).await;
    world.at_end(Ends::forwarded(3)).await;
    hub.terminate().await;

    let restore = [
        "restore",
        &place,
        "--replace",
        "--as",
        "anna@desk",
        "--reason",
        "the disk was damaged",
    ];
    run(&provision, &restore).await.expect_success();
    run(&provision, &["streams", "apply"]).await.expect_success();
    assert_eq!(acts(&world.nats).await, Vec::<Value>::new(), "no hub runs");
    // Two hubs find the note, and each of them once more after a restart.
    let hubs = [Hub::start(&times).await, Hub::start(&times).await];
    let restored = acts_become(&world.nats, &["restore"]).await.remove(0);
    let (arguments, counts) = (&restored["arguments"], &restored["result"]["counts"]);
    assert_eq!(
        json!([
            restored["by"],
            restored["reason"],
            arguments["folder"],
            arguments["replacedLastSequence"]
        ]),
        json!(["anna@desk", "the disk was damaged", place, 9])
    );
    assert!(
        arguments["replacedBackup"].as_str().unwrap().contains("log.replaced-"),
        "{restored}"
    );
    assert_eq!((&counts["events"], &counts["lastSequence"]), (&json!(6), &json!(6)));
    for hub in hubs {
        hub.terminate().await;
    }
    world.log = Log::open(&world.nats).await;
    let hub = Hub::start(&times).await;
    world.post_orders(&hub, ids("later", 1)).await;
    // The tables know more than the log, which lost an order.
    world.log.wait_for(EventType::OrderForwarded, 3).await;

    // A running hub records what changes the log's limits. The same once more changes nothing, and is no act.
    for _ in 0..2 {
        run(
            &provision,
            &["streams", "apply", "--max-bytes", "1gb", "--reason", "a small disk"],
        )
        .await
        .expect_success();
        let acts = acts_become(&world.nats, &["restore", "apply-streams"]).await;
        let changed = json!({ "max_bytes": [60_129_542_144_u64, 1 << 30] });
        assert_eq!(
            facts(&acts[1]),
            json!(["night@shift", "a small disk", { "forget": false }, changed])
        );
    }
    run(&provision, &["streams", "diff"]).await.expect_success();
    let text = run(
        &settings(&world.nats, "hub"),
        &["operator", "audit", "--kind", "restore"],
    )
    .await;
    assert!(
        text.stdout.contains("anna@desk") && text.stdout.contains("1 act"),
        "{}",
        text.said()
    );
    world.log.settled().await;
}
