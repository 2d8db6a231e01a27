//! `streams apply`: creates what is missing, changes what the operator chose, and nothing else.

use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Difference, EVENTS, api,
    choices::{Choice, Setting},
    consumers::WantedConsumer,
    differences,
    notes::{ActNote, with_note},
    plan::{self, Change, ConsumerStep, PlannedStream},
    restoring,
};
use crate::{
    event::operator::{ActResult, Acted},
    journal::connection::Connection,
};

/// How long copies may make no progress before the command gives up: an election takes up to ten seconds, a large message
/// and a slow disk less.
const STALLED: Duration = Duration::from_secs(120);
/// Pause between two looks at copies.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often a line says how far they are.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// JetStream's error code if too few servers have room for a copy.
const NO_ROOM: u64 = 10005;
/// How long the request is then repeated: three times the ten seconds after which servers report anew what is reserved.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before each repetition.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Options of `streams apply`.
#[derive(Debug, Default)]
pub struct ApplyOptions {
    /// The operator's new choices; earlier ones stay.
    pub choices: Vec<Choice>,
    /// A shorter age may remove events at once, and an empty log may take the place of one with an interrupted restore.
    pub forget: bool,
    /// The act, which is noted where it changes the log that is there.
    pub acted: Option<Acted>,
}

impl ApplyOptions {
    /// The changed configuration of the log, with a note of the act.
    fn noted(&self, before: &Value, config: Value) -> Value {
        let Some(acted) = &self.acted else { return config };
        let changed = Setting::ALL
            .iter()
            .map(|setting| setting.name())
            .filter(|name| before[name] != config[name]);
        let counts = changed.map(|name| (name.to_owned(), json!([before[name], config[name]])));
        let result = ActResult {
            error: None,
            counts: Value::Object(counts.collect()),
        };
        let acted = Acted {
            result: Some(result),
            ..acted.clone()
        };
        with_note(config, &ActNote::new(acted))
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was changed.
    pub changes: Vec<Change>,
    /// What still differs from the files and from what was chosen.
    pub differences: Vec<Difference>,
}

/// Creates what is missing, brings the consumers up to date (they keep their positions), changes what was chosen, and waits until
/// the copies are current. `say` hears each change and its consequence before the first one is made, then how far it is.
///
/// # Errors
/// If NATS refuses or does not answer; if copies make no progress; if something would be lost that the operator
/// did not ask for; if a restore of the log was interrupted.
pub async fn apply(connection: &Connection, order: &ApplyOptions, say: impl Fn(String)) -> anyhow::Result<Applied> {
    // Checked before anything is changed.
    let plan = plan::read(connection, order).await?;
    for change in &plan.changes {
        say(change.to_string());
    }
    let mut changed = Vec::new();
    for PlannedStream { name, before, config } in plan.streams {
        let (what, config) = match &before {
            None => ("CREATE", config),
            Some(before) if name == EVENTS => ("UPDATE", order.noted(before, config)),
            Some(_) => ("UPDATE", config),
        };
        placed(connection, &format!("STREAM.{what}.{name}"), (name, &config), &say)
            .await
            .with_context(|| match &before {
                None => format!("cannot create stream {name}"),
                Some(_) => format!("cannot change stream {name}"),
            })?;
        if before.is_some() {
            changed.push((name, config["num_replicas"].as_u64().unwrap_or(1)));
        }
    }
    // The log is complete now, so an interrupted restore no longer matters.
    restoring::end(connection).await?;
    for (consumer, step) in &plan.consumers {
        bring_up_to_date(connection, consumer, *step).await?;
    }
    for (name, replicas) in changed {
        until_current(connection, name, &format!("STREAM.INFO.{name}"), replicas, &say).await?;
        for (consumer, _) in plan.consumers.iter().filter(|(wanted, _)| wanted.stream == name) {
            let what = format!("CONSUMER.INFO.{name}.{}", consumer.name);
            until_current(connection, &consumer.name, &what, consumer.replicas(replicas), &say).await?;
        }
    }
    Ok(Applied {
        changes: plan.changes,
        differences: differences(connection).await?,
    })
}

/// Creates a consumer, or changes it where events depend on the difference.
async fn bring_up_to_date(
    connection: &Connection,
    consumer: &WantedConsumer,
    step: ConsumerStep,
) -> anyhow::Result<()> {
    if step == ConsumerStep::Replace {
        let what = format!("CONSUMER.DELETE.{}.{}", consumer.stream, consumer.name);
        api::ask(connection, &what, &Value::Null, api::ANSWER).await?;
    }
    if step != ConsumerStep::Keep {
        consumer.create(connection).await?;
    }
    Ok(())
}

/// Creates or changes a stream. The servers of a cluster tell each other only every few seconds how much of their store is reserved.
/// A server without room for a copy may still count a deleted copy, so the request is repeated for a while.
async fn placed(
    connection: &Connection,
    what: &str,
    (name, config): (&str, &Value),
    say: &impl Fn(String),
) -> anyhow::Result<()> {
    let (began, mut is_said) = (Instant::now(), false);
    loop {
        let Err(error) = api::ask(connection, what, config, api::ANSWER).await else {
            return Ok(());
        };
        if !api::is_refused_with(&error, NO_ROOM) {
            return Err(error);
        }
        if began.elapsed() > ROOM_TIMEOUT {
            let each = match config["max_bytes"].as_i64() {
                Some(bytes @ 1..) => format!("each copy of {name} reserves {bytes} bytes (--max-bytes)"),
                _ => format!("too few servers can hold a copy of {name}"),
            };
            return Err(error.context(format!(
                "no place for all copies: {each}; a server's room is max_file_store of its configuration, less what others reserve"
            )));
        }
        if !is_said {
            is_said = true;
            say(format!(
                "{name}: {error:#}; waiting, for freed room is known after some seconds"
            ));
        }
        tokio::time::sleep(ROOM_PAUSE).await;
    }
}

/// Refuses a change by which NATS would remove events at once.
pub(super) fn forgets_nothing(name: &str, config: &Value, info: &Value) -> anyhow::Result<()> {
    let (before, state) = (&info["config"], &info["state"]);
    if state["messages"].as_u64().unwrap_or_default() == 0 {
        return Ok(());
    }
    if config["max_age"] != before["max_age"]
        && let Some(first) = older_than_kept(config, state)
    {
        bail!(
            "{name} holds events since {first}, which are older than --max-age: NATS would remove them at once; --forget does that"
        );
    }
    if config["max_bytes"] != before["max_bytes"]
        && let Some((bytes, most)) = more_than_kept(config, state)
    {
        bail!(
            "{name} holds {bytes} bytes, more than --max-bytes {most}: NATS would remove the oldest events at once; --forget does that"
        );
    }
    Ok(())
}

/// When the oldest event of a stream came, where that is longer ago than `max_age` keeps it; none if there is no event.
pub fn older_than_kept<'a>(config: &Value, state: &'a Value) -> Option<&'a str> {
    if state["messages"].as_u64() == Some(0) {
        // The server reports the year 1 for an empty stream.
        return None;
    }
    let kept = config["max_age"].as_i64().filter(|age| *age > 0)?;
    let first = state["first_ts"].as_str()?;
    let came = DateTime::parse_from_rfc3339(first).ok()?;
    (Utc::now() - TimeDelta::nanoseconds(kept) > came).then_some(first)
}

