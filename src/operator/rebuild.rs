//! `rebuild`: makes tables from the log again.

use std::{fmt, process::ExitCode};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::{
    acts::{Act, ActKind, ActOptions},
    output::{self, Table, Verdict, show},
    progress::{ProgressDisplay, Unit},
    with_rights,
};
use crate::{
    config::{self, Environment},
    database::Database,
    journal::connection::{Connection, HUB_INBOX},
    projection::rebuild::{self, Parts, Plan, Rebuilt},
};

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Rebuild {
    /// Only these tables; all by default.
    #[arg(value_parser = PossibleValuesParser::new(rebuild::table_names()))]
    tables: Vec<String>,
    /// Keeps live rows that the log does not make. By default only those are kept that are older than the log, or the platform's own.
    #[arg(long, conflicts_with_all = ["undo", "forget"])]
    keep_extra: bool,
    /// Says what would be done, and what stands in the way; changes nothing.
    #[arg(long, conflicts_with_all = ["undo", "forget"])]
    dry_run: bool,
    /// Puts the tables that the last rebuild replaced in their place again, brought up to date.
    #[arg(long, conflicts_with_all = ["tables", "forget"])]
    undo: bool,
    /// Drops the tables that the last rebuild replaced.
    #[arg(long, conflicts_with = "tables")]
    forget: bool,
    #[command(flatten)]
    act: ActOptions,
}

/// Runs the command, as the user `hub` of NATS and the owner of the tables.
pub async fn run(environment: &Environment, what: &Rebuild, as_json: bool) -> ExitCode {
    output::ended(Box::pin(answer(environment, what, as_json)).await)
}

async fn answer(environment: &Environment, what: &Rebuild, as_json: bool) -> anyhow::Result<Verdict> {
    let database = Database::new(&config::Database::from_environment(environment)?)?;
    let settings = config::Nats::from_environment(environment)?;
    let log = Connection::open(&settings, "webhook-hub rebuild", HUB_INBOX).await?;
    log.reach().await?;
    let shown = ProgressDisplay::new(Unit::Pieces);
    let parts = Parts {
        log: &log,
        database: &database,
        tell: &|progress| shown.tell(progress),
    };
    if what.dry_run {
        let plan = Box::pin(with_rights(&log, &settings, rebuild::plan(parts, &what.tables))).await?;
        show(as_json, &plan, PlanText(&plan))?;
        return Ok(Verdict::needs_a_person(!plan.obstacles.is_empty()));
    }
    let work = Box::pin(with_rights(
        &log,
        &settings,
        Box::pin(carry_out(environment, parts, what)),
    ));
    match work.await? {
        Done::Forgot(had) => {
            let text = if had {
                "dropped the replaced tables"
            } else {
                "no replaced tables are kept"
            };
            show(as_json, &json!({ "dropped": had }), text)?;
            Ok(Verdict::Fine)
        }
        Done::Made(rebuilt) => {
            show(as_json, &rebuilt, RebuiltText(&rebuilt, what.undo))?;
            Ok(Verdict::needs_a_person(!rebuilt.unchecked.is_empty()))
        }
    }
}

/// What was done.
enum Done {
    /// The replaced tables were dropped, if there were any.
    Forgot(bool),
    /// Tables were made, or put back.
    Made(Box<Rebuilt>),
}

impl Done {
    fn counts(&self) -> Value {
        match self {
            Self::Forgot(had) => json!({ "dropped": had }),
            Self::Made(rebuilt) => json!({
                "tables": rebuilt.tables.iter().map(|table| table.name).collect::<Vec<_>>(),
                "events": rebuilt.events, "position": rebuilt.position, "leftOut": rebuilt.left_out,
            }),
        }
    }
}

async fn carry_out(environment: &Environment, parts: Parts<'_>, what: &Rebuild) -> anyhow::Result<Done> {
    let kind = match what {
        Rebuild { forget: true, .. } => ActKind::ForgetRebuild,
        Rebuild { undo: true, .. } => ActKind::UndoRebuild,
        _ => ActKind::Rebuild,
    };
    let arguments = match kind {
        ActKind::Rebuild => json!({ "tables": what.tables, "keepExtra": what.keep_extra }),
        _ => Value::Null,
    };
    let act = Act::begin(parts.log, environment, &what.act, kind, arguments).await?;
    let work = async {
        Ok(match kind {
            ActKind::ForgetRebuild => Done::Forgot(rebuild::forget(parts.database).await?),
            ActKind::UndoRebuild => Done::Made(Box::new(rebuild::undo(parts).await?)),
            _ => Done::Made(Box::new(rebuild::rebuild(parts, &what.tables, what.keep_extra).await?)),
        })
    };
    let result = Box::pin(work).await;
    act.end(&result, result.as_ref().map_or(Value::Null, Done::counts))
        .await;
    result
}

/// What would be done, for people.
struct PlanText<'a>(&'a Plan);

impl fmt::Display for PlanText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        let mut table = Table::new(["TABLE", "ROWS, ABOUT", "MB", ""]);
        for one in &plan.tables {
            let note = if one.is_missing { "missing, would be made" } else { "" };
            let rows = one.estimated_rows.max(0).to_string();
            table.push([
                one.name.to_owned(),
                rows,
                (one.bytes >> 20).to_string(),
                note.to_owned(),
            ]);
        }
        write!(f, "{table}")?;
        write!(
            f,
            "would apply the log from {} to {}; about as much room as the tables take is needed beside them",
            plan.first_sequence, plan.position
        )?;
        for obstacle in &plan.obstacles {
            write!(f, "\n{obstacle}")?;
        }
        Ok(())
    }
}

/// What was done, for people, and whether it undid something.
struct RebuiltText<'a>(&'a Rebuilt, bool);

impl fmt::Display for RebuiltText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rebuilt, is_undone) = self;
        let mut table = Table::new([
            "TABLE",
            "ROWS",
            "OLDER THAN THE LOG",
            "OF OTHERS",
            "WRITTEN BY PEOPLE",
            "LEFT BEHIND",
        ]);
        for one in &rebuilt.tables {
            let carried = &one.carried;
            let counts =
                [carried.older, carried.of_others, carried.by_people, carried.extra].map(|count| count.to_string());
            let [older, of_others, by_people, extra] = counts;
            table.push([
                one.name.to_owned(),
                one.rows.to_string(),
                older,
                of_others,
                by_people,
                extra,
            ]);
        }
        write!(f, "{table}")?;
        let done = if *is_undone { "put back" } else { "rebuilt" };
        write!(
            f,
            "{done} at {}: {} events since {}; the tables stood still for {:.1} s",
            rebuilt.position, rebuilt.events, rebuilt.first_sequence, rebuilt.locked_seconds
        )?;
        if rebuilt.left_out > 0 {
            write!(f, "\n{} events could not be stored and have no rows", rebuilt.left_out)?;
        }
        for unchecked in &rebuilt.unchecked {
            write!(f, "\na foreign key does not hold for all rows: {unchecked}")?;
        }
        if rebuilt.tables.iter().any(|table| table.was_missing) {
            write!(
                f,
                "\nmissing tables were made without rights; `webhook-hub migrate --grant ROLE` gives the hub's role those that it needs"
            )?;
        }
        write!(
            f,
            "\nthe replaced tables are kept: `webhook-hub rebuild --undo` puts them back, `--forget` drops them"
        )
    }
}
