//! Restaurants stay apart at the backend: a branch with requests that hang or fail leaves the others their requests.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::order,
    hub::{Hub, Settings, run},
    ids,
    wait::{PATIENCE, eventually, heavy},
};

/// The first branch.
const BRANCH: &str = "branch-uuid";
/// The merchant of the second one.
const OTHER: &str = "merchant-2";

/// A world with two branches.
async fn two_branches() -> World {
    let world = World::new().await;
    let other = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
                 VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";
    world.database.run(other).await.unwrap();
    world
}

/// While so many orders of one branch get no answer, those of another one arrive. None of the first has failed yet, so the breaker
/// knows nothing of it.
async fn others_arrive_beside_those_that_hang(hanging: usize, slots: usize, set: impl Fn(Settings) -> Settings) {
    const GOOD: usize = 10;
    let _turn = heavy().await;
    let world = two_branches().await;
    // Longer than this part of the test.
    let settings = world.settings().set("BACKEND_TIMEOUT", "60s");
    let hub = Hub::start(&set(settings)).await;
    world.post_as(&hub, OTHER, &order("CR-first")).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    for id in ids("hangs", hanging) {
        world.backend.always_for(&id, Some(Answer::Hang));
    }
    world.post_orders(&hub, ids("hangs", hanging)).await;
    world.log.wait_for(EventType::OrderTransformed, 1 + hanging).await;
    for id in ids("good", GOOD) {
        world.post_as(&hub, OTHER, &order(&id)).await;
    }
    world.log.wait_for(EventType::OrderForwarded, 1 + GOOD).await;
    let events = world.log.events().await;
    let mut types = events.iter().map(|event| event.envelope.event_type);
    assert!(types.all(|one| one != EventType::OrderForwardFailed));
    let hang = ids("hangs", hanging)
        .into_iter()
        .filter(|id| world.requests_about(id) > 0)
        .count();
    assert!((1..slots).contains(&hang), "{hang} of {slots} requests hang");

    hub.kill().await;
    for id in ids("hangs", hanging) {
        world.backend.always_for(&id, None);
    }
    let _hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1 + hanging + GOOD)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_hangs_leaves_requests_to_others_where_there_are_few() {
    others_arrive_beside_those_that_hang(100, 4, |settings| settings.set("BACKEND_MAX_REQUESTS", 4)).await;
}

/// Orders that fail again and again, as many as a branch has trials in a reset time. Without turns they would take all of those.
const POISONS: usize = 3;

/// How often the backend was asked for each of these.
fn attempts(world: &World, ids: &[String]) -> Vec<usize> {
    ids.iter().map(|id| world.requests_about(id)).collect()
}

/// Some of these orders were tried since then, and not only the others.
fn were_tried(world: &World, ids: &[String], before: &[usize]) {
    let after = attempts(world, ids);
    assert_ne!(after, before, "the orders that fail were not tried meanwhile");
}

/// The backend fails for a branch, and then for some of its orders only, which are tried again soon. Those do not take each trial: the
/// others get through, and show that the branch is well again.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_fail_again_do_not_take_each_trial() {
    const OTHERS: usize = 15;
    let world = World::new().await;
    let settings = world
        .settings()
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "500ms")
        .set("RETRY_DELAYS", "300ms")
        .set("RETRY_MAX_ATTEMPTS", 100);
    let hub = Hub::start(&settings).await;
    let poisons = ids("poison", POISONS);
    for id in &poisons {
        world.backend.always_for(id, Some(Answer::status(500)));
    }
    world.post_orders(&hub, poisons.clone()).await;
    world.has_parked(POISONS).await;
    world.backend.otherwise(Answer::status(500));
    world.post_orders(&hub, ids("other", OTHERS)).await;
    eventually("others fail", PATIENCE, async || {
        let failed = ids("other", OTHERS)
            .into_iter()
            .filter(|id| world.requests_about(id) > 0)
            .count();
        if failed > 2 { Ok(()) } else { Err(failed) }
    })
    .await;
    let before = attempts(&world, &poisons);
    world.backend.otherwise(Answer::Accept);
    world.log.wait_for(EventType::OrderForwarded, OTHERS).await;
    were_tried(&world, &poisons, &before);
    for id in &poisons {
        world.backend.always_for(id, None);
    }
    world.at_end(Ends::forwarded(POISONS + OTHERS)).await;
}

