//! Two branches of a provider that use the same number: news of one order do not affect the other.

use std::cell::Cell;

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::Answer,
        careem::{change, order},
        hub::{Hub, run},
        log::payload,
        provider::{Provider, Webhook},
    },
    identity::announced,
};

const OTHER_BRANCH: &str = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
     VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";

/// An order of number CR-7 at both branches. The bodies differ, for those of two orders do.
async fn two_orders(world: &World) -> Hub {
    world.database.run(OTHER_BRANCH).await.unwrap();
    let hub = world.hub().await;
    world.post_as(&hub, "merchant-1", &announced("CR-7", "pending")).await;
    world.log.settled().await;
    world.post_as(&hub, "merchant-2", &of_the_other("pending")).await;
    world.log.settled().await;
    assert_eq!(world.creations().len(), 2, "{:?}", world.creations());
    hub
}

fn of_the_other(status: &str) -> String {
    announced("CR-7", status).replace("\"total_taxable_price\": 16.24", "\"total_taxable_price\": 26.24")
}

impl World {
    /// The statuses that the backend received, with the order's branch.
    fn told_of(&self) -> Vec<(String, String)> {
        let requests = self.backend.requests();
        let changes = requests.iter().map(|request| request.json()["statusChange"].clone());
        changes
            .filter(|change| !change.is_null())
            .map(|change| {
                let text = |name: &str| change[name].as_str().unwrap().to_owned();
                (text("branchId"), text("canonicalStatus"))
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_the_same_number_elsewhere_hides_no_news() {
    let world = World::new().await;
    let hub = two_orders(&world).await;
    world.post_as(&hub, "merchant-1", &change("CR-7", "picked_up")).await;
    world.log.settled().await;
    let cancelled = change("CR-7", "ready");
    world.backend.next_for("CR-7", [Answer::status(422)]);
    world.post_as(&hub, "merchant-2", &cancelled).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.post_as(&hub, "merchant-1", &change("CR-7", "delivered")).await;
    let events = world.log.settled().await;
    let ignored: Vec<_> = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderIgnored)
        .map(|event| payload(event))
        .collect();
    assert_eq!(ignored, [json!(null); 0]);
    // Taken up by a person.
    let retry = run(&world.nats.settings("hub"), &["dead-letters", "retry", "--all"]).await;
    retry.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    let last = world.told_of().pop().unwrap();
    assert_eq!(last, ("branch-2".to_owned(), "ready".to_owned()));
    world.at_end(Ends::forwarded(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_not_superseded_by_news_of_the_same_number_elsewhere() {
    let world = World::new().await;
    let hub = two_orders(&world).await;
    world.backend.next_for("CR-7", [Answer::status(422)]);
    let ready = change("CR-7", "ready");
    world.post_as(&hub, "merchant-2", &ready).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.post_as(&hub, "merchant-1", &change("CR-7", "picked_up")).await;
    world.log.settled().await;
    world.log_forgets(&hub).await;
    world.post_as(&hub, "merchant-2", &ready).await;
    world.log.settled().await;
    let last = world.told_of().pop().unwrap();
    assert_eq!(last, ("branch-2".to_owned(), "ready".to_owned()));
    let ends = Ends {
        forwarded: 4,
        dead_lettered: 1,
        ..Ends::default()
    };
    world.at_end(ends).await;
}

/// A platform with announcements of any status.
struct Generic {
    provider: Provider,
    hub: Hub,
    sent: Cell<u32>,
}

impl Generic {
    async fn at(world: &World, stores: &[&str]) -> Self {
        let mut providers = Provider::all(&Catalogue::shipped()).into_iter();
        let provider = providers.find(|one| one.name == "generic").unwrap();
        for store in stores {
            provider.branch(world, store).await;
        }
        let hub = Hub::start(&provider.enable(world.settings(), "KWD")).await;
        Self {
            provider,
            hub,
            sent: Cell::new(0),
        }
    }

    async fn post(&self, world: &World, body: String) {
        self.sent.set(self.sent.get() + 1);
        let webhook = Webhook::new(body).with("webhook-id", &format!("message-{}", self.sent.get()));
        assert_eq!(self.provider.post(&self.hub, &webhook).await.status, 200);
        world.log.settled().await;
    }

    async fn announce(&self, world: &World, store: &str, status: &str, notes: &str) {
        let body = include_str!("fixtures/providers/generic/order.created.json");
        let body = body.replace("store-7", store).replace("no onions", notes);
        let body = body.replace("\"status\": \"received\"", &format!("\"status\": \"{status}\""));
        self.post(world, body).await;
    }

    async fn change(&self, world: &World, store: &str, status: &str) {
        let mut body: Value =
            serde_json::from_str(include_str!("fixtures/providers/generic/order.updated.json")).unwrap();
        body["data"]["store"] = store.into();
        body["data"]["status"] = status.into();
        self.post(world, body.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_is_not_older_than_news_of_the_same_number_elsewhere() {
    let world = World::new().await;
    let generic = Generic::at(&world, &["store-7", "store-8"]).await;
    generic.announce(&world, "store-7", "received", "no onions").await;
    generic.announce(&world, "store-8", "received", "no onions").await;
    assert_eq!(world.creations().len(), 2);
    generic.change(&world, "store-7", "picked_up").await;
    generic.announce(&world, "store-8", "accepted", "no onions").await;
    let last = world.told_of().pop().unwrap();
    assert_eq!(last, ("branch-generic-store-8".to_owned(), "accepted".to_owned()));
    world.at_end(Ends::forwarded(4)).await;
}

/// A status that came with a differing announcement counts like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_differing_announcement_does_not_undo_a_later_status() {
    let world = World::new().await;
    let generic = Generic::at(&world, &["store-7"]).await;
    generic.announce(&world, "store-7", "received", "no onions").await;
    generic.announce(&world, "store-7", "ready", "no garlic").await;
    generic.announce(&world, "store-7", "accepted", "no onions").await;
    generic.announce(&world, "store-7", "ready", "no onions").await;
    let expected = [("branch-generic-store-7".to_owned(), "ready".to_owned())];
    assert_eq!(world.told_of(), expected);
    world.at_end(Ends::forwarded(1).ignored(3)).await;
}

/// A status that was given up is taken up again, after an announcement told a later one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_status_does_not_follow_an_announcement_that_was_news() {
    let world = World::new().await;
    let generic = Generic::at(&world, &["store-7"]).await;
    generic.announce(&world, "store-7", "received", "no onions").await;
    world.backend.next_for("A-1001", [Answer::status(422)]);
    generic.change(&world, "store-7", "accepted").await;
    generic.announce(&world, "store-7", "ready", "no onions").await;
    let retry = run(&world.nats.settings("hub"), &["dead-letters", "retry", "--all"]).await;
    retry.expect_success();
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let last = world.told_of().pop().unwrap();
    assert_eq!(last, ("branch-generic-store-7".to_owned(), "ready".to_owned()));
    world.at_end(Ends::forwarded(2).ignored(1)).await;
}

/// A merchant is moved to another branch. An order that was announced before stays where it was announced, whether its webhook comes again
/// or another one announces it; what the backend refused is created at the new branch, unless the provider called it off.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_stays_at_its_branch_if_its_merchant_is_moved() {
    let world = World::new().await;
    let hub = world.hub().await;
    for id in ["CR-off", "CR-refused"] {
        world.backend.next_for(id, [Answer::status(422)]);
    }
    let off = change("CR-off", "cancelled");
    for webhook in [order("CR-off"), off, order("CR-refused"), order("CR-there")] {
        world.careem.post(&hub, &webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log_forgets(&hub).await;
    assert!(hub.terminate().await.0.success());
    let moved = "UPDATE branch_delivery_configs SET branch_id = 'branch-9' WHERE merchant_id = 'merchant-1'";
    world.database.run(moved).await.unwrap();
    let hub = world.hub().await;
    let again = order("CR-there").replace(r#""status": "created""#, r#""status": "pending""#);
    let another_day = order("CR-there").replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    for webhook in [
        order("CR-off"),
        order("CR-refused"),
        again,
        another_day,
        order("CR-new"),
    ] {
        world.careem.post(&hub, &webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    let ignored = world.log.wait_for(EventType::OrderIgnored, 2).await;
    for (id, reason) in [("CR-off", "SUPERSEDED"), ("CR-there", "DUPLICATE_ORDER")] {
        let of_order = ignored.iter().find(|ignored| ignored.envelope.external_order_id == id);
        let ended = of_order.unwrap();
        assert_eq!(payload(ended)["reason"], reason, "{}", payload(ended));
        assert_ne!(ended.envelope.branch.as_deref(), Some("branch-9"));
    }
    let requests = world.backend.requests();
    let at_new_branch = requests
        .iter()
        .filter(|one| one.json()["transformedOrder"]["branchId"] == "branch-9");
    let mut ids: Vec<String> = at_new_branch.map(|one| one.external_order_id()).collect();
    ids.sort();
    assert_eq!(ids, ["CR-new", "CR-refused", "CR-there"]);
}

/// The backend refused an order, its merchant was moved, and the order was created at the new branch: by the same webhook again (`CR-same`),
/// or by another announcement of it (`CR-again`). A retry of the refused one does not create it at the old branch as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_that_moved_with_its_merchant_is_not_created_twice_by_a_retry() {
    let world = World::new().await;
    let hub = world.hub().await;
    for id in ["CR-same", "CR-again"] {
        world.backend.next_for(id, [Answer::status(422)]);
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log_forgets(&hub).await;
    assert!(hub.terminate().await.0.success());
    let moved = "UPDATE branch_delivery_configs SET branch_id = 'branch-9' WHERE merchant_id = 'merchant-1'";
    world.database.run(moved).await.unwrap();
    let hub = world.hub().await;
    let again = order("CR-again").replacen('{', "{\"attempt\": 2,", 1);
    for webhook in [order("CR-same"), again] {
        world.careem.post(&hub, &webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.retry_dead_letters().await;
    world.log.settled().await;
    assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
    world.at_end(Ends::forwarded(2).ignored(2)).await;
    let ignored = world.log.wait_for(EventType::OrderIgnored, 2).await;
    for (id, reason) in [("CR-same", "DUPLICATE_WEBHOOK"), ("CR-again", "DUPLICATE_ORDER")] {
        let of_order = ignored.iter().find(|ignored| ignored.envelope.external_order_id == id);
        let said = payload(of_order.unwrap());
        assert_eq!(said["reason"], reason, "{said}");
        assert!(said["message"].as_str().unwrap().contains("branch-9"), "{said}");
    }
}

impl World {
    /// The backend refuses an order, and its merchant is moved to another branch while the hub is down.
    async fn is_refused_and_moves(&self, hub: Hub) {
        self.careem.post(&hub, &order("CR-1")).await.event_id();
        self.log.wait_for(EventType::OrderDeadLettered, 1).await;
        self.log_forgets(&hub).await;
        assert!(hub.terminate().await.0.success());
        let moved = "UPDATE branch_delivery_configs SET branch_id = 'branch-9' WHERE merchant_id = 'merchant-1'";
        self.database.run(moved).await.unwrap();
    }
}

/// A refused order is retried, and the backend takes it, but no answer comes. Meanwhile its merchant is moved and its webhook comes again,
/// for the new branch. The retry is not ended for that: the order would be created twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_without_an_answer_is_not_ended_for_an_announcement_behind_it() {
    let world = World::new().await;
    let settings = || {
        let quick = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
        quick.set("RETRY_DELAYS", "500ms").set("RETRY_MAX_ATTEMPTS", 50)
    };
    let hub = Hub::start(&settings()).await;
    world.backend.next_for("CR-1", [Answer::status(422), Answer::Cut]);
    world.is_refused_and_moves(hub).await;
    let hub = Hub::start(&settings()).await;
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderTransformed, 2).await;
    world.backend.wait_for(world.backend.count() + 2).await;
    world.backend.always_for("CR-1", None);
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
}

/// The same if the hub is killed during the request: what it made of it is not on the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_cut_off_is_not_ended_for_an_announcement_behind_it() {
    let world = World::new().await;
    let hub = world.hub().await;
    world
        .backend
        .next_for("CR-1", [Answer::status(422), Answer::TakeAndHang]);
    world.is_refused_and_moves(hub).await;
    let hub = world.hub().await;
    world.retry_dead_letters().await;
    world.backend.wait_for(2).await;
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderTransformed, 2).await;
    hub.kill().await;
    let _hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
}

/// A refused order is retried, and cannot be taken. Its merchant is moved, and its webhook comes again for the new branch, or another
/// announcement of it. That is no other order of the number, for which the retry would be given up.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_at_its_merchants_new_branch_is_no_other_order() {
    for is_repeat in [true, false] {
        let world = World::new().await;
        let settings = || {
            let quick = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
            quick.set("RETRY_DELAYS", "1s").set("RETRY_MAX_ATTEMPTS", 50)
        };
        let hub = Hub::start(&settings()).await;
        world.backend.next_for("CR-1", [Answer::status(422)]);
        world.is_refused_and_moves(hub).await;
        let hub = Hub::start(&settings()).await;
        world.backend.always_for("CR-1", Some(Answer::status(503)));
        world.retry_dead_letters().await;
        world.has_parked(1).await;
        let attempt = if is_repeat { "{" } else { "{\"attempt\": 2," };
        let again = order("CR-1").replacen('{', attempt, 1);
        world.careem.post(&hub, &again).await.event_id();
        world.log.wait_for(EventType::OrderTransformed, 2).await;
        world.backend.wait_for(world.backend.count() + 2).await;
        world.backend.always_for("CR-1", None);
        world.at_end(Ends::forwarded(1).ignored(1)).await;
        assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
    }
}
