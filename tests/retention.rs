//! Old rows are deleted where the operator says so: those that ended, in small steps, by the instance that writes the tables.

use serde_json::json;

use crate::harness::{
    World,
    hub::Hub,
    ids,
    wait::{PATIENCE, eventually},
};

/// Webhooks that go: more than one step of them.
const OLD: usize = 1200;

/// A row of each kind that goes (`old-…`), and of each that stays (`stays-…`), and what the platform's own table refers to.
fn rows() -> String {
    let webhook = |id: &str, status: &str, at: &str| {
        format!(
            "INSERT INTO webhook_logs (id, provider_id, webhook_type, endpoint, payload, status, created_at, updated_at)
             VALUES ('{id}', 'provider-careem', 'order_created', '/', '{{}}', '{status}', '{at}', '{at}');"
        )
    };
    let error = |id: &str, webhook: &str, is_resolved: bool| {
        format!(
            "INSERT INTO delivery_error_logs (id, provider_id, webhook_log_id, error_type, error_message, is_resolved, created_at, updated_at)
             VALUES ('{id}', 'provider-careem', '{webhook}', 'temporary', 'x', {is_resolved}, '2024-01-01', '2024-01-01');"
        )
    };
    let order = |id: &str, status: &str, days: u32| {
        format!(
            "INSERT INTO provider_order_logs (id, order_id, provider_id, branch_id, company_id, external_order_id, provider_status,
                 mapped_status, created_at, updated_at)
             VALUES ('{id}', '{id}', 'provider-careem', 'b', 'c', '{id}', 'x', {status},
                 (now() AT TIME ZONE 'UTC') - interval '{days} days', (now() AT TIME ZONE 'UTC') - interval '{days} days');"
        )
    };
    let mut rows = format!(
        "INSERT INTO webhook_logs (id, provider_id, webhook_type, endpoint, payload, status, created_at, updated_at)
         SELECT 'old-' || n, 'provider-careem', 'order_created', '/', '{{}}', 'completed', '2024-01-01', '2024-01-01'
         FROM generate_series(1, {OLD}) AS n;"
    );
    for status in ["received", "pending", "processing", "retrying"] {
        rows += &webhook(&format!("stays-{status}"), status, "2024-01-02");
    }
    rows += &webhook("stays-dead-letter", "failed", "2024-01-02");
    rows += &error("stays-open", "stays-dead-letter", false);
    rows += &webhook("old-overcome", "ignored", "2024-01-02");
    rows += &error("old-resolved", "old-overcome", true);
    rows += &webhook("stays-referred-to", "completed", "2024-01-02");
    rows += "CREATE TABLE of_platform (webhook text REFERENCES webhook_logs (id)); INSERT INTO of_platform VALUES ('stays-referred-to');";
    rows += &order("old-delivered", "'delivered'", 20);
    rows += &order("old-silent", "'confirmed'", 40);
    rows += &order("stays-on-the-way", "'out_for_delivery'", 20);
    rows += &order("stays-new", "'delivered'", 3);
    rows
}

/// The same of the hub's own table, which it empties when it makes it.
fn own_rows() -> String {
    let own = |ids: &str, days: u32, undelivered: &str, count: usize| {
        format!(
            "INSERT INTO hub.orders (external_order_id, provider, id, state, first_at, last_at, undelivered_since, attempts, is_test,
                 flags, last_sequence)
             SELECT '{ids}' || n, 'careem', gen_random_uuid(), 'forwarded', '2024-01-01', now() - interval '{days} days', {undelivered},
                 1, false, '{{}}', 1
             FROM generate_series(1, {count}) AS n;"
        )
    };
    [
        own("old-", 20, "NULL", OLD),
        own("stays-new-", 3, "NULL", 1),
        own("stays-given-up-", 20, "'2024-01-01'", 1),
    ]
    .concat()
}

