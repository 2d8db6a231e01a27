//! Texts that were reviewed by hand.

/// JSON without the white space between its tokens: all else, the digits of amounts too, stays as it is written.
pub(crate) fn compact(json: &str) -> String {
    let (mut kept, mut in_text, mut escaped) = (String::new(), false, false);
    for c in json.chars() {
        if in_text || !c.is_whitespace() {
            kept.push(c);
        }
        in_text ^= c == '"' && !escaped;
        escaped = in_text && c == '\\' && !escaped;
    }
    kept
}
