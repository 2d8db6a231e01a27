//! No order is rejected because of a field that does not identify it, make it up or price it.

use std::sync::LazyLock;

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::{
    super::{file::Document, pick::Source, sample},
    *,
};
use crate::json::fault::Fault;

mod cases;
mod sums;
mod words;

use self::cases::{CASES, Case};

/// Webhooks of providers that only point to the order.
const THIN: &[(&str, &str)] = &[
    (
        "uber-eats",
        include_str!("../../../../tests/fixtures/providers/uber-eats/webhook_orders.notification.json"),
    ),
    (
        "wolt",
        include_str!("../../../../tests/fixtures/providers/wolt/created.json"),
    ),
];

/// A case that is ready: the value that is changed, its places, and what comes of it unchanged.
struct Ready {
    case: &'static Case,
    provider: Declarative,
    /// The body around the value, where that is JSON in its text.
    around: Option<Value>,
    value: Value,
    places: Vec<String>,
    leaves: Vec<String>,
    body: Value,
}

static READY: LazyLock<Vec<Ready>> = LazyLock::new(|| CASES.iter().map(Ready::of).collect());

fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut below = |name: &str, value: &Value| {
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(place.clone());
        places(value, &place, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| below(name, value)),
        Value::Array(elements) => elements
            .iter()
            .enumerate()
            .for_each(|(at, value)| below(&at.to_string(), value)),
        _ => {}
    }
}

fn matches(pattern: &[&str], place: &[&str]) -> bool {
    match (pattern.split_first(), place.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            matches(rest, place) || place.split_first().is_some_and(|(_, below)| matches(pattern, below))
        }
        (Some((step, rest)), Some((name, below))) => (*step == "*" || step == name) && matches(rest, below),
        _ => false,
    }
}

fn is_of(patterns: &[&str], place: &str) -> bool {
    let place: Vec<_> = place.split('/').skip(1).collect();
    patterns.iter().any(|pattern| {
        let pattern: Vec<_> = pattern.trim_start_matches('/').split('/').collect();
        matches(&pattern, &place)
    })
}

