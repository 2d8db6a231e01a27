//! A fault of one branch affects that branch only: requests for the others are still sent.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    hub::Hub,
    log::payload,
    outside::{CAREEM_POS, Outside, send},
    platform::Say,
    wait::{PATIENCE, eventually},
};

const MENU: &str = include_str!("fixtures/menu.json");
/// `branch-id` of the branch that every [`Outside`] has.
const GOOD: &str = "store-9";

impl Outside {
    /// With this many more branches: `branch-2` has `store-2`, and so on.
    async fn with_branches(file: &str, last: usize) -> Self {
        let outside = Self::new(&file.replace("requests_per_second = 10\n", "")).await;
        for number in 2..=last {
            let row = format!(
                r#"INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id, settings)
                VALUES ('config-{number}', 'branch-{number}', 'provider-careem', 'company-uuid', 'merchant-{number}',
                    'store-{number}', '{{"brandId": "brand-7"}}')"#
            );
            outside.world.database.run(&row).await.unwrap();
        }
        outside
    }

    async fn ask_for(&self, hub: &Hub, branch: &str, order: &str) {
        let body = json!({ "status": "accepted", "branchId": branch }).to_string();
        let path = format!("orders/careem/{order}/status");
        assert_eq!(send(hub, Method::POST, &path, &body, &[]).await.status, 202);
    }

    /// Calls of a branch that were told this status.
    fn told(&self, branch_id: &str, status: u16) -> usize {
        let calls = self.provider.calls();
        let of_branch = calls.iter().filter(|call| call.header("branch-id") == branch_id);
        of_branch.filter(|call| call.status == status).count()
    }

    async fn told_at_least(&self, branch_id: &str, status: u16, count: usize) {
        eventually("the branch is told so", PATIENCE, async || {
            let told = self.told(branch_id, status);
            if told >= count { Ok(()) } else { Err(told) }
        })
        .await;
    }
}

fn attempts(pushed: &[Value]) -> Vec<u64> {
    pushed.iter().map(|one| one["attempts"].as_u64().unwrap()).collect()
}

/// How long it took from the request to the provider's answer.
fn median(pushed: &[Value]) -> TimeDelta {
    let time = |one: &Value, field: &str| one[field].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let mut took: Vec<_> = pushed
        .iter()
        .map(|one| time(one, "pushedAt") - time(one, "requestedAt"))
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// The provider refuses one branch, even with a new token: only that request has failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_branch_stops_no_other() {
    let outside = Outside::with_branches(CAREEM_POS, 2).await;
    outside.provider.on_branch("store-2", Say::status(401));
    let hub = Hub::start(&outside.settings().set("RETRY_MAX_ATTEMPTS", 1)).await;
    outside.ask_for(&hub, "branch-2", "CR-refused").await;
    outside.told_at_least("store-2", 401, 2).await;
    for number in 0..20 {
        outside.ask_for(&hub, "branch-uuid", &format!("CR-{number}")).await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 20).await;
    assert_eq!(attempts(&pushed), [1; 20]);
    // It is counted, given up, and named in the log and in the dead letter.
    let dead = outside.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    assert_eq!(
        (
            &dead["error"]["code"],
            &dead["error"]["details"]["branch"],
            &dead["attempts"]
        ),
        (&json!("PROVIDER_401"), &json!("branch-2"), &json!(5))
    );
    let log = hub.log();
    assert!(!log.contains("circuit breaker open"), "{log}");
    let named = log.lines().filter(|line| line.contains("PROVIDER_401"));
    assert!(named.clone().count() >= 5);
    named.for_each(|line| assert!(line.contains("branch-2"), "{line}"));
    assert!(!log.contains("secret-at-the-provider") && !log.contains("token-1"));
    // One new token is asked for because of it, not one for each attempt.
    assert_eq!(outside.provider.tokens(), 2);
    outside.provider.forget_branch("store-2");
    outside.world.retry_dead_letters().await;
    outside.payloads(EventType::OrderStatusPushed, 21).await;
    outside.world.at_end(Ends::default()).await;
}

