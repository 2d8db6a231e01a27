//! What must hold at the end of every test, whatever it did meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::consumer;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use webhook_hub::event::{EventId, EventType, Recorded};

use super::{
    World,
    log::payload,
    wait::{PATIENCE, eventually},
};

/// How the accepted webhooks of a test ended; each one in exactly one of these ways.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) forwarded: usize,
    pub(crate) ignored: usize,
    pub(crate) rejected: usize,
    pub(crate) dead_lettered: usize,
}

impl Ends {
    pub(crate) fn forwarded(count: usize) -> Self {
        Self {
            forwarded: count,
            ..Self::default()
        }
    }
}

impl World {
    /// Every accepted webhook ended, once, as declared; nothing is pending; the backend got each order byte for byte and in
    /// order; the tables say what the log says.
    pub(crate) async fn at_end(&self, expected: Ends) {
        let events = self.log.settled().await;
        assert_eq!(ends(&events), expected);
        self.nothing_pending().await;
        self.backend_agrees(&events);
        self.tables_agree(&events).await;
    }

    /// No consumer has anything that is not handed out, or handed out and not acknowledged.
    pub(crate) async fn nothing_pending(&self) {
        let stream = self.nats.provision().await.get_stream("EVENTS").await.unwrap();
        eventually("nothing is pending in any consumer", PATIENCE, async || {
            let infos: Vec<consumer::Info> = stream
                .consumers()
                .try_collect()
                .await
                .map_err(|error| error.to_string())?;
            let busy = infos
                .iter()
                .filter(|info| info.num_pending > 0 || info.num_ack_pending > 0);
            let mut busy: Vec<_> = busy
                .map(|info| format!("{}: {} + {}", info.name, info.num_pending, info.num_ack_pending))
                .collect();
            busy.extend(self.lanes().await.iter().map(|lane| format!("lane {lane}")));
            if busy.is_empty() { Ok(()) } else { Err(busy.join(", ")) }
        })
        .await;
    }

    /// Each key came with one body, which is the event's payload; the first coming of each is in the log's order.
    fn backend_agrees(&self, events: &[Arc<Recorded>]) {
        let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
        let mut arrived: HashMap<String, Vec<String>> = HashMap::new();
        for request in self.backend.requests() {
            let key = request.key().to_owned();
            match bodies.get(&key) {
                Some(known) => assert_eq!(
                    known, &request.body,
                    "another body under the same Idempotency-Key {key}"
                ),
                None => {
                    arrived
                        .entry(request.external_order_id())
                        .or_default()
                        .push(key.clone());
                    bodies.insert(key, request.body.to_vec());
                }
            }
        }
        let mut recorded: HashMap<String, Vec<String>> = HashMap::new();
        for event in events {
            let id = event.envelope.id.to_string();
            match event.envelope.event_type {
                EventType::OrderTransformed if bodies.contains_key(&id) => {
                    assert_eq!(bodies[&id], event.payload, "the body is the event's payload");
                    recorded
                        .entry(event.envelope.external_order_id.clone())
                        .or_default()
                        .push(id);
                }
                EventType::OrderForwarded => {
                    let key = key_of(events, event);
                    assert!(
                        bodies.contains_key(&key),
                        "{key} is recorded as forwarded but the backend never got it"
                    );
                }
                _ => {}
            }
        }
        let requests = self.backend.requests();
        for (order, keys) in &recorded {
            let of_order = requests.iter().filter(|request| request.external_order_id() == *order);
            let all: Vec<_> = of_order
                .map(|request| (request.at, request.key(), request.path.as_str()))
                .collect();
            let arrived = arrived.get(order).cloned().unwrap_or_default();
            assert!(
                arrived == *keys || passed_by_its_creation(&arrived, keys, events),
                "{order}: keys as they arrived first {arrived:#?}, and as they stand on the log {keys:#?}; all: {all:#?}"
            );
        }
        assert_eq!(
            arrived.len(),
            recorded.len(),
            "the backend got an order that is not on the log"
        );
    }

