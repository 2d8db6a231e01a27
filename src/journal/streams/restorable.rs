//! What a backup says of the log's configuration, which another may have changed. Pure.

use anyhow::Context as _;
use serde_json::Value;

use super::{EVENTS, EVENTS_FILE, events_file, notes::without_notes, stream_differences};

/// The configuration of a backup as the log may have it again; settings that it does not have are those of the file. Notes of acts are
/// left out: an act that a hub recorded before the backup is on the log of the backup, and whoever changed the file could claim others.
///
/// # Errors
/// What is set in it that the log may not have, each by its name.
pub fn restorable(backup: &Value) -> anyhow::Result<Value> {
    let file = events_file()?;
    let mut config = Value::Object(file.clone());
    let settings = backup
        .as_object()
        .context("the configuration in backup.json is no object")?;
    for (setting, value) in settings {
        config[setting] = value.clone();
    }
    let differences = stream_differences(EVENTS, EVENTS_FILE, &config)?;
    // A harmless setting of a file may have been changed by an operator; one that no file has was not.
    let refused = differences
        .iter()
        .filter(|one| one.dangerous || !file.contains_key(&one.setting));
    let refused: Vec<_> = refused.map(ToString::to_string).collect();
    anyhow::ensure!(
        refused.is_empty(),
        "backup.json has a configuration that no log of the hub has, so it was changed, or the log was: {}. Nothing is restored. \
         If you know why, take these settings out of backup.json",
        refused.join("; ")
    );
    Ok(without_notes(config))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_backup_brings_no_settings_of_its_own() {
        let file: Value = serde_json::from_str(EVENTS_FILE).unwrap();
        let with = |setting: &str, value: Value| {
            let mut config = file.clone();
            config[setting] = value;
            restorable(&config).map_err(|error| error.to_string())
        };
        assert_eq!(with("name", json!(EVENTS)).as_ref(), Ok(&file));
        // What an operator chose, and what an earlier version did not set.
        let chosen = json!({"webhook-hub.max_age": "7"});
        let mut old = file.clone();
        old["metadata"] = chosen;
        old["max_age"] = 7.into();
        old["num_replicas"] = 3.into();
        assert_eq!(restorable(&old).unwrap(), old);
        // No note of an act.
        let mut noted = old.clone();
        noted["metadata"]["webhook-hub.act.promote"] = json!("{}");
        assert_eq!(restorable(&noted).unwrap(), old);
        old.as_object_mut().unwrap().remove("allow_atomic");
        assert_eq!(restorable(&old).unwrap()["allow_atomic"], true);
        for (setting, value) in [
            ("name", json!("LEASES")),
            ("storage", json!("memory")),
            ("subjects", json!(["webhooks.>"])),
            ("deny_delete", json!(false)),
            ("max_msgs", json!(1)),
            ("max_age", json!(1)),
            ("republish", json!({"src": "webhooks.>", "dest": "hub.breaker"})),
            ("subject_transform", json!({"src": "webhooks.>", "dest": "menus.>"})),
            ("sources", json!([{"name": "LEASES"}])),
            ("sealed", json!(true)),
            ("of_tomorrow", json!(7)),
        ] {
            let refused = with(setting, value).unwrap_err();
            assert!(
                refused.contains(&format!("EVENTS: {setting} is ")),
                "{setting}: {refused}"
            );
        }
        assert!(restorable(&json!("x")).is_err());
    }
}
