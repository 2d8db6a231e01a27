//! `providers page`: a provider's page for people, in Markdown, made of its file. `docs/providers/` holds those of the shipped files.

use std::{fs, path::Path, process::ExitCode};

use serde_json::json;
use toml::{Table, Value};

use super::{check, file_or_name, is_path, print};
use crate::{
    config::{self, Environment},
    provider::{
        Catalogue,
        catalogue::FileOrigin,
        declarative::file::{File, Kind},
    },
};

mod calls;
mod words;

use self::words::{code, json_of, list_of, places, texts};

/// Runs the command.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn run(environment: &Environment, which: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let file = file_or_name(environment, which)?;
    let text = text_of(environment, which, &file)?;
    let page = page(&file, &text)?;
    let name = &file.identity.name;
    print(as_json, &json!({ "name": name, "page": page }), page.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The text of a file that was loaded.
fn text_of(environment: &Environment, which: &Path, file: &File) -> anyhow::Result<String> {
    if is_path(which) {
        return Ok(fs::read_to_string(which)?);
    }
    let catalogue = config::catalogue(environment)?;
    let name = &file.identity.name;
    if let Some(FileOrigin::Folder(path)) = catalogue.get(name).map(|known| known.origin()) {
        return Ok(fs::read_to_string(path)?);
    }
    let mut shipped = Catalogue::shipped_files().iter();
    let found = shipped.find(|(file, _)| file.strip_suffix(".toml") == Some(name));
    Ok(found.map(|(_, text)| (*text).to_owned()).unwrap_or_default())
}

/// The page. The file is well-formed, so its text is read as it is written: what is not there is not said.
///
/// # Errors
/// If the text is no TOML.
fn page(file: &File, text: &str) -> anyhow::Result<String> {
    let raw: Table = text.parse()?;
    let name = &file.identity.name;
    let mut lines = vec![
        format!("# {}", file.identity.display_name),
        String::new(),
        format!(
            "<!-- Made by `webhook-hub providers page {name}` of the provider's file. Change the file, not this page. -->"
        ),
        String::new(),
        file.identity.about.clone(),
    ];
    lines.extend(section("What comes", what_comes(file, &raw)));
    lines.extend(section("What is answered", answers(&raw)));
    lines.extend(section("Windows and limits", limits(file)));
    lines.extend(section("What the hub tells back", calls::told_back(&raw)));
    lines.extend(section("What words mean", words::tables(&raw)));
    lines.extend(section("What it needs", needs(file)));
    lines.extend(section("Before going live", certification(file)));
    lines.extend(section("How sure", how_sure(file)));
    Ok(lines.join("\n") + "\n")
}

fn section(title: &str, content: Vec<String>) -> Vec<String> {
    if content.is_empty() {
        return Vec::new();
    }
    let head = [String::new(), format!("## {title}"), String::new()];
    head.into_iter().chain(content).collect()
}

fn what_comes(file: &File, raw: &Table) -> Vec<String> {
    let name = &file.identity.name;
    let paths = texts(raw.get("webhook").and_then(|webhook| webhook.get("paths")));
    let mut lines = vec![match paths.is_empty() {
        true => format!("POST `/api/webhooks/{name}`."),
        false => {
            let below = paths.iter().map(|path| code(&format!("/api/webhooks/{name}{path}")));
            format!("POST or PUT `/api/webhooks/{name}`, {}.", list_of(below, "and"))
        }
    }];
    lines.push(verification(raw));
    if let Some(document) = raw.get("webhook").and_then(|webhook| webhook.get("document")) {
        lines.push(document_of(document));
    }
    lines.extend([String::new(), "| webhook | is |".into(), "|---|---|".into()]);
    lines.extend(events(raw));
    lines
}

fn verification(raw: &Table) -> String {
    let Some(Value::Table(scheme)) = raw.get("verification") else {
        return String::new();
    };
    let of = |name: &str| scheme.get(name).and_then(Value::as_str);
    match (of("preset"), of("kind")) {
        (Some(preset), _) => format!("Verified by the preset `{preset}`."),
        (None, Some(kind)) => {
            let fields = scheme.iter().filter(|(name, _)| *name != "kind");
            let fields: Vec<_> = fields
                .map(|(name, value)| format!("`{name}` {}", code(&json_of(value))))
                .collect();
            format!("Verified by `{kind}`: {}.", fields.join(", "))
        }
        (None, None) => String::new(),
    }
}

fn document_of(document: &Value) -> String {
    let parts = places(document.get("part"));
    let at = match parts.as_str() {
        "" => String::new(),
        parts => format!(" at {}", parts.replace("``", "its beginning")),
    };
    if let Some(kinds) = document.get("fetched") {
        let kinds = texts(Some(kinds));
        let kinds = kinds.iter().filter_map(|kind| Kind::from_word(kind)).map(meaning);
        return format!(
            "It only points to the order, which is fetched for {}{at}.",
            list_of(kinds.map(str::to_owned), "and")
        );
    }
    match document.get("text").and_then(Value::as_str) {
        Some(text) => format!("The order is JSON in the text {}{at}.", code(text)),
        None => format!("The order is{at}."),
    }
}

/// What a kind of webhook is, in words.
const fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::OrderCreated => "a new order",
        Kind::OrderStatusUpdated => "a change of its status",
        Kind::OrderCancelled => "a cancellation",
        Kind::OrderAmended => "an amendment",
        Kind::CourierUpdated => "news of the courier",
        Kind::Ignored => "recorded and answered, and nothing else",
    }
}

