//! Loads a provider's file and reports all its faults, each with its line and what was expected there.

use std::{fmt, ops::Range};

use serde::{Deserialize, de::IntoDeserializer};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    file::{Document, File, Kind, OrderTable, Webhook},
    pick::{Source, Sources},
};
use crate::{
    provider::outbound::{Fetch, Outbound, Reconcile, Spec},
    verification::Scheme,
};

pub mod signed;

/// Largest file that is read, in bytes; the largest that is shipped has six thousand.
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// Most faults that are reported of one file; after that the picture is clear.
const MAX_FAULTS: usize = 50;
/// Longest name of a provider: it is a token of every subject.
const MAX_NAME_BYTES: usize = 32;
/// Names that would stand for something else in URLs or settings.
const RESERVED: [&str; 6] = [
    "health",
    "rate-limit",
    "retry",
    "circuit-breaker",
    "metrics",
    "health-check",
];

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileFault {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFaults {
    /// Its name or path.
    pub file: String,
    /// All that is wrong, by line.
    pub faults: Vec<FileFault>,
}

impl fmt::Display for FileFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{}: {}", self.file, fault.line, fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileFaults {}

/// Reads a file's text.
///
/// # Errors
/// All that is wrong with it.
pub fn load(file: &str, text: &str) -> Result<File, FileFaults> {
    let mut loader = Loader {
        text,
        faults: Vec::new(),
    };
    let loaded = loader.file();
    let mut faults = loader.faults;
    faults.sort_by_key(|fault| fault.line);
    match loaded {
        Some(loaded) if faults.is_empty() => Ok(loaded),
        _ => Err(FileFaults {
            file: file.to_owned(),
            faults,
        }),
    }
}

struct Loader<'t> {
    text: &'t str,
    faults: Vec<FileFault>,
}

/// A table that is parsed, and its position.
struct Table<'t> {
    members: DeTable<'t>,
    span: Range<usize>,
}

impl<'t> Loader<'t> {
    fn fault(&mut self, at: usize, message: impl fmt::Display) {
        if self.faults.len() < MAX_FAULTS {
            let before = self.text.as_bytes().get(..at).unwrap_or_default();
            self.faults.push(FileFault {
                line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
                message: message.to_string().trim().replace('\n', " "),
            });
        }
    }

    fn file(&mut self) -> Option<File> {
        if self.text.len() > MAX_FILE_BYTES {
            self.fault(0, format_args!("the file is larger than {MAX_FILE_BYTES} bytes"));
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let key = error.span().and_then(|span| self.text.get(span));
            let at = error.span().map_or(0, |span| span.start);
            match key.filter(|_| error.message() == "duplicate key") {
                Some(key) => self.fault(at, format_args!("{key} is there twice; keep one")),
                None => self.fault(at, error.message()),
            }
        }
        if !errors.is_empty() {
            return None;
        }
        let mut root = Table {
            span: 0..0,
            members: table.into_inner(),
        };
        let verification = self.verification(&mut root);
        let webhook = self.section(&mut root, "webhook", true);
        let events = self.section(&mut root, "events", true);
        let order = self.order(&mut root);
        let status = self.section_or_default(&mut root, "status");
        let courier = match root.members.contains_key("courier") {
            true => self.section(&mut root, "courier", true).map(Some),
            false => Some(None),
        };
        let amendment = match root.members.contains_key("amendment") {
            true => self.section(&mut root, "amendment", true).map(Some),
            false => Some(None),
        };
        let response = self.section_or_default(&mut root, "response");
        let page = match root.members.contains_key("page") {
            true => self.section(&mut root, "page", true).map(Some),
            false => Some(None),
        };
        let outbound: Option<Outbound> = self.section(&mut root, "outbound", false);
        let fetch: Option<Fetch> = self.section(&mut root, "fetch", false);
        let reconcile: Option<Reconcile> = self.section(&mut root, "reconcile", false);
        let identity = self.read(root);
        let outbound = self.outbound(
            outbound.as_ref(),
            (fetch.as_ref(), reconcile.as_ref()),
            webhook.as_ref(),
        );
        let file = File {
            identity: identity?,
            verification: verification?,
            webhook: webhook?,
            events: events?,
            order: order?,
            status: status?,
            courier: courier?,
            amendment: amendment?,
            response: response?,
            outbound,
            page: page?,
            headers: self.read_headers().into_iter().map(|(_, name)| name).collect(),
        };
        self.check(&file);
        Some(file)
    }

