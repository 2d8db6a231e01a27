//! `verify`: it names exactly what is not as the log says.

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use webhook_hub::{
    event::{Envelope, EventId, EventType},
    journal::codec::{self, Form},
};

use super::rebuild::{found, owner, rebuild};
use crate::harness::{PARTITIONS, World, at_end::Ends, backend::Answer, hub::run, ids};

/// What it found about a table.
fn of_table(found: &Value, name: &str) -> Value {
    let mut tables = found["tables"].as_array().unwrap().iter();
    tables.find(|table| table["name"] == name).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_corrupted_one_deleted_one_planted() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused-0", Some(Answer::status(422)));
    world.post_orders(&hub, ids("refused", 1)).await;
    world.post_orders(&hub, ids("kept", 4)).await;
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
    let owner = owner(&world);
    run(&owner, &["verify"]).await.expect_success();
    let damage = "UPDATE webhook_logs SET status = 'failed', error_message = 'secret-word' WHERE external_order_id = 'CR-kept-0';
        DELETE FROM provider_order_logs WHERE external_order_id = 'CR-kept-1';
        INSERT INTO delivery_error_logs (id, provider_id, error_type, error_message)
            VALUES ('planted', 'provider-careem', 'temporary', 'x');";
    let id_of = async |table: &str, order: &str| {
        let sql = format!("SELECT id FROM {table} WHERE external_order_id = '{order}'");
        world.database.rows(&sql).await.unwrap().remove(0)["id"].take()
    };
    let (corrupted, deleted) = (
        id_of("webhook_logs", "CR-kept-0").await,
        id_of("provider_order_logs", "CR-kept-1").await,
    );
    world.database.run(damage).await.unwrap();

    let ran = run(&owner, &["verify", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(!ran.said().contains("secret-word"));
    let found = found(&ran);
    let nothing = json!({ "count": 0, "first": [] });
    let one = |what: Value| json!({ "count": 1, "first": [what] });
    let expected = [
        (
            "webhook_logs",
            &nothing,
            &nothing,
            &one(json!({ "key": corrupted, "columns": ["status", "error_message"] })),
        ),
        ("delivery_error_logs", &nothing, &one(json!("planted")), &nothing),
        ("provider_order_logs", &one(deleted.clone()), &nothing, &nothing),
        ("hub.orders", &nothing, &nothing, &nothing),
    ];
    for (name, missing, extra, different) in expected {
        let table = of_table(&found, name);
        assert_eq!(
            (&table["missing"], &table["extra"], &table["different"]),
            (missing, extra, different),
            "{name}"
        );
    }
    // Where it was, and was not, looked.
    let ran = run(&owner, &["verify", "hub.orders"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    let ran = run(&owner, &["verify", "--provider", "talabat"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    let text = run(&owner, &["verify", "webhook_logs"]).await;
    let line = format!(
        "webhook_logs: different  {} (status, error_message)\n",
        corrupted.as_str().unwrap()
    );
    assert!(text.stdout.contains(&line), "{}", text.said());

    // Only where it is wanted the planted row is kept.
    let kept = rebuild(&world, &["--keep-extra"]).await;
    assert_eq!(
        (&kept["tables"][1]["ofOthers"], &kept["tables"][1]["extra"]),
        (&json!(1), &json!(0)),
        "{kept}"
    );
    let ran = run(&owner, &["verify", "--json"]).await;
    assert_eq!(
        of_table(&super::rebuild::found(&ran), "delivery_error_logs")["extra"],
        one(json!("planted"))
    );
    let rebuilt = rebuild(&world, &[]).await;
    assert_eq!(rebuilt["tables"][1]["extra"], 1, "{rebuilt}");
    run(&owner, &["verify"]).await.expect_success();
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
}

/// A log that was replaced leaves rows behind: nobody can say what they should be, so they are left alone.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_log() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    let earlier = "INSERT INTO hub.orders SELECT (jsonb_populate_record(o, '{\"external_order_id\": \"CR-earlier\"}')).* FROM hub.orders o LIMIT 1";
    world.database.run(earlier).await.unwrap();
    let owner = owner(&world);
    assert_eq!(run(&owner, &["verify", "hub.orders"]).await.code, Some(1));
    let era = "INSERT INTO hub.log_eras (era, found, log_created, position_before, common_point) VALUES (1, 'test', now(), 6, 0)";
    world.database.run(era).await.unwrap();
    run(&owner, &["verify", "hub.orders"]).await.expect_success();
    let rebuilt = rebuild(&world, &["hub.orders"]).await;
    assert_eq!(
        (&rebuilt["tables"][0]["ofOthers"], &rebuilt["tables"][0]["rows"]),
        (&json!(1), &json!(3)),
        "{rebuilt}"
    );
}

/// An event that was acknowledged without an outcome is lost; that is found on the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_event() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    hub.terminate().await;
    let owner = owner(&world);
    let sample = world.log.wait_for(EventType::WebhookReceived, 1).await.remove(0);
    let id = EventId::of_webhook("careem", &[b"lost"]);
    let envelope = Envelope {
        id,
        root_id: id,
        external_order_id: "CR-lost".into(),
        ..sample.envelope.clone()
    };
    let (subject, headers) = (
        codec::subject(&envelope, PARTITIONS),
        codec::headers(&envelope, Form::Headers).unwrap(),
    );
    let publisher = jetstream::new(world.nats.connect("hub").await);
    let sent = publisher
        .publish_with_headers(subject, headers, sample.payload.clone())
        .await
        .unwrap();
    let sequence = sent.await.unwrap().sequence;
    // No stage has it yet.
    let ran = run(&owner, &["verify", "--json"]).await;
    let log = found(&ran)["log"].clone();
    assert_eq!(
        (ran.code, &log["waiting"], &log["isWhole"]),
        (Some(0), &json!(1), &json!(true)),
        "{}",
        ran.said()
    );
    let stream = publisher.get_stream("EVENTS").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("transform").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    let ran = run(&owner, &["verify", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    let lost = json!({
        "count": 1,
        "first": [{ "sequence": sequence, "type": "webhook.received", "provider": "careem", "externalOrderId": "CR-lost" }],
    });
    assert_eq!(found(&ran)["log"]["faults"]["lost"], lost);
    // A body that is not the one that was accepted.
    let id = EventId::of_webhook("careem", &[b"altered"]);
    let altered = Envelope {
        id,
        root_id: id,
        ..envelope.clone()
    };
    let headers = codec::headers(&altered, Form::Headers).unwrap();
    let sent = publisher
        .publish_with_headers(codec::subject(&altered, PARTITIONS), headers, "{}".into())
        .await
        .unwrap();
    let sequence_altered = sent.await.unwrap().sequence;
    let text = run(&owner, &["verify"]).await;
    let line = format!(
        "{sequence} webhook.received of careem CR-lost: lost: acknowledged, not parked, and without an outcome"
    );
    assert!(text.stdout.contains(&line), "{}", text.said());
    let line =
        format!("{sequence_altered} webhook.received of careem CR-lost: its body is not the one that was accepted");
    assert!(text.stdout.contains(&line), "{}", text.said());
    assert_eq!(text.stdout.matches("its body is not").count(), 1, "{}", text.said());
}
