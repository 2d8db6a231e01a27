//! What is accepted ends: every kind of repeat, behind every kind of first end, inside and outside of the windows, on the
//! instance that works and on another one.

use std::{collections::HashMap, time::Duration};

use webhook_hub::event::{EventType, Recorded};

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::{Answer, ORDERS},
        careem::{change, order},
        hub::Hub,
        log::{Acceptances, payload},
        wait::{PATIENCE, eventually},
    },
    identity::announced,
};

const ADD_BRANCH: &str = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
     VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";

/// How the first one ended, how the same webhook ends when it comes again, and what became of the first by then.
struct Case {
    name: &'static str,
    /// The webhook that comes again.
    body: fn(&str) -> String,
    first: EventType,
    again: EventType,
    reason: Option<&'static str>,
    first_then: EventType,
}

impl Case {
    fn id(&self, hub: usize) -> String {
        format!("CR-{}-{hub}", self.name)
    }
}

use EventType::{
    OrderDeadLettered as Dead, OrderForwarded as Forwarded, OrderIgnored as Ignored, OrderRejected as Rejected,
};

const CASES: [Case; 10] = [
    case("created", order, Forwarded, Ignored, Some("DUPLICATE_WEBHOOK")),
    case("refused", order, Dead, Forwarded, None),
    // Asked for once more by the first one's key: so the first is forwarded after all.
    Case {
        first_then: Forwarded,
        ..case("unsure", order, Dead, Ignored, Some("DUPLICATE_WEBHOOK"))
    },
    case("homeless", order, Dead, Forwarded, None),
    case("unreadable", unreadable, Rejected, Rejected, None),
    case(
        "second",
        |id| announced(id, "pending"),
        Ignored,
        Ignored,
        Some("DUPLICATE_ORDER"),
    ),
    case(
        "news",
        |id| change(id, "ready"),
        Forwarded,
        Ignored,
        Some("DUPLICATE_WEBHOOK"),
    ),
    case(
        "old-news",
        |id| change(id, "ready"),
        Forwarded,
        Ignored,
        Some("DUPLICATE_WEBHOOK"),
    ),
    case("news-refused", |id| change(id, "ready"), Dead, Forwarded, None),
    case(
        "old-refused",
        |id| change(id, "ready"),
        Dead,
        Ignored,
        Some("SUPERSEDED"),
    ),
];

const fn case(
    name: &'static str,
    body: fn(&str) -> String,
    first: EventType,
    again: EventType,
    reason: Option<&'static str>,
) -> Case {
    Case {
        name,
        body,
        first,
        again,
        reason,
        first_then: first,
    }
}

/// Without a price nothing can be charged.
fn unreadable(id: &str) -> String {
    order(id).replace("\"item_price\": 5.5,", "")
}

impl World {
    /// What goes before the webhook that comes again, that one, and what comes after it; each when the one before has ended.
    async fn first_time(&self, hub: &Hub, case: &Case, id: &str) {
        let merchant = if case.name == "homeless" {
            "merchant-2"
        } else {
            "merchant-1"
        };
        let refused = [Answer::status(422)];
        if ["second", "news", "old-news", "news-refused", "old-refused"].contains(&case.name) {
            self.post_as(hub, merchant, &order(id)).await;
            self.ended_so_far(id, 1).await;
        }
        match case.name {
            "refused" | "news-refused" | "old-refused" => self.backend.next_for(id, refused),
            "unsure" => self.backend.next_for(id, vec![Answer::status(503); 5]),
            _ => {}
        }
        self.post_as(hub, merchant, &(case.body)(id)).await;
        let before = if case.name.contains("news") || ["second", "old-refused"].contains(&case.name) {
            2
        } else {
            1
        };
        self.ended_so_far(id, before).await;
        if case.name.starts_with("old") {
            self.post_as(hub, merchant, &change(id, "picked_up")).await;
            self.ended_so_far(id, before + 1).await;
        }
    }

    async fn ended_so_far(&self, id: &str, count: usize) {
        eventually(&format!("{count} webhooks of {id} have ended"), PATIENCE, async || {
            let events = self.log.events().await;
            let of_order = events.iter().filter(|event| event.envelope.external_order_id == id);
            let ended = of_order.filter(|event| event.envelope.event_type.ends()).count();
            if ended >= count { Ok(()) } else { Err(ended) }
        })
        .await;
    }
}

