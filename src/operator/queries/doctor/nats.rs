//! NATS: its version, the rights of the hub's user, the streams, its clock, and the room that is left.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Finding, clock,
    nats_rights::{self, UserInfo},
};
use crate::{
    config,
    journal::{
        EVENTS,
        connection::{Connection, HUB_INBOX},
        identity::watch::is_memory_cut,
        streams::{self, Difference, api, restoring},
    },
    observer::{ServerLook, look_at_servers},
    operator::queries::status::NEARLY_FULL,
};

const NATS: &str = "NATS";
/// The first version with atomic batches.
const LEAST_VERSION: (u64, u64) = (2, 12);
/// By this a user learns its own rights.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";
/// Wait for that answer. A server that refuses the request does not answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Examines NATS with the hub's credentials. `order_memory`: `ORDER_MEMORY`; none if it is invalid.
pub(super) async fn examine(settings: &config::Nats, order_memory: Option<Duration>) -> Vec<Finding> {
    let connection = async {
        let connection = Connection::open(settings, "webhook-hub doctor", HUB_INBOX).await?;
        connection.reach().await?;
        anyhow::Ok(connection)
    };
    let connection = match connection.await {
        Ok(connection) => connection,
        Err(error) => {
            let remedy = "start NATS, or correct NATS_URL, NATS_USER, NATS_PASSWORD or the NATS_TLS_ files";
            return vec![Finding::problem(NATS, "unreachable", format!("{error:#}"), remedy)];
        }
    };
    let mut findings = vec![version(&connection.client.server_info().version)];
    findings.extend(rights(&connection, settings).await);
    let looked = tokio::select! {
        biased;
        right = connection.next_right_missing() => Err(right_missing(&right)),
        looked = set_up(&connection, order_memory) => looked.map_err(|error| {
            Finding::problem(NATS, "no_answer", format!("{error:#}"), "look into the log of the NATS server; is JetStream enabled?")
        }),
    };
    match looked {
        Ok(looked) => findings.extend(looked),
        // The right may have been found before.
        Err(finding) if findings.contains(&finding) => {}
        Err(finding) => findings.push(finding),
    }
    findings.extend(servers(settings).await);
    findings
}

fn version(found: &str) -> Finding {
    let mut numbers = found.split('.').map_while(|part| part.parse::<u64>().ok());
    let number = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if number < LEAST_VERSION {
        let message = format!("the server has version {found}");
        return Finding::problem(NATS, "old_version", message, "upgrade nats-server to 2.12 or newer");
    }
    Finding::fine(NATS, "version", format!("version {found}"))
}

fn right_missing(right: &str) -> Finding {
    let remedy = "grant it in the server's configuration as nats.conf does for the user hub, and reload the server (nats-server --signal reload)";
    Finding::problem(NATS, "right_missing", format!("the user may not {right}"), remedy)
}

/// The user's rights, each by name.
async fn rights(connection: &Connection, settings: &config::Nats) -> Vec<Finding> {
    let asked = tokio::select! {
        biased;
        _ = connection.next_right_missing() => None,
        answer = tokio::time::timeout(ANSWER, connection.client.request(USER_INFO, "".into())) => answer.ok().and_then(Result::ok),
    };
    let info = asked.and_then(|answer| serde_json::from_slice::<UserInfo>(&answer.payload).ok());
    let user = settings.user.as_deref().unwrap_or("without a name");
    let Some(info) = info else {
        let message = format!("the rights of the user {user} cannot be listed: it may not publish to \"{USER_INFO}\"");
        let remedy = "grant that as nats.conf does for the user hub; the rights that the next requests need are tried all the same";
        return vec![Finding::note(NATS, "rights_not_listed", message, remedy)];
    };
    let lacking = info.lacking();
    if lacking.is_empty() {
        let count = nats_rights::required().len();
        return vec![Finding::fine(
            NATS,
            "rights",
            format!("the user {user} has all {count} rights of the hub"),
        )];
    }
    let findings = lacking
        .iter()
        .map(|right| right_missing(&format!("{} to \"{}\"", right.what, right.subject)));
    findings.collect()
}

/// Streams and consumers against the files, the clock, and the room of the log.
async fn set_up(connection: &Connection, order_memory: Option<Duration>) -> anyhow::Result<Vec<Finding>> {
    let differences = streams::differences(connection).await?;
    let mut findings: Vec<_> = differences.iter().map(of_difference).collect();
    if findings.is_empty() {
        findings.push(Finding::fine(
            NATS,
            "streams",
            "streams and consumers are as the files in streams/ say",
        ));
    }
    let asked = Utc::now();
    if let Some(info) = api::stream_info(connection, EVENTS).await? {
        let time = info["ts"].as_str().and_then(|time| time.parse::<DateTime<Utc>>().ok());
        findings.extend(time.map(|time| clock::judge(NATS, time, (asked, Utc::now()))));
        findings.push(room(&info));
        findings.extend(order_memory.and_then(|memory| memory_cut(&info, memory)));
    }
    Ok(findings)
}

