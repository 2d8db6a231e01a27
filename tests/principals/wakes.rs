//! News that wait for their order: what wakes them, and what does not.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    two_lanes::{corrected, of_another_day, patient_tenants, tenants},
    *,
};
use crate::harness::backend::ORDERS;

fn status_of_order(id: &str) -> String {
    format!("{ORDERS}/{id}/status")
}

impl Tenants {
    /// News of an order that the backend does not have, which are due in an hour.
    async fn news_wait(&self, by: Who, named: Who, id: &str) {
        let world = &self.outside.world;
        let unknown = Said::status(404);
        world
            .backend
            .next_for(id, [unknown.clone(), unknown.clone(), unknown.clone(), unknown]);
        self.say(by, named, &change(id, "cancelled")).await;
        world.log.wait_for(EventType::OrderForwardFailed, 4).await;
        world.has_parked(1).await;
    }

    /// The last request about an order was its cancellation.
    async fn cancellation_was_told_last(&self, id: &str) {
        eventually("the cancellation is told", PATIENCE, async || {
            let told = self.paths_of(id);
            if told.last() == Some(&status_of_order(id)) {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await;
    }
}

/// A cancellation comes before its order, of which the backend refuses two announcements. It takes the third one, and is told then.
#[tokio::test(flavor = "multi_thread")]
async fn refused_announcements_do_not_use_up_the_attempts_of_news() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-60";
    tenants.news_wait(Platform, B, id).await;
    world.backend.next_for(id, [Said::status(422), Said::status(422)]);
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let third = corrected(id).replace("26.24", "36.24");
    tenants.say(Platform, B, &third).await;
    world.at_end(Ends::forwarded(2).dead_lettered(2)).await;
    let orders = vec![ORDERS.to_owned(); 3];
    assert_eq!(tenants.paths_of(id)[4..], [orders, vec![status_of_order(id)]].concat());
}

/// A cancellation of branch A's order, by the platform, comes before its order. Branch B has orders with that number: by its own secret, and by the
/// platform's. They neither keep the cancellation's order nor use up its attempts.
#[tokio::test(flavor = "multi_thread")]
async fn another_branchs_orders_do_not_wake_news() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-61";
    tenants.news_wait(Platform, A, id).await;
    tenants.say(B, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let cancellations = || {
        let paths = tenants.paths_of(id);
        paths.iter().filter(|path| **path == status_of_order(id)).count()
    };
    assert_eq!(cancellations(), 4);
    tenants.say(Platform, A, &of_another_day(id)).await;
    tenants.cancellation_was_told_last(id).await;
    assert_eq!(cancellations(), 5);
}

/// A hub that ends when it has recorded the order that news in the other lane wait for. The next one tells them.
#[tokio::test(flavor = "multi_thread")]
async fn news_in_the_other_lane_are_told_after_a_takeover() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    outside.world.database.run(BRANCHES).await.unwrap();
    let settings = waiting_settings(&outside);
    let hub = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", "forward/after_outcome")).await;
    let tenants = Tenants {
        outside,
        hub,
        posted: Vec::new(),
    };
    let id = "CR-62";
    tenants.news_wait(B, B, id).await;
    tenants.say(Platform, B, &order(id)).await;
    tenants.outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    let _hub = Hub::start(&settings).await;
    tenants.cancellation_was_told_last(id).await;
}

/// The same in a rolling restart: the instance that stops finishes the order's request after it handed the stage over.
#[tokio::test(flavor = "multi_thread")]
async fn news_in_the_other_lane_are_told_after_a_handover() {
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    outside.world.database.run(BRANCHES).await.unwrap();
    let settings = waiting_settings(&outside);
    let hub = Hub::start(&settings).await;
    let tenants = Tenants {
        outside,
        hub,
        posted: Vec::new(),
    };
    let id = "CR-63";
    tenants.news_wait(B, B, id).await;
    let next = Hub::start(&settings).await;
    next.says("\"serving\"").await;
    tenants.outside.world.backend.hold();
    tenants.say(Platform, B, &order(id)).await;
    tenants.outside.world.backend.wait_for(5).await;
    tenants.hub.tell_to_stop().await;
    eventually("the next one forwards", PATIENCE, async || {
        let log = next.log();
        let works = log
            .lines()
            .any(|line| line.contains("\"working\"") && line.contains("\"forward\""));
        if works { Ok(()) } else { Err(log) }
    })
    .await;
    tenants.outside.world.backend.release();
    tenants.cancellation_was_told_last(id).await;
}

pub(super) fn waiting_settings(outside: &Outside) -> Settings {
    outside
        .settings_for("CAREEM")
        .set("CAREEM_ENABLED", true)
        .set("CAREEM_WEBHOOK_SECRET", SECRET)
        .set("CAREEM_BRANCH_SECRETS", true)
        .set("RATE_LIMIT_CAREEM", 1_000_000)
        .set("CIRCUIT_BREAKER_ENABLED", false)
        .set("RETRY_DELAYS", "1h")
}

/// Yesterday's and today's order were refused, and a cancellation of today's waits for it: in their lane, and in the other one. Yesterday's is
/// retried, and the backend takes it. The cancellation is not told of that one; a person sees it.
#[tokio::test(flavor = "multi_thread")]
async fn todays_cancellation_is_not_told_of_yesterdays_order() {
    for (id, by) in [("CR-64", Platform), ("CR-65", B)] {
        let tenants = Tenants::new(|more| {
            more.set("CIRCUIT_BREAKER_ENABLED", false)
                .set("RETRY_DELAYS", "3s")
                .set("RETRY_MAX_ATTEMPTS", 5)
        })
        .await;
        let world = &tenants.outside.world;
        world.backend.next_for(id, [Said::status(422), Said::status(422)]);
        tenants.say(Platform, B, &order(id)).await;
        let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        tenants.say(Platform, B, &of_another_day(id)).await;
        world.log.wait_for(EventType::OrderDeadLettered, 2).await;
        tenants.news_wait(by, B, id).await;
        tenants.retry(&dead[0]).await;
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        let dead = world.log.wait_for(EventType::OrderDeadLettered, 3).await;
        let said = payload(&dead[2]);
        assert_eq!(said["error"]["code"], "ANOTHER_ORDER", "{said}");
        assert_eq!(tenants.paths_of(id).last().map(String::as_str), Some(ORDERS));
        world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
    }
}

/// An order was refused and is asked for once more, without an answer that says whether the backend has it. Its cancellation, by another secret, was
/// accepted before that, and ends meanwhile. The order is not created; a person sees that it may be there.
async fn is_called_off_between_requests(id: &str, end: Said, is_retried: bool) {
    let tenants = tenants().await;
    let world = &tenants.outside.world;
    let (first, phase) = (OnceLock::new(), Arc::new(AtomicUsize::new(0)));
    let now = Arc::clone(&phase);
    let cancelled = end.clone();
    world.backend.by_rule(Some(Box::new(move |key, _| {
        let is_order = first.get_or_init(|| key.to_owned()) == key;
        match (now.load(Ordering::SeqCst), is_order) {
            (0, true) => Said::status(422),
            (0 | 1, _) | (2, true) => Said::status(503),
            (2, false) => cancelled.clone(),
            _ => Said::Accept,
        }
    })));
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world.log_forgets(&tenants.hub).await;
    tenants.say(B, B, &change(id, "cancelled")).await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    phase.store(1, Ordering::SeqCst);
    if is_retried {
        world.retry_dead_letters().await;
    } else {
        tenants.say(Platform, B, &order(id)).await;
    }
    eventually("it makes a request", PATIENCE, async || {
        let paths = tenants.paths_of(id);
        let orders = paths.iter().filter(|path| *path == ORDERS).count();
        if orders >= 2 { Ok(()) } else { Err(paths) }
    })
    .await;
    phase.store(2, Ordering::SeqCst);
    eventually("the cancellation ends", PATIENCE, async || {
        let events = world.log.events().await;
        let ends =
            |one: &Arc<webhook_hub::event::Recorded>| one.envelope.event_type.ends() && !one.envelope.is_creation();
        if events.iter().any(ends) {
            Ok(())
        } else {
            Err(events.len())
        }
    })
    .await;
    phase.store(3, Ordering::SeqCst);
    world.log.settled().await;
    let events = world.log.events().await;
    let dead = events
        .iter()
        .filter(|one| one.envelope.event_type == EventType::OrderDeadLettered);
    let codes: Vec<Value> = dead.map(|dead| payload(dead)["error"]["code"].clone()).collect();
    assert!(codes.contains(&json!("CALLED_OFF")), "{codes:?}");
    let is_created = |one: &Arc<webhook_hub::event::Recorded>| {
        one.envelope.event_type == EventType::OrderForwarded && one.envelope.is_creation()
    };
    assert!(!events.iter().any(is_created), "{:?}", tenants.paths_of(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_not_sent_again_after_a_cancellation_that_was_told() {
    is_called_off_between_requests("CR-66", Said::Accept, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_not_sent_again_after_a_cancellation_that_was_refused() {
    is_called_off_between_requests("CR-67", Said::status(422), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_not_sent_again_after_a_cancellation_that_was_told() {
    is_called_off_between_requests("CR-68", Said::Accept, false).await;
}
