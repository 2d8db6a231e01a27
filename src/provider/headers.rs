//! Headers of a webhook: which are kept, and how they are written.
//!
//! The log and the tables keep an allow-list: a few that say how a request came, and those that the provider's file and its
//! scheme read. A name that is not on it may hold anything, also a credential of a proxy or gateway in front.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AsHeaderName};
use serde_json::{Map, Value};

use super::MERCHANT_HEADER;
use crate::verification::Scheme;

/// Kept of every webhook: what helps to find a request, and to read its body.
const ALWAYS: [&str; 9] = [
    "content-encoding",
    "content-length",
    "content-type",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    MERCHANT_HEADER,
    "x-request-id",
];
/// Headers that are credentials by their name; no file may read them, and no scheme makes them kept.
const CREDENTIALS: [&str; 2] = ["cookie", "set-cookie"];
/// Parts of names that make a header a credential.
const CREDENTIAL_PARTS: [&str; 8] = [
    "auth",
    "token",
    "secret",
    "api-key",
    "apikey",
    "password",
    "credential",
    "session",
];
/// Longest header that is kept, in characters; several of one name are one.
const MAX_HEADER_CHARS: usize = 1024;
/// Most bytes of headers that are kept of a webhook, as the log writes them: what is outside of ASCII is escaped there, and takes up to
/// 12 bytes a character. NATS takes 64 KB of headers a message, in which the path, of a head of 32 KB, has to find room, too.
const MAX_KEPT_BYTES: usize = 24 * 1024;
/// Around a name and its value: quotes, colon and comma.
const AROUND_BYTES: usize = 6;

/// Whether a header, by its name in small letters, holds a credential; a scheme may make another one hold one, too.
pub fn is_credential(header: &str) -> bool {
    CREDENTIALS.contains(&header) || CREDENTIAL_PARTS.iter().any(|part| header.contains(part))
}

/// A header as the log keeps it: text, cut, several as one. A reader before the append reads it in this form, or the
/// order of one store could be proven with the secret of another.
pub fn kept_header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<String> {
    let text = |value: &HeaderValue| -> String {
        let text = String::from_utf8_lossy(value.as_bytes());
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        text.chars().take(MAX_HEADER_CHARS).map(printable).collect()
    };
    let all = headers.get_all(name).iter().map(text);
    let mut kept = all.reduce(|all, next| format!("{all}, {next}"))?;
    if let Some((end, _)) = kept.char_indices().nth(MAX_HEADER_CHARS) {
        kept.truncate(end);
    }
    Some(kept)
}

/// How many bytes the log takes for a text in JSON.
fn written_bytes(text: &str) -> usize {
    let of = |c: char| match c {
        '"' | '\\' => 2,
        c if c.is_ascii() => 1,
        c => 6 * c.len_utf16(),
    };
    text.chars().map(of).sum()
}

/// The headers of a provider's webhooks that are kept; first those that are read, then those that only tell how a request came.
#[derive(Debug, Clone, Default)]
pub struct KeptHeaders(Vec<String>);