fn events(raw: &Table) -> Vec<String> {
    let Some(Value::Table(events)) = raw.get("events") else {
        return Vec::new();
    };
    let kind = |value: &Value| value.as_str().and_then(Kind::from_word).map_or("", meaning);
    let row = |when: String, becomes: &Value| format!("| {when} | {} |", kind(becomes));
    let mut rows = Vec::new();
    for when in events.get("when").and_then(Value::as_array).into_iter().flatten() {
        let (Some(has), Some(becomes)) = (when.get("has"), when.get("becomes")) else {
            continue;
        };
        let words = texts(when.get("is"));
        rows.push(match words.is_empty() {
            true => row(format!("has {}", places(Some(has))), becomes),
            false => row(
                format!(
                    "{} at {}",
                    list_of(words.iter().map(|word| code(word)), "or"),
                    places(Some(has))
                ),
                becomes,
            ),
        });
    }
    let at = places(events.get("type"));
    for (word, becomes) in events.get("types").and_then(Value::as_table).into_iter().flatten() {
        rows.push(row(format!("{} at {at}", code(word)), becomes));
    }
    if let Some(absent) = events.get("absent") {
        rows.push(row(format!("nothing at {at}"), absent));
    }
    if let Some(other) = events.get("other") {
        rows.push(row("anything else".into(), other));
    }
    if let Some(again) = events.get("announced_again").and_then(Value::as_str) {
        rows.push(format!(
            "| an order once more, with other lines or another total | an amendment: `{again}` |"
        ));
    }
    rows
}

fn answers(raw: &Table) -> Vec<String> {
    let own = "| a webhook that is accepted | 200 | the hub's own |".to_owned();
    let head = ["| to | status | body |", "|---|---|---|"].map(str::to_owned);
    let Some(Value::Table(response)) = raw.get("response") else {
        return head.into_iter().chain([own]).collect();
    };
    let to = [
        ("success", "a webhook that is accepted"),
        ("pending", "a new order, with credentials for the calls back"),
        ("duplicate", "a repeat"),
        ("heartbeat", "a request without content"),
        ("error", "a webhook that is refused"),
    ];
    let row = |(name, to): (&str, &str)| {
        let answer = response.get(name)?;
        let status = match (name, answer.get("status").and_then(Value::as_integer)) {
            ("error", _) => "the hub's".to_owned(),
            (_, status) => status.unwrap_or(200).to_string(),
        };
        let body = match answer.get("body") {
            Some(Value::String(text)) if text.is_empty() => "empty".to_owned(),
            Some(body) => code(&json_of(body)),
            None => String::new(),
        };
        Some(format!("| {to} | {status} | {body} |"))
    };
    let rows = to.into_iter().filter_map(row);
    let rows: Vec<_> = match response.contains_key("success") {
        true => rows.collect(),
        false => [own].into_iter().chain(rows).collect(),
    };
    head.into_iter().chain(rows).collect()
}

