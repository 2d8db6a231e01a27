//! A log written by hand, as a hub would have written it, for commands that only read it.

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::{
    event::{Envelope, EventId, EventType, Recorded},
    journal::codec::{self, Form},
};

use super::{
    PARTITIONS,
    hub::{Ran, Settings, run},
    log::payload,
    servers::Nats,
};

/// What is the customer's business in it.
pub(crate) const NAMES: [&str; 4] = ["Anna", "Customer", "+96279", "Main Street"];
const WITH_NAMES: &str =
    r#"{"id": "CR-anna", "customer": {"name": "Anna Customer", "phone": "+962791234567"}, "to": "Main Street 1"}"#;

/// A log as a hub would have written it, with ids and times that are always the same; no hub runs on it.
pub(crate) struct Written {
    nats: Nats,
    publisher: jetstream::Context,
}

impl Written {
    pub(crate) async fn new() -> Self {
        let nats = Nats::start().await;
        run(&nats.settings("provision"), &["streams", "apply"])
            .await
            .expect_success();
        let publisher = jetstream::new(nats.connect("hub").await);
        Self { nats, publisher }
    }

    /// Nothing but NATS: no secret of a provider or the backend, no database.
    pub(crate) fn settings(&self) -> Settings {
        self.nats.settings("hub").set("USER", "night").set("HOSTNAME", "shift")
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        let args: Vec<_> = ["dead-letters"].iter().chain(args).copied().collect();
        let ran = run(&self.settings(), &args).await;
        assert!(!ran.said().contains(self.nats.password("hub")), "{}", ran.said());
        ran
    }

