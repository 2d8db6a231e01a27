//! Instances of an older and of a newer version on one log: the older one leaves what it does not know.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use webhook_hub::{
    event::{Envelope, EventType, Recorded},
    journal::codec::{self, Form},
};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::Hub,
    ids,
    wait::{PATIENCE, eventually},
};

impl World {
    /// How many messages a stage has neither acknowledged nor seen acknowledged by another.
    async fn unacknowledged(&self, stage: &str) -> usize {
        let stream = self.nats.provision().await.get_stream("EVENTS").await.unwrap();
        stream.consumer_info(stage).await.unwrap().num_ack_pending
    }

    /// In which form the events after this place of the log are, and where it ends.
    async fn forms_after(&self, sequence: u64) -> (Vec<Form>, u64) {
        let stream = self.nats.provision().await.get_stream("EVENTS").await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut forms = Vec::new();
        for sequence in sequence + 1..=last {
            forms.push(Form::of(&stream.get_raw_message(sequence).await.unwrap().headers));
        }
        (forms, last)
    }
}

/// Each instance writes as it is told, else as the log's last event is; each reads what the others wrote, and what is begun in
/// one form ends in the other.
#[tokio::test(flavor = "multi_thread")]
async fn both_forms_on_one_log() {
    let world = World::new().await;
    world.backend.next_for("CR-forms-0", [Answer::status(422)]);
    let forms = [Form::Headers, Form::Headers, Form::Compact, Form::Compact];
    let (orders, mut end) = (ids("forms", 4), 0);
    for (at, (format, expected)) in ["headers", "auto", "compact", "auto"]
        .into_iter()
        .zip(forms)
        .enumerate()
    {
        let hub = Hub::start(&world.settings().set("EVENT_FORMAT", format)).await;
        world.post_orders(&hub, [orders[at].clone()]).await;
        if at > 0 {
            // News of an order of the instance before, and a webhook that it accepted already.
            let before = &orders[at - 1];
            world.careem.post(&hub, &change(before, "ready")).await.event_id();
            let repeat = world.careem.post(&hub, &order(before)).await;
            assert_eq!(repeat.json()["data"]["duplicate"], true, "{format}");
        }
        world.log.settled().await;
        let written;
        (written, end) = world.forms_after(end).await;
        assert!(
            written.len() >= 3 && written.iter().all(|form| *form == expected),
            "{format}: {written:?}"
        );
        assert!(hub.terminate().await.0.success());
    }
    world.retry_dead_letters().await;
    let (written, _) = world.forms_after(end).await;
    assert_eq!(
        written,
        [Form::Compact; 3],
        "the operator's act, the request to take it up again, and the act's result"
    );
    let _hub = world.hub().await;
    world.log.settled().await;
    assert_eq!(world.log.unreadable().await, [0_u64; 0]);
}

/// A log without events may be one on which an older version runs: it is written in the form that that version reads, unless it was
/// made by a version that knows the compact form.
#[tokio::test(flavor = "multi_thread")]
async fn the_form_on_a_log_without_events() {
    let mut mark = None;
    for expected in [Form::Compact, Form::Headers] {
        let world = World::new().await;
        if expected == Form::Headers {
            let provision = world.nats.provision().await;
            let stream = provision.get_stream("EVENTS").await.unwrap();
            let mut config = stream.cached_info().config.clone();
            mark = config.metadata.remove("webhook-hub.event_format");
            provision.update_stream(config).await.unwrap();
        }
        let hub = world.hub().await;
        world.post_orders(&hub, ids("first", 1)).await;
        world.at_end(Ends::forwarded(1)).await;
        let written = world.forms_after(0).await.0;
        assert!(
            written.len() >= 3 && written.iter().all(|form| *form == expected),
            "{written:?}"
        );
    }
    assert_eq!(mark.as_deref(), Some("compact"));
}

/// A webhook as it stands on the log.
fn received(order: &str) -> Envelope {
    Recorded::sample("careem", order, "order_created", order.as_bytes(), chrono::Utc::now()).envelope
}

/// A type that no version knows, on subjects that two stages consume, and a later form of the envelope. Nothing is recorded about it, it is not acknowledged,
/// and only its own order waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unknown_type() {
    let world = World::new().await;
    let hub = world.hub().await;
    let nats = jetstream::new(world.nats.connect("hub").await);
    let partition = codec::partition_token(codec::partition("careem", "CR-foreign-0", PARTITIONS));
    for subject in ["webhooks.received.careem", "orders.transformed.careem._"] {
        let mut headers = HeaderMap::new();
        let id = uuid::Uuid::new_v4().to_string();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &id),
            ("ce-rootid", &id),
            ("ce-source", "/providers/careem"),
            ("ce-type", "order.eaten"),
            ("ce-subject", "CR-foreign-0"),
            ("ce-time", "2025-10-01T12:00:00Z"),
        ] {
            headers.insert(name, value);
        }
        let sent = nats.publish_with_headers(format!("{subject}.{partition}"), headers, "{}".into());
        sent.await.unwrap().await.unwrap();
    }
    let mut later = codec::headers(&received("CR-foreign-1"), Form::Compact).unwrap();
    later.insert("hub", r#"{"v":2}"#);
    let subject = codec::subject(&received("CR-foreign-1"), PARTITIONS);
    let sent = nats.publish_with_headers(subject, later, "{}".into());
    sent.await.unwrap().await.unwrap();
    // The orders of what was left, and two others.
    world.post_orders(&hub, ids("foreign", 4)).await;
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 2).await;
    world
        .metrics_say(&hub, "events_left_total{stage=\"transform\"} 4")
        .await;
    world.metrics_say(&hub, "events_left_total{stage=\"forward\"} 1").await;
    hub.says("left to an instance of that version").await;
    assert!(
        forwarded
            .iter()
            .all(|event| !["CR-foreign-0", "CR-foreign-1"].contains(&&*event.envelope.external_order_id))
    );
    let events = world.log.events().await;
    let ends: Vec<_> = events.iter().filter(|event| event.envelope.event_type.ends()).collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    for (stage, left) in [("transform", 4), ("forward", 1)] {
        eventually("what is left is not acknowledged", PATIENCE, async || {
            let found = world.unacknowledged(stage).await;
            if found == left { Ok(()) } else { Err((stage, found)) }
        })
        .await;
    }
}

