//! Tests a provider that is enabled by a rolling restart: instances with the old configuration leave its events to one with the new
//! configuration. If there is none, they become dead letters, which can be retried.

use serde_json::json;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::order,
    hub::{Hub, Settings},
    ids,
    log::payload,
    outside::{CAREEM_POS, Outside},
    wait::{PATIENCE, eventually},
};

/// An instance on which the provider is not enabled, with these times; it works on all stages.
async fn old_instance(settings: Settings, times: &str) -> Hub {
    let settings = settings.set("CAREEM_ENABLED", false).set("HUB_TEST_TIMES", times);
    let old = Hub::start(&settings).await;
    for stage in ["transform", "forward", "push"] {
        works(&old, stage).await;
    }
    old.says("writing the tables").await;
    old
}

/// Waits until a hub logs that it has taken over a stage.
async fn works(hub: &Hub, stage: &str) {
    eventually(&format!("it works on {stage}"), PATIENCE, async || {
        let says = |line: &str| line.contains("\"stage taken over") && line.contains(&format!("\"{stage}\""));
        if hub.log().lines().any(says) {
            Ok(())
        } else {
            Err(hub.log())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_left_to_an_instance_on_which_their_provider_is_enabled() {
    let world = World::new().await;
    let old = old_instance(world.settings(), "").await;
    let new = world.hub().await;
    world.post_orders(&new, ids("enabled", 3)).await;
    old.says("left to another instance").await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_left_to_an_instance_on_which_their_provider_is_enabled() {
    let outside = Outside::new(CAREEM_POS).await;
    let old = old_instance(outside.settings(), "").await;
    let new = outside.hub().await;
    outside.ask(&new, "CR-told", "accepted").await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    assert!(old.logs_contain("left to another instance"), "{}", old.log());
    assert_eq!(outside.payloads(EventType::OrderDeadLettered, 0).await.len(), 0);
}

/// The only instance of the new configuration ends before it can handle the webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_no_instance_can_handle_is_a_dead_letter_in_the_end() {
    let world = World::new().await;
    let old = old_instance(world.settings(), "left_for=1s").await;
    let dies = world.settings().set("HUB_TEST_CRASH_AT", "transform/after_takeover");
    let mut new = Hub::start(&dies).await;
    world.post_orders(&new, ids("alone", 1)).await;
    new.wait_exit(PATIENCE).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    assert_eq!(payload(&dead[0])["error"]["code"], "PROVIDER_NOT_ENABLED");
    assert!(old.terminate().await.0.success());
    let _new = world.hub().await;
    world.retry_dead_letters().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1)).await;
}

/// Events of the provider come for longer than each is left, and no instance can handle them. One that can starts then: it gets the
/// stage, and no fresh order is given up before.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_late_finds_no_fresh_order_given_up() {
    let world = World::new().await;
    let old = old_instance(world.settings(), "left_for=6s,leave_again=1s").await;
    let dies = world.settings().set("HUB_TEST_CRASH_AT", "transform/after_takeover");
    let mut dying = Hub::start(&dies).await;
    world.post_orders(&dying, ids("early", 1)).await;
    dying.wait_exit(PATIENCE).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    // It stands by: the other one has the stages.
    let new = world.hub().await;
    world.post_orders(&new, ids("fresh", 3)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3).dead_lettered(1)).await;
    assert!(!old.logs_contain("panicked"), "{}", old.log());
}

/// The backend does not take an order, and the instance that works on `forward` does not know how old it may be.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_expires_though_its_provider_is_not_enabled_on_the_instance_that_forwards() {
    let world = World::new().await;
    let _old = old_instance(world.settings(), "leave_again=1s").await;
    let new = Hub::start(&world.settings().set("CAREEM_ORDER_TTL", "3s")).await;
    world.backend.always_for("CR-old", Some(Answer::status(503)));
    world.careem.post(&new, &order("CR-old")).await.event_id();
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "ORDER_EXPIRED", "{dead}");
    world.hand_out_again().await;
    world.at_end(Ends::default().dead_lettered(1)).await;
}

/// The only instance with the provider ends when it has transformed an order. The order is not sent by an instance that does not know
/// its rules, unless a person says so.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_unknown_rules_is_a_dead_letter_of_forward_in_the_end() {
    let world = World::new().await;
    let old = old_instance(world.settings(), "left_for=2s,leave_again=1s").await;
    let dies = world.settings().set("HUB_TEST_CRASH_AT", "forward/after_takeover");
    let mut new = Hub::start(&dies).await;
    world.post_orders(&new, ids("unruled", 1)).await;
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    new.wait_exit(PATIENCE).await;
    assert_eq!(dead["error"]["code"], "PROVIDER_NOT_ENABLED", "{dead}");
    assert_eq!(dead["stage"], "forward", "{dead}");
    assert_eq!(world.backend.count(), 0);
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert!(old.logs_contain("left to another instance"), "{}", old.log());
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1)).await;
}

impl World {
    /// The number of webhooks with rows, and of events that are noted because they have none.
    async fn rows_and_skipped(&self, expected: (usize, usize)) {
        eventually(&format!("{expected:?} rows and noted events"), PATIENCE, async || {
            let query = "SELECT (SELECT count(*) FROM webhook_logs) AS rows,
                (SELECT count(*) FROM hub.skipped_events) AS skipped";
            let rows = self.database.rows(query).await.map_err(|error| error.to_string())?;
            let (wanted, skipped) = expected;
            if rows == [json!({ "rows": wanted, "skipped": skipped })] {
                Ok(())
            } else {
                Err(format!("{rows:?}"))
            }
        })
        .await;
    }
}

/// A provider that the platform's tables do not know yet: the instance on which it is enabled adds its row.
const WITHOUT_PROVIDER: &str = "DELETE FROM branch_delivery_configs; DELETE FROM delivery_providers";

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_left_to_an_instance_on_which_the_provider_is_enabled() {
    let world = World::new().await;
    world.database.run(WITHOUT_PROVIDER).await.unwrap();
    let old = old_instance(world.settings(), "stand_aside=60s").await;
    let new = world.hub().await;
    world.post_orders(&new, ids("rows", 2)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.rows_and_skipped((2, 0)).await;
    old.says("the tables are left to another instance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_provider_that_no_instance_knows_are_kept_for_one_that_does() {
    let world = World::new().await;
    world.database.run(WITHOUT_PROVIDER).await.unwrap();
    let old = old_instance(world.settings(), "stand_aside=1s,left_for=1s").await;
    // It accepts webhooks but reaches no database.
    let without_database = world
        .settings()
        .set("DATABASE_URL", "postgres://hub@127.0.0.1:1/none")
        .set("HUB_TEST_TIMES", "unfit_after=200ms");
    let new = Hub::start(&without_database).await;
    world.post_orders(&new, ids("kept", 1)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    // Received and given up.
    world.rows_and_skipped((0, 2)).await;
    assert!(old.terminate().await.0.success());
    assert!(new.terminate().await.0.success());
    let _new = world.hub().await;
    world.rows_and_skipped((1, 0)).await;
}
