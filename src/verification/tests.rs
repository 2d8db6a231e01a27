//! What is let in and what is not.

use axum::http::{HeaderMap, HeaderName, Method, Uri};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::json;

use super::{
    keys::{OwnSecretOrigin, WEBHOOK_SECRET},
    sign::Outgoing,
    *,
};

mod known_answers;
mod limits;
mod observation;
mod refusals;
mod schemes;
mod tokens;

/// A URL that the provider calls.
const URL: &str = "https://hooks.example.com/api/webhooks/careem";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn later(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn preset(name: &str) -> Scheme {
    Scheme::preset(name).unwrap_or_else(|| panic!("no preset {name}"))
}

fn scheme(table: serde_json::Value) -> Scheme {
    serde_json::from_value(table).unwrap()
}

fn keys(secrets: &[(&str, &[&str])]) -> Keys {
    secrets.iter().fold(Keys::new(), |keys, (name, values)| {
        let values: Vec<_> = values.iter().map(|one| SecretString::from(*one)).collect();
        keys.with(name, OwnSecretOrigin::Env, &values)
    })
}

/// Secrets that fit a scheme, whatever it is.
fn fitting(scheme: &Scheme) -> Keys {
    let names = scheme.secrets();
    let candidates = ["00ff00ff00ff00ff", "user:password", "plain-secret"];
    names.into_iter().fold(Keys::new(), |keys, name| {
        let fits = |one: &&str| scheme.check_secret(name, &SecretString::from(*one)).is_ok();
        let value = candidates.iter().find(|one| fits(one)).expect("one of them fits");
        keys.with(name, OwnSecretOrigin::Env, &[SecretString::from(*value)])
    })
}

fn signed(scheme: &Scheme, body: &str) -> Outgoing {
    sign(scheme, &fitting(scheme), Outgoing::post(URL, body), now()).unwrap()
}

fn check(scheme: &Scheme, request: &Outgoing, keys: &Keys, at: DateTime<Utc>) -> Result<Proof, Refusal> {
    let path = request.url.strip_prefix("https://").unwrap();
    let path = &path[path.find('/').unwrap()..];
    let base = request.url.strip_suffix(path).unwrap();
    let uri: Uri = path.parse().unwrap();
    let of = Unverified::new(&request.method, Some(base), &uri, &request.headers, &request.body);
    verify(scheme, of, keys, at).map(|verified| verified.proof().clone())
}

/// A body that every scheme can sign.
fn body_for(name: &str) -> &'static str {
    match name {
        "adyen" => {
            r#"{"notificationItems":[{"NotificationRequestItem":{"pspReference":"p","merchantAccountCode":"m","merchantReference":"r","amount":{"value":1,"currency":"EUR"},"eventCode":"E","success":"true","additionalData":{}}}]}"#
        }
        "keeta" => {
            r#"{"eventId":1001,"message":"{\"id\":\"CR-1\"}","messageId":"m-1","shopId":1,"timestamp":1700000000}"#
        }
        _ => r#"{"id":"CR-1","messageId":"m-1","total":16.240}"#,
    }
}

#[test]
fn every_preset_is_sound_and_accepts_its_own_signature() {
    for name in preset::names() {
        let scheme = preset(name);
        assert_eq!(scheme.check(), Vec::<String>::new(), "{name}");
        assert!(!scheme.is_none(), "{name}");
        let request = signed(&scheme, body_for(name));
        let proof =
            check(&scheme, &request, &fitting(&scheme), now()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!proof.secrets().is_empty(), "{name}");
        assert!(
            check(&scheme, &request, &Keys::new(), now()).is_err(),
            "{name} without secrets"
        );
        let unsigned = Outgoing::post(URL, body_for(name));
        assert!(
            check(&scheme, &unsigned, &fitting(&scheme), now()).is_err(),
            "{name} unsigned"
        );
    }
}

