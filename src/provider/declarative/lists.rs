//! Lists and their elements: lines, groups, choices.

use std::marker::PhantomData;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, value::MapAccessDeserializer},
};

use super::pick::{FromPlaces, OneOrMany, Source, Sources};

/// Where the elements of a list are.
#[derive(Debug, Clone)]
pub struct Lists {
    /// The lists; `*` in a pointer means each element.
    pub from: Vec<Source>,
    /// Whether all of them are read, one after the other; else the first that has elements.
    pub all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListsTable {
    all: Sources,
}

impl FromPlaces for Lists {
    const EXPECTED: &'static str =
        "a list's place such as \"/items\", several of which the first that has elements counts, or { all = [places] }";

    fn of(from: Vec<Source>) -> Self {
        Self { from, all: false }
    }

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let ListsTable { all } = ListsTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self { from: all.0, all: true })
    }
}

impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }
}
