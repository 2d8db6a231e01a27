//! `orders show`: an order that was retried, duplicated, parked and cancelled reads like a story.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::event::{Envelope, EventType, RequestFacts, SecretOrigin, SecretUse};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::run,
    written::{Written, follow, noon, received},
};

/// Reviewed by hand.
const GOLDEN: &str = include_str!("../fixtures/orders.show.txt");
/// The same of an order that a hub handled.
const GOLDEN_HANDLED: &str = include_str!("../fixtures/orders.show_handled.txt");
const GOLDEN_DIFF: &str = include_str!("../fixtures/orders.show_diff.txt");
/// What is the customer's business in it.
const PERSONAL: [&str; 4] = ["Anna", "+96279", "Main Street", "ring twice"];

/// Writes events of one webhook.
struct Webhook<'a> {
    log: &'a Written,
    received: Envelope,
    last: Envelope,
}

impl<'a> Webhook<'a> {
    async fn new(log: &'a Written, name: &str, webhook_type: &str, at: DateTime<Utc>) -> Self {
        let request = RequestFacts {
            method: "POST".into(),
            path: "/api/webhooks/careem".into(),
            client_address: "203.0.113.9".into(),
            scheme: "hmac-sha256".into(),
            secrets: vec![SecretUse {
                name: "webhook_secret".into(),
                origin: SecretOrigin::Env,
                index: 0,
            }],
            ..RequestFacts::default()
        };
        let id = received(name, at).id;
        let webhook = Envelope {
            id,
            root_id: id,
            webhook_type: webhook_type.into(),
            request: Some(request),
            ..received("CR-1", at)
        };
        let body = json!({
            "id": "CR-1", "status": webhook_type, "customer": { "name": "Anna", "phone": "+962791234567" }, "note": "ring twice",
        });
        log.publish(&webhook, body.to_string()).await;
        let last = webhook.clone();
        Self {
            log,
            received: webhook,
            last,
        }
    }

    /// Records what follows so many milliseconds after it was accepted.
    async fn tell(&mut self, event_type: EventType, after_ms: i64, payload: Value) {
        let event = Envelope {
            time: self.received.time + TimeDelta::milliseconds(after_ms),
            branch: Some("branch-1".into()),
            request: None,
            ..follow(&self.last, &format!("{event_type}{after_ms}"), event_type)
        };
        self.log.publish(&event, payload.to_string()).await;
        self.last = event;
    }

    async fn transform(&mut self, after_ms: i64, status: &str, quantity: u32) {
        let order = json!({
            "orderNumber": "CAREEM-1", "displayId": "#7", "companyId": "company-1", "status": status, "providerStatus": status,
            "acceptBy": "2025-10-01T12:10:00.000Z", "flags": ["total_mismatch"], "customerName": format!("Anna {quantity}"),
            "deliveryAddress": { "street": "Main Street" }, "items": [{ "name": "Burger", "quantity": quantity }],
        });
        self.tell(
            EventType::OrderTransformed,
            after_ms,
            json!({ "transformedOrder": order }),
        )
        .await;
    }

    async fn fail(&mut self, attempt: u32, after_ms: i64, wait_ms: i64, code: &str) {
        let time = self.received.time + TimeDelta::milliseconds(after_ms + wait_ms);
        let message = format!("the backend answered {}", &code[8..]);
        let payload = json!({
            "attempt": attempt, "retries": 0, "maxAttempts": 10, "nextAttemptAt": time, "waitsForOrder": code == "BACKEND_404",
            "error": { "type": "temporary", "code": code, "message": message },
        });
        self.tell(EventType::OrderForwardFailed, after_ms, payload).await;
    }

    async fn give_up(&mut self, after_ms: i64, code: &str) {
        let error = json!({ "type": "validation", "code": code, "message": "the backend refused the order" });
        let payload = json!({ "attempts": 2, "retries": 0, "stage": "forward", "sequence": 1, "error": error });
        self.tell(EventType::OrderDeadLettered, after_ms, payload).await;
    }

    /// A person requests a retry.
    async fn retry(&mut self, after_ms: i64, code: &str) {
        let payload = json!({
            "stage": "forward", "sequence": 1, "endedAs": code, "by": "sami@desk", "reason": "the backend is mended", "again": false,
        });
        self.tell(EventType::OrderRetryRequested, after_ms, payload).await;
    }

    async fn forward(&mut self, attempts: u32, after_ms: i64) {
        let at = self.received.time;
        let payload = json!({
            "internalOrderId": "order-1", "backendStatus": 201, "attempts": attempts, "receivedAt": at, "forwardedAt": at,
            "order": { "branchId": "branch-1", "companyId": "company-1", "providerStatus": "created" },
        });
        self.tell(EventType::OrderForwarded, after_ms, payload).await;
    }
}

