//! `events`: shows events of the log, past ones and new ones as they come.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::{
    acts::{self, ActOptions},
    dead_letters::{Since, printable},
    output::{self, Verdict, line, show},
    queries::{
        events::{self, CloudEvent, Events, Selection},
        mask::Masking,
        steps::Step,
    },
    step_text, with_rights,
};
use crate::{
    config::{self, Environment},
    event::{EventType, Recorded},
    journal::connection::{Connection, HUB_INBOX},
};

/// Interval between two reads of the log with `--follow`.
const LOOK: Duration = Duration::from_millis(500);
/// How many of the last events are shown without `--since` or `--from`.
const LAST: usize = 20;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Shows the last events, or those from --since or --from on, one a line; with --json as CloudEvents.
    Tail(Box<Tail>),
    /// Shows one event in full; personal data is masked.
    Show {
        /// Its sequence on the log, as `tail` shows it.
        sequence: u64,
        /// Shows personal data, too. This needs --reason, and is recorded first.
        #[arg(long, requires = "reason")]
        reveal: bool,
        /// Who acts, and why.
        #[command(flatten)]
        act: ActOptions,
    },
}

/// Arguments of `tail`.
#[derive(Debug, Clone, clap::Args)]
pub struct Tail {
    /// Only these types, separated by commas: order.forwarded,order.dead_lettered …
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPE", value_parser = event_type)]
    types: Vec<EventType>,
    /// Only this provider.
    #[arg(long, value_parser = config::known_provider)]
    provider: Option<String>,
    /// Only this branch.
    #[arg(long, value_name = "BRANCH_ID")]
    branch: Option<String>,
    /// Only the order with this id of its provider.
    #[arg(long, value_name = "ID")]
    order: Option<String>,
    /// Only from this time on: a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Only up to this time, given in the same way.
    #[arg(long, value_name = "DURATION_OR_TIME", conflicts_with = "follow")]
    until: Option<Since>,
    /// Only from this sequence on.
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<u64>,
    /// Only up to this sequence.
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "follow")]
    to: Option<u64>,
    /// Most events to show: the first ones from --since or --from on, else the last ones (20, of the newest 10,000 events).
    #[arg(long)]
    limit: Option<usize>,
    /// Continues with new events until it is stopped.
    #[arg(long, conflicts_with = "limit")]
    follow: bool,
}

fn event_type(text: &str) -> Result<EventType, String> {
    text.parse().map_err(|_| {
        let names: Vec<_> = EventType::ALL.into_iter().map(EventType::as_str).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl Tail {
    fn selection(&self) -> Selection {
        Selection {
            types: self.types.clone(),
            provider: self.provider.clone(),
            branch: self.branch.clone(),
            order: self.order.clone(),
            since: self.since.map(|since| since.0),
            until: self.until.map(|until| until.0),
            from: self.from,
            to: self.to,
        }
    }
}

/// Runs the command, as the user `hub`: it needs NATS and nothing else.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> ExitCode {
    output::ended(answer(environment, action, as_json).await)
}

async fn answer(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<Verdict> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub events", HUB_INBOX).await?;
    connection.reach().await?;
    let work = async {
        match action {
            Action::Tail(tail) => follow(&connection, tail, as_json).await,
            Action::Show { sequence, reveal, act } => {
                let event = events::at(&connection, *sequence).await?;
                let masking = if *reveal {
                    acts::reveal(&connection, environment, act, json!({ "event": sequence })).await?;
                    Masking::Off
                } else {
                    Masking::On
                };
                let whole = CloudEvent::of(&event, masking);
                show(as_json, &whole, printable_lines(&serde_json::to_string_pretty(&whole)?))
            }
        }
    };
    with_rights(&connection, &settings, work)
        .await
        .context("cannot use the stream EVENTS; NATS_USER must be the user hub")?;
    Ok(Verdict::Fine)
}

async fn follow(connection: &Connection, tail: &Tail, as_json: bool) -> anyhow::Result<()> {
    let selection = tail.selection();
    let has_beginning = selection.has_beginning();
    let mut events = Events::open(connection, selection).await?;
    if !has_beginning {
        for event in events.last(tail.limit.unwrap_or(LAST)).await? {
            if !tell(&event, as_json)? {
                return Ok(());
            }
        }
        if !tail.follow {
            return Ok(());
        }
    }
    let mut left = tail.limit.unwrap_or(usize::MAX);
    while left > 0 {
        match events.next().await {
            Ok(Some(page)) => {
                for event in page.iter().take(left) {
                    if !tell(event, as_json)? {
                        return Ok(());
                    }
                }
                left = left.saturating_sub(page.len());
            }
            Ok(None) if !tail.follow || events.has_ended() => return Ok(()),
            Ok(None) => tokio::time::sleep(LOOK).await,
            // The server was restarted: reading continues where it stopped.
            Err(_) if tail.follow && !connection.is_up() => connection.wait_up().await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Prints an event; returns whether the output still has a reader.
fn tell(event: &Recorded, as_json: bool) -> anyhow::Result<bool> {
    if as_json {
        return line(serde_json::to_string(&CloudEvent::of(event, Masking::On))?);
    }
    let step = Step::of(event);
    let (head, text) = step_text::words(&step);
    line(format!(
        "{:>8}  {}  {:<24}  {} {}  {head}: {text}",
        step.sequence,
        step.time.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
        step.event_type,
        printable(&step.provider),
        printable(&step.external_order_id),
    ))
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
