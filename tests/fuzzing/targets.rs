//! What is fuzzed: each target takes any bytes, and panics where something does not hold.
//!
//! The tests of this project run them on the corpus and on what they make of it; `fuzz/` lets libFuzzer look for more.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::de::IgnoredAny;
use serde_json::Value;
use uuid::Uuid;
use webhook_hub::{
    event::Recorded,
    json::{structure, surrogates::with_whole_surrogates},
    order::{
        body::{self, BodySource, BranchRef},
        sanitise::{MAX_TEXT_BYTES, clean_json, sanitise},
    },
    provider::{Admission, Catalogue, Content, Provider, TransformError, declarative::Declarative},
    serving::client_ip,
    verification::{Keys, Scheme, Unverified, keys::OwnSecretOrigin, preset, sign, sign::Outgoing, verify},
};

/// A name, and what is done with an input.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target by the name of its corpus.
pub(crate) const TARGETS: [Target; 5] = [
    ("signature", signature),
    ("intake", intake),
    ("transform", transform),
    ("forwarded_for", forwarded_for),
    ("sanitise", text),
];

/// Where a provider posts to, as the hub knows itself.
const BASE: &str = "https://hooks.example.com";
const PATH: &str = "/api/webhooks/fuzzed";
/// Schemes with a signature over the whole body.
const OVER_BODY: [&str; 9] = [
    "standard-webhooks",
    "svix",
    "stripe",
    "github",
    "shopify",
    "slack",
    "square",
    "careem",
    "uber-eats",
];

/// Each scheme with matching secrets that cannot be guessed.
static SCHEMES: LazyLock<Vec<(&str, Scheme, Keys)>> = LazyLock::new(|| {
    let fitting = |name| {
        let scheme = Scheme::preset(name).unwrap();
        let mut keys = Keys::new();
        for secret in scheme.secrets() {
            let hex = Uuid::new_v4().simple().to_string();
            let candidates = [hex.clone(), format!("user:{hex}")].map(SecretString::from);
            let fits = |one: &&SecretString| scheme.check_secret(secret, one).is_ok();
            let value = candidates.iter().find(fits).expect("one of them fits").clone();
            keys = keys.with(secret, OwnSecretOrigin::Env, &[value]);
        }
        (name, scheme, keys)
    };
    preset::names().map(fitting).collect()
});

/// Every provider that is shipped.
static PROVIDERS: LazyLock<Vec<Declarative>> = LazyLock::new(|| {
    let catalogue = Catalogue::shipped();
    let currency = Some("JOD".parse().unwrap());
    let files = catalogue.iter().map(|(_, known)| Arc::clone(known.file()));
    files.map(|file| Declarative::new(file, currency)).collect()
});

fn careem() -> &'static Declarative {
    PROVIDERS.iter().find(|one| one.name() == "careem").unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// A request as text: header lines, an empty line, the body. What cannot be a header is none.
fn request(data: &[u8]) -> (HeaderMap, &[u8]) {
    let split = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            continue;
        };
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) else {
            continue;
        };
        headers.append(name, value);
    }
    (headers, body)
}

/// A stranger gets in nowhere; who has the secret does, whatever the body is; and not with another body.
pub(crate) fn signature(data: &[u8]) {
    let (headers, body) = request(data);
    let uri = Uri::from_static(PATH);
    for (name, scheme, keys) in SCHEMES.iter() {
        let stranger = Unverified::new(&Method::POST, Some(BASE), &uri, &headers, body);
        assert!(
            verify(scheme, stranger, keys, now()).is_err(),
            "{name} lets a stranger in"
        );
    }
    let (name, scheme, keys) = &SCHEMES[data.len() % SCHEMES.len()];
    let Ok(signed) = sign(scheme, keys, Outgoing::post(format!("{BASE}{PATH}"), body), now()) else {
        return;
    };
    let uri: Uri = signed.url.strip_prefix(BASE).unwrap().parse().unwrap();
    let by = |body| {
        let request = Unverified::new(&signed.method, Some(BASE), &uri, &signed.headers, body);
        verify(scheme, request, keys, now()).map(|verified| verified.body().len())
    };
    assert!(by(&signed.body).is_ok(), "{name} refuses what it signed");
    if OVER_BODY.contains(name) {
        assert!(
            by(&[&signed.body, &b" "[..]].concat()).is_err(),
            "{name} takes another body"
        );
    }
}

/// What the intake makes of a body that its provider signed.
fn admit(body: &[u8]) -> Option<Admission> {
    let (_, scheme, keys) = SCHEMES.iter().find(|(name, ..)| *name == "careem").unwrap();
    let signed = sign(scheme, keys, Outgoing::post(format!("{BASE}{PATH}"), body), now()).unwrap();
    let uri = Uri::from_static(PATH);
    let request = Unverified::new(&signed.method, Some(BASE), &uri, &signed.headers, body);
    let verified = verify(scheme, request, keys, now()).unwrap();
    structure::check(body).ok()?;
    careem().read(&verified).ok()
}

