//! A number that is used again, where the platform's secret or its branch's own proves a webhook: which order is meant.

use super::{
    two_lanes::{corrected, of_another_day, patient_tenants},
    *,
};

/// The backend cannot take it, and wants to be left alone for longer than the test.
pub(super) fn away() -> Said {
    Said::Say(503, String::new(), vec![("retry-after", "3600".into())])
}

impl Tenants {
    pub(super) async fn say(&self, by: Who, named: Who, body: &str) {
        self.send("careem", by, Some(named), body).await.event_id();
    }

    pub(super) async fn retry(&self, letter: &webhook_hub::event::Recorded) {
        let id = letter.envelope.id.to_string();
        let arguments = ["dead-letters", "retry", &id];
        run(&self.outside.world.nats.settings("hub"), &arguments)
            .await
            .expect_success();
    }

    /// Yesterday's and today's order were refused. Yesterday's is retried, and cannot be taken.
    async fn yesterdays_is_retried(&self, id: &str, todays_by: Who) {
        let world = &self.outside.world;
        let refused = Said::status(422);
        world.backend.next_for(id, [refused.clone(), refused, away(), away()]);
        self.say(Platform, B, &order(id)).await;
        let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        self.say(todays_by, B, &of_another_day(id)).await;
        world.log.wait_for(EventType::OrderDeadLettered, 2).await;
        self.retry(&dead[0]).await;
        world.has_parked(1).await;
    }
}

fn announced_again(id: &str) -> String {
    of_another_day(id).replace("26.24", "36.24")
}

/// Today's order is announced again. It is another order than yesterday's, though an announcement of itself came before.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_announced_again_does_not_wait_for_a_retry_of_yesterdays() {
    let tenants = patient_tenants().await;
    tenants.yesterdays_is_retried("CR-52", Platform).await;
    tenants.say(Platform, B, &announced_again("CR-52")).await;
    tenants.outside.world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
}

/// The same, with today's order in the other lane.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_announced_again_in_the_other_lane_does_not_wait_for_a_retry_of_yesterdays() {
    let tenants = patient_tenants().await;
    tenants.yesterdays_is_retried("CR-53", B).await;
    tenants.say(B, B, &announced_again("CR-53")).await;
    tenants.outside.world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
}

/// Branch B's order was refused. Branch A's order with the number waits for its retry. B's is announced again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_announced_again_does_not_wait_for_another_branchs() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-55";
    world.backend.next_for(id, [Said::status(422), away()]);
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.say(Platform, A, &of_another_day(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert_eq!(world.lanes().await.len(), 1, "A's order waits on");
}

/// Yesterday's status cannot be told. Today's order, by the branch's secret, was refused, and is announced again by the platform's.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_announced_again_does_not_wait_for_a_status_of_yesterdays() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-58";
    let refused = Said::status(422);
    world.backend.next_for(id, [refused.clone(), away(), refused, away()]);
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.say(Platform, B, &change(id, "preparing")).await;
    world.has_parked(1).await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    tenants.say(Platform, B, &announced_again(id)).await;
    world.at_end(Ends::forwarded(1).dead_lettered(3)).await;
}

/// Yesterday's and today's order were refused, and today's was cancelled. Yesterday's, which nobody cancelled, is retried.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_yesterdays_order_is_not_ended_for_a_cancellation_of_todays() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-59";
    let refused = Said::status(422);
    world.backend.next_for(id, [refused.clone(), refused.clone(), refused]);
    tenants.say(Platform, B, &order(id)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    tenants.retry(&dead[0]).await;
    world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
}

/// Yesterday's order is at the backend, and today's with its number ended as a duplicate that is another order. A cancellation of today's is not
/// told of yesterday's; a person sees both.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_duplicate_that_is_another_order_are_not_told_of_the_first() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-70";
    tenants.say(Platform, B, &order(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    tenants.say(Platform, B, &of_another_day(id)).await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0]["differs"], true);
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "ANOTHER_ORDER", "{}", dead[0]);
    assert_eq!(world.backend.count(), 1);
    world.at_end(Ends::forwarded(1).ignored(1).dead_lettered(1)).await;
}

/// An order is announced again with a shortened name and a masked phone. That is a duplicate for a person to see, and its cancellation is told.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_an_order_whose_customer_is_written_in_another_way_are_told() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-71";
    let by = |name: &str, phone: &str| {
        let mut body: Value = serde_json::from_str(&order(id)).unwrap();
        body["customer"]["name"] = json!(name);
        body["customer"]["phone_number"] = json!(phone);
        body.to_string()
    };
    tenants.say(Platform, B, &by("Lina Haddad", "+962790000000")).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    tenants.say(Platform, B, &by("Lina H.", "+962791111111")).await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0]["differs"], true, "{}", ignored[0]);
    tenants.say(Platform, B, &change(id, "cancelled")).await;
    world.at_end(Ends::forwarded(2).ignored(1)).await;
    assert_eq!(tenants.paths_of(id).len(), 2, "the order and its cancellation");
}

mod long {
    use super::*;

    /// An order was asked for once. The breaker opens for another reason, and today's order with its number comes. Trials of the first one fail:
    /// they say nothing of it, however few requests it had.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_trial_of_an_order_with_few_requests_does_not_end_it() {
        let tenants = Tenants::new(|more| {
            more.set("CIRCUIT_BREAKER_RESET_TIMEOUT", "1s")
                .set("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 3)
                .set("RETRY_DELAYS", "1h")
                .set("RETRY_MAX_ATTEMPTS", 50)
                .set("HUB_TEST_TIMES", "look_at_lane_again=500ms,trials_before_another=120s")
        })
        .await;
        let world = &tenants.outside.world;
        let id = "CR-84";
        world.backend.next_for(id, [away()]);
        tenants.say(Platform, B, &order(id)).await;
        world.has_parked(1).await;
        world.backend.otherwise(Said::status(503));
        for number in 0..4 {
            tenants.say(Platform, B, &order(&format!("CR-o-{number}"))).await;
            tenants.say(Platform, A, &order(&format!("CR-p-{number}"))).await;
        }
        eventually("the breaker is open", PATIENCE, async || {
            let health = world.breaker(&tenants.hub).await;
            if health["state"] == "closed" {
                Err(health)
            } else {
                Ok(())
            }
        })
        .await;
        tenants.say(Platform, B, &of_another_day(id)).await;
        let requests = || {
            let all = world.backend.requests().into_iter();
            all.filter(|one| one.external_order_id() == id).count()
        };
        // Five and more were parked as uncounted trials before, too.
        eventually("its trials fail", 4 * PATIENCE, async || {
            if requests() >= 5 { Ok(()) } else { Err(requests()) }
        })
        .await;
        let events = world.log.events().await;
        let dead = events
            .iter()
            .find(|one| one.envelope.event_type == EventType::OrderDeadLettered);
        assert!(dead.is_none(), "{}", payload(dead.unwrap()));
        tenants.hub.kill().await;
    }
}