/// Whether one place holds the other, or is it.
fn are_related(one: &str, other: &str) -> bool {
    let holds = |upper: &str, lower: &str| {
        lower
            .strip_prefix(upper)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    holds(one, other) || holds(other, one)
}

impl Ready {
    fn of(case: &'static Case) -> Self {
        let file = Catalogue::shipped().get(case.provider).unwrap().file().clone();
        let provider = Declarative::new(file, Some(case.currency.parse().unwrap()));
        let mut value: Value = serde_json::from_str(case.json).unwrap();
        let mut around = None;
        if case.provider == "keeta" {
            let inner = serde_json::from_str(value["message"].as_str().unwrap()).unwrap();
            around = Some(std::mem::replace(&mut value, inner));
        }
        let mut ready = Self {
            case,
            provider,
            around,
            places: Vec::new(),
            leaves: Vec::new(),
            body: Value::Null,
            value,
        };
        places(&ready.value, "", &mut ready.places);
        let is_leaf = |place: &&String| {
            is_of(case.essential, place)
                && ready
                    .value
                    .pointer(place)
                    .is_some_and(|value| !value.is_object() && !value.is_array())
        };
        ready.leaves = ready.places.iter().filter(is_leaf).cloned().collect();
        assert!(ready.leaves.len() >= 3, "{}: {:?}", case.provider, ready.leaves);
        ready.body = ready.becomes(&ready.value).unwrap();
        ready
    }

    /// The body that the backend gets; else the faults, or why the intake refuses it.
    fn becomes(&self, value: &Value) -> Result<Value, Vec<Fault>> {
        let text = match &self.around {
            Some(around) => {
                let mut around = around.clone();
                around["message"] = value.to_string().into();
                around.to_string()
            }
            None => value.to_string(),
        };
        let thin = THIN.iter().find(|(provider, _)| *provider == self.case.provider);
        let sample = sample::Sample {
            body: thin.map_or(&*text, |(_, webhook)| webhook).as_bytes(),
            headers: &HeaderMap::new(),
            path: "",
            document: thin.map(|_| text.as_bytes()),
            now: Utc::now(),
        };
        match self.provider.try_sample(&sample).map(|tried| tried.outcome) {
            Ok(sample::Outcome::Posted(posted)) => Ok(serde_json::from_slice(&posted.body).unwrap()),
            Ok(sample::Outcome::Faults(faults)) => Err(faults),
            Ok(other) => panic!("{}: {other:?}", self.case.provider),
            Err(reason) => {
                let pointer = reason.split([':', ' ']).next().unwrap_or_default().to_owned();
                Err(vec![Fault {
                    pointer,
                    message: reason,
                }])
            }
        }
    }

    fn with(&self, place: &str, wrong: &Option<Value>) -> Value {
        let mut value = self.value.clone();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/").replace("~0", "~");
        match (value.pointer_mut(parent).unwrap(), wrong) {
            (Value::Object(members), Some(wrong)) => drop(members.insert(name, wrong.clone())),
            (Value::Object(members), None) => drop(members.remove(&name)),
            (Value::Array(elements), Some(wrong)) => elements[name.parse::<usize>().unwrap()] = wrong.clone(),
            (Value::Array(elements), None) => drop(elements.remove(name.parse::<usize>().unwrap())),
            _ => unreachable!("it holds a value"),
        }
        value
    }

    /// Whether it is essential, or holds what is; also where the sample has nothing essential there, and another one may.
    fn is_essential(&self, place: &str) -> bool {
        let mut below = self.case.essential.iter().filter(|pattern| !pattern.contains('*'));
        let is_above = |leaf: &str| leaf.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
        self.leaves.iter().any(|leaf| leaf == place || is_above(leaf)) || below.any(|leaf| is_above(leaf))
    }

    /// Whether the file reads something there; what it does not read is kept beside the order.
    fn is_read(&self, place: &str) -> bool {
        let extra = self.body["transformedOrder"]["extra"].as_object();
        let mut kept = extra.into_iter().flat_map(|extra| extra.keys());
        !kept.any(|kept| are_related(kept, place) && !kept.starts_with(&format!("{place}/")))
            && !self.is_left_out(place)
    }

    /// Whether the file says that nobody needs it.
    fn is_left_out(&self, place: &str) -> bool {
        let webhook = &self.provider.file.webhook;
        let parts = webhook.document.as_ref().map_or(&[][..], Document::parts);
        let mut parts = parts.iter().map(ToString::to_string);
        let root = parts
            .find(|part| self.value.pointer(part).is_some())
            .unwrap_or_default();
        webhook.leave_out.iter().any(|source| match source {
            Source::Here(pointer) | Source::Document(pointer) => are_related(&format!("{root}{pointer}"), place),
            Source::Body(pointer) => self.around.is_none() && are_related(&pointer.to_string(), place),
            Source::Header(_) | Source::Path(_) => false,
        })
    }
}

/// The charged amounts and their lines.
fn charged(body: &Value) -> Value {
    fn modifiers(list: &Value) -> Value {
        let one = |one: &Value| json!([one["quantity"], one["price"], modifiers(&one["modifiers"])]);
        list.as_array()
            .map_or(Value::Null, |list| list.iter().map(one).collect())
    }
    let order = &body["transformedOrder"];
    let line = |line: &Value| {
        json!([
            line["quantity"],
            line["unitPrice"],
            line["totalPrice"],
            modifiers(&line["modifiers"])
        ])
    };
    let lines: Vec<_> = order["items"].as_array().unwrap().iter().map(line).collect();
    json!([
        order["externalOrderId"],
        order["pricing"]["currency"],
        order["pricing"]["total"],
        lines
    ])
}

/// Texts for people: all texts that are not kept verbatim.
fn printed(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(elements) => elements.iter().for_each(|value| printed(value, found)),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "extra")
            .for_each(|(_, value)| printed(value, found)),
        Value::Null => found.push("null".into()),
        Value::Bool(_) | Value::Number(_) => {}
    }
}

