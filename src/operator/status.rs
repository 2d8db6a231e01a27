//! `status`: shows on one screen whether all is well.

use std::{fmt, process::ExitCode};

use anyhow::Context as _;

use super::{
    dead_letters::{printable, time_text},
    output::{self, Verdict, counted, show},
    queries::status::{self, DatabaseStatus, HubStatus},
    with_rights,
};
use crate::{
    config::{self, Environment},
    database::Database,
    journal::connection::{Connection, HUB_INBOX},
};

/// Runs the command, as the user `hub`.
pub async fn run(environment: &Environment, as_json: bool) -> ExitCode {
    output::ended(answer(environment, as_json).await)
}

async fn answer(environment: &Environment, as_json: bool) -> anyhow::Result<Verdict> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub status", HUB_INBOX).await?;
    connection.reach().await?;
    let database = config::Database::from_environment(environment).map_err(anyhow::Error::from);
    let database = database.and_then(|settings| Database::new(&settings));
    let status = Box::pin(with_rights(&connection, &settings, status::look(&connection, database)))
        .await
        .context("cannot look at NATS; is NATS_USER the user hub, was `streams apply` run?")?;
    show(as_json, &status, StatusText(&status))?;
    Ok(Verdict::needs_a_person(!status.is_well))
}

/// The screen.
struct StatusText<'a>(&'a HubStatus);

impl fmt::Display for StatusText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        match status.problems.len() {
            0 => writeln!(f, "all is well")?,
            1 => writeln!(f, "1 thing needs a person:")?,
            several => writeln!(f, "{several} things need a person:")?,
        }
        for problem in &status.problems {
            writeln!(
                f,
                "  {}\n    {}",
                printable(&problem.message),
                printable(&problem.remedy)
            )?;
        }
        let versions = &status.versions;
        let postgresql = versions.postgresql.as_deref().unwrap_or("not known");
        writeln!(
            f,
            "\n{:<14}webhook-hub {}, NATS {}, PostgreSQL {}",
            "versions", versions.webhook_hub, versions.nats, postgresql
        )?;
        self.log(f)?;
        self.instances(f)?;
        self.stages(f)?;
        let breaker = &status.breaker;
        let reason = breaker.reason.as_ref().map(|reason| format!(": {}", printable(reason)));
        writeln!(
            f,
            "{:<14}{}{}",
            "breaker",
            printable(&breaker.state),
            reason.unwrap_or_default()
        )?;
        self.dead_letters(f)?;
        match &status.database {
            Some(database) => tables(f, database),
            None => write!(f, "{:<14}not known", "tables"),
        }
    }
}

impl StatusText<'_> {
    fn log(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        let log = &self.0.log;
        let room = log
            .max_bytes
            .map_or_else(|| "without a limit".into(), |max| format!("of {} MiB", max / MIB));
        let kept = if log.replicas == 1 {
            "on 1 server"
        } else {
            "on several servers"
        };
        writeln!(
            f,
            "{:<14}{} events ({} to {}), {} MiB {room}, {kept}",
            "log",
            log.events,
            log.first_sequence,
            log.last_sequence,
            log.bytes.div_ceil(MIB)
        )
    }

    fn instances(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.instances.is_empty() {
            writeln!(f, "{:<14}none has announced itself", "instances")?;
        }
        for (at, one) in self.0.instances.iter().enumerate() {
            let head = if at == 0 { "instances" } else { "" };
            let stages = match one.stages.as_slice() {
                [] => "works on no stage".to_owned(),
                stages => format!("works on {}", stages.join(", ")),
            };
            let stopping = if one.is_stopping { ", stopping" } else { "" };
            let text = format!(
                "{}, version {}, for {}, {stages}{stopping}",
                one.instance,
                one.version,
                time_span(one.uptime_seconds)
            );
            writeln!(f, "{head:<14}{}", printable(&text))?;
        }
        let rates = self.0.accepted_per_minute.iter();
        let rates: Vec<_> = rates.map(|(provider, count)| format!("{provider} {count}")).collect();
        let rates = if rates.is_empty() {
            "none".to_owned()
        } else {
            rates.join(", ")
        };
        writeln!(
            f,
            "{:<14}{}",
            "last minute",
            printable(&format!("webhooks accepted: {rates}"))
        )
    }

    fn stages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.0.stages {
            let active = match &stage.holder {
                Some(holder) if stage.is_active => format!("active on {}", printable(holder)),
                _ => "not active".into(),
            };
            let parked = stage
                .parked
                .map(|parked| format!(", {parked} parked"))
                .unwrap_or_default();
            writeln!(
                f,
                "{:<14}{active}: {} waiting, {} in progress{parked}",
                stage.name, stage.waiting, stage.in_progress
            )?;
        }
        Ok(())
    }

    fn dead_letters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.dead_letters.is_empty() {
            return writeln!(f, "{:<14}none", "dead letters");
        }
        for (at, cause) in self.0.dead_letters.iter().enumerate() {
            let head = if at == 0 { "dead letters" } else { "" };
            writeln!(
                f,
                "{head:<14}{} {} in {}, of {}, since {}",
                cause.count,
                printable(&cause.code),
                printable(&cause.stage),
                printable(&cause.provider),
                time_text(cause.oldest_at)
            )?;
        }
        Ok(())
    }
}

/// "42 s", "5 min", "3 h", "12 d".
fn time_span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn tables(f: &mut fmt::Formatter<'_>, database: &DatabaseStatus) -> fmt::Result {
    let position = database
        .position
        .map_or_else(|| "not begun".into(), |at| format!("made up to {at}"));
    let written = if database.is_written {
        "written by an instance"
    } else {
        "written by no instance"
    };
    writeln!(
        f,
        "{:<14}{position}, {} behind, {written}, {} without rows",
        "tables",
        counted(
            i64::try_from(database.lag_events).unwrap_or(i64::MAX),
            "event",
            "events"
        ),
        counted(database.skipped, "event", "events")
    )?;
    if database.orders_are_incomplete {
        writeln!(f, "{:<14}the table is still being made of the log", "orders")?;
    }
    let count = &database.undelivered;
    let more = if count.is_more { "more than " } else { "" };
    write!(
        f,
        "{:<14}{more}{} not arrived",
        "orders",
        counted(count.orders, "order has", "orders have")
    )?;
    if let Some(since) = database.oldest_undelivered_since {
        write!(f, ", the oldest since {}", time_text(since))?;
    }
    write!(
        f,
        "; {} given up, {} past their deadline",
        count.given_up, count.overdue
    )
}
