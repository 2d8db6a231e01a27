//! Bytes: how many of them a provider may send in a window, and who is refused first while the log is nearly full.

use reqwest::Method;
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, MERCHANT, order, sign},
    hub::Hub,
    ids,
    packed::padded,
    provider::{Provider, Webhook},
    wait::{PATIENCE, eventually},
};

/// An order of another provider.
const GENERIC: &str = include_str!("fixtures/providers/generic/order.created.json");

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_send_so_many_bytes() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("RATE_LIMIT_CAREEM", "100/1h")
        .set("RATE_LIMIT_BYTES", "1kb");
    let hub = Hub::start(&settings).await;
    for id in ids("large", 3) {
        assert_eq!(world.careem.post(&hub, &padded(&id, 30_000)).await.status, 200);
    }
    // Ninety of a hundred are spent; what is small still fits.
    let over = world.careem.post(&hub, &padded("CR-over", 30_000)).await;
    assert_eq!((over.status, over.code().as_str()), (429, "RATE_LIMITED"), "{over:?}");
    assert!(over.header("retry-after").parse::<u64>().unwrap() <= 3600, "{over:?}");
    assert_eq!(world.careem.post(&hub, &order("CR-small")).await.status, 200);
    world
        .metrics_say(&hub, r#"rate_limited_total{provider="careem",scope="bytes"} 1"#)
        .await;
    world.at_end(Ends::forwarded(4)).await;
}

/// Leaves little of the log, and waits until the hub knows.
async fn nearly_fill(world: &World, hub: &Hub) {
    world.log.settled().await;
    let bytes = world.log_bytes().await;
    world.limit_log(bytes + bytes / 20).await;
    eventually("the hub knows how full the log is", PATIENCE, async || {
        let found = ratio(world, hub).await;
        if found >= 0.9 { Ok(()) } else { Err(found) }
    })
    .await;
}

async fn ratio(world: &World, hub: &Hub) -> f64 {
    let metrics = world.metrics(hub).await;
    let ratio = metrics
        .lines()
        .find_map(|line| line.strip_prefix("event_log_fill_ratio "));
    ratio.unwrap().parse().unwrap()
}

