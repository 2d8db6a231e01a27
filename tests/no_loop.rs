//! Whatever the backend answers and whatever is switched off, no order is asked for again without a pause.

use std::{collections::HashMap, time::Duration};

use crate::harness::{
    World,
    backend::Answer,
    hub::{Hub, Settings},
};

/// Least pause between two requests for one order, less what two clocks may differ by.
const LEAST: Duration = Duration::from_millis(200);

/// Every class of failure that the backend can answer, each for an order of its own.
fn failures() -> Vec<(String, Answer)> {
    let statuses = [400, 401, 403, 404, 408, 409, 413, 418, 422, 425, 429, 500, 503];
    let mut failures: Vec<_> = statuses
        .iter()
        .map(|status| (status.to_string(), Answer::status(*status)))
        .collect();
    let at_once = |status| Answer::Say(status, String::new(), vec![("retry-after", "0".into())]);
    failures.extend([
        ("429-at-once".into(), at_once(429)),
        ("503-at-once".into(), at_once(503)),
        ("200-without-id".into(), Answer::Say(200, "{}".into(), Vec::new())),
        ("redirect".into(), Answer::redirect(302, "https://elsewhere.example/")),
        ("hang".into(), Answer::Hang),
    ]);
    failures
}

/// Every switch at its least.
fn at_least(world: &World) -> Settings {
    world
        .settings()
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "100ms")
        .set("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 1)
        .set("RETRY_DELAYS", "100ms")
        .set("RETRY_MAX_ATTEMPTS", 100)
        .set("BACKEND_TIMEOUT", "500ms")
}

/// Lets the backend fail in every way and looks at the times of the requests, order by order.
async fn every_failure(settings: Settings, world: World) {
    let failures = failures();
    for (name, answer) in &failures {
        world.backend.always_for(&format!("CR-{name}"), Some(answer.clone()));
    }
    let hub = Hub::start(&settings).await;
    world
        .post_orders(&hub, failures.iter().map(|(name, _)| format!("CR-{name}")))
        .await;
    let requests = world.backend.wait_for(4 * failures.len()).await;
    let mut last = HashMap::new();
    let mut soon: HashMap<String, usize> = HashMap::new();
    for request in &requests {
        let order = request.external_order_id();
        if let Some(before) = last.insert(order.clone(), request.at)
            && request.at - before < LEAST
        {
            *soon.entry(order).or_default() += 1;
        }
    }
    assert!(
        soon.is_empty(),
        "requests that came too soon after the one before: {soon:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_loop_with_the_breaker() {
    let world = World::new().await;
    every_failure(at_least(&world), world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_loop_without_the_breaker() {
    let world = World::new().await;
    every_failure(at_least(&world).set("CIRCUIT_BREAKER_ENABLED", false), world).await;
}
