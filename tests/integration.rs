//! The backend's requests: who is admitted, and who gets which reasons.

use reqwest::Method;
use serde_json::json;
use webhook_hub::event::EventType;

use crate::harness::{
    SERVICE_TOKEN, World,
    at_end::Ends,
    hub::{Hub, run},
    outside::{CAREEM_POS, Outside, send, send_raw},
    wait::{PATIENCE, eventually},
};

const STATUS: &str = "orders/careem/CR-1/status";
const MENU: &str = include_str!("fixtures/menu.json");
const STRANGER: &str = "198.51.100.7";

#[tokio::test(flavor = "multi_thread")]
async fn only_the_backend_is_admitted_and_gets_reasons() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = Hub::start(
        &outside
            .settings()
            .set("SERVICE_TOKEN", format!("the-new-one,{SERVICE_TOKEN}"))
            .set("MAX_PAYLOAD_SIZE", "64kb"),
    )
    .await;
    let ready = r#"{"status":"ready"}"#;
    for headers in [
        &[][..],
        &[("x-service-token", "guessed")],
        &[("authorization", SERVICE_TOKEN)],
    ] {
        let answer = send_raw(&hub, Method::POST, STATUS, ready, headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "INVALID_TOKEN"));
        // A stranger does not learn which providers there are.
        let answer = send_raw(&hub, Method::POST, "orders/pizza/1/status", ready, headers).await;
        assert_eq!(answer.status, 401);
    }
    let large = format!(r#"{{"status":"ready","reason":"{}"}}"#, "x".repeat(20_000));
    let large_menu = format!("{MENU}{}", " ".repeat(64 * 1024));
    let (key, long) = ("k".repeat(256), format!("orders/careem/{}/status", "x".repeat(129)));
    for (method, path, body, headers, status, code) in [
        (
            Method::POST,
            "orders/pizza/1/status",
            ready,
            &[][..],
            404,
            "PROVIDER_NOT_FOUND",
        ),
        (
            Method::POST,
            STATUS,
            r#"{"status":"eaten"}"#,
            &[],
            400,
            "INVALID_REQUEST",
        ),
        (Method::POST, STATUS, "nonsense", &[], 400, "INVALID_REQUEST"),
        (
            Method::POST,
            STATUS,
            ready,
            &[("idempotency-key", key.as_str())],
            400,
            "INVALID_REQUEST",
        ),
        (Method::POST, STATUS, large.as_str(), &[], 413, "PAYLOAD_TOO_LARGE"),
        (Method::POST, long.as_str(), ready, &[], 400, "INVALID_REQUEST"),
        (
            Method::POST,
            "orders/careem/CR%07/status",
            ready,
            &[],
            400,
            "INVALID_REQUEST",
        ),
        (
            Method::PUT,
            "menus/careem/branch-uuid",
            large_menu.as_str(),
            &[],
            413,
            "PAYLOAD_TOO_LARGE",
        ),
        (Method::GET, STATUS, "", &[], 405, "METHOD_NOT_ALLOWED"),
        (
            Method::PUT,
            "menus/careem/branch-uuid",
            r#"{"currency":"JOD"}"#,
            &[],
            400,
            "INVALID_REQUEST",
        ),
        (
            Method::PUT,
            "menus/pizza/branch-uuid",
            MENU,
            &[],
            404,
            "PROVIDER_NOT_FOUND",
        ),
        (
            Method::POST,
            "menus/careem/branch-uuid",
            MENU,
            &[],
            405,
            "METHOD_NOT_ALLOWED",
        ),
    ] {
        let answer = send(&hub, method, path, body, headers).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}: {answer:?}"
        );
        assert!(!answer.header("x-request-id").is_empty());
    }
    let answer = send(
        &hub,
        Method::PUT,
        "menus/careem/b",
        r#"{"currency":"JOD","categories":[{"id":"c"}]}"#,
        &[],
    )
    .await;
    assert_eq!(
        answer.json()["error"]["details"]["faults"][0]["pointer"],
        "/categories/0/name"
    );
    // Nothing of all this is on the log.
    assert!(outside.world.log.events().await.is_empty());
    // Both tokens open, and the backend is shown the newest.
    for token in ["the-new-one", SERVICE_TOKEN] {
        let answer = send_raw(
            &hub,
            Method::POST,
            STATUS,
            ready,
            &[("x-service-token", token), ("x-request-id", "r-1")],
        )
        .await;
        assert_eq!((answer.status, answer.header("x-request-id")), (202, "r-1"));
        assert_eq!(answer.json()["data"]["requestId"], "r-1");
    }
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    outside.world.post_orders(&hub, ["CR-newest".to_owned()]).await;
    let requests = outside.world.backend.wait_for(1).await;
    assert_eq!(requests[0].header("x-service-token"), "the-new-one");
    outside.world.at_end(Ends::forwarded(1)).await;
}