    /// The tables say what the log says.
    async fn tables_agree(&self, events: &[Arc<Recorded>]) {
        let expected = expected_tables(events);
        eventually("the tables agree with the log", PATIENCE, async || {
            let found = self.tables().await.map_err(|error| vec![format!("{error:#}")])?;
            if found == expected {
                Ok(())
            } else {
                Err(differences(&found, &expected))
            }
        })
        .await;
    }

    async fn tables(&self) -> anyhow::Result<Tables> {
        let mut tables = Tables::default();
        let queries = [
            (
                "webhook_logs",
                "SELECT id AS key, status, external_order_id, internal_order_id, retry_count,
                        (extract(epoch FROM processed_at) * 1000)::bigint AS processed_at FROM webhook_logs",
            ),
            (
                "delivery_error_logs",
                "SELECT id AS key, webhook_log_id, error_code, retry_count, is_resolved,
                        moved_to_dead_letter_at IS NOT NULL AS is_dead FROM delivery_error_logs",
            ),
            (
                "provider_order_logs",
                "SELECT order_id AS key, external_order_id, provider_status, branch_id, company_id FROM provider_order_logs",
            ),
        ];
        for (table, query) in queries {
            for mut row in self.database.rows(query).await? {
                let key = row.as_object_mut().unwrap().remove("key").unwrap();
                tables.insert((table, key.as_str().unwrap().to_owned()), row);
            }
        }
        Ok(tables)
    }
}

/// Whether all keys but that of the event that created the order came as they stand on the log, and that one earlier:
/// a word about an order that nobody knows yet lets it pass.
fn passed_by_its_creation(arrived: &[String], recorded: &[String], events: &[Arc<Recorded>]) -> bool {
    let creates = |key: &&String| {
        let event = events.iter().find(|event| event.envelope.id.to_string() == **key);
        event.is_some_and(|event| event.envelope.webhook_type == "order_created")
    };
    let place = |keys: &[String]| keys.iter().position(|key| creates(&key));
    let others = |keys: &[String]| keys.iter().filter(|key| !creates(key)).cloned().collect::<Vec<_>>();
    others(arrived) == others(recorded) && place(arrived).is_some_and(|came| Some(came) < place(recorded))
}

/// The key that an order was forwarded under: the id of what was posted, which is its cause, or what the request that is
/// its cause took up again.
fn key_of(events: &[Arc<Recorded>], forwarded: &Recorded) -> String {
    let cause = forwarded.envelope.cause_id.unwrap();
    let posted = match events.iter().find(|event| event.envelope.id == cause) {
        Some(request) if request.envelope.event_type == EventType::OrderRetryRequested => {
            let sequence = &payload(request)["sequence"];
            let taken_up = events.iter().find(|event| event.sequence == *sequence).unwrap();
            assert_eq!(taken_up.envelope.event_type, EventType::OrderTransformed);
            taken_up.envelope.id
        }
        _ => cause,
    };
    posted.to_string()
}