fn limits(file: &File) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(page) = &file.page {
        lines.extend(
            page.window
                .iter()
                .map(|window| format!("- To accept an order: {window}")),
        );
        lines.extend(
            page.retries
                .iter()
                .map(|retries| format!("- Webhooks again: {retries}")),
        );
        lines.extend(page.limits.iter().map(|limit| format!("- {limit}")));
    }
    if let Some(spec) = &file.outbound {
        let seconds = |time: std::time::Duration| format!("{} s", time.as_secs());
        if let Some(within) = spec.confirm_within {
            let within = seconds(within);
            lines.push(format!(
                "- The hub says within {within} whether the backend has the order; after that the order expires."
            ));
        }
        if let Some(rate) = spec.requests_per_second {
            lines.push(format!("- The hub sends at most {rate} requests a second."));
        }
    }
    lines
}

fn needs(file: &File) -> Vec<String> {
    let prefix = config::prefix(&file.identity.name);
    let needs = check::variables(file, &prefix);
    let mut lines = vec![format!("- `{prefix}_ENABLED=true`")];
    lines.extend(needs.required.iter().map(|name| format!("- `{name}`")));
    if file.verification.needs_url() {
        lines.push("- `PUBLIC_URL`, because the URL is signed".into());
    }
    if !needs.credentials.is_empty() {
        let names = list_of(needs.credentials.iter().map(|name| code(name)), "and");
        lines.push(format!("- For what the hub tells back: {names}"));
    }
    lines
}

fn certification(file: &File) -> Vec<String> {
    let becomes = |kind| file.events.becomes(kind);
    let mut items = vec![
        "A new order with additions, a discount and notes reaches the backend; every amount is compared with the provider's.".to_owned(),
        "The same webhook twice is one order. A webhook with a changed body or another secret is refused with 401.".into(),
    ];
    let kinds = [
        (
            Kind::OrderCancelled,
            "A cancellation reaches the backend, before and after the order was accepted.",
        ),
        (
            Kind::OrderAmended,
            "An amendment reaches the backend with the lines as they are now.",
        ),
        (Kind::CourierUpdated, "The courier's state reaches the backend."),
    ];
    items.extend(
        kinds
            .iter()
            .filter(|(kind, _)| becomes(*kind))
            .map(|(_, item)| (*item).to_owned()),
    );
    if let Some(spec) = &file.outbound {
        let words = crate::event::push::PushStatus::of_backend().filter(|word| spec.status.contains_key(word));
        let words: Vec<_> = words.map(|word| code(word.as_str())).collect();
        if !words.is_empty() {
            items.push(format!(
                "The provider shows what the backend says: {}.",
                words.join(", ")
            ));
        }
        if spec.confirm_within.is_some() {
            items.push("An order that the backend does not take in time shows as failed at the provider.".into());
        }
    }
    if let Some(page) = &file.page {
        items.extend(page.certification.iter().cloned());
    }
    items.iter().map(|item| format!("- [ ] {item}")).collect()
}

