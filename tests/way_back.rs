//! Nothing that was answered 200 ends without a way back: each end is listed, raises an alarm, and can be retried.

use chrono::TimeDelta;
use serde_json::{Value, json};
use webhook_hub::event::{EventId, EventType};

use crate::harness::{
    at_end::Ends,
    careem::order,
    hub::{Hub, run},
    log::payload,
    outside::{CAREEM, Outside},
    written::{Written, follow, noon, received},
};

/// An order as the provider sends it after a change of its format: what were `items` are `lines` now.
fn new_format(id: &str) -> String {
    order(id).replace("\"items\"", "\"lines\"")
}

/// The provider changes its format, orders are rejected; its file is mended, and the orders go to the kitchen.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_order_is_retried_after_the_file_is_corrected() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    let world = &outside.world;
    let hub = outside.hub().await;
    world.careem.post(&hub, &new_format("CR-new")).await.event_id();
    world.at_end(Ends::default().rejected(1)).await;
    hub.says("dead-lettered: an operator must act").await;
    world
        .metrics_say(&hub, "dead_letters_total{provider=\"careem\"} 1")
        .await;
    let operator = world.nats.settings("hub");
    let list = run(&operator, &["dead-letters", "list", "--json"])
        .await
        .expect_success();
    let listed: Value = serde_json::from_str(&list.stdout).unwrap();
    let row = &listed[0];
    assert_eq!(
        (&row["orderId"], &row["stage"], &row["code"], &row["attempts"]),
        (
            &json!("CR-new"),
            &json!("transform"),
            &json!("INVALID_ORDER"),
            &json!(0)
        )
    );
    let id = row["id"].as_str().unwrap();
    let shown = run(&operator, &["dead-letters", "show", id]).await.expect_success();
    for text in ["(open)", "/items", "webhook.received", "order.rejected"] {
        assert!(shown.stdout.contains(text), "{text} in {}", shown.stdout);
    }

    // Taken up with the same file it is rejected again, and is listed again.
    run(&operator, &["dead-letters", "retry", id]).await.expect_success();
    let rejected = world.log.wait_for(EventType::OrderRejected, 2).await;
    assert_eq!(payload(&rejected[1])["sequence"], payload(&rejected[0])["sequence"]);
    outside.rewrite("careem.toml", &CAREEM.replace("each = \"/items\"", "each = \"/lines\""));
    assert!(hub.terminate().await.0.success());
    let _hub = Hub::start(&outside.settings()).await;
    run(&operator, &["dead-letters", "retry", "--all"])
        .await
        .expect_success();
    world.at_end(Ends::forwarded(1)).await;
    let list = run(&operator, &["dead-letters", "list"]).await.expect_success();
    assert_eq!(list.stdout, "no open dead letters\n");
    let unresolved = "SELECT id FROM delivery_error_logs WHERE NOT is_resolved";
    assert_eq!(world.database.rows(unresolved).await.unwrap(), Vec::<Value>::new());
}

/// Logs of earlier versions hold rejections that do not say what was rejected: the webhook is found by its id.
#[tokio::test(flavor = "multi_thread")]
async fn rejections_of_earlier_versions_are_listed_and_retried() {
    let log = Written::new().await;
    let first = log.refused("CR-before", noon()).await;
    let rejected = log.rejected("CR-old", noon() + TimeDelta::hours(1)).await;
    let last = log.homeless("CR-after", noon() + TimeDelta::hours(2)).await;
    let of = |id: EventId| id.to_string();
    assert_eq!(
        log.open(&[]).await,
        [of(first), of(rejected), of(last)],
        "in the log's order"
    );
    let shown = log.run(&["show", &of(rejected)]).await.expect_success();
    assert!(
        shown.stdout.contains("given up    webhook.received"),
        "{}",
        shown.stdout
    );
    log.run(&["retry", &of(rejected)]).await.expect_success();
    let asked = log.requests().await.remove(0);
    assert_eq!(asked.1.cause_id, Some(rejected));
    assert_eq!(
        (&asked.2["stage"], &asked.2["sequence"]),
        (&json!("transform"), &json!(5))
    );
    assert_eq!(log.open(&[]).await, [of(first), of(last)]);
}

/// A message that a hub could not read: an alarm, a dead letter of the stage that it was for, and a retry that says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_message_is_listed_and_says_what_it_is_when_it_is_retried() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    let world = &outside.world;
    let hub = outside.hub().await;
    let nats = async_nats::jetstream::new(world.nats.connect("hub").await);
    for subject in ["webhooks.received.careem.p00", "orders.transformed.careem._.p00"] {
        nats.publish(subject, "garbage".into()).await.unwrap().await.unwrap();
    }
    world.log.wait_for(EventType::OrderRejected, 2).await;
    world
        .metrics_say(&hub, "dead_letters_total{provider=\"careem\"} 2")
        .await;
    let operator = world.nats.settings("hub");
    let list = run(&operator, &["dead-letters", "list", "--json"])
        .await
        .expect_success();
    let listed: Vec<Value> = serde_json::from_str(&list.stdout).unwrap();
    let mut stages: Vec<_> = listed.iter().map(|row| row["stage"].as_str().unwrap()).collect();
    stages.sort_unstable();
    assert_eq!(stages, ["forward", "transform"]);
    run(&operator, &["dead-letters", "retry", "--all"])
        .await
        .expect_success();
    let dead = world.log.payloads(EventType::OrderDeadLettered, 2).await;
    for one in &dead {
        assert_eq!(one["error"]["code"], "UNREADABLE_EVENT", "{one}");
    }
}

