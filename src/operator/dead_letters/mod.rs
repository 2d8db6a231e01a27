//! `dead-letters`: lists, shows and retries what was given up or rejected.
//!
//! [`crate::dead_letters`] says what they are, and reads them from the log. An ignored event is no dead letter, but it can be retried, too:
//! `--duplicates` and `--ignored` list such events, and `retry` takes their ids.

use std::{process::ExitCode, str::FromStr, sync::Arc};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;

use crate::{
    config::{self, Environment},
    dead_letters::{
        filter::Filter,
        find::{LetterKind, Log},
    },
    event::{EventId, stage},
    forward::foresight::Foresight,
    jobs::payload::DEFAULT_RATE,
    journal::connection::{Connection, HUB_INBOX},
    text::parse_duration,
};

pub(in crate::operator) mod causes;
mod job;
mod list;
pub(in crate::operator) mod retry;
mod show;
mod story;

use self::job::JobAction;
use super::acts::ActOptions;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists the open ones, oldest first.
    List {
        /// The filters.
        #[command(flatten)]
        filter: LetterFilter,
        /// Lists events that were ignored because their order existed, instead of dead letters.
        #[arg(long, conflicts_with = "ignored")]
        duplicates: bool,
        /// Lists all ignored events instead of dead letters; --code selects the reason.
        #[arg(long)]
        ignored: bool,
        /// Counts them by stage, code and provider, instead of listing each.
        #[arg(long, value_name = "WHAT")]
        by: Option<GroupedBy>,
        /// Most letters to show; the others are counted.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Shows a dead letter or an ignored event: the error, the event that ended, and the webhook's history.
    Show {
        /// Its id, as `list` shows it.
        id: EventId,
        /// Also prints the payload of the event that ended. It holds customers' personal data, so this is recorded first.
        #[arg(long)]
        payload: bool,
        /// Who acts, and why.
        #[command(flatten)]
        act: ActOptions,
    },
    /// Requests a retry of dead letters: by ids or --all at once, by a filter alone as a job of the hub. Fix the cause first.
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(
        ["ids", "all", "provider", "branch", "since", "until", "stage", "code"]
    ))]
    Retry(Box<Retry>),
    /// Lists jobs; shows, stops and resumes one.
    Jobs {
        /// What to do; lists them by default.
        #[command(subcommand)]
        action: Option<JobAction>,
    },
}

/// How letters are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupedBy {
    /// By stage, code and provider.
    Cause,
}

/// Filters of dead letters.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LetterFilter {
    /// Only this provider.
    #[arg(long, value_parser = config::known_provider)]
    provider: Option<String>,
    /// Only this branch.
    #[arg(long, value_name = "BRANCH_ID")]
    branch: Option<String>,
    /// Only from this time on: a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Only up to this time, given in the same way.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    until: Option<Since>,
    /// Only this stage.
    #[arg(long, value_parser = stage::NAMES)]
    stage: Option<String>,
    /// Only this code, as `list` shows it: BRANCH_NOT_FOUND, BACKEND_422 …
    #[arg(long)]
    code: Option<String>,
}

impl LetterFilter {
    fn filter(&self) -> Filter {
        Filter {
            provider: self.provider.clone(),
            branch: self.branch.clone(),
            stage: self.stage.clone(),
            code: self.code.clone(),
            since: self.since.map(|since| since.0),
            until: self.until.map(|until| until.0),
        }
    }
}

/// Arguments of `retry`.
#[derive(Debug, Clone, clap::Args)]
pub struct Retry {
    /// Ids of dead letters, as `list` shows them.
    #[arg(value_name = "ID", conflicts_with_all = ["all", "provider", "branch", "since", "until", "stage", "code", "menus"])]
    ids: Vec<EventId>,
    /// All open ones that match the filters, without menus, requested at once by this command.
    #[arg(long)]
    all: bool,
    /// With --all or a filter: menus, items and states of branches, too.
    #[arg(long)]
    menus: bool,
    #[command(flatten)]
    filter: LetterFilter,
    /// Letters a second that a job requests.
    #[arg(long, value_name = "LETTERS", value_parser = job::rate, default_value_t = DEFAULT_RATE, conflicts_with_all = ["ids", "all"])]
    rate: u32,
    /// Starts a job without asking; with --all, does not ask at a terminal.
    #[arg(long, conflicts_with = "ids")]
    yes: bool,
    /// Only shows which retries would be requested.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    act: ActOptions,
}

