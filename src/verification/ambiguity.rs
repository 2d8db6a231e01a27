//! Ensures that one signature covers one message only: the form of a template, and what its parts may hold.
//!
//! A signature covers one text. If two different requests give the same text, a signature of one is a signature of the other,
//! and an intercepted webhook becomes messages that its sender never sent. So a template has at most one part of any length
//! (the body, or the fields of an object); every other part is separated from it by a text that the part does not hold.

use axum::http::HeaderName;

use super::{
    content::{Content, Part},
    scheme::{Scheme, Signed},
};

/// What a part must not contain, so that its end, or its beginning, is unambiguous.
pub(super) fn forbidden(parts: &[Part], at: usize) -> Option<char> {
    let long = parts.iter().position(Part::is_long);
    let (before, after) = (at.checked_sub(1).and_then(|at| parts.get(at)), parts.get(at + 1));
    let neighbour = match long {
        Some(long) if at > long => before,
        _ => after,
    };
    match neighbour {
        Some(Part::Literal(text)) => text.chars().next(),
        // The URL before it contains no brace, and the body begins with one because it is a JSON object.
        Some(Part::Body) if parts.get(at) == Some(&Part::Url) => Some('{'),
        _ => None,
    }
}

impl Part {
    const fn is_long(&self) -> bool {
        matches!(self, Self::Body | Self::SortedFields)
    }

    const fn is_variable(&self) -> bool {
        !matches!(self, Self::Literal(_) | Self::Secret)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Literal(_) => "text",
            Self::Body => "{body}",
            Self::Timestamp => "{timestamp}",
            Self::Url => "{url}",
            Self::Method => "{method}",
            Self::Header(_) => "{header}",
            Self::Pointer { .. } => "{pointer}",
            Self::SortedFields => "{sorted_fields}",
            Self::Secret => "{secret}",
        }
    }
}

impl Content {
    /// Where two different requests could give the same text.
    pub(super) fn ambiguities(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.0.iter().filter(|part| part.is_long()).count() > 1 {
            faults.push(
                "signed: only one of {body} and {sorted_fields}, once, or it cannot be told where one ends".into(),
            );
        }
        for (at, pair) in self.0.windows(2).enumerate() {
            let is_url_and_body = pair == [Part::Url, Part::Body];
            if pair[0].is_variable() && pair[1].is_variable() && !is_url_and_body {
                let (one, other) = (pair[0].name(), pair[1].name());
                faults.push(format!(
                    "signed: {one} and {other}, part {} and the next, stand side by side, so that what ends one may begin the other; a text must separate them",
                    at + 1
                ));
            }
        }
        faults
    }
}

impl Signed {
    pub(super) fn ambiguities(&self) -> Vec<String> {
        let mut faults = self.signed.ambiguities();
        let sorts = self.signed.has(&Part::SortedFields);
        if sorts && self.fields.0.values().all(|field| !field.is_required) {
            faults.push(
                "fields: {sorted_fields} joins without escaping; name the fields that are read, with their types, or one may be forged inside of another"
                    .into(),
            );
        }
        if !sorts && !self.fields.0.is_empty() {
            faults.push("fields: has no effect without {sorted_fields}".into());
        }
        faults
    }

    fn covers_header(&self, name: &str) -> bool {
        let is_it = |part: &Part| matches!(part, Part::Header(signed) if signed == name);
        self.signed.0.iter().any(is_it)
    }

    pub(super) fn covers_pointer(&self, pointer: &str) -> bool {
        let is_it = |part: &Part| match part {
            Part::Body => true,
            Part::Pointer { pointer: signed, .. } => signed == pointer,
            Part::SortedFields => self.fields.has(pointer),
            _ => false,
        };
        self.body_hash.is_some() || self.signed.0.iter().any(is_it)
    }

    /// Whether every byte of the body is signed.
    pub(super) fn covers_body(&self) -> bool {
        self.body_hash.is_some() || self.signed.has(&Part::Body)
    }
}

/// Something that a provider's file reads.
#[derive(Debug, Clone, Copy)]
pub enum FieldRead<'a> {
    /// A header.
    Header(&'a str),
    /// The path.
    Path,
    /// A field of the body, by JSON pointer.
    Pointer(&'a str),
}

impl Scheme {
    /// Whether what is read is signed; none if this scheme signs nothing, so that the owner of the token may send anything.
    pub fn signs(&self, read: FieldRead<'_>) -> Option<bool> {
        match self {
            Self::Static(_) | Self::Basic(_) | Self::Jwt(_) | Self::None => None,
            Self::Hmac(one) | Self::HashConcat(one) => Some(match read {
                FieldRead::Header(name) => one.covers_header(name),
                FieldRead::Path => one.signed.has(&Part::Url),
                FieldRead::Pointer(pointer) => one.covers_pointer(pointer),
            }),
            // All steps must accept the request, so one step that signs the location is enough.
            Self::AllOf(steps) => steps
                .iter()
                .filter_map(|step| step.signs(read))
                .reduce(|one, other| one || other),
            // Any step may accept the request, so every step that signs must sign the location.
            Self::AnyOf(steps) => steps
                .iter()
                .filter_map(|step| step.signs(read))
                .reduce(|one, other| one && other),
        }
    }

    /// The headers that it reads beside credentials: those that are signed, and those that hold a time or the id of a message.
    /// Those that hold a signature are left out.
    pub fn read_headers(&self) -> Vec<HeaderName> {
        let (mut read, mut signatures) = (Vec::new(), self.signature_headers());
        self.each(&mut |step| {
            let (Self::Hmac(one) | Self::HashConcat(one)) = step else {
                return;
            };
            let locations = one.timestamp.iter().map(|time| &time.location).chain(&one.replay_key);
            read.extend(locations.filter_map(|location| location.source.header()).cloned());
            read.extend(one.signed.0.iter().filter_map(|part| match part {
                Part::Header(name) => Some(name.clone()),
                _ => None,
            }));
        });
        signatures.extend(self.credential_headers());
        read.retain(|name| !signatures.contains(name));
        read
    }

    /// The headers that hold a signature.
    pub fn signature_headers(&self) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        self.each(&mut |step| {
            if let Self::Hmac(one) | Self::HashConcat(one) = step {
                headers.extend(one.signature.source.header().cloned());
            }
        });
        headers
    }
}

/// Steps of which one capture may fit another: the same secret signs two forms of the same request.
pub(super) fn forms(steps: &[Scheme]) -> Option<String> {
    let mut seen: Vec<&Signed> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let (Scheme::Hmac(one) | Scheme::HashConcat(one)) = step else {
            continue;
        };
        if seen
            .iter()
            .any(|other| other.secret == one.secret && other.signed != one.signed)
        {
            return Some(format!(
                "steps[{at}].signed: another step signs another form with the same secret, so that a capture of one form may be another message in the other; keep the form that is sent here"
            ));
        }
        seen.push(one);
    }
    None
}
