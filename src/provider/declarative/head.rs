//! What the intake reads of a webhook before the append: its type and its order.
//!
//! No document is built; each field is one pass over the body.

use std::borrow::Cow;

use axum::http::HeaderMap;

use super::{
    file::{Document as Where, Events, File, Kind, Webhook, When},
    menu_word,
    pick::{Source, Sources},
    reader::is_text,
};
use crate::{
    json::{
        pointer::Pointer,
        scan::{Document, unescape, verbatim},
        structure,
    },
    provider::kept_header,
};

/// The order id of an ignored webhook that names no order.
const NOTHING: &str = "none";

/// The facts that the intake needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) order_id: String,
    pub(super) event_id: Option<String>,
}

/// A request as the intake sees it.
pub(super) struct Arriving<'a> {
    pub(super) body: &'a [u8],
    pub(super) headers: &'a HeaderMap,
    /// Below `/api/webhooks/{provider}`.
    pub(super) path: &'a str,
}

struct HeadReader<'a> {
    webhook: &'a Webhook,
    body: Document<'a>,
    document: Document<'a>,
    headers: &'a HeaderMap,
    path: &'a str,
}

impl<'a> HeadReader<'a> {
    fn raw(&self, source: &Source) -> Option<&'a str> {
        match source {
            Source::Here(pointer) | Source::Document(pointer) => self.document.find(pointer),
            Source::Body(pointer) => self.body.find(pointer),
            Source::Header(_) | Source::Path(_) => None,
        }
    }

    fn text(&self, source: &Source) -> Option<Cow<'a, str>> {
        let text = match source {
            Source::Header(name) => Cow::Owned(kept_header(self.headers, name.as_str())?),
            Source::Path(name) => Cow::Borrowed(
                self.webhook
                    .paths
                    .iter()
                    .find_map(|template| template.part(self.path, name))?,
            ),
            source => {
                let raw = self.raw(source)?;
                match raw.as_bytes().first()? {
                    b'"' => verbatim(raw)?,
                    b'-' | b'0'..=b'9' => Cow::Borrowed(raw),
                    _ => return None,
                }
            }
        };
        (!text.trim().is_empty()).then_some(text)
    }

    fn first(&self, sources: &Sources) -> Option<Cow<'a, str>> {
        sources.0.iter().find_map(|source| self.text(source))
    }

    fn is_there(&self, source: &Source, is: &[String]) -> bool {
        if is.is_empty() {
            return self.raw(source).is_some_and(|raw| raw != "null") || self.text(source).is_some();
        }
        let flag = self.raw(source).filter(|raw| matches!(*raw, "true" | "false"));
        let text = flag.map(Cow::Borrowed).or_else(|| self.text(source));
        text.is_some_and(|text| is.iter().any(|one| one.eq_ignore_ascii_case(text.trim())))
    }
}

/// Reads it.
///
/// # Errors
/// What was expected and is not there; never what was sent.
pub(super) fn read(file: &File, arriving: &Arriving<'_>) -> Result<Head, String> {
    // A webhook about a menu concerns no order, even if it also matches the file's description of orders.
    let is_menu_word = file
        .outbound
        .as_ref()
        .is_some_and(|spec| menu_word::is_one(spec, arriving.body));
    with_reader(file, arriving, |reader| head(file, reader, is_menu_word))?
}

/// Why it is ignored, for trying a file; none when it is not.
pub(super) fn why_ignored(file: &File, arriving: &Arriving<'_>) -> Option<String> {
    with_reader(file, arriving, |reader| why(file, reader)).ok().flatten()
}

fn why(file: &File, reader: &HeadReader<'_>) -> Option<String> {
    let events = &file.events;
    let (kind, word) = kind(events, reader);
    if kind != Kind::Ignored {
        return None;
    }
    if let Some(when) = shape(events, reader) {
        return Some(format!("events.when says so of {}", when.has));
    }
    let Some(sources) = &events.r#type else {
        return Some("no shape of events.when fits it".into());
    };
    let places: Vec<_> = sources.0.iter().map(ToString::to_string).collect();
    let places = places.join(" and ");
    match word {
        Some(word) if events.types.get(&word).is_some() => {
            Some(format!("events.types says so of {word:?}, at {places}"))
        }
        Some(word) => Some(format!("events.types does not know {word:?}, at {places}")),
        None => {
            let begin = match &file.webhook.document {
                Some(Where::Part(_) | Where::Text(..)) => {
                    "; places begin at webhook.document, those after body: at the body"
                }
                Some(Where::Fetched(..)) | None => "",
            };
            Some(format!("no word was found at {places}{begin}"))
        }
    }
}

