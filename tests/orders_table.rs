//! `hub.orders`: one row an order. Every test that runs a hub compares the table with the log at its end, and `batches` does so wherever
//! batches end; here stands what a row means, and how the table comes into a database whose other tables are filled.

use bytes::Bytes;
use chrono::TimeDelta;
use serde_json::{Value, json};
use webhook_hub::event::{Envelope, EventType, Recorded};

use crate::{
    batches::{Tables, noon},
    harness::{
        World,
        at_end::Ends,
        hub::Hub,
        ids,
        wait::{PATIENCE, eventually},
    },
};

/// A log about one number, written event by event; each comes a second after the one before it.
#[derive(Default)]
struct Story(Vec<Recorded>);

impl Story {
    /// A webhook is accepted so many hours after noon.
    fn receive(&mut self, name: &str, webhook_type: &str, hours: i64) -> Envelope {
        let at = noon() + TimeDelta::hours(hours) + TimeDelta::seconds(self.0.len() as i64);
        let webhook = Recorded::sample("careem", "CR-1", webhook_type, name.as_bytes(), at);
        self.tell(&webhook.envelope, EventType::WebhookReceived, json!({}))
    }

    fn tell(&mut self, webhook: &Envelope, event_type: EventType, payload: Value) -> Envelope {
        let sequence = self.0.len() as u64 + 1;
        let time = webhook.received_at + TimeDelta::seconds(sequence as i64);
        let received = event_type == EventType::WebhookReceived;
        let envelope = Envelope {
            id: if received {
                webhook.id
            } else {
                webhook.id.derive(&sequence.to_string())
            },
            event_type,
            branch: (!received).then(|| "branch-1".to_owned()),
            time: if received { webhook.received_at } else { time },
            ..webhook.clone()
        };
        self.0.push(Recorded {
            envelope: envelope.clone(),
            payload: Bytes::from(payload.to_string()),
            sequence,
            run: None,
            is_again: false,
        });
        envelope
    }

    fn transform(&mut self, webhook: &Envelope, status: &str) {
        let order = json!({
            "companyId": "company-1", "status": status, "providerStatus": status, "orderNumber": "CAREEM-1", "displayId": "#7",
            "acceptBy": "2025-10-01T12:05:00.000Z", "flags": ["total_mismatch"],
        });
        self.tell(
            webhook,
            EventType::OrderTransformed,
            json!({ "transformedOrder": order }),
        );
    }

    fn fail(&mut self, webhook: &Envelope) {
        let failed = json!({
            "attempt": 2, "retries": 0, "maxAttempts": 10, "error": error("BACKEND_503"), "nextAttemptAt": "2025-10-01T12:10:00Z",
        });
        self.tell(webhook, EventType::OrderForwardFailed, failed);
    }

    fn give_up(&mut self, webhook: &Envelope) {
        let dead =
            json!({ "attempts": 3, "retries": 1, "stage": "forward", "sequence": 1, "error": error("BACKEND_422") });
        self.tell(webhook, EventType::OrderDeadLettered, dead);
    }

    fn forward(&mut self, webhook: &Envelope) {
        let order = json!({ "branchId": "branch-1", "companyId": "company-1", "providerStatus": "pending", "status": "pending" });
        let forwarded = json!({
            "internalOrderId": "order-1", "backendStatus": 201, "attempts": 1, "receivedAt": noon(), "forwardedAt": noon(),
            "order": order,
        });
        self.tell(webhook, EventType::OrderForwarded, forwarded);
    }

    fn ignore(&mut self, webhook: &Envelope, reason: &str) {
        let ignored = json!({ "reason": reason, "message": "x" });
        self.tell(webhook, EventType::OrderIgnored, ignored);
    }

    /// The rows that it makes, oldest first, as far as these columns tell.
    async fn rows(&self, tables: &Tables, columns: &str) -> Vec<Value> {
        tables.fill(&self.0, &[]).await;
        let query = format!("SELECT {columns} FROM hub.orders ORDER BY first_at");
        tables.database.rows(&query).await.unwrap()
    }
}

