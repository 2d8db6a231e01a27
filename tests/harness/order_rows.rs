//! `hub.orders` as its documentation derives it from the log, written down a second time.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

/// Statuses in the order in which an order meets them.
const STATUSES: [&str; 8] = [
    "pending",
    "confirmed",
    "preparing",
    "ready_for_pickup",
    "out_for_delivery",
    "delivered",
    "cancelled",
    "refunded",
];

/// The rows so far.
#[derive(Default)]
pub(crate) struct OrderRows {
    rows: Vec<Value>,
    /// Where the rows of each provider and number are: a test may have thousands of orders.
    by_number: HashMap<(String, String), Vec<usize>>,
}

impl OrderRows {
    pub(crate) fn into_rows(self) -> Vec<Value> {
        self.rows
    }

    pub(crate) fn apply(&mut self, event: &Recorded, payload: &Value) {
        let envelope = &event.envelope;
        let kind = envelope.event_type.as_str();
        let of_backend = ["status_request", "menu_sync"].contains(&&*envelope.webhook_type);
        let others = ["menu.", "items.", "store.", "order.status_"];
        let other = others.iter().any(|begin| kind.starts_with(begin));
        if of_backend || other || envelope.webhook_type == "ignored" || envelope.external_order_id.is_empty() {
            return;
        }
        let at = self.find(event);
        let row = &mut self.rows[at];
        row["last_at"] = shown(envelope.time).into();
        row["last_sequence"] = event.sequence.into();
        row["first_at"] = moment(&row["first_at"])
            .min(Some(rounded(envelope.received_at)))
            .map(shown)
            .into();
        if let Some(branch) = branch_of(event) {
            row["branch_id"] = branch.into();
        }
        note(row, event, payload);
        settle(row);
    }

    /// Where the order's row is; a new one where there is none.
    fn find(&mut self, event: &Recorded) -> usize {
        let envelope = &event.envelope;
        let (root, branch) = (json!(envelope.root_id), branch_of(event));
        let number = (envelope.provider.to_string(), envelope.external_order_id.clone());
        let of_number = self.by_number.get(&number).cloned().unwrap_or_default();
        let known = of_number.iter().copied().find(|at| {
            let row = &self.rows[*at];
            row["id"] == root || open(row).iter().any(|one| one["webhook"] == root)
        });
        if let Some(at) = known {
            let row = &mut self.rows[at];
            let other_branch =
                branch.is_some() && !row["branch_id"].is_null() && row["branch_id"].as_str() != branch.as_deref();
            if row["id"] == root || !other_branch {
                return at;
            }
            remove(row, |one| one["webhook"] == root);
            settle(row);
        }
        let accepted = rounded(envelope.received_at);
        let bound = envelope.principal.branch().is_some();
        let mut best: Option<usize> = None;
        for at in of_number {
            let row = &self.rows[at];
            let first = moment(&row["first_at"]).unwrap();
            let other_time = envelope.is_creation() && (accepted - first).abs() > TimeDelta::hours(48);
            let same_branch = match (&row["branch_id"], &branch) {
                (_, None) => true,
                (Value::Null, Some(_)) => !bound,
                (of, Some(branch)) => of == branch.as_str(),
            };
            // The latest before the webhook, else the first after it.
            let rank = |row: &Value| {
                let first = moment(&row["first_at"]).unwrap();
                let distance = if first > accepted {
                    accepted - first
                } else {
                    TimeDelta::zero()
                };
                (distance, first, row["id"].as_str().unwrap().to_owned())
            };
            if same_branch && !other_time && best.is_none_or(|best| rank(&self.rows[best]) < rank(row)) {
                best = Some(at);
            }
        }
        best.unwrap_or_else(|| {
            self.rows.push(json!({
                "external_order_id": envelope.external_order_id, "provider": &*envelope.provider, "id": root, "branch_id": null,
                "company_id": null, "order_number": null, "display_id": null, "order_id": null, "state": null, "status": null,
                "provider_status": null, "said_at": null, "first_at": shown(envelope.received_at), "last_at": null,
                "forwarded_at": null, "undelivered_since": null, "given_up_at": null, "attempts": 0, "next_attempt_at": null,
                "cause_stage": null, "cause_code": null, "deadline": null, "is_test": false, "flags": [], "last_sequence": 0,
                "unsettled": null,
            }));
            let at = self.rows.len() - 1;
            self.by_number.entry(number).or_default().push(at);
            at
        })
    }
}

