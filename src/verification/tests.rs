//! What is let in and what is not.

use axum::http::{HeaderMap, Method, Uri};
use proptest::prelude::*;
use secrecy::SecretString;

use super::{keys::Origin, *};

fn keys(secrets: &[&str]) -> Keys {
    let secrets: Vec<_> = secrets.iter().map(|one| SecretString::from(*one)).collect();
    Keys::new().with(keys::WEBHOOK_SECRET, Origin::Env, &secrets)
}

fn check_headers(headers: &HeaderMap, body: &[u8], keys: &Keys) -> Result<Proof, Refusal> {
    let uri = Uri::from_static("/api/webhooks/careem");
    let request = Unverified::new(&Method::POST, None, &uri, headers, body);
    let scheme = Scheme::preset("careem").unwrap();
    verify(&scheme, request, keys, Utc::now()).map(|verified| verified.proof().clone())
}

fn check(signature: &str, body: &[u8], keys: &Keys) -> Result<Proof, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert("x-careem-signature", signature.parse().unwrap());
    check_headers(&headers, body, keys)
}

fn signature(secret: &str, body: &[u8]) -> String {
    hex::encode(scheme::mac(secret, body))
}

/// RFC 4231, test case 2.
#[test]
fn known_answer() {
    let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let body = b"what do ya want for nothing?";
    assert!(check(signature, body, &keys(&["Jefe"])).is_ok());
    assert!(check(&signature.to_uppercase(), body, &keys(&["Jefe"])).is_ok());
    let proof = check(signature, body, &keys(&["new", "Jefe"])).unwrap();
    assert_eq!(proof.secrets()[0].index, 1);
    assert!(check(signature, b"what do ya want for nothing!", &keys(&["Jefe"])).is_err());
    assert!(check(signature, body, &keys(&["Jeff"])).is_err());
}

#[test]
fn no_secret_lets_nobody_in() {
    let signature = signature("x", b"body");
    assert!(check(&signature, b"body", &keys(&[])).is_err());
    assert!(check(&signature, b"body", &keys(&[""])).is_err());
    assert!(check("", b"body", &keys(&["x"])).is_err());
}

#[test]
fn missing_or_double_header_is_refused() {
    let ring = keys(&["x"]);
    let mut headers = HeaderMap::new();
    assert!(check_headers(&headers, b"body", &ring).is_err());
    let signature = signature("x", b"body");
    headers.append("x-careem-signature", signature.parse().unwrap());
    headers.append("x-careem-signature", signature.parse().unwrap());
    assert!(check_headers(&headers, b"body", &ring).is_err());
}

proptest! {
    #[test]
    fn only_the_signed_bytes_pass(body in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let ring = keys(&["secret"]);
        let signature = signature("secret", &body);
        prop_assert!(check(&signature, &body, &ring).is_ok());
        let mut longer = body.clone();
        longer.push(b' ');
        prop_assert!(check(&signature, &longer, &ring).is_err());
        if !body.is_empty() {
            let mut changed = body.clone();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert!(check(&signature, &changed, &ring).is_err());
        }
        let cut = &signature[..signature.len() - 2];
        prop_assert!(check(cut, &body, &ring).is_err());
    }
}
