//! PostgreSQL: its version, the tables' shape, the rights of the hub's role, the indexes, and its clock.

use chrono::{DateTime, Utc};

use super::{Finding, clock};
use crate::{
    config::{self, Retention},
    database::{Connection, Database, Error, rights},
    projection::{indexes, schema},
};

const POSTGRESQL: &str = "PostgreSQL";
/// The first version that the hub is tested with.
const LEAST_VERSION: i32 = 15;

/// Examines PostgreSQL with the hub's role.
pub(super) async fn examine(settings: &config::Database, retention: &Retention) -> Vec<Finding> {
    let connection = match Database::new(settings) {
        Ok(database) => database.connect().await,
        Err(error) => Err(error),
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            let remedy = "start PostgreSQL, or correct DATABASE_URL (or DATABASE_HOST …); webhooks are accepted and orders forwarded without it";
            return vec![Finding::problem(
                POSTGRESQL,
                "unreachable",
                format!("{error:#}"),
                remedy,
            )];
        }
    };
    let mut findings = Vec::new();
    match looked_up(&connection, retention, &mut findings).await {
        Ok(()) => {}
        Err(error) => findings.push(Finding::problem(
            POSTGRESQL,
            "no_answer",
            format!("{error:#}"),
            "look into the log of PostgreSQL",
        )),
    }
    findings
}

async fn looked_up(connection: &Connection, retention: &Retention, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let asked = Utc::now();
    let sql =
        "SELECT current_setting('server_version'), current_setting('server_version_num')::integer, clock_timestamp()";
    let row = connection.query_one(sql, &[]).await?;
    let (version, number, time): (String, i32, DateTime<Utc>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    findings.push(match number / 10_000 {
        found if found < LEAST_VERSION => Finding::problem(
            POSTGRESQL,
            "old_version",
            format!("the server has version {version}"),
            "upgrade PostgreSQL to 15 or newer",
        ),
        _ => Finding::fine(POSTGRESQL, "version", format!("version {version}")),
    });
    findings.push(clock::judge(POSTGRESQL, time, (asked, Utc::now())));
    // The rights include those to read what the other checks read.
    let has_rights = match rights::check(connection).await {
        Ok(()) => true,
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::Lacking(lacking)) => {
                findings.extend(of_lacking(lacking));
                false
            }
            // A table that is missing is found below.
            _ => true,
        },
    };
    if has_rights {
        shape(connection, findings).await?;
        may_delete(connection, retention, findings).await?;
    }
    Ok(())
}

fn of_lacking(lacking: &rights::Lacking) -> Vec<Finding> {
    let one = |right: &String| {
        let message = format!("the role {} lacks {right}", lacking.role());
        Finding::problem(POSTGRESQL, "right_missing", message, lacking.remedy())
    };
    lacking.rights().iter().map(one).collect()
}

/// The migrations, and the indexes on the platform's tables.
async fn shape(connection: &Connection, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    if let Err(error) = schema::check(connection).await {
        let remedy = "run `webhook-hub migrate` with a role that owns the tables";
        findings.push(Finding::problem(POSTGRESQL, "schema", format!("{error:#}"), remedy));
        return Ok(());
    }
    findings.push(Finding::fine(
        POSTGRESQL,
        "schema",
        "all migrations of this version are applied",
    ));
    let missing = indexes::missing(connection).await?;
    if missing.is_empty() {
        findings.push(Finding::fine(POSTGRESQL, "indexes", "all indexes are there"));
    }
    findings.extend(missing.into_iter().map(|one| {
        let state = if one.is_unfinished {
            "was not finished"
        } else {
            "is missing"
        };
        let remedy = format!(
            "a running hub makes it where its role owns the table; otherwise the owner runs: {}",
            one.statements
        );
        Finding::problem(
            POSTGRESQL,
            "index_missing",
            format!("the index {} {state}; the tables are written more slowly", one.name),
            remedy,
        )
    }));
    Ok(())
}

/// The rights that `RETENTION_…` needs.
async fn may_delete(connection: &Connection, retention: &Retention, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let of_platform = [
        (retention.webhook_logs, "webhook_logs"),
        (retention.delivery_error_logs, "delivery_error_logs"),
        (retention.provider_order_logs, "provider_order_logs"),
    ];
    for (_, table) in of_platform.iter().filter(|(kept, _)| kept.is_some()) {
        let lacking = rights::lacking_to_delete(connection, table).await?;
        findings.extend(lacking.iter().flat_map(of_lacking));
    }
    Ok(())
}