/// What an event says about its order.
fn note(row: &mut Value, event: &Recorded, payload: &Value) {
    let envelope = &event.envelope;
    let root = json!(envelope.root_id);
    let is_open = row["forwarded_at"].is_null() || open(row).iter().any(|one| one["webhook"] == root);
    let known = open(row).into_iter().find(|one| one["webhook"] == root);
    let known = known.and_then(|one| moment(&one["since"]));
    let since = known
        .unwrap_or(rounded(envelope.received_at))
        .min(rounded(envelope.received_at));
    let put = |row: &mut Value, state: &str, next: Option<&Value>| {
        remove(row, |one| one["webhook"] == root);
        let mut one = json!({
            "webhook": root, "state": state, "isCreation": envelope.is_creation(), "since": precise(since),
        });
        if let Some(next) = next.and_then(moment) {
            one["nextAttemptAt"] = precise(next).into();
        }
        let mut all = open(row);
        all.push(one);
        row["unsettled"] = all.into();
    };
    match envelope.event_type {
        EventType::WebhookReceived | EventType::OrderFetchRequested | EventType::OrderFetched => {
            put(row, "received", None);
        }
        EventType::OrderRetryRequested => put(row, "waiting", None),
        EventType::OrderTransformed => {
            put(row, "transformed", None);
            transformed(row, event, payload);
        }
        EventType::OrderForwardFailed | EventType::OrderFetchFailed => {
            let is_fetch = envelope.event_type == EventType::OrderFetchFailed;
            if is_open && !(is_fetch && payload["givenUp"] == true) {
                put(row, "waiting", Some(&payload["nextAttemptAt"]));
                row["attempts"] = payload["attempt"].clone();
                row["cause_stage"] = if is_fetch { "push" } else { "forward" }.into();
                row["cause_code"] = payload["error"]["code"].clone();
            }
        }
        EventType::OrderRejected | EventType::OrderDeadLettered if is_open => {
            put(row, "given_up", None);
            let is_creation = envelope.is_creation();
            let is_one = |one: &Value| one["state"] == "given_up" && one["isCreation"] == is_creation;
            let mut all = open(row);
            all.retain(is_one);
            all.sort_by_key(|one| (moment(&one["since"]), one["webhook"].as_str().unwrap().to_owned()));
            let kept = all.split_off(all.len().saturating_sub(if is_creation { 1 } else { 16 }));
            remove(row, |one| is_one(one) && !kept.contains(one));
            row["given_up_at"] = shown(envelope.time).into();
            row["cause_code"] = payload["error"]["code"].clone();
            row["cause_stage"] = payload["stage"].clone();
            row["attempts"] = 0.into();
            if envelope.event_type == EventType::OrderDeadLettered {
                row["attempts"] = payload["attempts"].clone();
            } else if row["cause_stage"].is_null() {
                row["cause_stage"] = "transform".into();
            }
        }
        EventType::OrderForwarded => {
            let is_creation = envelope.is_creation();
            remove(row, |one| {
                let before = moment(&one["since"]) <= Some(since);
                let news = one["isCreation"] == false;
                one["webhook"] == root || (one["state"] == "given_up" && ((news && before) || (!news && is_creation)))
            });
            row["attempts"] = payload["attempts"].clone();
            if row["forwarded_at"].is_null() {
                row["forwarded_at"] = shown(envelope.time).into();
            }
            if !payload["internalOrderId"].is_null() {
                row["order_id"] = payload["internalOrderId"].clone();
            }
            if payload["differs"] == true {
                add_flags(row, &json!(["announced_differently"]));
            }
            forget(row);
        }
        EventType::OrderIgnored => {
            remove(row, |one| one["webhook"] == root);
            forget(row);
            if payload["reason"] == "TEST_ORDER" {
                row["is_test"] = true.into();
            }
            if payload["differs"] == true {
                add_flags(row, &json!(["announced_differently"]));
            }
            if row["order_id"].is_null() {
                row["order_id"] = payload["internalOrderId"].clone();
            }
            if open(row).is_empty() && row["forwarded_at"].is_null() {
                row["cause_code"] = payload["reason"].clone();
            }
        }
        _ => {}
    }
}