#[test]
fn the_message_id_that_is_signed_tells_a_repeat() {
    let id = |name: &str, message: &str, body: &str| {
        let scheme = preset(name);
        let mut request = Outgoing::post(URL, body);
        request.headers.insert("webhook-id", message.parse().unwrap());
        let request = sign(&scheme, &fitting(&scheme), request, now()).unwrap();
        let uri: Uri = "/api/webhooks/careem".parse().unwrap();
        let of = Unverified::new(&request.method, None, &uri, &request.headers, &request.body);
        let verified = verify(&scheme, of, &fitting(&scheme), now()).unwrap();
        verified.event_id("careem", "CR-1", "order_created", None)
    };
    assert_eq!(
        id("standard-webhooks", "m-1", "{}"),
        id("standard-webhooks", "m-1", "{ }")
    );
    assert_ne!(
        id("standard-webhooks", "m-1", "{}"),
        id("standard-webhooks", "m-2", "{}")
    );
    // If the id is not signed, anyone could change it.
    assert_eq!(id("careem", "m-1", "{}"), id("careem", "m-2", "{}"));
    assert_ne!(id("careem", "m-1", "{}"), id("careem", "m-1", "{ }"));
    // A field of the body, or the whole body if the field is missing.
    assert_eq!(
        id("stripe", "", r#"{"id":"e"}"#),
        id("stripe", "", r#"{"id":"e","x":1}"#)
    );
    assert_ne!(id("stripe", "", "{}"), id("stripe", "", r#"{"x":1}"#));
}

proptest! {
    #[test]
    fn only_the_signed_bytes_pass(
        of in prop::sample::select(vec!["careem", "standard-webhooks", "stripe", "slack", "shopify", "square", "deliveroo", "just-eat", "talabat"]),
        body in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let scheme = preset(of);
        let keys = fitting(&scheme);
        let request = sign(&scheme, &keys, Outgoing::post(URL, body.clone()), now()).unwrap();
        prop_assert!(check(&scheme, &request, &keys, now()).is_ok());
        let mut longer = request.clone();
        longer.body.push(b' ');
        prop_assert_eq!(check(&scheme, &longer, &keys, now()).unwrap_err(), Refusal::InvalidSignature);
        let mut changed = request;
        let at = at.index(changed.body.len());
        changed.body[at] ^= 1 << bit;
        prop_assert_eq!(check(&scheme, &changed, &keys, now()).unwrap_err(), Refusal::InvalidSignature);
    }

    #[test]
    fn no_request_panics(
        of in prop::sample::select(preset::names().collect::<Vec<_>>()),
        values in prop::collection::vec("[ -~]{0,80}|(v1,|v0=|t=1,|sha256=|Bearer )[A-Za-z0-9+/=,. ]{0,90}", 4),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "[{\\[\"a-z:,0-9}\\]]{0,60}".prop_map(String::into_bytes),
            "\\{\"notificationItems\":\\[[{}\",a-z]{0,20}\\]\\}".prop_map(String::into_bytes),
        ],
    ) {
        let scheme = preset(of);
        let mut request = signed(&scheme, body_for(of));
        for (name, value) in request.headers.keys().cloned().collect::<Vec<HeaderName>>().into_iter().zip(values) {
            if let Ok(value) = value.parse() {
                request.headers.insert(name, value);
            }
        }
        request.body = body;
        // A scheme that signs the body accepts no other body; the others only identify the caller.
        let outcome = check(&scheme, &request, &fitting(&scheme), now());
        let by_body = !["careem-pos", "doordash", "delivery-hero"].contains(&of);
        prop_assert!(outcome.is_err() || !by_body);
    }

    #[test]
    fn no_template_and_no_table_panics(template in ".{0,60}", name in "[a-z_{}:?/]{0,20}") {
        let _ = content::Content::try_from(template);
        let _ = content::Content::try_from(format!("{{{name}}}"));
        let _ = serde_json::from_value::<Scheme>(json!({ "preset": name, "signature": { "header": name } }));
    }
}
