//! Patterns of the paths that a provider calls below its own, with names for their parts.

use serde::{Deserialize, Deserializer, de};

/// `/order/{order}/status`.
#[derive(Debug, Clone)]
pub struct PathTemplate(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Word(String),
    Name(String),
}

impl PathTemplate {
    /// Names of its parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Word(_) => None,
        })
    }

    /// Whether a path has this shape.
    pub fn has_shape_of(&self, path: &str) -> bool {
        self.pairs(path).is_some()
    }

    /// The part of a path that goes by this name, where the path has this shape.
    pub fn part<'p>(&self, path: &'p str, wanted: &str) -> Option<&'p str> {
        let is_it = |(part, _): &(&Part, &str)| matches!(part, Part::Name(name) if name == wanted);
        self.pairs(path)?.into_iter().find(is_it).map(|(_, given)| given)
    }

    fn pairs<'s, 'p>(&'s self, path: &'p str) -> Option<Vec<(&'s Part, &'p str)>> {
        // Repeated slashes count as one, as in the routes.
        let given: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let pairs: Vec<_> = self.0.iter().zip(given.iter().copied()).collect();
        let fits = |(part, given): &(&Part, &str)| match part {
            Part::Word(word) => word == given,
            Part::Name(_) => true,
        };
        (given.len() == self.0.len() && pairs.iter().all(fits)).then_some(pairs)
    }
}

impl PathTemplate {
    /// Reads one.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a path such as /order/{{order}}/status");
        let parts = text.strip_prefix('/').ok_or_else(wrong)?;
        let part = |part: &str| match part.strip_prefix('{') {
            Some(name) => name
                .strip_suffix('}')
                .filter(|name| !name.is_empty())
                .map(|name| Part::Name(name.to_owned()))
                .ok_or_else(wrong),
            None if part.is_empty() || part.contains(['{', '}']) => Err(wrong()),
            None => Ok(Part::Word(part.to_owned())),
        };
        parts.split('/').map(part).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).map_err(de::Error::custom)
    }
}
