//! What a signature is made over: parts of the request, written as a template.
//!
//! `{body}`, the raw bytes; `{timestamp}`, as it was sent; `{url}`, as the provider calls it; `{method}`; `{header:NAME}`;
//! `{pointer:/PATH}`, a field of the body, and `{pointer?:/PATH}`, the same or nothing; `{sorted_form}`, the names and
//! values of a form, sorted and without separators; `{sorted_fields}`, the fields of a JSON object as `name=value` with
//! `&` between them, sorted, without the signature's; `{secret}`. Everything else stands for itself; `{{` and `}}` are
//! braces.

use std::{borrow::Cow, collections::BTreeMap};

use axum::http::{HeaderName, header};
use serde::Deserialize;

use super::{
    json,
    place::{self, Source},
    request::Unverified,
};

/// Most fields of a form that are looked at.
const MAX_FORM_FIELDS: usize = 1_000;
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
    /// A form's names and values, sorted.
    SortedForm,
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
        Some(("header", name)) => place::header_name(name).map(Part::Header),
        Some(("pointer", path)) => pointer(path, false),
        Some(("pointer?", path)) => pointer(path, true),
        None if name == "body" => Ok(Part::Body),
        None if name == "timestamp" => Ok(Part::Timestamp),
        None if name == "url" => Ok(Part::Url),
        None if name == "method" => Ok(Part::Method),
        None if name == "sorted_form" => Ok(Part::SortedForm),
        None if name == "sorted_fields" => Ok(Part::SortedFields),
        None if name == "secret" => Ok(Part::Secret),
        _ => Err(format!("{{{name}}} is no part of a request")),
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

    /// The pieces of a request; none where it lacks one. `timestamp` is the time as it was sent, `signature` where the
    /// signature stands.
    pub(super) fn pieces<'a>(
        &'a self,
        request: &Unverified<'a>,
        timestamp: Option<&'a str>,
        signature: &Source,
    ) -> Option<Vec<Piece<'a>>> {
        let body = request.body();
        let piece = |part: &'a Part| -> Option<Piece<'a>> {
            Some(match part {
                Part::Literal(text) => text.as_str().into(),
                Part::Body => Piece::Bytes(Cow::Borrowed(body)),
                Part::Timestamp => timestamp?.into(),
                Part::Url => request.url()?.into(),
                Part::Method => request.method().as_str().into(),
                Part::Header(name) => place::single(request.headers(), name)?.into(),
                Part::Pointer { pointer, optional } => match json::find(body, pointer).ok()? {
                    Some(value) => json::text(value).ok()?.into_owned().into(),
                    None if *optional => "".into(),
                    None => return None,
                },
                Part::SortedForm => sorted_form(request)?.into(),
                Part::SortedFields => sorted_fields(body, signature)?.into(),
                Part::Secret => Piece::Secret,
            })
        };
        self.0.iter().map(piece).collect()
    }
}

/// Names and values of a form: names sorted, the values of each sorted and each once, nothing between them.
fn sorted_form(request: &Unverified<'_>) -> Option<String> {
    let kind = place::single(request.headers(), &header::CONTENT_TYPE)?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    // A body of another kind could be read as a form that leaves out what it is cut at.
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let mut fields: BTreeMap<Cow<'_, str>, Vec<Cow<'_, str>>> = BTreeMap::new();
    for (count, (name, value)) in form_urlencoded::parse(request.body()).enumerate() {
        if count == MAX_FORM_FIELDS {
            return None;
        }
        fields.entry(name).or_default().push(value);
    }
    let mut text = String::with_capacity(request.body().len());
    for (name, mut values) in fields {
        values.sort_unstable();
        values.dedup();
        for value in values {
            text.push_str(&name);
            text.push_str(&value);
        }
    }
    Some(text)
}

/// `a=1&b=x`: the members of the body, sorted, without the signature and what is `null`.
fn sorted_fields(body: &[u8], signature: &Source) -> Option<String> {
    let own = match signature {
        Source::Pointer(pointer) => pointer.strip_prefix('/').unwrap_or_default(),
        Source::Header(_) => "",
    };
    let mut text = String::with_capacity(body.len());
    for (name, value) in json::members(body).ok()? {
        if name == own || value.text() == "null" {
            continue;
        }
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&name);
        text.push('=');
        text.push_str(&json::text(value).ok()?);
    }
    Some(text)
}
