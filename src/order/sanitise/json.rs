//! Cleans every text of a JSON document: the last step before a body is appended to the log and sent.
//!
//! The bytes are cleaned, and not the order that they were made of, so that no field of any provider, known or unknown, can
//! bypass it. Numbers keep their digits.

use std::borrow::Cow;

use super::{is_plain, sanitise};
use crate::json::{
    pointer::escape,
    scan::{pieces, unescape},
    surrogates::with_whole_surrogates,
};

/// Most places that are named; who reads the log line looks at the order anyway.
const MAX_CHANGED: usize = 50;

/// An object or array that is open, and which of its members is being read.
enum Open {
    Object { key: String, is_at_key: bool },
    Array(usize),
}

/// The document with every text (see [`sanitise`]) and every key cleaned, and where texts changed, as JSON pointers, at
/// most fifty of them. `json` must be a JSON document that the hub has made; what is none comes back as it is.
pub fn clean_json(json: Vec<u8>) -> (Vec<u8>, Vec<String>) {
    let Ok(text) = str::from_utf8(&json) else {
        return (json, Vec::new());
    };
    let mut clean = String::new();
    let mut changed = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    for piece in pieces(text) {
        let from = at;
        at += piece.len();
        if !piece.starts_with('"') {
            piece.bytes().for_each(|byte| step(&mut open, byte));
            continue;
        }
        let kept = clean_text(piece);
        if let Some(kept) = &kept {
            clean.push_str(&text[copied..from]);
            clean.push_str(kept);
            copied = at;
        }
        if let Some(Open::Object { key, is_at_key }) = open.last_mut()
            && *is_at_key
        {
            *is_at_key = false;
            *key = unescape(kept.as_deref().unwrap_or(piece)).into_owned();
        }
        if kept.is_some() && changed.len() < MAX_CHANGED {
            changed.push(pointer(&open));
        }
    }
    if copied == 0 {
        return (json, changed);
    }
    clean.push_str(&text[copied..]);
    (clean.into_bytes(), changed)
}

/// Goes on by a byte that stands between texts.
fn step(open: &mut Vec<Open>, byte: u8) {
    match (byte, open.last_mut()) {
        (b'{', _) => open.push(Open::Object {
            key: String::new(),
            is_at_key: true,
        }),
        (b'[', _) => open.push(Open::Array(0)),
        (b'}' | b']', _) => drop(open.pop()),
        (b',', Some(Open::Object { is_at_key, .. })) => *is_at_key = true,
        (b',', Some(Open::Array(index))) => *index += 1,
        _ => {}
    }
}

/// The replacement of a quoted text; none if it stays.
fn clean_text(quoted: &str) -> Option<String> {
    // Most texts have no escapes and need no cleaning.
    if !quoted.contains('\\') && quoted.len() <= super::MAX_TEXT_BYTES && is_plain(quoted) {
        return None;
    }
    let whole = with_whole_surrogates(quoted);
    let text: String = serde_json::from_str(&whole).ok()?;
    match (whole, sanitise(&text)) {
        (Cow::Borrowed(_), Cow::Borrowed(_)) => None,
        (_, kept) => serde_json::to_string(&kept).ok(),
    }
}

fn pointer(open: &[Open]) -> String {
    let mut pointer = String::new();
    for one in open {
        pointer.push('/');
        match one {
            Open::Object { key, .. } => pointer.push_str(&escape(key)),
            Open::Array(index) => pointer.push_str(&index.to_string()),
        }
    }
    pointer
}
