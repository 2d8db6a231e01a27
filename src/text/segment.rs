//! Text from outside as one segment of a URL's path.
//!
//! Encoding alone is not enough. URL parsers take `%2E%2E` for `..` and remove the segment before it; servers that decode a
//! path before they split it see two segments in `a%2Fb`; and some decode twice. Servers of Java cut off what follows a `;`, also
//! behind a proxy that decoded it, so `..;x` is `..` and `A-1;x` is `A-1`. Others normalise Unicode first, and take a full-width
//! `．` for a dot, or decode bytes that are no UTF-8. So text that is more than one segment, none, or another one in any of these
//! readings is refused, and everything else is encoded here and nowhere else.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use unicode_normalization::UnicodeNormalization as _;

/// Most times that a text is decoded while it is checked. Two are seen in practice (a proxy, then a server).
const MAX_DECODINGS: usize = 4;
/// The encoded characters: all but letters, digits and these.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b'.');

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
    /// `;`: servers take what follows for a parameter and cut it off.
    #[error("holds ;, behind which servers see a parameter of the path")]
    Parameter,
    /// An ASCII character in more bytes than it has; old decoders take it for what it stands for.
    #[error("holds a character of ASCII in a longer form")]
    Overlong,
    /// Line ends, null bytes and the like.
    #[error("holds control characters")]
    Control,
    /// Servers and databases trim it: it would be another text's segment.
    #[error("begins or ends with white space")]
    Space,
    /// Characters without a width, which readers leave out: it looks like another text.
    #[error("holds invisible characters")]
    Invisible,
    /// It is percent-encoded again and again.
    #[error("is percent-encoded more than {MAX_DECODINGS} times")]
    Nested,
}

/// Looks whether a text is one segment, as it is and after each percent-decoding, with Unicode normalised.
///
/// # Errors
/// Why it is not.
pub fn check(text: &str) -> Result<(), NotASegment> {
    let mut text = Cow::Borrowed(text.as_bytes());
    for _ in 0..=MAX_DECODINGS {
        if let Some(narrow) = folded(&text) {
            text = Cow::Owned(narrow);
        }
        check_once(&text)?;
        match Cow::from(percent_decode(&text)) {
            Cow::Owned(again) => text = Cow::Owned(again),
            // Nothing was encoded.
            Cow::Borrowed(_) => return Ok(()),
        }
    }
    Err(NotASegment::Nested)
}

fn check_once(text: &[u8]) -> Result<(), NotASegment> {
    // Servers may trim white space, so it is looked at without.
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
    if text.iter().any(|byte| matches!(byte, b'/' | b'\\')) {
        return Err(NotASegment::Separator);
    }
    if text.contains(&b';') {
        return Err(NotASegment::Parameter);
    }
    // C0 and C1 never begin a character. After E0 or F0 the next byte must not make an overlong encoding.
    let is_overlong = |two: &[u8]| {
        matches!(two[0], 0xc0 | 0xc1)
            || two[0] == 0xe0 && (0x80..0xa0).contains(&two[1])
            || two[0] == 0xf0 && (0x80..0x90).contains(&two[1])
    };
    if text.windows(2).any(is_overlong) {
        return Err(NotASegment::Overlong);
    }
    let text = String::from_utf8_lossy(text);
    if text.trim().len() != text.len() {
        return Err(NotASegment::Space);
    }
    if text.chars().any(is_invisible) {
        return Err(NotASegment::Invisible);
    }
    Ok(())
}

/// Whether Unicode lets a reader leave it out (Default_Ignorable_Code_Point).
const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The text as a server sees it that normalises Unicode: what stands for ASCII replaced by it (by NFKD, which takes no ASCII away,
/// while NFKC joins letters with accents), and so slashes that old code pages map to ASCII. What is no text stays as it is.
fn folded(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return None;
    }
    let slashes = |wide: char| match wide {
        '\u{2044}' | '\u{2215}' => '/',
        '\u{2216}' => '\\',
        other => other,
    };
    let mut folded = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        let narrow: String = chunk.valid().nfkd().map(slashes).collect();
        folded.extend_from_slice(narrow.as_bytes());
        folded.extend_from_slice(chunk.invalid());
    }
    Some(folded)
}