fn how_sure(file: &File) -> Vec<String> {
    let mut lines = vec![format!("The file as a whole: {}.", file.identity.sure.as_str())];
    let Some(page) = &file.page else {
        return lines;
    };
    if !page.facts.is_empty() {
        lines.extend([String::new(), "| fact | sure |".into(), "|---|---|".into()]);
        lines.extend(
            page.facts
                .iter()
                .map(|fact| format!("| {} | {} |", fact.fact, fact.sure)),
        );
    }
    if !page.left_out.is_empty() {
        lines.extend([String::new(), "Left out:".into(), String::new()]);
        lines.extend(page.left_out.iter().map(|one| format!("- {one}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages in the repository are those of the files. `make pages` writes them.
    #[test]
    fn pages_are_those_of_the_files() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/providers");
        let mut known: Vec<String> = Vec::new();
        for (name, text) in Catalogue::shipped_files() {
            let catalogue = Catalogue::shipped();
            let name = name.strip_suffix(".toml").unwrap();
            let made = page(catalogue.get(name).unwrap().file(), text).unwrap();
            let kept = fs::read_to_string(format!("{folder}/{name}.md")).unwrap_or_default();
            assert_eq!(
                kept, made,
                "docs/providers/{name}.md is not that of the file; run make pages"
            );
            known.push(format!("{name}.md"));
        }
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut pages: Vec<_> = files.filter(|name| name.ends_with(".md")).collect();
        pages.sort();
        known.sort();
        assert_eq!(pages, known, "a page without a provider, or a provider without a page");
    }

    #[test]
    fn a_page_says_what_the_file_says() {
        let text = r#"
name = "x"
display_name = "X"
sure = "assumed"
about = "A test."
[verification]
kind = "static"
token = { header = "x-key" }
[webhook]
order_id = "/id"
paths = ["/{what}"]
[events]
when = [{ has = "/gone", becomes = "order_cancelled" }, { has = "path:what", is = ["a", "b"], becomes = "ignored" }]
type = ["/t", "/u"]
absent = "order_created"
other = "ignored"
types = { NEW = "order_created" }
[order]
amounts = "minor"
default_currency = "JOD"
fulfillment = { other = "pickup" }
[order.lines]
each = "/l"
name = "/n"
unit_price = "/p"
[order.pricing]
total = "/s"
[status]
words = { N = "received" }
[response]
success = { status = 202, body = { ok = "{order_id}" } }
error.body = ""
[outbound]
base_url = "https://x.example"
auth = { kind = "header", name = "x-key" }
[[outbound.status]]
words = ["accepted", "ready"]
method = "PUT"
path = "/o/{external_id}"
body = { s = "{status}" }
done = [409]
[page]
window = "7 minutes"
limits = ["5 a minute"]
facts = [{ fact = "It is so", sure = "S" }]
certification = ["Ask them"]
left_out = ["Menus"]
"#;
        let file = crate::provider::declarative::load::load("x.toml", text).unwrap();
        let made = page(&file, text).unwrap();
        for line in [
            "POST or PUT `/api/webhooks/x`, `/api/webhooks/x/{what}`.",
            r#"Verified by `static`: `token` `{"header":"x-key"}`."#,
            "| has `/gone` | a cancellation |",
            "| `a` or `b` at `path:what` | recorded and answered, and nothing else |",
            "| `NEW` at `/t` or `/u` | a new order |",
            "| nothing at `/t` or `/u` | a new order |",
            r#"| a webhook that is accepted | 202 | `{"ok":"{order_id}"}` |"#,
            "| a webhook that is refused | the hub's | empty |",
            "- To accept an order: 7 minutes",
            r#"| `accepted`, `ready` | PUT `/o/{external_id}` | `{"s":"{status}"}` | 409: it is so already |"#,
            "| status | `N` | `received` |",
            "- `X_WEBHOOK_SECRET`",
            "- For what the hub tells back: `X_CLIENT_SECRET`",
            "- [ ] Ask them",
            "| It is so | S |",
            "- Menus",
        ] {
            assert!(made.lines().any(|made| made == line), "{line}\n{made}");
        }
        assert!(page(&file, "=").is_err());
    }
}
