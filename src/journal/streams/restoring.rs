//! The mark of a log that is being restored: it stands in the stream's metadata from the first byte until all events were seen on
//! the server. With it the stream takes no event, so what was restored in part can neither pass for the log nor grow.

use serde_json::{Map, Value, json};

use super::Difference;

/// Key in the stream's metadata; its value is the last sequence of the backup.
const KEY: &str = "webhook-hub.restoring";
/// The only subject of a marked stream: no event has it. (A `max_msg_size` that refuses all events would do, too, but the server
/// refuses to restore what is above it.)
const NO_EVENTS: &str = "hub.restoring";
/// What an operator is to do about it.
pub const ADVICE: &str = "a restore of this stream was interrupted: run `webhook-hub restore FOLDER` again";

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
    // Whatever else it says, the stream is not whole; as if nothing was restored, so that nothing is deleted by it.
    Some(mark.as_str().and_then(|last| last.parse().ok()).unwrap_or(0))
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
pub(super) fn is_mark(difference: &Difference) -> bool {
    difference.setting == KEY
}

/// Refuses to do anything else with a marked stream.
///
/// # Errors
/// Where it is marked, with what to do.
pub fn refuse(stream: &str, config: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(mark(config).is_none(), "{stream}: {ADVICE}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_stream_takes_nothing_and_says_so() {
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
        // A log without metadata.
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
