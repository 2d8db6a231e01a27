//! The log forgets what the tables have not read.

use webhook_hub::event::Recorded;

use super::*;
use crate::harness::log::payload;

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

/// The log is about to delete an order that is parked until later, and news behind it: it is tried once more before, and given up if that
/// fails, or if the breaker lets nothing through. Nothing vanishes.
async fn a_parked_order_that_expires(breaker: bool) {
    const MAX_AGE: Duration = Duration::from_secs(22);
    let world = World::new().await;
    let settings = world
        .settings()
        .set(
            "HUB_TEST_TIMES",
            "look_at_identity=50ms,loss_every=50ms,look_at_consumer=100ms",
        )
        .set("CIRCUIT_BREAKER_ENABLED", breaker)
        .set("RETRY_DELAYS", if breaker { "1s" } else { "1h" });
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled().await;
    world.backend.otherwise(Answer::status(503));
    let posted = Instant::now();
    world.post_orders_to(&hub.url(), ids("aged", 1)).await;
    world.careem.deliver(&hub.url(), &change("CR-aged-0", "ready")).await;
    if breaker {
        world.post_orders_to(&hub.url(), ids("other", 6)).await;
        world.breaker_becomes(&hub, "open").await;
    } else {
        world.has_parked(1).await;
    }
    let provision = world.nats.provision().await;
    let stream = provision.get_stream("EVENTS").await.unwrap();
    let short = stream::Config {
        max_age: MAX_AGE,
        duplicate_window: MAX_AGE,
        ..stream.cached_info().config.clone()
    };
    provision.update_stream(short).await.unwrap();
    eventually("it is said before", PATIENCE, async || {
        let metrics = world.metrics(&hub).await;
        let left = metrics
            .lines()
            .find_map(|line| line.strip_prefix("log_left_seconds{reader=\"forward\"} "));
        let left: Option<f64> = left.and_then(|left| left.parse().ok());
        if left.is_some_and(|left| left < 0.25 * MAX_AGE.as_secs_f64()) {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
    let given_up = if breaker { 2 + 6 } else { 2 };
    let letters = world.log.wait_for(EventType::OrderDeadLettered, given_up).await;
    assert!(
        posted.elapsed() > MAX_AGE.mul_f64(0.8),
        "it was given up when that was needed: after {:?}",
        posted.elapsed()
    );
    let codes: BTreeSet<_> = letters
        .iter()
        .map(|letter| payload(letter)["error"]["code"].to_string())
        .collect();
    assert_eq!(codes, BTreeSet::from(["\"EVENT_AGED\"".to_owned()]));
    if !breaker {
        assert!(world.requests_about("CR-aged-0") >= 6, "each is tried once more");
    }
    let metrics = world.metrics(&hub).await;
    assert!(
        metrics.contains("parked_events_lost_total{stage=\"forward\"} 0"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_order_is_given_up_before_the_log_deletes_it() {
    a_parked_order_that_expires(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_behind_an_open_breaker_is_given_up_before_the_log_deletes_it() {
    a_parked_order_that_expires(true).await;
}

/// The log is about to delete orders that a person had retried: one retry is parked, the other waits behind later news that are parked.
/// Both end before that, and can be retried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_given_up_before_the_log_deletes_what_it_takes_up_again() {
    const MAX_AGE: Duration = Duration::from_secs(24);
    let world = World::new().await;
    let settings = world
        .settings()
        .set(
            "HUB_TEST_TIMES",
            "look_at_identity=50ms,loss_every=50ms,look_at_consumer=100ms",
        )
        .set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings).await;
    let away = || Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    for id in ["CR-parked", "CR-behind"] {
        world.backend.next_for(id, [Answer::status(422), away(), away()]);
        world.careem.post(&hub, &order(id)).await.event_id();
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    // The requests for a retry are to be younger than the orders by more than a twentieth of that.
    tokio::time::sleep(MAX_AGE / 8).await;
    world.careem.deliver(&hub.url(), &change("CR-behind", "ready")).await;
    world.has_parked(1).await;
    world.retry_dead_letters().await;
    eventually("one retry is parked, the other waits", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting: Vec<_> = lanes
            .iter()
            .map(|lane| lane["waiting"].as_array().unwrap().len())
            .collect();
        if lanes.len() == 2 && waiting.contains(&1) {
            Ok(())
        } else {
            Err(lanes)
        }
    })
    .await;
    let provision = world.nats.provision().await;
    let config = provision
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    let short = stream::Config {
        max_age: MAX_AGE,
        duplicate_window: MAX_AGE,
        ..config.clone()
    };
    provision.update_stream(short).await.unwrap();
    let given_up = world.log.wait_for(EventType::OrderDeadLettered, 4).await.split_off(2);
    provision.update_stream(config).await.unwrap();
    let end = |letter: &Recorded, code: &str| {
        let sequence = payload(letter)["sequence"].to_string();
        (letter.envelope.external_order_id.clone(), sequence, code.to_owned())
    };
    let codes = given_up
        .iter()
        .map(|letter| end(letter, payload(letter)["error"]["code"].as_str().unwrap()));
    let expected = dead.iter().map(|letter| end(letter, "EVENT_AGED"));
    assert_eq!(codes.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
    let parked = given_up
        .iter()
        .find(|letter| letter.envelope.external_order_id == "CR-parked");
    let id = parked.unwrap().envelope.id.to_string();
    world.backend.always_for("CR-parked", Some(Answer::Accept));
    let retry = run(&world.nats.settings("hub"), &["dead-letters", "retry", &id]).await;
    retry.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let metrics = world.metrics(&hub).await;
    assert!(
        metrics.contains("parked_events_lost_total{stage=\"forward\"} 0"),
        "{metrics}"
    );
}
