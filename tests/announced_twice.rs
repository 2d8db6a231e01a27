//! An order that is announced more than once while the backend refuses requests, or answers of it are lost: the backend creates
//! it once.

use std::{sync::Arc, time::Duration};

use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings, run},
    ids,
    log::{Log, payload},
    port::Port,
    wait::{PATIENCE, eventually},
};

/// Another announcement of an order, with another total, so with another key.
fn corrected(id: &str) -> String {
    order(id).replace("16.24", "26.24")
}

/// The same order in another webhook.
fn counted(id: &str) -> String {
    order(id).replacen('{', "{\"attempt\": 2,", 1)
}

/// The age at which orders expire on some hubs of these tests. What must not expire is sent to another hub.
const TTL: Duration = Duration::from_secs(2);

impl World {
    /// For a hub on which orders expire.
    fn expiring(&self) -> Settings {
        self.settings().set("CAREEM_ORDER_TTL", format!("{}s", TTL.as_secs()))
    }

    /// A hub that gives an order up after as few attempts as it may.
    async fn impatient_hub(&self) -> Hub {
        let settings = self.settings().set("CIRCUIT_BREAKER_ENABLED", false);
        let settings = settings.set("RETRY_DELAYS", "100ms").set("RETRY_MAX_ATTEMPTS", 1);
        Hub::start(&settings).await
    }

    async fn retry(&self, dead: &Recorded) {
        let id = dead.envelope.id.to_string();
        let operator = self.nats.settings("hub");
        run(&operator, &["dead-letters", "retry", &id]).await.expect_success();
    }
}

/// First announcements that were given up without an answer; the backend has neither order. It says so when the hub repeats the
/// requests for the second announcements, and creates the orders by those. Both answers to that are lost.
///
/// - `CR-both`: its second announcement is given up, too. A person retries the first one: the second one is confirmed before.
/// - `CR-twice`: the instance is killed. The next one knows from the log that the first announcement was refused, so it does not
///   send that one again, which the backend would now accept. A person's retry of the first one ends as a duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_to_both_announcements_create_an_order_once() {
    let world = World::new().await;
    let hub = world.impatient_hub().await;
    let orders = ["CR-both", "CR-twice"];
    for id in orders {
        world.backend.always_for(id, Some(Answer::status(503)));
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    let first = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let first = |id: &str| first.iter().find(|dead| dead.envelope.external_order_id == id).unwrap();

    let [both, twice] = orders;
    world.backend.next_for(both, [Answer::status(422), Answer::Cut]);
    world.careem.post(&hub, &corrected(both)).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 4).await;
    assert_eq!(world.backend.accepted().len(), 1, "by the second announcement");
    world.backend.always_for(both, None);
    world.retry(first(both)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());

    world.backend.always_for(twice, None);
    world
        .backend
        .next_for(twice, [Answer::status(422), Answer::TakeAndHang]);
    world.careem.post(&hub, &corrected(twice)).await.event_id();
    eventually("the order is created", PATIENCE, async || {
        match world.backend.accepted().len() {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    hub.kill().await;
    let _hub = world.impatient_hub().await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 5).await;
    let refused = payload(&dead[4]);
    assert!(refused["confirmedBy"].is_u64(), "{refused}");
    assert_eq!(refused["sequence"], payload(first(twice))["sequence"]);

    // It is one dead letter, though two events say so.
    let operator = world.nats.settings("hub");
    let listed = run(&operator, &["dead-letters", "list", "--json"])
        .await
        .expect_success();
    let listed: Vec<_> = listed.stdout.lines().filter(|line| line.contains(twice)).collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    world.retry(first(twice)).await;
    world.log.wait_for(EventType::OrderIgnored, 2).await;
    assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2).ignored(2)).await;
}

/// Announcements that are given up while the hub repeats the request of another announcement were never posted themselves. So they
/// are not taken for orders that the backend may have.
///
/// - `CR-behind`: the backend has the first announcement, and all answers to it are lost. The second one is given up while the first
///   one is confirmed. A person retries the first one: the second one is not posted in the name of a confirmation.
/// - `CR-mirrored`: the backend refuses the first announcement while the second one is handled, creates the order by the second one,
///   and the answer is lost. A retry of the first one is given up while the second one is confirmed. Then the second one is retried.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_was_never_posted_is_not_confirmed() {
    let world = World::new().await;
    let hub = world.impatient_hub().await;
    let [behind, mirrored] = ["CR-behind", "CR-mirrored"];
    world.backend.next_for(behind, [Answer::Cut]);
    for id in [behind, mirrored] {
        world.backend.always_for(id, Some(Answer::status(503)));
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    let of = |dead: &[Arc<Recorded>], id: &str| {
        let of_order = dead.iter().filter(|dead| dead.envelope.external_order_id == id);
        of_order.cloned().collect::<Vec<_>>()
    };
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.backend.next_for(mirrored, [Answer::status(422), Answer::Cut]);
    for id in [behind, mirrored] {
        world.careem.post(&hub, &corrected(id)).await.event_id();
    }
    // One more says that the first announcement was refused.
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 5).await;
    let (behind_dead, mirrored_dead) = (of(&dead, behind), of(&dead, mirrored));
    assert_eq!((behind_dead.len(), mirrored_dead.len()), (2, 3));
    let confirming = payload(&behind_dead[1]);
    assert_eq!(
        confirming["confirming"],
        payload(&behind_dead[0])["sequence"],
        "{confirming}"
    );
    assert_eq!(world.backend.accepted().len(), 2, "the first one and the second one");

    world.backend.always_for(behind, None);
    world.retry(&behind_dead[0]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.retry(&mirrored_dead[0]).await;
    world.log.wait_for(EventType::OrderDeadLettered, 6).await;
    world.backend.always_for(mirrored, None);
    world.retry(&mirrored_dead[2]).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
    world.at_end(Ends::forwarded(2).dead_lettered(2)).await;
}