/// How many bytes a stream holds and its `max_bytes`, where that is less.
pub fn more_than_kept(config: &Value, state: &Value) -> Option<(i64, i64)> {
    let bytes = state["bytes"].as_i64()?;
    let most = config["max_bytes"].as_i64()?;
    (1..bytes).contains(&most).then_some((bytes, most))
}

/// Waits until a stream or consumer has so many copies, and each has all that the others have.
async fn until_current(
    connection: &Connection,
    name: &str,
    what: &str,
    replicas: u64,
    say: &impl Fn(String),
) -> anyhow::Result<()> {
    let mut last = (String::new(), Instant::now());
    let mut reported_at = None::<Instant>;
    loop {
        // During an election there is no answer.
        let state = match api::ask(connection, what, &Value::Null, api::ANSWER).await {
            Ok(info) => copies(&info, replicas),
            Err(error) => Err(format!("{error:#}")),
        };
        let Err(state) = state else {
            if reported_at.is_some() || replicas > 1 {
                say(format!("{name}: {replicas} of {replicas} copies are current"));
            }
            return Ok(());
        };
        if state != last.0 {
            last = (state.clone(), Instant::now());
        } else if last.1.elapsed() > STALLED {
            bail!(
                "{name}: no progress for {} s: {state}; run the same command again to go on waiting",
                STALLED.as_secs()
            );
        }
        if reported_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            reported_at = Some(Instant::now());
            say(format!("{name}: {state}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether there are as many copies as wanted and all are current; else how far they are.
fn copies(info: &Value, replicas: u64) -> Result<(), String> {
    // A single server reports no copies.
    let Some(cluster) = info.get("cluster").filter(|cluster| cluster.is_object()) else {
        return if replicas == 1 {
            Ok(())
        } else {
            Err("no cluster".to_owned())
        };
    };
    let others = cluster["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_current = |peer: &&Value| peer["current"] == json!(true) && peer["offline"] != json!(true);
    let current = 1 + others.iter().filter(is_current).count() as u64;
    let has_leader = cluster["leader"].as_str().is_some_and(|leader| !leader.is_empty());
    if has_leader && current == replicas && others.len() as u64 + 1 == replicas {
        return Ok(());
    }
    let mut state = format!("{current} of {replicas} copies are current");
    if others.len() as u64 + 1 > replicas {
        state += &format!(", {} are to go", others.len() as u64 + 1 - replicas);
    }
    for peer in others.iter().filter(|peer| !is_current(peer)) {
        let (name, lag) = (peer["name"].as_str().unwrap_or("?"), peer["lag"].as_u64().unwrap_or(0));
        state += &format!("; {name} lacks {lag} messages");
    }
    Err(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, current: bool, lag: u64) -> Value {
        json!({"name": name, "current": current, "lag": lag})
    }

    #[test]
    fn copies_are_there_when_each_has_everything() {
        let of = |replicas: Value| json!({"cluster": {"leader": "a", "replicas": replicas}});
        assert_eq!(copies(&json!({}), 1), Ok(()));
        assert!(copies(&json!({}), 3).is_err());
        assert_eq!(copies(&json!({"cluster": {"leader": "a"}}), 1), Ok(()));
        assert_eq!(copies(&of(json!([peer("b", true, 0), peer("c", true, 0)])), 3), Ok(()));
        assert!(copies(&of(json!([peer("b", true, 0)])), 3).is_err());
        let behind = copies(&of(json!([peer("b", true, 0), peer("c", false, 7)])), 3);
        assert_eq!(behind.unwrap_err(), "2 of 3 copies are current; c lacks 7 messages");
        assert!(
            copies(&of(json!([peer("b", true, 0)])), 1)
                .unwrap_err()
                .contains("are to go")
        );
        assert!(
            copies(
                &json!({"cluster": {"replicas": [peer("b", true, 0), peer("c", true, 0)]}}),
                3
            )
            .is_err()
        );
    }

    #[test]
    fn nothing_expires_without_forget() {
        let info = |age: i64, bytes: i64| {
            json!({"config": {"max_age": 0, "max_bytes": -1}, "state": {
                "messages": 5, "bytes": bytes, "first_ts": (Utc::now() - TimeDelta::days(age)).to_rfc3339()}})
        };
        let day = TimeDelta::days(1).num_nanoseconds().unwrap();
        let config = |days: i64, bytes: i64| json!({"max_age": days * day, "max_bytes": bytes});
        assert!(forgets_nothing("EVENTS", &config(30, -1), &info(40, 10)).is_err());
        assert!(forgets_nothing("EVENTS", &config(30, -1), &info(20, 10)).is_ok());
        assert!(forgets_nothing("EVENTS", &config(0, 9), &info(40, 10)).is_err());
        assert!(forgets_nothing("EVENTS", &config(0, 10), &info(40, 10)).is_ok());
        let mut unchanged = info(40, 10);
        unchanged["config"] = config(30, 9);
        assert!(forgets_nothing("EVENTS", &config(30, 9), &unchanged).is_ok());
    }
}
