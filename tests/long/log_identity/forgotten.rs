//! The log forgets what the tables have not read.

use super::*;

/// PostgreSQL is away for so long that the log forgets events that have no rows yet: it is said before and after, counted and noted.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_expire_before_the_tables_have_them() {
    // Long enough for what comes before it is set, on a busy machine too.
    const MAX_AGE: Duration = Duration::from_secs(10);
    let world = World::new().await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    let url = world.database.url_through(postgres.address());
    let settings = world
        .settings()
        .set("DATABASE_URL", url)
        .set("HUB_TEST_TIMES", "loss_every=50ms");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 2)).await;
    let events = world.log.settled().await;
    world.tables_agree(&events, PATIENCE).await;
    let position = events.len() as u64;
    postgres.cut();
    world.post_orders(&hub, ids("forgotten", 3)).await;
    let last = world.log.settled().await.len() as u64;
    let provision = world.nats.provision().await;
    let stream = provision.get_stream("EVENTS").await.unwrap();
    let config = stream.cached_info().config.clone();
    let short = stream::Config {
        max_age: MAX_AGE,
        duplicate_window: MAX_AGE,
        ..config.clone()
    };
    provision.update_stream(short).await.unwrap();
    eventually("it is said before", PATIENCE, async || {
        if hub.logs_contain("what is not read") {
            Ok(())
        } else {
            Err(world.metrics(&hub).await)
        }
    })
    .await;
    eventually("the log forgets", PATIENCE, async || {
        let info = provision
            .get_stream("EVENTS")
            .await
            .map_err(|error| error.to_string())?;
        let first = info.cached_info().state.first_sequence;
        if first > last { Ok(()) } else { Err(first.to_string()) }
    })
    .await;
    provision.update_stream(config).await.unwrap();
    postgres.heal();
    world.post_orders_to(&hub.url(), ids("after", 2)).await;
    eventually("the tables go on", PATIENCE, async || {
        let query = "SELECT external_order_id FROM webhook_logs WHERE status = 'completed' ORDER BY 1";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        let orders: Vec<_> = rows
            .iter()
            .map(|row| row["external_order_id"].as_str().unwrap())
            .collect();
        if orders == ["CR-after-0", "CR-after-1", "CR-before-0", "CR-before-1"] {
            Ok(())
        } else {
            Err(format!("{orders:?}"))
        }
    })
    .await;
    let gaps = world
        .database
        .rows("SELECT era, first_sequence, last_sequence FROM hub.log_gaps")
        .await
        .unwrap();
    assert_eq!(
        gaps,
        [json!({ "era": 0, "first_sequence": position + 1, "last_sequence": last })]
    );
    world
        .metrics_say(&hub, &format!("projection_gap_events_total {}", last - position))
        .await;
    hub.says("noted in hub.log_gaps").await;
}