/// An order was accepted and could not be transformed before it was too old, so no request of it was made. Its corrected announcement is
/// fresh: the backend gets that one, and not the expired one in the name of a confirmation.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_order_is_not_created_by_a_later_announcement() {
    let world = World::new().await;
    // Without the table of branches webhooks wait.
    let away = world.settings().set("DATABASE_URL", "postgres://hub@127.0.0.1:1/none");
    let hub = Hub::start(&away).await;
    world.careem.post(&hub, &order("CR-expired")).await.event_id();
    tokio::time::sleep(TTL).await;
    assert!(hub.terminate().await.0.success());
    let hub = Hub::start(&world.expiring()).await;
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "ORDER_EXPIRED", "{dead}");
    assert!(hub.terminate().await.0.success());
    let hub = world.hub().await;
    world.careem.post(&hub, &corrected("CR-expired")).await.event_id();
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
    let created: Vec<_> = world
        .backend
        .requests()
        .iter()
        .map(|one| one.json()["transformedOrder"]["pricing"]["total"].as_f64())
        .collect();
    assert_eq!(created, [Some(26.24)], "the corrected one, once");
    assert_eq!(dead["unposted"], true, "{dead}");
}

/// The same, with a backend that takes no connection: no request can have reached it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_expired_without_a_connection_is_not_created_later() {
    /// So many orders are posted at most until one was tried before it expired, by an instance that kept the stage meanwhile.
    const MOST: usize = 5;
    let world = World::new().await;
    let closed = Port::reserve();
    let away = world
        .expiring()
        .set("BACKEND_URL", format!("http://{}", closed.address()))
        .set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&away).await;
    let mut expired = 0;
    let away = loop {
        let id = format!("CR-away-{expired}");
        world.careem.post(&hub, &order(&id)).await.event_id();
        expired += 1;
        let dead = &world.log.payloads(EventType::OrderDeadLettered, expired).await[expired - 1];
        assert_eq!(dead["error"]["code"], "ORDER_EXPIRED", "{dead}");
        if dead["attempts"].as_u64() > Some(0) && dead["unposted"] == true {
            break id;
        }
        assert!(expired < MOST, "{dead}");
    };
    assert!(hub.terminate().await.0.success());
    let hub = world.hub().await;
    world.careem.post(&hub, &corrected(&away)).await.event_id();
    world.at_end(Ends::forwarded(1).dead_lettered(expired)).await;
    assert_eq!(world.creations().len(), 1, "{:?}", world.creations());
}

