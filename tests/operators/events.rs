//! `events`: shows events of the log, past and new ones, without personal data.

use std::{process::Stdio, time::Duration};

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::harness::{
    hub::run,
    wait::PATIENCE,
    written::{NAMES, Written, noon},
};

/// The lines that a command prints.
async fn lines(log: &Written, args: &[&str]) -> Vec<String> {
    let args: Vec<_> = ["events", "tail"].iter().chain(args).copied().collect();
    let ran = run(&log.settings(), &args).await.expect_success();
    for name in NAMES {
        assert!(!ran.said().contains(name), "{name} in {}", ran.said());
    }
    ran.stdout.lines().map(str::to_owned).collect()
}

/// Places on the log of the events that it prints.
async fn places(log: &Written, args: &[&str]) -> Vec<u64> {
    let lines = lines(log, &[args, &["--json"]].concat()).await;
    let place = |line: &String| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["sequence"].as_str().unwrap().parse().unwrap()
    };
    lines.iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_past_events() {
    let log = Written::new().await;
    assert_eq!(lines(&log, &[]).await, Vec::<String>::new());
    log.refused("CR-1", noon()).await; // 1 to 4
    log.homeless("CR-2", noon() + TimeDelta::hours(1)).await; // 5, 6
    log.garbage().await; // 7, which is no event
    log.lost_menu("main", noon() + TimeDelta::hours(2)).await; // 8, 9

    let all: Vec<u64> = vec![1, 2, 3, 4, 5, 6, 8, 9];
    for (args, expected) in [
        (&[][..], &all[..]),
        (&["--limit", "3"], &[6, 8, 9]),
        (&["--from", "2", "--to", "5"], &[2, 3, 4, 5]),
        (&["--from", "2", "--limit", "2"], &[2, 3]),
        (&["--type", "order.dead_lettered"], &[4, 6, 9]),
        (&["--type", "webhook.received,menu.sync_requested"], &[1, 5, 8]),
        (&["--order", "CR-1"], &[1, 2, 3, 4]),
        (&["--branch", "main", "--type", "order.transformed"], &[2]),
        (
            &["--provider", "careem", "--since", "2025-10-01T13:00:00Z"],
            &[5, 6, 8, 9],
        ),
        (
            &["--until", "2025-10-01T13:00:00Z", "--since", "2025-10-01T12:00:01Z"],
            &[2, 3, 4, 5],
        ),
        (&["--since", "1h"], &[]),
    ] {
        assert_eq!(places(&log, args).await, expected, "{args:?}");
    }
    let text = lines(&log, &["--from", "4", "--to", "4"]).await;
    assert_eq!(
        text,
        [
            "       4  2025-10-01T12:00:02.000Z  order.dead_lettered       careem CR-1  given up: in forward after 2 attempts: BACKEND_422 \
             (validation): the backend refused the order with 422; waits for a person"
        ]
    );

    // One, whole: a CloudEvent.
    let shown = run(&log.settings(), &["events", "show", "2", "--json"])
        .await
        .expect_success();
    let event: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&event["specversion"], &event["type"]),
        (&json!("1.0"), &json!("order.transformed"))
    );
    assert_eq!(
        (&event["source"], &event["subject"]),
        (&json!("/providers/careem"), &json!("CR-1"))
    );
    assert_eq!(
        event["data"],
        json!({ "id": "CR-anna", "customer": { "name": "***", "phone": "***" }, "to": "***" })
    );
    let failed = run(&log.settings(), &["events", "show", "3", "--json"])
        .await
        .expect_success();
    let event: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(event["data"]["error"]["message"], "the backend answered 500");

    for (args, named) in [
        (&["events", "show", "7"][..], "message 7 of the log is not an event"),
        (&["events", "show", "10"], "there is no event 10"),
        (&["events", "tail", "--type", "order.eaten"], "order.dead_lettered"),
        (&["events", "tail", "--follow", "--until", "1h"], "--until"),
    ] {
        let ran = run(&log.settings(), args).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.said());
        assert!(ran.stderr.contains(named), "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_follows_new_events() {
    let log = Written::new().await;
    log.refused("CR-before", noon()).await;
    let environment = log.settings().environment();
    let mut following = Command::new(env!("CARGO_BIN_EXE_webhook-hub"))
        .args(["events", "tail", "--follow", "--json", "--type", "order.dead_lettered"])
        .env_clear()
        .envs(environment.iter())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line");
        let event: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        event["subject"].as_str().unwrap().to_owned()
    };
    assert_eq!(next().await, "CR-before");
    log.homeless("CR-1", noon()).await;
    assert_eq!(next().await, "CR-1");
    log.refused("CR-2", noon()).await;
    assert_eq!(next().await, "CR-2");
    // It ends with its reader, at the next event.
    drop(lines);
    log.homeless("CR-3", noon()).await;
    let ended = tokio::time::timeout(PATIENCE + Duration::from_secs(2), following.wait()).await;
    assert!(ended.expect("it ends").unwrap().success());
}