fn of_difference(difference: &Difference) -> Finding {
    let message = difference.to_string();
    // The message about an interrupted restore says what to do, and `streams apply` would be refused.
    let remedy = match (restoring::is_mark(difference), difference.is_unwanted()) {
        (true, _) => "end the restore",
        (false, true) => "find out who set it, and take it away with the user provision and the `nats` command",
        (false, false) => "run `webhook-hub streams apply` with the user provision",
    };
    if difference.dangerous {
        Finding::problem(NATS, "stream_differs", message, remedy)
    } else {
        Finding::note(NATS, "stream_differs", message, remedy)
    }
}

/// `ORDER_MEMORY`, where it is longer than the log keeps the orders.
fn memory_cut(info: &Value, order_memory: Duration) -> Option<Finding> {
    let max_age = Duration::from_nanos(info["config"]["max_age"].as_u64().unwrap_or_default());
    let hours = |time: Duration| time.as_secs() / 3600;
    is_memory_cut(order_memory, max_age).then(|| {
        let message = format!(
            "ORDER_MEMORY is {} h, and max_age of EVENTS {} h: an order that its provider repeats after that is created again",
            hours(order_memory),
            hours(max_age)
        );
        let remedy = "choose a shorter ORDER_MEMORY, or a longer max_age (`webhook-hub streams apply --max-age`)";
        Finding::problem(NATS, "order_memory_cut", message, remedy)
    })
}

/// How much of its limit the log has used.
fn room(info: &Value) -> Finding {
    let used = info["state"]["bytes"].as_u64().unwrap_or_default();
    let Some(limit) = info["config"]["max_bytes"].as_u64().filter(|limit| *limit > 0) else {
        return Finding::fine(NATS, "log_room", format!("EVENTS has {used} bytes and no limit"));
    };
    let share = used as f64 / limit as f64;
    let message = format!("EVENTS has used {:.1} % of its {limit} bytes", share * 100.0);
    if share >= NEARLY_FULL {
        let remedy = "raise the limit (`streams apply --max-bytes`), or keep events for a shorter time (`--max-age`); a full log refuses webhooks";
        return Finding::problem(NATS, "log_nearly_full", message, remedy);
    }
    Finding::fine(NATS, "log_room", message)
}

/// Health and disk of the servers, by their monitoring ports.
async fn servers(settings: &config::Nats) -> Vec<Finding> {
    if settings.monitoring.is_empty() {
        let message = "the servers' disks are not known";
        return vec![Finding::note(
            NATS,
            "disk_unknown",
            message,
            "set NATS_MONITORING_URL to the servers' monitoring ports",
        )];
    }
    match look_at_servers(settings).await {
        Ok(looks) => looks.into_iter().flat_map(of_server).collect(),
        Err(error) => vec![Finding::problem(
            NATS,
            "monitoring",
            format!("{error:#}"),
            "correct the NATS_TLS_ files",
        )],
    }
}

fn of_server(look: ServerLook) -> Vec<Finding> {
    let ServerLook {
        name,
        trouble,
        short_of_room,
        disk_free,
    } = look;
    let mut findings = Vec::new();
    findings.extend(trouble.map(|trouble| {
        let remedy = "look into the log of that server, and whether NATS_MONITORING_URL is its monitoring port";
        Finding::problem(NATS, "unhealthy", format!("{name}: {trouble}"), remedy)
    }));
    findings.extend(short_of_room.map(|reason| {
        let remedy = "enlarge the disk, or lower max_file_store, so that appends are refused before the disk is full";
        Finding::problem(
            NATS,
            "disk_nearly_full",
            format!("the disk of {name} runs full: {reason}"),
            remedy,
        )
    }));
    if findings.is_empty() {
        let disk = disk_free.map_or_else(
            || "its disk is on another machine".to_owned(),
            |free| format!("{free} bytes of its disk are free"),
        );
        findings.push(Finding::fine(NATS, "server", format!("{name} is healthy; {disk}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::queries::doctor::Grade;

    #[test]
    fn versions_and_room() {
        for (found, grade) in [
            ("2.12.0", Grade::Fine),
            ("2.15.1-RC.1", Grade::Fine),
            ("3.0.0", Grade::Fine),
            ("2.11.9", Grade::Problem),
            ("unknown", Grade::Problem),
        ] {
            assert_eq!(version(found).grade, grade, "{found}");
        }
        let room = |used: u64, limit: i64| {
            room(&json!({ "state": { "bytes": used }, "config": { "max_bytes": limit } })).grade
        };
        assert_eq!(
            (room(89, 100), room(90, 100), room(90, -1)),
            (Grade::Fine, Grade::Problem, Grade::Fine)
        );
    }
}
