//! The tables as the contract derives them from the log, written down a second time and independently of the hub: every
//! column of every row.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use super::{World, order_rows::OrderRows, servers::Database, wait::eventually};

/// Rows by table and key.
pub(crate) type Tables = BTreeMap<(&'static str, String), Value>;

const WEBHOOKS: &str = "webhook_logs";
const ERRORS: &str = "delivery_error_logs";
const ORDERS: &str = "provider_order_logs";
const OWN_ORDERS: &str = "hub.orders";
/// With more events than that the tables are only compared once they have come to the end: each comparison takes seconds.
const MANY: usize = 5000;

impl World {
    /// The tables say what the log says.
    pub(crate) async fn tables_agree(&self, events: &[Arc<Recorded>], within: Duration) {
        if let Some(last) = events.last().filter(|_| events.len() > MANY) {
            eventually("the tables have come to the end of the log", within, async || {
                let found = self.database.rows("SELECT position FROM hub.cursors").await;
                let found = found.map_err(|error| format!("{error:#}"))?;
                let has_come = found.iter().any(|row| row["position"].as_u64() >= Some(last.sequence));
                if has_come { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        }
        eventually("the tables agree with the log", within, async || {
            let differ = disagreement(&self.database, events).await;
            let differ = differ.map_err(|error| vec![format!("{error:#}")])?;
            if differ.is_empty() { Ok(()) } else { Err(differ) }
        })
        .await;
    }
}

/// Where the tables do not say what these events say; empty if they do.
pub(crate) async fn disagreement(database: &Database, events: &[Arc<Recorded>]) -> anyhow::Result<Vec<String>> {
    let mut expected = Expected::default();
    for row in database.rows("SELECT code, id FROM delivery_providers").await? {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        expected.providers.insert(text("code"), text("id"));
    }
    for event in events
        .iter()
        .filter(|event| !event.envelope.event_type.is_of_operator())
    {
        expected.apply(event);
    }
    let mut found = Tables::default();
    for table in [WEBHOOKS, ERRORS, ORDERS] {
        for row in database.rows(&format!("SELECT * FROM {table}")).await? {
            let key = row["id"].as_str().unwrap().to_owned();
            found.insert((table, key), row);
        }
    }
    for row in database.rows(&format!("SELECT * FROM {OWN_ORDERS}")).await? {
        found.insert((OWN_ORDERS, own_key(&row)), row);
    }
    for row in expected.orders.into_rows() {
        expected.tables.insert((OWN_ORDERS, own_key(&row)), row);
    }
    Ok(differences(found, expected.tables))
}

fn own_key(row: &Value) -> String {
    format!("{} {} {}", row["provider"], row["external_order_id"], row["id"])
}

/// The tables that follow from the log, and where the rows are that a later event changes.
#[derive(Default)]
struct Expected {
    tables: Tables,
    /// Ids of providers by code.
    providers: HashMap<String, String>,
    /// Ids of the error rows of each webhook or request of the backend.
    errors: HashMap<String, Vec<String>>,
    /// Ids of the order rows by the backend's id, and by the provider's: a test may have thousands of orders.
    by_order_id: HashMap<String, Vec<String>>,
    by_number: HashMap<String, Vec<String>>,
    orders: OrderRows,
}

impl Expected {
    fn apply(&mut self, event: &Recorded) {
        let envelope = &event.envelope;
        let event_type = envelope.event_type;
        let root = envelope.root_id.to_string();
        if event_type == EventType::WebhookReceived {
            self.orders.apply(event, &Value::Null);
            if let Some(row) = self.received(event) {
                self.tables.entry((WEBHOOKS, root)).or_insert(row);
            }
            return;
        }
        // A fetched document is the provider's, byte for byte.
        let payload = if event_type == EventType::OrderFetched {
            Value::Null
        } else {
            serde_json::from_slice(&event.payload).unwrap_or_default()
        };
        self.orders.apply(event, &payload);
        let webhook = (WEBHOOKS, root.clone());
        let known = self.tables.get(&webhook).cloned();
        // What the backend has is the last word, whatever is said about it later.
        let settled = known.as_ref().is_some_and(|row| row["status"] == "completed");
        let is_repeat = event_type == EventType::OrderIgnored && payload["reason"] == "DUPLICATE_WEBHOOK";
        if let Some(row) = self.tables.get_mut(&webhook)
            && !settled
            && !is_repeat
        {
            note(row, event, &payload);
        }
        self.error_row(event, &payload, known.is_some(), settled);
        let note = match event_type {
            EventType::OrderForwarded | EventType::MenuSyncReported => "forwarded by a later attempt",
            EventType::OrderIgnored if !is_repeat => "nothing was left to do",
            EventType::OrderStatusPushed | EventType::MenuSynced | EventType::ItemsPushed | EventType::StorePushed => {
                "the provider has it by a later attempt"
            }
            _ => "",
        };
        if !note.is_empty() {
            self.resolve(&root, envelope.time, note);
        }
        if event_type == EventType::OrderForwarded {
            self.order_row(event, &payload, known.as_ref(), settled);
        }
    }

    fn received(&self, event: &Recorded) -> Option<Value> {
        let envelope = &event.envelope;
        let request = envelope.request.as_ref();
        Some(json!({
            "id": envelope.id, "provider_id": self.providers.get(&*envelope.provider)?, "branch_id": null, "company_id": null,
            "webhook_type": envelope.webhook_type, "external_order_id": envelope.external_order_id,
            "internal_order_id": null, "endpoint": request.map_or("", |request| &request.path),
            "method": request.map_or("POST", |request| &request.method),
            "headers": request.map_or_else(|| json!({}), |request| json!(request.headers)),
            "payload": storable(&event.payload), "signature": request.and_then(|request| request.signature.as_deref()),
            "ip_address": request.map_or("", |request| &request.client_address), "status": "received",
            "processed_at": null, "retry_count": 0, "max_retries": 10, "next_retry_at": null, "response": null,
            "error_message": null, "error_stack": null, "received_at": time(envelope.time),
            "created_at": time(envelope.time), "updated_at": time(envelope.time),
        }))
    }

    fn error_row(&mut self, event: &Recorded, payload: &Value, known: bool, settled: bool) {
        let envelope = &event.envelope;
        let (id, at) = (envelope.id.to_string(), time(envelope.time));
        let (Some(attempts), Some(provider)) = (
            error_attempts(envelope.event_type, payload),
            self.providers.get(&*envelope.provider),
        ) else {
            return;
        };
        let of_backend = ["status_request", "menu_sync"].contains(&&*envelope.webhook_type);
        let mut context = json!({
            "provider": &*envelope.provider, "orderId": envelope.external_order_id, "webhookType": envelope.webhook_type,
            "requestId": envelope.request_id, "event": envelope.event_type.as_str(),
        });
        if of_backend {
            context["rootId"] = json!(envelope.root_id);
        }
        let error = &payload["error"];
        let dead = [EventType::OrderDeadLettered, EventType::OrderRejected].contains(&envelope.event_type);
        let next = if dead { &Value::Null } else { &payload["nextAttemptAt"] };
        let row = json!({
            "id": id, "provider_id": provider, "branch_id": envelope.branch, "company_id": null,
            "webhook_log_id": known.then_some(envelope.root_id), "order_id": null, "error_type": error["type"],
            "error_code": error["code"], "error_message": error["message"], "error_stack": null,
            "error_details": error["details"], "context": context, "request_data": null, "response_data": null,
            "retry_count": attempts, "next_retry_at": time_of(next), "moved_to_dead_letter_at": dead.then_some(&at),
            "is_resolved": settled, "resolved_at": settled.then_some(&at), "resolved_by": settled.then_some("webhook-hub"),
            "resolution_notes": settled.then_some("the backend has it by another attempt"), "occurred_at": at, "created_at": at,
            "updated_at": at,
        });
        if self.tables.contains_key(&(ERRORS, id.clone())) {
            return;
        }
        if known || of_backend {
            self.errors
                .entry(envelope.root_id.to_string())
                .or_default()
                .push(id.clone());
        }
        self.tables.insert((ERRORS, id), row);
    }

    fn resolve(&mut self, root: &str, at: DateTime<Utc>, note: &str) {
        for id in self.errors.get(root).cloned().unwrap_or_default() {
            let row = self.tables.get_mut(&(ERRORS, id)).unwrap();
            if row["is_resolved"] == false {
                row["is_resolved"] = true.into();
                row["resolved_at"] = time(at).into();
                row["resolved_by"] = "webhook-hub".into();
                row["resolution_notes"] = note.into();
                row["updated_at"] = time(at).into();
            }
        }
    }

    /// One row an order that the backend has, with the provider's latest word.
    fn order_row(&mut self, event: &Recorded, payload: &Value, webhook: Option<&Value>, settled: bool) {
        let envelope = &event.envelope;
        let (order, at) = (&payload["order"], time(envelope.time));
        let Some(provider) = self.providers.get(&*envelope.provider).cloned() else {
            return;
        };
        let is_of_provider = |row: &Value| row["provider_id"] == provider.as_str();
        // A branch's own secret changes no other branch's row.
        let may = |row: &Value| {
            envelope
                .principal
                .may_act_for(row["branch_id"].as_str().unwrap())
                .is_ok()
        };
        let is_creation = envelope.webhook_type == "order_created";
        if let (true, Some(order_id)) = (is_creation, payload["internalOrderId"].as_str()) {
            let known = self.by_order_id.get(order_id).into_iter().flatten();
            let known = known.map(|id| (ORDERS, id.clone()));
            let found = known.filter(|key| is_of_provider(&self.tables[key])).min();
            if let Some(row) = found.and_then(|key| self.tables.get_mut(&key)) {
                // Announced once more: news, but no way back.
                let is_same = row["external_order_id"] == envelope.external_order_id.as_str();
                let is_same = is_same && may(row);
                if is_same && !settled && rank(&order["status"]) >= rank(&row["mapped_status"]) {
                    let has_ended = rank(&row["mapped_status"]) >= rank(&json!("delivered"));
                    if !has_ended || order["status"] == "refunded" {
                        change(row, order, &at);
                    }
                }
                return;
            }
            let amount = |name: &str| {
                let text = order[name].as_str();
                text.map(|text| serde_json::from_str::<Value>(text).unwrap())
            };
            let id = envelope.root_id.derive(&format!("order/{order_id}")).to_string();
            let row = json!({
                "id": id, "order_id": order_id, "provider_id": provider, "branch_id": order["branchId"],
                "company_id": order["companyId"], "external_order_id": envelope.external_order_id,
                "provider_status": order["providerStatus"], "mapped_status": order["status"],
                "delivery_type": order["deliveryType"], "estimated_delivery": null, "actual_delivery": null,
                "captain_name": order["captainName"], "captain_phone": order["captainPhone"],
                "captain_id": order["captainId"], "delivery_fee": amount("deliveryFee"),
                "service_fee": amount("serviceFee"), "total_amount": amount("total"),
                "payment_method": order["paymentMethod"], "is_prepaid": order["isPrepaid"],
                "raw_data": webhook.map(|row| row["payload"].clone()), "created_at": at, "updated_at": at,
            });
            let number = envelope.external_order_id.clone();
            self.by_order_id
                .entry(order_id.to_owned())
                .or_default()
                .push(id.clone());
            self.by_number.entry(number).or_default().push(id.clone());
            self.tables.insert((ORDERS, id), row);
            return;
        }
        // A new order without a known id has no row, and changes no other order's.
        if settled || is_creation && payload["asNews"] != true {
            return;
        }
        let known = self.by_number.get(&envelope.external_order_id).into_iter().flatten();
        let of_order = known.map(|id| (ORDERS, id.clone())).filter(|key| {
            let row = &self.tables[key];
            is_of_provider(row) && (order["branchId"] == "" || row["branch_id"] == order["branchId"]) && may(row)
        });
        let age = |row: &Value| (moment(&row["created_at"]), row["id"].as_str().unwrap().to_owned());
        let latest = of_order.max_by_key(|key| age(&self.tables[key]));
        if let Some(row) = latest.and_then(|key| self.tables.get_mut(&key)) {
            change(row, order, &at);
        }
    }
}

/// How far an order is.
fn rank(status: &Value) -> usize {
    let statuses = [
        "pending",
        "confirmed",
        "preparing",
        "ready_for_pickup",
        "out_for_delivery",
        "delivered",
        "cancelled",
        "refunded",
    ];
    statuses
        .iter()
        .position(|one| status == one)
        .map_or(0, |place| place + 1)
}

/// News about an order that has a row.
fn change(row: &mut Value, order: &Value, at: &str) {
    let has_ended = ["delivered", "cancelled", "refunded"].contains(&row["mapped_status"].as_str().unwrap_or_default());
    if !has_ended || order["status"] == "refunded" {
        if order["providerStatus"] != "" {
            row["provider_status"] = order["providerStatus"].clone();
        }
        if !order["status"].is_null() {
            row["mapped_status"] = order["status"].clone();
        }
        if order["status"] == "delivered" {
            row["actual_delivery"] = at.into();
        }
    }
    for (column, name) in [
        ("captain_id", "captainId"),
        ("captain_name", "captainName"),
        ("captain_phone", "captainPhone"),
    ] {
        if !order[name].is_null() {
            row[column] = order[name].clone();
        }
    }
    row["updated_at"] = at.into();
}

/// What an event makes of its webhook's row.
fn note(row: &mut Value, event: &Recorded, payload: &Value) {
    let envelope = &event.envelope;
    let event_type = envelope.event_type;
    row["status"] = match event_type {
        EventType::OrderTransformed | EventType::OrderFetchRequested | EventType::OrderFetched => "processing",
        EventType::OrderForwardFailed | EventType::OrderRetryRequested | EventType::OrderFetchFailed => "retrying",
        EventType::OrderForwarded | EventType::MenuSyncReported => "completed",
        EventType::OrderIgnored => "ignored",
        EventType::OrderRejected | EventType::OrderDeadLettered => "failed",
        other => panic!("{other} of a webhook"),
    }
    .into();
    row["updated_at"] = time(envelope.time).into();
    (row["error_message"], row["next_retry_at"]) = (Value::Null, Value::Null);
    if let Some(branch) = &envelope.branch {
        row["branch_id"] = branch.as_str().into();
    }
    let company = [
        "/transformedOrder/companyId",
        "/statusChange/companyId",
        "/amendment/companyId",
    ];
    let mut company = company.iter().filter_map(|pointer| payload.pointer(pointer));
    if let (EventType::OrderTransformed, Some(company)) = (event_type, company.next()) {
        row["company_id"] = company.clone();
    }
    if let Some(order) = payload["internalOrderId"].as_str() {
        row["internal_order_id"] = order.into();
    }
    match event_type {
        EventType::OrderForwarded => {
            row["response"] = json!({
                "success": true, "orderId": payload["internalOrderId"], "status": payload["orderStatus"],
            });
        }
        EventType::OrderIgnored => {
            row["response"] = json!({ "ignored": payload["reason"], "message": payload["message"] });
        }
        EventType::OrderRejected | EventType::OrderDeadLettered => {
            row["error_message"] = payload["error"]["message"].clone();
        }
        EventType::OrderForwardFailed | EventType::OrderFetchFailed => {
            row["error_message"] = payload["error"]["message"].clone();
            row["next_retry_at"] = time_of(&payload["nextAttemptAt"]).into();
        }
        _ => {}
    }
    let counts = [
        EventType::OrderForwardFailed,
        EventType::OrderFetchFailed,
        EventType::OrderDeadLettered,
    ];
    if counts.contains(&event_type) {
        row["retry_count"] = payload["retries"].clone();
    }
    if event_type.ends() {
        row["processed_at"] = time(envelope.time).into();
    }
}

/// The attempts that an error event counts; none if it is no error.
fn error_attempts(event_type: EventType, payload: &Value) -> Option<Value> {
    match event_type {
        EventType::OrderRejected => Some(json!(0)),
        EventType::OrderForwardFailed | EventType::OrderDeadLettered => Some(payload["retries"].clone()),
        EventType::OrderFetchFailed
        | EventType::OrderStatusPushFailed
        | EventType::MenuSyncFailed
        | EventType::ItemsPushFailed
        | EventType::StorePushFailed => {
            let given_up = payload["givenUp"] == true;
            (!given_up).then(|| payload["retries"].clone())
        }
        _ => None,
    }
}

/// A time as `timestamp(3)` stands in JSON.
fn time(time: DateTime<Utc>) -> String {
    let rounded = DateTime::from_timestamp_millis((time.timestamp_micros() + 500).div_euclid(1000)).unwrap();
    let text = rounded.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn time_of(text: &Value) -> Option<String> {
    text.as_str().map(|text| time(text.parse().unwrap()))
}

fn moment(text: &Value) -> DateTime<Utc> {
    format!("{}Z", text.as_str().unwrap()).parse().unwrap()
}

/// A body as jsonb keeps it; null where that is not worth knowing a second time here (see [`differences`]).
fn storable(body: &[u8]) -> Value {
    fn clean(value: Value) -> Value {
        let text = |text: String| text.replace('\0', "\u{fffd}");
        match value {
            Value::String(one) => Value::String(text(one)),
            Value::Array(items) => items.into_iter().map(clean).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (text(name), clean(value)))
                .collect(),
            other => other,
        }
    }
    serde_json::from_slice(body).map(clean).unwrap_or_default()
}

/// The rows that are not the same, column by column, as far as anyone can read.
fn differences(mut found: Tables, expected: Tables) -> Vec<String> {
    // A body that is not plain JSON has tests of its own.
    for (key, row) in &expected {
        for column in ["payload", "raw_data"] {
            if row.get(column).is_some_and(Value::is_null)
                && let Some(found) = found.get_mut(key)
            {
                found[column] = Value::Null;
            }
        }
    }
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let mut differ = Vec::new();
    for key in keys {
        match (found.get(key), expected.get(key)) {
            (Some(Value::Object(found)), Some(Value::Object(expected))) => {
                let columns: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
                for column in columns {
                    let (found, expected) = (found.get(column), expected.get(column));
                    if found != expected {
                        differ.push(format!("{key:?} {column}: {found:?}, but the log says {expected:?}"));
                    }
                }
            }
            (found, expected) if found.is_none() || expected.is_none() => {
                differ.push(format!("{key:?}: {found:?}, but the log says {expected:?}"));
            }
            _ => {}
        }
    }
    differ.truncate(8);
    differ
}