async fn ids_like(world: &World, table: &str, like: &str) -> Vec<String> {
    let query = format!("SELECT id FROM {table} WHERE id LIKE '{like}' ORDER BY id");
    let rows = world.database.rows(&query).await.unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_goes_and_what_is_open_stays() {
    let world = World::new().await;
    world.database.run(&rows()).await.unwrap();
    let settings = world
        .settings()
        .set("RETENTION_WEBHOOK_LOGS", "30d")
        .set("RETENTION_DELIVERY_ERROR_LOGS", "30d")
        .set("RETENTION_PROVIDER_ORDER_LOGS", "10d")
        .set("RETENTION_ORDERS", "10d")
        .set("RETENTION_SKIPPED_EVENTS", "7d")
        .set("HUB_TEST_TIMES", "retention=300ms,retention_pause=300ms");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("young", 3)).await;
    world.log.settled().await;
    eventually("the young ones are completed", PATIENCE, async || {
        let query =
            "SELECT count(*) FROM webhook_logs WHERE status = 'completed' AND external_order_id LIKE 'CR-young-%'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows == [json!({ "count": 3 })] {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    // The writer tries again what was noted before it began, so these come later. The log begins behind the first of them; the
    // second is on it, and so open.
    let noted = "INSERT INTO hub.skipped_events (sequence, event_type, reason, noted_at)
                 VALUES (0, 'x', 'x', '2024-01-01'), (1, 'x', 'x', '2024-01-01')";
    world.database.run(noted).await.unwrap();
    world.database.run(&own_rows()).await.unwrap();
    for (table, count) in [
        ("webhook_logs", OLD + 1),
        ("delivery_error_logs", 1),
        ("provider_order_logs", 2),
        ("hub.orders", OLD),
        ("hub.skipped_events", 1),
    ] {
        let line = format!("retention_deleted_rows_total{{table=\"{table}\"}} {count}");
        world.metrics_say(&hub, &line).await;
    }
    for (table, stays) in [
        (
            "webhook_logs",
            vec![
                "dead-letter",
                "pending",
                "processing",
                "received",
                "referred-to",
                "retrying",
            ],
        ),
        ("delivery_error_logs", vec!["open"]),
        ("provider_order_logs", vec!["new", "on-the-way"]),
    ] {
        assert_eq!(ids_like(&world, table, "old-%").await, Vec::<String>::new(), "{table}");
        let stays: Vec<_> = stays.into_iter().map(|id| format!("stays-{id}")).collect();
        assert_eq!(ids_like(&world, table, "stays-%").await, stays);
    }
    let own =
        "SELECT external_order_id AS id FROM hub.orders WHERE provider = 'careem' AND external_order_id NOT LIKE 'CR-%'
               ORDER BY 1";
    let own = world.database.rows(own).await.unwrap();
    assert_eq!(
        own,
        [json!({ "id": "stays-given-up-1" }), json!({ "id": "stays-new-1" })]
    );
    hub.says("is referred to by another table and stays").await;
    let noted = world
        .database
        .rows("SELECT sequence FROM hub.skipped_events")
        .await
        .unwrap();
    assert_eq!(noted, [json!({ "sequence": 1 })]);
    let young = "SELECT id FROM webhook_logs WHERE external_order_id LIKE 'CR-young-%'";
    assert_eq!(world.database.rows(young).await.unwrap().len(), 3);
    // The oldest that stays is of 2024.
    eventually("the age of the oldest row is shown", PATIENCE, async || {
        let metrics = world.metrics(&hub).await;
        let age = metrics
            .lines()
            .find_map(|line| line.strip_prefix("retention_oldest_row_age_seconds{table=\"webhook_logs\"} "))
            .and_then(|age| age.parse::<f64>().ok());
        match age {
            Some(age) if age > 300.0 * 86_400.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// By default nothing is deleted, and no right to do so is needed.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_kept_for_ever_by_default() {
    let world = World::new().await;
    world.database.run(&rows()).await.unwrap();
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", "retention=50ms")).await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.log.settled().await;
    world
        .metrics_say(&hub, "retention_deleted_rows_total{table=\"webhook_logs\"} 0")
        .await;
    assert_eq!(ids_like(&world, "webhook_logs", "old-%").await.len(), OLD + 1);
}