/// Orders that were taken for ones that exist already: no dead letters, but seen and taken up by whoever knows better.
#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_listed_and_retried() {
    let log = Written::new().await;
    let duplicate = log.ignored("CR-again", noon(), "DUPLICATE_ORDER").await;
    let unwanted = log.ignored("CR-word", noon(), "EVENT_NOT_WANTED").await;
    let dead = log.homeless("CR-homeless", noon()).await;
    let of = |id: EventId| id.to_string();
    assert_eq!(log.open(&[]).await, [of(dead)]);
    let listed = log.listed(&["--duplicates"]).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["code"], &listed[0]["message"]),
        (
            &json!(of(duplicate)),
            &json!("DUPLICATE_ORDER"),
            &json!("order CR-again exists already")
        )
    );
    assert_eq!(log.open(&["--ignored"]).await, [of(duplicate), of(unwanted)]);
    assert_eq!(
        log.open(&["--ignored", "--code", "EVENT_NOT_WANTED"]).await,
        [of(unwanted)]
    );
    let shown = log.run(&["show", &of(duplicate)]).await.expect_success();
    assert!(shown.stdout.contains("DUPLICATE_ORDER"), "{}", shown.stdout);
    // Not dragged along.
    log.run(&["retry", "--all"]).await.expect_success();
    assert_eq!(log.requests().await.len(), 1);
    log.run(&["retry", &of(duplicate), &of(unwanted)])
        .await
        .expect_success();
    let asked = &log.requests().await[1];
    assert_eq!(asked.1.cause_id, Some(duplicate));
    assert_eq!(
        asked.2,
        json!({ "stage": "transform", "sequence": 1, "by": "night@shift", "endedAs": "DUPLICATE_ORDER" })
    );
    assert_eq!(log.open(&["--duplicates"]).await, Vec::<String>::new());
}

/// Each filter of `list` and `retry --all`, and both together.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_by_stage_code_and_time() {
    let log = Written::new().await;
    let refused = log.refused("CR-1", noon()).await;
    let homeless = log.homeless("CR-2", noon() + TimeDelta::hours(1)).await;
    let rejected = log.rejected("CR-3", noon() + TimeDelta::hours(2)).await;
    let of = |id: EventId| id.to_string();
    assert_eq!(log.open(&["--stage", "forward"]).await, [of(refused)]);
    assert_eq!(log.open(&["--stage", "transform"]).await, [of(homeless), of(rejected)]);
    assert_eq!(log.open(&["--code", "BACKEND_422"]).await, [of(refused)]);
    assert_eq!(log.open(&["--code", "invalid_order"]).await, [of(rejected)]);
    assert_eq!(
        log.open(&["--until", "2025-10-01T13:30:00Z"]).await,
        [of(refused), of(homeless)]
    );
    let between = ["--since", "2025-10-01T12:30:00Z", "--until", "2025-10-01T13:30:00Z"];
    assert_eq!(log.open(&between).await, [of(homeless)]);
    for (args, named) in [
        (["list", "--stage", "kitchen"], "transform"),
        (["list", "--until", "tomorrow"], "T18:00:00Z"),
    ] {
        let ran = log.run(&args).await;
        assert_eq!(ran.code, Some(2), "{}", ran.said());
        assert!(ran.stderr.contains(named), "{}", ran.said());
    }
    let retried = log
        .run(&["retry", "--all", "--stage", "transform", "--code", "INVALID_ORDER"])
        .await;
    assert!(retried.expect_success().stdout.contains("1 retry requested"));
    assert_eq!(log.open(&[]).await, [of(refused), of(homeless)]);
}

/// `--all` retries orders without the menus that were given up with them, unless `--menus` is given.
#[tokio::test(flavor = "multi_thread")]
async fn retrying_all_leaves_menus_out() {
    let log = Written::new().await;
    log.homeless("CR-lost", noon()).await;
    let menu = log.lost_menu("main", noon()).await;
    let dry = log.run(&["retry", "--all", "--dry-run"]).await.expect_success();
    assert!(
        dry.stdout.contains("1 menu or state of a branch left out"),
        "{}",
        dry.stdout
    );
    let asked = log.run(&["retry", "--all"]).await.expect_success();
    assert!(
        asked.stdout.contains("1 retry requested") && asked.stdout.contains("--menus"),
        "{}",
        asked.stdout
    );
    assert_eq!(log.open(&[]).await, [menu.to_string()]);
    log.run(&["retry", "--all", "--menus"]).await.expect_success();
    assert_eq!(log.open(&[]).await, Vec::<String>::new());
    let asked = log.requests().await;
    assert_eq!((asked.len(), &asked[1].2["stage"]), (2, &json!("push")));
    let receipt = received("CR-lost", noon());
    assert_eq!(
        asked[0].1.root_id,
        follow(&receipt, "x", EventType::OrderRejected).root_id
    );
}
