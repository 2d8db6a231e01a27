//! `replay --forward`: past orders to the hub's own backend again, each once and in order.

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use webhook_hub::{
    event::{BodyHash, Envelope, EventId, EventType},
    journal::codec::{self, Form},
};

use super::{rebuild::found, replay::written};
use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Ran, run},
};

async fn replay(world: &World, more: &[&str]) -> Ran {
    let arguments = [&["--json", "replay", "--forward", "--by", "test"], more].concat();
    run(&world.nats.settings("hub"), &arguments).await
}

fn counts(planned: &Value) -> [u64; 6] {
    ["count", "lost", "forwarded", "givenUp", "ignored", "overtaken"].map(|name| planned[name].as_u64().unwrap())
}

/// The backend lost what it had: all of it is sent again, under the same keys.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_backend_had_is_sent_again() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    for body in [
        order("CR-1"),
        change("CR-1", "preparing"),
        order("CR-2"),
        change("CR-1", "ready"),
        order("CR-refused"),
    ] {
        assert_eq!(world.careem.post(&hub, &body).await.status, 200);
    }
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
    let (before, first) = (written(&world).await, world.backend.requests());

    // Without being asked to, nothing that has an outcome is sent.
    let planned = replay(&world, &["--dry-run"]).await;
    assert_eq!(counts(&found(&planned)), [0, 0, 4, 1, 0, 0], "{}", planned.said());
    let without_reason = replay(&world, &["--again", "--yes"]).await;
    assert_eq!(without_reason.code, Some(2), "{}", without_reason.said());
    let again = ["--again", "--reason", "the backend was restored"];
    let unconfirmed = replay(&world, &again).await;
    assert_eq!(unconfirmed.code, Some(2), "{}", unconfirmed.said());
    let planned = replay(&world, &[&again[..], &["--dry-run"]].concat()).await;
    // `ready` overtakes `preparing`.
    assert_eq!(counts(&found(&planned)), [4, 0, 0, 0, 0, 1], "{}", planned.said());
    let of_events = |written: &[(String, u64)]| written.iter().find(|(name, _)| name == "EVENTS").cloned();
    assert_eq!(of_events(&written(&world).await), of_events(&before));
    assert_eq!(world.backend.count(), first.len());

    world.backend.always_for("CR-refused", None);
    let sent = replay(&world, &[&again[..], &["--yes"]].concat()).await;
    assert_eq!(sent.code, Some(0), "{}", sent.said());
    let sent = found(&sent);
    assert_eq!(
        (&sent["requested"], &sent["results"]),
        (&json!(4), &json!({ "order.forwarded": 4 })),
        "{sent}"
    );
    let requests = world.backend.requests().split_off(first.len());
    let of = |order: &str| -> Vec<_> {
        let of_order = requests.iter().filter(|one| one.external_order_id() == order);
        of_order
            .map(|one| (one.path.clone(), one.key().to_owned(), one.body.clone()))
            .collect()
    };
    let then = |order: &str, number: usize| {
        let one = first
            .iter()
            .filter(|one| one.external_order_id() == order)
            .nth(number)
            .unwrap();
        (one.path.clone(), one.key().to_owned(), one.body.clone())
    };
    assert_eq!(
        of("CR-1"),
        [then("CR-1", 0), then("CR-1", 2)],
        "each once, in order, as it was"
    );
    assert_eq!(of("CR-2"), [then("CR-2", 0)]);
    assert_eq!(of("CR-refused"), [then("CR-refused", 0)]);
    assert_eq!(of("CR-1")[0].0, ORDERS);
    let retries = world.log.payloads(EventType::OrderRetryRequested, 4).await;
    assert!(
        retries
            .iter()
            .all(|retry| retry["by"] == "test" && retry["reason"] == "the backend was restored")
    );
    // The dead letter was taken up by it.
    let letters = run(&world.nats.settings("hub"), &["--json", "dead-letters", "list"])
        .await
        .expect_success();
    assert!(!letters.stdout.contains("CR-refused"), "{}", letters.stdout);
    world.at_end(Ends::forwarded(5)).await;

    // It stops when the backend fails.
    world.backend.otherwise(Answer::status(422));
    let all = [
        &again[..],
        &["--yes", "--stop-after", "1", "--rate", "2", "--type", "order_created"],
    ]
    .concat();
    let stopped = replay(&world, &all).await;
    assert_eq!(stopped.code, Some(1), "{}", stopped.said());
    let stopped = found(&stopped);
    assert_eq!(stopped["stopped"], true, "{stopped}");
    assert!(stopped["requested"].as_u64().unwrap() < 3, "{stopped}");
}