/// Rows by table and key.
type Tables = BTreeMap<(&'static str, String), Value>;

fn ends(events: &[Arc<Recorded>]) -> Ends {
    let mut by_root: HashMap<EventId, EventType> = HashMap::new();
    for event in events {
        let event_type = event.envelope.event_type;
        if event_type == EventType::OrderRetryRequested {
            let earlier = by_root.remove(&event.envelope.root_id);
            assert_eq!(
                earlier,
                Some(EventType::OrderDeadLettered),
                "a retry of what is no dead letter"
            );
        }
        if !event_type.ends() {
            continue;
        }
        let earlier = by_root.insert(event.envelope.root_id, event_type);
        assert_eq!(earlier, None, "webhook {} ended twice", event.envelope.root_id);
    }
    let count = |one: EventType| by_root.values().filter(|end| **end == one).count();
    Ends {
        forwarded: count(EventType::OrderForwarded),
        ignored: count(EventType::OrderIgnored),
        rejected: count(EventType::OrderRejected),
        dead_lettered: count(EventType::OrderDeadLettered),
    }
}

/// The tables as the contract derives them from the log, written down a second time and independently of the hub.
fn expected_tables(events: &[Arc<Recorded>]) -> Tables {
    let mut tables = Tables::new();
    for event in events {
        let envelope = &event.envelope;
        let (id, root) = (envelope.id.to_string(), envelope.root_id.to_string());
        if envelope.event_type == EventType::WebhookReceived {
            let row = json!({
                "status": "received", "external_order_id": envelope.external_order_id, "internal_order_id": null, "retry_count": 0,
                "processed_at": null,
            });
            tables.entry(("webhook_logs", id)).or_insert(row);
            continue;
        }
        // The body for the backend says nothing about what became of it, and may be nonsense in some tests.
        let payload = if envelope.event_type == EventType::OrderTransformed {
            Value::Null
        } else {
            payload(event)
        };
        let known = tables.contains_key(&("webhook_logs", root.clone()));
        if let Some(row) = tables.get_mut(&("webhook_logs", root.clone())) {
            note(row, envelope.event_type, &payload);
            if envelope.event_type.ends() {
                row["processed_at"] = envelope.time.timestamp_millis().into();
            }
        }
        if let Some(attempts) = error_attempts(envelope.event_type, &payload) {
            let row = json!({
                "webhook_log_id": known.then_some(&root), "error_code": payload["error"]["code"], "retry_count": attempts,
                "is_resolved": false, "is_dead": envelope.event_type == EventType::OrderDeadLettered,
            });
            tables.insert(("delivery_error_logs", id), row);
        }
        if envelope.event_type == EventType::OrderForwarded {
            resolve(&mut tables, &root);
            order_row(&mut tables, event, &payload);
        }
    }
    tables
}

fn note(row: &mut Value, event_type: EventType, payload: &Value) {
    row["status"] = match event_type {
        EventType::WebhookReceived => "received",
        EventType::OrderTransformed => "processing",
        EventType::OrderForwardFailed | EventType::OrderRetryRequested => "retrying",
        EventType::OrderForwarded => "completed",
        EventType::OrderIgnored => "ignored",
        EventType::OrderRejected | EventType::OrderDeadLettered => "failed",
    }
    .into();
    if let Some(order) = payload.get("internalOrderId") {
        row["internal_order_id"] = order.clone();
    }
    if event_type == EventType::OrderForwardFailed || event_type == EventType::OrderDeadLettered {
        row["retry_count"] = error_attempts(event_type, payload).unwrap();
    }
}

/// The attempts that an error event counts; none where it is no error.
fn error_attempts(event_type: EventType, payload: &Value) -> Option<Value> {
    match event_type {
        EventType::OrderRejected => Some(json!(0)),
        EventType::OrderForwardFailed => Some(payload["retries"].clone()),
        EventType::OrderDeadLettered => Some(payload["retries"].clone()),
        _ => None,
    }
}

fn resolve(tables: &mut Tables, root: &str) {
    for ((table, _), row) in tables.iter_mut() {
        if *table == "delivery_error_logs" && row["webhook_log_id"] == root {
            row["is_resolved"] = true.into();
        }
    }
}

/// One row an order that the backend has, with the provider's latest word.
fn order_row(tables: &mut Tables, event: &Recorded, payload: &Value) {
    let order = &payload["order"];
    let external_id = &event.envelope.external_order_id;
    let is_creation = event.envelope.webhook_type == "order_created";
    if let (true, Some(order_id)) = (is_creation, payload["internalOrderId"].as_str()) {
        let row = json!({
            "external_order_id": external_id, "provider_status": order["providerStatus"],
            "branch_id": order["branchId"], "company_id": order["companyId"],
        });
        tables.insert(("provider_order_logs", order_id.to_owned()), row);
        return;
    }
    for ((table, _), row) in tables.iter_mut() {
        if *table == "provider_order_logs" && row["external_order_id"] == *external_id {
            row["provider_status"] = order["providerStatus"].clone();
        }
    }
}

/// The rows that are not the same, as far as anyone can read.
fn differences(found: &Tables, expected: &Tables) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ = keys.into_iter().filter(|key| found.get(key) != expected.get(key));
    differ
        .take(5)
        .map(|key| {
            format!(
                "{key:?}: {:?}, but the log says {:?}",
                found.get(key),
                expected.get(key)
            )
        })
        .collect()
}

/// A time limit for what takes as long as an append may take, and some more.
pub(crate) const ONE_APPEND: Duration = Duration::from_millis(6500);
