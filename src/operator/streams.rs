//! `streams apply` and `streams diff`: what the NATS server must look like.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::{print, with_rights};
use crate::{
    config::{self, Environment},
    journal::{
        connection::{Connection, PROVISION_INBOX},
        streams::{self, Difference},
    },
};

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Creates what is missing; what is there stays as it is. Needs a user that may create streams.
    Apply {
        /// Copies of the stream in a cluster: 1, 3 or 5.
        #[arg(long)]
        replicas: Option<usize>,
    },
    /// Shows how the server differs from the files in streams/; exits with 1 where it does.
    Diff,
}

/// Runs the command.
///
/// # Errors
/// Where NATS is away or refuses.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub streams", PROVISION_INBOX).await?;
    connection.reach().await?;
    let work = async {
        match action {
            Action::Apply { replicas } => streams::apply(&connection, *replicas).await,
            Action::Diff => streams::differences(&connection).await,
        }
    };
    let differences = with_rights(&connection, &settings, work).await?;
    let text = match differences.as_slice() {
        [] => "NATS is set up as the files in streams/ say".to_owned(),
        some => some.iter().map(line).collect::<Vec<_>>().join("\n"),
    };
    let shown: Vec<_> = differences
        .iter()
        .map(|one| json!({ "difference": one.to_string(), "dangerous": one.dangerous }))
        .collect();
    print(as_json, &json!({ "differences": shown }), text)?;
    let failed = differences
        .iter()
        .any(|one| one.dangerous || matches!(action, Action::Diff));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(difference: &Difference) -> String {
    let mark = if difference.dangerous {
        "could lose events"
    } else {
        "harmless"
    };
    format!("{difference} ({mark})")
}
