//! What reaches the hub besides a plain webhook: packed ones in a crowd, paths that are written otherwise, and strangers
//! that ask how it is.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use reqwest::Method;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{MERCHANT, SECRET, order, sign},
    hub::Hub,
    ids,
    wait::{PATIENCE, eventually},
};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

async fn post_packed(world: &World, hub: &Hub, plain: &str) -> (u16, String) {
    let signature = sign(SECRET, plain.as_bytes());
    let headers = [
        ("content-encoding", "gzip"),
        ("x-merchant-id", MERCHANT),
        ("x-careem-signature", signature.as_str()),
    ];
    let answer = world.careem.post_raw(hub, gzip(plain.as_bytes()), &headers).await;
    (answer.status, answer.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_packed_webhooks_at_once_are_taken_like_plain_ones() {
    let world = World::new().await;
    let hub = world.hub().await;
    let bodies: Vec<_> = ids("packed", 1000).iter().map(|id| order(id)).collect();
    let told = join_all(bodies.iter().map(|body| post_packed(&world, &hub, body))).await;
    let refused: Vec<_> = told.iter().filter(|(status, _)| *status != 200).collect();
    assert!(
        refused.is_empty(),
        "{} of 1000 refused: {:?}",
        refused.len(),
        refused.first()
    );
    world.at_end_within(2 * PATIENCE, Ends::forwarded(1000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_with_more_slashes_are_the_same_paths() {
    let world = World::new().await;
    let hub = world.hub().await;
    let mut taken = 0;
    for path in [
        "/api/webhooks/careem",
        "/api/webhooks/careem/",
        "//api/webhooks//careem",
        "/api/webhooks/careem///",
    ] {
        let body = order(&format!("CR-slash-{taken}"));
        let signature = sign(SECRET, body.as_bytes());
        let request = crate::harness::careem::http()
            .post(format!("{}{path}", hub.url()))
            .header("x-merchant-id", MERCHANT)
            .header("x-careem-signature", signature)
            .body(body);
        let answer = crate::harness::careem::answer(request).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        taken += 1;
    }
    for path in [
        "/health/",
        "//health//live",
        "/health/ready/",
        "/api/webhooks/health/careem/",
        "/openapi.json/",
    ] {
        let answer = world.careem.request(Method::GET, &format!("{}{path}", hub.url())).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    for (url, path) in [
        (hub.url(), "/"),
        (hub.url(), "//"),
        (hub.url(), "/nowhere"),
        (hub.url(), "/health/other"),
        (hub.url(), "/api/webhooks"),
        (hub.url(), "/api/webhooks/"),
        (hub.url(), "/api/webhooks/careem/other"),
        (hub.url(), "/api/integration/other"),
        (hub.private_url(), "/other"),
    ] {
        let answer = world.careem.request(Method::GET, &format!("{url}{path}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "NOT_FOUND"),
            "{path}: {answer:?}"
        );
        assert!(!answer.header("x-request-id").is_empty(), "{path}: {answer:?}");
    }
    // Asked in another way: which one is allowed.
    for path in [
        "/health",
        "/health/ready",
        "/openapi.json",
        "/api/webhooks/health/careem",
    ] {
        let answer = world
            .careem
            .request(Method::DELETE, &format!("{}{path}", hub.url()))
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "METHOD_NOT_ALLOWED"),
            "{path}: {answer:?}"
        );
        assert!(answer.header("allow").contains("GET"), "{path}: {answer:?}");
    }
    world.at_end(Ends::forwarded(taken)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_no_reasons() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.otherwise(Answer::status(401));
    world.post_orders(&hub, ids("refused", 1)).await;
    let breaker = world.breaker_becomes(&hub, "open").await;
    assert!(
        breaker["reason"].as_str().unwrap().contains("SERVICE_TOKEN"),
        "{breaker}"
    );
    let public = world
        .careem
        .request(Method::GET, &format!("{}/health", hub.url()))
        .await;
    assert_eq!(public.status, 200, "{public:?}");
    assert_eq!(public.json()["status"], "degraded", "{public:?}");
    assert_eq!(public.json()["checks"]["backendConnection"], "unhealthy", "{public:?}");
    let shown: Vec<_> = public.json()["circuitBreaker"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(shown, ["state"], "{public:?}");
    assert!(!public.text.contains("SERVICE_TOKEN"), "{public:?}");
    world.backend.otherwise(Answer::Accept);
    world.at_end(Ends::forwarded(1)).await;
}

/// Whoever asks for health costs the database nothing.
#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_database_for_nothing() {
    let world = World::with_own_postgres().await;
    let hub = world.hub().await;
    let url = format!("{}/health", hub.url());
    eventually("the database is seen", PATIENCE, async || {
        let health = world.careem.request(Method::GET, &url).await.json();
        if health["checks"]["database"] == "healthy" {
            Ok(())
        } else {
            Err(health)
        }
    })
    .await;
    let connections = async || {
        let query = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'webhook-hub'";
        world.database.rows(query).await.unwrap()[0]["n"].as_i64().unwrap()
    };
    let before = connections().await;
    let asking = (0..200).map(|_| world.careem.request(Method::GET, &url));
    for answer in join_all(asking).await {
        assert_eq!(answer.json()["checks"]["database"], "healthy", "{answer:?}");
    }
    let after = connections().await;
    assert!(
        after <= before + 2,
        "{before} connections before, {after} after 200 questions"
    );
    // It says so all the same when the database is gone.
    world.cluster.server.stop().await.unwrap();
    eventually("the database is missed", PATIENCE, async || {
        let health = world.careem.request(Method::GET, &url).await.json();
        if health["checks"]["database"] == "unhealthy" {
            Ok(())
        } else {
            Err(health)
        }
    })
    .await;
}