/// The last end of each acceptance of an order's webhooks, by where that stands.
fn ends_of<'a>(
    acceptances: &Acceptances<'_>,
    events: &'a [std::sync::Arc<Recorded>],
    id: &str,
) -> HashMap<u64, &'a Recorded> {
    let of_order = events.iter().filter(|event| event.envelope.external_order_id == id);
    of_order
        .filter(|event| event.envelope.event_type.ends())
        .map(|event| (acceptances.of_event(event).1, &**event))
        .collect()
}

impl World {
    /// Whether the hub says that it knew it.
    async fn post_again(&self, hub: &Hub, case: &Case, id: &str) -> bool {
        let merchant = if case.name == "homeless" {
            "merchant-2"
        } else {
            "merchant-1"
        };
        let body = (case.body)(id);
        let signature = crate::harness::careem::sign(crate::harness::careem::SECRET, body.as_bytes());
        let headers = [("x-merchant-id", merchant), ("x-careem-signature", signature.as_str())];
        let answer = self.careem.post_raw(hub, body, &headers).await;
        answer.event_id();
        answer.json()["data"]["duplicate"] == true
    }
}

/// The same number after the window is another order, by another key. The same order after the window is sent once more, by its
/// first key: the backend knows it, or forgot it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_used_again_after_the_window_is_another_order() {
    let world = World::new().await;
    let settings = world.settings().set("HUB_TEST_TIMES", "order_memory=4s");
    let (first, other) = (Hub::start(&settings).await, Hub::start(&settings).await);
    world.careem.post(&first, &order("CR-1")).await.event_id();
    world.careem.post(&first, &order("CR-same")).await.event_id();
    world.log.settled().await;
    world.log_forgets(&other).await;
    // Longer than the window, which is time that passes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let later = |body: String| body.replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    for body in [
        order("CR-same"),
        later(order("CR-1")),
        later(announced("CR-1", "pending")),
    ] {
        world.careem.post(&other, &body).await.event_id();
    }
    world.log.settled().await;
    assert_eq!(world.creations().len(), 3, "{:?}", world.creations());
    let same = world.keys_of("CR-same");
    assert_eq!((same.len(), &same[0]), (2, &same[1]));
    world.at_end(Ends::forwarded(4).ignored(1)).await;
}

/// A hub starts on a log with orders that are all too old to be remembered: the next one goes through at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_behind_orders_that_are_no_longer_remembered() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("HUB_TEST_TIMES", "order_memory=500ms,order_memory_wait=500ms");
    let hub = Hub::start(&settings).await;
    world.careem.post(&hub, &order("CR-long-ago")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert!(hub.terminate().await.0.success());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hub = Hub::start(&settings).await;
    world.careem.post(&hub, &order("CR-today")).await.event_id();
    world.at_end(Ends::forwarded(2)).await;
}

/// The backend refused an order and its news, and the provider sends all of them again. None of them is older than another
/// for that: the last word reaches the backend, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_and_comes_again_in_order_is_forwarded() {
    let world = World::new().await;
    let hub = world.hub().await;
    let webhooks = [
        order("CR-refused"),
        change("CR-refused", "ready"),
        change("CR-refused", "delivered"),
    ];
    world.backend.next_for("CR-refused", vec![Answer::status(422); 3]);
    for webhook in &webhooks {
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.log_forgets(&hub).await;
    for webhook in &webhooks {
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.at_end(Ends::forwarded(3).dead_lettered(3)).await;
    // It is the same order, so it has the same key.
    assert_eq!(world.creations().len(), 1, "{:?}", world.creations());
}

/// A duplicate that differs is taken up by a person: it is an order of its own, by a key of its own, also when it is taken up
/// once more because the backend did not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_retried_duplicate_is_an_order_of_its_own() {
    let world = World::new().await;
    let hub = world.hub().await;
    world
        .careem
        .post(&hub, &announced("CR-own", "pending"))
        .await
        .event_id();
    world.log.settled().await;
    let other =
        announced("CR-own", "created").replace("\"total_taxable_price\": 16.24", "\"total_taxable_price\": 26.24");
    world.careem.post(&hub, &other).await.event_id();
    let events = world.log.settled().await;
    let ignored = events
        .iter()
        .find(|event| event.envelope.event_type == Ignored)
        .unwrap();
    world.backend.next_for("CR-own", [Answer::status(422)]);
    world
        .take_up(ignored, payload(ignored)["sequence"].as_u64().unwrap())
        .await;
    let dead = world.log.wait_for(Dead, 1).await;
    world
        .take_up(&dead[0], payload(&dead[0])["sequence"].as_u64().unwrap())
        .await;
    world.log.wait_for(Forwarded, 2).await;
    let own = world.creations();
    assert_eq!(own.len(), 2, "{own:?}");
    let requests = world.backend.requests();
    let bodies: Vec<_> = requests
        .iter()
        .filter(|one| one.key() == own[1])
        .map(|one| one.json()["transformedOrder"]["pricing"]["total"].as_f64())
        .collect();
    assert_eq!(bodies, [Some(26.24); 2]);
    world.at_end(Ends::forwarded(2)).await;
}

