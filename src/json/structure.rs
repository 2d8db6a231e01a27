//! The checks of a body before anything reads it: JSON in UTF-8, one object, within limits, every key once.
//!
//! A signed body can still be hostile, or come from a broken sender. Two readers of JSON may make two orders of one body with
//! a key twice, and a value that is nested a million deep crashes a recursive reader. So this reads every byte once, without
//! recursion, and keeps nothing but the keys of the open objects. The provider decides what a value means.
//!
//! Refused: text that is no JSON of RFC 8259. That includes a byte order mark: a sender adds it to all of its bodies or to none,
//! so it is found when the provider is set up. Accepted: half a surrogate pair in a text, which a platform creates by truncating
//! a note in the middle of an emoji; it becomes U+FFFD in the backend's body.

use std::{borrow::Cow, fmt::Write as _};

/// Objects and arrays in one another; the deepest real order has eight.
const MAX_DEPTH: usize = 64;
/// Keys of one object; the largest real one has sixty.
const MAX_KEYS_OF_OBJECT: usize = 1_000;
/// Keys of a whole body: an order of a hundred lines with twenty choices each has some 30,000.
const MAX_KEYS: usize = 100_000;
/// Elements of one array; no basket has so many lines, no line so many choices.
const MAX_ELEMENTS: usize = 10_000;
/// Bytes of a text as it stands in the body: room for a receipt as a picture, not for a body that is one text.
const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// Bytes of a key.
const MAX_KEY_BYTES: usize = 256;
/// Bytes of a number: what a binary float looks like with all of its digits has some seventy.
const MAX_NUMBER_BYTES: usize = 128;
/// Characters of the place that a refusal names, and of each key in it.
const MAX_POINTER_CHARS: usize = 160;
const MAX_SHOWN_KEY_CHARS: usize = 32;
/// Keys of an object up to which each is compared with each other; of more they are sorted.
const FEW_KEYS: usize = 12;

/// Why a body is refused: what is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Looks at a whole body. Takes time in proportion to its length.
///
/// # Errors
/// What is wrong and where, never the value itself.
pub fn check(body: &[u8]) -> Result<(), Malformed> {
    check_up_to(body, MAX_KEYS)
}

/// The same of a body with any number of keys, such as a menu.
///
/// # Errors
/// See [`check`].
pub fn check_of_any_size(body: &[u8]) -> Result<(), Malformed> {
    check_up_to(body, usize::MAX)
}

fn check_up_to(body: &[u8], max_keys: usize) -> Result<(), Malformed> {
    let outcome = match std::str::from_utf8(body) {
        Ok(text) => Scan::of(text, max_keys).run(),
        Err(error) => Err(format!("not UTF-8 from byte {} on", error.valid_up_to())),
    };
    outcome.map_err(Malformed)
}

/// The fault.
type Fault = String;

/// An object or array that is open.
struct Open {
    is_object: bool,
    /// Where its keys begin among all that are kept.
    first_key: usize,
    /// Keys or elements so far.
    count: usize,
}

enum Next {
    Value,
    AfterValue,
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    open: Vec<Open>,
    /// Keys of the objects that are open, without their escapes, the innermost object's last.
    keys: Vec<Cow<'a, str>>,
    keys_in_all: usize,
    max_keys: usize,
}

impl<'a> Scan<'a> {
    fn of(text: &'a str, max_keys: usize) -> Self {
        Self {
            text,
            at: 0,
            open: Vec::with_capacity(8),
            keys: Vec::with_capacity(64),
            keys_in_all: 0,
            max_keys,
        }
    }

