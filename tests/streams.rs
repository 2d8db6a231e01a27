//! NATS with a wrong set-up: the hub refuses to serve on it and says how to correct it.

use async_nats::jetstream;
use serde_json::json;

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    hub::{Hub, Ran, Settings, run},
    ids,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

fn provision(nats: &Nats) -> Settings {
    nats.settings("provision").set("PARTITIONS", PARTITIONS)
}

/// A hub that does not serve says so in one line on standard error.
fn refused(ran: &Ran, reason: &str) {
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].contains(reason) && lines[0].contains("streams apply"),
        "{}",
        ran.said()
    );
}

async fn delete_forward(provision: &jetstream::Context) {
    let events = provision.get_stream("EVENTS").await.unwrap();
    events.delete_consumer("forward").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_what_diff_reports() {
    let nats = Nats::start().await;
    let diff = run(&provision(&nats), &["streams", "diff"]).await;
    assert_eq!(diff.code, Some(1));
    assert!(diff.stdout.contains("EVENTS is missing"), "{}", diff.said());
    let plan = run(&provision(&nats), &["streams", "apply", "--dry-run"])
        .await
        .expect_success();
    assert!(
        plan.stdout
            .starts_with("EVENTS: is missing and is created; an empty log")
            && plan.stdout.contains("\nforward: is missing and is created; hubs begin")
            && plan.stdout.ends_with("\ndry run, nothing was changed\n"),
        "{}",
        plan.said()
    );
    let diff = run(&provision(&nats), &["streams", "diff"]).await;
    assert!(diff.stdout.contains("EVENTS is missing"), "{}", diff.said());
    // What is told before it is done is what the dry run said.
    let applied = run(&provision(&nats), &["streams", "apply"]).await.expect_success();
    assert_eq!(
        plan.stdout.trim_end_matches("dry run, nothing was changed\n"),
        applied.stderr
    );
    run(&provision(&nats), &["streams", "diff"]).await.expect_success();
    // Again, and nothing changes.
    let again = run(&provision(&nats), &["streams", "apply", "--json"])
        .await
        .expect_success();
    let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["changes"], json!([]));

    // What differs is named, and a machine can read it.
    delete_forward(&nats.provision().await).await;
    let diff = run(&provision(&nats), &["streams", "diff", "--json"]).await;
    let differences: serde_json::Value = serde_json::from_str(&diff.stdout).unwrap();
    let difference = json!({ "difference": "forward is missing", "dangerous": true });
    let expected = json!({ "differences": [difference], "chosen": [] });
    assert_eq!((diff.code, differences), (Some(1), expected));
    let applied = run(&provision(&nats), &["streams", "apply", "--json"])
        .await
        .expect_success();
    let applied: serde_json::Value = serde_json::from_str(&applied.stdout).unwrap();
    let change = json!({
        "of": "forward", "what": "is missing and is created",
        "consequence": "hubs begin or go on by themselves, and process no event twice",
    });
    assert_eq!(applied["changes"], json!([change]));
    run(&provision(&nats), &["streams", "diff"]).await.expect_success();

    // A consumer that only reads lanes keeps no position, and is made anew where any setting differs.
    let lanes = nats.provision().await.get_stream("LANES").await.unwrap();
    lanes.delete_consumer("read-forward").await.unwrap();
    let other = jetstream::consumer::pull::Config {
        durable_name: Some("read-forward".to_owned()),
        filter_subject: "lane.push.>".to_owned(),
        ..jetstream::consumer::pull::Config::default()
    };
    lanes.create_consumer(other).await.unwrap();
    let diff = run(&provision(&nats), &["streams", "diff"]).await;
    assert!(diff.stdout.contains("read-forward: ack_policy"), "{}", diff.said());
    let applied = run(&provision(&nats), &["streams", "apply"]).await.expect_success();
    assert!(
        applied.stderr.starts_with("read-forward: is deleted and created"),
        "{}",
        applied.said()
    );
    let diff = run(&provision(&nats), &["streams", "diff"]).await.expect_success();
    assert!(!diff.stdout.contains("read-forward"), "{}", diff.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_refuses_to_serve() {
    let world = World::new().await;
    // The stream could lose events.
    let provision = world.nats.provision().await;
    let config = provision
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    provision
        .update_stream(jetstream::stream::Config {
            max_messages: 1000,
            ..config.clone()
        })
        .await
        .unwrap();
    refused(&run(&world.settings(), &["serve"]).await, "max_msgs is 1000");
    // It could disclose them: what the server publishes by itself goes past all rights.
    let republish = jetstream::stream::Republish {
        source: "webhooks.received.>".to_owned(),
        destination: "hub.leak.>".to_owned(),
        headers_only: false,
    };
    let subject_transform = jetstream::stream::SubjectTransform {
        source: "webhooks.received.>".to_owned(),
        destination: "menus.leak.>".to_owned(),
    };
    for (setting, changed) in [
        (
            "republish",
            jetstream::stream::Config {
                republish: Some(republish),
                ..config.clone()
            },
        ),
        (
            "subject_transform",
            jetstream::stream::Config {
                subject_transform: Some(subject_transform),
                ..config.clone()
            },
        ),
    ] {
        provision.update_stream(changed).await.unwrap();
        refused(
            &run(&world.settings(), &["serve"]).await,
            &format!("EVENTS: {setting} is {{"),
        );
        for (command, settings) in [
            (&["streams", "diff"][..], self::provision(&world.nats)),
            (&["doctor"], world.settings()),
        ] {
            let ran = run(&settings, command).await;
            assert_eq!(ran.code, Some(1), "{}", ran.said());
            assert!(ran.stdout.contains(&format!("EVENTS: {setting} is ")), "{}", ran.said());
        }
    }
    provision.update_stream(config).await.unwrap();
    // A consumer is not there.
    delete_forward(&provision).await;
    refused(&run(&world.settings(), &["serve"]).await, "forward is missing");
    provision.delete_stream("EVENTS").await.unwrap();
    refused(&run(&world.settings(), &["serve"]).await, "EVENTS is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used() {
    let world = World::new().await;
    for (name, value) in [
        ("PARTITIONS", "0"),
        ("CAREEM_WEBHOOK_SECRET", ""),
        ("SERVICE_TOKEN", ""),
        ("TALABOT_ENABLED", "true"),
        ("CAREEM_IP_WHITELIST", "34.204.192.0/33"),
        ("NATS_URL", "nats://hub:secret@localhost"),
        ("MAX_PAYLOAD_SIZE", "much"),
        ("SHUTDOWN_GRACE", "30"),
    ] {
        let settings = world.settings().set(name, value);
        let settings = if name == "TALABOT_ENABLED" {
            settings.set("TALABOT_WEBHOOK_SECRET", "x")
        } else {
            settings
        };
        let ran = run(&settings, &["serve"]).await;
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.said());
        assert!(
            ran.stderr.lines().count() == 1 && ran.stderr.contains(name),
            "{name}: {}",
            ran.said()
        );
        assert!(!ran.said().contains("secret@"), "{}", ran.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    let world = World::new().await;
    // NATS may name either of the two that are missing first.
    let rights = ["subscribe to \"_INBOX.", "publish to \"$JS.API.STREAM."];
    for (user, args) in [
        ("hub", &["streams", "diff"][..]),
        ("hub", &["streams", "apply"]),
        ("subscriber", &["streams", "diff"]),
    ] {
        let ran = run(&world.nats.settings(user), args).await;
        // 1 would say that the server differs.
        let code = if args.contains(&"diff") { 2 } else { 1 };
        assert_eq!(ran.code, Some(code), "{user} {args:?}: {}", ran.said());
        let lines: Vec<_> = ran.stderr.lines().collect();
        assert!(
            lines.len() == 1
                && rights.iter().any(|right| lines[0].contains(right))
                && lines[0].contains(user)
                && !lines[0].contains("timed out"),
            "{user} {args:?}: {}",
            ran.said()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_a_user_may_not_look_up_are_named() {
    const ALL: &str = r#"publish: ["$JS.API.>","#;
    let some = |config: &str| {
        let some = config.replace(
            ALL,
            r#"publish: ["$JS.API.STREAM.INFO.EVENTS", "$JS.API.STREAM.CREATE.EVENTS","#,
        );
        assert_ne!(some, config);
        some
    };
    let nats = Nats::start_with(some, None).await;
    let right = "publish to \"$JS.API.STREAM.INFO.LEASES\"";
    for (args, code) in [(["streams", "diff"], 2), (["streams", "apply"], 1)] {
        let ran = run(&provision(&nats), &args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.said());
        assert!(
            ran.stderr.contains(right) && ran.stderr.contains("provision"),
            "{args:?}: {}",
            ran.said()
        );
    }
}

/// What an operator chose is kept with the streams: `diff` and the start judge by it, whoever runs `apply` next.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_choices_are_compared() {
    let world = World::new().await;
    let provision = provision(&world.nats);
    let apply = async |args: &[&str]| run(&provision, &[&["streams", "apply"], args].concat()).await;
    for wrong in [
        ["--replicas", "2"],
        ["--max-age", "1d"],
        ["--max-age", "x"],
        ["--max-bytes", "1mb"],
    ] {
        assert_eq!(apply(&wrong).await.code, Some(2), "{wrong:?}");
    }
    let ran = apply(&["--replicas", "3"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.stderr.contains("cluster"), "{}", ran.said());
    let limits = ["--max-age", "30d", "--max-bytes", "20gb"];
    let plan = apply(&[&limits[..], &["--dry-run", "--json"]].concat())
        .await
        .expect_success();
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    let whats: Vec<_> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| &change["what"])
        .collect();
    assert_eq!(whats, ["max_age 90d becomes 30d", "max_bytes 56.0 GB becomes 20.0 GB"]);
    let ran = apply(&limits).await.expect_success();
    assert!(ran.stdout.contains("EVENTS max_bytes 21474836480"), "{}", ran.said());
    assert!(
        ran.stderr
            .contains("EVENTS: max_age 90d becomes 30d; older events are deleted"),
        "{}",
        ran.said()
    );
    // It stays even if `apply` runs without it.
    apply(&[]).await.expect_success();
    run(&provision, &["streams", "diff"]).await.expect_success();
    let context = world.nats.provision().await;
    let config = async || {
        let stream = context.get_stream("EVENTS").await.unwrap();
        stream.cached_info().config.clone()
    };
    let chosen = config().await;
    assert_eq!((chosen.max_age.as_secs(), chosen.max_bytes), (30 * 86_400, 20 << 30));
    let hub = world.hub().await;
    world.post_orders(&hub, ids("chosen", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    assert!(!hub.logs_contain("not set up"), "{}", hub.log());
    hub.terminate().await;
    // Less than that is danger, as less than the file's was.
    let mut shorter = chosen.clone();
    shorter.max_age = std::time::Duration::from_secs(20 * 86_400);
    context.update_stream(shorter).await.unwrap();
    let diff = run(&provision, &["streams", "diff"]).await;
    assert!(
        diff.code == Some(1) && diff.stdout.contains("could lose events"),
        "{}",
        diff.said()
    );
    refused(&run(&world.settings(), &["serve"]).await, "max_age is 1728000000000000");
    let ran = apply(&["--max-age", "default", "--max-bytes", "default"])
        .await
        .expect_success();
    assert!(!ran.stdout.contains("chosen"), "{}", ran.said());
    let file: serde_json::Value = serde_json::from_str(include_str!("../streams/EVENTS.json")).unwrap();
    let now = config().await;
    assert_eq!(now.max_age.as_nanos(), u128::from(file["max_age"].as_u64().unwrap()));
    assert_eq!(Some(now.max_bytes), file["max_bytes"].as_i64());
}

/// Deletes the consumers of a stage and of the tables under a hub, which takes webhooks all the same.
async fn deletes_consumers(world: &World, hub: &Hub) {
    world.post_orders(hub, ids("before", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    let events = world.nats.provision().await.get_stream("EVENTS").await.unwrap();
    for consumer in ["forward", "projection"] {
        events.delete_consumer(consumer).await.unwrap();
    }
    world.post_orders(hub, ids("meanwhile", 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_under_the_hub_is_waited_for() {
    let world = World::new().await;
    let hub = world.hub().await;
    deletes_consumers(&world, &hub).await;
    for consumer in ["forward", "projection"] {
        let line = format!("consumer_missing{{consumer=\"{consumer}\"}} 1");
        world.metrics_say(&hub, &line).await;
    }
    eventually("the hub says what to do", PATIENCE, async || {
        let said = hub.logs_contain("was deleted, and this user may not create it: run `webhook-hub streams apply`");
        if said { Ok(()) } else { Err(hub.log()) }
    })
    .await;
    world.post_orders(&hub, ids("waiting", 2)).await;
    run(&provision(&world.nats), &["streams", "apply"])
        .await
        .expect_success();
    world.at_end(Ends::forwarded(7)).await;
    world
        .metrics_say(&hub, "consumer_missing{consumer=\"forward\"} 0")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_is_made_again_where_the_hub_may() {
    let may = |config: &str| {
        let right = "\"$JS.API.CONSUMER.INFO.EVENTS.*\"";
        assert!(config.contains(right), "{config}");
        let create = "\"$JS.API.CONSUMER.CREATE.EVENTS.>\"";
        let import = |subject: &str| format!("{{ service: {{ account: \"$SYS\", subject: {subject} }} }}\n");
        let look = import("\"$JS.API.STREAM.INFO.*\"");
        assert!(config.contains(&look), "{config}");
        let config = config.replace(&look, &format!("{look}{}", import(create)));
        config.replace(right, &format!("{right}, {create}"))
    };
    let world = World::with_nats(Nats::start_with(may, None)).await;
    let hub = world.hub().await;
    deletes_consumers(&world, &hub).await;
    world.at_end(Ends::forwarded(5)).await;
    assert_eq!(world.backend.count(), 5, "nothing is done again");
}
