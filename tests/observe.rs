//! It is not certain how a provider signs: for a while its signatures are observed, and then they are insisted on.

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::{
    event::{EventType, WebhookOrigin},
    provider::Catalogue,
    verification::sign::Outgoing,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::Answer,
    hub::{Hub, Settings, run},
    ids,
    provider::{Provider, SECRETS, STRANGE, Webhook},
    wait::{PATIENCE, eventually},
};

const ORDER: &str = include_str!("fixtures/providers/keeta/webhook_envelope.synthetic.json");

fn in_days(days: i64) -> String {
    (Utc::now() + TimeDelta::days(days)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Keeta, and a hub that accepts its webhooks.
async fn keeta() -> (World, Provider, Settings) {
    let world = World::new().await;
    let all = Provider::all(&Catalogue::shipped());
    let keeta = all.into_iter().find(|one| one.name == "keeta").unwrap();
    keeta.branch(&world, "123").await;
    let settings = keeta.enable(world.settings(), "SAR");
    (world, keeta, settings)
}

fn order(number: u64) -> Webhook {
    let mut webhook: Value = serde_json::from_str(ORDER).unwrap();
    webhook.as_object_mut().unwrap().remove("sig");
    webhook["messageId"] = format!("m-{number}").into();
    webhook["timestamp"] = Utc::now().timestamp().into();
    let message = webhook["message"]
        .as_str()
        .unwrap()
        .replace("9007199254740993", &number.to_string());
    webhook["message"] = message.into();
    Webhook::new(webhook)
}

/// Signed with a secret of no provider.
fn strange_of(keeta: &Provider, number: u64) -> Outgoing {
    keeta.signed(&order(number), STRANGE)
}

/// In Keeta's format.
fn is_refused(answer: &Answer) {
    assert!(
        answer.status == 401 && answer.text.contains("INVALID_SIGNATURE"),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_does_not_match_is_counted_and_later_refused() {
    let (world, keeta, settings) = keeta().await;
    let until = in_days(2);
    let hub = Hub::start(&settings.clone().set("KEETA_OBSERVE_UNTIL", &until)).await;
    assert!(hub.logs_contain("anyone who knows the form can send orders as this provider"));
    eventually("the health says so", PATIENCE, async || {
        let health = world.health(&hub).await;
        let is_said = health["status"] == "degraded" && health["observed"] == json!({ "keeta": until });
        if is_said { Ok(()) } else { Err(health) }
    })
    .await;
    // What the public port says is what it says without observation.
    let public = |path: &str| {
        let url = format!("{}{path}", hub.url());
        let http = &world.careem;
        async move { http.request(reqwest::Method::GET, &url).await }
    };
    eventually("the public port says that all is well", PATIENCE, async || {
        let health = public("/health").await.json();
        if health["status"] == "healthy" {
            Ok(())
        } else {
            Err(health)
        }
    })
    .await;
    let path = "/api/webhooks/health/keeta";
    let told = public(path).await.json()["configuration"].clone();
    assert_eq!(
        (&told["signatureValidation"], &told["signaturesObservedUntil"]),
        (&json!(true), &Value::Null)
    );
    let url = format!("{}{path}", hub.private_url());
    let told = world.careem.request(reqwest::Method::GET, &url).await.json()["configuration"].clone();
    assert_eq!(
        (&told["signatureValidation"], &told["signaturesObservedUntil"]),
        (&json!(false), &json!(until))
    );
    let proven = keeta.send(&hub, keeta.signed(&order(1), SECRETS[0])).await;
    let strange = keeta.send(&hub, keeta.signed(&order(2), STRANGE)).await;
    assert_eq!((proven.status, strange.status), (200, 200), "{proven:?} {strange:?}");
    let mut unsigned = keeta.signed(&order(3), STRANGE);
    let mut body: Value = serde_json::from_slice(&unsigned.body).unwrap();
    for sig in [json!(""), json!("0123"), Value::Null] {
        body["sig"] = sig;
        unsigned.body = body.to_string().into();
        let refused = keeta.send(&hub, unsigned.clone()).await;
        is_refused(&refused);
    }
    let received = world.log.wait_for(EventType::WebhookReceived, 2).await;
    let facts: Vec<_> = received
        .iter()
        .map(|event| event.envelope.request.as_ref().unwrap())
        .collect();
    let origins: Vec<_> = facts.iter().map(|facts| (facts.origin, facts.secrets.len())).collect();
    assert_eq!(origins, [(None, 1), (Some(WebhookOrigin::Observed), 0)]);
    assert!(received.iter().all(|event| event.envelope.principal.branch().is_none()));
    world
        .metrics_say(&hub, r#"webhooks_observed_total{provider="keeta"} 1"#)
        .await;
    hub.says("it is accepted, and will be refused then").await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    hub.terminate().await;
    // The time is over: the variable is still there, and opens nothing.
    let hub = Hub::start(&settings.set("KEETA_OBSERVE_UNTIL", in_days(-1))).await;
    assert!(hub.logs_contain("signatures are insisted on; take the variable away"));
    let refused = keeta.send(&hub, keeta.signed(&order(4), STRANGE)).await;
    is_refused(&refused);
    assert_eq!(world.health(&hub).await["observed"], json!({}));
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_observed_for_long_and_the_command_says_what_to_set() {
    let (_world, _, settings) = keeta().await;
    let ran = run(&settings.clone().set("KEETA_OBSERVE_UNTIL", in_days(15)), &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(
        ran.said().contains("KEETA_OBSERVE_UNTIL") && ran.said().contains("14 days"),
        "{}",
        ran.said()
    );
    let ran = run(&settings, &["providers", "observe", "keeta", "--days", "3", "--json"]).await;
    let advice: Value = serde_json::from_str(&ran.expect_success().stdout).unwrap();
    assert_eq!(
        (&advice["variable"], &advice["setNow"]),
        (&json!("KEETA_OBSERVE_UNTIL"), &Value::Null)
    );
    let until = advice["value"].as_str().unwrap();
    assert!(until < in_days(3).as_str() && until > in_days(2).as_str(), "{advice}");
    let ran = run(&settings, &["providers", "observe", "careem"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.said().contains("documented"), "{}", ran.said());
    let ran = run(&settings, &["providers", "observe", "keeta", "--days", "15"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
}

/// What the scheme could not sign in one way only is wrong with more than the value of its signature.
#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_webhook_is_not_observed() {
    let (world, keeta, settings) = keeta().await;
    let settings = settings.set("KEETA_OBSERVE_UNTIL", in_days(2));
    let hub = Hub::start(&settings).await;
    let good = keeta.send(&hub, strange_of(&keeta, 4)).await;
    assert_eq!(good.status, 200, "{good:?}");
    // Anyone can have sent it, so it is no sign that the provider sends.
    let none = r#"webhook_last_received_timestamp_seconds{provider="keeta"} 0"#;
    let metrics = world.metrics(&hub).await;
    assert!(metrics.lines().any(|line| line == none), "{metrics}");
    for (field, value) in [
        ("messageId", Value::Null),
        ("messageId", json!(true)),
        ("messageId", json!("m-5&eventId=1004")),
        ("message", json!("{}&shopId=2")),
        ("appId", json!("1&eventId=1004")),
        ("a&b", json!("c")),
    ] {
        let mut body: Value = serde_json::from_slice(&strange_of(&keeta, 5).body).unwrap();
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(field)),
            value => body[field] = value,
        }
        let mut bad = strange_of(&keeta, 5);
        bad.body = body.to_string().into();
        let refused = keeta.send(&hub, bad).await;
        assert_eq!(refused.status, 401, "{body}: {refused:?}");
        is_refused(&refused);
    }
    // Nor is it after a restart. What careem sent shows that the log was read.
    world.post_orders(&hub, ids("proven", 1)).await;
    hub.terminate().await;
    let hub = Hub::start(&settings).await;
    let of_careem = r#"webhook_last_received_timestamp_seconds{provider="careem"}"#;
    world.metric_becomes(&hub, of_careem, |seconds| seconds > 0.0).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.metrics_say(&hub, none).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}
