//! Orders from after the backup come again on the restored log: the tables keep one row an order, and `verify` agrees with them.

use serde_json::json;

use super::*;

/// The order rows of both tables, as `number` and how many.
const ROWS: &str = "SELECT external_order_id AS number, count(*) AS own,
        (SELECT count(*) FROM provider_order_logs p WHERE p.external_order_id = o.external_order_id) AS platform
    FROM hub.orders o GROUP BY 1 ORDER BY 1";
/// What of each order must not be lost.
const FACTS: &str =
    "SELECT external_order_id AS number, state, status, order_id, display_id, undelivered_since, last_at
    FROM hub.orders ORDER BY 1";

/// Waits until the tables have all that is on the restored log; the one before had as many events.
async fn tables_are_there(world: &World) {
    let last = events(&world.nats).await.cached_info().state.last_sequence;
    let sql = "SELECT position, (SELECT count(*) FROM hub.log_eras) AS eras FROM hub.cursors";
    eventually("the tables have the whole log", PATIENCE, async || {
        let rows = world.database.rows(sql).await.unwrap();
        if rows[0]["position"] == last && rows[0]["eras"] == 1 {
            Ok(())
        } else {
            Err(rows)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_again_after_a_restore_has_one_row() {
    let mut world = World::new().await;
    let (backup, provision) = (settings(&world.nats, "backup"), settings(&world.nats, "provision"));
    let owner = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    run(&backup, &["backup", place]).await.expect_success();
    world.post_orders(&hub, ids("later", 3)).await;
    world.at_end(Ends::forwarded(5)).await;
    hub.terminate().await;
    run(&provision, &["restore", place, "--replace"]).await.expect_success();
    run(&provision, &["streams", "apply"]).await.expect_success();
    world.log = Log::open(&world.nats).await;
    let hub = world.hub().await;

    // As it was, as another webhook of the same order, and only news of it: its announcement does not come again.
    let [same, counted, news] = &ids("later", 3)[..] else {
        unreachable!()
    };
    world.careem.post(&hub, &order(same)).await.event_id();
    let body = order(counted).replacen('{', "{\"attempt\": 2,", 1);
    world.careem.post(&hub, &body).await.event_id();
    world
        .careem
        .post(&hub, &careem::change(news, "picked_up"))
        .await
        .event_id();
    world.hand_out_again().await;
    tables_are_there(&world).await;

    let one_each: Vec<_> = ["CR-kept-0", "CR-kept-1", same, counted, news]
        .iter()
        .map(|number| json!({ "number": number, "own": 1, "platform": 1 }))
        .collect();
    let rows = async || world.database.rows(ROWS).await.unwrap();
    let facts = world.database.rows(FACTS).await.unwrap();
    assert_eq!(rows().await, one_each);
    run(&owner, &["verify"]).await.expect_success();
    run(&owner, &["rebuild"]).await.expect_success();
    assert_eq!(rows().await, one_each);
    assert_eq!(world.database.rows(FACTS).await.unwrap(), facts);
    run(&owner, &["verify"]).await.expect_success();

    // The hub goes on with these rows, and what is lost of them is still found.
    world
        .careem
        .post(&hub, &careem::change(counted, "picked_up"))
        .await
        .event_id();
    world.post_orders(&hub, ids("new", 1)).await;
    world.hand_out_again().await;
    tables_are_there(&world).await;
    run(&owner, &["verify"]).await.expect_success();
    let damage = "DELETE FROM hub.orders WHERE external_order_id IN ('CR-later-1', 'CR-new-0')";
    world.database.run(damage).await.unwrap();
    let ran = run(&owner, &["verify", "hub.orders", "--json"]).await;
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &found["tables"][0]["missing"]["count"]),
        (Some(1), &json!(2)),
        "{found}"
    );
}
