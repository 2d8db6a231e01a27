//! `replay`: past webhooks through the current code and files.

mod text;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    thread::available_parallelism,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use self::text::{DiffText, PlannedText, SentAgainText, SentText};
use super::{
    acts::{self, ActKind, ActOptions},
    commands::{
        replay_elsewhere::{self, OtherBackend, Pace},
        replay_forward::{self, Act, Wanted},
    },
    dead_letters::Since,
    output::{self, Verdict, counted, show},
    progress::{ProgressDisplay, Unit},
    queries::replay::{self, Asked, Place, Readings},
    read, tell, with_rights,
};
use crate::{
    config::{self, Environment, EventLog},
    journal::{
        connection::{Connection, HUB_INBOX},
        form,
    },
    projection::rebuild::Progress,
};

/// The name of the connections to NATS.
const CONNECTION: &str = "webhook-hub replay";
/// Most connections to NATS, each of which serves a worker. With more, the server is what limits a replay.
const MAX_CONNECTIONS: usize = 8;

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["diff", "to", "forward"]))]
pub struct Replay {
    /// Shows which orders would come out differently. Sends and writes nothing.
    #[arg(long)]
    diff: bool,
    /// Sends their bodies to this backend, which must not be that of BACKEND_URL. Nothing of the orders is recorded.
    #[arg(long, value_name = "URL", requires = "token_file")]
    to: Option<String>,
    /// With --to: the file with the token of that backend.
    #[arg(long, value_name = "FILE", requires = "to")]
    token_file: Option<PathBuf>,
    /// With --to: the authorities that may have signed that backend's certificate, PEM, in place of the machine's own.
    #[arg(long, value_name = "FILE", requires = "to")]
    tls_ca: Option<PathBuf>,
    /// Has the hub send them to its own backend again, through the lanes of their orders: those that no stage has and that have no outcome.
    #[arg(long)]
    forward: bool,
    /// With --forward: those that the backend has, too, under the same keys, and those that were given up.
    #[arg(long, requires = "forward", requires = "reason")]
    again: bool,
    #[command(flatten)]
    act: ActOptions,
    /// Requests a second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "diff")]
    rate: u32,
    /// Stops after so many failures.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "diff")]
    stop_after: u64,
    /// Only counts what would be sent.
    #[arg(long, conflicts_with = "diff")]
    dry_run: bool,
    /// Does not ask for a confirmation.
    #[arg(long, conflicts_with = "diff")]
    yes: bool,
    /// Which webhooks.
    #[command(flatten)]
    range: RangeArguments,
    /// Reads by the files of this folder, in place of PROVIDERS_DIR.
    #[arg(long, value_name = "FOLDER")]
    providers_dir: Option<PathBuf>,
    /// With --diff: names so many of the events that differ; the others are counted.
    #[arg(long, default_value_t = 100, requires = "diff")]
    limit: usize,
}

/// The webhooks to replay. All that is given must match.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RangeArguments {
    /// From here on: a sequence (4711), a duration before now (30m, 2h, 7d) or a time (2026-11-23T18:00:00Z).
    #[arg(long, value_name = "PLACE")]
    from: Option<PlaceArgument>,
    /// Up to here, given in the same way.
    #[arg(long, value_name = "PLACE")]
    until: Option<PlaceArgument>,
    /// Only this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Only the order with this id of its provider.
    #[arg(long, value_name = "ID")]
    order: Option<String>,
    /// Only webhooks that were recorded as this type: order_created, order_cancelled …
    #[arg(long = "type", value_name = "TYPE")]
    webhook_type: Option<String>,
}

/// A place on the log, as it is given.
#[derive(Debug, Clone, Copy)]
struct PlaceArgument(Place);

impl FromStr for PlaceArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self(Place::Sequence(sequence)));
        }
        let time: Since = text.parse().map_err(|expected| format!("{expected}, or a sequence"))?;
        Ok(Self(Place::Time(time.0)))
    }
}