/// The store that it names, as the transformation will read it.
pub(super) fn store(file: &File, arriving: &Arriving<'_>) -> Option<String> {
    let pick = file.webhook.store.as_ref()?;
    let store = |reader: &HeadReader<'_>| {
        let texts = pick.from.iter().filter_map(|source| reader.text(source));
        let mut texts = texts.filter(|text| is_text(text) && !pick.skip.iter().any(|skipped| skipped == text.trim()));
        texts.next().map(Cow::into_owned)
    };
    let found = with_reader(file, arriving, store).ok().flatten();
    found.or_else(|| pick.fallback.clone())
}

fn with_reader<T>(file: &File, arriving: &Arriving<'_>, then: impl FnOnce(&HeadReader<'_>) -> T) -> Result<T, String> {
    let body = Document::new(arriving.body).map_err(|error| {
        format!(
            "not the JSON that was expected, at line {} column {}",
            error.line(),
            error.column()
        )
    })?;
    if !body.is_object() {
        return Err("expected a JSON object".into());
    }
    let reader = |document| HeadReader {
        webhook: &file.webhook,
        body,
        document,
        headers: arriving.headers,
        path: arriving.path,
    };
    match &file.webhook.document {
        Some(Where::Text(pointer, parts)) => {
            let inner = inner(body, pointer).ok_or_else(|| format!("{pointer}: expected JSON in a text"))?;
            let document = Document::new(inner.as_bytes()).map_err(|error| {
                format!(
                    "{pointer}: no JSON in the text, at line {} column {}",
                    error.line(),
                    error.column()
                )
            })?;
            // The inner document is checked like a body: with a repeated key, two readers could see two different orders.
            structure::check(inner.as_bytes()).map_err(|why| format!("{pointer}: {why}"))?;
            let reader = HeadReader {
                webhook: &file.webhook,
                body,
                document: first_part(document, parts),
                headers: arriving.headers,
                path: arriving.path,
            };
            Ok(then(&reader))
        }
        Some(Where::Part(parts) | Where::Fetched(_, parts)) => Ok(then(&reader(first_part(body, parts)))),
        None => Ok(then(&reader(body))),
    }
}

/// Where pointers begin: the first of these parts that is there, else the whole.
fn first_part<'a>(whole: Document<'a>, parts: &[Pointer]) -> Document<'a> {
    parts.iter().find_map(|pointer| whole.part(pointer)).unwrap_or(whole)
}

/// The JSON in a text of the body.
fn inner<'a>(body: Document<'a>, pointer: &Pointer) -> Option<Cow<'a, str>> {
    body.find(pointer).filter(|raw| raw.starts_with('"')).map(unescape)
}

/// The first shape that it has.
fn shape<'f>(events: &'f Events, reader: &HeadReader<'_>) -> Option<&'f When> {
    events.when.iter().find(|when| reader.is_there(&when.has, &when.is))
}

/// The webhook's type, and on demand the word that gave it.
fn kind<'a>(events: &Events, reader: &HeadReader<'a>) -> (Kind, Option<Cow<'a, str>>) {
    if let Some(when) = shape(events, reader) {
        return (when.becomes, None);
    }
    let word = events.r#type.as_ref().and_then(|sources| reader.first(sources));
    let kind = match &word {
        Some(word) => events.types.get(word).copied().unwrap_or(events.other),
        None => events.absent.unwrap_or(events.other),
    };
    (kind, word)
}

fn head(file: &File, reader: &HeadReader<'_>, is_menu_word: bool) -> Result<Head, String> {
    let kind = if is_menu_word {
        Kind::Ignored
    } else {
        kind(&file.events, reader).0
    };
    // Texts such as `"null"` are a program's rendering of a missing id: many orders would share it.
    let ids = file.webhook.order_id.0.iter().filter_map(|source| reader.text(source));
    let order_id = match ids.into_iter().find(|id| is_text(id)) {
        Some(id) => id.into_owned(),
        None if kind == Kind::Ignored => NOTHING.into(),
        None => {
            let places: Vec<_> = file.webhook.order_id.0.iter().map(ToString::to_string).collect();
            return Err(format!(
                "{}: expected the order id, as text or a number",
                places.join(" or ")
            ));
        }
    };
    // Such an id would make different events look like repeats.
    let sources = file.webhook.event_id.iter().flat_map(|sources| &sources.0);
    let event_id = sources.filter_map(|source| reader.text(source)).find(|id| is_text(id));
    Ok(Head {
        kind,
        order_id,
        event_id: event_id.map(Cow::into_owned),
    })
}
