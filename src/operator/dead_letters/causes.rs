//! The open dead letters, grouped by cause.

use std::{fmt, process::ExitCode};

use super::{counted, time_text};
use crate::{
    dead_letters::{
        causes::{Cause, Causes},
        filter::Filter,
        find::{LetterKind, Log},
        letter::ListedMessage,
    },
    journal::connection::Connection,
    operator::{output::Table, print},
};

/// The causes of all open dead letters on the log, those with most letters first.
///
/// # Errors
/// If NATS does not answer.
pub(in crate::operator) async fn open_by_cause(connection: &Connection) -> anyhow::Result<Vec<Cause>> {
    let log = Log::open(connection.clone()).await?;
    Ok(of_open(&log, LetterKind::Dead, &Filter::default()).await?.0)
}

/// The causes of the open letters that match, and how many messages on their subjects are no events.
async fn of_open(log: &Log, kind: LetterKind, filter: &Filter) -> anyhow::Result<(Vec<Cause>, usize)> {
    let retried = log.retried(filter).await?;
    let (mut causes, mut garbage) = (Causes::default(), 0);
    let mut pages = log.letters(kind, filter);
    while let Some(page) = pages.next().await? {
        for found in page {
            match found {
                ListedMessage::Letter(letter) if retried.contains(letter.id()) => {}
                ListedMessage::Letter(letter) => causes.add(&letter),
                ListedMessage::Garbage(_) => garbage += 1,
            }
        }
    }
    Ok((causes.sorted(), garbage))
}

/// Shows the open letters by cause.
pub(super) async fn run(log: &Log, kind: LetterKind, filter: &Filter, as_json: bool) -> anyhow::Result<ExitCode> {
    let (causes, garbage) = of_open(log, kind, filter).await?;
    let text = CausesText {
        causes: &causes,
        garbage,
    };
    print(as_json, &causes, text)?;
    Ok(ExitCode::SUCCESS)
}

/// The list for people.
pub(super) struct CausesText<'a> {
    pub(super) causes: &'a [Cause],
    pub(super) garbage: usize,
}

impl fmt::Display for CausesText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["STAGE", "CODE", "PROVIDER", "COUNT", "OLDEST", "NEWEST"]);
        for cause in self.causes {
            table.push([
                cause.stage.clone(),
                cause.code.clone(),
                cause.provider.clone(),
                cause.count.to_string(),
                time_text(cause.oldest_at),
                time_text(cause.newest_at),
            ]);
        }
        write!(f, "{table}")?;
        if self.garbage > 0 {
            let messages = counted(self.garbage, "message", "messages");
            writeln!(f, "{messages} on the subjects of letters are no events")?;
        }
        let all: u64 = self.causes.iter().map(|cause| cause.count).sum();
        write!(
            f,
            "{} of {}",
            counted(usize::try_from(all).unwrap_or(usize::MAX), "letter", "letters"),
            counted(self.causes.len(), "cause", "causes")
        )
    }
}
