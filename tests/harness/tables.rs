//! The tables as the contract derives them from the log, written down a second time and independently of the hub.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use super::{World, log::payload, wait::eventually};

/// Rows by table and key.
type Tables = BTreeMap<(&'static str, String), Value>;

impl World {
    /// The tables say what the log says.
    pub(crate) async fn tables_agree(&self, events: &[Arc<Recorded>], within: Duration) {
        let expected = expected_tables(events);
        eventually("the tables agree with the log", within, async || {
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

/// The tables that follow from the log, and where the rows are that a later event changes.
#[derive(Default)]
struct Expected {
    tables: Tables,
    /// Ids of the error rows of each webhook.
    errors: HashMap<String, Vec<String>>,
    /// Ids of the order rows of each of the provider's orders.
    orders: HashMap<String, Vec<String>>,
}

fn expected_tables(events: &[Arc<Recorded>]) -> Tables {
    let mut expected = Expected::default();
    for event in events {
        expected.apply(event);
    }
    expected.tables
}

impl Expected {
    fn apply(&mut self, event: &Recorded) {
        let envelope = &event.envelope;
        let (id, root) = (envelope.id.to_string(), envelope.root_id.to_string());
        if envelope.event_type == EventType::WebhookReceived {
            let row = json!({
                "status": "received", "external_order_id": envelope.external_order_id, "internal_order_id": null, "retry_count": 0,
                "processed_at": null,
            });
            self.tables.entry(("webhook_logs", id)).or_insert(row);
            return;
        }
        // The body for the backend says nothing about what became of it, and may be nonsense in some tests.
        let payload = if [EventType::OrderTransformed, EventType::OrderFetched].contains(&envelope.event_type) {
            Value::Null
        } else {
            payload(event)
        };
        let webhook = self.tables.get_mut(&("webhook_logs", root.clone()));
        let known = webhook.is_some();
        if let Some(row) = webhook.filter(|row| row["status"] != "completed") {
            note(row, envelope.event_type, &payload);
            if envelope.event_type.ends() {
                row["processed_at"] = envelope.time.timestamp_millis().into();
            }
        }
        if let Some(attempts) = error_attempts(envelope.event_type, &payload) {
            let dead = [EventType::OrderDeadLettered, EventType::OrderRejected].contains(&envelope.event_type);
            let row = json!({
                "webhook_log_id": known.then_some(&root), "error_code": payload["error"]["code"], "retry_count": attempts,
                "is_resolved": false, "is_dead": dead,
            });
            self.errors.entry(root.clone()).or_default().push(id.clone());
            self.tables.insert(("delivery_error_logs", id), row);
        }
        let overcome = [
            EventType::OrderForwarded,
            EventType::OrderStatusPushed,
            EventType::MenuSynced,
        ];
        if overcome.contains(&envelope.event_type) {
            self.change(
                "delivery_error_logs",
                self.errors.get(&root).cloned(),
                "is_resolved",
                &true.into(),
            );
        }
        if envelope.event_type == EventType::OrderForwarded {
            self.order_row(event, &payload);
        }
    }

    /// One row an order that the backend has, with the provider's latest word.
    fn order_row(&mut self, event: &Recorded, payload: &Value) {
        let order = &payload["order"];
        let external_id = &event.envelope.external_order_id;
        let is_creation = event.envelope.webhook_type == "order_created";
        if let (true, Some(order_id)) = (is_creation, payload["internalOrderId"].as_str()) {
            let row = json!({
                "external_order_id": external_id, "provider_status": order["providerStatus"],
                "branch_id": order["branchId"], "company_id": order["companyId"],
            });
            self.orders
                .entry(external_id.clone())
                .or_default()
                .push(order_id.to_owned());
            self.tables.insert(("provider_order_logs", order_id.to_owned()), row);
            return;
        }
        if order["providerStatus"] == "" {
            // About the courier alone.
            return;
        }
        let rows = self.orders.get(external_id).cloned();
        self.change("provider_order_logs", rows, "provider_status", &order["providerStatus"]);
    }

    fn change(&mut self, table: &'static str, ids: Option<Vec<String>>, column: &str, value: &Value) {
        for id in ids.unwrap_or_default() {
            if let Some(row) = self.tables.get_mut(&(table, id)) {
                row[column] = value.clone();
            }
        }
    }
}

fn note(row: &mut Value, event_type: EventType, payload: &Value) {
    row["status"] = match event_type {
        EventType::WebhookReceived => "received",
        EventType::OrderTransformed => "processing",
        EventType::OrderForwardFailed | EventType::OrderRetryRequested => "retrying",
        EventType::OrderForwarded => "completed",
        EventType::OrderIgnored => "ignored",
        EventType::OrderRejected | EventType::OrderDeadLettered => "failed",
        EventType::OrderFetchRequested | EventType::OrderFetched => "processing",
        EventType::OrderFetchFailed => "retrying",
        EventType::MenuSyncReported => "completed",
        other => panic!("{other} of a webhook"),
    }
    .into();
    if let Some(order) = payload.get("internalOrderId") {
        row["internal_order_id"] = order.clone();
    }
    let counts = [
        EventType::OrderForwardFailed,
        EventType::OrderFetchFailed,
        EventType::OrderDeadLettered,
    ];
    if counts.contains(&event_type) {
        row["retry_count"] = error_attempts(event_type, payload).unwrap();
    }
}

/// The attempts that an error event counts; none where it is no error.
fn error_attempts(event_type: EventType, payload: &Value) -> Option<Value> {
    match event_type {
        EventType::OrderRejected => Some(json!(0)),
        EventType::OrderForwardFailed => Some(payload["retries"].clone()),
        EventType::OrderFetchFailed | EventType::OrderStatusPushFailed | EventType::MenuSyncFailed => {
            let given_up = payload["givenUp"] == true;
            (!given_up).then(|| payload["retries"].clone())
        }
        EventType::OrderDeadLettered => Some(payload["retries"].clone()),
        _ => None,
    }
}

/// The rows that are not the same, as far as anyone can read.
fn differences(found: &Tables, expected: &Tables) -> Vec<String> {
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
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
