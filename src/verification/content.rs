//! What a signature is made over: parts of the request, written as a template.
//!
//! `{body}`, the raw bytes; `{timestamp}`, as it was sent; `{url}`, as the provider calls it; `{method}`; `{header:NAME}`;
//! `{pointer:/PATH}`, a field of the body, and `{pointer?:/PATH}`, the same or nothing; `{sorted_fields}`, the fields of a JSON object as `name=value` with
//! `&` between them, sorted, without the signature's; `{secret}`. Everything else stands for itself; `{{` and `}}` are
//! braces.

use std::borrow::Cow;

use axum::http::HeaderName;
use serde::Deserialize;

use super::{
    ambiguity,
    fields::Fields,
    json,
    location::{self, Source},
    request::Unverified,
};

/// Most parts of a template.
const MAX_PARTS: usize = 64;

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands for itself.
    Literal(String),
    /// The body, byte for byte.
    Body,
    /// The time as it was sent.
    Timestamp,
    /// The URL as the provider calls it.
    Url,
    /// The method.
    Method,
    /// A header that must be there once.
    Header(HeaderName),
    /// A field of the body.
    Pointer {
        /// Where.
        pointer: String,
        /// Whether it may be missing.
        optional: bool,
    },
    /// A JSON object's members, sorted, but the signature.
    SortedFields,
    /// The secret itself; only in a hash without a key.
    Secret,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Content(pub(super) Vec<Part>);

impl TryFrom<String> for Content {
    type Error = String;

    fn try_from(template: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = template.as_str();
        while let Some(first) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after
                    .split_once('}')
                    .ok_or_else(|| format!("{template:?} has a {{ without its }}"))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(part(name)?);
                rest = after;
            } else if first == '}' {
                return Err(format!("{template:?} has a }} without its {{"));
            } else {
                literal.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if parts.len() > MAX_PARTS {
            return Err(format!("has more than {MAX_PARTS} parts"));
        }
        Ok(Self(parts))
    }
}

fn part(name: &str) -> Result<Part, String> {
    let pointer = |pointer: &str, optional| match json::pointer_fault(pointer) {
        None => Ok(Part::Pointer {
            pointer: pointer.to_owned(),
            optional,
        }),
        Some(fault) => Err(fault),
    };
    match name.split_once(':') {
        Some(("header", name)) => location::header_name(name).map(Part::Header),
        Some(("pointer", path)) => pointer(path, false),
        Some(("pointer?", path)) => pointer(path, true),
        None if name == "body" => Ok(Part::Body),
        None if name == "timestamp" => Ok(Part::Timestamp),
        None if name == "url" => Ok(Part::Url),
        None if name == "method" => Ok(Part::Method),
        None if name == "sorted_fields" => Ok(Part::SortedFields),
        None if name == "secret" => Ok(Part::Secret),
        _ => Err(format!("{{{name}}} is not a part of a request")),
    }
}

/// A piece of what is signed: bytes of the request, or the place of the secret.
pub(super) enum Piece<'a> {
    Bytes(Cow<'a, [u8]>),
    Secret,
}

impl<'a> From<&'a str> for Piece<'a> {
    fn from(text: &'a str) -> Self {
        Self::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<String> for Piece<'_> {
    fn from(text: String) -> Self {
        Self::Bytes(Cow::Owned(text.into_bytes()))
    }
}

impl Content {
    pub(super) fn has(&self, part: &Part) -> bool {
        self.0.contains(part)
    }

    /// The pieces of a request; none if it lacks one, or if one holds what would make the whole ambiguous. `timestamp`
    /// is the time as it was sent, `signature` where the signature stands, `fields` what `{sorted_fields}` may hold.
    pub(super) fn pieces<'a>(
        &'a self,
        request: &Unverified<'a>,
        timestamp: Option<&'a str>,
        signature: &Source,
        fields: &Fields,
    ) -> Option<Vec<Piece<'a>>> {
        let body = request.body();
        let piece = |(at, part): (usize, &'a Part)| -> Option<Piece<'a>> {
            let text = match part {
                Part::Literal(text) => return Some(text.as_str().into()),
                Part::Body => return Some(Piece::Bytes(Cow::Borrowed(body))),
                Part::SortedFields => return Some(fields.sorted(body, signature)?.into()),
                Part::Secret => return Some(Piece::Secret),
                Part::Timestamp => Cow::Borrowed(timestamp?),
                Part::Url => Cow::Owned(request.url()?),
                Part::Method => Cow::Borrowed(request.method().as_str()),
                Part::Header(name) => Cow::Borrowed(location::single(request.headers(), name)?),
                Part::Pointer { pointer, optional } => match json::find(body, pointer).ok()? {
                    Some(value) => Cow::Owned(json::scalar(value).ok()?.into_owned()),
                    None if *optional => Cow::Borrowed(""),
                    None => return None,
                },
            };
            // The URL's part before the path is PUBLIC_URL, which is the same for every request.
            let sent = if *part == Part::Url {
                request.path_and_query()
            } else {
                &text
            };
            let is_clear = ambiguity::forbidden(&self.0, at).is_none_or(|separator| !sent.contains(separator));
            is_clear.then(|| match text {
                Cow::Borrowed(text) => text.into(),
                Cow::Owned(text) => text.into(),
            })
        };
        self.0.iter().enumerate().map(piece).collect()
    }

    /// What of the pieces is from the body, where that is not all of it: it tells a repeat.
    pub(super) fn of_body(&self, pieces: &[Piece<'_>]) -> Vec<u8> {
        let is_of_body = |part: &Part| matches!(part, Part::Pointer { .. } | Part::SortedFields | Part::Literal(_));
        let pairs = self.0.iter().zip(pieces).filter(|(part, _)| is_of_body(part));
        let bytes = pairs.filter_map(|(_, piece)| match piece {
            Piece::Bytes(bytes) => Some(&**bytes),
            Piece::Secret => None,
        });
        bytes.collect::<Vec<_>>().concat()
    }
}
