//! What `streams apply` changes, and what follows from each change. It is known before anything is changed.

use std::fmt;

use anyhow::bail;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Difference, EVENTS, LEASES, STREAMS, api,
    apply::{ApplyOptions, forgets_nothing, more_than_kept, older_than_kept},
    choices::{Setting, with_choices},
    consumers::{self, WantedConsumer},
    restoring,
};
use crate::journal::{connection::Connection, form};

/// A change of the server, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The stream or consumer.
    pub of: String,
    /// What is changed.
    pub what: String,
    /// What follows from it.
    pub consequence: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.of, self.what, self.consequence)
    }
}

/// A stream that is created or changed.
pub(super) struct PlannedStream {
    pub(super) name: &'static str,
    /// What the server has now; none if it has no such stream.
    pub(super) before: Option<Value>,
    pub(super) config: Value,
}

/// What becomes of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsumerStep {
    /// It is as it must be.
    Keep,
    /// It is created, or changed; it keeps its position.
    Create,
    /// It is deleted and created. It has no position.
    Replace,
}

/// All changes.
pub(super) struct Plan {
    pub(super) streams: Vec<PlannedStream>,
    pub(super) consumers: Vec<(WantedConsumer, ConsumerStep)>,
    pub(super) changes: Vec<Change>,
}

/// The changes that [`apply`](super::apply()) would make.
///
/// # Errors
/// As [`apply`](super::apply()), as far as nothing has to be changed to find out.
pub async fn planned(connection: &Connection, order: &ApplyOptions) -> anyhow::Result<Vec<Change>> {
    Ok(read(connection, order).await?.changes)
}

pub(super) async fn read(connection: &Connection, order: &ApplyOptions) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        streams: Vec::new(),
        consumers: Vec::new(),
        changes: Vec::new(),
    };
    match api::stream_info(connection, EVENTS).await? {
        Some(info) => restoring::refuse(EVENTS, &info["config"])?,
        None if order.forget => {}
        None => {
            if let Some(interrupted) = restoring::missing_log(connection).await? {
                bail!("{interrupted}");
            }
        }
    }
    // If LEASES exists, an instance of an older version, which cannot read the compact form, may hold the stages.
    let is_new_server = api::stream_info(connection, LEASES).await?.is_none();
    for (name, file) in STREAMS {
        let file: Map<String, Value> = serde_json::from_str(file)?;
        let Some(info) = api::stream_info(connection, name).await? else {
            let mut config = with_choices(name, &file, &Value::Object(file.clone()), &order.choices);
            if name == EVENTS && is_new_server {
                config = form::marked(config);
            }
            plan.changes.push(new_stream(name, &config));
            plan.streams.push(PlannedStream {
                name,
                before: None,
                config,
            });
            continue;
        };
        let config = with_choices(name, &file, &info["config"], &order.choices);
        if config == info["config"] {
            continue;
        }
        if !order.forget {
            forgets_nothing(name, &config, &info)?;
        }
        plan.changes.extend(changed_stream(name, &config, &info));
        plan.streams.push(PlannedStream {
            name,
            before: Some(info["config"].clone()),
            config,
        });
    }
    for consumer in consumers::all()? {
        let is_new = |stream: &PlannedStream| stream.name == consumer.stream && stream.before.is_none();
        let differences = if plan.streams.iter().any(is_new) {
            vec![super::missing(&consumer.name)]
        } else {
            consumer.differences(connection).await?
        };
        let step = step(&differences, consumer.is_dispensable());
        plan.changes
            .extend(changed_consumer(&consumer.name, step, &differences));
        plan.consumers.push((consumer, step));
    }
    Ok(plan)
}

