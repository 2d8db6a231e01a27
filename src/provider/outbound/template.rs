//! The content of a request to a provider, as data: text with slots, and JSON with slots and repetition.
//!
//! `{external_id}` in a text is a slot; `{reason|none given}` has a default. In JSON a text that is nothing but a slot
//! becomes the value itself (a number stays a number) and is left out with its member where there is none. An object
//! `{"$each": "menu.categories", "do": …}` becomes an array. The slots and lists are a closed set and checked when a template
//! is read, so none of these errors can occur while an order waits. Pure.

use serde_json::{Map, Value};

use crate::text::segment::{self, NotASegment};

/// Largest template, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting of a template: a catalogue has five levels of its own.
const MAX_DEPTH: usize = 24;
/// Most faults that are named of one template.
const MAX_FAULTS: usize = 20;

/// The slots and lists that a template may use.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary {
    /// Slots by name; a name that ends in `.` lets anything follow (`setting.`).
    pub slots: &'static [&'static str],
    /// Lists, and under which name each element is known inside.
    pub lists: &'static [(&'static str, &'static str)],
    /// Slots of an element, by that name.
    pub elements: &'static [(&'static str, &'static [&'static str])],
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(String),
    Slot { name: String, default: Option<String> },
}

/// A text with slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<Part>);

/// JSON with slots.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// Literal text.
    Plain(Value),
    /// A text; where it is one slot, that slot's value.
    Text(Text),
    /// A text with slots that is written as a number where it is a whole one.
    Number(Text),
    /// An array.
    Array(Vec<Self>),
    /// An object, in the order of its names.
    Object(Vec<(String, Self)>),
    /// One for each element of a list.
    Each {
        /// The list.
        list: String,
        /// The name of an element inside.
        name: &'static str,
        /// The content of each element.
        body: Box<Self>,
    },
}

/// Why a text cannot be filled: the slot, by its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfilled {
    /// It has no value where one must be.
    #[error("nothing is known for {{{0}}}")]
    NoValue(String),
    /// Its value cannot stand in a path.
    #[error("the value of {{{slot}}} {why}")]
    NotASegment {
        /// Which.
        slot: String,
        /// Why.
        why: NotASegment,
    },
}

/// The values of slots: an object by names, with objects and lists in it.
#[derive(Debug, Clone, Default)]
pub struct Scope(pub Map<String, Value>);

impl Scope {
    /// A value by its dotted name; none if there is none, or it is null or an empty text.
    fn get(&self, name: &str) -> Option<&Value> {
        let mut names = name.split('.');
        let first = self.0.get(names.next()?)?;
        let value = names.try_fold(first, |value, name| value.get(name))?;
        match value {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            other => Some(other),
        }
    }
}