/// The text percent-encoded as one segment of a path: all but letters, digits and `-`, `_`, `~`, `.` of ASCII.
///
/// # Errors
/// If it cannot be one segment (see [`check`]).
pub fn encode(text: &str) -> Result<String, NotASegment> {
    check(text)?;
    Ok(utf8_percent_encode(text, ENCODED).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn invalid_segments_are_refused() {
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
            // For a Java server behind a proxy that decodes.
            ("..;", NotASegment::Parameter),
            ("..;x=1", NotASegment::Parameter),
            ("%2e%2e;", NotASegment::Parameter),
            (".%3b", NotASegment::Parameter),
            ("A-1;x", NotASegment::Parameter),
            (";", NotASegment::Parameter),
            // For a server that normalises Unicode.
            ("\u{ff0e}\u{ff0e}", NotASegment::Dots),
            (".\u{2024}", NotASegment::Dots),
            ("\u{2025}", NotASegment::Dots),
            ("\u{fe30}\u{a0}", NotASegment::Dots),
            ("%ef%bc%8e.", NotASegment::Dots),
            ("\u{ff05}\u{ff12}\u{ff45}.", NotASegment::Dots),
            ("\u{3000}", NotASegment::Empty),
            ("a\u{ff0f}b", NotASegment::Separator),
            ("a\u{ff3c}b", NotASegment::Separator),
            ("a\u{2215}b", NotASegment::Separator),
            ("\u{2105}", NotASegment::Separator),
            ("%2f\u{307}", NotASegment::Separator),
            ("..\u{37e}", NotASegment::Parameter),
            ("a\u{ff1b}b", NotASegment::Parameter),
            // For a reader that trims, or leaves out what has no width.
            ("B-1 ", NotASegment::Space),
            (" B-1", NotASegment::Space),
            ("B-1%20", NotASegment::Space),
            ("B-1\u{a0}", NotASegment::Space),
            ("\u{2003}B-1", NotASegment::Space),
            ("B-1\u{3000}", NotASegment::Space),
            ("B-1\u{200b}", NotASegment::Invisible),
            ("B\u{200d}-1", NotASegment::Invisible),
            ("\u{feff}B-1", NotASegment::Invisible),
            ("B-1%e2%80%8b", NotASegment::Invisible),
            ("B-1\u{202e}", NotASegment::Invisible),
            ("B-1\u{ad}", NotASegment::Invisible),
            ("..\u{2060}", NotASegment::Invisible),
            // For a decoder that accepts overlong encodings.
            ("%c0%ae%c0%ae", NotASegment::Overlong),
            ("a%C0%AFb", NotASegment::Overlong),
            ("a%c1%9cb", NotASegment::Overlong),
            ("%e0%80%ae.", NotASegment::Overlong),
            ("a%f0%80%80%afb", NotASegment::Overlong),
        ] {
            assert_eq!(encode(text), Err(why), "{text:?}");
        }
        for (text, encoded) in [
            ("CR-1_2.3~4", "CR-1_2.3~4"),
            ("...", "..."),
            ("50% off", "50%25%20off"),
            ("x?y#z", "x%3Fy%23z"),
            ("100%ff", "100%25ff"),
            ("A\u{ff0e}1", "A%EF%BC%8E1"),
            ("%41", "%2541"),
            ("طلب", "%D8%B7%D9%84%D8%A8"),
        ] {
            assert_eq!(encode(text).as_deref(), Ok(encoded), "{text:?}");
        }
    }

    proptest! {
        /// Where a server that normalises Unicode sees no segment, none is taken.
        #[test]
        fn normalisation_does_not_bypass_the_check(
            text in r"([.;/\\%25ef]|[\u{ff01}-\u{ff5e}\u{2024}-\u{2026}\u{fe30}\u{fe52}\u{fe54}\u{37e}\u{2100}-\u{2106}]|\PC){1,4}",
        ) {
            let normalised: String = text.nfkc().collect();
            prop_assert!(check(&normalised).is_err() <= check(&text).is_err(), "{:?} is {:?}", text, normalised);
        }

        /// Whatever is taken stays where it was put, for the client's URL parser and for a server that decodes first.
        #[test]
        fn a_segment_stays_one_segment(text in "\\PC{0,12}|[.;%/\\\\a23bB5eEfFcC]{0,12}") {
            if let Ok(encoded) = encode(&text) {
                let url: Url = format!("http://h/a/b/{encoded}/status").parse().unwrap();
                prop_assert_eq!(url.path(), format!("/a/b/{encoded}/status"));
                let once = percent_decode(encoded.as_bytes()).decode_utf8();
                prop_assert_eq!(once.as_deref(), Ok(&*text));
                let again: Url = format!("http://h/a/b/{text}/status").parse().unwrap();
                // The path as a Java server sees it after a proxy decoded it.
                prop_assert!(!matches!(text.split(';').next(), Some("" | "." | "..")) && !text.contains(';'), "{:?}", text);
                prop_assert!(text.contains(['?', '#']) || again.path_segments().unwrap().count() == 4, "{}", again);
            }
        }
    }
}
