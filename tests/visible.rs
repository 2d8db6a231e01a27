//! Trouble shows in metrics, health and the log: before anything happened, while orders wait, and when they end.

use serde_json::Value;
use webhook_hub::telemetry::metrics::declared::{Kind, METRICS};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings},
    ids,
    wait::{PATIENCE, eventually},
};

impl World {
    /// The value of a series; none if the metrics do not have it.
    async fn metric(&self, hub: &Hub, series: &str) -> Option<f64> {
        let metrics = self.metrics(hub).await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Waits until a series has a value that fits.
    pub(crate) async fn metric_becomes(&self, hub: &Hub, series: &str, fits: impl Fn(f64) -> bool) {
        eventually(&format!("{series} fits"), PATIENCE, async || {
            match self.metric(hub, series).await {
                Some(value) if fits(value) => Ok(()),
                found => Err(found),
            }
        })
        .await;
    }
}

/// Short intervals, so that tests do not wait for the next check.
fn quick(settings: Settings) -> Settings {
    settings.set("HUB_TEST_TIMES", "look_at_log=200ms,look_at_consumer=200ms")
}

fn waiting(stage: &str, place: &str) -> String {
    format!("orders_waiting{{stage=\"{stage}\",where=\"{place}\"}}")
}

/// `increase` over a counter sees its first event only if it was there at 0 before.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_before_anything_happened() {
    let world = World::new().await;
    let hub = Hub::start(&quick(world.settings())).await;
    // The stages have begun, and the log was looked at.
    for stage in ["transform", "forward", "push", "projection"] {
        world
            .metrics_say(&hub, &format!("stage_active{{stage=\"{stage}\"}} 1"))
            .await;
    }
    world.metrics_say(&hub, "dead_letters_known 1").await;
    let metrics = world.metrics(&hub).await;
    for metric in METRICS.iter().filter(|metric| metric.is_from_start()) {
        // A histogram has no line before its first sample; nothing is lost by that.
        if metric.kind != Kind::Histogram {
            let line = metrics
                .lines()
                .find(|line| line.split(['{', ' ']).next() == Some(metric.name));
            assert!(line.is_some(), "{} is not there from the start", metric.name);
        }
    }
    for line in [
        "webhooks_received_total{provider=\"careem\"} 0",
        "webhooks_processed_total{provider=\"careem\",status=\"failed\"} 0",
        "dead_letters_total{provider=\"careem\"} 0",
        "backend_requests_total{outcome=\"temporary\"} 0",
        "events_appended_total{type=\"order.forwarded\"} 0",
        "database_trouble{class=\"read_only\"} 0",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
    let info = metrics.lines().find(|line| line.starts_with("hub_info{")).unwrap();
    assert!(
        info.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))),
        "{info}"
    );
    for (name, least) in [("process_open_fds", 5.0), ("process_resident_memory_bytes", 1e6)] {
        assert!(world.metric(&hub, name).await.unwrap() > least, "{name}");
    }
    // A restart is no silence: what the log has counts.
    world.post_orders(&hub, ids("last", 1)).await;
    let last = "webhook_last_received_timestamp_seconds{provider=\"careem\"}";
    let accepted = world.metric(&hub, last).await.unwrap();
    world.at_end(Ends::forwarded(1)).await;
    hub.terminate().await;
    let next = Hub::start(&quick(world.settings())).await;
    world
        .metric_becomes(&next, last, |seconds| (seconds - accepted).abs() <= 2.0)
        .await;
    let health = world.health(&next).await;
    assert_eq!(health["tables"]["trouble"], Value::Null, "{health}");
    assert!(
        health["instance"]["id"].as_str().is_some_and(|id| id.contains('-')),
        "{health}"
    );
}

