//! `orders`: lists orders and those that have not arrived; shows the whole story of one.

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::Subcommand;

use super::{acts::ActOptions, dead_letters::Since, output};
use crate::{
    config::{self, Environment},
    database::Database,
    operator::queries::orders::{MOST_ON_A_PAGE, OrderFilter, OrderState, PageCursor},
    text::parse_duration,
};

mod list;
mod show;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists orders, the newest first; with --undelivered those that have not arrived, the oldest first.
    List(List),
    /// Shows the whole story of one order, in both directions.
    Show(Show),
}

/// Arguments of `list`.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// Only this provider.
    #[arg(long, value_parser = config::known_provider)]
    provider: Option<String>,
    /// Only this branch.
    #[arg(long, value_name = "BRANCH_ID")]
    branch: Option<String>,
    /// Only these states, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    state: Vec<OrderState>,
    /// Only this cause: BACKEND_422, DUPLICATE_ORDER …
    #[arg(long, value_name = "CODE")]
    cause: Option<String>,
    /// Only orders first accepted from this time on: a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Only orders first accepted up to this time, given in the same way.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    until: Option<Since>,
    /// Only with this id: the provider's, the number that people see, the short number, or the backend's.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only orders that have not arrived.
    #[arg(long)]
    undelivered: bool,
    /// Only orders that have not arrived for this long.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    older_than: Option<Since>,
    /// Only orders that have not arrived and are past their deadline (0s), or will be after this time (10m).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline_within: Option<TimeDelta>,
    /// Size of a page.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_ON_A_PAGE)))]
    limit: u16,
    /// Shows the next page: the cursor at the end of the previous page.
    #[arg(long, value_name = "CURSOR")]
    after: Option<PageCursor>,
}

impl List {
    fn filter(&self) -> OrderFilter {
        OrderFilter {
            provider: self.provider.clone(),
            branch: self.branch.clone(),
            states: self.state.clone(),
            // Codes are upper case.
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
#[command(group = clap::ArgGroup::new("documents").multiple(true).args(["raw", "body", "diff"]))]
pub struct Show {
    /// The provider.
    #[arg(value_parser = config::known_provider)]
    provider: String,
    /// An id of the order: the provider's, the number that people see, the short number, or the backend's.
    id: String,
    /// Selects one of several orders with that id, by its `id` in `orders list --json`; by default the newest.
    #[arg(long, value_name = "ORDER")]
    order: Option<String>,
    /// Shows each webhook as received, with personal data masked.
    #[arg(long)]
    raw: bool,
    /// Shows each body for the backend, with personal data masked.
    #[arg(long)]
    body: bool,
    /// Shows what differs between attempts, and from one body to the next.
    #[arg(long)]
    diff: bool,
    /// Shows personal data in --raw, --body and --diff, too. This needs --reason, and is recorded first.
    #[arg(long, requires_all = ["documents", "reason"])]
    reveal: bool,
    /// Reads the log to its end, instead of to 48 hours after the last event that `hub.orders` knows.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    act: ActOptions,
}

/// Runs the command.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> ExitCode {
    let result = match action {
        Action::List(list) => list::run(environment, list, as_json).await,
        Action::Show(what) => show::run(environment, what, as_json).await,
    };
    output::ended(result)
}

/// The database. Any role that may read the hub's tables will do.
fn database(environment: &Environment) -> anyhow::Result<Database> {
    Database::new(&config::Database::from_environment(environment)?)
}
