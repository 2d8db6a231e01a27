//! The problems in a status: what needs a person, and the remedy. Pure.

use chrono::{DateTime, SecondsFormat, Utc};

use super::status::{BreakerStatus, DatabaseStatus, HubStatus, NEARLY_FULL, Problem, TABLES_LAG};
use crate::operator::output::counted;

/// The problems, the worst first: what stops all orders, then what stops some, then what only hides information.
pub(super) fn of(status: &HubStatus, trouble: Option<String>, now: DateTime<Utc>) -> Vec<Problem> {
    let mut problems = Vec::new();
    of_log(status, &mut problems);
    of_stages(status, &mut problems);
    if let Some(database) = &status.database {
        of_orders(database, &mut problems);
    }
    let open: u64 = status.dead_letters.iter().map(|cause| cause.count).sum();
    if open > 0 {
        let first = &status.dead_letters[0];
        problems.push(Problem {
            code: "dead_letters",
            message: format!(
                "{open} dead letters are open, most of them {} in {}",
                first.code, first.stage
            ),
            remedy: "`webhook-hub dead-letters list` shows them; fix the cause, then `dead-letters retry`".into(),
        });
    }
    match (&status.database, trouble) {
        (Some(database), _) => of_tables(database, now, &mut problems),
        (None, trouble) => problems.push(Problem {
            code: "database_unreadable",
            message: format!("the tables cannot be read: {}", trouble.unwrap_or_default()),
            remedy: "DATABASE_URL must name a role that has SELECT on hub.orders, hub.projections, hub.cursors and hub.skipped_events; orders \
                     go on without PostgreSQL"
                .into(),
        }),
    }
    problems
}

fn of_log(status: &HubStatus, problems: &mut Vec<Problem>) {
    let log = &status.log;
    // The rounding error is less than a kilobyte.
    #[allow(clippy::cast_precision_loss)]
    let ratio = log.max_bytes.map_or(0.0, |max| log.bytes as f64 / max as f64);
    if ratio >= NEARLY_FULL {
        problems.push(Problem {
            code: "log_nearly_full",
            message: format!(
                "the stream EVENTS is {:.0} % full; when it is full, no webhook is accepted",
                ratio * 100.0
            ),
            remedy: "`webhook-hub streams apply --max-bytes` gives it more room".into(),
        });
    }
}

fn of_stages(status: &HubStatus, problems: &mut Vec<Problem>) {
    for stage in status.stages.iter().filter(|stage| !stage.is_active) {
        problems.push(Problem {
            code: "stage_inactive",
            message: format!(
                "no instance works on the stage {}; {} events wait",
                stage.name, stage.waiting
            ),
            remedy: "start a hub, or look in the logs of the running ones for what they wait for".into(),
        });
    }
    if status.breaker.state != "closed" {
        let reason = status.breaker.reason.as_deref().unwrap_or("the reason is unknown");
        problems.push(Problem {
            code: "breaker_not_closed",
            message: format!("the backend's circuit breaker is {}: {reason}", status.breaker.state),
            remedy: "fix the backend; orders wait on the log and are then forwarded without further action".into(),
        });
    }
    of_branches(&status.breaker, problems);
    for (provider, breaker) in status.instances.iter().flat_map(|one| &one.provider_breakers) {
        let reason = breaker.reason.as_deref().unwrap_or("the reason is unknown");
        problems.push(Problem {
            code: "provider_breaker_not_closed",
            message: format!("the circuit breaker of {provider} is {}: {reason}", breaker.state),
            remedy:
                "fix the connection to the provider, or its credentials; requests to it wait meanwhile, orders do not"
                    .into(),
        });
    }
}

fn of_branches(breaker: &BreakerStatus, problems: &mut Vec<Problem>) {
    let remedy = "fix the backend for this restaurant; its orders wait, those of other branches do not. `webhook-hub orders list \
                  --undelivered --branch ID` shows them, so that the restaurant can be called";
    for failing in &breaker.failing_branches {
        let code = failing.code.as_ref().map(|code| format!(", the last time with {code}"));
        problems.push(Problem {
            code: "branch_failing",
            message: format!(
                "the backend has failed for the branch {} since {}{}; {} wait",
                failing.branch,
                failing.since.to_rfc3339_opts(SecondsFormat::Secs, true),
                code.unwrap_or_default(),
                counted(
                    i64::try_from(failing.waiting).unwrap_or(i64::MAX),
                    "event of it",
                    "events of it"
                ),
            ),
            remedy: remedy.into(),
        });
    }
    let more = breaker
        .failing_branches_in_all
        .saturating_sub(breaker.failing_branches.len());
    if more > 0 {
        problems.push(Problem {
            code: "branch_failing",
            message: format!("the backend fails for {more} more branches, which are not named here"),
            remedy: "the log of the instance that forwards names each of them".into(),
        });
    }
}

fn of_orders(database: &DatabaseStatus, problems: &mut Vec<Problem>) {
    let count = &database.undelivered;
    if count.overdue > 0 {
        problems.push(Problem {
            code: "orders_overdue",
            message: format!("{} orders have not arrived and are past their deadline", count.overdue),
            remedy: "`webhook-hub orders list --deadline-within 0s` shows them; tell the restaurants".into(),
        });
    }
    if database.announced_differently > 0 {
        problems.push(Problem {
            code: "orders_announced_differently",
            message: format!(
                "{} orders of the last day were announced again with other lines, another total, time, customer or address; the backend has \
                 the first announcement",
                database.announced_differently
            ),
            remedy: "`webhook-hub dead-letters list --duplicates` lists the later announcements, `orders show` what each says; \
                     `dead-letters retry ID` sends one as an order of its own"
                .into(),
        });
    }
}

fn of_tables(database: &DatabaseStatus, now: DateTime<Utc>, problems: &mut Vec<Problem>) {
    let is_late = database
        .written_at
        .is_none_or(|at| (now - at).to_std().is_ok_and(|age| age > TABLES_LAG));
    if database.lag_events > 0 && is_late {
        problems.push(Problem {
            code: "tables_behind",
            message: format!(
                "{} events have no rows, and none was written for a minute",
                database.lag_events
            ),
            remedy: "the hubs' logs say what stops the tables; orders are forwarded meanwhile".into(),
        });
    }
    if database.skipped > 0 {
        problems.push(Problem {
            code: "events_skipped",
            message: format!(
                "{} events have no rows because they cannot be read or stored",
                database.skipped
            ),
            remedy: "hub.skipped_events has the reasons; a hub tries them again when it starts".into(),
        });
    }
}
