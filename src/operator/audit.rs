//! `operator audit`: lists what operators did.

use std::{fmt, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;

use super::{
    acts::ActKind,
    dead_letters::{Since, time_text},
    output::{self, Table, Verdict, counted, show},
    queries::acts::{self, ActSelection, Acts, ListedAct},
    with_rights,
};
use crate::{
    config::{self, Environment},
    journal::connection::{Connection, HUB_INBOX},
};

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists what operators did, in the log's order: who, when, why and what.
    Audit(Audit),
}

/// Arguments of `audit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Audit {
    /// Only acts from this time on: a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "DURATION_OR_TIME")]
    since: Option<Since>,
    /// Only acts up to this time, given in the same way.
    #[arg(long, value_name = "DURATION_OR_TIME")]
    until: Option<Since>,
    /// Only these kinds, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<ActKind>,
    /// Most acts to show: the last ones. The others are counted.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// Runs the command, as the user `hub`: it needs NATS and nothing else.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> ExitCode {
    let Action::Audit(audit) = action;
    output::ended(answer(environment, audit, as_json).await)
}

async fn answer(environment: &Environment, audit: &Audit, as_json: bool) -> anyhow::Result<Verdict> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub operator", HUB_INBOX).await?;
    connection.reach().await?;
    let selection = ActSelection {
        since: audit.since.map(|since| since.0),
        until: audit.until.map(|until| until.0),
        kinds: audit.kind.iter().map(|kind| kind.as_str().to_owned()).collect(),
        limit: audit.limit as usize,
    };
    let acts = with_rights(&connection, &settings, acts::read(&connection, &selection))
        .await
        .context("cannot read the stream EVENTS; NATS_USER must be the user hub")?;
    show(as_json, &acts, ActsText(&acts))?;
    Ok(Verdict::Fine)
}

/// The list for people.
struct ActsText<'a>(&'a Acts);

impl fmt::Display for ActsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Acts {
            acts,
            left_out,
            unreadable,
        } = self.0;
        let mut table = Table::new(["TIME", "WHO", "KIND", "WHAT", "RESULT", "REASON"]);
        for act in acts {
            table.push([
                time_text(act.time),
                act.by.clone(),
                act.kind.clone(),
                in_short(&act.arguments),
                result(act),
                act.reason.clone().unwrap_or_default(),
            ]);
        }
        write!(f, "{table}")?;
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if *left_out > 0 {
            writeln!(f, "{left_out} earlier ones are not shown; --limit shows more")?;
        }
        if *unreadable > 0 {
            writeln!(
                f,
                "{} of another version cannot be read",
                counted(count(*unreadable), "act", "acts")
            )?;
        }
        match acts.len() {
            0 => write!(f, "no acts"),
            some => write!(f, "{}", counted(count(some as u64), "act", "acts")),
        }
    }
}

fn result(act: &ListedAct) -> String {
    match &act.result {
        None => "not known".into(),
        Some(result) => match &result.error {
            Some(error) => format!("failed: {error}"),
            None if result.counts.is_null() => "done".into(),
            None => in_short(&result.counts),
        },
    }
}

/// A JSON object as `name=value` pairs.
fn in_short(value: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => {
            let all = all
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
            all.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    match value {
        Value::Object(members) => {
            let pairs = members.iter().filter(|(_, value)| !value.is_null());
            let pairs = pairs.map(|(name, value)| format!("{name}={}", text(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Value::Null => String::new(),
        other => text(other),
    }
}
