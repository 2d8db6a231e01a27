//! One order in two lanes: the platform's secret proves some of its webhooks, and its branch's own secret the others.

use super::*;
use crate::harness::backend::ORDERS;

/// What is parked is tried again soon.
pub(super) async fn tenants() -> Tenants {
    let quick = |settings: Settings| {
        settings
            .set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "500ms")
    };
    Tenants::new(|more| quick(more).set("RETRY_MAX_ATTEMPTS", 50)).await
}

/// What is parked waits for longer than the test.
pub(super) async fn patient_tenants() -> Tenants {
    let long = |settings: Settings| settings.set("CIRCUIT_BREAKER_ENABLED", false).set("RETRY_DELAYS", "1h");
    Tenants::new(|more| long(more).set("RETRY_MAX_ATTEMPTS", 5)).await
}

pub(super) fn corrected(id: &str) -> String {
    order(id).replace("16.24", "26.24")
}

/// The same number on another day, for another customer's order.
pub(super) fn of_another_day(id: &str) -> String {
    corrected(id).replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z")
}

impl Tenants {
    pub(super) fn paths_of(&self, id: &str) -> Vec<String> {
        let requests = self.outside.world.backend.requests().into_iter();
        let of_order = requests.filter(|one| one.path.contains(id) || one.external_order_id() == id);
        of_order.map(|one| one.path).collect()
    }
}

