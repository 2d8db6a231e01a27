//! Text from outside as one segment of a URL's path.
//!
//! Encoding alone is not enough. URL parsers take `%2E%2E` for `..` and remove the segment before it; servers that decode a
//! path before they split it see two segments in `a%2Fb`; and some decode twice. So text that is more than one segment, or
//! none, in any of these readings is refused, and everything else is encoded here and nowhere else.

use std::borrow::Cow;

use crate::event::outcome::{ErrorReport, ErrorType};

/// Most times that a text is decoded while it is checked. Two are seen in practice (a proxy, then a server).
const MAX_DECODINGS: usize = 4;

/// Why a text cannot be a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASegment {
    /// It would be left out of the path.
    #[error("is empty")]
    Empty,
    /// `.` or `..`: it would name another path.
    #[error("is . or .., which changes the path")]
    Dots,
    /// `/` or `\`: it would be several segments.
    #[error("holds / or \\, which separates segments of a path")]
    Separator,
    /// Line ends, null bytes and the like.
    #[error("holds control characters")]
    Control,
    /// It is percent-encoded again and again.
    #[error("is percent-encoded more than {MAX_DECODINGS} times")]
    Nested,
}

impl NotASegment {
    /// For an order whose id an earlier version accepted: nothing can be said about it in a path.
    pub fn of_order_id(self) -> ErrorReport {
        let message = format!("the order id {self}; no request about this order can be made");
        ErrorReport::new(ErrorType::Validation, "ORDER_ID_NO_PATH_SEGMENT", message)
    }
}

/// Looks whether a text is one segment, as it is and after each percent-decoding.
///
/// # Errors
/// Why it is not.
pub fn check(text: &str) -> Result<(), NotASegment> {
    let mut text = Cow::Borrowed(text.as_bytes());
    for _ in 0..=MAX_DECODINGS {
        check_once(&text)?;
        match decoded(&text) {
            Some(again) => text = Cow::Owned(again),
            None => return Ok(()),
        }
    }
    Err(NotASegment::Nested)
}

fn check_once(text: &[u8]) -> Result<(), NotASegment> {
    // Servers may cut white space off.
    match text.trim_ascii() {
        b"" => return Err(NotASegment::Empty),
        b"." | b".." => return Err(NotASegment::Dots),
        _ => {}
    }
    let is_control = |byte: &u8| byte.is_ascii_control();
    // C1 controls are two bytes of UTF-8.
    let is_c1 = |two: &[u8]| two[0] == 0xc2 && (0x80..0xa0).contains(&two[1]);
    if text.iter().any(is_control) || text.windows(2).any(is_c1) {
        return Err(NotASegment::Control);
    }
    match text.iter().any(|byte| matches!(byte, b'/' | b'\\')) {
        true => Err(NotASegment::Separator),
        false => Ok(()),
    }
}

/// The text with its `%XX` as bytes; none where there are none.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let (mut rest, mut changed) = (text, false);
    while let Some((&first, after)) = rest.split_first() {
        let mut byte = [0];
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        match escaped.map(|digits| hex::decode_to_slice(digits, &mut byte)) {
            Some(Ok(())) => {
                decoded.push(byte[0]);
                rest = &after[2..];
                changed = true;
            }
            _ => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    changed.then_some(decoded)
}

/// The text percent-encoded as one segment of a path: all but letters, digits and `-`, `_`, `~`, `.` of ASCII.
///
/// # Errors
/// Where it cannot be one segment (see [`check`]).
pub fn encode(text: &str) -> Result<String, NotASegment> {
    check(text)?;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::Url;

    use super::*;

    #[test]
    fn what_is_no_segment_is_refused() {
        for (text, why) in [
            ("", NotASegment::Empty),
            (" ", NotASegment::Empty),
            ("%20", NotASegment::Empty),
            (".", NotASegment::Dots),
            ("..", NotASegment::Dots),
            (".. ", NotASegment::Dots),
            ("%2e%2E", NotASegment::Dots),
            ("%252e.", NotASegment::Dots),
            ("a/b", NotASegment::Separator),
            ("..%5cb", NotASegment::Separator),
            ("a%25252Fb", NotASegment::Separator),
            ("a\nb", NotASegment::Control),
            ("a%00", NotASegment::Control),
            ("a\u{85}", NotASegment::Control),
            ("%2525252525252e", NotASegment::Nested),
        ] {
            assert_eq!(encode(text), Err(why), "{text:?}");
        }
        for (text, encoded) in [
            ("CR-1_2.3~4", "CR-1_2.3~4"),
            ("...", "..."),
            ("50% off", "50%25%20off"),
            ("x?y#z", "x%3Fy%23z"),
            ("%41", "%2541"),
            ("طلب", "%D8%B7%D9%84%D8%A8"),
        ] {
            assert_eq!(encode(text).as_deref(), Ok(encoded), "{text:?}");
        }
    }

    proptest! {
        /// Whatever is taken stays where it was put, for the client's URL parser and for a server that decodes first.
        #[test]
        fn a_segment_stays_one_segment(text in "\\PC{0,12}|[.%/\\\\a25eEfFcC]{0,12}") {
            if let Ok(encoded) = encode(&text) {
                let url: Url = format!("http://h/a/b/{encoded}/status").parse().unwrap();
                prop_assert_eq!(url.path(), format!("/a/b/{encoded}/status"));
                let once = String::from_utf8(decoded(encoded.as_bytes()).unwrap_or_else(|| encoded.clone().into_bytes()));
                prop_assert_eq!(once.as_deref(), Ok(&*text));
                let again: Url = format!("http://h/a/b/{text}/status").parse().unwrap();
                prop_assert!(text.contains(['?', '#']) || again.path_segments().unwrap().count() == 4, "{}", again);
            }
        }
    }
}
