//! The bounds of a number or a duration, and their reasons.
//!
//! A value without bounds is dangerous: a pause of zero repeats requests as fast as a backend can fail, a time limit of zero
//! fails every request. So [`super::Environment`] offers no way to read such a value without bounds.

use std::{fmt, time::Duration};

/// The values that a variable may have.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<T> {
    /// The smallest.
    pub least: T,
    /// The largest.
    pub most: T,
    /// Why these are the bounds; part of the message that refuses a value.
    pub why: &'static str,
}

impl<T: PartialOrd> Bounds<T> {
    /// Whether a value is within the bounds.
    pub fn hold(&self, value: &T) -> bool {
        *value >= self.least && *value <= self.most
    }
}

/// A duration as it is written in a variable: `100ms`, `30s`, `1h`.
pub(super) struct DurationText(pub(super) Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        match units
            .into_iter()
            .find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

/// A size in bytes as it is written in a variable.
pub(super) struct Size(pub(super) usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("mb", 1024 * 1024), ("kb", 1024)];
        match units
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_duration;

    #[test]
    fn displayed_values_parse_again() {
        for text in ["0ms", "1ms", "1500ms", "1s", "90s", "2m", "1h", "7d"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(DurationText(duration).to_string(), text);
        }
        assert_eq!(Size(1024).to_string(), "1kb");
        assert_eq!(Size(7 * 1024 * 1024).to_string(), "7mb");
        assert_eq!(Size(1025).to_string(), "1025");
    }
}
