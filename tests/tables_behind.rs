//! PostgreSQL gives connections and the tables do not go on, or it is not there at all: metrics and health say how far the log is
//! beyond them and why, on every instance, and intake and backend do without.

use crate::harness::{
    World,
    at_end::Ends,
    hub::{Hub, Settings},
    ids,
    wait::{PATIENCE, eventually},
};

/// Ends the hub's sessions.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'webhook-hub'";

fn quick(settings: Settings) -> Settings {
    settings.set(
        "HUB_TEST_TIMES",
        "look_at_log=200ms,statement_timeout=500ms,tables_lease=1s,tables_renew=200ms",
    )
}

fn read_only(how: &str) -> String {
    format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {how}', current_database()); END $$;
         {END_SESSIONS}"
    )
}

impl World {
    /// Waits until health says that of the trouble that the tables have, and that so many events are missing in them.
    async fn tables_are_behind(&self, hub: &Hub, class: &str, events: u64) {
        eventually(
            &format!("the tables are {events} behind: {class}"),
            PATIENCE,
            async || {
                let health = self.health(hub).await;
                let tables = &health["tables"];
                let is_degraded = health["status"] == "degraded" && health["checks"]["tables"] == "unhealthy";
                if is_degraded && tables["trouble"]["class"] == class && tables["lagEvents"] == events {
                    Ok(())
                } else {
                    Err(health)
                }
            },
        )
        .await;
        self.metrics_say(hub, &format!("database_trouble{{class=\"{class}\"}} 1"))
            .await;
        self.metrics_say(hub, &format!("projection_lag_events {events}")).await;
        eventually("they are older from second to second", PATIENCE, async || {
            let metrics = self.metrics(hub).await;
            let age = metrics
                .lines()
                .find_map(|line| line.strip_prefix("projection_lag_seconds "));
            match age.and_then(|age| age.parse::<f64>().ok()) {
                Some(age) if age > 1.0 => Ok(()),
                age => Err(age),
            }
        })
        .await;
    }

    async fn tables_follow(&self, hub: &Hub, class: &str) {
        self.metrics_say(hub, "projection_lag_events 0").await;
        self.metrics_say(hub, "projection_lag_seconds 0").await;
        self.metrics_say(hub, &format!("database_trouble{{class=\"{class}\"}} 0"))
            .await;
        eventually("all is well", PATIENCE, async || {
            let health = self.health(hub).await;
            if health["status"] == "healthy" {
                Ok(())
            } else {
                Err(health)
            }
        })
        .await;
    }
}

/// Three events an order: it was received, transformed and forwarded.
const ORDERS: usize = 3;
const EVENTS: u64 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_takes_no_writes() {
    let world = World::new().await;
    let hub = Hub::start(&quick(world.settings())).await;
    let other = Hub::start(&quick(world.settings())).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    world
        .database
        .run(&read_only("SET default_transaction_read_only = on"))
        .await
        .unwrap();
    world.post_orders(&hub, ids("read-only", ORDERS)).await;
    world.backend.wait_for(1 + ORDERS).await;
    // Whoever tries to write them; both do.
    for hub in [&hub, &other] {
        world.tables_are_behind(hub, "read_only", EVENTS).await;
        world.metrics_say(hub, "database_up 1").await;
    }
    world
        .database
        .run(&read_only("RESET default_transaction_read_only"))
        .await
        .unwrap();
    for hub in [&hub, &other] {
        world.tables_follow(hub, "read_only").await;
    }
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1 + ORDERS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_holds_a_lock() {
    let world = World::new().await;
    let hub = Hub::start(&quick(world.settings())).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let lock = "BEGIN; LOCK TABLE webhook_logs IN ACCESS EXCLUSIVE MODE";
    world.database.run(lock).await.unwrap();
    world.post_orders(&hub, ids("locked", ORDERS)).await;
    world.backend.wait_for(1 + ORDERS).await;
    world.tables_are_behind(&hub, "time_limit", EVENTS).await;
    world.database.run("COMMIT").await.unwrap();
    world.tables_follow(&hub, "time_limit").await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1 + ORDERS)).await;
}

/// Nothing was ever read of it: what the log has is behind all the same, and webhooks wait for the branches.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_away_from_the_start() {
    let world = World::new().await;
    let nowhere = "postgres://hub@127.0.0.1:1/hub";
    let hub = Hub::start(&quick(world.settings().set("DATABASE_URL", nowhere))).await;
    world.post_orders(&hub, ids("away", ORDERS)).await;
    world.tables_are_behind(&hub, "no_connection", 3).await;
    world
        .metrics_say(&hub, "orders_waiting{stage=\"transform\",where=\"branches\"} 3")
        .await;
    hub.terminate().await;
    let _next = Hub::start(&quick(world.settings())).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(ORDERS)).await;
}