/// One provider fills the log; while it is nearly full that one is refused, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_principal_that_fills_the_log_is_refused_first() {
    let world = World::new().await;
    let generic = Provider::all(&Catalogue::shipped())
        .into_iter()
        .find(|one| one.name == "generic")
        .unwrap();
    generic.branch(&world, "store-7").await;
    let hub = Hub::start(&generic.enable(world.settings(), "KWD")).await;
    let mut accepted = 0;
    for id in ids("filling", 20) {
        assert_eq!(world.careem.post(&hub, &padded(&id, 100_000)).await.status, 200);
        accepted += 1;
    }
    nearly_fill(&world, &hub).await;
    let answer = world.careem.post(&hub, &order("CR-probe")).await;
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.header("retry-after")),
        (503, "EVENT_LOG_NEARLY_FULL", "5"),
        "{answer:?}"
    );
    for number in 0..5 {
        let body = GENERIC.replace("A-1001", &format!("A-{number}"));
        let webhook = Webhook::new(body).with("webhook-id", &format!("msg-{number}"));
        let answer = generic.post(&hub, &webhook).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        accepted += 1;
    }
    let ready = format!("{}/health/ready", hub.url());
    assert_eq!(world.careem.request(Method::GET, &ready).await.status, 200);
    let metrics = world.metrics(&hub).await;
    let refused = r#"event_log_nearly_full_refused_total{provider="careem"} 1"#;
    assert!(metrics.lines().any(|line| line == refused), "{metrics}");
    let full = ratio(&world, &hub).await;
    assert!((0.9..=1.0).contains(&full), "{full}");
    hub.says("the event log is nearly full").await;
    world.limit_log(-1).await;
    eventually("careem is taken again", PATIENCE, async || {
        let answer = world.careem.post(&hub, &order("CR-again")).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    world.at_end(Ends::forwarded(accepted + 1)).await;
}

/// Posts an order of a merchant, signed by this secret.
async fn post_of(world: &World, hub: &Hub, merchant: &str, secret: &str, body: &str) -> Answer {
    let signature = sign(secret, body.as_bytes());
    let headers = [("x-careem-signature", signature.as_str()), ("x-merchant-id", merchant)];
    world.careem.post_raw(hub, body, &headers).await
}

/// One branch fills the log by its own secret; while it is nearly full that branch is refused, and neither the provider nor another
/// branch.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_fills_the_log_is_refused_alone() {
    let world = World::new().await;
    let branches = format!(
        "UPDATE branch_delivery_configs SET webhook_secret = 'key-of-a' WHERE merchant_id = '{MERCHANT}';
        INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, webhook_secret)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'key-of-b')"
    );
    world.database.run(&branches).await.unwrap();
    let hub = Hub::start(&world.settings().set("CAREEM_BRANCH_SECRETS", true)).await;
    for id in ids("filling", 20) {
        let answer = post_of(&world, &hub, MERCHANT, "key-of-a", &padded(&id, 100_000)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    nearly_fill(&world, &hub).await;
    let answer = post_of(&world, &hub, MERCHANT, "key-of-a", &order("CR-probe")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "EVENT_LOG_NEARLY_FULL"),
        "{answer:?}"
    );
    let answer = post_of(&world, &hub, "merchant-2", "key-of-b", &order("CR-of-b")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The provider's word for the branch counts as the provider's.
    let answer = world.careem.post(&hub, &order("CR-provider")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    world.limit_log(-1).await;
    world.at_end(Ends::forwarded(22)).await;
}

/// One branch fills the log with repeats that the log no longer knows. They cost its provider nothing, but count as its own: on a log
/// that is nearly full it is refused, and no one else; and it sends no more of them than its part of the quota.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_fills_the_log_with_repeats_is_refused_alone() {
    let world = World::new().await;
    let branches = format!(
        "UPDATE branch_delivery_configs SET webhook_secret = 'key-of-a' WHERE merchant_id = '{MERCHANT}';
        INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, webhook_secret)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'key-of-b')"
    );
    world.database.run(&branches).await.unwrap();
    let settings = world
        .settings()
        .set("CAREEM_BRANCH_SECRETS", true)
        .set("RATE_LIMIT_CAREEM", "30/1h")
        .set("CAREEM_BRANCH_RATE_LIMIT", 25)
        .set("RATE_LIMIT_BYTES", "100kb");
    let hub = Hub::start(&settings).await;
    let caught: Vec<_> = ids("filling", 11).into_iter().map(|id| padded(&id, 100_000)).collect();
    for body in &caught {
        let answer = post_of(&world, &hub, MERCHANT, "key-of-a", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    world.at_end(Ends::forwarded(11)).await;
    world.log_forgets(&hub).await;
    assert!(hub.terminate().await.0.success());
    // It counts what it took itself: of these orders nothing. It knows them before it forwards another one.
    let hub = Hub::start(&settings).await;
    assert_eq!(world.careem.post(&hub, &order("CR-first")).await.status, 200);
    world.at_end(Ends::forwarded(12)).await;
    for body in &caught {
        let answer = post_of(&world, &hub, MERCHANT, "key-of-a", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["data"]["duplicate"], false, "{answer:?}");
    }
    world.log.wait_for(EventType::OrderIgnored, 11).await;
    nearly_fill(&world, &hub).await;
    let answer = post_of(&world, &hub, MERCHANT, "key-of-a", &order("CR-probe")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "EVENT_LOG_NEARLY_FULL"),
        "{answer:?}"
    );
    let answer = post_of(&world, &hub, "merchant-2", "key-of-b", &order("CR-of-b")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    world.limit_log(-1).await;
    world.at_end(Ends::forwarded(13).ignored(11)).await;
}
