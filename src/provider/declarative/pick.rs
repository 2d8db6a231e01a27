//! The right side of a field in a provider's file: where a value is, and how it is read.
//!
//! The list of forms is closed, so that evaluating a file always ends and costs no more than the document is large: pointers,
//! the first of several, texts joined, a row looked up in a list, amounts summed up, words translated.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::words::Words;
use crate::{json::pointer::Pointer, provider::is_credential};

/// Most places that are tried for one value.
const MAX_SOURCES: usize = 16;

/// A place where a value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the element at hand: a line, an addition; the document, where none is.
    Here(Pointer),
    /// From the document.
    Document(Pointer),
    /// From the webhook's body, where the document is another.
    Body(Pointer),
    /// A header, by its name in lower case.
    Header(String),
    /// A part of the path, by its name in `webhook.paths`.
    Path(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pointer = |text: &str| text.parse::<Pointer>().map_err(|error| error.to_string());
        match text.split_once(':') {
            Some(("document", rest)) => Ok(Self::Document(pointer(rest)?)),
            Some(("body", rest)) => Ok(Self::Body(pointer(rest)?)),
            Some(("header", name)) if is_credential(&name.to_ascii_lowercase()) => Err(format!(
                "{text:?} is a credential by its name; those are never stored, so a file cannot read them"
            )),
            Some(("header", name)) if is_token(name) => Ok(Self::Header(name.to_ascii_lowercase())),
            Some(("path", name)) if is_token(name) => Ok(Self::Path(name.to_owned())),
            Some(("header" | "path", _)) => Err(format!("{text:?} names no header or part of the path")),
            _ => pointer(text).map(Self::Here).map_err(|_| {
                format!(
                    "{text:?} is not a place; expected a JSON pointer (/order/id), or one after document: or body:, or header:NAME, or path:NAME"
                )
            }),
        }
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(pointer) => write!(f, "{pointer}"),
            Self::Document(pointer) => write!(f, "document:{pointer}"),
            Self::Body(pointer) => write!(f, "body:{pointer}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Path(name) => write!(f, "path:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// One place or a list of them: the first that holds something counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(pub Vec<Source>);

/// As a place, as a list of places, or as a table.
pub(super) struct OneOrMany<T>(pub(super) PhantomData<T>);

pub(super) trait FromPlaces: Sized {
    const EXPECTED: &'static str;

    fn of(sources: Vec<Source>) -> Self;

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl<'de, T: FromPlaces> Visitor<'de> for OneOrMany<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok(T::of(vec![text.parse().map_err(E::custom)?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        let mut sources = Vec::new();
        while let Some(source) = seq.next_element::<Source>()? {
            sources.push(source);
        }
        if sources.is_empty() || sources.len() > MAX_SOURCES {
            return Err(de::Error::custom(format_args!(
                "expected a list of 1 to {MAX_SOURCES} places"
            )));
        }
        Ok(T::of(sources))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::of_table(map)
    }
}

macro_rules! from_places {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(OneOrMany(PhantomData))
            }
        }
    )*};
}
pub(super) use from_places;
from_places!(Sources, Pick, Time, Test);

impl FromPlaces for Sources {
    const EXPECTED: &'static str = "a place such as \"/order/id\", or a list of places";

