//! JSON as PostgreSQL can store it.

use std::borrow::Cow;

use crate::json::surrogates::with_whole_surrogates;

/// JSON text that jsonb takes: what it does not know, the escape `\u0000` and half of a surrogate pair, becomes U+FFFD, the
/// latter as it does for the backend.
pub(super) fn storable_json(payload: &[u8]) -> Cow<'_, str> {
    const NUL: &str = "\\u0000";
    // Twice as fast as the lossy way, which nearly no payload needs.
    let text = match std::str::from_utf8(payload) {
        Ok(text) => with_whole_surrogates(text),
        Err(_) => {
            let text = String::from_utf8_lossy(payload);
            Cow::Owned(with_whole_surrogates(&text).into_owned())
        }
    };
    if !text.contains(NUL) {
        return text;
    }
    let (mut kept, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some(at) = rest.find(NUL) {
        let (before, after) = rest.split_at(at);
        kept.push_str(before);
        // After an odd number of backslashes this one is itself escaped, and "u0000" is plain text.
        let backslashes = before.bytes().rev().take_while(|byte| *byte == b'\\').count();
        kept.push_str(if backslashes % 2 == 0 { "\\ufffd" } else { NUL });
        rest = &after[NUL.len()..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_escape_itself_is_replaced() {
        for (given, kept) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (r#"{"a":"x\u0000y"}"#, r#"{"a":"x\ufffdy"}"#),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000\u0000"}"#, r#"{"a":"\\\ufffd\ufffd"}"#),
            (
                r#"{"a":"\ud83c x \\ud83c \ud83c\udf2f\u0000"}"#,
                r#"{"a":"\ufffd x \\ud83c \ud83c\udf2f\ufffd"}"#,
            ),
        ] {
            assert_eq!(storable_json(given.as_bytes()), kept);
        }
    }
}
