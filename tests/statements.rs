//! Every statement of `sql/queries` is one that PostgreSQL takes, and none of them reads a whole table to find a key.

use webhook_hub::{
    config::{self, Environment},
    database::{Database, query},
    projection::schema,
};

use crate::harness::servers::Cluster;

async fn database() -> (Database, crate::harness::servers::Database) {
    let own = Cluster::shared().await.database().await;
    let environment = Environment::from_iter([("DATABASE_URL", own.url.clone())]);
    let settings = config::Database::from_environment(&environment).unwrap();
    (Database::new(&settings).unwrap(), own)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_can_be_prepared() {
    let (database, _own) = database().await;
    let connection = database.connect().await.unwrap();
    for sql in query::all() {
        if let Err(error) = connection.prepare(sql).await {
            panic!("{error:?} in\n{sql}");
        }
    }
}

/// On a table that was filled and never analysed the planner would rather read all of it for each batch, or by an index all rows
/// of a provider.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_key() {
    let (database, _own) = database().await;
    let connection = database.connect().await.unwrap();
    let generic = "SET plan_cache_mode = force_generic_plan";
    connection.batch_execute(generic).await.unwrap();
    for (name, sql, parameters, condition) in [
        ("update_webhook_logs", query::UPDATE_WEBHOOK_LOGS, 11, "(id = "),
        ("insert_order_logs", query::INSERT_ORDER_LOGS, 21, "(id = "),
        ("known_webhook_logs", query::KNOWN_WEBHOOK_LOGS, 1, "(id = "),
        ("known_orders", query::KNOWN_ORDERS, 2, "(external_order_id = "),
    ] {
        connection
            .batch_execute(&format!("PREPARE {name} AS {sql}"))
            .await
            .unwrap();
        let nulls = vec!["NULL"; parameters].join(", ");
        let plan = connection
            .query(&format!("EXPLAIN EXECUTE {name}({nulls})"), &[])
            .await
            .unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let by_key = plan
            .iter()
            .any(|line| line.contains("Index Cond: ") && line.contains(condition));
        let plan = plan.join("\n");
        assert!(
            by_key && plan.contains("_pkey") && !plan.contains("Seq Scan on "),
            "{plan}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_changes_nothing() {
    let (database, _own) = database().await;
    assert_eq!(schema::migrate(&database).await.unwrap(), Vec::<&str>::new());
}
