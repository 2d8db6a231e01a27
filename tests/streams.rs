//! A NATS that is not as it must be: the hub refuses to serve on it and says how to mend it.

use async_nats::jetstream;
use serde_json::json;

use crate::harness::{
    PARTITIONS, World,
    hub::{Ran, Settings, run},
    servers::Nats,
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
async fn apply_makes_what_diff_misses() {
    let nats = Nats::start().await;
    let diff = run(&provision(&nats), &["streams", "diff"]).await;
    assert_eq!(diff.code, Some(1));
    assert!(diff.stdout.contains("EVENTS is missing"), "{}", diff.said());
    run(&provision(&nats), &["streams", "apply"]).await.expect_success();
    run(&provision(&nats), &["streams", "diff"]).await.expect_success();
    // Again, and nothing changes.
    run(&provision(&nats), &["streams", "apply"]).await.expect_success();

    // What differs is named, and a machine can read it.
    delete_forward(&nats.provision().await).await;
    let diff = run(&provision(&nats), &["streams", "diff", "--json"]).await;
    let differences: serde_json::Value = serde_json::from_str(&diff.stdout).unwrap();
    let expected = json!({ "differences": [{ "difference": "forward is missing", "dangerous": true }] });
    assert_eq!((diff.code, differences), (Some(1), expected));
    run(&provision(&nats), &["streams", "apply"]).await.expect_success();
    run(&provision(&nats), &["streams", "diff"]).await.expect_success();
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
async fn a_user_without_the_right_is_told_which() {
    let world = World::new().await;
    // NATS may name either of the two that are missing first.
    let rights = ["subscribe to \"_INBOX.", "publish to \"$JS.API.STREAM."];
    for (user, args) in [
        ("hub", &["streams", "diff"][..]),
        ("hub", &["streams", "apply"]),
        ("subscriber", &["streams", "diff"]),
    ] {
        let ran = run(&world.nats.settings(user), args).await;
        assert_eq!(ran.code, Some(1), "{user} {args:?}: {}", ran.said());
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
async fn a_user_that_may_look_up_only_some_streams_is_told_which_it_may_not() {
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
    for (args, right) in [
        (["streams", "diff"], "publish to \"$JS.API.STREAM.INFO.LEASES\""),
        (["streams", "apply"], "publish to \"$JS.API.STREAM.INFO.LEASES\""),
    ] {
        let ran = run(&provision(&nats), &args).await;
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.said());
        assert!(
            ran.stderr.contains(right) && ran.stderr.contains("provision"),
            "{args:?}: {}",
            ran.said()
        );
    }
}
