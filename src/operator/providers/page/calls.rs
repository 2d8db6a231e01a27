//! What the hub tells a provider: the calls of `[outbound]`, `[fetch]` and `[reconcile]`.

use toml::{Table, Value};

use super::words::{code, json_of, list_of, texts};

/// All calls, one row each.
pub(super) fn told_back(raw: &Table) -> Vec<String> {
    let Some(Value::Table(outbound)) = raw.get("outbound") else {
        return vec!["Nothing; no call of this provider is known.".into()];
    };
    let base = outbound.get("base_url").and_then(Value::as_str).unwrap_or_default();
    let mut lines = vec![format!("Calls go to {}, {}.", code(base), auth(outbound.get("auth")))];
    let calls: Vec<_> = outbound.iter().flat_map(|(name, value)| rows(name, value)).collect();
    if !calls.is_empty() {
        lines.extend([
            String::new(),
            "| what | call | body | answers |".into(),
            "|---|---|---|---|".into(),
        ]);
        lines.extend(calls);
    }
    let reasons = reasons(outbound);
    if !reasons.is_empty() {
        lines.extend([
            String::new(),
            "| reason of the backend | for | word |".into(),
            "|---|---|---|".into(),
        ]);
        lines.extend(reasons);
    }
    if let Some(fetch) = raw.get("fetch") {
        let place = match (
            fetch.get("path").and_then(Value::as_str),
            fetch.get("href").and_then(Value::as_str),
        ) {
            (Some(path), _) => format!("GET {}", code(path)),
            (None, Some(href)) => format!(
                "GET the URL at {} of the webhook, with a path like {}",
                code(href),
                list_of(texts(fetch.get("paths")).iter().map(|path| code(path)), "or")
            ),
            (None, None) => return lines,
        };
        lines.extend([String::new(), format!("The order is fetched: {place}.")]);
    }
    lines.extend(lists(raw));
    lines
}

/// Where orders are looked for that have no webhook.
fn lists(raw: &Table) -> Option<String> {
    let lists = raw.get("reconcile")?.get("list")?.as_array()?.iter();
    let paths = lists.filter_map(|list| list.get("path")?.as_str());
    let paths = list_of(paths.map(|path| format!("GET {}", code(path))), "and");
    Some(format!(
        "\nOrders with webhooks that never came are looked for: {paths}."
    ))
}

fn auth(auth: Option<&Value>) -> String {
    let of = |name: &str| auth.and_then(|auth| auth.get(name)).and_then(Value::as_str);
    match of("kind") {
        Some("header") => format!("with the secret in {}", code(of("name").unwrap_or_default())),
        Some("oauth2") => format!(
            "with a token of OAuth 2 from {}{}",
            code(of("token_url").unwrap_or_default()),
            in_header(of("header"))
        ),
        Some("login") => format!(
            "with the token of a login at {}{}",
            code(of("path").unwrap_or_default()),
            in_header(of("header"))
        ),
        Some("jwt") => "with a JSON Web Token that the hub signs".into(),
        Some("signed_body") => format!(
            "with a token at {} of the body and its signature at {}",
            code(of("token").unwrap_or_default()),
            code(of("signature").unwrap_or_default())
        ),
        _ => "without authentication".into(),
    }
}

/// Where a token goes, if that is another header than the usual one.
fn in_header(name: Option<&str>) -> String {
    name.map(|name| format!(" in {}", code(name))).unwrap_or_default()
}

/// The rows of a table of `[outbound]`: it is a call, or several, or none.
fn rows(name: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Array(calls) => calls.iter().filter_map(|call| row(name, call)).collect(),
        call => row(name, call).into_iter().collect(),
    }
}

fn row(name: &str, call: &Value) -> Option<String> {
    let method = call.get("method")?.as_str()?;
    let path = call.get("path")?.as_str()?;
    let words = texts(call.get("words"));
    let what = match words.is_empty() {
        true => {
            let of = ["states", "kinds"].iter().flat_map(|key| texts(call.get(key)));
            let of = of.map(|word| format!(" {}", code(&word))).collect::<String>();
            name.replace('_', " ") + &of
        }
        false => words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", "),
    };
    let only = texts(call.get("only_for"));
    let what = match only.is_empty() {
        true => what,
        false => format!("{what}, only {}", list_of(only.iter().map(|word| code(word)), "and")),
    };
    let body = match call.get("body") {
        // A template that is as long as a menu says no more than its place in the file.
        Some(Value::String(text)) if text.lines().count() > 3 => "see the file".to_owned(),
        Some(Value::String(text)) => code(text.trim()),
        Some(body) => code(&json_of(body)),
        None => String::new(),
    };
    let mut answers = Vec::new();
    let statuses = |value: &Value| list_of(value.as_array().into_iter().flatten().map(json_of), "and");
    if let Some(done) = call.get("done") {
        answers.push(format!("{}: it is so already", statuses(done)));
    }
    if let Some(ended) = call.get("ended") {
        answers.push(format!("{}: too late", statuses(ended)));
    }
    if let Some(again) = call.get("again") {
        let status = again.get("status").map(statuses).unwrap_or_default();
        let of = |name: &str| again.get(name).and_then(Value::as_str).unwrap_or_default();
        answers.push(format!(
            "{status}: too early, again every {} for {}",
            of("every"),
            of("within")
        ));
    }
    Some(format!(
        "| {what} | {method} {} | {body} | {} |",
        code(path),
        answers.join("; ")
    ))
}

fn reasons(outbound: &Table) -> Vec<String> {
    let row = |of: &str, (reason, word): (&String, &Value)| {
        format!(
            "| {} | {of} | {} |",
            code(reason),
            code(word.as_str().unwrap_or_default())
        )
    };
    let of_all = outbound.get("reasons").and_then(Value::as_table).into_iter().flatten();
    let mut rows: Vec<_> = of_all.map(|one| row("all calls", one)).collect();
    for call in outbound.get("status").and_then(Value::as_array).into_iter().flatten() {
        let words = list_of(texts(call.get("words")).iter().map(|word| code(word)), "and");
        let own = call.get("reasons").and_then(Value::as_table).into_iter().flatten();
        rows.extend(own.map(|one| row(&words, one)));
    }
    rows
}
