//! An order that its provider cancelled before the backend had it: it is not created afterwards, unless a person wants it.

use serde_json::Value;
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Hub, Settings, run},
    log::payload,
    played::Heard,
    stale_copy::StaleCopy,
};

/// The branch of `merchant-2`.
const ADD_BRANCH: &str = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
     VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";

impl World {
    /// An order that the backend refuses, and a change that gets this answer.
    async fn refused_and(&self, hub: &Hub, id: &str, status: &str, answer: Answer) {
        self.backend.next_for(id, [Answer::status(422), answer]);
        self.careem.post(hub, &order(id)).await.event_id();
        self.careem.post(hub, &change(id, status)).await.event_id();
    }

    async fn retry_one(&self, ended: &Recorded, more: &[&str]) -> String {
        let id = ended.envelope.id.to_string();
        let arguments = [&["dead-letters", "retry", &id], more].concat();
        let ran = run(&self.nats.settings("hub"), &arguments).await;
        ran.expect_success().stdout
    }

    /// The only event that was ignored, as superseded by the cancellation.
    async fn called_off(&self) -> (Recorded, Value) {
        let ignored = self.log.wait_for(EventType::OrderIgnored, 1).await;
        assert_eq!(ignored.len(), 1);
        let said = payload(&ignored[0]);
        assert_eq!(said["reason"], "SUPERSEDED", "{said}");
        assert!(said["message"].as_str().unwrap().contains("cancel"), "{said}");
        ((*ignored[0]).clone(), said)
    }

    /// How many requests for new orders the backend got.
    fn order_requests(&self) -> usize {
        let requests = self.backend.requests();
        requests.iter().filter(|request| request.path == ORDERS).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_create_a_cancelled_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::Accept).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    let dry = world.retry_one(&dead[0], &["--dry-run"]).await;
    assert!(dry.contains("1 would end as superseded"), "{dry}");
    world.retry_one(&dead[0], &[]).await;
    let (ended, said) = world.called_off().await;
    assert_eq!(world.order_requests(), 1, "{said}");
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    // A person who retries this end wants the order nevertheless.
    let dry = world.retry_one(&ended, &["--dry-run"]).await;
    assert!(!dry.contains("superseded"), "{dry}");
    world.retry_one(&ended, &[]).await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.order_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_the_provider_does_not_create_a_cancelled_order() {
    let world = World::new().await;
    let settings = world.settings().set("RETRY_DELAYS", "100ms");
    let hub = Hub::start(&settings).await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::Accept).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    // Of this one the cancellation was refused as well, and a person had it retried: there was nothing to cancel.
    world.refused_and(&hub, "CR-2", "cancelled", Answer::status(422)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.backend.always_for("CR-2", Some(Answer::status(404)));
    world.retry_one(&dead[2], &[]).await;
    let nothing = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(nothing[0]["reason"], "NOTHING_TO_CANCEL", "{}", nothing[0]);
    world.backend.always_for("CR-2", None);
    world.log_forgets(&hub).await;
    for id in ["CR-1", "CR-2"] {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    for ignored in &world.log.payloads(EventType::OrderIgnored, 3).await[1..] {
        assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
        assert!(ignored["message"].as_str().unwrap().contains("cancel"), "{ignored}");
    }
    assert_eq!(world.order_requests(), 2);
    world.at_end(Ends::forwarded(1).ignored(3).dead_lettered(2)).await;
}

/// The backend refused the cancellation as well. The order alone is retried: the cancellation would stay behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_not_created_without_its_cancellation() {
    let world = World::new().await;
    let settings = world.settings().set("RETRY_DELAYS", "100ms");
    let hub = Hub::start(&settings).await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::status(422)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let dry = world.retry_one(&dead[0], &["--dry-run"]).await;
    assert!(dry.contains("1 would end as superseded"), "{dry}");
    world.retry_one(&dead[0], &[]).await;
    world.called_off().await;
    assert_eq!(world.order_requests(), 1);
    // The cancellation is retried as well: there is nothing that the backend could cancel.
    world.post_orders(&hub, ["CR-other".to_owned()]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.always_for("CR-1", Some(Answer::status(404)));
    world.retry_one(&dead[1], &[]).await;
    world.at_end(Ends::forwarded(1).ignored(2)).await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert_eq!(ignored[1]["reason"], "NOTHING_TO_CANCEL", "{}", ignored[1]);
}

/// In a cluster any copy of the log may answer a read, also one that does not have the cancellation yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_log_that_is_behind_hides_no_cancellation() {
    let world = World::new().await;
    let nats = ([127, 0, 0, 1], world.nats.server.port()).into();
    let copy = StaleCopy::of(nats, "orders.forwarded.");
    let settings = world.settings().set("NATS_URL", format!("nats://{}", copy.address()));
    let hub = Hub::start(&settings).await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::Accept).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    copy.is_behind_for(3);
    world.retry_one(&dead[0], &[]).await;
    world.called_off().await;
    assert_eq!((world.order_requests(), copy.left()), (1, 0));
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// The branch of an order was missing, and was added before its cancellation came.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_transformed_late_is_not_created_after_its_cancellation() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_as(&hub, "merchant-2", &order("CR-1")).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.database.run(ADD_BRANCH).await.unwrap();
    world.post_as(&hub, "merchant-2", &change("CR-1", "cancelled")).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.retry_one(&dead[0], &[]).await;
    world.called_off().await;
    assert_eq!(world.order_requests(), 0);
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// Other news do not call an order off, nor does a cancellation that came before the announcement.
#[tokio::test(flavor = "multi_thread")]
async fn other_orders_are_created() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.refused_and(&hub, "CR-ready", "ready", Answer::Accept).await;
    world.refused_and(&hub, "CR-anew", "cancelled", Answer::Accept).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let is_ready = |dead: &&std::sync::Arc<Recorded>| dead.envelope.external_order_id == "CR-ready";
    world.retry_one(dead.iter().find(is_ready).unwrap(), &[]).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    let anew = order("CR-anew").replace("16.24", "26.24");
    world.careem.post(&hub, &anew).await.event_id();
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
}

