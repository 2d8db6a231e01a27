//! Retries of what belongs to an order that the hub remembers no more: longer than `ORDER_MEMORY` after its webhook, the log still
//! shows what became of the order, and whether another order has its number.

use std::time::Duration;

use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings, run},
    log::payload,
    outside::{CAREEM_POS, Outside},
    platform::Say,
};

/// `ORDER_MEMORY` of these tests.
const WINDOW: Duration = Duration::from_secs(4);
const TIMES: &str = "order_memory=4s,order_memory_wait=1s";

fn short_memory(settings: Settings) -> Settings {
    settings.set("HUB_TEST_TIMES", TIMES)
}

/// Another announcement of an order, with another total, so with another key.
fn corrected(id: &str) -> String {
    order(id).replace("16.24", "26.24")
}

/// Another order that has the same number.
fn other_order(id: &str) -> String {
    order(id).replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z")
}

/// Only time makes an order leave the memory.
async fn window_passes() {
    tokio::time::sleep(WINDOW + Duration::from_millis(1500)).await;
}

impl World {
    /// A hub that remembers nothing of what came before: it starts after the memory's window.
    async fn forgetful_hub(&self, before: Hub) -> Hub {
        assert!(before.terminate().await.0.success());
        window_passes().await;
        Hub::start(&short_memory(self.settings())).await
    }

    async fn dry_run(&self) -> String {
        let settings = short_memory(self.nats.settings("hub"));
        let ran = run(&settings, &["dead-letters", "retry", "--all", "--dry-run"]).await;
        ran.expect_success().stdout
    }
}

/// The cancellation of an order is a dead letter, and by the time of its retry another order has the number.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_of_an_old_order_does_not_cancel_a_new_one() {
    let world = World::new().await;
    let hub = Hub::start(&short_memory(world.settings())).await;
    world.backend.next_for("CR-1", [Answer::Accept, Answer::status(422)]);
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.careem.post(&hub, &change("CR-1", "cancelled")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    window_passes().await;
    world.careem.post(&hub, &other_order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let dry = world.dry_run().await;
    assert!(dry.contains("1 would end as superseded"), "{dry}");
    let requests = world.backend.count();
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    let message = ignored["message"].as_str().unwrap();
    assert!(message.contains("another order of this number"), "{message}");
    assert!(message.contains("by hand"), "{message}");
    assert_eq!(
        ignored["internalOrderId"], "order-2",
        "the order that has the number: {ignored}"
    );
    assert_eq!(world.backend.count(), requests, "the new order was told of it");
    world.at_end(Ends::forwarded(2).ignored(1)).await;
}

/// The backend gave no answer to the other order, so it may have it: the cancellation could cancel it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_backend_may_have_has_the_number() {
    let world = World::new().await;
    let settings = short_memory(world.settings())
        .set("CIRCUIT_BREAKER_ENABLED", false)
        .set("RETRY_DELAYS", "100ms")
        .set("RETRY_MAX_ATTEMPTS", 1);
    let hub = Hub::start(&settings).await;
    for id in ["CR-unsure", "CR-refused"] {
        world.careem.post(&hub, &order(id)).await.event_id();
        world.backend.next_for(id, [Answer::Accept, Answer::status(422)]);
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    window_passes().await;
    world.backend.always_for("CR-unsure", Some(Answer::status(503)));
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    for id in ["CR-unsure", "CR-refused"] {
        world.careem.post(&hub, &other_order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 4).await;
    for id in ["CR-unsure", "CR-refused"] {
        world.backend.always_for(id, None);
    }
    for dead in &dead[..2] {
        let id = dead.envelope.id.to_string();
        run(&world.nats.settings("hub"), &["dead-letters", "retry", &id])
            .await
            .expect_success();
    }
    let ignored = world.log.wait_for(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0].envelope.external_order_id, "CR-unsure");
    // The backend refused the other order, so only the old one has the number.
    let told = world.log.wait_for(EventType::OrderForwarded, 3).await;
    assert_eq!(told[2].envelope.external_order_id, "CR-refused");
    world.at_end(Ends::forwarded(3).ignored(1).dead_lettered(2)).await;
}

/// The provider did not take the status of an order, and another order has the number when a person retries it.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_an_old_order_is_not_told_of_a_new_one() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = Hub::start(&short_memory(outside.settings())).await;
    outside.world.careem.post(&hub, &order("CR-1")).await.event_id();
    outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, "CR-1", "accepted").await;
    outside.payloads(EventType::OrderDeadLettered, 1).await;
    window_passes().await;
    outside.world.careem.post(&hub, &other_order("CR-1")).await.event_id();
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    let calls = outside.provider.calls().len();
    outside.world.retry_dead_letters().await;
    let ignored = outside.world.log.wait_for(EventType::OrderIgnored, 1).await;
    assert_eq!(payload(&ignored[0])["reason"], "SUPERSEDED");
    assert_eq!(
        outside.provider.calls().len(),
        calls,
        "the provider was told of the new order"
    );
}