    /// A scheme. Its fields are read as a whole, after presets are filled in, and so a fault has no place of its own: steps are
    /// read one by one, the innermost first, and in a step the fault's own word says which line is meant.
    fn verification(&mut self, root: &mut Table<'t>) -> Option<Scheme> {
        let Table { members, span } = self.take(root, "verification", true)?;
        self.scheme(&members, span)
    }

    fn scheme(&mut self, members: &DeTable<'t>, span: Range<usize>) -> Option<Scheme> {
        let before = self.faults.len();
        if let Some(DeValue::Array(steps)) = members.get("steps").map(Spanned::get_ref) {
            for step in steps {
                if let DeValue::Table(members) = step.get_ref() {
                    self.scheme(members, step.span());
                }
            }
        }
        if self.faults.len() > before {
            return None;
        }
        let value = Spanned::new(span.clone(), DeValue::Table(members.clone()));
        match Scheme::deserialize(value.into_deserializer()) {
            Ok(scheme) => Some(scheme),
            Err(error) => {
                let at = named(members, error.message()).unwrap_or(span.start);
                self.fault(at, error.message());
                None
            }
        }
    }

    fn order(&mut self, root: &mut Table<'t>) -> Option<OrderTable> {
        let mut table = self.take(root, "order", true)?;
        let customer = self.section_or_default(&mut table, "customer");
        let address = self.section_or_default(&mut table, "address");
        let lines = self.section(&mut table, "lines", true);
        let modifiers = match table.members.contains_key("modifiers") {
            true => self.section(&mut table, "modifiers", true).map(Some),
            false => Some(None),
        };
        let pricing = self.section_or_default(&mut table, "pricing");
        let payment = self.section_or_default(&mut table, "payment");
        Some(OrderTable {
            head: self.read(table)?,
            customer: customer?,
            address: address?,
            lines: lines?,
            modifiers: modifiers?,
            pricing: pricing?,
            payment: payment?,
        })
    }