impl World {
    fn settings_without_retries(&self) -> Settings {
        let settings = self.settings().set("CIRCUIT_BREAKER_ENABLED", false);
        settings.set("RETRY_DELAYS", "100ms").set("RETRY_MAX_ATTEMPTS", 1)
    }

    /// How many changes of a status the backend got of an order.
    fn status_requests(&self, id: &str) -> usize {
        let requests = self.backend.requests();
        let is_status = |request: &&Heard| request.external_order_id() == id && request.path.ends_with("/status");
        requests.iter().filter(is_status).count()
    }
}

fn anew(id: &str) -> String {
    order(id).replace("16.24", "26.24")
}

/// The cancellation of an earlier announcement is not sent about the order that was announced after it, neither by a retry nor where the
/// provider sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_does_not_cancel_the_order_that_was_announced_after_it() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings_without_retries()).await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::status(422)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.careem.post(&hub, &anew("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log_forgets(&hub).await;
    world.careem.post(&hub, &change("CR-1", "cancelled")).await.event_id();
    let again = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert!(
        again[0]["message"].as_str().unwrap().contains("announcement"),
        "{}",
        again[0]
    );
    world.retry_dead_letters().await;
    for ignored in world.log.payloads(EventType::OrderIgnored, 3).await {
        assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    }
    assert_eq!(world.status_requests("CR-1"), 1);
    // The later order's own cancellation is sent.
    let own = change("CR-1", "cancelled").replacen('{', "{\"attempt\": 2,", 1);
    world.careem.post(&hub, &own).await.event_id();
    world.at_end(Ends::forwarded(2).ignored(3)).await;
}

