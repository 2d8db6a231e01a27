//! A mirror of the log on another server, and its promotion to the log when the first one is lost.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{
    ApplyOptions, EVENTS, api,
    apply::forgets_nothing,
    choices::{chosen, with_choices},
    events_file,
    notes::{ActNote, with_note},
};
use crate::{
    event::operator::{ActResult, Acted},
    journal::connection::Connection,
};

/// Settings that a mirror may not have, because it takes no publishes.
const NOT_OF_MIRRORS: [&str; 3] = ["subjects", "allow_atomic", "duplicate_window"];

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Sequence of the last event that it has.
    pub last: u64,
    /// Events of the log that it lacks, as the server knows.
    pub lag: u64,
    /// Whether it has heard from the log since its server started. If not, the server does not know the lag and calls it 0.
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
/// If NATS refuses, or this server has a log of its own.
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

/// The reason why a mirror must not become the log; none if it may. `expected` is the log's last sequence as the operator knows it.
fn objection(followed: &Followed, expected: Option<u64>) -> Option<String> {
    let Followed { last, lag, .. } = *followed;
    if followed.active {
        return Some(
            "the log that is mirrored is still there: stop its server first, so that there are not two logs; 5 s later this is possible"
                .to_owned(),
        );
    }
    if last == 0 {
        return Some("the mirror is empty".to_owned());
    }
    if let Some(expected) = expected.filter(|expected| *expected > last) {
        return Some(format!(
            "the mirror ends with sequence {last} and the log with {expected}: events that the mirror lacks: {}",
            expected - last
        ));
    }
    if lag > 0 {
        return Some(format!("the mirror lacks at least {lag} events of the log"));
    }
    if !followed.heard && expected.is_none() {
        return Some(format!(
            "this server has not heard from the log since it started, so it is not known whether the mirror, which ends with sequence \
             {last}, lacks events: name the log's last sequence by --last (the metric event_log_last_sequence of the hubs)"
        ));
    }
    None
}

/// Makes the mirror on this server the log: it takes events from now on and no longer follows. `expected` is the last sequence of
/// the log, if it is known; `acted` the act, which is noted.
///
/// # Errors
/// If it is not a mirror; unless `anyway`, also if the log that it follows is still there, so that there would be two logs, or if
/// the mirror lacks events or may lack some.
pub async fn promote(
    connection: &Connection,
    expected: Option<u64>,
    anyway: bool,
    acted: Acted,
) -> anyhow::Result<Followed> {
    let info = api::stream_info(connection, EVENTS)
        .await?
        .context("EVENTS is missing: there is nothing to promote")?;
    let followed = followed(&info)?;
    if !anyway && let Some(objection) = objection(&followed, expected) {
        bail!("{objection} (--anyway promotes it all the same)");
    }
    // The log keeps as much as the mirror did, so the promotion removes nothing.
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
    let result = ActResult {
        error: None,
        counts: json!({ "lastSequence": followed.last, "lacking": followed.lag }),
    };
    let acted = Acted {
        result: Some(result),
        ..acted
    };
    let config = with_note(config, &ActNote::new(acted));
    api::ask(connection, &format!("STREAM.UPDATE.{EVENTS}"), &config, api::ANSWER)
        .await
        .context("cannot promote the mirror")?;
    Ok(followed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_against_a_promotion() {
        let whole = Followed {
            last: 7,
            lag: 0,
            heard: true,
            active: false,
        };
        for expected in [None, Some(7), Some(6)] {
            assert_eq!(objection(&whole, expected), None, "{expected:?}");
        }
        let unheard = Followed { heard: false, ..whole };
        for (followed, expected, reason) in [
            (Followed { active: true, ..whole }, None, "still there"),
            (Followed { last: 0, ..whole }, None, "empty"),
            (whole, Some(9), "lacks: 2"),
            (Followed { lag: 3, ..whole }, Some(7), "lacks at least 3"),
            (unheard, None, "not known"),
            (unheard, Some(8), "lacks: 1"),
        ] {
            let said = objection(&followed, expected).unwrap_or_default();
            assert!(said.contains(reason), "{reason}: {said}");
        }
        assert_eq!(objection(&unheard, Some(7)), None);
    }
}
