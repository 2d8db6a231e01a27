//! `refusals list`: shows the sampled refused requests: from where they came, and why they were refused.
//!
//! It needs only the stream `REFUSALS`, which every instance of the hub writes to.

use std::{collections::VecDeque, fmt, io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;

use super::{
    CLOCK_SKEW,
    dead_letters::{Since, printable, time_text},
    print, with_rights,
};
use crate::{
    config::{self, Environment},
    journal::{
        codec,
        connection::{Connection, HUB_INBOX},
        read::{LogReader, Start},
        streams::REFUSALS,
    },
    serving::audit::{RefusalSample, SUBJECT_ROOT},
};

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists the newest refusals, oldest first. It is a sample: webhooks_rejected_total counts all of them.
    List(List),
}

/// Arguments of `list`.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// Only this provider; _ for requests that name no enabled provider.
    #[arg(long)]
    provider: Option<String>,
    /// Only this code, e.g. INVALID_SIGNATURE.
    #[arg(long)]
    code: Option<String>,
    /// Only from this time on: a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Most refusals to show: the newest ones.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Runs the command, as the user `hub`.
///
/// # Errors
/// If NATS is away, or has no such stream.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    let Action::List(list) = action;
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub refusals", HUB_INBOX).await?;
    connection.reach().await?;
    let looking = async { Ok(connection.context.get_stream(REFUSALS).await?) };
    with_rights(&connection, &settings, looking)
        .await
        .context("the stream REFUSALS cannot be read; is NATS_USER the user hub, was `streams apply` run?")?;
    let (items, more) = with_rights(&connection, &settings, read(&connection, list)).await?;
    let table = Table { items: &items, more };
    print(as_json, &items, &table)?;
    if as_json && more > 0 {
        // On standard error, so that standard output holds one JSON array.
        writeln!(std::io::stderr(), "{}", not_shown(more))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest refusals that match, and how many more match.
async fn read(connection: &Connection, list: &List) -> anyhow::Result<(VecDeque<RefusalSample>, usize)> {
    let token = |wanted: &Option<String>| wanted.as_deref().map_or_else(|| "*".into(), codec::token);
    let filter = format!("{SUBJECT_ROOT}.{}.{}", token(&list.provider), token(&list.code));
    let since = list.since.map(|since| since.0);
    let start = since.map_or(Start::Sequence(1), |since| Start::Time(since - CLOCK_SKEW));
    let mut reader = LogReader::of_subjects(connection, filter, start).of_stream(REFUSALS);
    let (mut newest, mut more) = (VecDeque::new(), 0);
    loop {
        let messages = reader.next_raw().await?;
        if messages.is_empty() {
            return Ok((newest, more));
        }
        // A message that no version of the hub wrote is skipped.
        let refusals = messages
            .iter()
            .filter_map(|one| serde_json::from_slice::<RefusalSample>(&one.payload).ok());
        for refusal in refusals.filter(|one| since.is_none_or(|since| one.time >= since)) {
            newest.push_back(refusal);
            if newest.len() > list.limit {
                newest.pop_front();
                more += 1;
            }
        }
    }
}

fn not_shown(more: usize) -> String {
    format!("{more} older ones are not shown: --limit shows more, --provider, --code and --since narrow it down")
}

/// The list for people.
struct Table<'a> {
    items: &'a VecDeque<RefusalSample>,
    more: usize,
}

const HEAD: [&str; 7] = ["TIME", "PROVIDER", "STATUS", "CODE", "ADDRESS", "REQUEST", "USER AGENT"];

fn cells(refusal: &RefusalSample) -> [String; 7] {
    [
        time_text(refusal.time),
        printable(&refusal.provider),
        refusal.status.to_string(),
        printable(&refusal.code),
        printable(&refusal.client_address),
        printable(&format!("{} {}", refusal.method, refusal.path)),
        printable(refusal.user_agent.as_deref().unwrap_or("-")),
    ]
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<_> = self.items.iter().map(cells).collect();
        if rows.is_empty() {
            return write!(f, "no refusals");
        }
        rows.insert(0, HEAD.map(str::to_owned));
        let mut widths = [0; HEAD.len()];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let [filled @ .., last] = row;
            for (cell, width) in filled.iter().zip(widths) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{last}")?;
        }
        if self.more > 0 {
            return write!(f, "{}", not_shown(self.more));
        }
        let count = rows.len() - 1;
        write!(f, "{count} {}", if count == 1 { "refusal" } else { "refusals" })
    }
}