/// Under load, one branch is refused and another one's menu is: what the third is told is told at the first attempt, by
/// requests that go on while theirs are tried again.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_a_wrong_menu_slow_no_other_branch() {
    let outside = Outside::with_branches(CAREEM_POS, 3).await;
    outside.provider.on_branch("store-2", Say::status(401));
    outside.provider.on_branch("store-3", Say::status(400));
    let hub = Hub::start(&outside.settings().set("RETRY_MAX_ATTEMPTS", 1)).await;
    // The time without any trouble, on this machine.
    for number in 0..100 {
        outside
            .ask_for(&hub, "branch-uuid", &format!("CR-alone-{number}"))
            .await;
    }
    let alone = outside.payloads(EventType::OrderStatusPushed, 100).await;
    for number in 0..100 {
        outside.ask_for(&hub, "branch-2", &format!("CR-refused-{number}")).await;
        if number % 10 == 0 {
            let answer = send(&hub, Method::PUT, "menus/careem/branch-3", MENU, &[]).await;
            assert_eq!(answer.status, 202);
        }
        outside.ask_for(&hub, "branch-uuid", &format!("CR-good-{number}")).await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 200).await;
    assert_eq!(attempts(&pushed), [1; 200]);
    // Twice, and what a busy machine does to a single request; with the breaker open it was half a minute.
    let (without, with) = (median(&alone), median(&pushed[100..]));
    assert!(
        with <= without * 2 + TimeDelta::milliseconds(250),
        "{with} where it was {without}"
    );
    println!(
        "told after {} ms without and {} ms with the others' trouble",
        without.num_milliseconds(),
        with.num_milliseconds()
    );
    let log = hub.log();
    assert!(!log.contains("circuit breaker open"), "{log}");
    // All of them, before the first of the others was tried for the third time.
    let calls = outside.provider.calls();
    let good = calls.iter().rposition(|call| call.header("branch-id") == GOOD).unwrap();
    let third = calls
        .iter()
        .enumerate()
        .filter(|(_, call)| call.path == "/orders/CR-refused-99");
    assert!(third.map(|(at, _)| at).nth(3).is_none_or(|at| at > good));
    outside.world.log.wait_for(EventType::OrderDeadLettered, 110).await;
    outside.world.at_end(Ends::default().dead_lettered(110)).await;
}

/// Several branches are refused and none is taken meanwhile: that is the hub's own trouble, and what is for the provider
/// waits.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_several_branches_open_the_providers_breaker() {
    let outside = Outside::with_branches(CAREEM_POS, 4).await;
    for number in 2..=4 {
        outside.provider.on_branch(&format!("store-{number}"), Say::status(401));
    }
    let settings = outside.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "3s");
    let hub = Hub::start(&settings).await;
    for number in 2..=4 {
        outside
            .ask_for(&hub, &format!("branch-{number}"), &format!("CR-{number}"))
            .await;
    }
    let open = r#"provider_circuit_breaker_state{provider="careem",state="open"} 1"#;
    outside.world.metrics_say(&hub, open).await;
    outside.ask_for(&hub, "branch-uuid", "CR-waits").await;
    for number in 2..=4 {
        outside.provider.forget_branch(&format!("store-{number}"));
    }
    let events = outside.world.log.wait_for(EventType::OrderStatusPushed, 4).await;
    let waited = events
        .iter()
        .find(|event| event.envelope.external_order_id == "CR-waits");
    assert_eq!(payload(waited.unwrap())["attempts"], 1, "it was not tried meanwhile");
    outside.world.at_end(Ends::default()).await;
}

/// No token is given and the breaker is switched off: the provider is asked for one now and then, not for each of a crowd.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_breaker_no_token_is_requested_in_a_loop() {
    let outside = Outside::with_branches(CAREEM_POS, 1).await;
    let settings = outside.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let wrong = settings.clone().set("CAREEM_CLIENT_SECRET", "wrong-word");
    let hub = Hub::start(&wrong.set("CIRCUIT_BREAKER_RESET_TIMEOUT", "100ms")).await;
    let began = std::time::Instant::now();
    for number in 0..50 {
        outside.ask_for(&hub, "branch-uuid", &format!("CR-{number}")).await;
    }
    eventually("it is asked again", PATIENCE, async || {
        let requests = outside.provider.token_requests();
        if requests >= 2 { Ok(()) } else { Err(requests) }
    })
    .await;
    let seconds = began.elapsed().as_secs() as usize;
    let requests = outside.provider.token_requests();
    assert!(
        requests <= 2 + seconds / 4,
        "{requests} requests for a token in {seconds} s"
    );
    hub.kill().await;
    let _hub = Hub::start(&settings).await;
    let pushed = outside.payloads(EventType::OrderStatusPushed, 50).await;
    assert_eq!(attempts(&pushed), [1; 50]);
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// The branch was switched off, or its row is another one by now: its order is in the kitchen, and can still be accepted and
/// cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_for_a_branch_that_was_switched_off_is_still_sent() {
    let outside = Outside::with_branches(CAREEM_POS, 2).await;
    let hub = outside.hub().await;
    outside.world.post_orders(&hub, ["CR-cooking".to_owned()]).await;
    outside.world.at_end(Ends::forwarded(1)).await;
    let off = "UPDATE branch_delivery_configs SET is_active = false WHERE branch_id = 'branch-uuid'";
    outside.world.database.run(off).await.unwrap();
    hub.terminate().await;
    let hub = outside.hub().await;
    // Of a branch that is named, and of one that the order knows.
    outside.ask_for(&hub, "branch-uuid", "CR-cooking").await;
    let cancelled = json!({ "status": "cancelled" }).to_string();
    let answer = send(&hub, Method::POST, "orders/careem/CR-cooking/status", &cancelled, &[]).await;
    assert_eq!(answer.status, 202);
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    assert_eq!(outside.told(GOOD, 200), 2);
    // A menu is for a branch that sells.
    let answer = send(&hub, Method::PUT, "menus/careem/branch-uuid", MENU, &[]).await;
    assert_eq!(answer.status, 202);
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "PROVIDER_SETTING_MISSING");
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

