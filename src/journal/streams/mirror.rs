//! A mirror of the log on another server, and its promotion to the log when the first one is lost.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{
    ApplyOptions, EVENTS, api,
    apply::forgets_nothing,
    choices::{chosen, with_choices},
    events_file,
};
use crate::journal::connection::Connection;

/// What a mirror may not have: it takes no publishes.
const NOT_OF_MIRRORS: [&str; 3] = ["subjects", "allow_atomic", "duplicate_window"];

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Sequence of the last event that it has.
    pub last: u64,
    /// Events of the log that it lacks, as the server knows.
    pub lag: u64,
    /// Whether it has ever heard from the log.
    pub heard: bool,
    /// Whether it heard from the log within the last few seconds.
    pub active: bool,
}

/// The server calls a mirror that never heard from its origin -1, else says how long ago it did, in nanoseconds; the origin
/// is heard every second or so.
const ACTIVE_NANOS: i64 = 5_000_000_000;

/// Makes `EVENTS` on this server a mirror of `EVENTS` of the domain; where it is one already, says how far it is. `order`: how much it
/// keeps, which only its operator can change. Where it is full the oldest events make room, so that it goes on following.
///
/// # Errors
/// Where NATS refuses, or this server has a log of its own.
pub async fn follow(connection: &Connection, domain: &str, order: &ApplyOptions) -> anyhow::Result<Followed> {
    let file = events_file()?;
    let Some(info) = api::stream_info(connection, EVENTS).await? else {
        let mut config = file.clone();
        config.retain(|setting, _| !NOT_OF_MIRRORS.contains(&setting.as_str()));
        let origin = json!({ "name": EVENTS, "external": { "api": format!("$JS.{domain}.API") } });
        config.insert("mirror".to_owned(), origin);
        config.insert("discard".to_owned(), json!("old"));
        let config = with_choices(EVENTS, &file, &Value::Object(config), &order.choices);
        let made = api::ask(connection, &format!("STREAM.CREATE.{EVENTS}"), &config, api::ANSWER).await;
        return followed(&made.context("cannot create the mirror")?);
    };
    let is_followed = followed(&info)?;
    let config = with_choices(EVENTS, &file, &info["config"], &order.choices);
    if config != info["config"] {
        if !order.forget {
            forgets_nothing(EVENTS, &config, &info)?;
        }
        let changed = api::ask(connection, &format!("STREAM.UPDATE.{EVENTS}"), &config, api::ANSWER).await;
        changed.context("cannot change the mirror")?;
    }
    Ok(is_followed)
}

fn followed(info: &Value) -> anyhow::Result<Followed> {
    if !info["config"]["mirror"].is_object() {
        bail!("{EVENTS} on this server is a log of its own and no mirror");
    }
    let active = info["mirror"]["active"].as_i64().unwrap_or(-1);
    Ok(Followed {
        last: info["state"]["last_seq"].as_u64().unwrap_or_default(),
        lag: info["mirror"]["lag"].as_u64().unwrap_or_default(),
        heard: active >= 0,
        active: (0..ACTIVE_NANOS).contains(&active),
    })
}

/// Makes the mirror on this server the log: it takes events from now on, and no longer follows.
///
/// # Errors
/// Where it is no mirror; unless `anyway`, where the log that it follows is still heard, so that there would be two, or where it
/// is known to lack events.
pub async fn promote(connection: &Connection, anyway: bool) -> anyhow::Result<Followed> {
    let info = api::stream_info(connection, EVENTS)
        .await?
        .context("EVENTS is missing: there is nothing to promote")?;
    let followed = followed(&info)?;
    if !anyway {
        if followed.active {
            bail!(
                "the log that is mirrored is still there: stop its server first, so that there are not two logs (or --anyway)"
            );
        }
        if followed.last == 0 {
            bail!("the mirror is empty (or --anyway)");
        }
        if followed.lag > 0 {
            bail!(
                "the mirror lacks at least {} events of the log; if that cannot be read any more: --anyway",
                followed.lag
            );
        }
    }
    // It keeps as much as the mirror did, so that nothing is removed by becoming the log.
    let mut config = events_file()?;
    if let Some(copies) = info["config"].get("num_replicas") {
        config.insert("num_replicas".to_owned(), copies.clone());
    }
    let config = with_choices(
        EVENTS,
        &config.clone(),
        &Value::Object(config),
        &chosen(&info["config"]),
    );
    api::ask(connection, &format!("STREAM.UPDATE.{EVENTS}"), &config, api::ANSWER)
        .await
        .context("cannot promote the mirror")?;
    Ok(followed)
}
