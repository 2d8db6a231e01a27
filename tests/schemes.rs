//! Other schemes than Careem's own on the real hub: what `send` signs is let in, what is wrong is refused by its name, and
//! no token is kept.

use reqwest::Method;
use serde_json::Value;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{MERCHANT, change, order, sign},
    hub::{Hub, Settings, run},
    log::payload,
};

const PUBLIC_URL: &str = "https://hooks.example.com";
/// A secret that every decoding takes.
const KEY: &str = "00ff00ff00ff00ff";
const TOKEN: &str = "token-of-the-tests-that-nobody-may-see";

/// Preset, headers, the answer and its code.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, u16, &'a str);

fn with(world: &World, preset: &str) -> Settings {
    world
        .settings()
        .set("CAREEM_VERIFICATION", preset)
        .set("CAREEM_WEBHOOK_SECRET", KEY)
        .set("CAREEM_API_KEY", TOKEN)
        .set("CAREEM_BEARER_TOKEN", TOKEN)
        .set("CAREEM_JWT_SECRET", TOKEN)
        .set("PUBLIC_URL", PUBLIC_URL)
}

async fn send(settings: &Settings, hub: &Hub, file: &std::path::Path) -> (Option<i32>, Value) {
    let url = hub.url();
    let file = file.to_str().unwrap();
    let ran = run(
        settings,
        &["send", "careem", file, "--url", &url, "--merchant", MERCHANT, "--json"],
    )
    .await;
    let answer = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.said()));
    (ran.code, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_signed_by_send_are_accepted() {
    const PRESETS: [&str; 9] = [
        "standard-webhooks",
        "stripe",
        "slack",
        "square",
        "twilio",
        "talabat",
        "delivery-hero",
        "just-eat",
        "careem-pos",
    ];
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for preset in PRESETS {
        let settings = with(&world, preset);
        let hub = Hub::start(&settings).await;
        let file = folder.path().join(preset);
        std::fs::write(&file, order(&format!("CR-{preset}"))).unwrap();
        let (code, answer) = send(&settings, &hub, &file).await;
        assert_eq!((code, &answer["status"]), (Some(0), &200.into()), "{preset}: {answer}");
        // By another secret it is a stranger's.
        let other = ["WEBHOOK_SECRET", "API_KEY", "BEARER_TOKEN", "JWT_SECRET"]
            .iter()
            .fold(settings, |settings, name| {
                settings.set(&format!("CAREEM_{name}"), "0000000000000000")
            });
        let (code, answer) = send(&other, &hub, &file).await;
        assert_eq!((code, &answer["status"]), (Some(1), &401.into()), "{preset}: {answer}");
        hub.terminate().await;
    }
    let _hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(PRESETS.len())).await;
    let shown: String = world
        .log
        .events()
        .await
        .iter()
        .map(|event| format!("{:?}\n", event.envelope))
        .collect();
    assert!(shown.contains("hmac-sha256+static") && shown.contains("jwt"), "{shown}");
    for secret in [TOKEN, KEY, "Bearer"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_right_code() {
    let world = World::new().await;
    let body = order("CR-refused");
    let signature = sign(KEY, body.as_bytes());
    let old = "1700000000";
    let slack = format!("v0={}", sign(KEY, format!("v0:{old}:{body}").as_bytes()));
    let bearer = format!("Bearer {TOKEN}");
    let cases: [Case<'_>; 10] = [
        (
            "slack",
            vec![("x-slack-signature", &slack), ("x-slack-request-timestamp", old)],
            401,
            "SIGNATURE_EXPIRED",
        ),
        (
            "slack",
            vec![
                ("x-slack-signature", &slack),
                ("x-slack-request-timestamp", "1700000001"),
            ],
            401,
            "INVALID_SIGNATURE",
        ),
        ("careem-pos", vec![], 401, "INVALID_TOKEN"),
        ("careem-pos", vec![("x-careem-api-key", "wrong")], 401, "INVALID_TOKEN"),
        ("careem-pos", vec![("x-careem-api-key", TOKEN)], 200, ""),
        ("delivery-hero", vec![("authorization", &bearer)], 401, "INVALID_TOKEN"),
        ("delivery-hero", vec![], 401, "INVALID_TOKEN"),
        (
            "talabat",
            vec![("x-talabat-signature", &signature)],
            401,
            "INVALID_TOKEN",
        ),
        ("talabat", vec![("authorization", &bearer)], 401, "INVALID_SIGNATURE"),
        (
            "talabat",
            vec![("x-talabat-signature", &signature), ("authorization", &bearer)],
            200,
            "",
        ),
    ];
    let mut hubs = std::collections::HashMap::new();
    for (preset, headers, status, code) in &cases {
        if !hubs.contains_key(preset) {
            hubs.insert(*preset, Hub::start(&with(&world, preset)).await);
        }
        let mut headers = headers.clone();
        headers.push(("x-merchant-id", MERCHANT));
        let answer = world.careem.post_raw(&hubs[preset], body.as_str(), &headers).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{preset} {headers:?}"
        );
    }
    // One order, by whomever it was sent.
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_is_off_only_if_configured_explicitly() {
    let world = World::new().await;
    let hub = Hub::start(
        &world
            .settings()
            .set("CAREEM_VERIFICATION", "none")
            .set("CAREEM_WEBHOOK_SECRET", ""),
    )
    .await;
    let strict = world.hub().await;
    let headers = [("x-merchant-id", MERCHANT)];
    let body = order("CR-anybody");
    assert_eq!(
        world.careem.post_raw(&strict, body.as_str(), &headers).await.status,
        401
    );
    world.careem.post_raw(&hub, body.as_str(), &headers).await.event_id();
    for (hub, verifies, scheme) in [(&hub, false, "none"), (&strict, true, "hmac-sha256")] {
        let url = format!("{}/api/webhooks/health/careem", hub.url());
        let health = world.careem.request(Method::GET, &url).await.json();
        assert_eq!(health["configuration"]["signatureValidation"], verifies, "{health}");
        assert_eq!(health["configuration"]["signatureScheme"], scheme, "{health}");
        assert_eq!(hub.logs_contain("nothing is verified"), !verifies);
    }
    let ran = run(&world.settings().set("CAREEM_WEBHOOK_SECRET", ""), &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said().contains("CAREEM_WEBHOOK_SECRET: missing"), "{}", ran.said());
    world.at_end(Ends::forwarded(1)).await;
}

/// A webhook that somebody kept and sends again when the log has forgotten its id: without a signed time nothing but what
/// became of the first one tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_after_the_duplicate_window() {
    let world = World::new().await;
    let first = world.hub().await;
    let (new, change) = (order("CR-replayed"), change("CR-replayed", "ready"));
    world.careem.post(&first, &new).await.event_id();
    world.backend.wait_for(1).await;
    world.careem.post(&first, &change).await.event_id();
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(first.terminate().await.0.code(), Some(0));
    // The next instance has never seen the two.
    let hub = world.hub().await;
    world.log_forgets(&hub).await;
    for (body, ignored) in [(&new, 1), (&change, 2)] {
        let answer = world.careem.post(&hub, body).await.json();
        assert_eq!(answer["data"]["duplicate"], false, "the log has forgotten: {answer}");
        let events = world.log.wait_for(EventType::OrderIgnored, ignored).await;
        let payload = payload(events.last().unwrap());
        assert_eq!(payload["reason"], "DUPLICATE_WEBHOOK", "{payload}");
    }
    assert_eq!(world.backend.count(), 2);
    let rows = world.database.rows("SELECT status FROM webhook_logs").await.unwrap();
    assert!(
        rows.len() == 2 && rows.iter().all(|row| row["status"] == "completed"),
        "{rows:?}"
    );
}
