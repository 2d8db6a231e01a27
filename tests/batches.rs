//! A batch of events ends anywhere: the tables are the same wherever the log is cut, and one event that cannot be stored
//! does not cost a transaction for each of the others.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::{
    config::{self, Environment},
    database::Database,
    event::{Envelope, EventId, EventType, Recorded, RequestFacts},
    projection::{
        batch::{self, To},
        decoded::Event,
        fill,
        providers::Providers,
        writer::{self, Holder},
    },
};

use crate::harness::{
    random::Random,
    servers::{self, Cluster},
    tables::disagreement,
};

mod many_rows;

/// Logs that are made up, and events of each.
const LOGS: usize = 40;
const EVENTS: usize = 36;

/// A database and who writes its tables.
pub(crate) struct Tables {
    pub(crate) database: servers::Database,
    hub: Database,
    providers: Providers,
}

impl Tables {
    pub(crate) async fn new() -> Self {
        let database = Cluster::shared().await.database().await;
        let environment = Environment::from_iter([("DATABASE_URL", database.url.clone())]);
        let hub = Database::new(&config::Database::from_environment(&environment).unwrap()).unwrap();
        let connection = hub.connect().await.unwrap();
        let enabled = [(Arc::from("careem"), "Careem".to_owned())];
        let providers = Providers::load(&connection, &enabled).await.unwrap();
        Self {
            database,
            hub,
            providers,
        }
    }

    /// Empties the tables and applies the events, in batches that end after these numbers of events.
    pub(crate) async fn fill(&self, events: &[Recorded], ends: &[usize]) {
        let empty =
            "TRUNCATE webhook_logs, delivery_error_logs, provider_order_logs, hub.orders; DELETE FROM hub.cursors;
                     DELETE FROM hub.projections";
        self.database.run(empty).await.unwrap();
        self.apply(events, ends).await;
    }

    /// From now on the transactions are counted that move the position.
    async fn count_transactions(&self) {
        let count = "
            CREATE TABLE moves (position bigint);
            CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN INSERT INTO moves VALUES (NEW.position); RETURN NULL; END';
            CREATE TRIGGER moves AFTER INSERT OR UPDATE ON hub.cursors FOR EACH ROW WHEN (NEW.position > 0) EXECUTE FUNCTION moves();";
        self.database.run(count).await.unwrap();
    }

    /// How many there were since they were asked for last.
    async fn transactions(&self) -> Option<i64> {
        let count = self.database.rows("SELECT count(*) FROM moves").await.unwrap()[0]["count"].as_i64();
        self.database.run("TRUNCATE moves").await.unwrap();
        count
    }

