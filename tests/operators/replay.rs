//! `replay --diff`: past webhooks through the current code and files, while nothing is sent or written.

use std::path::Path;

use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use webhook_hub::event::EventType;

use super::rebuild::found;
use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Ran, Settings, run},
    outside::Outside,
};

/// As it is shipped.
const CAREEM: &str = include_str!("../../providers/careem.toml");

/// A folder with the shipped file of Careem, changed.
pub(super) fn changed(changes: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = changes.iter().fold(CAREEM.to_owned(), |file, (before, after)| {
        assert!(file.contains(before), "the file has no {before}");
        file.replacen(before, after, 1)
    });
    std::fs::write(folder.path().join("careem.toml"), file).unwrap();
    folder
}

/// What it takes: NATS, and nothing of the hub's secrets.
fn operator(world: &World) -> Settings {
    world.nats.settings("hub")
}

async fn diff(settings: &Settings, folder: Option<&Path>, more: &[&str]) -> (Ran, Value) {
    let folder = folder.map(|folder| folder.display().to_string());
    let of_folder: Vec<&str> = folder.iter().flat_map(|folder| ["--providers-dir", folder]).collect();
    let arguments = [&["replay", "--diff", "--json"], &*of_folder, more].concat();
    let ran = run(settings, &arguments).await;
    let found = found(&ran);
    (ran, found)
}

/// How many messages each stream has got.
pub(super) async fn written(world: &World) -> Vec<(String, u64)> {
    let provision = world.nats.provision().await;
    let streams: Vec<_> = provision.streams().try_collect().await.unwrap();
    let mut written: Vec<_> = streams
        .into_iter()
        .map(|stream| (stream.config.name, stream.state.last_sequence))
        .collect();
    written.sort();
    written
}

/// The groups of a result: pointer and count.
fn places(found: &Value) -> Vec<(&str, u64)> {
    let groups = found["places"].as_array().unwrap().iter();
    groups
        .map(|group| (group["pointer"].as_str().unwrap(), group["count"].as_u64().unwrap()))
        .collect()
}