/// The intake takes JSON and nothing else, and what it took can be read later.
pub(crate) fn intake(data: &[u8]) {
    let is_object = std::str::from_utf8(data).is_ok_and(|text| {
        let text = text.trim_matches([' ', '\n', '\r', '\t']);
        text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
    });
    match structure::check(data) {
        Ok(()) => assert!(is_object, "let through what is no JSON"),
        Err(refusal) => {
            let said = format!("invalid webhook payload: {refusal}");
            assert!(!is_object || !said.contains("not JSON"), "{said}");
            assert!(said.chars().count() < 300 && !said.contains(char::is_control), "{said}");
        }
    }
    if let Some(admission) = admit(data) {
        let id = &admission.external_order_id;
        assert!(
            id.len() <= 128 && !id.contains(char::is_control) && sanitise(id) == *id,
            "{id:?}"
        );
        let read = careem().transform(&received(data, &admission.webhook_type));
        assert!(!matches!(read, Err(TransformError::NotJson)), "taken and then not read");
    }
}

fn received(payload: &[u8], webhook_type: &str) -> Recorded {
    Recorded::sample("careem", "CR1", webhook_type, payload, now())
}

/// Whatever is on the log ends as an order or as what is wrong with it, and no text that acts leaves the hub.
pub(crate) fn transform(data: &[u8]) {
    let place = BranchRef {
        auto_accept: false,
        branch_id: "branch".into(),
        company_id: "company".into(),
    };
    let kinds = ["order_created", "order_cancelled", "courier_updated"];
    let each = PROVIDERS.iter().flat_map(|provider| kinds.map(|kind| (provider, kind)));
    for (provider, webhook_type) in each {
        let fact = match provider.transform(&received(data, webhook_type)) {
            Ok(fact) => fact,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        let origin = BodySource {
            auto_accept: false,
            provider: "careem",
            webhook_type,
            external_order_id: "CR1",
            timestamp: fact.timestamp.unwrap_or(now()),
            transformed_at: now(),
            zone: None,
        };
        let made = match &fact.content {
            Content::NewOrder(order) => body::new_order(order, &place, origin),
            Content::StatusChange(change) => body::status_change(change, &place, origin),
            Content::Amendment(amendment) => body::amendment(amendment, &place, origin),
            Content::Ignored(_) | Content::Elsewhere => continue,
        };
        let (clean, _) = clean_json(made.unwrap());
        let read: Value = serde_json::from_slice(&clean).expect("the backend gets JSON");
        each_text(&read, &mut |text| {
            assert!(
                text.len() <= MAX_TEXT_BYTES && sanitise(text) == text,
                "{text:?} goes out"
            );
        });
        assert_eq!(clean_json(clean.clone()), (clean.clone(), Vec::new()));
        body::summary(&clean).expect("the tables can be made of it");
    }
}

fn each_text(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(elements) => elements.iter().for_each(|one| each_text(one, look)),
        Value::Object(members) => members.iter().for_each(|(key, one)| {
            look(key);
            each_text(one, look);
        }),
        _ => {}
    }
}

/// No client chooses the address by which the hub knows it: header lines, the last one written by a trusted proxy.
pub(crate) fn forwarded_for(data: &[u8]) {
    let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let (ours, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, 9]));
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("x-forwarded-for", value.clone());
            headers.append("x-forwarded-proto", value);
        }
    }
    assert_eq!(client_ip::client_ip(stranger, &headers, &trusted), stranger);
    for tls in [true, false] {
        assert_eq!(client_ip::came_by_tls(stranger, tls, &headers, &trusted), tls);
        client_ip::came_by_tls(ours, tls, &headers, &trusted);
    }
    let seen = client_ip::client_ip(ours, &headers, &trusted);
    assert_eq!(seen, seen.to_canonical());
    headers.append("x-forwarded-for", HeaderValue::from_static("198.51.100.7"));
    assert_eq!(
        client_ip::client_ip(ours, &headers, &trusted).to_string(),
        "198.51.100.7"
    );
}

/// Cleaning ends, makes nothing longer, and finds nothing to do in what it cleaned.
pub(crate) fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let clean = sanitise(&text);
    assert!(clean.len() <= text.len() && clean.len() <= MAX_TEXT_BYTES);
    assert_eq!(sanitise(&clean), clean);
    assert!(!clean.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')));
    let whole = with_whole_surrogates(&text);
    assert_eq!(with_whole_surrogates(&whole), whole);
    clean_json(data.to_vec());
}