impl From<&RangeArguments> for Asked {
    fn from(given: &RangeArguments) -> Self {
        Self {
            from: given.from.map(|place| place.0),
            to: given.until.map(|place| place.0),
            provider: given.provider.clone(),
            order: given.order.clone(),
            webhook_type: given.webhook_type.clone(),
        }
    }
}

impl Replay {
    /// The arguments for the record of the act: the range, and `more`.
    fn arguments(&self, mut more: Value) -> Value {
        let range = &self.range;
        let place = |place: Option<PlaceArgument>| place.map(|place| format!("{:?}", place.0));
        for (name, value) in [
            ("from", place(range.from)),
            ("until", place(range.until)),
            ("provider", range.provider.clone()),
            ("order", range.order.clone()),
            ("type", range.webhook_type.clone()),
        ] {
            if let Some(value) = value {
                more[name] = value.into();
            }
        }
        more
    }
}

/// Runs the command, as the user `hub` of NATS.
pub async fn run(environment: &Environment, what: &Replay, as_json: bool) -> ExitCode {
    output::ended(Box::pin(answer(environment, what, as_json)).await)
}

async fn answer(environment: &Environment, what: &Replay, as_json: bool) -> anyhow::Result<Verdict> {
    let readings = Readings::from_environment(environment, what.providers_dir.as_deref())?;
    if let Some(provider) = &what.range.provider {
        ensure!(
            readings.knows(provider),
            "--provider: this installation knows no provider {provider}"
        );
    }
    match &what.to {
        Some(url) => elsewhere(environment, what, (url, &readings), as_json).await,
        None if what.forward => again(environment, what, &readings, as_json).await,
        None => diff(environment, what, readings, as_json).await,
    }
}

/// Prints the progress if a person sees it.
fn progress() -> impl Fn(Progress) + Send + Sync {
    let shown = ProgressDisplay::at_a_terminal(Unit::Pieces);
    move |progress| shown.tell(progress)
}

async fn diff(environment: &Environment, what: &Replay, readings: Readings, as_json: bool) -> anyhow::Result<Verdict> {
    let settings = config::Nats::from_environment(environment)?;
    let mut logs = Vec::new();
    for _ in 0..available_parallelism()?.get().min(MAX_CONNECTIONS) {
        logs.push(Connection::open(&settings, CONNECTION, HUB_INBOX).await?);
    }
    for log in &logs {
        log.reach().await?;
    }
    let tell = progress();
    let work = replay::diff(&logs, readings, Asked::from(&what.range), what.limit, &tell);
    let replayed = with_rights(&logs[0], &settings, Box::pin(work)).await?;
    show(as_json, &replayed, DiffText(&replayed))?;
    Ok(Verdict::needs_a_person(!replayed.is_same))
}

async fn elsewhere(
    environment: &Environment,
    what: &Replay,
    (url, readings): (&str, &Readings),
    as_json: bool,
) -> anyhow::Result<Verdict> {
    let file = what.token_file.as_deref().context("--token-file: missing")?;
    let token = String::from_utf8(read(file)?).ok();
    let token = token
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()));
    let token = token.context("--token-file: expected one token of printable ASCII characters")?;
    let backend = OtherBackend::new(environment, url, token.into(), what.tls_ca.clone()).await?;
    let settings = config::Nats::from_environment(environment)?;
    let log = Connection::open(&settings, CONNECTION, HUB_INBOX).await?;
    log.reach().await?;
    if !what.dry_run {
        confirm(
            what.yes,
            &format!("Past orders will be sent to {url}, {} requests a second.", what.rate),
        )?;
    }
    let pace = Pace {
        rate: what.rate,
        stop_after: what.stop_after,
        is_dry_run: what.dry_run,
    };
    let tell = progress();
    let work = async {
        let range = Asked::from(&what.range);
        if what.dry_run {
            return Box::pin(replay_elsewhere::send(&log, readings, range, backend, pace, &tell)).await;
        }
        // The URL has neither a user nor a query.
        let arguments = what.arguments(json!({ "to": url }));
        let recorded = acts::Act::begin(&log, environment, &what.act, ActKind::ReplayElsewhere, arguments).await?;
        let sent = Box::pin(replay_elsewhere::send(&log, readings, range, backend, pace, &tell)).await;
        let counts = sent.as_ref().map_or(
            Value::Null,
            |sent| json!({ "answers": sent.answers, "stopped": sent.stopped }),
        );
        recorded.end(&sent, counts).await;
        sent
    };
    let sent = with_rights(&log, &settings, Box::pin(work)).await?;
    show(as_json, &sent, SentText(&sent))?;
    let refused: u64 = sent
        .answers
        .iter()
        .filter(|(class, _)| **class != "success")
        .map(|(_, count)| count)
        .sum();
    Ok(Verdict::needs_a_person(refused > 0 || sent.stopped))
}