/// An event that no stage has any more goes its way; an order that is too old does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_sent() {
    let world = World::new().await;
    let hub = world.hub().await;
    assert_eq!(world.careem.post(&hub, &order("CR-kept")).await.status, 200);
    world.at_end(Ends::forwarded(1)).await;
    hub.terminate().await;
    let sample = world.log.wait_for(EventType::WebhookReceived, 1).await.remove(0);
    let publisher = jetstream::new(world.nats.connect("hub").await);
    let stream = publisher.get_stream("EVENTS").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("transform").await.unwrap();
    for (number, age) in [("CR-lost", 0), ("CR-old", 3)] {
        let id = EventId::of_webhook("careem", &[number.as_bytes()]);
        let received_at = sample.envelope.received_at - chrono::TimeDelta::hours(age);
        let mut envelope = Envelope {
            id,
            root_id: id,
            external_order_id: number.into(),
            time: received_at,
            received_at,
            ..sample.envelope.clone()
        };
        envelope.request.as_mut().unwrap().body_sha256 = Some(BodyHash::of(order(number).as_bytes()));
        let (subject, headers) = (
            codec::subject(&envelope, PARTITIONS),
            codec::headers(&envelope, Form::Headers).unwrap(),
        );
        let payload = order(number).into();
        publisher
            .publish_with_headers(subject, headers, payload)
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let settings = world.nats.settings("hub").set("CAREEM_ORDER_TTL", "2h");
    let replay = async |settings: &crate::harness::hub::Settings, more: &[&str]| {
        let arguments = [&["--json", "replay", "--forward", "--by", "test"], more].concat();
        run(settings, &arguments).await
    };
    let waiting = replay(&settings, &["--dry-run"]).await;
    assert_eq!(
        found(&waiting)["waiting"],
        2,
        "no stage has seen them: {}",
        waiting.said()
    );
    let mut messages = consumer.fetch().max_messages(2).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    let planned = found(&replay(&settings, &["--dry-run"]).await);
    assert_eq!(
        (counts(&planned), &planned["expired"]),
        ([1, 1, 1, 0, 0, 0], &json!(1)),
        "{planned}"
    );
    // Without the note that the stage left, a hub finds only what was not acknowledged.
    world.an_older_hub_takes_the_leases().await;
    let _hub = world.hub().await;
    let sent = replay(&settings, &["--yes"]).await;
    assert_eq!(
        (sent.code, &found(&sent)["requested"]),
        (Some(0), &json!(1)),
        "{}",
        sent.said()
    );
    world.backend.wait_for(2).await;
    assert_eq!(world.requests_about("CR-lost"), 1);
    // Without the limit of age the other one is sent, and nothing twice.
    let settings = world.nats.settings("hub");
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let sent = replay(&settings, &["--yes"]).await;
    assert_eq!(
        (sent.code, &found(&sent)["requested"]),
        (Some(0), &json!(1)),
        "{}",
        sent.said()
    );
    world.at_end(Ends::forwarded(3)).await;
    assert_eq!(
        (world.requests_about("CR-lost"), world.requests_about("CR-old")),
        (1, 1)
    );
}

/// Announcements that end as duplicates: the backend refused the first one of `CR-1` and took its correction. It refused both of `CR-2`, and
/// would take them now; the first one creates the order. Dry runs say so, and the acts end so.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_foretells_duplicates() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.next_for("CR-1", [Answer::status(422)]);
    world
        .backend
        .next_for("CR-2", [Answer::status(422), Answer::status(422)]);
    for id in ["CR-1", "CR-2"] {
        world.careem.post(&hub, &order(id)).await.event_id();
        world
            .careem
            .post(&hub, &order(id).replace("16.24", "26.24"))
            .await
            .event_id();
    }
    world.at_end(Ends::forwarded(1).dead_lettered(3)).await;
    let dry = ["dead-letters", "retry", "--all", "--dry-run"];
    let dry = run(&world.nats.settings("hub"), &dry).await.expect_success().stdout;
    assert!(dry.contains("2 would end as a duplicate"), "{dry}");
    let again = ["--again", "--reason", "the backend was restored"];
    let planned = found(&replay(&world, &[&again[..], &["--dry-run"]].concat()).await);
    let expected = (json!(4), json!(2));
    assert_eq!(
        (planned["count"].clone(), planned["duplicates"].clone()),
        expected,
        "{planned}"
    );
    let sent = found(&replay(&world, &[&again[..], &["--yes"]].concat()).await);
    assert_eq!(
        (&sent["duplicates"], &sent["results"]),
        (&json!(2), &json!({ "order.forwarded": 2, "order.ignored": 2 })),
        "{sent}"
    );
    world.at_end(Ends::forwarded(2).ignored(2)).await;
}