fn assert_readable(body: &Value, what: &str) {
    let mut texts = Vec::new();
    printed(body, &mut texts);
    for text in texts {
        assert!(
            !["null", "true", "false", "undefined", "NaN"].contains(&text.trim()),
            "{what}: {text:?} in {body:#}"
        );
    }
}

/// Values that stand where they should not; none is the absence of any.
fn wrong_values() -> Vec<Option<Value>> {
    vec![
        None,
        Some(Value::Null),
        Some(json!([])),
        Some(json!({})),
        Some(json!(["x"])),
        Some(json!({ "x": 1 })),
        Some(json!(false)),
        Some(json!(true)),
        Some(json!("N/A")),
        Some(json!("null")),
        Some(json!("0000-00-00 00:00:00")),
        Some(json!("")),
    ]
}

/// Whether a value says, in whichever form, that there is nothing.
fn is_nothing(wrong: &Option<Value>) -> bool {
    [json!(null), json!([]), json!({}), json!(false), json!("")].contains(wrong.as_ref().unwrap_or(&Value::Null))
}

/// Whether a line or a choice has neither name nor code.
fn is_unnamed(fault: &Fault) -> bool {
    fault.message == "missing"
        && ["/name", "/title", "/spuName"]
            .iter()
            .any(|name| fault.pointer.ends_with(name))
}

/// Whether it is the intake's word that there is no order id.
fn is_no_id(fault: &Fault) -> bool {
    fault.message.contains("expected the order id")
}

fn flags_of(body: &Value) -> Vec<String> {
    serde_json::from_value(body["metadata"]["flags"].clone()).unwrap_or_default()
}

fn check(ready: &Ready, place: &str, wrong: &Option<Value>) {
    let original = ready.value.pointer(place).unwrap();
    let became = ready.becomes(&ready.with(place, wrong));
    let what = format!("{} {place} = {wrong:?}", ready.case.provider);
    if let Ok(body) = &became {
        assert_readable(body, &what);
        assert_eq!(body["transformedOrder"]["flags"], body["metadata"]["flags"], "{what}");
    }
    let is_text = wrong.as_ref().is_some_and(Value::is_string);
    if ready.is_essential(place) {
        let is_list_or_object = original.is_array() || original.is_object();
        let has_room = is_list_or_object && is_nothing(wrong)
            || original.is_object() && wrong.as_ref().is_some_and(Value::is_object);
        // Any text is an id.
        let is_id = place.ends_with("id") || place.ends_with("Id") || place.ends_with("token");
        if has_room
            || is_nothing(wrong) && !matches!(wrong, Some(Value::Array(_) | Value::Object(_) | Value::Bool(_)))
            || is_id && is_text
        {
            return;
        }
        // The intake names the pointer relative to the document, and of several the first.
        let is_there = |fault: &Fault| {
            are_related(&fault.pointer, place)
                || place.ends_with(&fault.pointer)
                || (is_id || ready.case.provider == "keeta") && is_no_id(fault)
        };
        match became {
            Ok(body) => assert!(
                ready.case.provider == "keeta" && charged(&body) == charged(&ready.body),
                "{what}: {body:#}"
            ),
            Err(faults) => assert!(faults.iter().any(is_there), "{what}: {faults:?}"),
        }
        return;
    }
    let body = match became {
        Ok(body) => body,
        // Without any name or code the kitchen cannot know what to cook.
        Err(faults) if faults.iter().all(is_unnamed) => return,
        // Choices that are present and unreadable.
        Err(_) if original == &json!([]) => return,
        Err(faults) => panic!("{what}: {faults:?}"),
    };
    if original != &json!([]) {
        assert_eq!(charged(&body), charged(&ready.body), "{what}");
    }
    // A value of another type than expected is reported.
    let is_other_kind = match (original, wrong) {
        (_, None | Some(Value::Null)) => false,
        (Value::Object(_), Some(wrong)) => !wrong.is_object() && wrong != "",
        (Value::Array(_), Some(wrong)) => !wrong.is_array() && wrong != "",
        (Value::Null | Value::Bool(_), Some(wrong)) => wrong.is_array() || wrong.is_object(),
        (Value::String(text), Some(Value::Bool(_))) => text != "true" && text != "false",
        (Value::String(_) | Value::Number(_), Some(wrong)) => wrong.is_array() || wrong.is_object(),
    };
    let is_empty =
        matches!(original, Value::Null) || original == "" || original == &json!([]) || original == &json!({});
    if is_other_kind && ready.is_read(place) && !is_empty {
        assert!(
            flags_of(&body).iter().any(|flag| !flags_of(&ready.body).contains(flag)),
            "{what}: {body:#}"
        );
    }
}

