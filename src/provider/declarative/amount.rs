//! What a provider's file says about an amount: where it is, and how it is written.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

use super::pick::{FromPlaces, OneOrMany, Source, Sources, from_places};
use crate::json::pointer::Pointer;

/// Most forms of a document that an amount may be read from.
const MAX_ALTERNATIVES: usize = 8;

/// A row of a list of the document, found by one of its members.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with list, key, equals or is, and take")]
pub struct Lookup {
    /// The list, in the document.
    pub list: Pointer,
    /// The member of a row that is compared.
    pub key: Pointer,
    /// The text that it must have.
    pub equals: Option<String>,
    /// Or where, from the element at hand, that text is.
    pub is: Option<Pointer>,
    /// The value to read from the row.
    pub take: Pointer,
}

/// Rows of a list of the document that are summed up, chosen by one of their members.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with list, key, is or is_not, and take")]
pub struct Rows {
    /// The list, in the document.
    pub list: Pointer,
    /// The member of a row that is compared.
    pub key: Pointer,
    /// Rows with one of these texts …
    #[serde(default)]
    pub is: Vec<String>,
    /// … or with none of these.
    #[serde(default)]
    pub is_not: Vec<String>,
    /// The value to read from each row.
    pub take: Pointer,
}

/// How an amount is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `16.24`, a number or in quotes.
    Decimal,
    /// `16.24 JOD`: the same with the currency's code after it.
    Money,
    /// A whole number of the currency's smallest unit.
    Minor,
    /// A whole number of which `10^n` make one of the currency: `e2` cents, whatever the currency, `e5` as Uber does.
    Exponent(u32),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal => f.write_str("decimal"),
            Self::Money => f.write_str("money"),
            Self::Minor => f.write_str("minor"),
            Self::Exponent(decimals) => write!(f, "e{decimals}"),
        }
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "decimal" => Ok(Self::Decimal),
            "money" => Ok(Self::Money),
            "minor" => Ok(Self::Minor),
            other => match other.strip_prefix('e').and_then(|digits| digits.parse().ok()) {
                Some(exponent @ 0..=9) => Ok(Self::Exponent(exponent)),
                _ => Err(de::Error::custom(format_args!(
                    "{other:?} is not a format of amounts; expected decimal, money, minor, or e0 to e9"
                ))),
            },
        }
    }
}

/// A percentage of another amount.
#[derive(Debug, Clone)]
pub struct Percent {
    /// Where the percentage is: `5` for five of a hundred.
    pub rate: Vec<Source>,
    /// Of what.
    pub of: Box<Amount>,
}

/// How an amount is found.
#[derive(Debug, Clone, Default)]
pub struct Amount {
    /// Where it may be.
    pub from: Vec<Source>,
    /// A row that holds it instead.
    pub lookup: Option<Lookup>,
    /// Rows that are summed up instead.
    pub rows: Option<Rows>,
    /// Amounts that are summed up instead; `*` in a pointer means each element.
    pub sum: Vec<Source>,
    /// A percentage of another amount instead.
    pub percent: Option<Percent>,
    /// How it is written, where not as the file's other amounts.
    pub unit: Option<Unit>,
    /// Whether its absence is a fault.
    pub required: bool,
    /// How it is found where there is nothing by the above: another form of the same document.
    pub or: Option<Box<Amount>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AmountTable {
    #[serde(default)]
    from: Sources,
    lookup: Option<Lookup>,
    rows: Option<Rows>,
    #[serde(default)]
    sum: Sources,
    #[serde(default)]
    percent: Sources,
    of: Option<Box<Amount>>,
    unit: Option<Unit>,
    #[serde(default)]
    required: bool,
    or: Option<Box<Amount>>,
}

impl FromPlaces for Amount {
    const EXPECTED: &'static str = "a place such as \"/price/total\", a list of places, or a table with from, lookup, rows, sum, percent and of, unit, required, or";

    fn of(from: Vec<Source>) -> Self {
        Self {
            from,
            ..Self::default()
        }
    }

    fn of_table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = AmountTable::deserialize(MapAccessDeserializer::new(map))?;
        let has_places = !table.from.0.is_empty() || !table.sum.0.is_empty() || !table.percent.0.is_empty();
        if !has_places && table.lookup.is_none() && table.rows.is_none() {
            return Err(de::Error::custom("expected one of from, lookup, rows, sum, percent"));
        }
        if let Some(rows) = &table.rows
            && rows.is.is_empty() == rows.is_not.is_empty()
        {
            return Err(de::Error::custom(
                "rows: expected either is or is_not, with at least one text",
            ));
        }
        if let Some(lookup) = &table.lookup
            && lookup.equals.is_some() == lookup.is.is_some()
        {
            return Err(de::Error::custom("lookup: expected either equals or is"));
        }
        let percent = match (table.percent.0, table.of) {
            (rate, None) if rate.is_empty() => None,
            (rate, Some(of)) if !rate.is_empty() => Some(Percent { rate, of }),
            _ => return Err(de::Error::custom("expected percent together with of")),
        };
        if alternatives(table.or.as_deref()) > MAX_ALTERNATIVES {
            return Err(de::Error::custom(format_args!(
                "or: expected at most {MAX_ALTERNATIVES} alternatives"
            )));
        }
        Ok(Self {
            from: table.from.0,
            lookup: table.lookup,
            rows: table.rows,
            sum: table.sum.0,
            percent,
            unit: table.unit,
            required: table.required,
            or: table.or,
        })
    }
}

/// How many amounts stand in a chain of `or`.
fn alternatives(amount: Option<&Amount>) -> usize {
    std::iter::successors(amount, |amount| amount.or.as_deref()).count()
}

from_places!(Amount);
