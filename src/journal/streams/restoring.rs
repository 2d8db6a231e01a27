//! The mark of a log that is being restored. It is kept in two places.
//!
//! In the metadata of `EVENTS`, from the first byte until all events were seen on the server. With it the stream takes no event, so what was
//! restored in part can neither pass for the log nor grow.
//!
//! In the metadata of `LEASES`, from before the old `EVENTS` is deleted until the restore has ended. It counts only if `EVENTS` is
//! missing: between the deletion and the first byte there is no `EVENTS` that could carry a mark, and `streams apply` would make an empty one.

use std::collections::HashMap;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    Difference, EVENTS, LEASES, LEASES_FILE, Setting, api,
    choices::{chosen, with_choices},
};
use crate::journal::connection::Connection;

/// Key in the metadata of both streams; its value is the last sequence of the backup.
const KEY: &str = "webhook-hub.restoring";
/// The only subject of a marked stream: no event has it. (A `max_msg_size` that refuses all events would do, too, but the server
/// refuses to restore what is above it.)
const NO_EVENTS: &str = "hub.restoring";
/// What an operator should do.
pub const ADVICE: &str = "a restore of this stream was interrupted: run `webhook-hub restore FOLDER` again";
/// The same where the stream is missing.
const ADVICE_WITHOUT_LOG: &str = "a restore of this stream was interrupted: run `webhook-hub restore FOLDER` again (to begin with an empty \
                                  log instead: `webhook-hub streams apply --forget`)";

/// The configuration with the mark. `last`: the last sequence of the backup; 0 where nothing was restored yet.
pub fn marked(config: &Value, last: u64) -> Value {
    let mut marked = config.clone();
    marked["subjects"] = json!([NO_EVENTS]);
    marked["metadata"][KEY] = last.to_string().into();
    marked
}

/// The configuration without the mark, with the subjects of the stream's file.
pub fn unmarked(config: &Value, file: &Map<String, Value>) -> Value {
    let mut unmarked = config.clone();
    unmarked["subjects"] = file.get("subjects").cloned().unwrap_or(Value::Null);
    if let Some(metadata) = unmarked["metadata"].as_object_mut() {
        metadata.remove(KEY);
    }
    unmarked
}

/// The last sequence that a marked stream can have; none without the mark.
pub fn mark(config: &Value) -> Option<u64> {
    let mark = config["metadata"].get(KEY)?;
    // Any other value also means an incomplete stream. It is read as "nothing restored", so that nothing is deleted because of it.
    Some(mark.as_str().and_then(|last| last.parse().ok()).unwrap_or(0))
}

/// Whether the mark is in a stream's metadata.
pub fn is_in(metadata: &HashMap<String, String>) -> bool {
    metadata.contains_key(KEY)
}

/// Whether the stream holds nothing but what a restore put there, by what `STREAM.INFO` says of it.
pub fn holds_only_a_part(info: &Value) -> bool {
    let last = info["state"]["last_seq"].as_u64().unwrap_or(u64::MAX);
    mark(&info["config"]).is_some_and(|most| last <= most)
}

/// The mark, as [`differences`](super::differences) shows it.
pub(super) fn difference(of: &str, config: &Value) -> Option<Difference> {
    let found = config["metadata"].get(KEY)?.clone();
    Some(Difference {
        of: of.to_owned(),
        setting: KEY.to_owned(),
        wanted: Value::Null,
        found,
        dangerous: true,
    })
}

/// Whether a difference is the mark.
pub fn is_mark(difference: &Difference) -> bool {
    difference.setting == KEY
}

/// The message for an operator. `found` is the difference's value; null if the stream is missing.
pub(super) const fn advice(found: &Value) -> &'static str {
    match found {
        Value::Null => ADVICE_WITHOUT_LOG,
        _ => ADVICE,
    }
}

