//! A restore that is killed between two of its steps leaves the old log, or none and a mark that hubs and `streams apply` obey.

use super::*;

const CHANGE_EVENTS: &str = "$JS.API.STREAM.UPDATE.EVENTS";

/// A restore that is killed at this point.
async fn killed_at(point: &str, provision: &Settings, args: &[&str]) {
    let ran = run(&provision.clone().set("HUB_TEST_CRASH_AT", point), args).await;
    assert_eq!(ran.code, None, "it was killed at {point}: {}", ran.said());
}

async fn is_interrupted(provision: &Settings, hub: &Settings) {
    let diff = run(provision, &["streams", "diff"]).await;
    assert_eq!(diff.code, Some(1));
    assert!(diff.stdout.contains(INTERRUPTED), "{}", diff.said());
    refused(&run(provision, &["streams", "apply"]).await, INTERRUPTED);
    refused(&run(hub, &["serve"]).await, INTERRUPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_after_deleting_the_log_does_not_look_like_a_new_installation() {
    let mut world = World::new().await;
    let (backup, provision) = (settings(&world.nats, "backup"), settings(&world.nats, "provision"));
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    assert!(hub.terminate().await.0.success());
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    run(&backup, &["backup", place]).await.expect_success();

    // Before it deletes anything the log is the old one, and everything works.
    killed_at("restore_begun", &provision, &["restore", place, "--replace"]).await;
    run(&provision, &["streams", "diff"]).await.expect_success();
    assert!(world.hub().await.terminate().await.0.success());

    killed_at("restore_removed", &provision, &["restore", place, "--replace"]).await;
    is_interrupted(&provision, &world.settings()).await;
    let context = world.nats.provision().await;
    assert!(context.get_stream("EVENTS").await.is_err(), "nobody made an empty one");

    // Again, also killed after the last step but one.
    killed_at("restore_opened", &provision, &["restore", place]).await;
    run(&provision, &["streams", "apply"]).await.expect_success();
    run(&provision, &["streams", "diff"]).await.expect_success();
    let leases = context.get_stream("LEASES").await.unwrap();
    let metadata = &leases.cached_info().config.metadata;
    assert!(!metadata.contains_key("webhook-hub.restoring"), "{metadata:?}");
    world.log = Log::open(&world.nats).await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("new", 2)).await;
    world.hand_out_again().await;
    world.log_and_tables_end(Ends::forwarded(5)).await;
    assert_eq!(
        orders_at(&world, "kept"),
        [1; 3],
        "no order that the log knows is asked for again"
    );
}

/// A server that had nothing: there is no stream yet that could carry a mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_onto_an_empty_server_that_is_killed_can_be_given_up() {
    let backed_up = BackedUp::of_events(0).await;
    let BackedUp {
        nats, provision, place, ..
    } = &backed_up;
    let context = nats.provision().await;
    for stream in ["EVENTS", "LEASES"] {
        context.delete_stream(stream).await.unwrap();
    }
    killed_at("restore_removed", provision, &["restore", place]).await;
    refused(&run(provision, &["streams", "apply"]).await, INTERRUPTED);
    run(provision, &["streams", "apply", "--forget"]).await.expect_success();
    run(provision, &["streams", "diff"]).await.expect_success();
    // It is not taken for interrupted when the log is lost once more.
    context.delete_stream("EVENTS").await.unwrap();
    run(provision, &["streams", "apply"]).await.expect_success();

    // Closed, and then killed: it is empty, so it needs no --replace.
    killed_at("restore_closed", provision, &["restore", place]).await;
    refused(&run(provision, &["streams", "apply"]).await, INTERRUPTED);
    run(provision, &["restore", place]).await.expect_success();
    run(provision, &["streams", "diff"]).await.expect_success();
}

/// A restore saw an empty log, closed it and was killed; before it was closed the log took an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_closed_just_after_an_event_is_reopened() {
    let backed_up = BackedUp::of_events(0).await;
    let BackedUp {
        nats, provision, place, ..
    } = &backed_up;
    let hub = jetstream::new(nats.connect("hub").await);
    let append = async || {
        let published = hub.publish("orders.forwarded.careem.b.p00", "{}".into()).await.unwrap();
        published.await.map_err(|error| error.to_string())
    };
    append().await.unwrap();
    let client = nats.connect("provision").await;
    let info = client.request("$JS.API.STREAM.INFO.EVENTS", "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&info.payload).unwrap()["config"].take();
    config["subjects"] = serde_json::json!(["hub.restoring"]);
    config["metadata"]["webhook-hub.restoring"] = "0".into();
    let closed = client.request(CHANGE_EVENTS, config.to_string().into()).await.unwrap();
    let closed: Value = serde_json::from_slice(&closed.payload).unwrap();
    assert_eq!(closed["error"], Value::Null, "{closed}");
    assert!(append().await.is_err(), "it is closed");

    let ran = run(provision, &["restore", place]).await;
    refused(&ran, "holds events up to sequence 1");
    assert!(ran.stderr.contains("it is open again"), "{}", ran.said());
    run(provision, &["streams", "diff"]).await.expect_success();
    append().await.unwrap();
    assert_eq!(events(nats).await.cached_info().state.messages, 2);
}
