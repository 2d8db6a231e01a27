//! What a provider's file says about a word of the hub: which words of the provider mean it.

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{pick::Sources, words::Words};

/// Chooses one of a closed list of the hub's words by the provider's words.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table with when, from, words, absent, other, of which { other = … } alone is always the same",
    bound(deserialize = "T: Deserialize<'de>")
)]
pub struct Choice<T> {
    /// Conditions that are checked before `from`; the first one that is true decides.
    #[serde(default = "Vec::new")]
    pub when: Vec<ChoiceWhen<T>>,
    /// Where the provider's word may be; the first that is in `words` counts.
    #[serde(default)]
    pub from: Sources,
    /// Its words, in either case.
    #[serde(default)]
    pub words: Words<T>,
    /// The meaning if there is no word; that of `other` if the file does not say.
    pub absent: Option<T>,
    /// The meaning if the word is not in `words`.
    pub other: Option<T>,
}

/// A condition of a [`Choice`].
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table with from, is, without, becomes",
    bound(deserialize = "T: Deserialize<'de>")
)]
pub struct ChoiceWhen<T> {
    /// There is a value at one of these …
    #[serde(default)]
    pub from: Sources,
    /// … and it is one of these, where any are given …
    #[serde(default)]
    pub is: Vec<String>,
    /// … and there is none at any of these.
    #[serde(default)]
    pub without: Sources,
    /// Then it is this.
    pub becomes: T,
}

/// A [`Choice`] that may be written as the one word that is always meant.
#[derive(Debug, Clone)]
pub struct WordOrChoice<T>(pub Choice<T>);

struct WordOrChoiceVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for WordOrChoiceVisitor<T> {
    type Value = WordOrChoice<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a word, or a table with from and words")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let word = T::deserialize(de::value::StrDeserializer::<E>::new(text))?;
        Ok(WordOrChoice(Choice {
            when: Vec::new(),
            from: Sources::default(),
            words: Words::default(),
            absent: None,
            other: Some(word),
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Choice::deserialize(MapAccessDeserializer::new(map)).map(WordOrChoice)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for WordOrChoice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrChoiceVisitor(std::marker::PhantomData))
    }
}