/// A missing `EVENTS`, where `LEASES` says that a restore deleted it, or was about to make it.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn missing_log(connection: &Connection) -> anyhow::Result<Option<Difference>> {
    let leases = api::stream_info(connection, LEASES).await?;
    let is_marked = leases.is_some_and(|info| mark(&info["config"]).is_some());
    Ok(is_marked.then(|| Difference {
        of: EVENTS.to_owned(),
        setting: KEY.to_owned(),
        wanted: Value::Null,
        found: Value::Null,
        dangerous: true,
    }))
}

/// Notes that `EVENTS` is about to be deleted, or to be made from a backup; makes `LEASES` for that where it is missing. `config`: the log's,
/// by which a new `LEASES` has as many copies. `last`: the last sequence of the backup.
///
/// # Errors
/// If NATS refuses or does not answer.
pub async fn begin(connection: &Connection, config: &Value, last: u64) -> anyhow::Result<()> {
    let noted = async {
        let (what, mut changed) = match api::stream_info(connection, LEASES).await? {
            Some(mut info) => ("UPDATE", info["config"].take()),
            None => {
                let file: Map<String, Value> = serde_json::from_str(LEASES_FILE)?;
                let copies = chosen(config)
                    .into_iter()
                    .filter(|choice| choice.setting == Setting::Replicas);
                let copies: Vec<_> = copies.collect();
                (
                    "CREATE",
                    with_choices(LEASES, &file, &Value::Object(file.clone()), &copies),
                )
            }
        };
        changed["metadata"][KEY] = last.to_string().into();
        api::ask(connection, &format!("STREAM.{what}.{LEASES}"), &changed, api::ANSWER).await
    };
    noted.await.context("cannot note in LEASES that a restore begins")?;
    Ok(())
}

/// Takes that note away, where there is one: there is a log.
///
/// # Errors
/// If NATS refuses or does not answer.
pub async fn end(connection: &Connection) -> anyhow::Result<()> {
    let Some(mut info) = api::stream_info(connection, LEASES).await? else {
        return Ok(());
    };
    let mut config = info["config"].take();
    let metadata = config["metadata"].as_object_mut();
    if metadata.and_then(|metadata| metadata.remove(KEY)).is_none() {
        return Ok(());
    }
    api::ask(connection, &format!("STREAM.UPDATE.{LEASES}"), &config, api::ANSWER)
        .await
        .context("cannot note in LEASES that the restore has ended")?;
    Ok(())
}

/// Refuses to do anything else with a marked stream.
///
/// # Errors
/// If it is marked, with what to do.
pub fn refuse(stream: &str, config: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(mark(config).is_none(), "{stream}: {ADVICE}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_stream_takes_no_event() {
        let config = json!({"subjects": ["orders.>"], "metadata": {"other": "1"}});
        assert_eq!((mark(&config), difference("EVENTS", &config)), (None, None));
        let marked = marked(&config, 7);
        assert_eq!(
            (&marked["subjects"], mark(&marked)),
            (&json!(["hub.restoring"]), Some(7))
        );
        assert_eq!(marked["metadata"]["other"], "1");
        let shown = difference("EVENTS", &marked).unwrap();
        assert!(shown.dangerous && is_mark(&shown));
        assert_eq!(shown.to_string(), format!("EVENTS: {ADVICE}"));
        assert!(refuse("EVENTS", &marked).is_err() && refuse("EVENTS", &config).is_ok());
        let file = config.as_object().unwrap();
        assert_eq!(unmarked(&marked, file), config);
        // Streams without metadata.
        assert_eq!(mark(&super::marked(&json!({}), 3)), Some(3));
        assert_eq!(mark(&json!({"metadata": null})), None);
    }

    #[test]
    fn only_what_a_restore_put_there_is_a_part() {
        let info = |config: Value, last: u64| json!({"config": config, "state": {"last_seq": last}});
        let marked = marked(&json!({}), 7);
        assert!(holds_only_a_part(&info(marked.clone(), 0)) && holds_only_a_part(&info(marked.clone(), 7)));
        assert!(!holds_only_a_part(&info(marked, 8)), "it took events before the mark");
        assert!(!holds_only_a_part(&info(json!({}), 0)));
        let unreadable = json!({"metadata": {KEY: "x"}});
        assert!(!holds_only_a_part(&info(unreadable, 1)));
    }
}
