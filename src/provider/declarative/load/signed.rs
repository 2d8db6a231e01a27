//! Checks that a file reads no credentials, and that the signature covers what identifies a webhook.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    super::{
        file::{Document, File},
        pick::{Source, Sources},
    },
    Loader,
};
use crate::verification::{Scheme, ambiguity::FieldRead};

/// A place that says which webhook it is and that the scheme does not sign: one capture would be several webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// The place, as it is written.
    pub place: String,
    /// The key of the value.
    pub key: &'static str,
}

impl Unsigned {
    fn message(&self) -> String {
        let Self { place, key } = self;
        format!(
            "{key}: \"{place}\" is not signed by the scheme of [verification], so that one captured webhook could be sent as several; read it from what is signed"
        )
    }
}

/// Identifying locations of a file that a scheme does not sign.
pub fn unsigned(file: &File, scheme: &Scheme) -> Vec<Unsigned> {
    let webhook = &file.webhook;
    let of = |key, sources: Option<&Sources>| -> Vec<(&'static str, Source)> {
        let sources = sources.into_iter().flat_map(|sources| sources.0.iter().cloned());
        sources.map(|source| (key, source)).collect()
    };
    let shapes = file.events.when.iter().map(|when| ("events.when", when.has.clone()));
    let read = [
        of("webhook.order_id", Some(&webhook.order_id)),
        of("webhook.event_id", webhook.event_id.as_ref()),
        of("events.type", file.events.r#type.as_ref()),
        shapes.collect(),
    ];
    let is_unsigned = |source: &Source| {
        let in_document = |pointer: String| match &webhook.document {
            Some(Document::Text(text, _)) => vec![text.to_string()],
            Some(Document::Part(parts) | Document::Fetched(_, parts)) if !parts.is_empty() => {
                parts.iter().map(|part| format!("{part}{pointer}")).collect()
            }
            Some(Document::Part(_) | Document::Fetched(..)) | None => vec![pointer],
        };
        let pointers = match source {
            Source::Header(name) => return scheme.signs(FieldRead::Header(name)) == Some(false),
            Source::Path(_) => return scheme.signs(FieldRead::Path) == Some(false),
            Source::Body(pointer) => vec![pointer.to_string()],
            Source::Here(pointer) | Source::Document(pointer) => in_document(pointer.to_string()),
        };
        let is_free = |pointer: &String| scheme.signs(FieldRead::Pointer(pointer)) == Some(false);
        pointers.iter().any(is_free)
    };
    let found = read.into_iter().flatten().filter(|(_, source)| is_unsigned(source));
    found
        .map(|(key, source)| Unsigned {
            place: source.to_string(),
            key,
        })
        .collect()
}

impl<'t> Loader<'t> {
    /// The headers that are read as places, in small letters, and where that is said.
    pub(super) fn read_headers(&self) -> Vec<(usize, String)> {
        let (table, _) = DeTable::parse_recoverable(self.text);
        let mut found = Vec::new();
        for (name, value) in table.get_ref() {
            // Responses contain arbitrary texts, and schemes name headers in their own way.
            if !matches!(name.get_ref().as_ref(), "response" | "verification") {
                headers(value, &mut found);
            }
        }
        found
    }

    /// Headers that hold a credential by the file's own scheme are never stored; nothing can be read of them.
    pub(super) fn check_credentials(&mut self, file: &File) {
        let credentials = file.verification.credential_headers();
        for (at, name) in self.read_headers() {
            if credentials.iter().any(|credential| *credential == *name) {
                let message = format!(
                    "\"header:{name}\" holds what proves the caller; it is never stored, so a file cannot read it"
                );
                self.fault(at, message);
            }
        }
    }

    pub(super) fn check_signed(&mut self, file: &File) {
        for fault in unsigned(file, &file.verification) {
            let at = self.place_of(&format!("\"{}\"", fault.place));
            self.fault(at, fault.message());
        }
    }
}

fn headers(value: &Spanned<DeValue<'_>>, found: &mut Vec<(usize, String)>) {
    match value.get_ref() {
        DeValue::String(text) => {
            let name = text.strip_prefix("header:");
            found.extend(name.map(|name| (value.span().start, name.to_ascii_lowercase())));
        }
        DeValue::Array(values) => values.iter().for_each(|value| headers(value, found)),
        DeValue::Table(members) => members.values().for_each(|value| headers(value, found)),
        _ => {}
    }
}