    /// Takes a table out of another.
    fn take(&mut self, from: &mut Table<'t>, name: &str, required: bool) -> Option<Table<'t>> {
        let Some((_, value)) = from.members.remove_entry(name) else {
            if required {
                // Of all tables only [order] has some of its own that are taken.
                let outer = if from.span.is_empty() { "" } else { "order." };
                self.fault(from.span.start, format_args!("expected a table [{outer}{name}]"));
            }
            return None;
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(members) => Some(Table { members, span }),
            other => {
                self.fault(
                    span.start,
                    format_args!("{name}: expected a table, found {}", other.type_str()),
                );
                None
            }
        }
    }

    fn section<T: for<'de> Deserialize<'de>>(&mut self, from: &mut Table<'t>, name: &str, required: bool) -> Option<T> {
        let table = self.take(from, name, required)?;
        self.read(table)
    }

    fn section_or_default<T: for<'de> Deserialize<'de> + Default>(
        &mut self,
        from: &mut Table<'t>,
        name: &str,
    ) -> Option<T> {
        if from.members.contains_key(name) {
            self.section(from, name, true)
        } else {
            Some(T::default())
        }
    }

    /// How the provider is spoken to; none if the file does not say.
    fn outbound(
        &mut self,
        outbound: Option<&Outbound>,
        (fetch, reconcile): (Option<&Fetch>, Option<&Reconcile>),
        webhook: Option<&Webhook>,
    ) -> Option<Spec> {
        let fetched: Vec<&str> = match webhook.map(|webhook| &webhook.document) {
            Some(Some(Document::Fetched(kinds, _))) => kinds.iter().map(|kind| kind.as_str()).collect(),
            _ => Vec::new(),
        };
        if !fetched.is_empty() && (fetch.is_none() || outbound.is_none()) {
            self.fault(
                self.place_of("[webhook]"),
                "webhook: the document is fetched; expected the tables [outbound], which says where the provider is, and [fetch]",
            );
        }
        if reconcile.is_some() && outbound.is_none() {
            let place = self.place_of("[reconcile");
            self.fault(
                place,
                "reconcile: expected the table [outbound], which says where the provider is",
            );
        }
        match Spec::check(outbound?, (fetch, reconcile), &fetched) {
            Ok(spec) => Some(spec),
            Err(faults) => {
                for fault in faults {
                    let tables = ["[fetch", "[reconcile", "[outbound"];
                    let of_fault = tables.into_iter().find(|table| fault.starts_with(&table[1..]));
                    self.fault(self.place_of(of_fault.unwrap_or("[outbound")), fault);
                }
                None
            }
        }
    }

    /// Reads a table. A key with a fault is left out and the rest read again, so that all faults are found at once.
    fn read<T: for<'de> Deserialize<'de>>(&mut self, mut table: Table<'t>) -> Option<T> {
        let mut left_out: Vec<String> = Vec::new();
        loop {
            let value = Spanned::new(table.span.clone(), DeValue::Table(table.members.clone()));
            let error = match T::deserialize(value.into_deserializer()) {
                Ok(read) if left_out.is_empty() => return Some(read),
                Ok(_) => return None,
                Err(error) => error,
            };
            let message = error.message();
            if left_out.iter().any(|name| message == format!("missing field `{name}`")) {
                return None;
            }
            let span = error.span().unwrap_or_else(|| table.span.clone());
            let holds = |key: &Spanned<_>, value: &Spanned<DeValue<'_>>| {
                key.span() == span || (value.span().start <= span.start && span.end <= value.span().end)
            };
            let guilty = table
                .members
                .iter()
                .find(|(key, value)| holds(key, value))
                .map(|(key, _)| key.clone());
            let key = guilty.as_ref().map(|key| key.get_ref().as_ref());
            self.fault(span.start, plain(message, key));
            match guilty {
                Some(key) => {
                    table.members.remove(&key);
                    left_out.push(key.into_inner().into_owned());
                }
                None => return None,
            }
        }
    }

    /// Where a text stands in the file, for faults that more than one table has a part in.
    fn place_of(&self, text: &str) -> usize {
        self.text.find(text).unwrap_or_default()
    }