/// The backend refused an order and took its corrected announcement. The refused one is retried when the memory has forgotten both:
/// it ends as it would have ended before, and a person may still declare it to be an order of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_announcement_is_not_created_beside_its_correction() {
    let world = World::new().await;
    let hub = Hub::start(&short_memory(world.settings())).await;
    world.backend.next_for("CR-1", [Answer::status(422)]);
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.careem.post(&hub, &corrected("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let _hub = world.forgetful_hub(hub).await;
    world.retry_dead_letters().await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "DUPLICATE_ORDER", "{ignored}");
    assert_eq!(ignored["differs"], true, "{ignored}");
    assert_eq!(ignored["internalOrderId"], "order-1", "{ignored}");
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    let ended = &world.log.wait_for(EventType::OrderIgnored, 1).await[0];
    let id = ended.envelope.id.to_string();
    run(&world.nats.settings("hub"), &["dead-letters", "retry", &id])
        .await
        .expect_success();
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
}

/// All answers to an order were lost, and its corrected announcement was given up while the order was asked for. The backend has the
/// order. The corrected one is retried when the memory has forgotten both: the first one's request is repeated before.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_the_backend_may_have_is_confirmed_after_the_window() {
    let world = World::new().await;
    let settings = short_memory(world.settings())
        .set("CIRCUIT_BREAKER_ENABLED", false)
        .set("RETRY_DELAYS", "100ms")
        .set("RETRY_MAX_ATTEMPTS", 1);
    let hub = Hub::start(&settings).await;
    world.backend.next_for("CR-1", [Answer::Cut]);
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.careem.post(&hub, &corrected("CR-1")).await.event_id();
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.backend.always_for("CR-1", None);
    let _hub = world.forgetful_hub(hub).await;
    let id = dead[1].envelope.id.to_string();
    run(&world.nats.settings("hub"), &["dead-letters", "retry", &id])
        .await
        .expect_success();
    world.at_end(Ends::forwarded(1).ignored(1)).await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
}

/// The backend refused an order of yesterday. Today's order has its number, within the memory's window.
///
/// - `CR-refused`: the backend refused yesterday's cancellation, too, and a person has it retried.
/// - `CR-waiting`: yesterday's cancellation waits for its order, and today's comes.
/// - `CR-told`: the provider refused a status of yesterday's order, and a person has it retried.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_yesterdays_order_is_told_of_todays() {
    let outside = Outside::new(CAREEM_POS).await;
    let world = &outside.world;
    let hub = Hub::start(&outside.settings().set("RETRY_DELAYS", "100ms")).await;
    let [refused, waiting, told] = ["CR-refused", "CR-waiting", "CR-told"];
    world
        .backend
        .next_for(refused, [Answer::status(422), Answer::status(422)]);
    world
        .backend
        .next_for(waiting, [Answer::status(422), Answer::status(404)]);
    world.backend.next_for(told, [Answer::status(422)]);
    for id in [refused, waiting, told] {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.careem.post(&hub, &change(refused, "cancelled")).await.event_id();
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, told, "accepted").await;
    world.log.wait_for(EventType::OrderDeadLettered, 5).await;
    // Its answer, that there is no such order, comes when the other order is there.
    let before = world.backend.count();
    world.backend.hold();
    world.careem.post(&hub, &change(waiting, "cancelled")).await.event_id();
    world.backend.wait_for(before + 1).await;
    for id in [refused, waiting, told] {
        let other = other_order(id).replace("16.24", "26.24");
        world.careem.post(&hub, &other).await.event_id();
    }
    world.backend.release();
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 3).await;
    assert!(
        forwarded.iter().all(|event| event.envelope.is_creation()),
        "{forwarded:?}"
    );
    let ignored = world.log.wait_for(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0].envelope.external_order_id, waiting);
    let (requests, calls) = (world.backend.count(), outside.provider.calls().len());
    let news = |dead: &&std::sync::Arc<webhook_hub::event::Recorded>| !dead.envelope.is_creation();
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 5).await;
    for dead in dead.iter().filter(news) {
        let id = dead.envelope.id.to_string();
        let arguments = ["dead-letters", "retry", &id];
        run(&world.nats.settings("hub"), &arguments).await.expect_success();
    }
    for ignored in world.log.payloads(EventType::OrderIgnored, 3).await {
        assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
        let message = ignored["message"].as_str().unwrap();
        assert!(message.contains("another order of this number"), "{message}");
    }
    assert_eq!(
        (world.backend.count(), outside.provider.calls().len()),
        (requests, calls)
    );
}

