//! What is taken up again after something newer came: the newer one stays, and what it replaced ends as superseded.

use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::change,
    hub::{Hub, Ran, run},
    log::payload,
    outside::{CAREEM_POS, Outside, send},
    platform::Say,
};

const MENU: &str = include_str!("fixtures/menu.json");

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
async fn an_old_status_is_not_told_over_a_newer_one() {
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
