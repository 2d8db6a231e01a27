//! Halves of surrogate pairs in JSON text: JSON allows them as escapes, but text in UTF-8 cannot contain them.

use std::borrow::Cow;

/// JSON text of a string in which each half of a surrogate pair that stands alone is U+FFFD. Platforms that shorten notes
/// by UTF-16 units cut an emoji in two; the order is not lost for that.
pub fn with_whole_surrogates(json: &str) -> Cow<'_, str> {
    let (mut kept, mut rest) = (String::new(), json);
    let mut changed = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let (length, whole) = match surrogate(escape) {
            Some(0xd800..=0xdbff) if matches!(escape.get(6..).and_then(surrogate), Some(0xdc00..=0xdfff)) => (12, true),
            Some(_) => (6, false),
            None => (2, true),
        };
        // An escape has at least two bytes. Shorter text is no JSON, and its reader reports that.
        let Some((escape, after)) = escape.split_at_checked(length) else {
            break;
        };
        kept.push_str(before);
        kept.push_str(if whole { escape } else { "\\ufffd" });
        changed |= !whole;
        rest = after;
    }
    if !changed {
        return Cow::Borrowed(json);
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

/// The surrogate that an escape at the beginning of this means.
fn surrogate(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_of_surrogate_pairs() {
        for (json, kept) in [
            (r#""plain""#, r#""plain""#),
            (r#""\ud83c\udf55""#, r#""\ud83c\udf55""#),
            (r#""Pizza \ud83c""#, r#""Pizza \ufffd""#),
            (r#""\udf55\ud83c\ud83c\udf55""#, r#""\ufffd\ufffd\ud83c\udf55""#),
            (r#""\\ud83c \"\n""#, r#""\\ud83c \"\n""#),
            (r#""\uD83C\n""#, r#""\ufffd\n""#),
        ] {
            assert_eq!(with_whole_surrogates(json), kept, "{json}");
            assert!(serde_json::from_str::<String>(kept).is_ok(), "{kept}");
        }
    }

    proptest! {
        #[test]
        fn surrogates_never_panic(text in "(\\\\|u|d8|d83c|dc00|\"|\\PC){0,20}") {
            let _ = with_whole_surrogates(&text);
        }
    }
}