/// The provider is away. Before it is back, it has another order with the number (`CR-other`), which ended as a duplicate; or it only
/// repeats the order (`CR-same`). Only of that one the provider is told the status.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_waits_is_not_told_of_another_order() {
    let outside = Outside::new(CAREEM_POS).await;
    let world = &outside.world;
    let hub = Hub::start(
        &outside
            .settings()
            // An open breaker would let one of the two wait in memory.
            .set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "500ms")
            .set("RETRY_MAX_ATTEMPTS", 50),
    )
    .await;
    let [other, same] = ["CR-other", "CR-same"];
    for id in [other, same] {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    outside.provider.on("/", Say::status(503));
    for id in [other, same] {
        outside.ask(&hub, id, "accepted").await;
    }
    world.has_parked(2).await;
    world.careem.post(&hub, &other_order(other)).await.event_id();
    let repeat = order(same).replacen('{', "{\"attempt\": 2,", 1);
    world.careem.post(&hub, &repeat).await.event_id();
    world.log.wait_for(EventType::OrderIgnored, 2).await;
    outside.provider.on("/", Say::status(200));
    let told = world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(told[0].envelope.external_order_id, same);
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0].envelope.external_order_id, other);
    let dead = payload(&dead[0]);
    assert_eq!(
        (&dead["stage"], &dead["error"]["code"]),
        (&"push".into(), &"ANOTHER_ORDER".into()),
        "{dead}"
    );
    let message = dead["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("another order of this number") && message.contains("by hand"),
        "{message}"
    );
    world.at_end(Ends::forwarded(2).ignored(2).dead_lettered(1)).await;
}

/// The provider refused a status, and a later one was given up without an answer: the provider may have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_not_told_after_a_later_one_that_the_provider_may_have() {
    let outside = Outside::new(CAREEM_POS).await;
    let world = &outside.world;
    let hub = Hub::start(
        &outside
            .settings()
            .set("RETRY_DELAYS", "100ms")
            .set("RETRY_MAX_ATTEMPTS", 1),
    )
    .await;
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, "CR-1", "accepted").await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    outside.provider.on("/", Say::status(503));
    outside.ask(&hub, "CR-1", "ready").await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    outside.provider.on("/", Say::status(200));
    let calls = outside.provider.calls().len();
    let id = dead[0].envelope.id.to_string();
    run(&world.nats.settings("hub"), &["dead-letters", "retry", &id])
        .await
        .expect_success();
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    assert!(ignored["message"].as_str().unwrap().contains("may have"), "{ignored}");
    assert_eq!(outside.provider.calls().len(), calls);
}

/// Yesterday's order is tried again in an hour, and its cancellation waits behind it. Today's order with its number does not wait for that:
/// the earlier one is tried at once, and given up if that fails.
///
/// - `CR-content`: today's order was placed at another time.
/// - `CR-window`: it came longer than `ORDER_MEMORY` after yesterday's.
/// - `CR-again`: the same order is announced again, with another total. It waits.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_does_not_wait_for_yesterdays() {
    let away = || Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    let world = World::new().await;
    let hub = Hub::start(&short_memory(world.settings()).set("CIRCUIT_BREAKER_ENABLED", false)).await;
    let [content, window, again] = ["CR-content", "CR-window", "CR-again"];
    world
        .backend
        .next_for(content, [away(), away(), Answer::status(404), Answer::Accept]);
    world.backend.next_for(window, [away(), away(), Answer::Accept]);
    world.backend.next_for(again, [away()]);
    for id in [content, window] {
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    world.has_parked(2).await;
    world.careem.post(&hub, &order(again)).await.event_id();
    world.careem.post(&hub, &change(content, "cancelled")).await.event_id();
    world.careem.post(&hub, &corrected(again)).await.event_id();
    world.careem.post(&hub, &other_order(content)).await.event_id();
    world.careem.post(&hub, &change(content, "ready")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    window_passes().await;
    world.careem.post(&hub, &corrected(window)).await.event_id();
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 3).await;
    let of = |id: &str| {
        forwarded
            .iter()
            .filter(|event| event.envelope.external_order_id == id)
            .count()
    };
    assert_eq!((of(content), of(window)), (2, 1), "{forwarded:?}");
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    for letter in &dead {
        assert!(letter.envelope.is_creation());
        let payload = payload(letter);
        assert_eq!(payload["error"]["code"], "NUMBER_USED_AGAIN", "{payload}");
        assert_eq!(payload["attempts"], 2, "{payload}");
    }
    // Yesterday's cancellation is not told of today's order.
    let ignored = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0]["reason"], "SUPERSEDED", "{ignored:?}");
    let lanes = world.lanes().await;
    assert!(
        lanes.len() == 1 && lanes[0]["waiting"].as_array().unwrap().len() == 1,
        "{lanes:?}"
    );
    let requests = world.backend.requests().into_iter();
    let of_again = requests.filter(|request| request.external_order_id() == again).count();
    assert_eq!(of_again, 1, "the second announcement of the same order waits");
    // A person wants the earlier orders as well.
    for letter in &dead {
        let id = letter.envelope.id.to_string();
        let arguments = ["dead-letters", "retry", &id];
        run(&world.nats.settings("hub"), &arguments).await.expect_success();
    }
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 4).await;
    assert_eq!(forwarded[3].envelope.external_order_id, window);
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert_eq!(
        (&ignored[1]["reason"], &ignored[1]["differs"]),
        (&"DUPLICATE_ORDER".into(), &true.into())
    );
}