async fn again(
    environment: &Environment,
    what: &Replay,
    readings: &Readings,
    as_json: bool,
) -> anyhow::Result<Verdict> {
    let wanted = Wanted {
        range: Asked::from(&what.range),
        again: what.again,
        window: config::order_memory(environment)?,
    };
    let settings = config::Nats::from_environment(environment)?;
    let log = Connection::open(&settings, CONNECTION, HUB_INBOX).await?;
    log.reach().await?;
    let tell = progress();
    let planned = with_rights(
        &log,
        &settings,
        Box::pin(replay_forward::plan(&log, readings, &wanted, &tell)),
    )
    .await?;
    if what.dry_run || planned.count == 0 {
        show(as_json, &planned, PlannedText(&planned))?;
        return Ok(Verdict::Fine);
    }
    let count = counted(planned.count as i64, "event", "events");
    confirm(what.yes, &format!("{count} will be sent to the backend again."))?;
    let act = Act {
        by: what.act.by(environment)?,
        reason: what.act.reason.clone(),
        form: form::chosen(&log, EventLog::from_environment(environment)?.format).await?,
        rate: what.rate,
        stop_after: what.stop_after,
    };
    let work = async {
        let arguments = what.arguments(json!({ "again": what.again, "events": planned.count }));
        let recorded = acts::Act::begin(&log, environment, &what.act, ActKind::ReplayForward, arguments).await?;
        let sent = Box::pin(replay_forward::forward(&log, planned, &act, &tell)).await;
        let counts = sent.as_ref().map_or(Value::Null, |sent| {
            json!({ "requested": sent.requested, "failed": sent.failed, "underWay": sent.under_way, "stopped": sent.stopped })
        });
        recorded.end(&sent, counts).await;
        sent
    };
    let sent = with_rights(&log, &settings, Box::pin(work)).await?;
    show(as_json, &sent, SentAgainText(&sent))?;
    Ok(Verdict::needs_a_person(sent.stopped || sent.failed > 0))
}

/// Asks a person to confirm an act.
///
/// # Errors
/// If it is not confirmed, or if there is no person to ask.
fn confirm(is_confirmed: bool, act: &str) -> anyhow::Result<()> {
    if is_confirmed {
        return Ok(());
    }
    ensure!(io::stdin().is_terminal(), "{act} Confirm it with --yes");
    tell(format!("{act} Type yes to confirm:"));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == "yes", "not confirmed, nothing was done");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_sequence_or_a_time() {
        let place = |text: &str| text.parse::<PlaceArgument>().map(|place| place.0);
        assert_eq!(place("4711"), Ok(Place::Sequence(4711)));
        assert!(matches!(place("2h"), Ok(Place::Time(_))));
        let time = "2026-11-23T18:00:00Z";
        assert_eq!(place(time), Ok(Place::Time(time.parse().unwrap())));
        assert!(place("yesterday").unwrap_err().contains("or a sequence"));
    }
}