/// A key says that a request is a repeat. With another body it is none, and the backend is told so: within the log's memory,
/// after it, on another instance, and where only the log knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_body_is_refused() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    let ask = async |hub: &Hub, status: &str, branch: &str| {
        let body = json!({ "status": status, "branchId": branch }).to_string();
        send(hub, Method::POST, STATUS, &body, &[("idempotency-key", "k-1")]).await
    };
    let first = ask(&hub, "accepted", "branch-uuid").await;
    assert_eq!(first.status, 202);
    let other = ask(&hub, "cancelled", "branch-uuid").await;
    assert_eq!((other.status, other.code().as_str()), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(
        ask(&hub, "accepted", "branch-2").await.status,
        422,
        "another branch is another body"
    );
    // What means the same is the same, however it is written.
    let again = ask(&hub, "confirmed", "branch-uuid").await;
    assert_eq!((again.status, &again.json()["data"]["duplicate"]), (202, &json!(true)));
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    hub.terminate().await;
    let hub = outside.hub().await;
    outside.world.log_forgets(&hub).await;
    assert_eq!(ask(&hub, "cancelled", "branch-uuid").await.status, 422);
    // A hub of before kept no digest: what it took is a repeat.
    let provision = outside.world.nats.provision().await;
    let id = first.json()["data"]["eventId"].as_str().unwrap().to_owned();
    let old = outside.world.nats.connect("hub").await;
    let old = async_nats::jetstream::new(old);
    old.publish(format!("hub.key.{id}"), "1".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let cancelled = ask(&hub, "cancelled", "branch-uuid").await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["data"]["duplicate"]),
        (202, &json!(true))
    );
    // Without the stream the log itself knows what was asked for.
    provision.delete_stream("KEYS").await.unwrap();
    let menu = MENU.replace("4.500", "4.750");
    let put = async |body: &str| {
        let headers = [("idempotency-key", "k-menu")];
        send(&hub, Method::PUT, "menus/careem/branch-uuid", body, &headers).await
    };
    assert_eq!(put(MENU).await.status, 202);
    let again = put(MENU).await;
    assert_eq!((again.status, &again.json()["data"]["duplicate"]), (202, &json!(true)));
    assert_eq!(put(&menu).await.code(), "IDEMPOTENCY_KEY_REUSED");
    outside.payloads(EventType::OrderStatusRequested, 1).await;
    outside.payloads(EventType::MenuSyncRequested, 1).await;
}

/// A provider that the hub cannot speak to, and a log that is away, are our fault: send it again.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_faults_are_5xx() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = json!({ "status": "ready" }).to_string();
    let answer = send(&hub, Method::POST, STATUS, &body, &[]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "OUTBOUND_NOT_CONFIGURED")
    );
    assert!(!answer.header("retry-after").is_empty());
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.world.nats.server.pause().await.unwrap();
    let answer = send(&hub, Method::POST, STATUS, &body, &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "EVENT_LOG_UNAVAILABLE"));
    outside.world.nats.server.resume().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_tokens_is_blocked_and_floods_no_log() {
    const GUESSES: usize = 60;
    let outside = Outside::new(CAREEM_POS).await;
    let settings = outside.settings().set("TRUSTED_PROXIES", "127.0.0.1");
    let hub = Hub::start(&settings.set("RATE_LIMIT_ADDRESS", format!("{GUESSES}/60s/300s"))).await;
    let ready = r#"{"status":"ready"}"#;
    let guess = async |from: &str, token: &str| {
        let headers = [("x-service-token", token), ("x-forwarded-for", from)];
        send_raw(&hub, Method::POST, STATUS, ready, &headers).await
    };
    // No address is blocked before the known addresses have been read.
    eventually("it counts", PATIENCE, async || {
        let metrics = outside.world.careem.request(Method::GET, &hub.metrics_url()).await.text;
        if metrics.lines().any(|line| line == "rate_limit_instances 1") {
            Ok(())
        } else {
            Err(metrics)
        }
    })
    .await;
    for _ in 0..GUESSES {
        assert_eq!(guess(STRANGER, "guessed").await.status, 401);
    }
    let blocked = guess(STRANGER, "guessed").await;
    assert_eq!((blocked.status, blocked.code().as_str()), (429, "RATE_LIMITED"));
    let seconds: u64 = blocked.header("retry-after").parse().unwrap();
    assert!((290..=300).contains(&seconds), "{seconds}");
    assert_eq!(
        guess("203.0.113.9", "guessed").await.status,
        401,
        "only the stranger is"
    );
    // The backend may call from there as well.
    assert_eq!(guess(STRANGER, SERVICE_TOKEN).await.status, 202);
    let log = hub.log();
    let lines = log.lines().filter(|line| line.contains("INVALID_TOKEN"));
    let lines: Vec<_> = lines.filter(|line| line.contains("request refused")).collect();
    assert!((20..40).contains(&lines.len()), "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("status_request")), "{lines:#?}");
    assert!(lines[0].contains(STRANGER), "{}", lines[0]);
    eventually("a sample is kept", PATIENCE, async || {
        let ran = run(
            &outside.world.settings(),
            &["refusals", "list", "--code", "INVALID_TOKEN"],
        )
        .await;
        if ran.stdout.contains(STRANGER) {
            Ok(())
        } else {
            Err(ran.said())
        }
    })
    .await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    outside.world.at_end(Ends::default()).await;
}