/// The provider fails for one branch alone: requests for the others are sent, and the breaker stays closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_for_which_the_provider_fails_stops_no_other() {
    let outside = Outside::with_branches(CAREEM_POS, 2).await;
    outside.provider.on_branch("store-2", Say::status(500));
    let hub = Hub::start(&outside.settings().set("RETRY_MAX_ATTEMPTS", 50)).await;
    for number in 0..10 {
        outside.ask_for(&hub, "branch-2", &format!("CR-fails-{number}")).await;
    }
    outside.told_at_least("store-2", 500, 10).await;
    for number in 0..10 {
        outside.ask_for(&hub, "branch-uuid", &format!("CR-{number}")).await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 10).await;
    assert_eq!(attempts(&pushed), [1; 10]);
    assert!(!hub.logs_contain("circuit breaker open"), "{}", hub.log());
    outside.provider.forget_branch("store-2");
    outside.payloads(EventType::OrderStatusPushed, 20).await;
    outside.world.at_end(Ends::default()).await;
}

/// The provider does not answer for one branch, of which there is more than it may have under way: the other branch has slots
/// of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_hangs_leaves_slots_to_the_others() {
    let outside = Outside::with_branches(&CAREEM_POS.replace("timeout = \"10s\"", "timeout = \"60s\""), 2).await;
    outside.provider.hold_branch("store-2");
    let hub = outside.hub().await;
    for number in 0..40 {
        outside.ask_for(&hub, "branch-2", &format!("CR-hangs-{number}")).await;
    }
    outside.provider.wait_for(8).await;
    for number in 0..20 {
        outside.ask_for(&hub, "branch-uuid", &format!("CR-{number}")).await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 20).await;
    assert_eq!(attempts(&pushed), [1; 20]);
    let hanging = outside.told("store-2", 200);
    assert_eq!(hanging, 8, "under way of one branch");
    outside.provider.release();
    outside.payloads(EventType::OrderStatusPushed, 60).await;
    outside.world.at_end(Ends::default()).await;
}

/// 100 requests of one branch wait for the provider's rate. That of another branch does not wait for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn branches_take_turns_at_the_rate() {
    const CROWD: usize = 100;
    /// The crowd's requests that may come first: those under way, and what comes until the hub has read the other one.
    const FIRST: usize = 30;
    let file = CAREEM_POS.replace("requests_per_second = 10\n", "requests_per_second = 20\n");
    let outside = Outside::with_branches(&file, 2).await;
    let hub = Hub::start(&outside.settings()).await;
    for number in 0..CROWD {
        outside
            .ask_for(&hub, "branch-uuid", &format!("CR-crowd-{number}"))
            .await;
    }
    outside.ask_for(&hub, "branch-2", "CR-other").await;
    // It is on the log. Until then any number of the crowd's may have had their turn.
    let before = outside.provider.calls().len();
    outside.payloads(EventType::OrderStatusPushed, CROWD + 1).await;
    let calls = outside.provider.calls();
    let place = calls
        .iter()
        .position(|call| call.header("branch-id") == "store-2")
        .unwrap();
    assert!(
        place <= before + FIRST,
        "{place} calls came first, {before} of them before it was requested"
    );
    outside.world.at_end(Ends::default()).await;
}