/// Every value of every sample, one after the other, replaced by wrong ones: what is essential by each of them, what the file reads by every
/// third, and what it only keeps beside the order by every eighth. Neighbours get different ones.
#[test]
fn one_wrong_value_loses_no_order() {
    for ready in READY.iter() {
        let places = ready.places.iter().filter(|place| !is_of(ready.case.kind, place));
        for (at, place) in places.enumerate() {
            let every = match (ready.is_essential(place), ready.is_read(place)) {
                (true, _) => 1,
                (false, true) => 3,
                (false, false) => 8,
            };
            for wrong in wrong_values().iter().skip(at % every).step_by(every) {
                check(ready, place, wrong);
            }
        }
    }
}

/// An element that says nothing, in any list, is passed over: a program that filters its list leaves such ones behind.
#[test]
fn an_empty_element_loses_no_order() {
    for ready in READY.iter() {
        let is_list = |place: &&String| {
            let list = ready.value.pointer(place).and_then(Value::as_array);
            list.is_some_and(|list| !list.is_empty()) && !is_of(ready.case.kind, place)
        };
        for place in ready.places.iter().filter(is_list) {
            for nothing in [json!(null), json!({}), json!([]), json!(""), json!(false)] {
                for at_front in [true, false] {
                    let mut value = ready.value.clone();
                    let list = value.pointer_mut(place).unwrap().as_array_mut().unwrap();
                    list.insert(if at_front { 0 } else { list.len() }, nothing.clone());
                    let what = format!("{} {place} with {nothing}", ready.case.provider);
                    let body = ready
                        .becomes(&value)
                        .unwrap_or_else(|faults| panic!("{what}: {faults:?}"));
                    assert_readable(&body, &what);
                    assert_eq!(charged(&body), charged(&ready.body), "{what}");
                }
            }
        }
    }
}

proptest! {
    /// Several at once: nothing panics, nothing is printed that is no text, and while what is essential is untouched the
    /// order goes with its amounts.
    #[test]
    fn many_wrong_values_lose_no_order(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 2..6),
    ) {
        let ready = which.get(&READY);
        let (wrong_values, mut value, mut changed) = (wrong_values(), ready.value.clone(), Vec::new());
        for (place, wrong) in changes {
            let place = place.get(&ready.places);
            let is_list = ready.value.pointer(place) == Some(&json!([]));
            if ready.is_essential(place) || is_of(ready.case.kind, place) || is_list || value.pointer(place).is_none() {
                continue;
            }
            let changing = Ready { case: ready.case, provider: ready.provider.clone(), around: None, value, places: Vec::new(), leaves: Vec::new(), body: Value::Null };
            let wrong = wrong.get(&wrong_values);
            value = changing.with(place, wrong);
            changed.push(format!("{place} = {wrong:?}"));
        }
        let what = format!("{}: {changed:?}", ready.case.provider);
        match ready.becomes(&value) {
            Ok(body) => {
                assert_readable(&body, &what);
                prop_assert_eq!(charged(&body), charged(&ready.body), "{}", what);
            }
            Err(faults) => prop_assert!(faults.iter().all(is_unnamed), "{}: {:?}", what, faults),
        }
    }
}
