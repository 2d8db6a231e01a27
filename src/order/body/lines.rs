//! What a body changes of an order's lines, as far as a later change replaces it.

use serde::{Deserialize, de::IgnoredAny};

#[derive(Deserialize)]
struct AmendmentBody {
    amendment: Option<AmendmentParts>,
}

#[derive(Deserialize)]
struct AmendmentParts {
    items: Option<IgnoredAny>,
    refund: Option<IgnoredAny>,
}

fn parts(body: &[u8]) -> Option<AmendmentParts> {
    serde_json::from_slice::<AmendmentBody>(body).ok()?.amendment
}

/// Whether the body of an amendment has all lines of the order.
pub fn has_lines(body: &[u8]) -> bool {
    parts(body).is_some_and(|parts| parts.items.is_some())
}

/// Whether the body of an amendment has all lines of the order and nothing that a later one lacks: that may not ask for the money that
/// this one asks for.
pub fn changes_only_lines(body: &[u8]) -> bool {
    parts(body).is_some_and(|parts| parts.items.is_some() && parts.refund.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_are_replaced_by_later_ones() {
        let body = |amendment: &str| format!(r#"{{"originalWebhook":{{}},"amendment":{amendment}}}"#);
        let lines = body(r#"{"kind":"adjusted","items":[{"name":"a"}],"pricing":{}}"#);
        assert!(has_lines(lines.as_bytes()) && changes_only_lines(lines.as_bytes()));
        let refund = body(r#"{"kind":"refund_requested","refund":{"amount":1}}"#);
        assert!(!has_lines(refund.as_bytes()) && !changes_only_lines(refund.as_bytes()));
        let both = body(r#"{"kind":"refund_requested","items":[],"refund":{"amount":1}}"#);
        assert!(has_lines(both.as_bytes()) && !changes_only_lines(both.as_bytes()));
        for other in [
            r#"{"statusChange":{"items":[]}}"#,
            r#"{"transformedOrder":{"items":[]}}"#,
            "[]",
        ] {
            assert!(!has_lines(other.as_bytes()), "{other}");
        }
    }
}