/// The same for two branches, whose failures open the breaker for all.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_two_branches_that_fail_again_do_not_take_each_trial() {
    const OTHERS: usize = 10;
    let world = two_branches().await;
    let settings = world
        .settings()
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "500ms")
        .set("RETRY_DELAYS", "300ms")
        .set("RETRY_MAX_ATTEMPTS", 100);
    let hub = Hub::start(&settings).await;
    let (first, second) = (ids("poison-1", POISONS), ids("poison-2", POISONS));
    let poisons = [first.clone(), second.clone()].concat();
    for id in &poisons {
        world.backend.always_for(id, Some(Answer::status(500)));
    }
    world.post_orders(&hub, first).await;
    for id in second {
        world.post_as(&hub, OTHER, &order(&id)).await;
    }
    world.has_parked(2 * POISONS).await;
    world.breaker_becomes(&hub, "open").await;
    let before = attempts(&world, &poisons);
    world.post_orders(&hub, ids("first", OTHERS)).await;
    for id in ids("second", OTHERS) {
        world.post_as(&hub, OTHER, &order(&id)).await;
    }
    world.log.wait_for(EventType::OrderForwarded, 2 * OTHERS).await;
    were_tried(&world, &poisons, &before);
    for id in &poisons {
        world.backend.always_for(id, None);
    }
    world.at_end(Ends::forwarded(2 * POISONS + 2 * OTHERS)).await;
}

/// Since when the backend fails for a branch.
fn since(failing: &Value) -> DateTime<Utc> {
    failing["since"].as_str().unwrap().parse().unwrap()
}

/// What a hub's health says of the branches that the backend fails for, once so many of its events wait.
async fn failing(world: &World, hub: &Hub, waiting: usize) -> Value {
    eventually("health names the failing branch", PATIENCE, async || {
        let breaker = world.breaker(hub).await;
        let failing = breaker["failingBranches"].as_array().cloned().unwrap_or_default();
        match failing.first() {
            Some(first) if first["waiting"] == waiting => Ok(breaker),
            _ => Err(breaker),
        }
    })
    .await
}

/// Health of each instance and `status` name the branch, since when, how many of its events wait, in memory and parked, and how the last
/// request failed; after a takeover, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_branch_is_named() {
    const WAITING: usize = 8;
    let world = two_branches().await;
    let operator = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let settings = world
        .settings()
        // Longer than the test: what waits in memory stays there, and what is parked stays parked.
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "60s")
        .set("RETRY_DELAYS", "1h");
    let at_work = Hub::start(&settings).await;
    at_work.says("serving").await;
    let stands_by = Hub::start(&settings).await;
    world.post_as(&at_work, OTHER, &order("CR-first")).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    for id in ids("bad", WAITING) {
        world.backend.always_for(&id, Some(Answer::status(502)));
    }
    // One is parked before the others come.
    world.post_orders(&at_work, ids("bad", 1)).await;
    world.has_parked(1).await;
    world
        .post_orders(&at_work, ids("bad", WAITING).into_iter().skip(1))
        .await;
    let mut began = None;
    for hub in [&at_work, &stands_by] {
        let breaker = failing(&world, hub, WAITING).await;
        assert_eq!(breaker["failingBranchesInAll"], 1, "{breaker}");
        let named = &breaker["failingBranches"][0];
        assert_eq!(
            (&named["branch"], &named["code"]),
            (&json!(BRANCH), &json!("BACKEND_502")),
            "{breaker}"
        );
        let known = *began.get_or_insert_with(Utc::now);
        assert!(since(named) <= known, "{breaker}");
        let public = world
            .careem
            .request(Method::GET, &format!("{}/health", hub.url()))
            .await;
        assert!(!public.text.contains(BRANCH), "{}", public.text);
    }
    let ran = run(&operator, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    let problems = status["problems"].as_array().unwrap();
    let problem = problems.iter().find(|problem| problem["code"] == "branch_failing");
    let message = problem
        .and_then(|problem| problem["message"].as_str())
        .unwrap_or_default();
    for part in [BRANCH, "BACKEND_502", &format!("{WAITING} events")] {
        assert!(message.contains(part), "{part}: {status}");
    }
    assert_eq!(ran.code, Some(1), "{}", ran.said());

    at_work.kill().await;
    // Who takes over has read the lanes, and still knows since when.
    stands_by.says("working").await;
    let breaker = failing(&world, &stands_by, WAITING).await;
    assert!(
        began.is_some_and(|began| since(&breaker["failingBranches"][0]) <= began),
        "{breaker}"
    );
    stands_by.kill().await;
}

mod long {
    use super::*;

    /// More orders hang than an instance holds in memory.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_branch_that_hangs_leaves_requests_to_others() {
        others_arrive_beside_those_that_hang(1_100, 128, |settings| settings).await;
    }

    /// More orders fail of one branch than an instance holds in memory. They are parked, and those of another branch are read.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_branch_that_fails_leaves_memory_to_others() {
        const BAD: usize = 1_100;
        const GOOD: usize = 5;
        let _turn = heavy().await;
        let world = two_branches().await;
        // Longer than this part of the test.
        let patient = world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "60s");
        let hub = Hub::start(&patient).await;
        for id in ids("bad", BAD) {
            world.backend.always_for(&id, Some(Answer::status(500)));
        }
        world.post_orders(&hub, ids("bad", BAD)).await;
        world.log.wait_for(EventType::OrderTransformed, BAD).await;
        for id in ids("good", GOOD) {
            world.post_as(&hub, OTHER, &order(&id)).await;
        }
        world.log.wait_for(EventType::OrderForwarded, GOOD).await;
        failing(&world, &hub, BAD).await;
        hub.kill().await;
    }
}