impl Vocabulary {
    fn has_slot(&self, name: &str, inside: &[&'static str]) -> bool {
        let is_open = |slot: &str| slot.ends_with('.') && name.starts_with(slot) && name.len() > slot.len();
        if self
            .slots
            .iter()
            .any(|slot| *slot == name && !slot.ends_with('.') || is_open(slot))
        {
            return true;
        }
        let Some((element, field)) = name.split_once('.') else {
            return false;
        };
        inside.contains(&element)
            && self
                .elements
                .iter()
                .any(|(of, fields)| *of == element && fields.contains(&field))
    }

    /// Under which name the elements of a list are known, where it is one that can stand here.
    fn list(&self, list: &str, inside: &[&'static str]) -> Option<&'static str> {
        let (_, name) = self.lists.iter().find(|(of, _)| *of == list)?;
        let owner = list.split('.').next()?;
        // A list of the whole menu within another list would take the product of both sizes.
        let stands = if owner == "menu" || owner == list {
            inside.is_empty()
        } else {
            inside.contains(&owner)
        };
        stands.then_some(*name)
    }
}

impl Text {
    /// Reads one; every fault is noted in `faults`, after `at`.
    pub fn read(text: &str, vocabulary: &Vocabulary, at: &str, faults: &mut Vec<String>) -> Self {
        Self::read_inside(text, vocabulary, &[], at, faults)
    }

    fn read_inside(
        text: &str,
        vocabulary: &Vocabulary,
        inside: &[&'static str],
        at: &str,
        faults: &mut Vec<String>,
    ) -> Self {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(open) = rest.find('{') {
            let (plain, from) = rest.split_at(open);
            let Some(close) = from.find('}') else {
                note(faults, format!("{at}: a {{ without a }}"));
                break;
            };
            if !plain.is_empty() {
                parts.push(Part::Plain(plain.to_owned()));
            }
            let slot = &from[1..close];
            let (name, default) = match slot.split_once('|') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (slot, None),
            };
            if !vocabulary.has_slot(name, inside) {
                note(
                    faults,
                    format!(
                        "{at}: {{{name}}} is not known here; there are {}",
                        vocabulary.slots.join(", ")
                    ),
                );
            }
            if default.as_ref().is_some_and(|default| default.contains('{')) {
                note(
                    faults,
                    format!("{at}: the default of {{{name}}} is plain text, and no slot can stand in it"),
                );
            }
            parts.push(Part::Slot {
                name: name.to_owned(),
                default,
            });
            rest = &from[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Plain(rest.to_owned()));
        }
        Self(parts)
    }

    /// Whether it uses a slot.
    pub fn uses(&self, slot: &str) -> bool {
        self.0
            .iter()
            .any(|part| matches!(part, Part::Slot { name, .. } if name == slot))
    }

    /// The text with its values as they are.
    ///
    /// # Errors
    /// If a slot has neither a value nor a default.
    pub fn fill(&self, scope: &Scope) -> Result<String, Unfilled> {
        self.filled(scope, |_, value| Ok(value))
    }

    /// The text with its values as a path: each is one segment, or part of one.
    ///
    /// # Errors
    /// If a slot has neither a value nor a default, or its value would change the path.
    pub fn fill_path(&self, scope: &Scope) -> Result<String, Unfilled> {
        self.filled(scope, |slot, value| {
            segment::encode(&value).map_err(|why| Unfilled::NotASegment {
                slot: slot.to_owned(),
                why,
            })
        })
    }

    fn filled(
        &self,
        scope: &Scope,
        write: impl Fn(&str, String) -> Result<String, Unfilled>,
    ) -> Result<String, Unfilled> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Plain(plain) => filled.push_str(plain),
                Part::Slot { name, default } => {
                    let value = scope.get(name).map(as_text).or_else(|| default.clone());
                    let value = value.ok_or_else(|| Unfilled::NoValue(name.clone()))?;
                    filled.push_str(&write(name, value)?);
                }
            }
        }
        Ok(filled)
    }

    /// As a JSON value; none if a slot has neither a value nor a default.
    fn value(&self, scope: &Scope) -> Option<Value> {
        if let [Part::Slot { name, default }] = &*self.0 {
            return scope.get(name).cloned().or_else(|| default.clone().map(Value::String));
        }
        self.fill(scope).ok().map(Value::String)
    }
}