/// What is done about a consumer that differs so. One without a position is reset before each use, so it may be replaced: some of its
/// settings, such as the acknowledgement policy, cannot be changed.
fn step(differences: &[Difference], has_no_position: bool) -> ConsumerStep {
    let is_missing = differences.iter().any(|one| one.setting.is_empty());
    match differences {
        [] => ConsumerStep::Keep,
        _ if is_missing => ConsumerStep::Create,
        _ if has_no_position => ConsumerStep::Replace,
        some if some.iter().any(|one| one.dangerous) => ConsumerStep::Create,
        _ => ConsumerStep::Keep,
    }
}

fn new_stream(name: &str, config: &Value) -> Change {
    let consequence = match name {
        EVENTS => "an empty log, which takes webhooks from then on".to_owned(),
        _ => config["description"].as_str().unwrap_or_default().to_owned(),
    };
    Change {
        of: name.to_owned(),
        what: "is missing and is created".to_owned(),
        consequence,
    }
}

fn changed_stream(name: &str, config: &Value, info: &Value) -> Vec<Change> {
    let before = &info["config"];
    let change = |setting: Setting| {
        let (old, new) = (before[setting.name()].as_i64(), config[setting.name()].as_i64());
        (old != new).then(|| Change {
            of: name.to_owned(),
            what: format!(
                "{} {} becomes {}",
                setting.name(),
                shown(setting, old),
                shown(setting, new)
            ),
            consequence: consequence(setting, old, config, &info["state"]),
        })
    };
    let changes: Vec<_> = Setting::ALL.into_iter().filter_map(change).collect();
    if changes.is_empty() {
        return vec![Change {
            of: name.to_owned(),
            what: "the choice is noted; no limit changes".to_owned(),
            consequence: "later runs of `streams apply` keep it".to_owned(),
        }];
    }
    changes
}

fn consequence(setting: Setting, old: Option<i64>, config: &Value, state: &Value) -> String {
    let new = config[setting.name()].as_i64();
    match setting {
        Setting::Replicas if new > old => {
            "all of it is copied while hubs run, and the command waits until each copy is current".to_owned()
        }
        Setting::Replicas if new == Some(1) => "one server has the only copy: what its disk loses is lost".to_owned(),
        Setting::Replicas => "fewer servers may fail before it is lost".to_owned(),
        Setting::MaxAge => match older_than_kept(config, state) {
            Some(first) => format!(
                "events since {first} that are older are deleted AT ONCE, and cannot be retried, replayed or made into tables again"
            ),
            None => "older events are deleted, and cannot be retried, replayed or made into tables again".to_owned(),
        },
        Setting::MaxBytes => match more_than_kept(config, state) {
            Some((bytes, _)) => format!("it has {bytes} bytes: the oldest events are deleted AT ONCE"),
            None => format!(
                "new events are refused at that size, so webhooks are answered 503; it has {} now",
                shown(setting, state["bytes"].as_i64())
            ),
        },
    }
}

/// A value for people.
fn shown(setting: Setting, value: Option<i64>) -> String {
    const HOUR: i64 = 3_600_000_000_000;
    let value = value.unwrap_or_default();
    match setting {
        Setting::Replicas => value.to_string(),
        Setting::MaxAge | Setting::MaxBytes if value < 0 || value == 0 && setting == Setting::MaxAge => {
            "unlimited".to_owned()
        }
        Setting::MaxAge if value % (24 * HOUR) == 0 => format!("{}d", value / (24 * HOUR)),
        Setting::MaxAge => format!("{} h", value / HOUR),
        Setting::MaxBytes => format!("{:.1} GB", value as f64 / f64::from(1 << 30)),
    }
}

