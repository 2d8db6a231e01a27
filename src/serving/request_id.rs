//! `X-Request-Id`: the caller's, where it is safe to show everywhere, else a new one.

use axum::http::HeaderMap;
use uuid::Uuid;

/// Header name.
pub(crate) const HEADER: &str = "x-request-id";
/// Longest that is taken over.
const MAX_CHARS: usize = 128;

/// The id of a request.
pub(crate) fn of(headers: &HeaderMap) -> String {
    let sent = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let fit = |id: &&str| !id.is_empty() && id.len() <= MAX_CHARS && id.bytes().all(|byte| byte.is_ascii_graphic());
    sent.filter(fit)
        .map_or_else(|| format!("req-{}", Uuid::now_v7().simple()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printable_request_id_is_adopted() {
        let of_sent = |sent: &str| {
            of(&HeaderMap::from_iter([(
                HEADER.parse().unwrap(),
                sent.parse().unwrap(),
            )]))
        };
        let longest = "x".repeat(128);
        for fit in ["r-1", longest.as_str()] {
            assert_eq!(of_sent(fit), fit);
        }
        let longer = "x".repeat(129);
        for unfit in ["", "two words", "\u{e9}", longer.as_str()] {
            assert!(of_sent(unfit).starts_with("req-"), "{unfit}");
        }
        assert_ne!(of(&HeaderMap::new()), of(&HeaderMap::new()));
    }
}