/// The backend refused both announcements of an order. It has been mended, and both are retried at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_refused_announcements_that_are_retried_at_once_are_one_order() {
    let tenants = tenants().await;
    let world = &tenants.outside.world;
    world.backend.always_for("CR-30", Some(Said::status(422)));
    tenants
        .send("careem", Platform, Some(B), &order("CR-30"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.send("careem", B, Some(B), &corrected("CR-30")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.backend.always_for("CR-30", None);
    world.backend.takes(std::time::Duration::from_millis(700));
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.log.settled().await;
    assert_eq!(world.backend.accepted().len(), 1, "{:?}", world.backend.accepted());
    world.at_end(Ends::forwarded(1).ignored(1)).await;
}

/// A refused order is retried, and the backend has trouble with it then. Its cancellation waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_waits_for_the_retry_of_its_order() {
    let tenants = tenants().await;
    let world = &tenants.outside.world;
    world.backend.next_for("CR-31", [Said::status(422)]);
    tenants
        .send("careem", Platform, Some(B), &order("CR-31"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for("CR-31", Some(Said::status(503)));
    world.retry_dead_letters().await;
    world.has_parked(1).await;
    tenants
        .send("careem", B, Some(B), &change("CR-31", "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderTransformed, 2).await;
    let before = world.backend.count();
    world.backend.wait_for(before + 6).await;
    let early: Vec<_> = tenants
        .paths_of("CR-31")
        .into_iter()
        .filter(|path| path != ORDERS)
        .collect();
    assert!(early.is_empty(), "before its order: {early:?}");
    world.backend.always_for("CR-31", None);
    world.at_end(Ends::forwarded(2)).await;
}

/// The backend refused a status, and has trouble with a later one that another secret proved. The refused one is retried meanwhile: it waits
/// for the later one, and is not told after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_retried_and_waits_is_compared_after_that() {
    let tenants = tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-35";
    world.backend.next_for(id, [Said::Accept, Said::status(422)]);
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    tenants
        .send("careem", B, Some(B), &change(id, "preparing"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for(id, Some(Said::status(503)));
    tenants
        .send("careem", Platform, Some(B), &change(id, "picked_up"))
        .await
        .event_id();
    world.has_parked(1).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderRetryRequested, 1).await;
    let before = world.backend.count();
    world.backend.wait_for(before + 4).await;
    world.backend.always_for(id, None);
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    world.at_end(Ends::forwarded(2).ignored(1)).await;
}

impl Tenants {
    /// News of an order that the backend does not have: of the branch, which are tried again in an hour, and of the platform behind them.
    async fn news_before_their_order(&self, id: &str) {
        let world = &self.outside.world;
        world.backend.always_for(id, Some(Said::status(404)));
        self.send("careem", B, Some(B), &change(id, "preparing"))
            .await
            .event_id();
        world.log.wait_for(EventType::OrderForwardFailed, 4).await;
        self.send("careem", Platform, Some(B), &change(id, "picked_up"))
            .await
            .event_id();
        world.log.wait_for(EventType::OrderTransformed, 2).await;
        world.backend.always_for(id, None);
    }
}

/// News by both secrets come before their order. They do not keep it, and are told as soon as it is there.
#[tokio::test(flavor = "multi_thread")]
async fn news_in_two_lanes_let_their_order_pass() {
    let tenants = patient_tenants().await;
    let id = "CR-32";
    tenants.news_before_their_order(id).await;
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    tenants.outside.world.at_end(Ends::forwarded(3)).await;
    let paths = tenants.paths_of(id);
    let status = format!("{ORDERS}/{id}/status");
    assert_eq!(paths[4..], [ORDERS.to_owned(), status.clone(), status]);
}

/// The same, and the order comes by both secrets. No event waits for one that waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn news_in_two_lanes_and_announcements_in_both_wait_in_no_circle() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-33";
    tenants.news_before_their_order(id).await;
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.log.wait_for(EventType::OrderTransformed, 3).await;
    tenants.send("careem", B, Some(B), &corrected(id)).await.event_id();
    world.at_end(Ends::forwarded(3).ignored(1)).await;
}

/// The backend cannot handle yesterday's order. Today's order with its number is proven by another secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_used_again_does_not_wait_for_another_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let away = Said::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.next_for("CR-34", [away.clone(), away]);
    tenants
        .send("careem", Platform, Some(B), &order("CR-34"))
        .await
        .event_id();
    world.has_parked(1).await;
    tenants
        .send("careem", B, Some(B), &of_another_day("CR-34"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

/// The same, and a correction of yesterday's order, which waits for that, is before today's order in its lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_used_again_does_not_wait_behind_what_waits_for_another_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-36";
    let away = Said::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.next_for(id, [away.clone(), away]);
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.has_parked(1).await;
    tenants.send("careem", B, Some(B), &corrected(id)).await.event_id();
    world.has_parked(2).await;
    tenants.send("careem", B, Some(B), &of_another_day(id)).await.event_id();
    // The correction finds out that the backend has yesterday's order, and then today's is judged.
    world.log.wait_for(EventType::OrderIgnored, 2).await;
    world.at_end(Ends::forwarded(1).ignored(2)).await;
}

/// A refused announcement is retried, and waits for another one of its order, behind which its cancellation stands. The backend refuses both of
/// those. The retry does not create what was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_waited_is_compared_with_a_cancellation_that_ended_meanwhile() {
    let tenants = tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-37";
    world.backend.next_for(id, [Said::status(422)]);
    tenants.send("careem", B, Some(B), &order(id)).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.backend.always_for(id, Some(Said::status(503)));
    tenants
        .send("careem", Platform, Some(B), &corrected(id))
        .await
        .event_id();
    world.has_parked(1).await;
    let cancelled = change(id, "cancelled");
    tenants.send("careem", Platform, Some(B), &cancelled).await.event_id();
    world.log.wait_for(EventType::OrderTransformed, 3).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderRetryRequested, 1).await;
    // It has been compared, and waits.
    world.backend.wait_for(world.backend.count() + 2).await;
    world.backend.next_for(id, [Said::status(422), Said::status(422)]);
    world.backend.always_for(id, None);
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let paths = tenants.paths_of(id);
    assert!(world.backend.accepted().is_empty(), "{paths:?}");
    world.at_end(Ends::forwarded(0).ignored(1).dead_lettered(2)).await;
}

/// A branch without other traffic, with the breaker open: the backend fails for yesterday's order only. Its correction waits for it in the other
/// lane, and today's order behind that. Yesterday's does not take each trial for ever.
#[tokio::test(flavor = "multi_thread")]
async fn trials_of_an_earlier_order_end_where_another_order_waits() {
    let tenants = Tenants::new(|more| {
        more.set("CIRCUIT_BREAKER_RESET_TIMEOUT", "500ms")
            .set("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 3)
            .set("RETRY_DELAYS", "1h")
            .set("RETRY_MAX_ATTEMPTS", 50)
            .set("HUB_TEST_TIMES", "look_at_lane_again=500ms,trials_before_another=3s")
    })
    .await;
    let world = &tenants.outside.world;
    let id = "CR-38";
    let first = std::sync::OnceLock::new();
    world.backend.by_rule(Some(Box::new(move |key, _| {
        let is_first = first.get_or_init(|| key.to_owned()) == key;
        if is_first { Said::status(503) } else { Said::Accept }
    })));
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.has_parked(1).await;
    tenants.send("careem", B, Some(B), &corrected(id)).await.event_id();
    world.has_parked(2).await;
    tenants.send("careem", B, Some(B), &of_another_day(id)).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.by_rule(None);
    world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
}

/// The backend refused yesterday's order and today's with its number, by two secrets, and both are retried. It cannot take yesterday's now.
/// Today's does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_retried_order_does_not_wait_for_an_earlier_one_that_is_retried() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-41";
    let away = Said::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    let refused = Said::status(422);
    world
        .backend
        .next_for(id, [refused.clone(), refused, away.clone(), away]);
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.send("careem", B, Some(B), &of_another_day(id)).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.retry_dead_letters().await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

/// Yesterday's order waits for its retry, for longer than the memory of orders reaches. Today's with its number is proven by the other secret.
/// Yesterday's is not created after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_order_is_not_created_last_after_the_window() {
    let tenants = Tenants::new(|more| {
        more.set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "1h")
            .set("HUB_TEST_TIMES", "order_memory=2s,order_memory_wait=10s")
    })
    .await;
    let world = &tenants.outside.world;
    let id = "CR-42";
    let away = Said::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.next_for(id, [away.clone(), away]);
    tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
    world.has_parked(1).await;
    let began = std::time::Instant::now();
    eventually("the window is over", PATIENCE, async || {
        let passed = began.elapsed();
        if passed > std::time::Duration::from_secs(3) {
            Ok(())
        } else {
            Err(passed)
        }
    })
    .await;
    tenants.send("careem", B, Some(B), &of_another_day(id)).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

mod long {
    use std::time::Duration;

    use super::*;
    use crate::harness::ids;

    /// Many events are in memory, and the backend fails for the branch. Two lanes of one order do not wake each other all the time.
    #[tokio::test(flavor = "multi_thread")]
    async fn two_lanes_do_not_wake_each_other_without_a_pause() {
        const MEASURED: Duration = Duration::from_secs(5);
        let tenants = Tenants::new(|more| {
            more.set("CIRCUIT_BREAKER_RESET_TIMEOUT", "60s")
                .set("RETRY_DELAYS", "1h")
                .set("BACKEND_TIMEOUT", "60s")
                .set("BACKEND_MAX_REQUESTS", 16)
                .set("RETRY_MAX_ATTEMPTS", 50)
        })
        .await;
        let world = &tenants.outside.world;
        let id = "CR-39";
        world.backend.always_for(id, Some(Said::status(503)));
        tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
        world.has_parked(1).await;
        tenants.send("careem", B, Some(B), &corrected(id)).await.event_id();
        world.has_parked(2).await;
        tenants
            .send("careem", Platform, Some(A), &order("CR-a"))
            .await
            .event_id();
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        for other in ids("b", 6) {
            world.backend.always_for(&other, Some(Said::status(500)));
            tenants
                .send("careem", Platform, Some(B), &order(&other))
                .await
                .event_id();
        }
        // A slow backend and many orders of the other branch.
        world.backend.takes(Duration::from_millis(1500));
        world.post_orders(&tenants.hub, ids("slow", 950)).await;
        world.log.wait_for(EventType::OrderTransformed, 959).await;
        // A rate: writes in so long, before and after today's order came.
        let in_a_while = async || {
            let before = world.lane_writes().await;
            tokio::time::sleep(MEASURED).await;
            world.lane_writes().await - before
        };
        let calm = in_a_while().await;
        tenants.send("careem", B, Some(B), &of_another_day(id)).await.event_id();
        let busy = in_a_while().await;
        assert!(busy < calm + 50, "{calm} writes before, {busy} after");
        tenants.hub.kill().await;
    }

    /// An order waited for half a minute, and its cancellation, which another secret proved, for it. The cancellation goes as soon as the backend has
    /// the order, and not when it would be looked at next.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_cancellation_goes_at_once_after_its_order() {
        let tenants = tenants().await;
        let world = &tenants.outside.world;
        let id = "CR-40";
        world.backend.always_for(id, Some(Said::status(503)));
        tenants.send("careem", Platform, Some(B), &order(id)).await.event_id();
        world.has_parked(1).await;
        let cancelled = change(id, "cancelled");
        tenants.send("careem", B, Some(B), &cancelled).await.event_id();
        let due = async || {
            let lanes = world.lanes().await;
            let waits = lanes.into_iter().find(|lane| lane["requests"] == 0);
            waits.map(|lane| {
                lane["dueAt"]
                    .as_str()
                    .unwrap()
                    .parse::<chrono::DateTime<chrono::Utc>>()
                    .unwrap()
            })
        };
        // It was just looked at, and would be in three seconds.
        eventually("it waits for long", 2 * PATIENCE, async || {
            let left = due().await.map(|due| due - chrono::Utc::now());
            if left.is_some_and(|left| left.num_milliseconds() > 3_000) {
                Ok(())
            } else {
                Err(left)
            }
        })
        .await;
        // What joins the lane does not make the hub forget what its head waits for.
        let again = change(id, "cancelled").replacen('{', "{\"attempt\": 2,", 1);
        tenants.send("careem", B, Some(B), &again).await.event_id();
        eventually("it joined", PATIENCE, async || {
            let lanes = world.lanes().await;
            let waits = |lane: &Value| lane["waiting"].as_array().is_some_and(|all| !all.is_empty());
            if lanes.iter().any(waits) { Ok(()) } else { Err(lanes) }
        })
        .await;
        let due = due().await.unwrap();
        world.backend.always_for(id, None);
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        assert!(chrono::Utc::now() < due, "it was told only when it was due");
        world.at_end(Ends::forwarded(3)).await;
    }
}
