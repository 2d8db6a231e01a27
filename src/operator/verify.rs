//! The command `verify`: compares the tables with the log, and checks the log itself.

use std::{fmt, process::ExitCode};

use clap::builder::PossibleValuesParser;
use serde::Serialize;

use super::{
    dead_letters::printable,
    output::{self, Table, Verdict, show},
    progress::{ProgressDisplay, Unit},
    queries::log_check::{self, LogChecked},
    with_rights,
};
use crate::{
    config::{self, Environment, Retention},
    database::Database,
    journal::connection::{Connection, HUB_INBOX},
    projection::rebuild::{self, Asked, Named, Parts, TableDifferences, Verified},
};

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Verify {
    /// Only these tables; all by default.
    #[arg(value_parser = PossibleValuesParser::new(rebuild::table_names()))]
    tables: Vec<String>,
    /// Reads the log from this place on, and compares only rows that began there or later.
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Compares only rows that began before this place on the log.
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// Compares only rows of this provider.
    #[arg(long, value_parser = config::known_provider)]
    provider: Option<String>,
}

/// Runs the command, as the user `hub` of NATS and the owner of the tables.
pub async fn run(environment: &Environment, what: &Verify, as_json: bool) -> ExitCode {
    output::ended(Box::pin(answer(environment, what, as_json)).await)
}

async fn answer(environment: &Environment, what: &Verify, as_json: bool) -> anyhow::Result<Verdict> {
    let database = Database::new(&config::Database::from_environment(environment)?)?;
    let settings = config::Nats::from_environment(environment)?;
    let asked = Asked {
        tables: what.tables.clone(),
        from: what.from,
        to: what.to,
        provider: what.provider.clone(),
        retention: Retention::of_hub(environment)?,
    };
    let log = Connection::open(&settings, "webhook-hub verify", HUB_INBOX).await?;
    log.reach().await?;
    let shown = ProgressDisplay::new(Unit::Pieces);
    let parts = Parts {
        log: &log,
        database: &database,
        tell: &|progress| shown.tell(progress),
    };
    let verified = with_rights(&log, &settings, Box::pin(rebuild::verify(parts, &asked))).await?;
    // The log as a whole is only checked together with all tables.
    let log = match what.tables.is_empty() {
        true => Some(
            with_rights(
                &log,
                &settings,
                log_check::check(&log, what.from, &|progress| shown.tell(progress)),
            )
            .await?,
        ),
        false => None,
    };
    let found = Found { tables: verified, log };
    show(as_json, &found, &found)?;
    let is_well = found.tables.is_same && found.log.as_ref().is_none_or(|log| log.is_whole);
    Ok(Verdict::needs_a_person(!is_well))
}

/// The result.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    tables: Verified,
    /// None if only some tables were compared.
    log: Option<LogChecked>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = &self.tables;
        let mut table = Table::new(["TABLE", "COMPARED", "NOT COMPARED", "MISSING", "EXTRA", "DIFFERENT"]);
        for one in &verified.tables {
            let counts = [one.missing.count, one.extra.count, one.different.count].map(|count| count.to_string());
            let [missing, extra, different] = counts;
            table.push([
                one.name.to_owned(),
                one.rows.to_string(),
                one.older.to_string(),
                missing,
                extra,
                different,
            ]);
        }
        write!(f, "{table}")?;
        for table in &verified.tables {
            differences(f, table)?;
        }
        let are = if verified.is_same { "are" } else { "are not" };
        write!(
            f,
            "the tables {are} what the log says up to {} ({} events from {} on)",
            verified.position, verified.events, verified.from
        )?;
        self.log.as_ref().map_or(Ok(()), |log| log_text(f, log))
    }
}

fn log_text(f: &mut fmt::Formatter<'_>, log: &LogChecked) -> fmt::Result {
    let is = if log.is_whole { "is whole" } else { "is not whole" };
    write!(
        f,
        "\nthe log {is} from {} to {}: {} events, of which {} wait for a stage and {} are parked",
        log.first_sequence, log.last_sequence, log.events, log.waiting, log.parked
    )?;
    let faults = &log.faults;
    for (what, faults) in [
        ("lost: acknowledged, not parked, and without an outcome", &faults.lost),
        ("its cause is not on the log", &faults.without_cause),
        (
            "transformed before an earlier webhook of its order",
            &faults.out_of_order,
        ),
        ("its id does not follow from its cause", &faults.wrong_ids),
        ("its body is not the one that was accepted", &faults.altered_bodies),
    ] {
        for fault in &faults.first {
            let (order, provider) = (printable(&fault.external_order_id), printable(&fault.provider));
            write!(
                f,
                "\n{} {} of {provider} {order}: {what}",
                fault.sequence, fault.event_type
            )?;
        }
        if unnamed(faults) > 0 {
            write!(f, "\n{} more: {what}", unnamed(faults))?;
        }
    }
    if log.unreadable > 0 {
        write!(f, "\n{} messages are no events", log.unreadable)?;
    }
    if log.newer > 0 {
        write!(f, "\n{} events are of a later version", log.newer)?;
    }
    if log.not_looked_up > 0 {
        write!(
            f,
            "\n{} causes were not looked up, because there are too many",
            log.not_looked_up
        )?;
    }
    Ok(())
}

fn differences(f: &mut fmt::Formatter<'_>, table: &TableDifferences) -> fmt::Result {
    for key in &table.missing.first {
        writeln!(f, "{}: missing    {}", table.name, printable(key))?;
    }
    for key in &table.extra.first {
        writeln!(f, "{}: extra      {}", table.name, printable(key))?;
    }
    for row in &table.different.first {
        writeln!(
            f,
            "{}: different  {} ({})",
            table.name,
            printable(&row.key),
            row.columns.join(", ")
        )?;
    }
    let left = unnamed(&table.missing) + unnamed(&table.extra) + unnamed(&table.different);
    if left > 0 {
        writeln!(f, "{}: {left} more", table.name)?;
    }
    Ok(())
}

fn unnamed<T>(named: &Named<T>) -> usize {
    named.count - named.first.len()
}
