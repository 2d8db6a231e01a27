//! `providers try`: shows what a sample becomes by a provider's file.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::anyhow;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::Utc;
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Try, file_or_name, print};
use crate::{
    config::{self, Environment},
    json::{
        fault::Fault,
        tree::{Tree, ValueId, ValueKind},
    },
    operator::read,
    provider::declarative::{
        Declarative,
        menu_word::MenuWord,
        sample::{Outcome, Sample, Tried},
    },
};

/// Runs the command.
pub(super) fn run(environment: &Environment, what: &Try, as_json: bool) -> anyhow::Result<ExitCode> {
    let file = file_or_name(environment, &what.provider)?;
    let currency = match what.currency {
        Some(currency) => Some(currency),
        None => config::currency_of(environment, &file.identity.name)?,
    };
    let head = &file.order.head;
    if currency.is_none() && head.currency.is_none() && head.default_currency.is_none() {
        anyhow::bail!(
            "{} sends no currency; give it, for example --currency JOD",
            file.identity.display_name
        );
    }
    let provider = Declarative::new(file, currency);
    let body = read(&what.sample)?;
    let document = what.document.as_deref().map(read).transpose()?;
    let headers = headers(&what.headers)?;
    let sample = Sample {
        body: &body,
        headers: &headers,
        path: &what.path,
        document: document.as_deref(),
        now: Utc::now(),
    };
    match provider.try_sample(&sample) {
        Ok(tried) => show(&tried, as_json),
        Err(reason) => {
            print(
                as_json,
                &json!({ "refused": reason }),
                format_args!("refused with 400: {reason}"),
            )?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let wrong = || anyhow!("--header {line:?}: expected name: value");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    Ok(headers)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    webhook_type: &'a str,
    order_id: &'a str,
    event_id: Option<&'a str>,
    store: Option<&'a str>,
    test: bool,
    becomes: &'static str,
    /// Why it is ignored.
    why: Option<&'a str>,
    faults: &'a [Fault],
    answer: Option<SampleAnswer<'a>>,
    /// The provider's result for a menu.
    menu: Option<Menu<'a>>,
    /// Texts of the body that were cleaned or cut, by their pointer in it.
    cleaned: &'a [String],
    /// The body that would be posted, byte for byte.
    body: Option<&'a RawValue>,
}

/// A provider's result for a menu.
#[derive(Serialize)]
struct Menu<'a> {
    /// `synced`, `refused`, `pending`.
    becomes: &'static str,
    #[serde(rename = "ref")]
    reference: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Menu<'a> {
    fn of(word: &'a MenuWord) -> Self {
        let result = word.result.as_ref();
        Self {
            becomes: match result {
                Some(result) if result.ok => "synced",
                Some(_) => "refused",
                None => "pending",
            },
            reference: result.and_then(|result| result.reference.as_deref()),
            message: result.and_then(|result| result.message.as_deref()),
        }
    }

    fn text(&self) -> &'static str {
        match self.becomes {
            "synced" => "a menu's result: the provider has the menu",
            "refused" => "a menu's result: the provider refused the menu",
            _ => "a menu's result: the provider is still working on it, the menu continues to wait",
        }
    }
}

#[derive(Serialize)]
struct SampleAnswer<'a> {
    status: u16,
    body: &'a str,
}

fn show(tried: &Tried, as_json: bool) -> anyhow::Result<ExitCode> {
    let becomes = match &tried.outcome {
        Outcome::Posted(_) => "forwarded",
        Outcome::Menu(_) => "menu_result",
        Outcome::Ignored(_) => "ignored",
        Outcome::Fetched => "fetched",
        Outcome::Heartbeat => "answered",
        Outcome::Faults(_) => "rejected",
    };
    let (mut body, mut cleaned, mut faults): (Option<&RawValue>, &[String], &[Fault]) = (None, &[], &[]);
    match &tried.outcome {
        Outcome::Posted(posted) => {
            (body, cleaned) = (Some(serde_json::from_slice(&posted.body)?), &posted.changed);
        }
        Outcome::Faults(found) => faults = found,
        Outcome::Menu(_) | Outcome::Ignored(_) | Outcome::Fetched | Outcome::Heartbeat => {}
    }
    let answer = tried.answer.as_ref().map(|told| SampleAnswer {
        status: told.status.unwrap_or(200),
        body: &told.body,
    });
    let shown = Shown {
        webhook_type: tried.kind,
        order_id: &tried.order_id,
        event_id: tried.event_id.as_deref(),
        store: tried.store.as_deref(),
        test: tried.is_test,
        becomes,
        why: match &tried.outcome {
            Outcome::Ignored(why) => Some(why),
            _ => None,
        },
        faults,
        answer,
        menu: match &tried.outcome {
            Outcome::Menu(word) => Some(Menu::of(word)),
            _ => None,
        },
        cleaned,
        body,
    };
    print(as_json, &shown, text(&shown))?;
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(shown: &Shown<'_>) -> String {
    let mut rows = vec![
        ("webhook".to_owned(), shown.webhook_type.to_owned()),
        ("order".to_owned(), shown.order_id.to_owned()),
    ];
    let mut optional = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            rows.push((name.to_owned(), value.to_owned()));
        }
    };
    optional("event", shown.event_id);
    optional("store", shown.store);
    optional(
        "test order",
        shown.test.then_some("yes: ignored unless _FORWARD_TEST_ORDERS is true"),
    );
    let becomes = match (shown.becomes, shown.why) {
        _ if shown.menu.is_some() => shown.menu.as_ref().map_or("", Menu::text).to_owned(),
        ("fetched", _) => "an order that is fetched first; show one with --document FILE".to_owned(),
        (_, Some(why)) => format!("nothing, it is ignored: {why}"),
        (other, None) => other.to_owned(),
    };
    optional("becomes", Some(&becomes));
    if let Some(menu) = &shown.menu {
        optional("menu", menu.reference);
        optional("message", menu.message);
    }
    let answer = shown
        .answer
        .as_ref()
        .map(|answer| format!("{} {}", answer.status, answer.body));
    optional("answer", answer.as_deref());
    for pointer in shown.cleaned {
        rows.push(("cleaned".to_owned(), pointer.clone()));
    }
    for fault in shown.faults {
        rows.push((format!("fault at {}", fault.pointer), fault.message.clone()));
    }
    if let Some(tree) = shown.body.and_then(|body| Tree::parse(body.get().as_bytes()).ok()) {
        leaves(&tree, tree.root(), &mut rows);
    }
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (at, (name, value)) in rows.iter().enumerate() {
        let line_end = if at == 0 { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{line_end}{name:width$}  {}", visible(value));
    }
    text
}

/// Text of a sample for a terminal: line ends and tabs are shown as JSON escapes, other control characters as U+FFFD.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// Every scalar value of a body, by its pointer.
fn leaves(tree: &Tree<'_>, place: ValueId, rows: &mut Vec<(String, String)>) {
    let pointer = tree.pointer(place);
    let is_verbatim = ["/transformedOrder/extra/", "/statusChange/extra/", "/amendment/extra/"]
        .iter()
        .any(|extra| pointer.starts_with(extra));
    if matches!(tree.kind(place), ValueKind::Object | ValueKind::Array) && !is_verbatim {
        for child in tree.children(place) {
            leaves(tree, child, rows);
        }
    } else {
        let text = tree.text(place).unwrap_or_else(|| tree.raw(place).into());
        rows.push((pointer, text.into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(visible("a\nb\r\tc \u{1b}[2J ليلى"), "a\\nb\\r\\tc \u{fffd}[2J ليلى");
    }
}
