//! The set-up of the server: the files in `streams/`, which are embedded, compared with the server, and applied.
//!
//! The serving hub only compares. `webhook-hub streams apply`, with the rights for it, creates what is missing and changes
//! what an operator chose ([`choices`]). `consumers` derives the durable consumers from the list of stages, `compare` tells
//! dangerous differences from harmless ones, `plan` tells what is changed before it is, `absent` handles a consumer that is deleted under the running hub, [`mirror`] the
//! log on another server, `restorable` what a backup may bring, [`restoring`] a log that is not complete yet, [`notes`] what a
//! hub is to record of the acts of `provision`.

mod absent;
pub mod api;
mod apply;
pub mod choices;
mod compare;
mod consumers;
pub mod mirror;
pub mod notes;
mod plan;
mod restorable;
pub mod restoring;

use anyhow::Context as _;
use async_nats::jetstream::{consumer::PullConsumer, stream};
use serde_json::{Map, Value};

use self::compare::compare;
pub use self::{
    absent::wait_for,
    apply::{Applied, ApplyOptions, apply, more_than_kept, older_than_kept},
    choices::{Choice, Setting},
    compare::Difference,
    plan::{Change, planned},
    restorable::restorable,
};
use super::{EVENTS, connection::Connection};

/// Which instance works on a stage.
pub const LEASES: &str = "LEASES";
/// Orders that wait for long.
pub const LANES: &str = "LANES";
/// Counters of rate limits.
pub const LIMITS: &str = "LIMITS";
/// Blocked addresses and providers, and addresses that are known.
pub const BLOCKS: &str = "BLOCKS";
/// Refused webhooks.
pub const REFUSALS: &str = "REFUSALS";
/// Idempotency keys of the backend.
pub const KEYS: &str = "KEYS";

const EVENTS_FILE: &str = include_str!("../../streams/EVENTS.json");
const LEASES_FILE: &str = include_str!("../../streams/LEASES.json");
const LANES_FILE: &str = include_str!("../../streams/LANES.json");
const LIMITS_FILE: &str = include_str!("../../streams/LIMITS.json");
const BLOCKS_FILE: &str = include_str!("../../streams/BLOCKS.json");
const REFUSALS_FILE: &str = include_str!("../../streams/REFUSALS.json");
const KEYS_FILE: &str = include_str!("../../streams/KEYS.json");
/// Streams by name.
const STREAMS: [(&str, &str); 7] = [
    (EVENTS, EVENTS_FILE),
    (LEASES, LEASES_FILE),
    (LANES, LANES_FILE),
    (LIMITS, LIMITS_FILE),
    (BLOCKS, BLOCKS_FILE),
    (REFUSALS, REFUSALS_FILE),
    (KEYS, KEYS_FILE),
];
/// Streams that no order needs: the hub also serves without them.
const DISPENSABLE: [&str; 4] = [LIMITS, BLOCKS, REFUSALS, KEYS];

/// JetStream's error code for a consumer that is not there.
const CONSUMER_NOT_FOUND: u64 = 10014;

/// A consumer or stream that is not on the server.
#[derive(Debug, thiserror::Error)]
#[error("{0} is missing on the NATS server; run `webhook-hub streams apply` with a user that may create it")]
pub struct Missing(String);

/// The subjects that `EVENTS` takes, for documents that are checked against it.
///
/// # Errors
/// If the embedded file is broken, which a test rules out.
pub fn subjects() -> anyhow::Result<Vec<String>> {
    Ok(serde_json::from_str::<stream::Config>(EVENTS_FILE)?.subjects)
}

/// A durable consumer that exists.
///
/// # Errors
/// [`Missing`] where it does not; anything else is trouble with NATS and can be tried again.
pub async fn consumer(connection: &Connection, stream: &str, name: &str) -> anyhow::Result<PullConsumer> {
    match connection.context.get_consumer_from_stream(name, stream).await {
        Ok(consumer) => Ok(consumer),
        Err(error) => match error.kind() {
            stream::ConsumerErrorKind::JetStream(cause) if cause.error_code().0 == CONSUMER_NOT_FOUND => {
                Err(Missing(format!("consumer {name}")).into())
            }
            _ => Err(error).with_context(|| format!("cannot look up consumer {name}")),
        },
    }
}

/// Sequence of the last event on the log.
///
/// # Errors
/// If NATS does not answer.
pub async fn last_sequence(connection: &Connection) -> anyhow::Result<u64> {
    Ok(connection
        .context
        .get_stream(EVENTS)
        .await?
        .cached_info()
        .state
        .last_sequence)
}

/// The file of `EVENTS`, as JetStream takes it.
///
/// # Errors
/// If the embedded file is broken, which a test rules out.
pub fn events_file() -> anyhow::Result<Map<String, Value>> {
    Ok(serde_json::from_str(EVENTS_FILE)?)
}

