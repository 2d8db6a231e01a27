//! Where a signature, a token or a time is in a request, and how it is extracted.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;

use super::json;

/// Longest header, or field of a body, that is looked at, in characters: sixteen signatures, or a JWT with its claims.
pub(super) const MAX_CHARS: usize = 4096;
/// Most signatures of one request; a provider that rotates sends two.
pub(super) const MAX_SIGNATURES: usize = 16;

/// Header or field, as it is written in a scheme.
///
/// One of `header` and `pointer` says where. `prefix` must stand before it and is taken off; where it ends in a space it
/// is the name of an authentication scheme, in any case. `pair` takes the values of that name out of
/// `name=value` pairs between commas; `list` takes those words between spaces that begin with it.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "{ header = \"x-name\" } or { pointer = \"/place\" }, the location of a token or signature"
)]
pub(super) struct LocationTable {
    pub(super) header: Option<String>,
    pub(super) pointer: Option<String>,
    #[serde(default)]
    pub(super) prefix: String,
    pub(super) pair: Option<String>,
    pub(super) list: Option<String>,
}

/// Header or field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A request header.
    Header(HeaderName),
    /// A field of the body, by JSON pointer.
    Pointer(String),
}

/// How the text of a header or field is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parse {
    /// Not at all.
    Whole,
    /// `name=value` pairs between commas; those of this name.
    Pair(String),
    /// Words between spaces; those with this prefix, which is taken off.
    List(String),
}

/// A location in the request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "LocationTable")]
pub struct ValueLocation {
    /// Header or field.
    pub source: Source,
    /// The text before it.
    pub prefix: String,
    /// How the rest is split.
    pub parse: Parse,
}

impl TryFrom<LocationTable> for ValueLocation {
    type Error = String;

    fn try_from(table: LocationTable) -> Result<Self, String> {
        let source = match (table.header, table.pointer) {
            (Some(header), None) => Source::Header(header_name(&header)?),
            (None, Some(pointer)) => match json::pointer_fault(&pointer) {
                None => Source::Pointer(pointer),
                Some(fault) => return Err(fault),
            },
            _ => return Err("say either header or pointer".into()),
        };
        let parse = match (table.pair, table.list) {
            (None, None) => Parse::Whole,
            (Some(name), None) => Parse::Pair(name),
            (None, Some(prefix)) => Parse::List(prefix),
            _ => return Err("say either pair or list".into()),
        };
        Ok(Self {
            source,
            prefix: table.prefix,
            parse,
        })
    }
}

/// A header's name.
pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} cannot be a header's name"))
}

/// The value of a header that is there exactly once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    value
        .to_str()
        .ok()
        .map(str::trim)
        .filter(|text| text.len() <= MAX_CHARS)
}

impl Source {
    /// The header, where it is one.
    pub(super) const fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            Self::Pointer(_) => None,
        }
    }

    /// The text there; none if it is missing, there twice, too long or no text.
    pub(super) fn text<'a>(&self, headers: &'a HeaderMap, body: &'a [u8]) -> Option<Cow<'a, str>> {
        match self {
            Self::Header(name) => single(headers, name).map(Cow::Borrowed),
            Self::Pointer(pointer) => {
                let value = json::find(body, pointer).ok()??;
                // A longer value would exceed the limit after unescaping.
                let value = (value.text().len() <= 2 * MAX_CHARS).then_some(value)?;
                json::text(value).ok().filter(|text| text.len() <= MAX_CHARS)
            }
        }
    }
}

impl ValueLocation {
    /// All that stand there, at most [`MAX_SIGNATURES`]; none if there are more, or nothing at all.
    pub(super) fn all(&self, headers: &HeaderMap, body: &[u8]) -> Option<Vec<String>> {
        let text = self.source.text(headers, body)?;
        let text = self.without_prefix(&text)?;
        let found: Vec<_> = match &self.parse {
            Parse::Whole => vec![text.to_owned()],
            Parse::Pair(name) => text
                .split(',')
                .filter_map(|pair| pair.trim().split_once('='))
                .filter(|(of, _)| of == name)
                .take(MAX_SIGNATURES + 1)
                .map(|(_, value)| value.to_owned())
                .collect(),
            Parse::List(prefix) => text
                .split(' ')
                .filter_map(|word| word.strip_prefix(prefix.as_str()))
                .take(MAX_SIGNATURES + 1)
                .map(str::to_owned)
                .collect(),
        };
        (1..=MAX_SIGNATURES).contains(&found.len()).then_some(found)
    }

    /// The value there, if it occurs exactly once.
    pub(super) fn one(&self, headers: &HeaderMap, body: &[u8]) -> Option<String> {
        let mut all = self.all(headers, body)?;
        (all.len() == 1).then(|| all.remove(0))
    }

    fn without_prefix<'a>(&self, text: &'a str) -> Option<&'a str> {
        let prefix = self.prefix.as_str();
        let head = text.get(..prefix.len())?;
        let fits = head == prefix || (prefix.ends_with(' ') && head.eq_ignore_ascii_case(prefix));
        fits.then(|| &text[prefix.len()..])
    }

    /// The text as it is sent: with the prefix, and in the form in which it is split. More pairs stand before it.
    pub(super) fn write(&self, value: &str, pairs_before: &[(String, String)]) -> String {
        let written = match &self.parse {
            Parse::Whole => value.to_owned(),
            Parse::List(prefix) => format!("{prefix}{value}"),
            Parse::Pair(name) => {
                let before = pairs_before.iter().map(|(name, value)| format!("{name}={value},"));
                format!("{}{name}={value}", before.collect::<String>())
            }
        };
        format!("{}{written}", self.prefix)
    }
}