impl Json {
    /// Reads one from JSON text; every fault is noted in `faults`, after `at`.
    pub fn read(text: &str, vocabulary: &Vocabulary, at: &str, faults: &mut Vec<String>) -> Self {
        if text.len() > MAX_BYTES {
            note(faults, format!("{at}: larger than {MAX_BYTES} bytes"));
            return Self::Plain(Value::Null);
        }
        match serde_json::from_str(text) {
            Ok(value) => Self::compile(value, vocabulary, &mut Vec::new(), at, faults, 0),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                note(faults, format!("{at}: not JSON, at line {line} column {column} of it"));
                Self::Plain(Value::Null)
            }
        }
    }

    fn compile(
        value: Value,
        vocabulary: &Vocabulary,
        inside: &mut Vec<&'static str>,
        at: &str,
        faults: &mut Vec<String>,
        depth: usize,
    ) -> Self {
        if depth > MAX_DEPTH {
            note(faults, format!("{at}: deeper than {MAX_DEPTH}"));
            return Self::Plain(Value::Null);
        }
        match value {
            Value::String(text) => Self::Text(Text::read_inside(&text, vocabulary, inside, at, faults)),
            Value::Array(elements) => Self::Array(
                elements
                    .into_iter()
                    .enumerate()
                    .map(|(index, one)| {
                        Self::compile(one, vocabulary, inside, &format!("{at}/{index}"), faults, depth + 1)
                    })
                    .collect(),
            ),
            Value::Object(mut members) => {
                if let (1, Some(Value::String(text))) = (members.len(), members.get("$number")) {
                    return Self::Number(Text::read_inside(text, vocabulary, inside, at, faults));
                }
                let Some(list) = members.remove("$each") else {
                    let member = |(name, value): (String, Value)| {
                        let at = format!("{at}/{name}");
                        let value = Self::compile(value, vocabulary, inside, &at, faults, depth + 1);
                        (name, value)
                    };
                    return Self::Object(members.into_iter().map(member).collect());
                };
                let list = list.as_str().unwrap_or_default().to_owned();
                let (body, others) = (members.remove("do"), members.len());
                match (vocabulary.list(&list, inside), body) {
                    (Some(name), Some(body)) if others == 0 => {
                        inside.push(name);
                        let body = Self::compile(body, vocabulary, inside, &format!("{at}/do"), faults, depth + 1);
                        inside.pop();
                        let body = Box::new(body);
                        Self::Each { list, name, body }
                    }
                    (None, _) => {
                        note(faults, format!("{at}: the list {list:?} is not known here"));
                        Self::Plain(Value::Null)
                    }
                    _ => {
                        note(faults, format!("{at}: $each requires \"do\" and nothing else"));
                        Self::Plain(Value::Null)
                    }
                }
            }
            other => Self::Plain(other),
        }
    }

    /// The JSON with its values; what has none is left out.
    pub fn fill(&self, scope: &mut Scope) -> Value {
        self.value(scope).unwrap_or(Value::Null)
    }

    fn value(&self, scope: &mut Scope) -> Option<Value> {
        Some(match self {
            Self::Plain(value) => value.clone(),
            Self::Text(text) => return text.value(scope),
            Self::Number(text) => return text.value(scope).map(whole_number),
            Self::Array(elements) => elements.iter().filter_map(|one| one.value(scope)).collect(),
            Self::Object(members) => {
                let filled = members
                    .iter()
                    .filter_map(|(name, value)| Some((name.clone(), value.value(scope)?)));
                Value::Object(filled.collect())
            }
            Self::Each { list, name, body } => {
                let Some(Value::Array(elements)) = scope.get(list).cloned() else {
                    return Some(Value::Array(Vec::new()));
                };
                let mut filled = Vec::with_capacity(elements.len());
                for element in elements {
                    scope.0.insert((*name).to_owned(), element);
                    filled.extend(body.value(scope));
                }
                scope.0.remove(*name);
                Value::Array(filled)
            }
        })
    }
}

