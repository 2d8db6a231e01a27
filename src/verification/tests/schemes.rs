//! Schemes as they are written: what is taken over, what is wrong with them.

use super::*;

#[test]
fn a_preset_can_be_changed() {
    let scheme = scheme(json!({
        "preset": "stripe", "secret": "signing_key", "signature": { "header": "X-Pay-Signature" },
        "timestamp": { "header": "x-pay-signature", "tolerance": "1m" },
    }));
    assert_eq!(scheme.check(), Vec::<String>::new());
    assert_eq!(scheme.secrets().into_iter().collect::<Vec<_>>(), ["signing_key"]);
    let request = signed(&scheme, "{}");
    let header = request.headers["x-pay-signature"].to_str().unwrap();
    assert!(header.starts_with("t=1700000000,v1="), "{header}");
    let keys = fitting(&scheme);
    assert!(check(&scheme, &request, &keys, later(60)).is_ok());
    assert_eq!(
        check(&scheme, &request, &keys, later(61)).unwrap_err(),
        Refusal::SignatureExpired
    );
}

#[test]
fn invalid_tables_are_refused() {
    for (table, says) in [
        (
            json!({ "preset": "strype" }),
            "unknown scheme \"strype\"; there are adyen",
        ),
        (json!({ "preset": "stripe", "kind": "none" }), "cannot be changed"),
        (json!({ "preset": "stripe", "tolerence": "5m" }), "tolerence"),
        (
            json!({ "preset": "stripe", "signature": { "pointer": "/sig" } }),
            "either header or pointer",
        ),
        (
            json!({ "preset": "stripe", "timestamp": { "tolerance": "5" } }),
            "tolerance: expected a duration",
        ),
        (json!({ "preset": "stripe", "algorithm": "md5" }), "md5"),
        (
            json!({ "preset": "stripe", "signed": "{bdy}" }),
            "{bdy} is not a part of a request",
        ),
        (json!({ "preset": "stripe", "signed": "{body" }), "without its }"),
        (
            json!({ "preset": "stripe", "signature": { "header": "a b" } }),
            "cannot be a header's name",
        ),
        (
            json!({ "preset": "adyen", "signature": { "pointer": "sig" } }),
            "not a JSON pointer",
        ),
        (
            json!({ "preset": "keeta", "fields": { "x": "words" } }),
            "\"words\" is not a type",
        ),
        (json!({ "preset": "delivery-hero", "algorithms": ["none"] }), "none"),
        (json!({ "kind": "none", "secret": "x" }), "secret"),
        (json!({ "kind": "hmac" }), "missing field"),
        (json!({ "kind": "default" }), "unknown variant"),
        (json!({}), "missing field `kind`"),
        (json!("stripe"), "invalid type"),
        (
            json!({ "kind": "any_of", "steps": [{ "preset": "nobody" }] }),
            "unknown scheme",
        ),
    ] {
        let error = serde_json::from_value::<Scheme>(table.clone()).unwrap_err().to_string();
        assert!(error.contains(says), "{table}: {error}");
    }
}