impl KeptHeaders {
    /// Those of every webhook, those that a provider's file reads (`header:NAME`), and those that its scheme reads and that hold
    /// neither a credential nor a signature.
    pub fn new<'a>(of_file: impl IntoIterator<Item = &'a str>, scheme: &Scheme) -> Self {
        let credentials: Vec<HeaderName> = scheme.credential_headers();
        let of_scheme = scheme.read_headers().into_iter().map(|name| name.as_str().to_owned());
        let of_file = of_file.into_iter().map(str::to_owned);
        let read: BTreeSet<String> = of_file.chain(of_scheme).collect();
        let mut all = vec![MERCHANT_HEADER.to_owned()];
        for name in read.into_iter().chain(ALWAYS.map(str::to_owned)) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        let may_be_kept = |name: &String| !is_credential(name) && !credentials.iter().any(|own| *own == **name);
        all.retain(may_be_kept);
        Self(all)
    }

    /// What is kept of a request, by name. A header for which there is no room beside those before it is left out.
    pub fn of(&self, headers: &HeaderMap) -> Map<String, Value> {
        let mut left = MAX_KEPT_BYTES;
        let mut kept = Map::new();
        for name in &self.0 {
            let Some(value) = kept_header(headers, name.as_str()) else {
                continue;
            };
            let bytes = written_bytes(name) + written_bytes(&value) + AROUND_BYTES;
            if let Some(rest) = left.checked_sub(bytes) {
                left = rest;
                kept.insert(name.clone(), value.into());
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kept_headers_are_limited() {
        let mut headers = HeaderMap::new();
        let wild = HeaderValue::from_bytes(&[0xff; 1500]).unwrap();
        let read = ["x-a", "x-b", "x-environment"];
        for name in ALWAYS.into_iter().chain(read) {
            for _ in 0..3 {
                headers.append(name, wild.clone());
            }
        }
        headers.insert("x-environment", HeaderValue::from_static("live"));
        headers.insert("x-request-id", HeaderValue::from_static("\"r\\1\""));
        let kept = KeptHeaders::new(read, &Scheme::preset("github").unwrap()).of(&headers);
        assert_eq!(kept["x-merchant-id"], "\u{fffd}".repeat(1024), "several are one");
        // Headers that are read come first; a small header may still fit where a large one does not.
        for name in ["x-a", "x-b", "x-environment", "x-request-id"] {
            assert!(kept.contains_key(name), "{name}: {:?}", kept.keys());
        }
        assert!(!kept.contains_key("user-agent"));
        let text = Value::Object(kept).to_string();
        let written: usize = text.chars().map(|c| if c.is_ascii() { 1 } else { 6 }).sum();
        assert!(written <= MAX_KEPT_BYTES, "{written}");
    }

    #[test]
    fn only_listed_headers_are_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer hunter2"),
            ("x-jwt", "hunter2"),
            ("x-bearer", "hunter2"),
            ("x-passwd", "hunter2"),
            ("x-signing-key", "hunter2"),
            ("x-careem-api-key", "hunter2"),
            ("cf-connecting-ip", "192.0.2.1"),
            ("webhook-signature", "v1,ab12"),
            ("webhook-id", "m-1"),
            ("webhook-timestamp", "1700000000"),
            ("x-environment", "live"),
            ("x-merchant-id", "m-1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        headers.append("x-correlation-id", "a".parse().unwrap());
        headers.append("x-correlation-id", "b".parse().unwrap());
        headers.append("user-agent", "y".repeat(2000).parse().unwrap());
        let scheme = Scheme::preset("standard-webhooks").unwrap();
        let mut kept = KeptHeaders::new(["x-environment"], &scheme).of(&headers);
        assert_eq!(
            kept.remove("user-agent"),
            Some("y".repeat(1024).into()),
            "what is long is cut"
        );
        assert_eq!(
            Value::Object(kept),
            json!({
                "webhook-id": "m-1", "webhook-timestamp": "1700000000", "x-environment": "live", "x-merchant-id": "m-1",
                "x-correlation-id": "a, b",
            })
        );
        // A credential stays out, even if a file reads it.
        let pos = Scheme::preset("careem-pos").unwrap();
        let kept = KeptHeaders::new(["x-careem-api-key", "authorization"], &pos).of(&headers);
        assert_eq!(
            kept.keys().collect::<Vec<_>>(),
            ["user-agent", "x-correlation-id", "x-merchant-id"]
        );
        // Stripe's time is in the header of its signature.
        headers.append("stripe-signature", "t=1,v1=ab".parse().unwrap());
        let stripe = Scheme::preset("stripe").unwrap();
        assert!(
            !KeptHeaders::new([], &stripe)
                .of(&headers)
                .contains_key("stripe-signature")
        );
    }
}