/// An older instance does not know requests to take dead letters up again. It leaves them, and what follows in their orders;
/// a newer instance takes them, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_instance_takes_what_an_older_one_left() {
    let world = World::new().await;
    let older = world
        .settings()
        .set("HUB_TEST_UNKNOWN_TYPES", EventType::OrderRetryRequested);
    let older = Hub::start(&older).await;
    world.backend.next_for("CR-newer-0", [Answer::status(422)]);
    world.post_orders(&older, ids("newer", 2)).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
    world.retry_dead_letters().await;
    for stage in ["transform", "forward", "push"] {
        world
            .metrics_say(&older, &format!("events_left_total{{stage=\"{stage}\"}} 1"))
            .await;
    }
    world
        .careem
        .post(&older, &change("CR-newer-0", "ready"))
        .await
        .event_id();
    world
        .careem
        .post(&older, &change("CR-newer-1", "ready"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world
        .metrics_say(&older, "events_left_total{stage=\"transform\"} 2")
        .await;
    assert_eq!(world.backend.requests().len(), 3, "the order waits");
    assert!(older.terminate().await.0.success());

    let _newer = world.hub().await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    let of_order = world.backend.requests().into_iter();
    let paths: Vec<_> = of_order
        .filter(|request| request.external_order_id() == "CR-newer-0")
        .map(|request| request.path)
        .collect();
    assert!(paths.last().unwrap().ends_with("/status"), "{paths:?}");
}

/// An older instance does not know what operators do. No stage waits for it, and the tables' writer notes it; a newer instance takes
/// that note away.
#[tokio::test(flavor = "multi_thread")]
async fn acts_of_operators_mean_nothing_to_an_older_instance() {
    let world = World::new().await;
    let times = "stand_aside=300ms,standby_poll=100ms,tables_renew=100ms";
    let settings = world.settings().set("HUB_TEST_TIMES", times);
    let older = Hub::start(&settings.clone().set("HUB_TEST_UNKNOWN_TYPES", EventType::OperatorActed)).await;
    world.backend.next_for("CR-acts-0", [Answer::status(422)]);
    world.post_orders(&older, ids("acts", 2)).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.post_orders(&older, ["CR-acts-2".to_owned()]).await;
    // What the tables' writer had when it stood aside.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    let noted = async || {
        let rows = world
            .database
            .rows("SELECT event_type FROM hub.skipped_events")
            .await
            .unwrap();
        rows.iter()
            .map(|row| row["event_type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(noted().await, ["operator.acted", "operator.acted"]);
    let metrics = world.metrics(&older).await;
    assert!(
        !metrics
            .lines()
            .any(|line| line.starts_with("events_left_total") && !line.ends_with(" 0")),
        "{metrics}"
    );
    assert!(older.terminate().await.0.success());
    let _newer = Hub::start(&settings).await;
    eventually("the notes are gone", PATIENCE, async || {
        let noted = noted().await;
        if noted.is_empty() { Ok(()) } else { Err(noted) }
    })
    .await;
    world.at_end(Ends::forwarded(3)).await;
}

/// The head of a lane is an event that this instance does not know: the order waits, and is not given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_of_a_newer_instance() {
    let world = World::new().await;
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let newer = Hub::start(&settings).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-lane-0", [Answer::status(422), away]);
    world.careem.post(&newer, &order("CR-lane-0")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    eventually("the order is parked", PATIENCE, async || {
        let lanes = world.lanes().await;
        if lanes.len() == 1 { Ok(()) } else { Err(lanes) }
    })
    .await;
    assert!(newer.terminate().await.0.success());
    let older = Hub::start(
        &settings
            .clone()
            .set("HUB_TEST_UNKNOWN_TYPES", EventType::OrderRetryRequested),
    )
    .await;
    older.says("waits for an instance of a newer version").await;
    assert_eq!((world.lanes().await.len(), world.backend.count()), (1, 2));
    assert!(older.terminate().await.0.success());
    let _newer = Hub::start(&settings).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.hand_out_again_within(Duration::from_secs(30)).await;
    world.at_end(Ends::forwarded(1)).await;
}