#[test]
fn schemes_that_protect_nothing_are_named() {
    let time = json!({ "header": "x-time", "unit": "ms", "tolerance": "5m" });
    for (table, says) in [
        (
            json!({ "preset": "careem", "timestamp": time }),
            "timestamp: is not signed",
        ),
        (
            json!({ "preset": "careem", "replay_key": { "header": "x-id" } }),
            "replay_key: is not signed",
        ),
        (
            json!({ "preset": "careem", "signed": "{header:x-id}" }),
            "holds no part of the body",
        ),
        (
            json!({ "preset": "careem", "signed": "{timestamp}{body}" }),
            "expected timestamp, which says where it stands",
        ),
        (
            json!({ "preset": "careem", "signed": "{body}{secret}" }),
            "is the key of an HMAC",
        ),
        (
            json!({ "preset": "careem", "signed": "{header:x-id}{body}" }),
            "{header} and {body}, part 1 and the next, stand side by side",
        ),
        (
            json!({ "preset": "careem", "signed": "{body}.{body}" }),
            "only one of {body}",
        ),
        (
            json!({ "preset": "careem", "signed": "{sorted_fields}" }),
            "joins without escaping",
        ),
        (
            json!({ "preset": "careem", "fields": { "a": "text" } }),
            "has no effect",
        ),
        (
            json!({ "kind": "any_of", "steps": [{ "preset": "careem" }, { "preset": "slack" }] }),
            "steps[1].signed: another step signs another form",
        ),
        (
            json!({ "preset": "careem", "secret": "Webhook-Secret" }),
            "small letters",
        ),
        (
            json!({ "preset": "careem", "body_hash": { "query": "h", "algorithm": "sha256", "encoding": "hex" } }),
            "URL, which is not signed",
        ),
        (json!({ "preset": "careem", "single": ["x"] }), "not a JSON pointer"),
        (
            json!({ "preset": "keeta", "signed": "{secret}{sorted_fields}" }),
            "must end with {secret}",
        ),
        (
            json!({ "preset": "keeta", "algorithm": "sha1" }),
            "sha1 does not protect",
        ),
        (
            json!({ "preset": "keeta", "signed": "{body}{secret}" }),
            "is part of what it signs",
        ),
        (
            json!({ "preset": "delivery-hero", "algorithms": [] }),
            "name those that count",
        ),
        (
            json!({ "preset": "delivery-hero", "algorithms": ["HS512", "RS256"] }),
            "all of one family",
        ),
        (
            json!({ "preset": "delivery-hero", "claims": { "exp": 1 } }),
            "are times",
        ),
        (
            json!({ "kind": "static", "token": { "pointer": "/key" } }),
            "only a header can hold it",
        ),
        (
            json!({ "kind": "jwt", "token": { "pointer": "/key" }, "algorithms": ["HS512"], "expiry": "optional" }),
            "only a header can hold it",
        ),
        (json!({ "kind": "any_of", "steps": [] }), "expected 1 to 8"),
        (
            json!({ "kind": "any_of", "steps": [{ "preset": "careem" }, { "kind": "none" }] }),
            "steps[1].kind: none among",
        ),
    ] {
        let faults = scheme(table.clone()).check();
        assert!(faults.iter().any(|fault| fault.contains(says)), "{table}: {faults:?}");
    }
    // All faults are named, not only the first.
    let faults = scheme(json!({ "preset": "careem", "signed": "x", "secret": "", "timestamp": time })).check();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert_eq!(scheme(json!({ "kind": "none" })).check(), Vec::<String>::new());
}

#[test]
fn secrets_that_cannot_be_used_are_named() {
    let fault = |name: &str, of: &str, secret: &str| preset(name).check_secret(of, &SecretString::from(secret)).err();
    assert_eq!(fault("careem", WEBHOOK_SECRET, "x"), None);
    assert_eq!(fault("careem", WEBHOOK_SECRET, "").as_deref(), Some("is empty"));
    assert_eq!(
        fault("standard-webhooks", WEBHOOK_SECRET, "whsec_!").as_deref(),
        Some("expected base64")
    );
    // A secret with only the prefix is an empty key.
    assert_eq!(
        fault("standard-webhooks", WEBHOOK_SECRET, "whsec_").as_deref(),
        Some("expected base64")
    );
    assert_eq!(
        fault("adyen", WEBHOOK_SECRET, "xyz").as_deref(),
        Some("expected hexadecimal digits")
    );
    assert!(fault("delivery-hero", "jwt_secret", include_str!("rsa.public.pem")).is_some());
    let basic = scheme(json!({ "kind": "basic" }));
    let fault = |secret: &str| basic.check_secret(WEBHOOK_SECRET, &SecretString::from(secret)).err();
    assert_eq!((fault("user:password"), fault("user").is_some()), (None, true));
}

#[test]
fn labels_name_the_algorithms() {
    for (name, label) in [
        ("careem", "hmac-sha256"),
        ("talabat", "hmac-sha256+static"),
        ("twilio", "hmac-sha1"),
        ("keeta", "sha256"),
        ("delivery-hero", "jwt"),
    ] {
        assert_eq!(preset(name).label(), label);
    }
}
