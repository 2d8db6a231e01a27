//! Cleans text from outside on its way to kitchen tickets and web pages: control characters and active markup are stripped.
//!
//! Only the copy for the backend is cleaned; the log keeps the received bytes. Three things are removed: invisible characters
//! that a printer, a terminal or a page obeys; script elements with their content; and of other markup just as much as keeps
//! it from acting (the angle bracket of an element that loads or runs something, `javascript:`, the name of an event handler
//! with its `=`). So `Tom & Jerry's <3`, `5 < 6 > 4`, `onion=extra` and Arabic stay unchanged, and no word of a guest's note
//! in angle brackets is lost.
//!
//! This is a second line of defence: code that shows text in HTML must escape it all the same.

use std::borrow::Cow;

/// Longest text that goes to the backend, in bytes; the longest notes that platforms let guests write have 500
/// characters. What is longer is cut, and ends with [`CUT_MARK`]: an order is not lost for its note.
pub const MAX_TEXT_BYTES: usize = 4096;
/// How a text that was cut ends.
pub const CUT_MARK: char = '…';

/// Schemes of addresses that are programs. Browsers read over tabs and line ends in them.
const SCHEMES: [&str; 3] = ["javascript:", "vbscript:", "data:text/html"];

/// Beginnings of markup that loads, runs or hides something; each loses its `<`. A closing tag of any element does too.
#[rustfmt::skip]
const MARKUP: [&str; 37] = [
    "<!--", "<![", "<!doctype", "<!entity", "<?", "<applet", "<audio", "<base", "<body", "<button", "<details",
    "<dialog", "<embed", "<form", "<frame", "<head", "<html", "<iframe", "<image", "<img", "<input", "<link",
    "<marquee", "<math", "<meta", "<noscript", "<object", "<script", "<select", "<source", "<style", "<svg",
    "<template", "<textarea", "<title", "<track", "<video",
];
/// Bytes of the longest of [`MARKUP`].
const MAX_MARKUP_BYTES: usize = 9;

/// Event handlers of HTML and SVG without their `on`, sorted. A list, because `onion=extra` and `on time = now` are
/// wishes of guests; a name that no browser knows does nothing.
#[rustfmt::skip]
const EVENTS: [&str; 121] = [
    "abort", "activate", "afterprint", "afterscriptexecute", "animationcancel", "animationend", "animationiteration",
    "animationstart", "auxclick", "beforecopy", "beforecut", "beforeinput", "beforematch", "beforepaste",
    "beforeprint", "beforescriptexecute", "beforetoggle", "beforeunload", "begin", "blur", "bounce", "cancel",
    "canplay", "canplaythrough", "change", "click", "close", "command", "contentvisibilityautostatechange",
    "contextmenu", "copy", "cuechange", "cut", "dblclick", "drag", "dragend", "dragenter", "dragexit", "dragleave",
    "dragover", "dragstart", "drop", "durationchange", "emptied", "end", "ended", "error", "finish", "focus",
    "focusin", "focusout", "formdata", "fullscreenchange", "fullscreenerror", "gotpointercapture", "hashchange",
    "input", "invalid", "keydown", "keypress", "keyup", "languagechange", "load", "loadeddata", "loadedmetadata",
    "loadend", "loadstart", "location", "lostpointercapture", "message", "messageerror", "mousedown", "mouseenter",
    "mouseleave", "mousemove", "mouseout", "mouseover", "mouseup", "mousewheel", "offline", "online", "pagehide",
    "pagereveal", "pageshow", "pageswap", "paste", "pause", "play", "playing", "pointercancel", "pointerdown",
    "pointerenter", "pointerleave", "pointermove", "pointerout", "pointerover", "pointerrawupdate", "pointerup",
    "popstate", "progress", "ratechange", "repeat", "reset", "resize", "scroll", "scrollend", "search", "seeked",
    "seeking", "select", "selectionchange", "selectstart", "show", "start", "storage", "submit", "suspend",
    "timeupdate", "toggle", "transitionend", "unload",
];
/// Bytes of the longest handler with its `on`, and one more, so that a longer word is distinguished from it.
const MAX_HANDLER_BYTES: usize = 35;

/// The text without what acts, at most [`MAX_TEXT_BYTES`] long; borrowed where nothing had to go. Takes time in
/// proportion to the text, never makes it longer, and what it returns is not changed by a second run.
pub fn sanitise(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return cut(text);
    }
    let visible = without_hidden(text);
    let clean = without_markup(&without_scripts(&visible));
    if clean == text {
        cut(text)
    } else {
        Cow::Owned(cut(&clean).into_owned())
    }
}

/// Whether there is nothing in it that could have to go; most texts are such.
fn is_plain(text: &str) -> bool {
    let ordinary = |byte: &u8| matches!(byte, b'\n' | b'\t' | b' '..=b'~') && !b"<:=".contains(byte);
    text.as_bytes().iter().all(|byte| *byte >= 0x80 || ordinary(byte))
        && (text.is_ascii() || !text.chars().any(is_hidden))
}

/// Cuts at a character's border.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT_BYTES {
        return Cow::Borrowed(text);
    }
    let mut end = MAX_TEXT_BYTES - CUT_MARK.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}{CUT_MARK}", &text[..end]))
}

/// Characters that are not seen but obeyed. The marks and joiners that Arabic, Persian and emoji are written with
/// (U+200C to U+200F, U+061C) are none of them.
fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Bidirectional controls can reverse a line: "2 x" looks like "x 2".
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => true,
        // Unusual line ends, the byte order mark, annotations, and noncharacters.
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' => true,
        _ => c.is_control() || is_tag_character(c),
    }
}