mod long {
    use super::*;

    /// An order was created. Its second announcement waited in an outage that was longer than the memory of orders reaches: it is a
    /// second announcement all the same. Another order was refused and cancelled, and its repeat waited as long: it is as old as the first
    /// acceptance of its webhook, so the cancellation is later.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_announcement_that_waited_longer_than_the_memory_reaches_is_the_second_one() {
        let world = World::new().await;
        let settings = world
            .settings()
            .set("HUB_TEST_TIMES", "order_memory=8s,order_memory_wait=1s");
        let hub = Hub::start(&settings).await;
        world.backend.next_for("CR-2", [Answer::status(422), Answer::Accept]);
        for webhook in [order("CR-1"), order("CR-2"), change("CR-2", "cancelled")] {
            world.careem.post(&hub, &webhook).await.event_id();
        }
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        world.log_forgets(&hub).await;
        assert!(hub.terminate().await.0.success());
        // Without the table of branches webhooks wait.
        let away = settings.clone().set("DATABASE_URL", "postgres://hub@127.0.0.1:1/none");
        let hub = Hub::start(&away).await;
        for webhook in [corrected("CR-1"), order("CR-2")] {
            world.careem.post(&hub, &webhook).await.event_id();
        }
        tokio::time::sleep(Duration::from_millis(9_500)).await;
        assert!(hub.terminate().await.0.success());
        let _hub = Hub::start(&settings).await;
        let ignored = world.log.wait_for(EventType::OrderIgnored, 2).await;
        for (id, reason) in [("CR-1", "DUPLICATE_ORDER"), ("CR-2", "SUPERSEDED")] {
            let of_order = ignored.iter().find(|ignored| ignored.envelope.external_order_id == id);
            let said = payload(of_order.unwrap());
            assert_eq!(said["reason"], reason, "{said}");
        }
        assert_eq!(world.backend.count(), 3);
        world.hand_out_again().await;
        world.at_end(Ends::forwarded(2).ignored(2).dead_lettered(1)).await;
    }

    /// A person declared a duplicate to be an order of its own, and no answer to it arrived. When it is announced once more, it is asked
    /// for under the key that it was sent with.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_of_its_own_is_confirmed_under_its_own_key() {
        let world = World::new().await;
        let settings = world
            .settings()
            .set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "100ms")
            .set("RETRY_MAX_ATTEMPTS", 1)
            .set("HUB_TEST_TIMES", "order_memory=20s,order_memory_wait=5s");
        let hub = Hub::start(&settings).await;
        world.careem.post(&hub, &order("CR-17")).await.event_id();
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        tokio::time::sleep(Duration::from_secs(14)).await;
        let other = other_order("CR-17").replace("16.24", "26.24");
        world.careem.post(&hub, &other).await.event_id();
        let ignored = world.log.wait_for(EventType::OrderIgnored, 1).await;
        world.backend.next_for("CR-17", [Answer::Cut]);
        world.backend.always_for("CR-17", Some(Answer::status(503)));
        let id = ignored[0].envelope.id.to_string();
        let arguments = ["dead-letters", "retry", &id];
        run(&world.nats.settings("hub"), &arguments).await.expect_success();
        world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        world.backend.always_for("CR-17", None);
        let again = other.replacen('{', "{\"attempt\": 2,", 1);
        world.careem.post(&hub, &again).await.event_id();
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        world.log.settled().await;
        assert_eq!(world.backend.accepted().len(), 2, "{:?}", world.backend.accepted());
    }
}
