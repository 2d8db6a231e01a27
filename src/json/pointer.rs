//! JSON pointers (RFC 6901), taken apart once when a provider's file is loaded. Beyond the RFC, `*` means each element and
//! `-` the last one.

use std::{fmt, str::FromStr};

/// Most segments of a pointer; a document is read no deeper anyway.
const MAX_SEGMENTS: usize = 16;

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// To the member of that name, or to the element at that place.
    Name(String),
    /// To every element, `*`.
    Each,
    /// To the last element, `-`.
    Last,
}

/// A pointer; empty means the value itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pointer(Vec<Segment>);

impl Pointer {
    /// Its steps.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether it may lead to more than one value.
    pub fn has_each(&self) -> bool {
        self.0.contains(&Segment::Each)
    }
}

impl FromStr for Pointer {
    type Err = BadPointer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(BadPointer(format!(
                "{text:?} is not a JSON pointer; it begins with / such as /order/id"
            )));
        };
        let segments: Vec<_> = rest
            .split('/')
            .map(|part| match part {
                "*" => Segment::Each,
                "-" => Segment::Last,
                name => Segment::Name(name.replace("~1", "/").replace("~0", "~")),
            })
            .collect();
        if segments.len() > MAX_SEGMENTS {
            return Err(BadPointer(format!("{text:?} has more than {MAX_SEGMENTS} segments")));
        }
        Ok(Self(segments))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.0 {
            match segment {
                Segment::Name(name) => write!(f, "/{}", escape(name))?,
                Segment::Each => f.write_str("/*")?,
                Segment::Last => f.write_str("/-")?,
            }
        }
        Ok(())
    }
}

/// A member's name, escaped for a pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Not a pointer; says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPointer(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back() {
        for text in ["", "/a", "/a/0/b", "/a~1b/~0c", "/categories/*/items", "/log/-/at"] {
            assert_eq!(text.parse::<Pointer>().unwrap().to_string(), text);
        }
        assert!("a/b".parse::<Pointer>().is_err());
        assert!("/a".repeat(17).parse::<Pointer>().is_err());
    }
}