    /// What can be seen only of the file as a whole.
    fn check(&mut self, file: &File) {
        let name = &file.identity.name;
        let is_good = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !is_good || name.starts_with('-') || name.ends_with('-') {
            self.fault(
                self.place_of("name"),
                format_args!("name: expected 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -, found {name:?}"),
            );
        }
        if RESERVED.contains(&name.as_str()) {
            self.fault(
                self.place_of("name"),
                format_args!("name: {name:?} means something else"),
            );
        }
        self.check_scheme(&file.verification);
        if file.events.r#type.is_none() && file.events.types.iter().next().is_some() {
            self.fault(
                self.place_of("[events"),
                "events: there are types, but no type says where the word is",
            );
        }
        if file.events.r#type.is_some() && file.events.absent.is_none() {
            self.fault(
                self.place_of("[events"),
                "events: expected absent, what a webhook without a type is",
            );
        }
        if file.amendment.is_none() && file.events.becomes(Kind::OrderAmended) {
            self.fault(
                self.place_of("[events"),
                "events: something becomes order_amended; expected a table [amendment], which says what it changes",
            );
        }
        let lines = &file.order.lines;
        if lines.unit_price.is_none() && lines.total_price.is_none() {
            self.fault(
                self.place_of("[order.lines]"),
                "order.lines: expected unit_price, total_price or both; without them every line is free",
            );
        }
        self.check_paths(file);
        self.check_credentials(file);
        self.check_signed(file);
    }

    /// What protects nothing although it looks as if it did.
    fn check_scheme(&mut self, scheme: &Scheme) {
        let faults = scheme.check();
        let (table, _) = DeTable::parse_recoverable(self.text);
        let own = table.get_ref().get("verification");
        for message in faults {
            let at = own.map_or(0, |own| place_within(own, &message));
            self.fault(at, format_args!("verification: {message}"));
        }
    }

    fn check_paths(&mut self, file: &File) {
        let known: Vec<&str> = file.webhook.paths.iter().flat_map(|path| path.names()).collect();
        let of_events = file.events.when.iter().map(|when| &when.has);
        let at_intake = [&file.webhook.order_id]
            .into_iter()
            .chain(&file.webhook.event_id)
            .chain(&file.events.r#type)
            .flat_map(|Sources(sources)| sources)
            .chain(of_events);
        let is_fetched = matches!(file.webhook.document, Some(Document::Fetched(..)));
        let mut faults = Vec::new();
        for source in at_intake {
            match source {
                // The intake would read the webhook there, and the later stages the document: two ids of one order.
                Source::Here(pointer) | Source::Document(pointer) if is_fetched => faults.push(format!(
                    "{source}: the webhook is read before the document is fetched; expected \"body:{pointer}\", which is in the webhook"
                )),
                Source::Path(name) if !known.contains(&name.as_str()) => {
                    faults.push(format!("{source}: no path of webhook.paths has a part {{{name}}}"))
                }
                Source::Here(pointer) | Source::Document(pointer) | Source::Body(pointer) if pointer.has_each() => {
                    faults.push(format!("{source}: * cannot stand here"));
                }
                _ => {}
            }
        }
        for fault in faults {
            let place = fault.split(": ").next().unwrap_or_default().to_owned();
            self.fault(self.place_of(&format!("\"{place}\"")), fault);
        }
    }
}

/// Where a table says what a fault is about: the first word that the fault quotes, else the one that it begins with.
fn named(table: &DeTable<'_>, message: &str) -> Option<usize> {
    let quoted = message.split(['`', '"']).nth(1);
    let word = quoted.or_else(|| message.split([':', ' ']).next())?;
    said(table, word)
}

/// Where a word stands in a table, as a key or a text; a part of a template, in a text.
fn said(table: &DeTable<'_>, word: &str) -> Option<usize> {
    let is_part = word.starts_with('{');
    table.iter().find_map(|(key, value)| match value.get_ref() {
        _ if key.get_ref() == word => Some(key.span().start),
        DeValue::String(text) if text == word || is_part && text.contains(word) => Some(value.span().start),
        DeValue::Table(members) => said(members, word),
        _ => None,
    })
}

/// Where a fault is that begins with its place, `steps[1].signed: …`, as far as that stands in the file: a preset has fields
/// that do not.
fn place_within(value: &Spanned<DeValue<'_>>, fault: &str) -> usize {
    let DeValue::Table(members) = value.get_ref() else {
        return value.span().start;
    };
    let name = fault.split([':', '[', '.']).next().unwrap_or_default();
    let Some((key, found)) = members.get_key_value(name) else {
        return value.span().start;
    };
    let step = fault.strip_prefix("steps[").and_then(|rest| rest.split_once("]."));
    let of_step = step.and_then(|(number, rest)| {
        let DeValue::Array(steps) = found.get_ref() else {
            return None;
        };
        Some(place_within(steps.get(number.parse::<usize>().ok()?)?, rest))
    });
    of_step.unwrap_or(key.span().start)
}

/// A message about a value of the wrong type, in the words of who writes files and with the key that it stands under.
fn plain(message: &str, key: Option<&str>) -> String {
    let key = key.map_or_else(String::new, |key| format!("{key}: "));
    let told = message.strip_prefix("invalid type: ");
    let Some((found, expected)) = told.and_then(|told| told.split_once(", expected ")) else {
        let is_missing = message.starts_with("missing field ");
        return format!("{}{message}", if is_missing { &key } else { "" });
    };
    let word = |word| match word {
        "map" => "a table",
        "sequence" | "a sequence" => "a list, in [ ]",
        "a map" => "a table, in { }",
        other => other,
    };
    format!("{key}expected {}, found {}", word(expected), word(found))
}