/// The backend has an order, and no answer arrived. A person has it retried after its cancellation was refused: it ends as superseded,
/// and the backend may have it all the same. So it is asked for before a corrected announcement is sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_superseded_may_still_be_at_the_backend() {
    let world = World::new().await;
    let hub = Hub::start(&world.expiring().set("CIRCUIT_BREAKER_ENABLED", false)).await;
    world.backend.next_for("CR-lost", [Answer::Cut]);
    world.backend.always_for("CR-lost", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-lost")).await.event_id();
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for("CR-lost", Some(Answer::status(422)));
    world
        .careem
        .post(&hub, &change("CR-lost", "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.retry(&dead[0]).await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    assert!(hub.terminate().await.0.success());
    world.backend.always_for("CR-lost", None);
    let hub = world.hub().await;
    world.careem.post(&hub, &corrected("CR-lost")).await.event_id();
    let ignored = &world.log.payloads(EventType::OrderIgnored, 2).await[1];
    assert_eq!(ignored["reason"], "DUPLICATE_ORDER", "{ignored}");
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
}

/// The dead letter of an order that another announcement confirms is closed: it is in no list and no gauge, and `--all` does not
/// retry it.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_dead_letter_is_closed() {
    let world = World::new().await;
    let hub = world.impatient_hub().await;
    let [confirmed, lost] = ["CR-confirmed", "CR-lost"];
    for id in [confirmed, lost] {
        world.backend.next_for(id, [Answer::Cut]);
        world.backend.always_for(id, Some(Answer::status(503)));
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let gauge =
        |count| format!("dead_letters_open{{stage=\"forward\",code=\"BACKEND_503\",provider=\"careem\"}} {count}");
    world.metrics_say(&hub, &gauge(2)).await;
    world.backend.always_for(confirmed, None);
    world.careem.post(&hub, &counted(confirmed)).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.metrics_say(&hub, &gauge(1)).await;
    let operator = world.nats.settings("hub");
    let said = async |args: &[&str]| run(&operator, args).await.expect_success().stdout;
    let listed = said(&["dead-letters", "list"]).await;
    assert!(!listed.contains(confirmed) && listed.contains(lost), "{listed}");
    let dry = said(&["dead-letters", "retry", "--all", "--dry-run"]).await;
    assert!(dry.contains("1 retry would be requested"), "{dry}");
    // Its story can still be read.
    let of_confirmed = dead
        .iter()
        .find(|one| one.envelope.external_order_id == confirmed)
        .unwrap();
    let shown = said(&["dead-letters", "show", &of_confirmed.envelope.id.to_string()]).await;
    assert!(shown.contains("(confirmed)"), "{shown}");
    // So it is for an instance that reads the log anew.
    let other = world.hub().await;
    world.metrics_say(&other, &gauge(1)).await;
    world.at_end(Ends::forwarded(1).ignored(1).dead_lettered(1)).await;
}

/// An order was given up without an answer, and the backend does not have it. The next day the platform uses its number for another
/// order: the backend gets that one, under its own key, and not the one of the day before. A retry of that one needs a person, who
/// says that it is an order of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_does_not_post_the_order_of_the_day_before() {
    let world = World::new().await;
    let hub = world.impatient_hub().await;
    world.backend.always_for("CR-17", Some(Answer::status(500)));
    world.careem.post(&hub, &order("CR-17")).await.event_id();
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    let before = world.backend.requests()[0].key().to_owned();
    world.backend.always_for("CR-17", None);
    let next_day = corrected("CR-17").replace("2025-10-01T12:00:00Z", "2025-10-02T19:00:00Z");
    world.careem.post(&hub, &next_day).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let accepted = world.backend.accepted();
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    let requests = world.backend.requests();
    let posted = requests.last().unwrap();
    assert_eq!(posted.json()["transformedOrder"]["placedAt"], "2025-10-02T19:00:00Z");
    assert_ne!(posted.key(), before);
    world.retry(&dead[0]).await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(
        (&ignored[0]["reason"], &ignored[0]["differs"]),
        (&"DUPLICATE_ORDER".into(), &true.into()),
        "{}",
        ignored[0]
    );
    assert_eq!(world.backend.accepted().len(), 1);
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// The log goes back under a running hub that had appended outcomes and not read them from the log. The orders come again at
/// once, and their cancellations: all are forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_a_restore_removed_are_not_remembered() {
    let mut world = World::new().await;
    let [backup, provision] =
        ["backup", "provision"].map(|user| world.nats.settings(user).set("PARTITIONS", PARTITIONS));
    // The reader of the log reads only when something waits for it.
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", "order_memory_follow=1h")).await;
    world.post_orders(&hub, ids("kept", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    run(&backup, &["backup", place]).await.expect_success();
    let again = ids("again", 2);
    world.post_orders(&hub, again.clone()).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    run(&provision, &["restore", place, "--replace", "--no-backup"])
        .await
        .expect_success();
    world.log = Log::open(&world.nats).await;
    for id in again.iter().rev() {
        world.careem.post(&hub, &counted(id)).await.event_id();
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    assert_eq!(world.backend.accepted().len(), 5, "three orders and two cancellations");
}

/// The backend refused an order, and accepted it when a person retried it. A restore loses the retry, and the provider sends the
/// order in another webhook: the backend knows it by its key.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_accepted_on_a_lost_retry_has_the_same_key() {
    let mut world = World::new().await;
    let [backup, provision] =
        ["backup", "provision"].map(|user| world.nats.settings(user).set("PARTITIONS", PARTITIONS));
    let hub = world.hub().await;
    world.backend.next_for("CR-retried", [Answer::status(422)]);
    world.careem.post(&hub, &order("CR-retried")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    run(&backup, &["backup", place]).await.expect_success();
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert!(hub.terminate().await.0.success());
    run(&provision, &["restore", place, "--replace", "--no-backup"])
        .await
        .expect_success();
    world.log = Log::open(&world.nats).await;
    let hub = world.hub().await;
    world.careem.post(&hub, &counted("CR-retried")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
    assert_eq!(world.keys_of("CR-retried").len(), 3);
}
