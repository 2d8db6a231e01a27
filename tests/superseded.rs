//! A dead letter is retried after something newer came: the newer one stays, and the retry ends as superseded.

use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Ran, run},
    log::payload,
    outside::{CAREEM_POS, Outside, send},
    platform::Say,
    wait::{PATIENCE, eventually},
};

const MENU: &str = include_str!("fixtures/menu.json");
/// The branch of `merchant-2`.
const ADD_BRANCH: &str = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
     VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2')";

async fn retry(world: &World, args: &[&str]) -> Ran {
    let args: Vec<_> = ["dead-letters", "retry", "--all"].iter().chain(args).copied().collect();
    run(&world.nats.settings("hub"), &args).await.expect_success()
}

/// What ended as superseded, and how it is recorded.
async fn superseded(world: &World, count: usize) -> Vec<(Recorded, Value)> {
    let ignored = world.log.wait_for(EventType::OrderIgnored, count).await;
    assert_eq!(ignored.len(), count);
    let found = ignored.into_iter().map(|event| ((*event).clone(), payload(&event)));
    let found: Vec<_> = found.collect();
    for (_, said) in &found {
        assert_eq!(said["reason"], "SUPERSEDED", "{said}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_menu_does_not_replace_todays() {
    let file = CAREEM_POS.replace("every = \"2m\"", "every = \"0s\"");
    let without_result = file.split("# What became of it comes as a webhook.").next().unwrap();
    let outside = Outside::new(without_result).await;
    let hub = outside.hub().await;
    let put = async |price: &str| {
        let menu = MENU.replace("\"1.250\"", &format!("\"{price}\""));
        let answer = send(&hub, Method::PUT, "menus/careem/branch-uuid", &menu, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    };
    outside.provider.next([Say::status(400)]);
    put("1.111").await;
    outside.payloads(EventType::OrderDeadLettered, 1).await;
    put("2.222").await;
    outside.payloads(EventType::MenuSynced, 1).await;
    let dry = retry(&outside.world, &["--menus", "--dry-run"]).await;
    assert!(dry.stdout.contains("1 would end as superseded"), "{}", dry.stdout);
    retry(&outside.world, &["--menus"]).await;
    let ended = superseded(&outside.world, 1).await;
    assert_eq!(ended[0].0.envelope.external_order_id, "menu:branch-uuid");
    assert!(
        ended[0].1["message"].as_str().unwrap().contains("later menu"),
        "{}",
        ended[0].1
    );
    assert_eq!(outside.provider.calls().len(), 2, "yesterday's was not sent again");
    let list = run(&outside.world.nats.settings("hub"), &["dead-letters", "list"]).await;
    assert_eq!(list.expect_success().stdout, "no open dead letters\n");
    // A menu of which no later one exists is sent.
    outside.provider.next([Say::status(400)]);
    put("3.333").await;
    outside.payloads(EventType::OrderDeadLettered, 2).await;
    retry(&outside.world, &["--menus"]).await;
    outside.payloads(EventType::MenuSynced, 2).await;
    outside.world.at_end(Ends::default().ignored(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_status_is_not_sent_over_a_newer_one() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, "CR-told", "accepted").await;
    outside.payloads(EventType::OrderDeadLettered, 1).await;
    outside.ask(&hub, "CR-told", "cancelled").await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    // Another order's newer status says nothing of this one.
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, "CR-lost", "accepted").await;
    outside.payloads(EventType::OrderDeadLettered, 2).await;
    outside.ask(&hub, "CR-other", "ready").await;
    outside.payloads(EventType::OrderStatusPushed, 2).await;

    let dry = retry(&outside.world, &["--stage", "push", "--dry-run"]).await;
    assert!(dry.stdout.contains("1 would end as superseded"), "{}", dry.stdout);
    retry(&outside.world, &["--stage", "push"]).await;
    let ended = superseded(&outside.world, 1).await;
    assert_eq!(ended[0].0.envelope.external_order_id, "CR-told");
    outside.payloads(EventType::OrderStatusPushed, 3).await;
    let told = outside.provider.calls();
    let states: Vec<_> = told
        .iter()
        .filter(|call| call.path == "/orders/CR-told" && call.status == 200)
        .map(|call| call.json()["state"].clone())
        .collect();
    assert_eq!(states, [json!("cancelled")]);
}

/// The provider refused an acceptance, and then the cancellation. The backend does not want the order, however that ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_backend_called_off_is_not_accepted_at_the_provider() {
    let outside = Outside::new(CAREEM_POS).await;
    let (world, hub) = (&outside.world, outside.hub().await);
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    outside.provider.next([Say::status(400), Say::status(400)]);
    for status in ["accepted", "cancelled"] {
        outside.ask(&hub, "CR-1", status).await;
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let calls = outside.provider.calls().len();
    world.take_up_one(&dead[0]).await;
    let ended = superseded(world, 1).await;
    let message = ended[0].1["message"].as_str().unwrap();
    assert!(message.contains("cancel"), "{message}");
    assert_eq!(outside.provider.calls().len(), calls);
    // The cancellation itself is told.
    world.take_up_one(&dead[1]).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
}

/// News for the backend, the same: what was forwarded after it is newer.
#[tokio::test(flavor = "multi_thread")]
async fn old_news_of_an_order_do_not_follow_newer_ones() {
    let world = World::new().await;
    let hub: Hub = world.hub().await;
    world.post_orders(&hub, ["CR-news".to_owned()]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next([Answer::status(422)]);
    world
        .careem
        .post(&hub, &change("CR-news", "preparing"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    world
        .careem
        .post(&hub, &change("CR-news", "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    let dry = retry(&world, &["--dry-run"]).await;
    assert!(dry.stdout.contains("1 would end as superseded"), "{}", dry.stdout);
    retry(&world, &[]).await;
    superseded(&world, 1).await;
    assert_eq!(world.backend.count(), 3);
    // The last word that was lost is sent.
    world.backend.next([Answer::status(422)]);
    world.careem.post(&hub, &change("CR-news", "refunded")).await.event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    retry(&world, &[]).await;
    world.at_end(Ends::forwarded(3).ignored(1)).await;
}

/// The backend took the later status, and its answers were lost. The earlier one was refused, and is retried.
#[tokio::test(flavor = "multi_thread")]
async fn old_news_do_not_follow_newer_ones_that_the_backend_may_have() {
    let world = World::new().await;
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings.set("RETRY_DELAYS", "100ms").set("RETRY_MAX_ATTEMPTS", 1)).await;
    let lost = [Answer::Accept, Answer::status(422), Answer::Cut];
    world.backend.next_for("CR-1", lost);
    world.backend.always_for("CR-1", Some(Answer::status(503)));
    world.careem.post(&hub, &order("CR-1")).await.event_id();
    for status in ["preparing", "ready"] {
        world.careem.post(&hub, &change("CR-1", status)).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.backend.always_for("CR-1", None);
    let count = world.backend.count();
    retry(&world, &[]).await;
    superseded(&world, 1).await;
    world.at_end(Ends::forwarded(2).ignored(1)).await;
    assert_eq!(world.backend.count(), count + 1);
    let last = world.backend.requests().last().unwrap().json();
    assert_eq!(last["statusChange"]["canonicalStatus"], "ready", "{last}");
}

impl World {
    /// Retries one dead letter, as `dead-letters retry ID` does.
    async fn take_up_one(&self, dead: &Recorded) {
        let id = dead.envelope.id.to_string();
        let ran = run(&self.nats.settings("hub"), &["dead-letters", "retry", &id]).await;
        ran.expect_success();
    }

    /// Retries one dead letter, which ends without a request and for this reason.
    async fn ends_ignored(&self, dead: &Recorded, reason: &str) {
        let before = self.log.events().await;
        let is_ignored = |event: &&std::sync::Arc<Recorded>| event.envelope.event_type == EventType::OrderIgnored;
        let count = before.iter().filter(is_ignored).count();
        let requests = self.backend.count();
        self.take_up_one(dead).await;
        let ignored = self.log.wait_for(EventType::OrderIgnored, count + 1).await;
        let end = payload(ignored.last().unwrap());
        assert_eq!(end["reason"], reason, "{end}");
        assert_eq!(self.backend.count(), requests, "{reason}, and yet a request");
    }

    /// Waits until an order's row has this state and this status.
    async fn row_says(&self, id: &str, state: &str, status: &str) {
        eventually(&format!("{id} is {state}, {status}"), PATIENCE, async || {
            let query = format!("SELECT state, status FROM hub.orders WHERE external_order_id = '{id}'");
            let rows = self.database.rows(&query).await.map_err(|error| error.to_string())?;
            if rows == [json!({ "state": state, "status": status })] {
                Ok(())
            } else {
                Err(format!("{rows:?}"))
            }
        })
        .await;
    }

    /// The last status that the backend got for an order.
    fn last_word(&self, id: &str) -> Value {
        let requests = self.backend.requests();
        let last = requests.iter().rfind(|one| one.external_order_id() == id).unwrap();
        last.json()["statusChange"]["canonicalStatus"].clone()
    }
}

/// An order, news of it, and the last report about it.
fn story(id: &str) -> [String; 3] {
    [order(id), change(id, "ready"), change(id, "delivered")]
}

/// The backend refused an order and its news. The provider sends all of it again, and the last report is refused once more: it
/// is newer than everything that the backend has, whichever of its two dead letters is retried.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_word_is_not_old_because_the_words_before_it_came_again() {
    let world = World::new().await;
    let hub = world.hub().await;
    let refused = || Answer::status(422);
    let answers = [
        refused(),
        refused(),
        refused(),
        Answer::Accept,
        Answer::Accept,
        refused(),
    ];
    world.backend.next_for("CR-again", answers);
    for webhook in &story("CR-again") {
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.log_forgets(&hub).await;
    for webhook in &story("CR-again") {
        world.careem.post(&hub, webhook).await.event_id();
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 4).await;
    world.take_up_one(&dead[2]).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    assert_eq!(world.last_word("CR-again"), "delivered");
    // The backend has each of the others.
    for at in [3, 1, 0] {
        world.ends_ignored(&dead[at], "DUPLICATE_WEBHOOK").await;
    }
    world.at_end(Ends::forwarded(3).ignored(3)).await;
}

/// Everything was refused twice, and a person retries it from the end backwards.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_twice_is_taken_up_backwards() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.next_for("CR-twice", vec![Answer::status(422); 6]);
    for times in 1..=2 {
        for webhook in &story("CR-twice") {
            world.careem.post(&hub, webhook).await.event_id();
        }
        world.log.wait_for(EventType::OrderDeadLettered, 3 * times).await;
        if times == 1 {
            world.log_forgets(&hub).await;
        }
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 6).await;
    world.take_up_one(&dead[5]).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.ends_ignored(&dead[4], "SUPERSEDED").await;
    world.take_up_one(&dead[3]).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.ends_ignored(&dead[2], "DUPLICATE_WEBHOOK").await;
    world.ends_ignored(&dead[1], "SUPERSEDED").await;
    world.ends_ignored(&dead[0], "DUPLICATE_WEBHOOK").await;
    world.at_end(Ends::forwarded(2).ignored(4)).await;
}

/// A missing branch is added, and its dead letters are retried one by one. In sequence, all of them are sent; from the end
/// backwards, only those that something newer has superseded are left out.
#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_branch_is_taken_up_one_by_one() {
    let world = World::new().await;
    let hub = world.hub().await;
    let orders = ["CR-forwards", "CR-backwards"];
    for id in orders {
        for webhook in [order(id), change(id, "accepted"), change(id, "delivered")] {
            world.post_as(&hub, "merchant-2", &webhook).await;
        }
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 6).await;
    assert!(
        dead.iter()
            .all(|dead| payload(dead)["error"]["code"] == "BRANCH_NOT_FOUND")
    );
    let of = |id: &str| -> Vec<_> {
        let of_order = dead.iter().filter(|dead| dead.envelope.external_order_id == id);
        of_order.cloned().collect()
    };
    world.database.run(ADD_BRANCH).await.unwrap();
    for (at, dead) in of("CR-forwards").iter().enumerate() {
        world.take_up_one(dead).await;
        world.log.wait_for(EventType::OrderForwarded, at + 1).await;
    }
    assert_eq!(world.last_word("CR-forwards"), "delivered");
    // The backend knows no order of that number before its announcement.
    world.backend.knows_not("CR-backwards");
    for dead in of("CR-backwards").iter().rev() {
        world.take_up_one(dead).await;
    }
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    superseded(&world, 1).await;
    assert_eq!(world.last_word("CR-backwards"), "delivered");
    world.at_end(Ends::forwarded(5).ignored(1)).await;
}

/// Only the reports before the last one are sent again and forwarded. That does not make up for the last one, which the backend still
/// lacks: the order's row says so, and a retry delivers it.
#[tokio::test(flavor = "multi_thread")]
async fn older_words_that_come_again_do_not_make_up_for_the_last_one() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.next_for("CR-lacks", vec![Answer::status(422); 3]);
    for webhook in &story("CR-lacks") {
        world.careem.post(&hub, webhook).await.event_id();
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.log_forgets(&hub).await;
    for webhook in &story("CR-lacks")[..2] {
        world.careem.post(&hub, webhook).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.row_says("CR-lacks", "given_up", "delivered").await;
    let dry = retry(&world, &["--dry-run"]).await;
    assert!(dry.stdout.contains("2 would end as a repeat"), "{}", dry.stdout);
    assert!(!dry.stdout.contains("superseded"), "{}", dry.stdout);
    world.take_up_one(&dead[2]).await;
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    world.row_says("CR-lacks", "forwarded", "delivered").await;
    world.at_end(Ends::forwarded(3).dead_lettered(2)).await;
}