impl World {
    /// Asks the stage `forward` to take something up again, as `dead-letters retry` does.
    async fn take_up(&self, ended: &Recorded, sequence: u64) {
        let envelope = ended.follow("retry", EventType::OrderRetryRequested, chrono::Utc::now());
        let request = serde_json::json!({ "stage": "forward", "sequence": sequence, "by": "test" });
        let subject = webhook_hub::journal::codec::subject(&envelope, crate::harness::PARTITIONS);
        let headers =
            webhook_hub::journal::codec::headers(&envelope, webhook_hub::journal::codec::Form::Compact).unwrap();
        let publisher = async_nats::jetstream::new(self.nats.connect("hub").await);
        let sent = publisher
            .publish_with_headers(subject, headers, request.to_string().into())
            .await;
        sent.unwrap().await.unwrap();
    }
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_acceptance_ends_whatever_the_firsts_outcome() {
        let world = World::new().await;
        let settings = world
            .settings()
            .set("RETRY_DELAYS", "100ms")
            .set("RETRY_MAX_ATTEMPTS", 1)
            .set("CIRCUIT_BREAKER_ENABLED", false);
        let first = Hub::start(&settings).await;
        futures_util::future::join_all(CASES.iter().map(async |case| {
            for hub in 0..2 {
                world.first_time(&first, case, &case.id(hub)).await;
            }
        }))
        .await;
        let events = world.log.settled().await;
        let acceptances = Acceptances::of(&events);
        for (case, at) in CASES.iter().flat_map(|case| [(case, 0), (case, 1)]) {
            let (id, body) = (case.id(at), (case.body)(&case.id(at)));
            let accepted = events.iter().find(|event| event.payload == body.as_bytes()).unwrap();
            let end = ends_of(&acceptances, &events, &id)[&accepted.sequence]
                .envelope
                .event_type;
            assert_eq!(end, case.first, "{id}");
        }
        // Inside of the log's window: nothing new, on the same instance and on another one.
        let other = Hub::start(&settings).await;
        let before = world.log.settled().await.len();
        for (at, hub) in [&first, &other].into_iter().enumerate() {
            for case in &CASES {
                let answer = world.post_again(hub, case, &case.id(at)).await;
                assert!(answer, "{}: known", case.name);
            }
        }
        assert_eq!(world.log.settled().await.len(), before, "nothing came of what is known");
        // Outside of it: the one that works, and the other one; both without the ids that they remember themselves.
        assert!(first.terminate().await.0.success());
        assert!(other.terminate().await.0.success());
        world.database.run(ADD_BRANCH).await.unwrap();
        let hubs = [Hub::start(&settings).await, Hub::start(&settings).await];
        world.log_forgets(&hubs[1]).await;
        for (at, hub) in hubs.iter().enumerate() {
            for case in &CASES {
                let known = world.post_again(hub, case, &case.id(at)).await;
                assert!(!known, "{}: accepted anew", case.name);
            }
        }
        let events = world.log.settled().await;
        let acceptances = Acceptances::of(&events);
        for (case, at) in CASES.iter().flat_map(|case| [(case, 0), (case, 1)]) {
            let id = case.id(at);
            let body = (case.body)(&id);
            let twice: Vec<u64> = events
                .iter()
                .filter(|event| {
                    event.envelope.event_type == EventType::WebhookReceived && event.payload == body.as_bytes()
                })
                .map(|event| event.sequence)
                .collect();
            let ends = ends_of(&acceptances, &events, &id);
            let [one, two] = twice[..] else {
                panic!("{id}: accepted {} times", twice.len())
            };
            let (one, two) = (ends[&one], ends[&two]);
            assert_eq!(
                one.envelope.event_type,
                case.first_then,
                "{id}, the first: {}",
                payload(one)
            );
            assert_eq!(two.envelope.event_type, case.again, "{id}, again: {}", payload(two));
            if let Some(reason) = case.reason {
                assert_eq!(payload(two)["reason"], reason, "{id}");
            }
            // Created once, and told what is newest last.
            let created = world.backend.requests();
            let created: Vec<_> = created
                .iter()
                .filter(|one| one.external_order_id() == id && one.path == ORDERS)
                .collect();
            let keys: std::collections::BTreeSet<_> = created.iter().map(|one| one.key()).collect();
            let most = if case.name == "refused" { 2 } else { 1 };
            assert!(keys.len() <= most, "{id}: {keys:?}");
            if case.name.starts_with("old") {
                let requests = world.backend.requests();
                let last = requests.iter().rfind(|one| one.external_order_id() == id).unwrap();
                assert_eq!(last.json()["statusChange"]["canonicalStatus"], "picked_up", "{id}");
            }
        }
        world.hand_out_again().await;
        let count = |one: EventType| {
            2 * CASES
                .iter()
                .map(|case| usize::from(case.first_then == one) + usize::from(case.again == one))
                .sum::<usize>()
        };
        let others = 2 * 5;
        let newer = 2 * 2;
        world
            .at_end(Ends {
                forwarded: count(Forwarded) + others + newer,
                ignored: count(Ignored),
                rejected: count(Rejected),
                dead_lettered: count(Dead),
            })
            .await;
    }