fn add_flags(row: &mut Value, more: &Value) {
    let mut flags: Vec<String> = serde_json::from_value(row["flags"].clone()).unwrap();
    for flag in more.as_array().into_iter().flatten() {
        flags.push(flag.as_str().unwrap().to_owned());
    }
    flags.sort_unstable();
    flags.dedup();
    row["flags"] = flags.into();
}

/// What the body for the backend says.
fn transformed(row: &mut Value, event: &Recorded, payload: &Value) {
    let order = ["transformedOrder", "statusChange", "amendment"].map(|name| &payload[name]);
    let Some(order) = order.into_iter().find(|order| order.is_object()) else {
        return;
    };
    for (column, name) in [
        ("company_id", "companyId"),
        ("order_number", "orderNumber"),
        ("display_id", "displayId"),
    ] {
        if !order[name].is_null() {
            row[column] = order[name].clone();
        }
    }
    let deadlines = ["acceptBy", "readyBy", "deliverBy"].map(|name| moment(&order[name]));
    if let Some(deadline) = deadlines.into_iter().flatten().next() {
        row["deadline"] = shown(deadline).into();
    }
    add_flags(row, &order["flags"]);
    if row["flags"].as_array().unwrap().contains(&json!("test_order")) {
        row["is_test"] = true.into();
    }
    let rank = |status: &Value| STATUSES.iter().position(|one| status == one);
    let (before, next) = (rank(&row["status"]), rank(&order["status"]));
    let ended = before >= Some(5) && next != Some(7);
    let back = event.envelope.is_creation() && next < before;
    let accepted = rounded(event.envelope.received_at);
    let late = moment(&row["said_at"]).is_some_and(|last| last > accepted);
    if !ended && !back && !late {
        row["said_at"] = shown(accepted).into();
        if order["providerStatus"].as_str().is_some_and(|word| !word.is_empty()) {
            row["provider_status"] = order["providerStatus"].clone();
        }
        if next.is_some() {
            row["status"] = order["status"].clone();
        }
    }
}

/// The columns that follow from what has not reached the backend.
fn settle(row: &mut Value) {
    let all = open(row);
    let given_up = |one: &Value| one["state"] == "given_up";
    if !all.iter().any(given_up) {
        row["given_up_at"] = Value::Null;
    }
    let first = all.iter().min_by_key(|one| {
        let webhook = one["webhook"].as_str().unwrap().to_owned();
        (
            one["isCreation"] == false,
            given_up(one),
            moment(&one["since"]),
            webhook,
        )
    });
    row["state"] = match first {
        Some(first) => first["state"].clone(),
        None if row["forwarded_at"].is_null() => "ignored".into(),
        None => "forwarded".into(),
    };
    let least = |name: &str| all.iter().filter_map(|one| moment(&one[name])).min().map(shown);
    row["undelivered_since"] = least("since").into();
    row["next_attempt_at"] = least("nextAttemptAt").into();
    row["unsettled"] = if all.is_empty() { Value::Null } else { all.into() };
}

fn forget(row: &mut Value) {
    if open(row).is_empty() {
        (row["cause_stage"], row["cause_code"]) = (Value::Null, Value::Null);
    }
}

fn open(row: &Value) -> Vec<Value> {
    row["unsettled"].as_array().cloned().unwrap_or_default()
}

fn remove(row: &mut Value, which: impl Fn(&Value) -> bool) {
    let mut all = open(row);
    all.retain(|one| !which(one));
    row["unsettled"] = all.into();
}

fn branch_of(event: &Recorded) -> Option<String> {
    let envelope = &event.envelope;
    let own = envelope.principal.branch().map(ToString::to_string);
    envelope.branch.clone().filter(|branch| !branch.is_empty()).or(own)
}

fn rounded(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis((time.timestamp_micros() + 500).div_euclid(1000)).unwrap()
}

fn moment(text: &Value) -> Option<DateTime<Utc>> {
    Some(text.as_str()?.parse().unwrap())
}

/// A time as it stands in the JSON of a column.
fn shown(time: DateTime<Utc>) -> String {
    let text = rounded(time).format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    format!("{}+00:00", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The same within `unsettled`.
fn precise(time: DateTime<Utc>) -> String {
    rounded(time).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
