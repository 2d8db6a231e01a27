//! A signature that does not match is let in while it is observed, and nothing else that is wrong.

use super::*;

fn observed(scheme: &Scheme, request: &Outgoing, at: DateTime<Utc>, keys: &Keys) -> Result<Proof, Refusal> {
    let uri: Uri = request.url.parse().unwrap();
    let unverified = Unverified::new(&request.method, None, &uri, &request.headers, &request.body);
    observe(scheme, unverified, keys, at).map(|verified| verified.proof().clone())
}

fn with(request: &Outgoing, name: &'static str, value: &str) -> Outgoing {
    let mut request = request.clone();
    request.headers.insert(name, value.parse().unwrap());
    request
}

#[test]
fn only_the_value_of_a_signature_is_not_insisted_on() {
    let slack = preset("slack");
    let keys = fitting(&slack);
    let request = signed(&slack, "{}");
    let proven = observed(&slack, &request, now(), &keys).unwrap();
    assert!(!proven.is_observed() && !proven.secrets().is_empty());
    let wrong = format!("v0={}", "0".repeat(64));
    let strange = with(&request, "x-slack-signature", &wrong);
    let proof = observed(&slack, &strange, now(), &keys).unwrap();
    assert!(proof.is_observed() && proof.secrets().is_empty());
    assert_eq!(proof.principal.branch(), None);
    for (sent, refusal) in [
        ("", Refusal::InvalidSignature),
        ("v0=", Refusal::InvalidSignature),
        ("v0=0123", Refusal::InvalidSignature),
        ("v0=no-hexadecimal-number", Refusal::InvalidSignature),
        ("sha256=00", Refusal::InvalidSignature),
    ] {
        let request = with(&request, "x-slack-signature", sent);
        assert_eq!(
            observed(&slack, &request, now(), &keys).unwrap_err(),
            refusal,
            "{sent:?}"
        );
    }
    let mut none = request.clone();
    none.headers.remove("x-slack-signature");
    assert_eq!(
        observed(&slack, &none, now(), &keys).unwrap_err(),
        Refusal::InvalidSignature
    );
    // The time is checked as always.
    for request in [&strange, &request] {
        let old = observed(&slack, request, later(301), &keys);
        assert_eq!(old.unwrap_err(), Refusal::SignatureExpired);
    }
    let mut timeless = strange.clone();
    timeless.headers.remove("x-slack-request-timestamp");
    assert_eq!(
        observed(&slack, &timeless, now(), &keys).unwrap_err(),
        Refusal::InvalidSignature
    );
}

#[test]
fn other_proofs_are_insisted_on() {
    let talabat = preset("talabat");
    let keys = fitting(&talabat);
    let request = signed(&talabat, "{}");
    let strange = with(&request, "x-talabat-signature", &"0".repeat(64));
    assert!(observed(&talabat, &strange, now(), &keys).unwrap().is_observed());
    let stranger = with(&strange, "authorization", "Bearer x");
    assert_eq!(
        observed(&talabat, &stranger, now(), &keys).unwrap_err(),
        Refusal::InvalidToken
    );
    let either = scheme(json!({ "kind": "any_of", "steps": [
        { "kind": "static", "secret": "api_key", "token": { "header": "x-key" } }, { "preset": "careem" },
    ] }));
    let request = with(&Outgoing::post(URL, "{}"), "x-careem-signature", &"0".repeat(64));
    assert!(
        observed(&either, &request, now(), &fitting(&either))
            .unwrap()
            .is_observed()
    );
    let wrong_key = with(&Outgoing::post(URL, "{}"), "x-key", "x");
    assert!(observed(&either, &wrong_key, now(), &fitting(&either)).is_err());
    for (name, can) in [
        ("keeta", true),
        ("talabat", true),
        ("careem-pos", false),
        ("delivery-hero", false),
    ] {
        assert_eq!(preset(name).can_be_observed(), can, "{name}");
    }
}

/// A branch's secret must not be what lets in what its signature does not prove.
#[test]
fn what_is_observed_is_no_branchs() {
    let talabat = preset("talabat");
    let own = [SecretString::from("00ff00ff00ff00ff")];
    let keys = Keys::new()
        .with(WEBHOOK_SECRET, OwnSecretOrigin::Env, &own)
        .with_branch("bearer_token", "branch-1", &own);
    let request = with(&Outgoing::post(URL, "{}"), "authorization", "Bearer 00ff00ff00ff00ff");
    let strange = with(&request, "x-talabat-signature", &"0".repeat(64));
    let refused = observed(&talabat, &strange, now(), &keys);
    assert_eq!(refused.unwrap_err(), Refusal::InvalidSignature);
}
