//! `orders`: which there are and what has not arrived; the whole story of one.

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::Subcommand;

use super::{dead_letters::Since, output};
use crate::{
    config::{self, Environment},
    database::Database,
    operator::queries::orders::{Cursor, Filter, MOST_ON_A_PAGE, State},
    text::parse_duration,
};

mod list;
mod show;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Orders, the newest first; with --undelivered those that have not arrived, the oldest first.
    List(List),
    /// All that became of one, in both directions and in order.
    Show(Show),
}

/// Arguments of `list`.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// Only of this provider.
    #[arg(long, value_parser = config::known_provider)]
    provider: Option<String>,
    /// Only of this branch.
    #[arg(long, value_name = "BRANCH_ID")]
    branch: Option<String>,
    /// Only in one of these states, with commas between them.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Only with this cause: BACKEND_422, DUPLICATE_ORDER …
    #[arg(long, value_name = "CODE")]
    cause: Option<String>,
    /// Only first accepted since then: a duration back from now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Only first accepted until then, in the same words.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    until: Option<Since>,
    /// Only with this id, whichever it is: the provider's, the number that people see, the short number, the backend's.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only what has not arrived.
    #[arg(long)]
    undelivered: bool,
    /// Only what has not arrived for so long.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    older_than: Option<Since>,
    /// Only what has not arrived and is past its deadline, or will be in so long (0s, 10m).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline_within: Option<TimeDelta>,
    /// How many are shown at a time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_ON_A_PAGE)))]
    limit: u16,
    /// The next page: the cursor that the page before ended with.
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,
}

impl List {
    fn filter(&self) -> Filter {
        Filter {
            provider: self.provider.clone(),
            branch: self.branch.clone(),
            states: self.state.clone(),
            // Codes are written in capitals.
            cause: self.cause.as_ref().map(|code| code.to_ascii_uppercase()),
            since: self.since.map(|since| since.0),
            until: self.until.map(|until| until.0),
            any_id: self.id.clone(),
            undelivered: self.undelivered,
            undelivered_since: self.older_than.map(|since| since.0),
            deadline_until: self.deadline_within.map(|within| Utc::now() + within),
        }
    }
}

fn duration(text: &str) -> Result<TimeDelta, String> {
    let duration = parse_duration(text)?;
    TimeDelta::from_std(duration).map_err(|error| error.to_string())
}

/// Arguments of `show`.
#[derive(Debug, Clone, clap::Args)]
pub struct Show {
    /// The provider.
    #[arg(value_parser = config::known_provider)]
    provider: String,
    /// An id of the order, whichever it is.
    id: String,
    /// One of several orders with that id: its `id` in `orders list --json`. Without it, the newest.
    #[arg(long, value_name = "ORDER")]
    order: Option<String>,
    /// Each webhook as it came, personal data masked.
    #[arg(long)]
    raw: bool,
    /// Each body for the backend, personal data masked.
    #[arg(long)]
    body: bool,
    /// What differs between attempts, and from one body to the next.
    #[arg(long)]
    diff: bool,
    /// Reads the log to its end, not only until 48 hours after the last event that `hub.orders` knows.
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> ExitCode {
    let result = match action {
        Action::List(list) => list::run(environment, list, as_json).await,
        Action::Show(what) => show::run(environment, what, as_json).await,
    };
    output::ended(result)
}

/// The database, as any role that may read the hub's tables.
fn database(environment: &Environment) -> anyhow::Result<Database> {
    Database::new(&config::Database::from_environment(environment)?)
}
