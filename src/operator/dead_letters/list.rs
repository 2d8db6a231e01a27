//! `dead-letters list`: shows the open dead letters, or ignored events.

use std::{fmt, io::Write, process::ExitCode};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{counted, printable, time_text};
use crate::{
    dead_letters::{
        filter::Filter,
        find::{LetterKind, Log},
        letter::{Garbage, Letter, ListedMessage},
    },
    event::EventId,
    operator::print,
};

/// A dead letter in a list, without personal data.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    time: DateTime<Utc>,
    id: EventId,
    provider: String,
    order_id: String,
    webhook_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Why the other fields are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

impl Row {
    fn new(letter: Letter) -> Self {
        let envelope = letter.event.envelope;
        let (facts, unreadable) = match letter.facts {
            Ok(facts) => (Some(facts), None),
            Err(reason) => (None, Some(reason)),
        };
        let facts = facts.map(|facts| (facts.stage, facts.attempts, facts.error.code, facts.error.message));
        let (stage, attempts, code, message) = match facts {
            Some((stage, attempts, code, message)) => (stage, Some(attempts), Some(code), Some(message)),
            None => (None, None, None, None),
        };
        Self {
            time: envelope.time,
            id: envelope.id,
            provider: envelope.provider.to_string(),
            order_id: envelope.external_order_id,
            webhook_type: envelope.webhook_type,
            stage,
            attempts,
            code,
            message,
            unreadable,
        }
    }

    fn cells(&self) -> [String; 8] {
        let or_unknown = |text: Option<&str>| printable(text.unwrap_or("?"));
        [
            time_text(self.time),
            self.id.to_string(),
            printable(&self.provider),
            printable(&self.order_id),
            or_unknown(self.stage.as_deref()),
            self.attempts
                .map_or_else(|| "?".into(), |attempts| attempts.to_string()),
            or_unknown(self.code.as_deref()),
            or_unknown(self.message.as_deref().or(self.unreadable.as_deref())),
        ]
    }
}

/// The list as JSON: one array, in the log's order.
#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Row(Box<Row>),
    Garbage(Garbage),
}

/// Shows the open dead letters.
pub(super) async fn run(
    log: &Log,
    kind: LetterKind,
    filter: &Filter,
    limit: usize,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let retried = log.retried(filter).await?;
    let mut pages = log.letters(kind, filter);
    let (mut items, mut more) = (Vec::new(), 0usize);
    while let Some(page) = pages.next().await? {
        for found in page {
            let item = match found {
                ListedMessage::Letter(letter) if retried.contains(letter.id()) => continue,
                ListedMessage::Letter(letter) => Item::Row(Box::new(Row::new(*letter))),
                ListedMessage::Garbage(garbage) => Item::Garbage(garbage),
            };
            if items.len() < limit {
                items.push(item);
            } else {
                more += 1;
            }
        }
    }
    let table = Table {
        items: &items,
        more,
        kind,
    };
    print(as_json, &items, table)?;
    if as_json && more > 0 {
        // On standard error, so that standard output holds one JSON array.
        writeln!(std::io::stderr(), "{}", not_shown(more))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn not_shown(more: usize) -> String {
    format!(
        "{more} more are not shown: --limit shows more, --provider, --branch, --stage, --code, --since and --until narrow it down"
    )
}

/// The list as text.
struct Table<'a> {
    items: &'a [Item],
    more: usize,
    kind: LetterKind,
}

const HEAD: [&str; 8] = [
    "TIME", "ID", "PROVIDER", "ORDER", "STAGE", "ATTEMPTS", "CODE", "MESSAGE",
];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.items.iter().filter_map(Item::row).map(Row::cells).collect();
        let mut widths = HEAD.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !rows.is_empty() {
            line(f, &HEAD.map(str::to_owned), widths)?;
        }
        for row in &rows {
            line(f, row, widths)?;
        }
        for garbage in self.items.iter().filter_map(Item::garbage) {
            writeln!(f, "{}", printable(&garbage.unreadable))?;
        }
        if self.more > 0 {
            write!(f, "{}", not_shown(self.more))
        } else {
            let (one, several) = match self.kind {
                LetterKind::Dead => ("open dead letter", "open dead letters"),
                LetterKind::Duplicates => ("duplicate", "duplicates"),
                LetterKind::Ignored => ("ignored event", "ignored events"),
            };
            if rows.is_empty() {
                write!(f, "no {several}")
            } else {
                write!(f, "{}", counted(rows.len(), one, several))
            }
        }
    }
}

impl Item {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Row(row) => Some(row),
            Self::Garbage(_) => None,
        }
    }

    fn garbage(&self) -> Option<&Garbage> {
        match self {
            Self::Row(_) => None,
            Self::Garbage(garbage) => Some(garbage),
        }
    }
}

/// Writes one row. The last cell is not padded.
fn line(f: &mut fmt::Formatter<'_>, cells: &[String; 8], widths: [usize; 8]) -> fmt::Result {
    let [filled @ .., last] = cells;
    for (cell, width) in filled.iter().zip(widths) {
        write!(f, "{cell:width$}  ")?;
    }
    writeln!(f, "{last}")
}