    fn of(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    fn of_table<'de, A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(de::Error::custom(format_args!("expected {}", Self::EXPECTED)))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// One of the texts that are put together.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The label before it, if it is present.
    pub label: String,
    /// Where it is; with `*` each element, with commas between them.
    pub from: Source,
    /// What is said for the provider's words; any other word is not said. Where it is empty, the text itself is said.
    pub words: Words<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinedTable {
    #[serde(default)]
    label: String,
    from: Source,
    #[serde(default)]
    words: Words<String>,
}

struct JoinedVisitor;

impl<'de> Visitor<'de> for JoinedVisitor {
    type Value = Joined;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place such as \"/customer/first_name\", or a table with label, from, words")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Joined, E> {
        Ok(Joined {
            label: String::new(),
            from: text.parse().map_err(E::custom)?,
            words: Words::default(),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Joined, A::Error> {
        let JoinedTable { label, from, words } = JoinedTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Joined { label, from, words })
    }
}

impl<'de> Deserialize<'de> for Joined {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JoinedVisitor)
    }
}

/// How a text is found.
#[derive(Debug, Clone, Default)]
pub struct Pick {
    /// Where it may be.
    pub from: Vec<Source>,
    /// The text if no source has it.
    pub fallback: Option<String>,
    /// Texts that are put together instead.
    pub join: Vec<Joined>,
    /// The text between them.
    pub with: String,
    /// Texts that mean nothing, such as `0` for a phone.
    pub skip: Vec<String>,
    /// Of a name: whether nothing else may stand in for it.
    pub required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickTable {
    #[serde(default)]
    from: Sources,
    fallback: Option<String>,
    #[serde(default)]
    join: Vec<Joined>,
    with: Option<String>,
    #[serde(default)]
    skip: Vec<String>,
    #[serde(default)]
    required: bool,
}

impl FromPlaces for Pick {
    const EXPECTED: &'static str =
        "a place such as \"/order/id\", a list of places, or a table with from, fallback, join, with, skip, required";

    fn of(from: Vec<Source>) -> Self {
        Self {
            from,
            with: " ".into(),
            ..Self::default()
        }
    }

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = PickTable::deserialize(MapAccessDeserializer::new(map))?;
        if table.from.0.is_empty() == table.join.is_empty() && table.fallback.is_none() {
            return Err(de::Error::custom("expected either from or join"));
        }
        if table.join.len() > MAX_SOURCES {
            return Err(de::Error::custom(format_args!(
                "join: expected at most {MAX_SOURCES} places"
            )));
        }
        Ok(Self {
            from: table.from.0,
            fallback: table.fallback,
            join: table.join,
            with: table.with.unwrap_or_else(|| " ".into()),
            skip: table.skip,
            required: table.required,
        })
    }
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// `2025-10-01T12:00:00Z`; without a zone it is that of `order.zone`.
    Iso,
    /// Seconds since 1970.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
}

/// How a time is found.
#[derive(Debug, Clone, Default)]
pub struct Time {
    /// Where it may be.
    pub from: Vec<Source>,
    /// How it is written, where not as the file's other times.
    pub clock: Option<Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeTable {
    from: Sources,
    clock: Option<Clock>,
}

impl FromPlaces for Time {
    const EXPECTED: &'static str = "a place such as \"/created_at\", a list of places, or a table with from and clock";

    fn of(from: Vec<Source>) -> Self {
        Self { from, clock: None }
    }

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = TimeTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self {
            from: table.from.0,
            clock: table.clock,
        })
    }
}

/// A question about a value.
#[derive(Debug, Clone, Default)]
pub struct Test {
    /// Where the value may be.
    pub from: Vec<Source>,
    /// Yes if it is one of these; numbers are compared as numbers.
    pub is: Vec<String>,
    /// Yes if it is none of these.
    pub is_not: Vec<String>,
    /// Yes where one of these is a part of it.
    pub contains: Vec<String>,
    /// The answer where there is no value; nothing is answered where the file does not say.
    pub absent: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestTable {
    from: Sources,
    #[serde(default)]
    is: Vec<String>,
    #[serde(default)]
    is_not: Vec<String>,
    #[serde(default)]
    contains: Vec<String>,
    absent: Option<bool>,
}

impl FromPlaces for Test {
    const EXPECTED: &'static str =
        "a table with from, is or is_not or contains, absent; or a place that holds true or false";

    fn of(from: Vec<Source>) -> Self {
        Self {
            from,
            is: vec!["true".into()],
            ..Self::default()
        }
    }

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = TestTable::deserialize(MapAccessDeserializer::new(map))?;
        let given = [&table.is, &table.is_not, &table.contains];
        if given.iter().filter(|texts| !texts.is_empty()).count() != 1 {
            return Err(de::Error::custom(
                "expected either is, is_not or contains, with at least one text",
            ));
        }
        Ok(Self {
            from: table.from.0,
            is: table.is,
            is_not: table.is_not,
            contains: table.contains,
            absent: table.absent,
        })
    }
}
