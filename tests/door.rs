//! What reaches the hub besides a plain webhook: packed ones in a crowd, paths that are written otherwise, and strangers
//! that ask how it is.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{MERCHANT, SECRET, order, sign},
    hub::Hub,
    ids,
    packed::gzip,
    wait::{PATIENCE, eventually},
};

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
async fn public_health_shows_no_reasons() {
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
async fn health_requests_do_not_query_the_database() {
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
    // It says so all the same when the database stands still: connections stay, and none of them answers.
    world.cluster.server.pause().await.unwrap();
    let database_is = async |word: &str| {
        eventually(&format!("the database is {word}"), PATIENCE, async || {
            let health = world.careem.request(Method::GET, &url).await.json();
            if health["checks"]["database"] == word {
                Ok(())
            } else {
                Err(health)
            }
        })
        .await;
    };
    database_is("unhealthy").await;
    world.metrics_say(&hub, "database_up 0").await;
    let private = format!("{}/health", hub.private_url());
    let private = world.careem.request(Method::GET, &private).await.json();
    assert!(private["reasons"]["database"].is_string(), "{private}");
    assert!(private["reasons"]["eventLog"].is_null(), "{private}");
    world.cluster.server.resume().await.unwrap();
    database_is("healthy").await;
    world.metrics_say(&hub, "database_up 1").await;
}

/// Whether a value is as a schema of the description says, and has nothing that it does not mention.
fn is_described(document: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/components/schemas/");
        return is_described(document, &document["components"]["schemas"][name], value);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    if !schema["const"].is_null() {
        return schema["const"] == *value;
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => {
            let required = schema["required"].as_array().unwrap();
            required.iter().all(|name| fields.contains_key(name.as_str().unwrap()))
                && fields
                    .iter()
                    .all(|(name, value)| is_described(document, &schema["properties"][name], value))
        }
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) => true,
        (Some("integer"), Value::Number(number)) => number.is_u64(),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_health_match_the_description() {
    let world = World::new().await;
    let hub = world.hub().await;
    let get = async |path: &str| {
        let answer = world.careem.request(Method::GET, &format!("{}{path}", hub.url())).await;
        (answer.status.to_string(), answer.json())
    };
    let (_, document) = get("/openapi.json").await;
    let as_described = async |path: &str, described: &str, status: &str| {
        eventually(&format!("{path} answers {status}"), PATIENCE, async || {
            let (found, answer) = get(path).await;
            let response = &document["paths"][described]["get"]["responses"][status];
            let schema = &response["content"]["application/json"]["schema"];
            if found == status && schema.is_object() && is_described(&document, schema, &answer) {
                Ok(())
            } else {
                Err((found, answer, schema.clone()))
            }
        })
        .await;
    };
    let paths = [
        ("/health", "/health"),
        ("/health/ready", "/health/ready"),
        ("/api/webhooks/health/careem", "/api/webhooks/health/{provider}"),
    ];
    for (path, described) in paths {
        as_described(path, described, "200").await;
    }
    as_described("/health/live", "/health/live", "200").await;
    world.nats.server.stop().await.unwrap();
    for (path, described) in paths {
        as_described(path, described, "503").await;
    }
    as_described("/health/live", "/health/live", "200").await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_concurrent_compressed_webhooks_are_accepted() {
        let _turn = crate::harness::wait::heavy().await;
        let world = World::new().await;
        // A busy machine takes longer to send a thousand heads than a stranger may take for one.
        let settings = world.settings().set("HUB_TEST_TIMES", "first_head_timeout=60s");
        let hub = Hub::start(&settings).await;
        let bodies: Vec<_> = ids("packed", 1000).iter().map(|id| order(id)).collect();
        let told = join_all(bodies.iter().map(|body| post_packed(&world, &hub, body))).await;
        let refused: Vec<_> = told.iter().filter(|(status, _)| *status != 200).collect();
        assert!(
            refused.is_empty(),
            "{} of 1000 refused: {:?}",
            refused.len(),
            refused.first()
        );
        world.hand_out_again().await;
        world.at_end_within(2 * PATIENCE, Ends::forwarded(1000)).await;
    }
}