/// Invisible letters: they spell the region in some flags, and elsewhere text that only machines read.
fn is_tag_character(c: char) -> bool {
    ('\u{e0000}'..='\u{e007f}').contains(&c)
}

/// Every other line end becomes a newline, tags stay in flags, all else that is hidden goes.
fn without_hidden(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut spells_flag = false;
    while let Some(c) = rest.next() {
        let keep = match c {
            '\r' if rest.peek() == Some(&'\n') => None,
            '\r' | '\u{2028}' | '\u{2029}' => Some('\n'),
            tag if is_tag_character(tag) && spells_flag => Some(tag),
            hidden if is_hidden(hidden) => None,
            other => Some(other),
        };
        if let Some(keep) = keep {
            // After a black flag, tag characters spell the flag of a region.
            spells_flag = keep == '\u{1f3f4}' || is_tag_character(keep);
            kept.push(keep);
        }
    }
    kept
}

/// Takes out script elements that end. One that does not is left to [`without_markup`]: what follows may be the order.
fn without_scripts(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = split_at_tag(rest, "<script") {
        let Some((_, close)) = split_at_tag(from, "</script") else {
            break;
        };
        let Some(end) = close.find('>') else { break };
        kept.push_str(before);
        rest = &close[end + 1..];
    }
    kept.push_str(rest);
    kept
}

/// What is before a tag, and what begins with it; the tag's name must end there.
fn split_at_tag<'a>(text: &'a str, tag: &str) -> Option<(&'a str, &'a str)> {
    let bytes = text.as_bytes();
    let is_here = |at: &usize| {
        let here = &bytes[*at..];
        here.len() >= tag.len()
            && here[..tag.len()].eq_ignore_ascii_case(tag.as_bytes())
            && here.get(tag.len()).is_none_or(|next| !next.is_ascii_alphanumeric())
    };
    let at = text.match_indices('<').map(|(at, _)| at).find(is_here)?;
    Some(text.split_at(at))
}

/// The part at the end of a text that must be removed or changed.
enum CutFrom {
    /// A `<` here that has to go; what follows it stays.
    Bracket(usize),
    /// Everything from here on has to go.
    From(usize),
}

/// Builds the text anew, character by character, and looks after each whether its end may stay. What moved up beside
/// something else is looked at again, so that nothing can be hidden inside of what is taken out.
fn without_markup(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut again: Vec<char> = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = again.pop().or_else(|| rest.next()) {
        kept.push(c);
        match found(&kept, c) {
            None => {}
            Some(CutFrom::Bracket(at)) => {
                again.extend(kept[at + 1..].chars().rev());
                kept.truncate(at);
            }
            Some(CutFrom::From(at)) => kept.truncate(at),
        }
    }
    kept
}

fn found(kept: &str, last: char) -> Option<CutFrom> {
    let bytes = kept.as_bytes();
    if last == '=' {
        return handler(bytes).map(CutFrom::From);
    }
    let scheme = || SCHEMES.iter().find_map(|scheme| begin_of_scheme(bytes, scheme));
    if let Some(at) = matches!(last, ':' | 'l' | 'L').then(scheme).flatten() {
        return Some(CutFrom::From(at));
    }
    let is_of_markup = last.is_ascii_alphabetic() || matches!(last, '-' | '[' | '?');
    is_of_markup.then(|| markup(bytes)).flatten().map(CutFrom::Bracket)
}

/// Where the markup that this ends with begins.
fn markup(bytes: &[u8]) -> Option<usize> {
    let from = bytes.len().saturating_sub(MAX_MARKUP_BYTES);
    let at = from + bytes[from..].iter().rposition(|byte| *byte == b'<')?;
    let tag = &bytes[at..];
    let closes = matches!(tag, [b'<', b'/', letter] if letter.is_ascii_alphabetic());
    let acts = || MARKUP.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(tag));
    (closes || acts()).then_some(at)
}

/// Where the scheme that this ends with begins.
fn begin_of_scheme(bytes: &[u8], scheme: &str) -> Option<usize> {
    let mut before = bytes.iter().enumerate().rev();
    let mut begin = None;
    for wanted in scheme.bytes().rev() {
        let (at, byte) = before.find(|(_, byte)| !matches!(byte, b'\t' | b'\n'))?;
        if !byte.eq_ignore_ascii_case(&wanted) {
            return None;
        }
        begin = Some(at);
    }
    begin
}

/// Where the event handler that this ends with begins; the last byte is its `=`.
fn handler(bytes: &[u8]) -> Option<usize> {
    let (_, before) = bytes.split_last()?;
    let name_end = before.iter().rposition(|byte| !byte.is_ascii_whitespace())? + 1;
    let from = name_end.saturating_sub(MAX_HANDLER_BYTES);
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let begin = before[from..name_end].iter().rposition(|byte| !is_of_word(byte));
    let begin = begin.map_or(from, |at| from + at + 1);
    let (on, event) = before[begin..name_end].split_at_checked(2)?;
    let event = std::str::from_utf8(event).ok()?.to_ascii_lowercase();
    (on.eq_ignore_ascii_case(b"on") && EVENTS.binary_search(&event.as_str()).is_ok()).then_some(begin)
}

mod json;
#[cfg(test)]
mod tests;

pub use json::clean_json;
