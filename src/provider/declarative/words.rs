//! A provider's words, and their meaning in the hub.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Words of a provider, in either case, with what they mean.
#[derive(Debug, Clone)]
pub struct Words<T>(BTreeMap<String, T>);

impl<T> Default for Words<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Words<T> {
    /// The meaning of a word.
    pub fn get(&self, word: &str) -> Option<&T> {
        self.0.get(word).or_else(|| self.0.get(&word.trim().to_lowercase()))
    }

    /// Whether the file gives no word a meaning.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(word, meaning)| (word.as_str(), meaning))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Words<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = BTreeMap::<String, T>::deserialize(deserializer)?;
        Ok(Self(
            words
                .into_iter()
                .map(|(word, meaning)| (word.to_lowercase(), meaning))
                .collect(),
        ))
    }
}
