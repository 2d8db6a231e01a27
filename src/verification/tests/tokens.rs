//! JSON Web Tokens: what their makers and their forgers send.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

const SECRET: &str = "a-shared-secret-of-delivery-hero";
/// A public key, and a token of its owner: `service=middleware`, good until 300 s after `now`, made by PyJWT 2.15.1.
const PUBLIC_KEY: &str = include_str!("rsa.public.pem");
const RSA_TOKEN: &str = include_str!("rsa.token.txt");

fn token(algorithm: Algorithm, key: &[u8], claims: serde_json::Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(key)).unwrap()
}

fn hs512(claims: serde_json::Value) -> String {
    token(Algorithm::HS512, SECRET.as_bytes(), claims)
}

/// Tokens with unsigned parts, and signed ones.
fn by_hand(header: serde_json::Value, claims: serde_json::Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        part(header.to_string().as_bytes()),
        part(claims.to_string().as_bytes()),
        part(signature)
    )
}

fn lets_in(scheme: &Scheme, secret: &str, token: &str) -> bool {
    let mut request = Outgoing::post(URL, "{}");
    let header = format!("Bearer {}", token.trim());
    request.headers.insert("authorization", header.parse().unwrap());
    match check(scheme, &request, &keys(&[("jwt_secret", &["another", secret])]), now()) {
        Ok(proof) => {
            assert_eq!((proof.secrets()[0].index, proof.signature()), (1, None));
            true
        }
        Err(refusal) => {
            assert_eq!(refusal, Refusal::InvalidToken);
            false
        }
    }
}

#[test]
fn claims_and_times() {
    let optional = preset("delivery-hero");
    let required = scheme(json!({ "preset": "delivery-hero", "expiry": "required" }));
    let at = now().timestamp();
    for (claims, by_optional, by_required) in [
        (json!({ "service": "middleware" }), true, false),
        (json!({ "service": "middleware", "exp": at + 1 }), true, true),
        (json!({ "service": "middleware", "exp": at - 59 }), true, true),
        (json!({ "service": "middleware", "exp": at - 60 }), false, false),
        (
            json!({ "service": "middleware", "exp": (at + 1).to_string() }),
            false,
            false,
        ),
        (json!({ "service": "middleware", "exp": null }), false, false),
        (
            json!({ "service": "middleware", "exp": at + 1, "nbf": at + 60 }),
            true,
            true,
        ),
        (
            json!({ "service": "middleware", "exp": at + 1, "nbf": at + 61 }),
            false,
            false,
        ),
        (
            json!({ "service": "middleware", "exp": at + 1, "nbf": "soon" }),
            false,
            false,
        ),
        (json!({ "service": "Middleware", "exp": at + 1 }), false, false),
        (json!({ "service": ["middleware"], "exp": at + 1 }), false, false),
        (json!({ "exp": at + 1 }), false, false),
    ] {
        let token = hs512(claims.clone());
        assert_eq!(lets_in(&optional, SECRET, &token), by_optional, "{claims}");
        assert_eq!(lets_in(&required, SECRET, &token), by_required, "{claims}");
    }
    let audience = scheme(json!({ "preset": "delivery-hero", "claims": { "aud": "hub" } }));
    for (claims, fits) in [
        (json!({ "service": "middleware", "aud": "hub" }), true),
        (json!({ "service": "middleware", "aud": ["x", "hub"] }), true),
        (json!({ "service": "middleware", "aud": ["x"] }), false),
        (json!({ "service": "x", "aud": "hub" }), false),
    ] {
        assert_eq!(lets_in(&audience, SECRET, &hs512(claims.clone())), fits, "{claims}");
    }
}

#[test]
fn algorithms_are_pinned() {
    let scheme = preset("delivery-hero");
    let claims = json!({ "service": "middleware" });
    assert!(lets_in(&scheme, SECRET, &hs512(claims.clone())));
    // The same secret, another algorithm.
    assert!(!lets_in(
        &scheme,
        SECRET,
        &token(Algorithm::HS256, SECRET.as_bytes(), claims.clone())
    ));
    assert!(!lets_in(
        &scheme,
        SECRET,
        &token(Algorithm::HS512, b"guessed", claims.clone())
    ));
    for alg in ["none", "None", "NONE", "", "HS512"] {
        let header = json!({ "alg": alg, "typ": "JWT" });
        for signature in [&b""[..], &[0; 64]] {
            assert!(
                !lets_in(&scheme, SECRET, &by_hand(header.clone(), claims.clone(), signature)),
                "{alg}"
            );
        }
    }
    let header = json!({ "alg": "HS512", "crit": ["exp"] });
    let unsigned = by_hand(header, claims.clone(), b"");
    let message = unsigned.trim_end_matches('.');
    let signature = digest::Algorithm::Sha512.mac(SECRET.as_bytes(), &[message]);
    let critical = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(!lets_in(&scheme, SECRET, &critical), "what is critical is not known");
    let whole = hs512(claims);
    for broken in [
        &whole[..whole.len() - 1],
        whole.rsplit_once('.').unwrap().0,
        ".",
        "..",
        "a.b.c",
        "",
    ] {
        assert!(!lets_in(&scheme, SECRET, broken), "{broken}");
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let rsa = scheme(json!({ "preset": "delivery-hero", "algorithms": ["RS256"], "expiry": "required" }));
    assert_eq!(rsa.check(), Vec::<String>::new());
    assert!(rsa.check_secret("jwt_secret", &SecretString::from(PUBLIC_KEY)).is_ok());
    assert!(rsa.check_secret("jwt_secret", &SecretString::from(SECRET)).is_err());
    assert!(lets_in(&rsa, PUBLIC_KEY, RSA_TOKEN));
    // The public key is public; it must not work as the key of an HMAC.
    let claims = json!({ "service": "middleware", "exp": now().timestamp() + 300 });
    let forged = [Algorithm::HS256, Algorithm::HS512].map(|one| token(one, PUBLIC_KEY.as_bytes(), claims.clone()));
    for forged in forged {
        assert!(!lets_in(&rsa, PUBLIC_KEY, &forged));
        // Not even if it is configured as a shared secret.
        assert!(!lets_in(&preset("delivery-hero"), PUBLIC_KEY, &forged));
    }
    assert!(!lets_in(&preset("delivery-hero"), PUBLIC_KEY, RSA_TOKEN));
    let made = sign(
        &rsa,
        &keys(&[("jwt_secret", &[PUBLIC_KEY])]),
        Outgoing::post(URL, "{}"),
        now(),
    );
    assert_eq!(made.unwrap_err(), sign::CannotSign::ForeignKey);
}