/// The backend wants the provider to be told.
async fn push(log: &Written, at: DateTime<Utc>) {
    let asked = Envelope {
        event_type: EventType::OrderStatusRequested,
        webhook_type: "status_request".into(),
        branch: Some("branch-1".into()),
        id: received("asked", at).id,
        root_id: received("asked", at).id,
        ..received("CR-1", at)
    };
    log.publish(&asked, json!({ "status": "accepted" }).to_string()).await;
    let failed = follow(&asked, "failed", EventType::OrderStatusPushFailed);
    let error = json!({ "type": "temporary", "code": "PROVIDER_503", "message": "the provider cannot take it now" });
    let payload = json!({
        "attempt": 1, "retries": 0, "maxAttempts": 10, "error": error, "nextAttemptAt": failed.time + TimeDelta::seconds(2),
    });
    log.publish(&failed, payload.to_string()).await;
    let told = Envelope {
        time: failed.time + TimeDelta::seconds(2),
        ..follow(&asked, "told", EventType::OrderStatusPushed)
    };
    let payload = json!({
        "status": "accepted", "providerStatus": 200, "attempts": 2, "requestedAt": asked.time, "pushedAt": told.time,
    });
    log.publish(&told, payload.to_string()).await;
}

/// Failed twice, waited five minutes in a lane, announced again meanwhile, arrived, was accepted and cancelled; the cancellation was
/// refused, and retried by a person.
async fn eventful(log: &Written) {
    let mut order = Webhook::new(log, "announced", "order_created", noon()).await;
    order.transform(12, "pending", 1).await;
    order.fail(1, 60, 200, "BACKEND_503").await;
    order.fail(2, 300, 300_000, "BACKEND_500").await;
    let mut again = Webhook::new(log, "again", "order_created", noon() + TimeDelta::seconds(45)).await;
    again.transform(9, "pending", 2).await;
    order.forward(3, 300_400).await;
    let ignored = json!({ "reason": "DUPLICATE_ORDER", "message": "order CR-1 was forwarded before", "differs": true });
    again.tell(EventType::OrderIgnored, 255_500, ignored).await;
    push(log, noon() + TimeDelta::minutes(6)).await;
    let mut cancelled = Webhook::new(log, "cancelled", "order_cancelled", noon() + TimeDelta::hours(14)).await;
    cancelled.transform(8, "cancelled", 2).await;
    cancelled.fail(1, 40, 1_500, "BACKEND_404").await;
    cancelled.give_up(1_600, "BACKEND_422").await;
    cancelled.retry(3_600_000, "BACKEND_422").await;
    cancelled.forward(1, 3_600_250).await;
    // Another order, and a dead letter of the same provider, are no part of it.
    log.refused("CR-2", noon() + TimeDelta::minutes(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_like_a_story() {
    let log = Written::new().await;
    eventful(&log).await;
    let show = async |args: &[&str]| {
        let args: Vec<_> = ["orders", "show", "careem", "CR-1"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let ran = run(&log.settings(), &args).await.expect_success();
        for text in PERSONAL {
            assert!(!ran.said().contains(text), "{text} in {}", ran.said());
        }
        ran
    };
    let story = show(&[]).await;
    assert!(story.stdout == GOLDEN, "{}", story.stdout);
    assert!(story.stderr.contains("taken as the provider's id"), "{}", story.stderr);
    let diff = show(&["--diff"]).await;
    assert!(diff.stdout == GOLDEN_DIFF, "{}", diff.stdout);
    let with_documents = show(&["--raw", "--body", "--diff", "--json"]).await;
    let story: Value = serde_json::from_str(&with_documents.stdout).unwrap();
    let steps = story["steps"].as_array().unwrap();
    assert_eq!(
        steps[0]["raw"]["body"],
        json!({
            "id": "CR-1", "status": "order_created", "customer": { "name": "***", "phone": "***" }, "note": "***",
        })
    );
    assert_eq!(
        steps[1]["body"]["transformedOrder"]["items"],
        json!([{ "name": "Burger", "quantity": 1 }])
    );
    assert_eq!(steps[1]["body"]["transformedOrder"]["customerName"], "***");

    // Of another order, another provider, or none.
    for (args, named) in [
        (
            &["orders", "show", "careem", "CR-none"][..],
            "nothing about careem CR-none",
        ),
        (&["orders", "show", "careen", "CR-1"], "careem"),
        (&["orders", "show", "careem"], "<ID>"),
    ] {
        let ran = run(&log.settings(), args).await;
        assert_eq!(ran.code, Some(2), "{}", ran.said());
        assert!(ran.stderr.contains(named), "{}", ran.stderr);
    }
}

/// A story without what differs from run to run: times, ids, durations and sizes.
fn same_each_time(story: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut ids: Vec<String> = Vec::new();
    let mut word = |word: &str| {
        let bare = word.trim_end_matches([',', ';', '\n']);
        let end = &word[bare.len()..];
        let shape: String = bare.chars().map(|c| if is_digit(c) { '9' } else { c }).collect();
        let shown = match shape.as_str() {
            "99:99:99.999" => "TIME".to_owned(),
            "9999-99-99" => "DAY".to_owned(),
            _ if shape.starts_with("9999-99-99T") => "MOMENT".to_owned(),
            _ if bare.parse::<uuid::Uuid>().is_ok() => {
                let known = ids.iter().position(|id| id == bare);
                let number = known.unwrap_or_else(|| {
                    ids.push(bare.to_owned());
                    ids.len() - 1
                });
                format!("WEBHOOK-{number}")
            }
            _ => bare.to_owned(),
        };
        format!("{shown}{end}")
    };
    let lines = story
        .lines()
        .map(|line| line.split(' ').map(&mut word).collect::<Vec<_>>());
    let mut lines: Vec<_> = lines.collect();
    for words in &mut lines {
        for at in 0..words.len().saturating_sub(1) {
            let (before, unit) = (at.checked_sub(1).map(|at| words[at].clone()), words[at + 1].clone());
            let is_duration =
                before.as_deref() == Some("waits") && ["ms", "s", "min"].contains(&unit.trim_end_matches(','));
            if unit == "bytes" || is_duration {
                words[at] = "N".to_owned();
            }
        }
    }
    let lines: Vec<_> = lines.into_iter().map(|words| words.join(" ")).collect();
    lines.join("\n") + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_order_that_a_hub_handled() {
    let world = World::new().await;
    let later = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world
        .backend
        .next_for("CR-1", [later, Answer::Accept, Answer::status(422)]);
    let hub = world.hub().await;
    let announced = order("CR-1");
    assert_eq!(world.careem.post(&hub, &announced).await.status, 200);
    assert_eq!(world.careem.post(&hub, &order("CR-2")).await.status, 200);
    world.has_parked(1).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let again = announced.replacen('{', "{\"attempt\": 2, ", 1);
    assert_eq!(world.careem.post(&hub, &again).await.status, 200);
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    assert_eq!(world.careem.post(&hub, &change("CR-1", "cancelled")).await.status, 200);
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.retry_dead_letters().await;
    world.at_end(Ends::forwarded(3).ignored(1)).await;

    let settings = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let text = run(&settings, &["orders", "show", "careem", "CR-1"])
        .await
        .expect_success();
    let text = same_each_time(&text.stdout);
    assert!(text == GOLDEN_HANDLED, "{text}");
    // By the number that people see.
    let listed = run(&settings, &["orders", "list", "--id", "CR-1", "--json"])
        .await
        .expect_success();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let number = listed["orders"][0]["orderNumber"].as_str().unwrap();
    assert_ne!(number, "CR-1");
    let args = ["orders", "show", "careem", number, "--json", "--raw", "--body"];
    let shown = run(&settings, &args).await.expect_success();
    assert!(
        !shown.said().contains("Ahmed") && !shown.said().contains("+962"),
        "{}",
        shown.said()
    );
    let story: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&story["externalOrderId"], &story["order"]["state"]),
        (&json!("CR-1"), &json!("forwarded"))
    );
    let steps: Vec<_> = story["steps"].as_array().unwrap().iter().collect();
    let kinds = |webhook: &str| -> Vec<&str> {
        let of = steps.iter().filter(|step| step["webhookId"] == webhook);
        let mut kinds: Vec<_> = of.map(|step| step["step"].as_str().unwrap()).collect();
        kinds.dedup();
        kinds
    };
    let mut webhooks: Vec<_> = steps.iter().map(|step| step["webhookId"].as_str().unwrap()).collect();
    webhooks.dedup();
    let (first, second) = (webhooks[0], webhooks[1]);
    assert_eq!(kinds(first), ["received", "read_as", "failed", "forwarded"]);
    assert_eq!(kinds(second), ["received", "read_as", "ignored"]);
    assert_eq!(
        kinds(webhooks[webhooks.len() - 1]),
        ["received", "read_as", "given_up", "retry_requested", "forwarded"]
    );
    assert_eq!(
        (&steps[0]["scheme"], &steps[0]["address"]),
        (&json!("hmac-sha256"), &json!("127.0.0.1"))
    );
    assert!(
        steps.is_sorted_by_key(|step| step["sequence"].as_u64()),
        "the log's order"
    );
    // What the table does not have, the log has.
    let without = world
        .nats
        .settings("hub")
        .set("DATABASE_URL", "postgres://127.0.0.1:1/none");
    let alone = run(&without, &["orders", "show", "careem", "CR-1", "--json"])
        .await
        .expect_success();
    let alone: Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(alone["steps"].as_array().unwrap().len(), steps.len());
}