/// Compares the server with the files, and with what the operator chose instead.
///
/// # Errors
/// If NATS does not answer.
pub async fn differences(connection: &Connection) -> anyhow::Result<Vec<Difference>> {
    let (mut all, mut missing_streams) = (Vec::new(), Vec::new());
    for (name, file) in STREAMS {
        let Some(info) = api::stream_info(connection, name).await? else {
            missing_streams.push(name);
            let of_restore = match name {
                EVENTS => restoring::missing_log(connection).await?,
                _ => None,
            };
            all.push(of_restore.unwrap_or_else(|| missing(name)));
            continue;
        };
        all.extend(stream_differences(name, file, &info["config"])?);
    }
    for wanted in consumers::all()? {
        if !missing_streams.contains(&wanted.stream) {
            all.extend(wanted.differences(connection).await?);
        }
    }
    Ok(all)
}

fn stream_differences(name: &str, file: &str, config: &Value) -> anyhow::Result<Vec<Difference>> {
    if name == EVENTS
        && let Some(mark) = restoring::difference(name, config)
    {
        // All other differences follow from the mark.
        return Ok(vec![mark]);
    }
    let wanted = choices::wanted(&serde_json::from_str(file)?, &choices::chosen(config));
    Ok(compare(name, wanted, config, !DISPENSABLE.contains(&name)))
}

/// The choices of operators on this server, each with its stream.
///
/// # Errors
/// If NATS does not answer.
pub async fn chosen(connection: &Connection) -> anyhow::Result<Vec<(&'static str, Choice)>> {
    let mut all = Vec::new();
    for (name, _) in STREAMS {
        if let Some(info) = api::stream_info(connection, name).await? {
            all.extend(
                choices::chosen(&info["config"])
                    .into_iter()
                    .map(|choice| (name, choice)),
            );
        }
    }
    Ok(all)
}

/// Makes sure that the server is as it must be for serving.
///
/// # Errors
/// If something is missing or differs, from its file or from what the operator chose, in a way that could lose events; the
/// message names the remedy. Trouble with the connection comes as another error and can be tried again: [`is_verdict`] tells
/// them apart.
pub async fn verify(connection: &Connection) -> anyhow::Result<()> {
    let differences = differences(connection).await?;
    let (dangerous, harmless): (Vec<_>, Vec<_>) = differences.into_iter().partition(|one| one.dangerous);
    for difference in harmless {
        tracing::warn!(%difference, "NATS is not set up as the files in streams/ say; nothing can be lost by it");
    }
    if dangerous.is_empty() {
        return Ok(());
    }
    if let Some(mark) = dangerous.iter().find(|one| restoring::is_mark(one)) {
        return Err(StreamsVerdict(format!("NATS is not set up as it must be: {mark}")).into());
    }
    let shown: Vec<_> = dangerous.iter().take(3).map(ToString::to_string).collect();
    let more = if dangerous.len() > 3 {
        format!(" and {} more", dangerous.len() - 3)
    } else {
        String::new()
    };
    Err(StreamsVerdict(format!(
        "NATS is not set up as it must be: {}{more}; see `webhook-hub streams diff`, and run `webhook-hub streams apply` with a user that may create streams",
        shown.join("; "),
    ))
    .into())
}

/// A permanent fault found by [`verify`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StreamsVerdict(String);

/// Whether an error of [`verify`] will stay until the server is repaired.
pub fn is_verdict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StreamsVerdict>().is_some()
}

