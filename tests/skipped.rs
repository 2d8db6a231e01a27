//! Events that the tables cannot take yet: the code panics over one, PostgreSQL is too slow for a batch, or only a later version
//! can read one. None is lost for the tables, and none holds up the others for long.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    hub::Hub,
    ids,
    wait::{PATIENCE, eventually},
};

impl World {
    /// Waits until so many events are noted, and returns them.
    async fn skipped(&self, count: usize) -> Vec<Value> {
        eventually("the events that have no rows are noted", PATIENCE, async || {
            let query = "SELECT event_type, reason FROM hub.skipped_events ORDER BY sequence";
            let rows = self.database.rows(query).await.map_err(|error| error.to_string())?;
            if rows.len() == count {
                Ok(rows)
            } else {
                Err(format!("{rows:?}"))
            }
        })
        .await
    }

    /// Waits until so many webhooks' rows say `completed`.
    async fn completed(&self, count: usize) {
        eventually("the rows of the others are completed", PATIENCE, async || {
            let query = "SELECT count(*) FROM webhook_logs WHERE status = 'completed'";
            let rows = self.database.rows(query).await.map_err(|error| error.to_string())?;
            if rows == [json!({ "count": count })] {
                Ok(())
            } else {
                Err(format!("{rows:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_panics_over_the_events_of_an_order() {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let panics = settings.clone().set("HUB_TEST_PANIC_AT", "projection:CR-panic-1");
    let hub = Hub::start(&panics).await;
    world.post_orders(&hub, ids("panic", 4)).await;
    world.log.settled().await;
    world.completed(3).await;
    // Received, transformed, forwarded.
    let noted = world.skipped(3).await;
    for (noted, event_type) in noted
        .iter()
        .zip(["webhook.received", "order.transformed", "order.forwarded"])
    {
        assert_eq!(noted["event_type"], event_type);
        // With its place.
        let reason = noted["reason"].as_str().unwrap();
        assert!(reason.contains("panicked at src/"), "{reason}");
    }
    world.metrics_say(&hub, "projection_skipped_total 3").await;
    assert!(hub.terminate().await.0.success());
    // The next version knows better.
    let _hub = Hub::start(&settings).await;
    world.skipped(0).await;
    world.at_end(Ends::forwarded(4)).await;
}

/// A batch that runs into the time limit of a statement would run into it for ever. A new writer reads all that the tables lack as
/// one batch, however slowly the orders came.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_too_slow_for_a_batch() {
    const ORDERS: usize = 80;
    let world = World::new().await;
    let slow = "
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON webhook_logs FOR EACH ROW EXECUTE FUNCTION slow();";
    world.database.run(slow).await.unwrap();
    let settings = world.settings().set("HUB_TEST_TIMES", "statement_timeout=1500ms");
    let hub = Hub::start(&settings).await;
    let lock = "BEGIN; LOCK TABLE webhook_logs IN ACCESS EXCLUSIVE MODE";
    world.database.run(lock).await.unwrap();
    world.post_orders(&hub, ids("slow", ORDERS)).await;
    world.log.settled().await;
    hub.kill().await;
    world.database.run("COMMIT").await.unwrap();
    let hub = Hub::start(&settings).await;
    world.hand_out_again().await;
    world
        .at_end_within(Duration::from_secs(60), Ends::forwarded(ORDERS))
        .await;
    hub.says("PostgreSQL is too slow for a batch").await;
}

/// Beside an instance of a later version: that one writes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_later_version_is_left_to_that_version() {
    let world = World::new().await;
    let older = world
        .settings()
        .set("HUB_TEST_UNKNOWN_TYPES", EventType::OrderForwarded)
        .set("HUB_TEST_TIMES", "stand_aside=60s");
    let older = Hub::start(&older).await;
    older.says("writing the tables").await;
    let _newer = world.hub().await;
    world.post_orders(&older, ids("beside", 3)).await;
    world.completed(3).await;
    older.says("the tables are left to another instance").await;
    assert_eq!(world.skipped(0).await, Vec::<Value>::new());
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

/// Where there is no such instance, it is noted; one that comes later writes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_later_version_is_kept_for_that_version() {
    let world = World::new().await;
    let older = world
        .settings_on_fixed_port()
        .set("HUB_TEST_UNKNOWN_TYPES", EventType::OrderForwarded)
        .set("HUB_TEST_TIMES", "stand_aside=1s");
    let older = Hub::start(&older).await;
    world.post_orders(&older, ids("alone", 3)).await;
    let noted = world.skipped(3).await;
    assert!(
        noted.iter().all(|noted| noted["event_type"] == "order.forwarded"),
        "{noted:?}"
    );
    assert!(older.terminate().await.0.success());
    let _newer = Hub::start(&world.settings_on_fixed_port()).await;
    world.skipped(0).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

/// A type that no version knows does not stop the tables.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_version_knows() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", "stand_aside=1s")).await;
    let nats = jetstream::new(world.nats.connect("hub").await);
    let id = uuid::Uuid::new_v4().to_string();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", id.as_str()),
        ("ce-rootid", id.as_str()),
        ("ce-source", "/providers/careem"),
        ("ce-type", "order.eaten"),
        ("ce-subject", "CR-eaten"),
        ("ce-time", "2025-10-01T12:00:00Z"),
    ] {
        headers.insert(name, value);
    }
    // The tables alone consume this.
    let sent = nats.publish_with_headers("orders.eaten.careem._.p00", headers, "{}".into());
    sent.await.unwrap().await.unwrap();
    world.post_orders(&hub, ids("behind", 3)).await;
    assert_eq!(world.skipped(1).await[0]["event_type"], "order.eaten");
    world.at_end(Ends::forwarded(3)).await;
}

/// A trigger of the platform refuses a row, in its own words or by a code that it made up: the others are written.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_the_platform_refuses_a_row() {
    let world = World::new().await;
    let trigger = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.external_order_id = 'CR-refused-1' THEN RAISE EXCEPTION 'not this one'; END IF;
            IF NEW.external_order_id = 'CR-refused-2' THEN RAISE EXCEPTION 'nor this' USING ERRCODE = 'U0042'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON webhook_logs FOR EACH ROW EXECUTE FUNCTION refuse();";
    world.database.run(trigger).await.unwrap();
    let settings = world.settings_on_fixed_port();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("refused", 4)).await;
    world.log.settled().await;
    world.completed(2).await;
    let noted = world.skipped(2).await;
    for (noted, code) in noted.iter().zip(["P0001", "U0042"]) {
        assert_eq!(noted["event_type"], "webhook.received");
        let reason = noted["reason"].as_str().unwrap();
        assert!(reason.contains(code), "{reason}");
    }
    assert!(hub.terminate().await.0.success());
    world.database.run("DROP TRIGGER refuse ON webhook_logs").await.unwrap();
    let _hub = Hub::start(&settings).await;
    world.skipped(0).await;
    let rows = world.database.rows("SELECT id FROM webhook_logs").await.unwrap();
    assert_eq!(rows.len(), 4);
}

/// What the platform's tables refuse is in `hub.orders` all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_the_platform_does_not_refuse_rows_of_the_hub() {
    let world = World::new().await;
    let trigger = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'none'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON provider_order_logs FOR EACH ROW EXECUTE FUNCTION refuse();";
    world.database.run(trigger).await.unwrap();
    let settings = world.settings_on_fixed_port();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("arrived", 2)).await;
    world.log.settled().await;
    for noted in world.skipped(2).await {
        assert_eq!(noted["event_type"], "order.forwarded");
    }
    let query = "SELECT state FROM hub.orders WHERE undelivered_since IS NULL";
    let rows = world.database.rows(query).await.unwrap();
    assert_eq!(rows, [json!({ "state": "forwarded" }), json!({ "state": "forwarded" })]);
    assert!(hub.terminate().await.0.success());
    world
        .database
        .run("DROP TRIGGER refuse ON provider_order_logs")
        .await
        .unwrap();
    let _hub = Hub::start(&settings).await;
    world.skipped(0).await;
    world.at_end(Ends::forwarded(2)).await;
}

/// The same where only `hub.orders` is made, from the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_code_panics_while_a_table_is_made_again() {
    let world = World::new().await;
    let settings = world.settings_on_fixed_port();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("panic", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    assert!(hub.terminate().await.0.success());
    let older = "UPDATE hub.projections SET version = 0";
    world.database.run(older).await.unwrap();
    let hub = Hub::start(&settings.clone().set("HUB_TEST_PANIC_AT", "projection:CR-panic-1")).await;
    for noted in world.skipped(3).await {
        let reason = noted["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("orders: ") && reason.contains("panicked at src/"),
            "{reason}"
        );
    }
    eventually("the others have their rows", PATIENCE, async || {
        let query = "SELECT count(*) FROM hub.orders WHERE state = 'forwarded'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows == [json!({ "count": 2 })] {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    assert!(hub.terminate().await.0.success());
    let _hub = Hub::start(&settings).await;
    world.skipped(0).await;
    world.at_end(Ends::forwarded(3)).await;
}
