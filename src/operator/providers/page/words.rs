//! The values of a provider's file, in Markdown.

use toml::{Table, Value};

/// A text as code; a bar would end the cell of a table.
pub(super) fn code(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('\n', " ");
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

/// JSON of a value.
pub(super) fn json_of(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The texts of a value: one, or a list.
pub(super) fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Places as code, with "or" between them.
pub(super) fn places(value: Option<&Value>) -> String {
    list_of(texts(value).iter().map(|text| code(text)), "or")
}

/// `a, b and c`.
pub(super) fn list_of(parts: impl IntoIterator<Item = String>, last: &str) -> String {
    let parts: Vec<_> = parts.into_iter().collect();
    match parts.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., one] => format!("{} {last} {one}", first.join(", ")),
    }
}

/// The words of the provider, and ours.
pub(super) fn tables(raw: &Table) -> Vec<String> {
    let at = |names: &[&str]| {
        let (first, rest) = names.split_first()?;
        rest.iter()
            .try_fold(raw.get(*first)?, |value, name| value.get(*name))?
            .as_table()
    };
    let words = [
        ("fulfillment", at(&["order", "fulfillment", "words"])),
        ("status", at(&["status", "words"])),
        ("courier", at(&["courier", "words"])),
        ("amendment", at(&["amendment", "kind", "words"])),
    ];
    let row = |name: &str, (word, ours): (&String, &Value)| {
        format!(
            "| {name} | {} | {} |",
            code(word),
            code(ours.as_str().unwrap_or_default())
        )
    };
    let rows: Vec<_> = words
        .into_iter()
        .filter_map(|(name, words)| Some((name, words?)))
        .flat_map(|(name, words)| words.iter().map(move |one| row(name, one)))
        .collect();
    if rows.is_empty() {
        return rows;
    }
    let head = ["| of | word | is |", "|---|---|---|"].map(str::to_owned);
    head.into_iter().chain(rows).collect()
}