fn missing(name: &str) -> Difference {
    Difference {
        of: name.to_owned(),
        setting: String::new(),
        wanted: Value::Null,
        found: Value::Null,
        dangerous: !DISPENSABLE.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_server_takes() {
        for (name, file) in STREAMS {
            assert_eq!(serde_json::from_str::<stream::Config>(file).unwrap().name, name);
        }
        assert_eq!(subjects().unwrap(), ["webhooks.>", "orders.>", "menus.>"]);
    }

    /// streams/asyncapi.json describes each type of event on its subject, and nothing else.
    #[test]
    fn the_description_has_every_channel() {
        use crate::event::EventType;
        let document: Value = serde_json::from_str(include_str!("../../streams/asyncapi.json")).unwrap();
        let channels = document["channels"].as_object().unwrap();
        // One channel is no event: the sample of refusals.
        assert_eq!(channels["refusal"]["address"], "refusals.{provider}.{code}");
        assert_eq!(channels.len(), EventType::ALL.len() + 1);
        for event_type in EventType::ALL {
            let address = channels[event_type.as_str()]["address"].as_str().unwrap();
            assert!(
                address.starts_with(&format!("{}.{{provider}}.", event_type.subject_root())),
                "{address}"
            );
            let root = address.split('.').next().unwrap();
            assert!(subjects().unwrap().contains(&format!("{root}.>")));
        }
    }

    /// Dispensable streams never fill the disk that the log needs.
    #[test]
    fn dispensable_streams_are_limited_and_discard_old_messages() {
        for (name, file) in STREAMS.iter().filter(|(name, _)| DISPENSABLE.contains(name)) {
            let config: stream::Config = serde_json::from_str(file).unwrap();
            assert_eq!(config.discard, stream::DiscardPolicy::Old, "{name}");
            assert!(!config.max_age.is_zero(), "{name}");
            assert!(config.max_bytes > 0 || config.max_messages > 0, "{name}");
        }
        // Strangers decide how much goes into this stream: its size is limited, and one kind of refusal does not push out the others.
        let config: stream::Config = serde_json::from_str(REFUSALS_FILE).unwrap();
        assert!(config.max_bytes > 0 && config.max_message_size > 0, "{config:?}");
        let of_one_kind = config.max_messages_per_subject;
        assert!(of_one_kind > 0 && config.max_messages >= 4 * of_one_kind, "{config:?}");
    }

    #[test]
    fn dangerous_differences_are_told_from_harmless_ones() {
        let server = |change: (&str, Value)| {
            let mut config: Value = serde_json::from_str(EVENTS_FILE).unwrap();
            config[change.0] = change.1;
            stream_differences(EVENTS, EVENTS_FILE, &config).unwrap()
        };
        assert_eq!(server(("name", "EVENTS".into())), []);
        assert_eq!(server(("max_msgs", 0.into())), []);
        assert!(server(("max_msgs", 1000.into()))[0].dangerous);
        assert!(server(("max_age", 3_600_000_000_000i64.into()))[0].dangerous);
        assert!(!server(("max_age", 31_536_000_000_000_000i64.into()))[0].dangerous);
        assert!(server(("storage", "memory".into()))[0].dangerous);
        assert!(server(("deny_delete", Value::Null))[0].dangerous);
        assert!(!server(("num_replicas", 3.into()))[0].dangerous);
        assert!(server(("mirror", serde_json::json!({"name": "EVENTS"})))[0].dangerous);
    }

    /// What no file has is found as well: the server writes, removes or holds back messages by it.
    #[test]
    fn settings_beside_the_files_are_found() {
        use serde_json::json;
        let server = |name: &str, file: &str, setting: &str, value: &Value| {
            let mut config: Value = serde_json::from_str(file).unwrap();
            config[setting] = value.clone();
            stream_differences(name, file, &config).unwrap()
        };
        for (setting, value, everywhere) in [
            (
                "subject_transform",
                json!({"src": "webhooks.>", "dest": "menus.>"}),
                true,
            ),
            ("republish", json!({"src": "webhooks.>", "dest": "hub.breaker"}), true),
            ("sources", json!([{"name": "LEASES"}]), true),
            ("mirror", json!({"name": "EVENTS"}), true),
            ("sealed", json!(true), false),
            ("no_ack", json!(true), false),
            ("persist_mode", json!("async"), false),
            ("discard_new_per_subject", json!(true), false),
            ("allow_rollup_hdrs", json!(true), false),
            ("allow_msg_ttl", json!(true), false),
            ("subject_delete_marker_ttl", json!(1_000_000_000), false),
            ("consumer_limits", json!({"inactive_threshold": 1_000_000_000}), false),
        ] {
            let found = server(EVENTS, EVENTS_FILE, setting, &value);
            assert!(found[0].setting == setting && found[0].dangerous, "{found:?}");
            assert!(found[0].to_string().ends_with("but should not be set"), "{}", found[0]);
            let dispensable = server(KEYS, KEYS_FILE, setting, &value);
            assert_eq!(
                (dispensable.len(), dispensable[0].dangerous),
                (1, everywhere),
                "{setting}"
            );
        }
        assert!(server(LANES, LANES_FILE, "deny_purge", &json!(true))[0].dangerous);
        // Of a later server: it is shown, and the hub serves.
        assert!(!server(EVENTS, EVENTS_FILE, "of_tomorrow", &json!(7))[0].dangerous);
        for (setting, value) in [
            ("sealed", json!(false)),
            ("sources", json!([])),
            ("consumer_limits", json!({})),
            ("persist_mode", json!("default")),
            ("placement", json!({"tags": ["ssd"]})),
            ("metadata", json!({"team": "kitchen"})),
            ("first_seq", json!(7)),
        ] {
            assert_eq!(server(EVENTS, EVENTS_FILE, setting, &value), [], "{setting}");
        }
        let consumer = |setting: &str, value: Value| {
            let file = include_str!("../../streams/EVENTS.projection.json");
            let (wanted, mut found): (Map<String, Value>, Value) =
                (serde_json::from_str(file).unwrap(), serde_json::from_str(file).unwrap());
            found[setting] = value;
            compare("projection", wanted, &found, true)
        };
        assert_eq!(consumer("filter_subjects", json!([""])), []);
        for (setting, value) in [
            ("filter_subjects", json!(["orders.>"])),
            ("headers_only", json!(true)),
            ("inactive_threshold", json!(1_000_000_000)),
        ] {
            assert!(consumer(setting, value)[0].dangerous, "{setting}");
        }
    }
}