/// A text of digits as the number that it is; anything else as it is: the provider says what is wrong with it.
fn whole_number(value: Value) -> Value {
    let number = value.as_str().and_then(|text| {
        let is_written_so = |number: &i64| number.to_string() == text;
        text.parse::<i64>().ok().filter(is_written_so)
    });
    number.map_or(value, Value::from)
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn note(faults: &mut Vec<String>, fault: String) {
    if faults.len() < MAX_FAULTS {
        faults.push(fault);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WORDS: Vocabulary = Vocabulary {
        slots: &["external_id", "reason", "minutes", "setting."],
        lists: &[
            ("menu.categories", "category"),
            ("category.items", "item"),
            ("menu.items", "item"),
        ],
        elements: &[("category", &["id"]), ("item", &["id", "price"])],
    };

    fn scope(value: Value) -> Scope {
        let Value::Object(map) = value else { panic!("an object") };
        Scope(map)
    }

    fn read(text: &str) -> Result<Json, Vec<String>> {
        let mut faults = Vec::new();
        let json = Json::read(text, &WORDS, "body", &mut faults);
        if faults.is_empty() { Ok(json) } else { Err(faults) }
    }

    #[test]
    fn slots_become_values_and_what_has_none_is_left_out() {
        let template = read(
            r#"{"a":"{minutes}","b":"x-{external_id}","c":"{reason}","d":["{reason|none}"],"e":"{setting.brand}"}"#,
        );
        let mut scope = scope(json!({ "minutes": 15, "external_id": "7", "reason": "", "setting": { "brand": "B" } }));
        assert_eq!(
            template.unwrap().fill(&mut scope),
            json!({ "a": 15, "b": "x-7", "d": ["none"], "e": "B" })
        );
    }

    #[test]
    fn a_number_is_written_as_one() {
        let template =
            read(r#"{"id":{"$number":"{external_id}"},"n":{"$number":"{minutes|7}"},"no":{"$number":"{reason}"}}"#);
        let template = template.unwrap();
        for (id, written) in [
            ("756823555555859", json!(756_823_555_555_859_u64)),
            ("007", json!("007")),
            ("x1", json!("x1")),
        ] {
            let mut scope = scope(json!({ "external_id": id, "minutes": 15 }));
            assert_eq!(template.fill(&mut scope), json!({ "id": written, "n": 15 }));
        }
    }

    #[test]
    fn lists_repeat_and_nest() {
        let text = r#"{"$each":"menu.categories","do":{"id":"{category.id}","items":{"$each":"category.items","do":{"id":"{item.id}","in":"{category.id}","price":"{item.price}"}}}}"#;
        let menu = json!({ "categories": [
            { "id": "c1", "items": [{ "id": "i1", "price": 4500 }, { "id": "i2" }] }, { "id": "c2", "items": [] },
        ] });
        let mut scope = scope(json!({ "menu": menu }));
        assert_eq!(
            read(text).unwrap().fill(&mut scope),
            json!([
                { "id": "c1", "items": [{ "id": "i1", "in": "c1", "price": 4500 }, { "id": "i2", "in": "c1" }] },
                { "id": "c2", "items": [] },
            ])
        );
    }

    #[test]
    fn every_fault_is_named_with_its_place() {
        for (text, fault) in [
            (r#"{"a":{"b":"{colour}"}}"#, "body/a/b: {colour}"),
            (r#"["{open"]"#, "body/0: a {"),
            (r#"{"a":"{reason|{external_id}}"}"#, "body/a: the default of {reason}"),
            (r#"{"a":"{item.id}"}"#, "body/a: {item.id}"),
            (r#"{"a":"{setting.}"}"#, "body/a: {setting.}"),
            (r#"{"$each":"category.items","do":1}"#, "body: the list"),
            (
                r#"{"$each":"menu.categories","do":{"$each":"menu.items","do":1}}"#,
                "body/do: the list",
            ),
            (r#"{"$each":"menu.categories","then":1}"#, "body: $each"),
            ("{", "body: not JSON"),
        ] {
            let faults = read(text).unwrap_err();
            assert!(faults[0].starts_with(fault), "{faults:?}");
        }
        let deep = format!("{}1{}", "[".repeat(30), "]".repeat(30));
        assert!(read(&deep).unwrap_err()[0].contains("deeper"));
    }

    #[test]
    fn a_missing_value_is_named() {
        let mut faults = Vec::new();
        let text = Text::read("/orders/{external_id}/{reason}", &WORDS, "path", &mut faults);
        assert!(faults.is_empty() && text.uses("reason") && !text.uses("minutes"));
        assert_eq!(
            text.fill(&scope(json!({ "external_id": "a" }))),
            Err(Unfilled::NoValue("reason".into()))
        );
        let filled = text.fill_path(&scope(json!({ "external_id": "a", "reason": "b c" })));
        assert_eq!(filled.as_deref(), Ok("/orders/a/b%20c"));
        for changes_the_path in ["..", "b/c", "%2e%2e"] {
            let scope = scope(json!({ "external_id": "a", "reason": changes_the_path }));
            let refused = text.fill_path(&scope).unwrap_err();
            assert!(
                matches!(&refused, Unfilled::NotASegment { slot, .. } if slot == "reason"),
                "{refused}"
            );
            assert!(text.fill(&scope).is_ok());
        }
    }
}