    fn run(mut self) -> Result<(), Fault> {
        match self.peek_after_space() {
            Some(b'{') => {}
            None => return Err("the body is empty".into()),
            _ if self.text.starts_with('\u{feff}') => {
                return Err("begins with a byte order mark; send UTF-8 without one".into());
            }
            _ => return Err("expected a JSON object".into()),
        }
        let mut next = Next::Value;
        loop {
            let byte = self.peek_after_space();
            next = match next {
                Next::Value => self.value(byte)?,
                Next::AfterValue if self.open.is_empty() => {
                    return byte.map_or(Ok(()), |_| Err(self.not_json()));
                }
                Next::AfterValue => self.after_value(byte)?,
            };
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn peek_after_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn value(&mut self, byte: Option<u8>) -> Result<Next, Fault> {
        match byte {
            Some(b'{') => {
                self.enter(true)?;
                if self.peek_after_space() != Some(b'}') {
                    self.key()?;
                    return Ok(Next::Value);
                }
                self.leave()?;
            }
            Some(b'[') => {
                self.enter(false)?;
                if self.peek_after_space() != Some(b']') {
                    self.element()?;
                    return Ok(Next::Value);
                }
                self.leave()?;
            }
            Some(b'"') => {
                let from = self.at;
                self.string()?;
                if self.at - from > MAX_TEXT_BYTES {
                    return Err(self.fault(format_args!("a text of more than {MAX_TEXT_BYTES} bytes")));
                }
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => return Err(self.not_json()),
        }
        Ok(Next::AfterValue)
    }

    fn after_value(&mut self, byte: Option<u8>) -> Result<Next, Fault> {
        let is_object = self.open.last().is_some_and(|open| open.is_object);
        match (byte, is_object) {
            (Some(b','), true) => {
                self.at += 1;
                self.peek_after_space();
                self.key()?;
                Ok(Next::Value)
            }
            (Some(b','), false) => {
                self.at += 1;
                self.element()?;
                Ok(Next::Value)
            }
            (Some(b'}'), true) | (Some(b']'), false) => {
                self.leave()?;
                Ok(Next::AfterValue)
            }
            _ => Err(self.not_json()),
        }
    }

    fn enter(&mut self, is_object: bool) -> Result<(), Fault> {
        if self.open.len() == MAX_DEPTH {
            return Err(self.fault(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        self.at += 1;
        self.open.push(Open {
            is_object,
            first_key: self.keys.len(),
            count: 0,
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fault> {
        self.at += 1;
        let Some(left) = self.open.pop() else {
            return Err(self.not_json());
        };
        if let Some(twice) = twice(&mut self.keys[left.first_key..]) {
            let twice = format!("{}/{}", self.pointer(), shown(&twice));
            return Err(at_place("the same key twice", &twice));
        }
        self.keys.truncate(left.first_key);
        Ok(())
    }

    fn element(&mut self) -> Result<(), Fault> {
        self.count(MAX_ELEMENTS, "elements")
    }

    fn key(&mut self) -> Result<(), Fault> {
        self.count(MAX_KEYS_OF_OBJECT, "keys")?;
        self.keys_in_all += 1;
        if self.keys_in_all > self.max_keys {
            return Err(format!("more than {} keys in all", self.max_keys));
        }
        if self.peek() != Some(b'"') {
            return Err(self.not_json());
        }
        let from = self.at;
        let is_escaped = self.string()?;
        let quoted = &self.text[from..self.at];
        if quoted.len() > MAX_KEY_BYTES + 2 {
            return Err(self.fault_around(format_args!("a key of more than {MAX_KEY_BYTES} bytes")));
        }
        let key = if is_escaped {
            let text: String = serde_json::from_str(quoted).map_err(|_| self.fault_around("a key that is not text"))?;
            Cow::Owned(text)
        } else {
            Cow::Borrowed(&quoted[1..quoted.len() - 1])
        };
        self.keys.push(key);
        if self.peek_after_space() != Some(b':') {
            return Err(self.not_json());
        }
        self.at += 1;
        Ok(())
    }

    /// One more key or element of what is open.
    fn count(&mut self, most: usize, of_what: &str) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else {
            return Err(self.not_json());
        };
        if open.count == most {
            return Err(self.fault_around(format_args!("more than {most} {of_what}")));
        }
        open.count += 1;
        Ok(())
    }

    /// Passes over a text in quotes; whether it holds escapes.
    fn string(&mut self) -> Result<bool, Fault> {
        let bytes = self.text.as_bytes();
        let mut is_escaped = false;
        self.at += 1;
        loop {
            let plain = bytes[self.at..]
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let Some(plain) = plain else {
                self.at = bytes.len();
                return Err(self.not_json());
            };
            self.at += plain;
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(is_escaped);
                }
                b'\\' => {
                    is_escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.not_json()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let digits = |from: usize| self.text.as_bytes().get(from..from + 4);
        let length = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if digits(self.at + 2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) => 6,
            _ => return Err(self.not_json()),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = &self.text[from..self.at];
        if number.len() > MAX_NUMBER_BYTES {
            return Err(self.fault(format_args!("a number of more than {MAX_NUMBER_BYTES} characters")));
        }
        // A short number without an exponent is always in range. With one, some readers take it as infinite and others refuse it.
        if has_exponent && number.parse::<f64>().is_ok_and(f64::is_infinite) {
            return Err(self.fault("a number out of range"));
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { Err(self.not_json()) } else { Ok(()) }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.not_json());
        }
        self.at += word.len();
        Ok(())
    }

    fn not_json(&self) -> Fault {
        let before = &self.text.as_bytes()[..self.at];
        let line_begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("not JSON, at line {line} column {}", self.at - line_begin + 1)
    }

    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        at_place(what, &self.pointer())
    }

    /// The place of the object or array that is open, for what is wrong with it as a whole.
    fn fault_around(&self, what: impl std::fmt::Display) -> Fault {
        at_place(what, &self.pointer_of(self.open.len().saturating_sub(1)))
    }

    /// The location of the value that is being read, as a JSON pointer.
    fn pointer(&self) -> String {
        self.pointer_of(self.open.len())
    }

    fn pointer_of(&self, depth: usize) -> String {
        let mut pointer = String::new();
        for open in &self.open[..depth] {
            let last = open.count.saturating_sub(1);
            match self.keys.get(open.first_key + last) {
                Some(key) if open.is_object => {
                    pointer.push('/');
                    pointer.push_str(&shown(key));
                }
                // Writing to a String cannot fail.
                _ => drop(write!(pointer, "/{last}")),
            }
        }
        pointer
    }
}

fn at_place(what: impl std::fmt::Display, pointer: &str) -> Fault {
    if pointer.is_empty() {
        return format!("{what}, at the top");
    }
    let shown: String = pointer.chars().take(MAX_POINTER_CHARS).collect();
    let more = if shown.len() < pointer.len() { "…" } else { "" };
    format!("{what}, at {shown}{more}")
}

/// A key as it is named in an answer and in the log.
fn shown(key: &str) -> String {
    let mut shown = String::new();
    for c in key.chars().take(MAX_SHOWN_KEY_CHARS) {
        match c {
            '~' => shown.push_str("~0"),
            '/' => shown.push_str("~1"),
            c if c.is_alphanumeric() || c.is_ascii_graphic() => shown.push(c),
            _ => shown.push('?'),
        }
    }
    shown
}

/// A key that is there more than once.
fn twice(keys: &mut [Cow<'_, str>]) -> Option<String> {
    if keys.len() > FEW_KEYS {
        keys.sort_unstable();
        let equal = keys.windows(2).find(|pair| pair[0] == pair[1])?;
        return Some(equal[0].to_string());
    }
    let mut rest = &*keys;
    while let Some((first, others)) = rest.split_first() {
        if others.contains(first) {
            return Some(first.to_string());
        }
        rest = others;
    }
    None
}

#[cfg(test)]
mod tests;