fn error(code: &str) -> Value {
    json!({ "type": "temporary", "code": code, "message": "x" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_says_where_its_order_stands() {
    let tables = Tables::new().await;
    let mut story = Story::default();
    let what = "state, order_number, order_id, attempts, cause_stage, cause_code, undelivered_since IS NULL AS arrived";
    let order = story.receive("announced", "order_created", 0);
    let row = |state: &str, number: Value, id: Value, attempts: i32, cause: Value, code: Value, arrived: bool| {
        vec![json!({
            "state": state, "order_number": number, "order_id": id, "attempts": attempts, "cause_stage": cause, "cause_code": code,
            "arrived": arrived,
        })]
    };
    let (null, number) = (Value::Null, json!("CAREEM-1"));
    let expected = row(
        "received",
        null.clone(),
        null.clone(),
        0,
        null.clone(),
        null.clone(),
        false,
    );
    assert_eq!(story.rows(&tables, what).await, expected);
    story.transform(&order, "pending");
    let expected = row(
        "transformed",
        number.clone(),
        null.clone(),
        0,
        null.clone(),
        null.clone(),
        false,
    );
    assert_eq!(story.rows(&tables, what).await, expected);
    story.fail(&order);
    let (stage, code) = (json!("forward"), json!("BACKEND_503"));
    let expected = row("waiting", number.clone(), null.clone(), 2, stage.clone(), code, false);
    assert_eq!(story.rows(&tables, what).await, expected);
    story.give_up(&order);
    let expected = row(
        "given_up",
        number.clone(),
        null.clone(),
        3,
        stage,
        json!("BACKEND_422"),
        false,
    );
    assert_eq!(story.rows(&tables, what).await, expected);
    story.tell(&order, EventType::OrderRetryRequested, json!({}));
    story.forward(&order);
    let expected = row("forwarded", number, json!("order-1"), 1, null.clone(), null, true);
    assert_eq!(story.rows(&tables, what).await, expected);
}

/// What an operator looks for must not disappear behind what comes later.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_given_up_stays_so_until_it_arrives() {
    let tables = Tables::new().await;
    let mut story = Story::default();
    let what = "state, cause_code, given_up_at IS NULL AS overcome";
    let order = story.receive("announced", "order_created", 0);
    story.give_up(&order);
    let given_up = [json!({ "state": "given_up", "cause_code": "BACKEND_422", "overcome": false })];
    let news = story.receive("cancelled", "order_cancelled", 0);
    story.ignore(&news, "SUPERSEDED");
    assert_eq!(story.rows(&tables, what).await, given_up);
    let more = story.receive("cancelled once more", "order_cancelled", 0);
    story.forward(&more);
    assert_eq!(story.rows(&tables, what).await, given_up);
    story.forward(&order);
    let arrived = [json!({ "state": "forwarded", "cause_code": null, "overcome": true })];
    assert_eq!(story.rows(&tables, what).await, arrived);
}

/// What arrives after it but was accepted before it does not make up for a cancellation.
#[tokio::test(flavor = "multi_thread")]
async fn only_later_news_make_up_for_news() {
    let tables = Tables::new().await;
    let what = "state, status, given_up_at IS NULL AS overcome, undelivered_since IS NULL AS arrived";
    let hidden = |state: &str| [json!({ "state": state, "status": "cancelled", "overcome": false, "arrived": false })];
    // The announcement was given up, too, and is asked for once more.
    let mut story = Story::default();
    let order = story.receive("announced", "order_created", 0);
    story.give_up(&order);
    let cancelled = story.receive("cancelled", "order_cancelled", 0);
    story.transform(&cancelled, "cancelled");
    story.give_up(&cancelled);
    story.tell(&order, EventType::OrderRetryRequested, json!({}));
    story.forward(&order);
    assert_eq!(story.rows(&tables, what).await, hidden("given_up"));
    // Earlier news wait meanwhile, or are given up after it.
    for is_given_up in [false, true] {
        let mut story = Story::default();
        let order = story.receive("announced", "order_created", 0);
        story.forward(&order);
        let ready = story.receive("ready", "order_status_updated", 0);
        story.transform(&ready, "ready_for_pickup");
        story.fail(&ready);
        let cancelled = story.receive("cancelled", "order_cancelled", 0);
        story.transform(&cancelled, "cancelled");
        story.give_up(&cancelled);
        if is_given_up {
            story.give_up(&ready);
        }
        story.forward(&ready);
        assert_eq!(story.rows(&tables, what).await, hidden("given_up"));
        let later = story.receive("refunded", "order_status_updated", 1);
        story.forward(&later);
        let arrived = [json!({ "state": "forwarded", "status": "cancelled", "overcome": true, "arrived": true })];
        assert_eq!(story.rows(&tables, what).await, arrived);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_arrived_stays_so() {
    let tables = Tables::new().await;
    let mut story = Story::default();
    let order = story.receive("announced", "order_created", 0);
    story.forward(&order);
    let arrived = [json!({ "state": "forwarded", "cause_code": null, "arrived": true })];
    let what = "state, cause_code, undelivered_since IS NULL AS arrived";
    // An instance that was replaced in the middle of a request.
    story.fail(&order);
    story.give_up(&order);
    assert_eq!(story.rows(&tables, what).await, arrived);
    let again = story.receive("announced again", "order_created", 1);
    story.ignore(&again, "DUPLICATE_ORDER");
    assert_eq!(story.rows(&tables, what).await, arrived);
    // News on their way.
    let news = story.receive("changed", "order_status_updated", 1);
    let way = [json!({ "state": "received", "cause_code": null, "arrived": false })];
    assert_eq!(story.rows(&tables, what).await, way);
    story.forward(&news);
    assert_eq!(story.rows(&tables, what).await, arrived);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_number_of_another_week_is_another_order() {
    let tables = Tables::new().await;
    let mut story = Story::default();
    let order = story.receive("announced", "order_created", 0);
    story.forward(&order);
    let again = story.receive("announced within the time", "order_created", 47);
    story.ignore(&again, "DUPLICATE_ORDER");
    let other = story.receive("announced in another week", "order_created", 168);
    story.transform(&other, "pending");
    let news = story.receive("cancelled", "order_cancelled", 169);
    story.transform(&news, "cancelled");
    let rows = [
        json!({ "state": "forwarded", "status": null }),
        json!({ "state": "transformed", "status": "cancelled" }),
    ];
    assert_eq!(story.rows(&tables, "state, status").await, rows);
}

/// Also if a number was used again meanwhile: what is about the first order stays with that one.
#[tokio::test(flavor = "multi_thread")]
async fn applying_a_log_once_more_gives_the_same_rows() {
    let tables = Tables::new().await;
    let mut story = Story::default();
    let order = story.receive("announced", "order_created", 0);
    story.forward(&order);
    let news = story.receive("ready", "order_status_updated", 1);
    story.transform(&news, "ready_for_pickup");
    story.forward(&news);
    let again = story.receive("announced within the time", "order_created", 47);
    story.ignore(&again, "DUPLICATE_ORDER");
    let other = story.receive("announced in another week", "order_created", 168);
    story.transform(&other, "pending");
    story.forward(&other);
    let rows = story.rows(&tables, "*").await;
    assert_eq!(rows.len(), 2);
    tables.apply_once_more(&story.0).await;
    let query = "SELECT * FROM hub.orders ORDER BY first_at";
    assert_eq!(tables.database.rows(query).await.unwrap(), rows);
}

/// A database of an earlier version: its tables are filled, and it has neither this one nor its position.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_filled_beside_the_live_tables() {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 5)).await;
    world.at_end(Ends::forwarded(5)).await;
    assert!(hub.terminate().await.0.success());
    let earlier = "DROP TABLE hub.orders, hub.projections; DELETE FROM hub.migrations WHERE name IN ('0008_orders', '0009_orders_indexes')";
    world.database.run(earlier).await.unwrap();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("meanwhile", 5)).await;
    world.at_end(Ends::forwarded(10)).await;
    assert!(hub.terminate().await.0.success());
    // An older version wrote the tables in between, and an earlier form of the rows is left.
    let behind = "UPDATE hub.projections SET position = 4; UPDATE hub.orders SET state = 'received'";
    world.database.run(behind).await.unwrap();
    let older = "UPDATE hub.projections SET version = 0";
    world.database.run(older).await.unwrap();
    let hub = Hub::start(&settings).await;
    world.at_end(Ends::forwarded(10)).await;
    assert!(hub.terminate().await.0.success());
    // Rows of a later version are left to that.
    world
        .database
        .run("UPDATE hub.projections SET version = 99; DELETE FROM hub.orders")
        .await
        .unwrap();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("later", 1)).await;
    world.log.settled().await;
    assert!(hub.terminate().await.0.success());
    let rows = world.database.rows("SELECT count(*) FROM hub.orders").await.unwrap();
    assert_eq!(rows, [json!({ "count": 0 })]);
}

/// Emptying the table waits for who reads it, such as a backup; the other tables do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_delays_filling_it_again_and_no_other_table() {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    assert!(hub.terminate().await.0.success());
    let older = "UPDATE hub.projections SET version = 0; UPDATE hub.orders SET state = 'received'";
    world.database.run(older).await.unwrap();
    let reading = "BEGIN; LOCK TABLE hub.orders IN ACCESS SHARE MODE";
    world.database.run(reading).await.unwrap();
    let hub = Hub::start(&settings.set("HUB_TEST_TIMES", "fill_retry=200ms")).await;
    world.post_orders(&hub, ids("meanwhile", 1)).await;
    eventually("the platform's rows are written", PATIENCE, async || {
        let query = "SELECT status::text FROM webhook_logs WHERE external_order_id = 'CR-meanwhile-0'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows == [json!({ "status": "completed" })] {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    world.database.run("COMMIT").await.unwrap();
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

/// The questions of docs/orders-table.md read indexes.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_questions_read_indexes() {
    let tables = Tables::new().await;
    let fill = "INSERT INTO hub.orders (external_order_id, provider, id, order_number, display_id, order_id, state, first_at, last_at,
                    undelivered_since, given_up_at, attempts, is_test, flags, last_sequence)
                SELECT 'CR-' || n, 'careem', gen_random_uuid(), 'CAREEM-' || n, '#' || n, 'order-' || n, 'forwarded', now(), now(),
                    CASE WHEN n % 1000 = 0 THEN now() END, CASE WHEN n % 2000 = 0 THEN now() END, 1, false, '{}', n
                FROM generate_series(1, 20000) AS n;
                ANALYZE hub.orders;";
    tables.database.run(fill).await.unwrap();
    let docs = include_str!("../docs/orders-table.md");
    let sql = docs.split_once("```sql").unwrap().1.split_once("```").unwrap().0;
    let questions: Vec<_> = sql.split(';').map(str::trim).filter(|one| !one.is_empty()).collect();
    assert_eq!(questions.len(), 3);
    for question in questions {
        let question = question.lines().filter(|line| !line.starts_with("--"));
        let question = question.collect::<Vec<_>>().join("\n").replace("$1", "'17'");
        let plan = tables.plan(&question).await;
        assert!(!plan.contains("Seq Scan"), "{question}\n{plan}");
    }
}
