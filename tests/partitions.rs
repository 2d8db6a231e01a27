//! `PARTITIONS` is changed between two runs: what the hub looks for on the log is found whatever the number was when it was published.

use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::{event::EventType, journal::codec::partition};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::change,
    hub::{Hub, Ran, run},
    log::payload,
    outside::{CAREEM_POS, Outside, send},
    platform::Say,
};

const MENU: &str = include_str!("fixtures/menu.json");

/// A number of partitions with which this order has another one than in other tests.
pub(crate) fn other_partitions(provider: &str, order: &str) -> u16 {
    let before = partition(provider, order, PARTITIONS);
    let mut numbers = 16..64;
    let other = numbers.find(|number| partition(provider, order, *number) != before);
    other.unwrap()
}

async fn retry_all(world: &World, more: &[&str]) -> Ran {
    let arguments = [&["dead-letters", "retry", "--all"], more].concat();
    run(&world.nats.settings("hub"), &arguments).await.expect_success()
}

/// All ends of these retries are superseded.
async fn all_superseded(world: &World, count: usize) {
    let ignored = world.log.wait_for(EventType::OrderIgnored, count).await;
    let reasons: Vec<Value> = ignored.iter().map(|end| payload(end)["reason"].clone()).collect();
    assert_eq!(reasons, vec![json!("SUPERSEDED"); count]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_news_do_not_follow_newer_ones() {
    let world = World::new().await;
    let hub = world.hub().await;
    let orders = ["CR-1", "CR-2", "CR-3"];
    for id in orders {
        world.post_orders(&hub, [id.to_owned()]).await;
        world.backend.next_for(id, [Answer::Accept, Answer::status(422)]);
        world.careem.post(&hub, &change(id, "preparing")).await.event_id();
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 3).await;
    world.log.wait_for(EventType::OrderForwarded, 6).await;
    assert!(hub.terminate().await.0.success());
    let before = orders.map(|id| partition("careem", id, PARTITIONS));
    let others = (16..512).find(|number| {
        let after = orders.map(|id| partition("careem", id, *number));
        before.iter().zip(after).all(|(before, after)| *before != after)
    });
    let _hub = Hub::start(&world.settings().set("PARTITIONS", others.unwrap())).await;
    let dry = retry_all(&world, &["--dry-run"]).await;
    assert!(dry.stdout.contains("3 would end as superseded"), "{}", dry.stdout);
    let requests = world.backend.count();
    retry_all(&world, &[]).await;
    all_superseded(&world, 3).await;
    assert_eq!(world.backend.count(), requests);
    world.at_end(Ends::forwarded(6).ignored(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_menu_does_not_replace_a_newer_one() {
    let file = CAREEM_POS.replace("every = \"2m\"", "every = \"0s\"");
    let without_result = file.split("# What became of it comes as a webhook.").next().unwrap();
    let outside = Outside::new(without_result).await;
    let hub = outside.hub().await;
    let put = async |hub: &Hub| {
        let answer = send(hub, Method::PUT, "menus/careem/branch-uuid", MENU, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    };
    outside.provider.next([Say::status(400)]);
    put(&hub).await;
    outside.payloads(EventType::OrderDeadLettered, 1).await;
    assert!(hub.terminate().await.0.success());
    let others = other_partitions("careem", "menu:branch-uuid");
    let hub = Hub::start(&outside.settings().set("PARTITIONS", others)).await;
    put(&hub).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    // The dead letter is in the partition of before, the newer menu is not.
    let dry = retry_all(&outside.world, &["--menus", "--dry-run"]).await;
    assert!(dry.stdout.contains("1 would end as superseded"), "{}", dry.stdout);
    assert!(hub.terminate().await.0.success());
    let _hub = outside.hub().await;
    retry_all(&outside.world, &["--menus"]).await;
    all_superseded(&outside.world, 1).await;
    assert_eq!(outside.provider.calls().len(), 2);
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
    assert!(hub.terminate().await.0.success());
    let others = other_partitions("careem", "CR-told");
    let _hub = Hub::start(&outside.settings().set("PARTITIONS", others)).await;
    retry_all(&outside.world, &["--stage", "push"]).await;
    all_superseded(&outside.world, 1).await;
}

/// The tables lack the order, and the backend does not say of which branch it is: the log knows.
#[tokio::test(flavor = "multi_thread")]
async fn the_branch_of_an_order_is_found() {
    let outside = Outside::new(CAREEM_POS).await;
    let another = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'store-8')";
    outside.world.database.run(another).await.unwrap();
    let hub = outside.hub().await;
    outside.world.post_orders(&hub, ["CR-before".to_owned()]).await;
    outside.world.at_end(Ends::forwarded(1)).await;
    // A transaction that holds the cursor holds the projection.
    let hold = "BEGIN; SELECT position FROM hub.cursors FOR UPDATE";
    outside.world.database.run(hold).await.unwrap();
    outside.world.post_orders(&hub, ["CR-new".to_owned()]).await;
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    hub.kill().await;
    let others = other_partitions("careem", "CR-new");
    let hub = Hub::start(&outside.settings().set("PARTITIONS", others)).await;
    let body = json!({ "status": "accepted" }).to_string();
    let answer = send(&hub, Method::POST, "orders/careem/CR-new/status", &body, &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    assert_eq!(outside.provider.calls()[0].header("branch-id"), "store-9");
    outside.world.database.run("COMMIT").await.unwrap();
    // The killed hub may have left the outcome without its acknowledgement.
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::forwarded(2)).await;
}
