//! W3C trace context: the caller's is passed on, if it sent one; else a trace begins here, marked as not sampled, because the
//! hub records no spans. (NATS traces a message itself wherever the mark is set.)

use axum::http::HeaderMap;
use uuid::Uuid;

/// Header name.
pub const HEADER: &str = "traceparent";

/// The `traceparent` of a request: version 00, its trace id if it sent a valid one, a new span id.
pub fn of(headers: &HeaderMap) -> String {
    let sent = headers
        .get(HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(trace_id_and_flags);
    let span = &Uuid::new_v4().simple().to_string()[..16];
    match sent {
        Some((trace_id, flags)) => format!("00-{trace_id}-{span}-{flags}"),
        None => format!("00-{}-{span}-00", Uuid::new_v4().simple()),
    }
}

/// The trace id of a `traceparent`, where it is a valid one.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    trace_id_and_flags(traceparent).map(|(trace_id, _)| trace_id)
}

fn trace_id_and_flags(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.trim().split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let valid =
        is_hex(version, 2) && version != "ff" && is_hex(trace_id, 32) && is_hex(parent_id, 16) && is_hex(flags, 2);
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    (valid && !zero(trace_id) && !zero(parent_id)).then_some((trace_id, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> String {
        of(&HeaderMap::from_iter([(
            HEADER.parse().unwrap(),
            text.parse().unwrap(),
        )]))
    }

    #[test]
    fn a_trace_is_continued_or_started() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let passed_on = of_text(sent);
        assert!(passed_on.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && passed_on.ends_with("-01"));
        assert_ne!(passed_on, sent);
        for bad in [
            "",
            "nonsense",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            let begun = of_text(bad);
            assert!(
                trace_id_and_flags(&begun).is_some_and(|(_, flags)| flags == "00"),
                "{begun}"
            );
        }
    }
}