/// A time, given as a time or as a duration before now.
#[derive(Debug, Clone, Copy)]
pub struct Since(pub(in crate::operator) DateTime<Utc>);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text.trim()) {
            return Ok(Self(time.with_timezone(&Utc)));
        }
        parse_duration(text)
            .map(|back| Self(Utc::now() - back))
            .map_err(|expected| format!("{expected}, or a time such as 2026-11-23T18:00:00Z"))
    }
}

/// Runs the command, as the user `hub`: it needs NATS and nothing else.
///
/// # Errors
/// If NATS is away, or an id is not on the log.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub dead-letters", HUB_INBOX).await?;
    connection.reach().await?;
    let work = async {
        let log = Log::open(connection.clone())
            .await
            .context("the stream EVENTS cannot be read; is NATS_USER the user hub, was `streams apply` run?")?;
        match action {
            Action::List {
                filter,
                duplicates,
                ignored,
                by,
                limit,
            } => {
                let kind = match (duplicates, ignored) {
                    (true, _) => LetterKind::Duplicates,
                    (false, true) => LetterKind::Ignored,
                    (false, false) => LetterKind::Dead,
                };
                match by {
                    Some(GroupedBy::Cause) => causes::run(&log, kind, &filter.filter(), as_json).await,
                    None => list::run(&log, kind, &filter.filter(), *limit, as_json).await,
                }
            }
            Action::Show { id, payload, act } => {
                let reveals = payload.then_some((environment, act));
                show::run(&log, *id, reveals, as_json).await
            }
            Action::Retry(options) if options.all || !options.ids.is_empty() => {
                retry::run(&log, environment, options, as_json).await
            }
            Action::Retry(options) => job::start(&log, environment, options, as_json).await,
            Action::Jobs { action } => {
                let action = action.as_ref().unwrap_or(&JobAction::List);
                job::run(&connection, environment, action, as_json).await
            }
        }
    };
    Box::pin(super::with_rights(&connection, &settings, work)).await
}

/// "1 retry", "2 retries".
fn counted(count: usize, one: &str, several: &str) -> String {
    let word = if count == 1 { one } else { several };
    format!("{count} {word}")
}

/// Text from outside for a terminal: control characters, which could move its cursor or change its colours, are replaced.
pub(in crate::operator) fn printable(text: &str) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}

/// A time as text for people, in whole seconds.
pub(in crate::operator) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Foretells how letters would end.
fn foresight(log: &Log, environment: &Environment) -> anyhow::Result<Arc<Foresight>> {
    let (window, again) = (
        config::order_memory(environment)?,
        config::announced_again(environment)?,
    );
    Ok(Arc::new(Foresight::new(log.connection.clone(), window, again)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let given: Since = "2025-10-01T14:00:00+02:00".parse().unwrap();
        assert_eq!(given.0.to_rfc3339(), "2025-10-01T12:00:00+00:00");
        let back: Since = "2h".parse().unwrap();
        let age = Utc::now() - back.0;
        assert!((7200..7260).contains(&age.num_seconds()), "{age}");
        for text in ["", "yesterday", "2", "-2h"] {
            let error = text.parse::<Since>().unwrap_err();
            assert!(error.contains("2h") && error.contains("T18:00:00Z"), "{error}");
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(
            printable("CR\u{1b}[2J1\r\né\u{9b}"),
            "CR\u{fffd}[2J1\u{fffd}\u{fffd}é\u{fffd}"
        );
    }
}