    /// The open ones, as a machine gets them.
    pub(crate) async fn listed(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<_> = ["list", "--json"].iter().chain(args).copied().collect();
        let ran = self.run(&args).await.expect_success();
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Ids of those.
    pub(crate) async fn open(&self, args: &[&str]) -> Vec<String> {
        let listed = self.listed(args).await;
        listed
            .iter()
            .map(|row| row["id"].as_str().unwrap_or("garbage").to_owned())
            .collect()
    }

    pub(crate) async fn publish(&self, envelope: &Envelope, body: impl Into<Vec<u8>>) -> u64 {
        // Both forms stand beside each other, as on a log that older versions wrote to.
        let form = [Form::Headers, Form::Compact][usize::from(envelope.id.0.as_bytes()[0] & 1)];
        let (subject, headers) = (
            codec::subject(envelope, PARTITIONS),
            codec::headers(envelope, form).unwrap(),
        );
        let sent = self
            .publisher
            .publish_with_headers(subject, headers, body.into().into());
        sent.await.unwrap().await.unwrap().sequence
    }

    /// The forwarding of an order that the backend refuses; the dead letter's id.
    pub(crate) async fn refused(&self, order: &str, at: DateTime<Utc>) -> EventId {
        let received = received(order, at);
        self.publish(&received, WITH_NAMES).await;
        let transformed = Envelope {
            branch: Some("main".into()),
            ..follow(&received, "transform", EventType::OrderTransformed)
        };
        let sequence = self.publish(&transformed, WITH_NAMES).await;
        let failed = follow(&transformed, "forward_failed/1", EventType::OrderForwardFailed);
        let error = json!({ "type": "temporary", "code": "BACKEND_500", "message": "the backend answered 500" });
        let body = json!({
            "attempt": 1, "retries": 0, "maxAttempts": 10, "error": error, "nextAttemptAt": failed.time,
        });
        self.publish(&failed, body.to_string()).await;
        let dead = follow(&transformed, "outcome", EventType::OrderDeadLettered);
        let error = json!({
            "type": "validation", "code": "BACKEND_422", "message": "the backend refused the order with 422",
            "details": { "status": 422 },
        });
        let body = json!({ "attempts": 2, "retries": 0, "stage": "forward", "sequence": sequence, "error": error });
        self.publish(&dead, body.to_string()).await;
        dead.id
    }

    /// The transformation of an order of an unknown merchant; returns the dead letter's id.
    pub(crate) async fn homeless(&self, order: &str, at: DateTime<Utc>) -> EventId {
        let received = received(order, at);
        let sequence = self.publish(&received, WITH_NAMES).await;
        let dead = follow(&received, "transform", EventType::OrderDeadLettered);
        // An order id can be anything, and so can what quotes it.
        let error = json!({
            "type": "configuration", "code": "BRANCH_NOT_FOUND", "message": "no branch for \u{1b}[31mmerchant-9",
        });
        let body = json!({ "attempts": 0, "retries": 0, "stage": "transform", "sequence": sequence, "error": error });
        self.publish(&dead, body.to_string()).await;
        dead.id
    }

    /// A webhook that was rejected, as an earlier version recorded it: it does not say what was rejected.
    pub(crate) async fn rejected(&self, order: &str, at: DateTime<Utc>) -> EventId {
        let received = received(order, at);
        self.publish(&received, WITH_NAMES).await;
        let rejected = follow(&received, "transform", EventType::OrderRejected);
        let error = json!({ "type": "validation", "code": "INVALID_ORDER", "message": "1 fault: /items" });
        self.publish(&rejected, json!({ "error": error }).to_string()).await;
        rejected.id
    }

    /// A webhook that was ignored, as an earlier version recorded it.
    pub(crate) async fn ignored(&self, order: &str, at: DateTime<Utc>, reason: &str) -> EventId {
        let received = received(order, at);
        self.publish(&received, WITH_NAMES).await;
        let ignored = follow(&received, "transform", EventType::OrderIgnored);
        let body = json!({ "reason": reason, "message": format!("order {order} exists already") });
        self.publish(&ignored, body.to_string()).await;
        ignored.id
    }

    /// A menu that was given up; the dead letter's id.
    pub(crate) async fn lost_menu(&self, branch: &str, at: DateTime<Utc>) -> EventId {
        let asked = Envelope {
            event_type: EventType::MenuSyncRequested,
            webhook_type: "menu_sync".into(),
            branch: Some(branch.into()),
            ..received(&format!("menu:{branch}"), at)
        };
        let sequence = self.publish(&asked, "{}").await;
        let dead = follow(&asked, "outcome", EventType::OrderDeadLettered);
        let error =
            json!({ "type": "temporary", "code": "PROVIDER_503", "message": "the provider cannot take it now" });
        let body = json!({ "attempts": 14, "retries": 10, "stage": "push", "sequence": sequence, "error": error });
        self.publish(&dead, body.to_string()).await;
        dead.id
    }

    /// One that does not say what was given up.
    pub(crate) async fn old(&self, order: &str, at: DateTime<Utc>) -> EventId {
        let dead = follow(&received(order, at), "transform", EventType::OrderDeadLettered);
        let error = json!({ "type": "validation", "code": "BACKEND_400", "message": "the backend answered 400" });
        self.publish(&dead, json!({ "attempts": 1, "error": error }).to_string())
            .await;
        dead.id
    }

    /// From now on the log takes no event.
    pub(crate) async fn close(&self) {
        let provision = self.nats.provision().await;
        let stream = provision.get_stream("EVENTS").await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.max_message_size = 1;
        provision.update_stream(config).await.unwrap();
    }

    pub(crate) async fn garbage(&self) -> u64 {
        let sent = self
            .publisher
            .publish("orders.dead_lettered.careem._.p00", "garbage".into());
        sent.await.unwrap().await.unwrap().sequence
    }

    /// Everything on the log that asks for a retry: subject, envelope, payload.
    pub(crate) async fn requests(&self) -> Vec<(String, Envelope, Value)> {
        let stream = self.nats.provision().await.get_stream("EVENTS").await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut found = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            if !message.subject.starts_with("orders.retry_requested.") {
                continue;
            }
            let event = codec::decode(Some(&message.headers), message.payload, sequence).unwrap();
            found.push((message.subject.to_string(), event.envelope.clone(), payload(&event)));
        }
        found
    }
}

/// Noon of a day long past.
pub(crate) fn noon() -> DateTime<Utc> {
    "2025-10-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn received(order: &str, at: DateTime<Utc>) -> Envelope {
    Envelope {
        request_id: format!("request-of-{order}"),
        request: None,
        ..Recorded::sample("careem", order, "order_created", order.as_bytes(), at).envelope
    }
}

pub(crate) fn follow(cause: &Envelope, label: &str, event_type: EventType) -> Envelope {
    Envelope {
        id: cause.id.derive(label),
        event_type,
        cause_id: Some(cause.id),
        time: cause.time + TimeDelta::seconds(1),
        ..cause.clone()
    }
}
