//! PostgreSQL is away: orders are still forwarded, and the tables catch up.

use futures_util::StreamExt;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::Hub,
    ids,
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_stopped_and_killed() {
    let world = World::with_own_postgres().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 2)).await;
    world.log.settled().await;
    world.cluster.server.stop().await.unwrap();
    world.post_orders(&hub, ids("stopped", 5)).await;
    world.backend.wait_for(7).await;
    world.cluster.server.restart().await.unwrap();
    world.post_orders(&hub, ids("between", 2)).await;
    world.cluster.server.kill().await.unwrap();
    world.post_orders(&hub, ids("killed", 5)).await;
    world.backend.wait_for(14).await;
    world.cluster.server.restart().await.unwrap();
    world.at_end(Ends::forwarded(14)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_starts_before_postgres() {
    let world = World::new().await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    postgres.cut();
    let hub = Hub::start(
        &world
            .settings()
            .set("DATABASE_URL", world.database.url_through(postgres.address())),
    )
    .await;
    world.post_orders(&hub, ids("cold", 3)).await;
    hub.says("cannot read the branches").await;
    // No branch is known, so nothing is forwarded, and nothing is given up.
    assert!(
        world
            .log
            .events()
            .await
            .iter()
            .all(|event| event.envelope.event_type == EventType::WebhookReceived)
    );
    assert_eq!(world.backend.count(), 0);
    postgres.heal();
    world.at_end(Ends::forwarded(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_hangs() {
    let world = World::new().await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    let hub = Hub::start(
        &world
            .settings()
            .set("DATABASE_URL", world.database.url_through(postgres.address())),
    )
    .await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    postgres.stall();
    world.post_orders(&hub, ids("hanging", 5)).await;
    world.backend.wait_for(6).await;
    postgres.heal();
    world.at_end(Ends::forwarded(6)).await;
}

/// The events that a killed hub had pulled for the tables are not redelivered for a minute; the tables must not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_is_killed_in_the_middle_of_a_write() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings_on_fixed_port()).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    world
        .database
        .run("BEGIN; LOCK TABLE webhook_logs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    world.careem.post(&hub, &order("CR-unwritten")).await.event_id();
    world.log.settled().await;
    eventually("the hub waits for the table", PATIENCE, async || {
        let query = "SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted AND relation = 'webhook_logs'::regclass
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows[0]["waiting"].as_i64() > Some(0) {
            Ok(())
        } else {
            Err(rows[0].to_string())
        }
    })
    .await;
    hub.kill().await;
    world.database.run("COMMIT").await.unwrap();
    let _hub = Hub::start(&world.settings_on_fixed_port()).await;
    eventually("the tables catch up", PATIENCE, async || {
        let query = "SELECT status FROM webhook_logs WHERE external_order_id = 'CR-unwritten'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.len() == 1 && rows[0]["status"] == "completed" {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

/// Whoever else pulls from the tables' consumer (an instance that stood still) gets events that never come here.
#[tokio::test(flavor = "multi_thread")]
async fn another_client_takes_the_tables_messages() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let thief = world.nats.connect("hub").await;
    let mut stolen = thief.subscribe("_INBOX_hub.thief").await.unwrap();
    let pull = r#"{"batch":3,"expires":15000000000}"#;
    thief
        .publish_with_reply(
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.projection",
            "_INBOX_hub.thief",
            pull.into(),
        )
        .await
        .unwrap();
    thief.flush().await.unwrap();
    world.post_orders(&hub, ids("meanwhile", 10)).await;
    let first = tokio::time::timeout(PATIENCE, stolen.next()).await;
    assert!(first.unwrap().unwrap().status.is_none(), "nothing was stolen");
    world.log.settled().await;
    drop(stolen);
    drop(thief);
    world.post_orders(&hub, ids("after", 3)).await;
    world.at_end(Ends::forwarded(14)).await;
}
