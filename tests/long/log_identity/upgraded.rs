//! The first start after an upgrade: what an older version remembered does not say of which log it is.

use super::*;

/// The log was replaced, and is longer than the old one was when the tables see it. Only the times tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_made_after_the_cursor_was_moved_is_another_one() {
    let mut world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("old", 2)).await;
    let events = world.log.settled().await;
    world.tables_agree(&events, PATIENCE).await;
    assert!(hub.terminate().await.0.success());
    world.database.run("UPDATE hub.cursors SET log = NULL").await.unwrap();
    let server = &world.nats.server;
    server.stop().await.unwrap();
    StoreCopy::nothing().put_back(server.dir());
    server.restart().await.unwrap();
    let provision = world.nats.settings("provision").set("PARTITIONS", 8);
    run(&provision, &["streams", "apply"]).await.expect_success();
    world.log = Log::open(&world.nats).await;

    // PostgreSQL is away from the hub until the new log has more events than the tables had read of the old one.
    let without_tables = world.settings().set("DATABASE_URL", "postgres://hub@127.0.0.1:1/hub");
    let hub = Hub::start(&without_tables).await;
    let count = events.len() + 2;
    world.post_orders(&hub, ids("new", count)).await;
    assert!(hub.terminate().await.0.success());
    let hub = world.hub().await;
    eventually("every order of the new log has its row", PATIENCE, async || {
        let query = "SELECT count(*)::int AS count FROM webhook_logs
                     WHERE external_order_id LIKE 'CR-new-%' AND status = 'completed'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows == [json!({ "count": count })] {
            Ok(())
        } else {
            Err(format!("{rows:?} of {count}"))
        }
    })
    .await;
    let eras = world
        .database
        .rows("SELECT era, found FROM hub.log_eras")
        .await
        .unwrap();
    assert_eq!(
        eras,
        [json!({ "era": 1, "found": "the event log was replaced by another one" })]
    );
    hub.says("the tables go on from the common point").await;
}
