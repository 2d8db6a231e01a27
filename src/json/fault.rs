//! All faults of a payload, each with its JSON pointer.

use std::fmt;

use serde::Serialize;

/// Most faults that are collected from one payload; after that the picture is clear.
const MAX_FAULTS: usize = 50;

/// One thing that is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What was expected there.
    pub message: String,
}

/// The faults of one payload, in the order in which they were met.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Notes one; of one place the first counts.
    pub fn add(&mut self, pointer: &str, message: impl fmt::Display) {
        if self.0.len() < MAX_FAULTS && !self.0.iter().any(|fault| fault.pointer == pointer) {
            self.0.push(Fault {
                pointer: pointer.to_owned(),
                message: message.to_string(),
            });
        }
    }

    /// Whether one was noted at this place, above it or below it.
    pub fn is_on_the_way(&self, pointer: &str) -> bool {
        let is_above = |upper: &str, lower: &str| {
            let rest = lower.strip_prefix(upper);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut places = self.0.iter().map(|fault| fault.pointer.as_str());
        places.any(|place| is_above(place, pointer) || is_above(pointer, place))
    }

    /// The value if nothing was wrong, else all that was.
    ///
    /// # Errors
    /// The faults, if there are any.
    pub fn none_or<T>(self, value: T) -> Result<T, Vec<Fault>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// How many there are, in words: `1 fault`, `2 faults`.
pub fn counted(faults: &[Fault]) -> String {
    match faults.len() {
        1 => "1 fault".into(),
        several => format!("{several} faults"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_of_a_location_counts() {
        let mut faults = Faults::default();
        faults.add("/a", "expected a number");
        faults.add("/a", "missing");
        let one = faults.none_or(()).unwrap_err();
        assert_eq!(
            (one[0].message.as_str(), counted(&one).as_str()),
            ("expected a number", "1 fault")
        );
        let two = [one[0].clone(), one[0].clone()];
        assert_eq!(counted(&two), "2 faults");
    }

    #[test]
    fn at_most_fifty_faults_are_listed() {
        let mut faults = Faults::default();
        (0..1000).for_each(|number| faults.add(&format!("/{number}"), "missing"));
        let kept = faults.none_or(()).unwrap_err();
        assert_eq!((kept.len(), kept[49].pointer.as_str()), (50, "/49"));
    }
}
