//! The tables belong to the platform: what the hub adds to them never stands in the way of who writes them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::harness::{
    World,
    at_end::Ends,
    hub::{Hub, Settings, run},
    ids,
    servers::{Cluster, Database},
    wait::{PATIENCE, eventually},
};

/// The indexes that the hub adds to tables of the platform.
const INDEXES: [&str; 3] = [
    "hub_provider_order_logs_external",
    "hub_delivery_error_logs_webhook",
    "hub_delivery_error_logs_root",
];
/// Rows of a table that is large for a test: an index of it takes a moment.
const ROWS: usize = 100_000;
/// Longest that a write of the platform may wait.
const BOUND: &str = "SET lock_timeout = '1s'";

/// The platform's tables with rows, as they were before there was a hub.
async fn platform() -> Database {
    let database = Cluster::shared().await.database().await;
    let statements = format!(
        "DROP SCHEMA hub CASCADE;
         DROP INDEX IF EXISTS {};
         INSERT INTO webhook_logs (id, provider_id, webhook_type, endpoint, payload)
         SELECT n::text, 'provider-careem', 'order_created', '/', '{{}}' FROM generate_series(1, 100) AS n;
         INSERT INTO delivery_error_logs (id, provider_id, webhook_log_id, error_type, error_message)
         SELECT n::text, 'provider-careem', (n % 100 + 1)::text, 'temporary', 'x' FROM generate_series(1, {ROWS}) AS n;",
        INDEXES.join(", ")
    );
    database.run(&statements).await.unwrap();
    database
}

async fn connect(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Names of the hub's indexes that can be used.
async fn valid_indexes(database: &Database) -> Vec<Value> {
    let query = "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                 WHERE c.relname LIKE 'hub\\_%' AND i.indisvalid AND i.indrelid::regclass::text NOT LIKE 'hub.%'
                 ORDER BY c.relname";
    let rows = database.rows(query).await.unwrap();
    rows.into_iter().map(|row| row["relname"].clone()).collect()
}

fn sorted() -> Vec<Value> {
    let mut names = INDEXES;
    names.sort_unstable();
    names.into_iter().map(Value::from).collect()
}

/// A transaction of the platform is open for long, as one of a report or of a backup is.
#[tokio::test(flavor = "multi_thread")]
async fn the_platform_can_write_while_indexes_are_created() {
    let database = platform().await;
    let open = connect(&database).await;
    open.batch_execute("BEGIN; UPDATE delivery_error_logs SET error_message = 'y' WHERE id = '1'")
        .await
        .unwrap();
    let settings = Settings::empty().set("DATABASE_URL", &database.url);
    let migrate = run(&settings, &["migrate"]);
    let platform = async {
        eventually("the migration waits for the transaction", PATIENCE, async || {
            let query = "SELECT pid FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'webhook-hub' AND wait_event_type = 'Lock'";
            let rows = database.rows(query).await.map_err(|error| error.to_string())?;
            if rows.is_empty() { Err(String::new()) } else { Ok(()) }
        })
        .await;
        let writer = connect(&database).await;
        writer.batch_execute(BOUND).await.unwrap();
        for number in 0..50 {
            let insert = format!(
                "INSERT INTO delivery_error_logs (id, provider_id, error_type, error_message)
                 VALUES ('while-{number}', 'provider-careem', 'temporary', 'x')"
            );
            if let Err(error) = writer.batch_execute(&insert).await {
                panic!("write {number} of the platform had to wait: {error:?}");
            }
        }
        open.batch_execute("COMMIT").await.unwrap();
    };
    let (migrate, ()) = tokio::join!(migrate, platform);
    let said = migrate.expect_success().said();
    assert_eq!(valid_indexes(&database).await, sorted());
    for index in INDEXES {
        assert!(said.contains(index), "{said}");
    }
    let again = run(&settings, &["migrate"]).await.expect_success();
    assert!(again.stdout.contains("up to date"), "{}", again.said());
}

/// What an attempt leaves behind that was broken off.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_index_is_created_again() {
    let database = Cluster::shared().await.database().await;
    let broken =
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'hub_delivery_error_logs_webhook'::regclass";
    database.run(broken).await.unwrap();
    let settings = Settings::empty().set("DATABASE_URL", &database.url);
    let said = run(&settings, &["migrate"]).await.expect_success().said();
    assert!(said.contains("hub_delivery_error_logs_webhook"), "{said}");
    assert_eq!(valid_indexes(&database).await, sorted());
}

/// Only the owner of a table can index it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_may_not_index_the_platforms_tables_writes_them_all_the_same() {
    let world = World::new().await;
    let role = format!("role_{}", Uuid::new_v4().simple());
    let statements = format!(
        "DROP SCHEMA hub CASCADE;
         DROP INDEX {};
         CREATE ROLE {role} LOGIN;
         CREATE SCHEMA hub AUTHORIZATION {role};
         GRANT SELECT, INSERT, UPDATE ON webhook_logs, delivery_error_logs, provider_order_logs TO {role};
         GRANT SELECT ON delivery_providers, branch_delivery_configs, orders TO {role};",
        INDEXES.join(", ")
    );
    world.database.run(&statements).await.unwrap();
    let url = world.database.url.replace("//admin@", &format!("//{role}@"));
    let settings = world.settings().set("DATABASE_URL", url);
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("without", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    hub.says("hub_delivery_error_logs_webhook").await;
    // The command says what the owner has to do.
    let ran = run(&settings, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.said().contains("CREATE INDEX CONCURRENTLY"), "{}", ran.said());
}

/// A hub that is killed while an index is made leaves it unusable; the next one makes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_is_killed_while_it_makes_an_index() {
    let world = World::new().await;
    world
        .database
        .run(&format!("DROP INDEX {}", INDEXES.join(", ")))
        .await
        .unwrap();
    let open = connect(&world.database).await;
    open.batch_execute("BEGIN; UPDATE delivery_providers SET name = name; LOCK TABLE provider_order_logs, delivery_error_logs IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let hub = world.hub().await;
    eventually("an index is being made", PATIENCE, async || {
        let query = "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                     WHERE c.relname LIKE 'hub\\_%' AND NOT i.indisvalid";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.is_empty() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    // The tables are written meanwhile.
    world.post_orders(&hub, ids("meanwhile", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    hub.kill().await;
    open.batch_execute("COMMIT").await.unwrap();
    let _hub = world.hub().await;
    eventually("every index can be used", Duration::from_secs(30), async || {
        let valid = valid_indexes(&world.database).await;
        if valid == sorted() { Ok(()) } else { Err(valid) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_installation_adds_nothing_to_orders() {
    let database = Cluster::shared().await.database().await;
    let query = "SELECT indexname FROM pg_indexes WHERE tablename = 'orders' AND indexname LIKE 'hub%'";
    assert_eq!(database.rows(query).await.unwrap(), Vec::<Value>::new());
    let query = "SELECT count(*) FROM hub.migrations";
    assert_ne!(database.rows(query).await.unwrap(), [json!({ "count": 0 })]);
}