/// The orders that are named.
fn orders(found: &Value) -> Vec<&str> {
    let events = found["first"].as_array().unwrap().iter();
    events.map(|event| event["externalOrderId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_mapping_shows_the_affected_orders_and_nothing_else() {
    let world = World::new().await;
    let hub = world.hub().await;
    let with = |id: &str, field: &str, value: Value| {
        let mut order: Value = serde_json::from_str(&order(id)).unwrap();
        order[field] = value;
        order.to_string()
    };
    let bodies = [
        order("CR-plain"),
        with("CR-note", "notes", json!("ring twice")),
        with("CR-remark", "remark", json!("no onions")),
        change("CR-note", "ready"),
        with("CR-second", "notes", json!("third floor")),
    ];
    for body in &bodies {
        assert_eq!(world.careem.post(&hub, body).await.status, 200);
    }
    world.at_end(Ends::forwarded(5)).await;
    hub.terminate().await;
    let (before, requests) = (written(&world).await, world.backend.count());
    let settings = operator(&world);

    let (ran, found) = diff(&settings, None, &[]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    let is_same = |found: &Value| {
        (
            found["isSame"].clone(),
            found["compared"].clone(),
            found["waiting"].clone(),
        )
    };
    assert_eq!(is_same(&found), (json!(true), json!(5), json!(0)), "{found}");

    // Another place of the notes, and another of a fee that every new order has.
    let folder = changed(&[
        ("notes = \"/notes\"", "notes = \"/remark\""),
        (
            "service_fee = \"/price/service_fee\"",
            "service_fee = \"/price/delivery_fee\"",
        ),
    ]);
    let (ran, found) = diff(&settings, Some(folder.path()), &["--until", "100000"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert_eq!((&found["compared"], &found["different"]), (&json!(5), &json!(4)));
    assert_eq!(orders(&found), ["CR-plain", "CR-note", "CR-remark", "CR-second"]);
    let fee = "/transformedOrder/pricing/serviceFee";
    let (notes, extra) = ("/transformedOrder/notes", "/transformedOrder/extra");
    let places = places(&found);
    assert!(places.contains(&(fee, 4)), "{found}");
    assert!(places.contains(&(notes, 3)), "{found}");
    // What no place of the file takes goes along as `extra`.
    let is_known =
        |pointer: &str| pointer == fee || pointer == notes || pointer.starts_with(extra) || pointer.contains("/flags");
    assert!(places.iter().all(|(pointer, _)| is_known(pointer)), "{found}");
    let of = |pointer: &str| {
        found["places"]
            .as_array()
            .unwrap()
            .iter()
            .find(|group| group["pointer"] == pointer)
            .unwrap()
    };
    let example = &of(fee)["example"];
    assert_eq!(example["externalOrderId"], "CR-plain");
    assert_eq!(
        (&example["before"], &example["after"]),
        (&json!(1.0), &json!(2.0)),
        "amounts are shown"
    );
    let example = &of(notes)["example"];
    assert_eq!(
        (&example["before"], &example["after"]),
        (&json!("***"), &Value::Null),
        "notes are personal"
    );
    for text in ["ring twice", "no onions", "third floor", "Ahmed"] {
        assert!(!ran.said().contains(text), "{}", ran.said());
    }

    // Parts of the range.
    let of_order = ["--order", "CR-remark", "--provider", "careem"];
    let (_, one) = diff(&settings, Some(folder.path()), &of_order).await;
    assert_eq!((&one["compared"], orders(&one)), (&json!(1), vec!["CR-remark"]));
    let (_, news) = diff(&settings, Some(folder.path()), &["--type", "order_status_updated"]).await;
    assert_eq!(
        (&news["compared"], &news["different"]),
        (&json!(1), &json!(0)),
        "{news}"
    );
    let webhooks = world.log.wait_for(EventType::WebhookReceived, 5).await;
    let second = webhooks[1].sequence.to_string();
    let (_, some) = diff(
        &settings,
        Some(folder.path()),
        &["--from", &second, "--until", &second, "--limit", "0"],
    )
    .await;
    assert_eq!(
        (&some["compared"], &some["different"], orders(&some).len()),
        (&json!(1), &json!(1), 0)
    );
    let (_, none) = diff(&settings, Some(folder.path()), &["--from", "2040-01-01T00:00:00Z"]).await;
    assert_eq!(none["compared"], 0);

    // As text.
    let folder_name = folder.path().display().to_string();
    let text = run(
        &settings,
        &["replay", "--diff", "--providers-dir", &folder_name, "--limit", "1"],
    )
    .await;
    for line in [
        "3 more; --limit names them",
        "5 events from 1 to 15 compared, 4 would come out differently",
    ] {
        assert!(text.stdout.contains(line), "{}", text.said());
    }
    // Neither written nor sent.
    assert_eq!(written(&world).await, before);
    assert_eq!(world.backend.count(), requests);
    let wrong = run(&settings, &["replay", "--diff", "--provider", "nowhere"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.said());
}

/// Outcomes of other kinds; an event that was retried counts by its last outcome.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_other_kinds() {
    let world = World::new().await;
    let hub = world.hub().await;
    let without_total = |id: &str| {
        let mut order: Value = serde_json::from_str(&order(id)).unwrap();
        order["price"].as_object_mut().unwrap().remove("total_taxable_price");
        order.to_string()
    };
    let elsewhere = |id: &str| {
        let mut order: Value = serde_json::from_str(&order(id)).unwrap();
        order["branch"] = json!({ "id": "unknown" });
        order.to_string()
    };
    let post = async |body: &str| {
        let signature = crate::harness::careem::sign(crate::harness::careem::SECRET, body.as_bytes());
        let headers = [
            ("x-careem-signature", signature.as_str()),
            ("content-type", "application/json"),
        ];
        assert_eq!(world.careem.post_raw(&hub, body.to_owned(), &headers).await.status, 200);
    };
    post(&without_total("CR-total")).await;
    post(&elsewhere("CR-elsewhere")).await;
    post(&order("CR-good")).await;
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    post(&order("CR-refused")).await;
    world.at_end(Ends::forwarded(1).rejected(1).dead_lettered(2)).await;
    let settings = operator(&world);
    let (ran, found) = diff(&settings, None, &[]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    assert_eq!(
        (&found["compared"], &found["different"]),
        (&json!(4), &json!(0)),
        "{found}"
    );

    let folder = changed(&[
        (
            "total = { from = \"/price/total_taxable_price\", required = true }",
            "total = { from = \"/price/subtotal\", required = true }",
        ),
        ("store = \"/branch/id\"", "store = \"/shop/id\""),
        ("created = \"order_created\", pending", "created = \"ignored\", pending"),
    ]);
    let (ran, found) = diff(&settings, Some(folder.path()), &[]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    let outcomes: Vec<_> = found["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| [&group["logged"], &group["now"]])
        .collect();
    let ignored = json!("order.ignored EVENT_NOT_WANTED");
    assert!(outcomes.contains(&[&json!("order.transformed"), &ignored]), "{found}");
    assert!(
        outcomes.contains(&[&json!("order.rejected INVALID_ORDER"), &ignored]),
        "{found}"
    );
    assert!(
        outcomes.contains(&[&json!("order.dead_lettered BRANCH_NOT_FOUND"), &ignored]),
        "{found}"
    );

    // A total that is found elsewhere, and another store that would be looked up.
    let folder = changed(&[
        (
            "total = { from = \"/price/total_taxable_price\", required = true }",
            "total = { from = \"/price/subtotal\", required = true }",
        ),
        ("store = \"/branch/id\"", "store = \"/shop/id\""),
    ]);
    let (_, found) = diff(&settings, Some(folder.path()), &[]).await;
    let group = json!([{
        "provider": "careem", "logged": "order.rejected INVALID_ORDER", "now": "order.transformed", "count": 1,
        "sequence": 1, "externalOrderId": "CR-total",
    }]);
    assert_eq!(found["outcomes"], group);
    let places = places(&found);
    assert!(places.contains(&("/error/details/merchant", 1)), "{found}");
    assert!(places.contains(&("/transformedOrder/pricing/total", 2)), "{found}");
    // The key of a new order covers its total.
    assert!(places.contains(&("(Idempotency-Key)", 2)), "{found}");

    // A branch is added and the dead letter retried; then the order counts as transformed.
    let row = "UPDATE branch_delivery_configs SET store_id = 'unknown'";
    world.database.run(row).await.unwrap();
    let retry = [
        "dead-letters",
        "retry",
        "--all",
        "--code",
        "BRANCH_NOT_FOUND",
        "--by",
        "test",
    ];
    run(&settings, &retry).await.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.at_end(Ends::forwarded(2).rejected(1).dead_lettered(1)).await;
    let (ran, found) = diff(&settings, None, &[]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    assert_eq!(
        (&found["compared"], &found["waiting"]),
        (&json!(4), &json!(0)),
        "{found}"
    );
    let (_, found) = diff(&settings, Some(folder.path()), &["--order", "CR-elsewhere"]).await;
    assert_eq!(found["outcomes"], json!([]), "{found}");
    assert!(
        self::places(&found).contains(&("/transformedOrder/pricing/total", 1)),
        "{found}"
    );
}

/// A fetched document and the webhook beside it come from the log; the provider is not asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_order_is_read_from_the_log() {
    let outside = Outside::of_uber().await;
    let hub = crate::harness::hub::Hub::start(&outside.uber()).await;
    outside.has("CR-thin");
    outside.announce(&hub, "CR-thin").await;
    outside.world.at_end(Ends::forwarded(1)).await;
    hub.terminate().await;
    let (calls, requests) = (outside.provider.calls().len(), outside.world.backend.count());
    // With the settings of the hub, and with none of its secrets.
    for settings in [outside.uber(), operator(&outside.world)] {
        let (ran, found) = diff(&settings, None, &[]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.said());
        assert_eq!(
            (&found["compared"], &found["waiting"]),
            (&json!(2), &json!(0)),
            "{found}"
        );
    }
    assert_eq!(
        (outside.provider.calls().len(), outside.world.backend.count()),
        (calls, requests)
    );
}

mod long {
    use std::time::{Duration, Instant};

    use async_nats::jetstream;
    use webhook_hub::{
        event::{Envelope, EventId, EventType},
        journal::codec::{self, Form},
    };

    use super::*;
    use crate::harness::{PARTITIONS, hub::begin, wait::eventually};

    const ORDERS: usize = 100_000;
    /// One order in so many has notes.
    const NOTES_EVERY: usize = 10;

    /// In a build without optimisation it takes longer than other commands.
    async fn patiently(settings: &Settings, code: i32, more: &[&str]) -> Value {
        let arguments = [&["replay", "--diff", "--json"], more].concat();
        let child = begin(settings, &arguments);
        let output = tokio::time::timeout(Duration::from_secs(300), child.wait_with_output()).await;
        let output = output.expect("it ends").unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Of 100,000 past orders exactly those are shown that a changed place concerns.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_thousand_orders() {
        let world = World::new().await;
        // They wait for the backend; the transformation is what counts here.
        world.backend.otherwise(Answer::status(503));
        let hub = world.hub().await;
        assert_eq!(world.careem.post(&hub, &order("CR-sample")).await.status, 200);
        let sample = world.log.wait_for(EventType::WebhookReceived, 1).await.remove(0);
        let publisher = jetstream::new(world.nats.connect("hub").await);
        let mut sent = Vec::new();
        for number in 1..ORDERS {
            let order_id = format!("CR-{number}");
            let mut payload = order(&order_id);
            if number % NOTES_EVERY == 0 {
                payload = payload.replacen('{', "{ \"notes\": \"ring twice\",", 1);
            }
            let id = EventId::of_webhook("careem", &[order_id.as_bytes()]);
            let envelope = Envelope {
                id,
                root_id: id,
                external_order_id: order_id,
                ..sample.envelope.clone()
            };
            let (subject, headers) = (
                codec::subject(&envelope, PARTITIONS),
                codec::headers(&envelope, Form::Compact).unwrap(),
            );
            sent.push(
                publisher
                    .publish_with_headers(subject, headers, payload.into())
                    .await
                    .unwrap(),
            );
            if sent.len() == 1000 || number == ORDERS - 1 {
                for sent in sent.drain(..) {
                    sent.await.unwrap();
                }
            }
        }
        let provision = world.nats.provision().await;
        eventually("all are transformed", Duration::from_secs(600), async || {
            let stream = provision
                .get_stream("EVENTS")
                .await
                .map_err(|error| error.to_string())?;
            let subjects = stream
                .info_with_subjects("orders.transformed.>")
                .await
                .map_err(|error| error.to_string())?;
            let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error| error.to_string())?;
            let count: usize = subjects.iter().map(|(_, count)| count).sum();
            if count == ORDERS {
                Ok(())
            } else {
                Err(format!("{count} are"))
            }
        })
        .await;
        hub.kill().await;
        let (before, requests) = (written(&world).await, world.backend.count());
        let settings = operator(&world);
        let began = Instant::now();
        let found = patiently(&settings, 0, &[]).await;
        eprintln!(
            "{ORDERS} orders in {:?}, {} s of them the replay",
            began.elapsed(),
            found["seconds"]
        );
        assert_eq!(found["compared"], json!(ORDERS));
        let folder = changed(&[("notes = \"/notes\"", "notes = \"/remark\"")]);
        let folder = folder.path().display().to_string();
        let found = patiently(&settings, 1, &["--providers-dir", &folder, "--limit", "100000"]).await;
        let expected: Vec<String> = (1..ORDERS)
            .filter(|number| number % NOTES_EVERY == 0)
            .map(|number| format!("CR-{number}"))
            .collect();
        assert_eq!(orders(&found), expected);
        assert!(places(&found).contains(&("/transformedOrder/notes", expected.len() as u64)));
        assert_eq!((written(&world).await, world.backend.count()), (before, requests));
    }
}