    /// Not before the instance that comes has read what was there.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_instance_that_takes_over_knows_earlier_orders() {
        let world = World::new().await;
        let mut hub = world.hub().await;
        for round in 0..3 {
            let id = format!("CR-taken-{round}");
            world.careem.post(&hub, &announced(&id, "pending")).await.event_id();
            world.log.settled().await;
            hub.kill().await;
            hub = world.hub().await;
            world.careem.post(&hub, &announced(&id, "created")).await.event_id();
            world.log.settled_within(Duration::from_secs(60)).await;
            assert_eq!(world.creations().len(), round + 1, "{:?}", world.creations());
        }
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(3).ignored(3)).await;
    }

    /// The backend took it, and the hub died before it recorded that; at the restart it was too old. The backend may have it, so the
    /// next announcement asks by the first one's key.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_before_a_crash_counts_as_made() {
        const TTL: Duration = Duration::from_secs(1);
        let world = World::new().await;
        let settings = world.settings_on_fixed_port();
        let dying = settings.clone().set("HUB_TEST_CRASH_AT", "forward/after_request");
        let mut hub = Hub::start(&dying).await;
        let (url, first) = (world.fixed_url(), announced("CR-old", "pending"));
        // Only on this one it is too old.
        let expiring = settings.clone().set("CAREEM_ORDER_TTL", "1s");
        let restarting = async {
            hub.wait_exit(PATIENCE).await;
            tokio::time::sleep(TTL).await;
            Hub::start(&expiring).await
        };
        let (_, hub) = tokio::join!(world.careem.deliver(&url, &first), restarting);
        let dead = &world.log.payloads(Dead, 1).await[0];
        assert_eq!(dead["error"]["code"], "ORDER_EXPIRED", "{dead}");
        assert!(hub.terminate().await.0.success());
        let hub = Hub::start(&settings).await;
        world
            .careem
            .post(&hub, &announced("CR-old", "created"))
            .await
            .event_id();
        world.log.settled().await;
        assert_eq!(world.creations().len(), 1, "{:?}", world.creations());
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(1).ignored(1)).await;
    }
}