/// Orders that are not at the backend are counted where they wait; so are dead letters, until they are retried.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_wait_are_counted_where_they_wait() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("RETRY_DELAYS", "1h")
        .set("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 20)
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "1h");
    let hub = Hub::start(&quick(settings)).await;
    // At work.
    world.backend.hold();
    world.post_orders(&hub, ids("held", 3)).await;
    world
        .metric_becomes(&hub, &waiting("forward", "held"), |count| count == 3.0)
        .await;
    world
        .metric_becomes(&hub, "oldest_waiting_seconds{stage=\"forward\"}", |age| age > 0.5)
        .await;
    world.backend.release();
    world
        .metric_becomes(&hub, &waiting("forward", "held"), |count| count == 0.0)
        .await;
    world
        .metric_becomes(&hub, "oldest_waiting_seconds{stage=\"forward\"}", |age| age == 0.0)
        .await;
    // Parked, and news behind it.
    world.backend.always_for("CR-parked", Some(Answer::status(500)));
    assert_eq!(world.careem.post(&hub, &order("CR-parked")).await.status, 200);
    world.has_parked(1).await;
    assert_eq!(
        world.careem.post(&hub, &change("CR-parked", "cancelled")).await.status,
        200
    );
    world
        .metric_becomes(&hub, &waiting("forward", "parked"), |count| count == 2.0)
        .await;
    world
        .metric_becomes(&hub, "oldest_waiting_seconds{stage=\"forward\"}", |age| age > 1.0)
        .await;
    // Given up.
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    assert_eq!(world.careem.post(&hub, &order("CR-refused")).await.status, 200);
    let open = "dead_letters_open{stage=\"forward\",code=\"BACKEND_422\",provider=\"careem\"}";
    world.metric_becomes(&hub, open, |count| count == 1.0).await;
    world.backend.always_for("CR-refused", None);
    world.retry_dead_letters().await;
    world.metric_becomes(&hub, open, |count| count == 0.0).await;
    // Before the breaker: the set-up is wrong, which opens it at once.
    world.backend.otherwise(Answer::status(401));
    world.post_orders(&hub, ids("breaker", 4)).await;
    world
        .metric_becomes(&hub, &waiting("forward", "breaker"), |count| count == 4.0)
        .await;
    world
        .metric_becomes(&hub, &waiting("forward", "parked"), |count| count == 2.0)
        .await;
    // The one that takes over tells the same, of dead letters too; the first one has nothing left to tell.
    let next = Hub::start(&quick(world.settings())).await;
    world.backend.otherwise(Answer::Accept);
    world.backend.always_for("CR-parked", None);
    hub.tell_to_stop().await;
    world
        .metric_becomes(&next, &waiting("forward", "parked"), |count| count == 2.0)
        .await;
    world
        .metric_becomes(&next, "dead_letters_known", |known| known == 1.0)
        .await;
}

/// One line an order, with what one looks for it by, and without what its customer typed.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_ends_is_one_line_in_the_log() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    world
        .post_orders(&hub, ["CR-good", "CR-refused"].map(str::to_owned))
        .await;
    world.careem.post(&hub, &change("CR-good", "ready")).await.event_id();
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
    let ended = |order: &str| -> Vec<Value> {
        let lines = hub.log();
        let lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["message"] == "order ended" && line["orderId"] == order)
            .collect()
    };
    let good = ended("CR-good");
    assert_eq!(good.len(), 2, "{good:?}");
    for line in &good {
        let metadata = &line["metadata"];
        assert_eq!(
            (
                &line["level"],
                &line["provider"],
                &metadata["branch"],
                &metadata["outcome"]
            ),
            (
                &"info".into(),
                &"careem".into(),
                &"branch-uuid".into(),
                &"order.forwarded".into()
            ),
            "{line}"
        );
        assert_eq!(metadata["trace_id"].as_str().map(str::len), Some(32), "{line}");
        assert!(
            line["processingTime"].is_u64() || line["processingTime"].is_i64(),
            "{line}"
        );
    }
    let refused = ended("CR-refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["metadata"]["outcome"], "order.dead_lettered");
    for personal in ["Ahmed", "+962791234567", "King Abdullah"] {
        assert!(!hub.log().contains(personal), "{personal}");
    }
}