fn changed_consumer(name: &str, step: ConsumerStep, differences: &[Difference]) -> Option<Change> {
    let settings = || {
        let settings: Vec<_> = differences.iter().map(|one| one.setting.as_str()).collect();
        settings.join(", ")
    };
    let is_missing = differences.iter().any(|one| one.setting.is_empty());
    let (what, consequence) = match step {
        ConsumerStep::Keep => return None,
        ConsumerStep::Replace => (
            format!("is deleted and created, because of {}", settings()),
            "it has no position to lose",
        ),
        ConsumerStep::Create if is_missing => (
            "is missing and is created".to_owned(),
            "hubs begin or go on by themselves, and process no event twice",
        ),
        ConsumerStep::Create => (format!("{} is set anew", settings()), "it keeps its position"),
    };
    Some(Change {
        of: name.to_owned(),
        what,
        consequence: consequence.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: i64 = 86_400_000_000_000;

    fn said(change: (&str, i64), before: i64, state: &Value) -> String {
        let (setting, after) = change;
        let info = json!({ "config": { "num_replicas": 1, "max_age": 90 * DAY, "max_bytes": -1 }, "state": state });
        let (mut info, mut config) = (info.clone(), info["config"].clone());
        info["config"][setting] = before.into();
        config[setting] = after.into();
        let changes = changed_stream(EVENTS, &config, &info);
        assert_eq!(changes.len(), 1, "{changes:?}");
        changes[0].to_string()
    }

    #[test]
    fn each_change_has_its_consequence() {
        let old = json!({ "messages": 5, "bytes": 3_i64 << 30, "first_ts": "2020-01-01T00:00:00Z" });
        for (change, before, expected) in [
            (("num_replicas", 3), 1, "num_replicas 1 becomes 3; all of it is copied"),
            (
                ("num_replicas", 1),
                3,
                "num_replicas 3 becomes 1; one server has the only copy",
            ),
            (("num_replicas", 3), 5, "5 becomes 3; fewer servers may fail"),
            (
                ("max_age", 30 * DAY),
                90 * DAY,
                "max_age 90d becomes 30d; events since 2020-01-01T00:00:00Z that are older are deleted AT ONCE",
            ),
            (("max_age", 0), 90 * DAY, "max_age 90d becomes unlimited; older events"),
            (
                ("max_bytes", 20 << 30),
                -1,
                "max_bytes unlimited becomes 20.0 GB; new events are refused at that size, so webhooks are answered 503; it has 3.0 GB now",
            ),
            (
                ("max_bytes", 1 << 30),
                -1,
                "becomes 1.0 GB; it has 3221225472 bytes: the oldest events are deleted AT ONCE",
            ),
        ] {
            let said = said(change, before, &old);
            assert!(said.starts_with("EVENTS: ") && said.contains(expected), "{said}");
        }
        let empty = json!({ "messages": 0, "bytes": 0, "first_ts": "0001-01-01T00:00:00Z" });
        assert!(!said(("max_age", 30 * DAY), 90 * DAY, &empty).contains("AT ONCE"));
        let info = json!({ "config": { "max_age": 1 }, "state": empty });
        assert!(
            changed_stream(EVENTS, &info["config"], &info)[0]
                .to_string()
                .contains("no limit changes")
        );
    }

    #[test]
    fn a_consumer_is_created_replaced_or_left_alone() {
        let of = |setting: &str, dangerous: bool| Difference {
            of: "forward".to_owned(),
            setting: setting.to_owned(),
            wanted: Value::Null,
            found: Value::Null,
            dangerous,
        };
        for (differences, has_no_position, expected) in [
            (vec![], true, ConsumerStep::Keep),
            (vec![of("", true)], false, ConsumerStep::Create),
            (vec![of("", false)], true, ConsumerStep::Create),
            (vec![of("ack_policy", false)], true, ConsumerStep::Replace),
            (vec![of("ack_wait", false)], false, ConsumerStep::Keep),
            (
                vec![of("ack_wait", false), of("filter_subjects", true)],
                false,
                ConsumerStep::Create,
            ),
        ] {
            let step = step(&differences, has_no_position);
            assert_eq!(step, expected, "{differences:?}");
            let change = changed_consumer("forward", step, &differences);
            assert_eq!(change.is_some(), step != ConsumerStep::Keep);
        }
    }
}