/// The cancellation waits because the backend does not know its order, as it came or retried by a person. Meanwhile the order is announced
/// anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_waits_does_not_cancel_the_order_that_is_announced_meanwhile() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("RETRY_DELAYS", "1s")).await;
    world.post_orders(&hub, ["CR-other".to_owned()]).await;
    world.refused_and(&hub, "CR-1", "cancelled", Answer::status(404)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    world.careem.post(&hub, &anew("CR-1")).await.event_id();
    world.refused_and(&hub, "CR-2", "cancelled", Answer::status(422)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    let cancellation = dead.iter().find(|dead| dead.envelope.is_cancellation()).unwrap();
    world.backend.next_for("CR-2", [Answer::status(404)]);
    world.retry_one(cancellation, &[]).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    world.careem.post(&hub, &anew("CR-2")).await.event_id();
    for ignored in world.log.payloads(EventType::OrderIgnored, 2).await {
        assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    }
    assert_eq!((world.status_requests("CR-1"), world.status_requests("CR-2")), (1, 2));
    world.at_end(Ends::forwarded(3).ignored(2).dead_lettered(2)).await;
}

/// Order and cancellation were given up before they became bodies, because their branch was missing. It is added, and the order comes
/// again: one is retried by a person, one is sent again by the provider. The cancellations can be ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_not_created_if_its_cancellation_found_no_branch() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("RETRY_DELAYS", "100ms")).await;
    world.post_orders(&hub, ["CR-other".to_owned()]).await;
    for id in ["CR-1", "CR-2"] {
        for webhook in [order(id), change(id, "cancelled")] {
            world.post_as(&hub, "merchant-2", &webhook).await;
        }
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 4).await;
    world.database.run(ADD_BRANCH).await.unwrap();
    let is_first = |dead: &&std::sync::Arc<Recorded>| dead.envelope.external_order_id == "CR-1";
    world.retry_one(dead.iter().find(is_first).unwrap(), &[]).await;
    world.called_off().await;
    world.log_forgets(&hub).await;
    world.post_as(&hub, "merchant-2", &order("CR-2")).await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert!(
        ignored[1]["message"].as_str().unwrap().contains("cancel"),
        "{}",
        ignored[1]
    );
    assert_eq!(world.order_requests(), 1);
    for id in ["CR-1", "CR-2"] {
        world.backend.always_for(id, Some(Answer::status(404)));
    }
    for cancellation in dead.iter().filter(|dead| dead.envelope.is_cancellation()) {
        world.retry_one(cancellation, &[]).await;
    }
    for ignored in &world.log.payloads(EventType::OrderIgnored, 4).await[2..] {
        assert_eq!(ignored["reason"], "NOTHING_TO_CANCEL", "{ignored}");
    }
    world.at_end(Ends::forwarded(1).ignored(4).dead_lettered(1)).await;
}

/// The backend did not answer to an order, which was cancelled then. It is announced anew: the cancelled announcement is not sent to find
/// out whether the backend has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_announcement_is_not_sent_to_confirm_it() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings_without_retries()).await;
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for("CR-1", None);
    world.careem.post(&hub, &change("CR-1", "cancelled")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.careem.post(&hub, &anew("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let last = world.backend.requests().last().unwrap().json();
    assert_eq!(
        last["transformedOrder"]["pricing"]["total"].to_string(),
        "26.24",
        "{last}"
    );
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
}

/// An announcement got no answer, and its cancellation was refused. The backend answers 404 to that: it can be ended, because the
/// announcement is not sent any more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cancelled_of_an_announcement_that_got_no_answer() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings_without_retries()).await;
    world.post_orders(&hub, ["CR-other".to_owned()]).await;
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for("CR-1", Some(Answer::status(422)));
    world.careem.post(&hub, &change("CR-1", "cancelled")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.backend.always_for("CR-1", Some(Answer::status(404)));
    world.retry_dead_letters().await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    let reasons: Vec<_> = ignored.iter().map(|ignored| &ignored["reason"]).collect();
    assert_eq!(reasons, ["SUPERSEDED", "NOTHING_TO_CANCEL"]);
    world.at_end(Ends::forwarded(1).ignored(2)).await;
}