    /// How PostgreSQL answers a question.
    pub(crate) async fn plan(&self, question: &str) -> String {
        let (client, connection) = tokio_postgres::connect(&self.database.url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let rows = client.query(&format!("EXPLAIN {question}"), &[]).await.unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        lines.join("\n")
    }

    /// Applies events of a log that began anew.
    async fn apply_again(&self, events: &[Recorded]) {
        let era = "INSERT INTO hub.log_eras (era, found, log_created, position_before, common_point)
                   VALUES (1, 'test', now(), 2, 0) ON CONFLICT DO NOTHING";
        self.database.run(era).await.unwrap();
        self.database.run("DELETE FROM hub.cursors").await.unwrap();
        self.apply(events, &[]).await;
    }

    /// Applies the events as if the tables had none of them; rows stay.
    pub(crate) async fn apply_once_more(&self, events: &[Recorded]) {
        let behind = "DELETE FROM hub.cursors; UPDATE hub.projections SET position = 0";
        self.database.run(behind).await.unwrap();
        self.apply(events, &[]).await;
    }

    async fn apply(&self, events: &[Recorded], ends: &[usize]) {
        let mut connection = self.hub.connect().await.unwrap();
        let holder = Holder::random();
        writer::claim(&connection, &holder).await.unwrap();
        fill::prepare(&mut connection, &holder, 0).await.unwrap();
        let mut from = 0;
        for end in ends.iter().copied().chain([events.len()]) {
            let batch = &events[from..end];
            let Some(last) = batch.last() else { continue };
            let to = To {
                position: last.sequence,
                log: None,
            };
            let batch: Vec<_> = batch.iter().cloned().map(Event::new).collect();
            batch::apply(&mut connection, &holder, &batch, to, &self.providers)
                .await
                .unwrap();
            from = end;
        }
    }
}

/// The backend answers an announcement with the order of another number, which an earlier batch has stored.
#[tokio::test(flavor = "multi_thread")]
async fn the_backend_answers_with_the_order_of_another_number() {
    let tables = Tables::new().await;
    let roots = roots();
    let (created, again, changed, other) = (&roots[0], &roots[1], &roots[3], &roots[4]);
    let forwarded = |sequence: u64, root: &Envelope, order: Option<&str>, status: &str| {
        let time = noon() + TimeDelta::seconds(sequence as i64);
        let payload = json!({
            "internalOrderId": order, "backendStatus": 201, "attempts": 1, "receivedAt": time, "forwardedAt": time,
            "order": {
                "branchId": "branch-1", "companyId": "company-1", "providerStatus": status, "status": status,
                "isPrepaid": false, "deliveryFee": "2.50", "serviceFee": null, "total": "17.125",
            },
        });
        Recorded {
            envelope: Envelope {
                id: root.id.derive("outcome"),
                event_type: EventType::OrderForwarded,
                cause_id: Some(root.id),
                time,
                request: None,
                ..root.clone()
            },
            payload: Bytes::from(payload.to_string()),
            sequence,
            run: None,
            is_again: false,
        }
    };
    let events = [
        forwarded(1, other, Some("order-9"), "pending"),
        forwarded(2, created, Some("order-1"), "pending"),
        forwarded(3, again, Some("order-9"), "pending"),
        forwarded(4, changed, None, "preparing"),
    ];
    let shared: Vec<_> = events.iter().cloned().map(Arc::new).collect();
    for ends in [vec![1, 2, 3], vec![2], vec![]] {
        tables.fill(&events, &ends).await;
        let differ = disagreement(&tables.database, &shared).await.unwrap();
        assert!(differ.is_empty(), "cut after {ends:?}: {differ:#?}");
        let row = "SELECT mapped_status::text FROM provider_order_logs WHERE order_id = 'order-1'";
        assert_eq!(
            tables.database.rows(row).await.unwrap(),
            [json!({ "mapped_status": "preparing" })]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_cannot_be_stored_costs_few_transactions() {
    const COUNT: usize = 1000;
    let tables = Tables::new().await;
    tables.count_transactions().await;
    let events: Vec<_> = (1..=COUNT)
        .map(|number| {
            // PostgreSQL's numbers have an end, those of JSON do not.
            let body = if number == 700 { r#"{"n": 1e999999}"# } else { "{}" };
            Recorded {
                sequence: number as u64,
                ..Recorded::sample(
                    "careem",
                    &format!("CR-{number}"),
                    "order_created",
                    body.as_bytes(),
                    noon(),
                )
            }
        })
        .map(|event| {
            let id = EventId::of_webhook("careem", &[event.envelope.external_order_id.as_bytes()]);
            let envelope = Envelope {
                id,
                root_id: id,
                ..event.envelope
            };
            Recorded { envelope, ..event }
        })
        .collect();
    tables.fill(&events, &[]).await;
    let rows = "SELECT count(*) AS rows, count(*) FILTER (WHERE payload ? 'unstorable') AS stand_ins FROM webhook_logs";
    assert_eq!(
        tables.database.rows(rows).await.unwrap(),
        [json!({ "rows": COUNT, "stand_ins": 1 })]
    );
    let transactions = tables.transactions().await;
    // The halves on the way to the one, which are some ten, and the one itself.
    assert!(transactions < Some(25), "{transactions:?} transactions");
}

pub(crate) fn noon() -> DateTime<Utc> {
    "2025-10-01T12:00:00Z".parse().unwrap()
}

/// What the events of a log belong to: webhooks about two orders in two branches, and a request of the backend.
fn roots() -> Vec<Envelope> {
    roots_of("CR")
}

/// The same, with other numbers for other words.
fn roots_of(numbers: &str) -> Vec<Envelope> {
    let (one, two) = (format!("{numbers}-1"), format!("{numbers}-2"));
    let root = |name: &str, order: &str, webhook_type: &str| Envelope {
        request_id: format!("request-{name}"),
        ..Recorded::sample(
            "careem",
            order,
            webhook_type,
            format!("{name}{order}").as_bytes(),
            noon(),
        )
        .envelope
    };
    vec![
        root("created", &one, "order_created"),
        root("created again", &one, "order_created"),
        root("cancelled", &one, "order_cancelled"),
        root("changed", &one, "order_updated"),
        root("other", &two, "order_created"),
        root("request", &one, "status_request"),
    ]
}

/// Events in any order, also such as no hub would write: what the tables make of them must not depend on where they are cut.
fn made_up_log(random: &mut Random) -> Vec<Recorded> {
    made_up_log_of(random, &roots(), EVENTS)
}

/// The same about these roots.
fn made_up_log_of(random: &mut Random, roots: &[Envelope], events: usize) -> Vec<Recorded> {
    let pick = |random: &mut Random, words: &[&str]| words[random.below(words.len())].to_owned();
    (1..=events as u64)
        .map(|sequence| {
            let root = &roots[random.below(roots.len())];
            let of_backend = root.webhook_type == "status_request";
            let types = if of_backend {
                &[
                    EventType::OrderStatusRequested,
                    EventType::OrderStatusPushFailed,
                    EventType::OrderStatusPushed,
                    EventType::OrderDeadLettered,
                    EventType::OrderRetryRequested,
                ][..]
            } else {
                &[
                    EventType::WebhookReceived,
                    EventType::WebhookReceived,
                    EventType::OrderTransformed,
                    EventType::OrderForwardFailed,
                    EventType::OrderForwardFailed,
                    EventType::OrderForwarded,
                    EventType::OrderForwarded,
                    EventType::OrderIgnored,
                    EventType::OrderRejected,
                    EventType::OrderDeadLettered,
                    EventType::OrderRetryRequested,
                    EventType::OrderFetchFailed,
                ]
            };
            let event_type = types[random.below(types.len())];
            // The clocks of two hubs are not the same.
            let time = noon() + TimeDelta::seconds(sequence as i64) + TimeDelta::milliseconds(random.below(4000) as i64);
            let received = event_type == EventType::WebhookReceived;
            // Some events come twice under one id: the log knows an id for five minutes.
            let id = if received {
                root.id
            } else {
                root.id.derive(&format!("{event_type}/{}", random.below(6)))
            };
            let branch = ["branch-1", "branch-2"][random.below(2)];
            let payload = match event_type {
                EventType::WebhookReceived => json!({ "sequence": sequence, "amount": 1.25, "text": "a\u{0}b" }),
                EventType::OrderTransformed => transformed(random, branch),
                EventType::OrderForwarded => forwarded(random, branch, time),
                EventType::OrderIgnored => json!({
                    "reason": pick(random, &["DUPLICATE_ORDER", "DUPLICATE_WEBHOOK", "TEST_ORDER"]), "message": "not wanted",
                    "internalOrderId": "order-1",
                }),
                _ => failed(random, time),
            };
            Recorded {
                envelope: Envelope {
                    id,
                    event_type,
                    cause_id: (!received).then_some(root.id),
                    branch: (!received && random.percent(70)).then(|| branch.to_owned()),
                    time,
                    // Now and then one that is days older than the others.
                    received_at: time - TimeDelta::hours(if random.percent(10) { 60 } else { 0 }),
                    request: received.then(|| RequestFacts {
                        client_address: format!("10.0.0.{sequence}"),
                        ..root.request.clone().unwrap()
                    }),
                    ..root.clone()
                },
                payload: Bytes::from(payload.to_string()),
                sequence,
                run: None,
                is_again: false,
            }
        })
        .collect()
}

fn transformed(random: &mut Random, branch: &str) -> Value {
    if random.percent(30) {
        // Nothing that could be read.
        return json!({});
    }
    let mut maybe = |value: Value| if random.percent(50) { value } else { Value::Null };
    let (accept, deliver) = (
        maybe(json!("2025-10-01T12:05:00.000Z")),
        maybe(json!("2025-10-01T13:00:00.5Z")),
    );
    let (number, display) = (maybe(json!("CAREEM-1")), maybe(json!("#7")));
    let statuses = [
        "pending",
        "confirmed",
        "preparing",
        "delivered",
        "refunded",
        "unheard of",
    ];
    let words = ["x", "y", ""];
    let flags = ["total_mismatch", "time_zero", "test_order"];
    let mut content = json!({
        "branchId": branch, "companyId": format!("company-{}", random.below(3)),
        "status": statuses[random.below(statuses.len())], "providerStatus": words[random.below(3)],
        "flags": flags[..random.below(4)],
    });
    if random.percent(50) {
        return json!({ "statusChange": content, "metadata": {} });
    }
    for (name, value) in [
        ("acceptBy", accept),
        ("deliverBy", deliver),
        ("orderNumber", number),
        ("displayId", display),
    ] {
        content[name] = value;
    }
    json!({ "transformedOrder": content, "metadata": {} })
}

fn forwarded(random: &mut Random, branch: &str, time: DateTime<Utc>) -> Value {
    let statuses = [
        ("created", Some("pending")),
        ("preparing", Some("preparing")),
        ("on the way", Some("out_for_delivery")),
        ("delivered", Some("delivered")),
        ("cancelled", Some("cancelled")),
        ("refunded", Some("refunded")),
        ("unheard of", None),
        ("", None),
    ];
    let (word, status) = statuses[random.below(statuses.len())];
    let mut maybe = |name: &str| random.percent(50).then(|| format!("{name}-{}", random.below(4)));
    json!({
        "internalOrderId": maybe("order"), "backendStatus": 201, "orderStatus": maybe("status"), "attempts": 1,
        "receivedAt": time, "forwardedAt": time,
        "order": {
            "branchId": branch, "companyId": "company-1", "providerStatus": word, "status": status,
            "deliveryType": maybe("delivery"), "captainId": maybe("captain"), "captainName": maybe("name"),
            "captainPhone": maybe("phone"), "paymentMethod": maybe("payment"), "isPrepaid": word == "created",
            "deliveryFee": "2.50", "serviceFee": null, "total": "17.125",
        },
    })
}

/// A payload that says what each kind of failure says.
fn failed(random: &mut Random, time: DateTime<Utc>) -> Value {
    let retries = random.below(10);
    json!({
        "attempt": retries + 3, "attempts": retries + 3, "retries": retries, "maxAttempts": 10, "stage": "forward", "sequence": 1,
        "by": "test", "nextAttemptAt": time + TimeDelta::microseconds(60_000_000 + random.below(3_000_000) as i64),
        "givenUp": random.percent(20),
        "error": {
            "type": "temporary", "code": format!("BACKEND_50{}", random.below(4)), "message": "the backend is away",
            "details": { "status": 500 },
        },
        "status": "accepted", "pushedAt": time, "requestedAt": time,
    })
}

/// The log in short, for whoever has to find out what happened.
fn shown(events: &[Recorded]) -> Vec<String> {
    let one = |event: &Recorded| {
        let envelope = &event.envelope;
        let root = envelope.root_id.to_string();
        let payload = String::from_utf8_lossy(&event.payload);
        format!(
            "{} {} of {} {root}: {payload}",
            event.sequence, envelope.event_type, envelope.webhook_type
        )
    };
    events.iter().map(one).collect()
}

/// Where the log went back, another event may have an id that an event of the lost part had: both have their rows.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_whose_id_was_used_on_a_lost_log_has_a_row_of_its_own() {
    let tables = Tables::new().await;
    let made = |seconds: i64| {
        let time = DateTime::from_timestamp(1_759_320_000 + seconds, 0).unwrap();
        let received = Recorded::sample("careem", "CR-1", "order_created", b"{}", time);
        let envelope = received.follow("outcome", EventType::OrderDeadLettered, time);
        let error = json!({ "type": "validation", "code": "BACKEND_422", "message": format!("after {seconds} s") });
        let payload = json!({ "attempts": 1, "retries": 0, "stage": "forward", "sequence": 1, "error": error });
        let dead = Recorded {
            envelope,
            payload: Bytes::from(payload.to_string()),
            sequence: 2,
            run: None,
            is_again: false,
        };
        [received, dead]
    };
    let (lost, new) = (made(0), made(3600));
    assert_eq!(lost[1].envelope.id, new[1].envelope.id);
    tables.fill(&lost, &[]).await;
    let rows = async || {
        let query = "SELECT error_message FROM delivery_error_logs ORDER BY occurred_at";
        tables.database.rows(query).await.unwrap()
    };
    let both = [
        json!({ "error_message": "after 0 s" }),
        json!({ "error_message": "after 3600 s" }),
    ];
    for events in [&new, &lost, &new] {
        tables.apply_again(events).await;
        assert_eq!(rows().await, both);
    }
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_tables_are_the_same_wherever_the_log_is_cut() {
        let tables = Tables::new().await;
        let mut random = Random::new();
        for log in 0..LOGS {
            let events = made_up_log(&mut random);
            let shared: Vec<_> = events.iter().cloned().map(Arc::new).collect();
            let one_by_one: Vec<usize> = (1..events.len()).collect();
            let anywhere = |random: &mut Random| one_by_one.iter().copied().filter(|_| random.percent(25)).collect();
            let cuts: [Vec<usize>; 4] = [
                one_by_one.clone(),
                Vec::new(),
                anywhere(&mut random),
                anywhere(&mut random),
            ];
            for ends in cuts {
                tables.fill(&events, &ends).await;
                let differ = disagreement(&tables.database, &shared).await.unwrap();
                assert!(
                    differ.is_empty(),
                    "log {log}, cut after {ends:?}: {differ:#?}\nof the log {:#?}",
                    shown(&events)
                );
            }
        }
    }
}
