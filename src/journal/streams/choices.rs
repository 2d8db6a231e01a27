//! What an operator chose for a stream instead of the values of its file: copies, age, bytes. Each choice is stored in the
//! stream's metadata on the server, so that every later comparison uses it, on every instance and version.

use std::{fmt, time::Duration};

use serde_json::{Map, Value};

use super::EVENTS;

/// Prefix of the keys in a stream's metadata.
const PREFIX: &str = "webhook-hub.";

/// A setting that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Copies in a cluster, of every stream.
    Replicas,
    /// How long events are kept, in nanoseconds; 0: for ever. Of `EVENTS`.
    MaxAge,
    /// How much is kept before new events are refused, in bytes; -1: no limit. Of `EVENTS`.
    MaxBytes,
}

impl Setting {
    pub(super) const ALL: [Self; 3] = [Self::Replicas, Self::MaxAge, Self::MaxBytes];

    /// As JetStream calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Replicas => "num_replicas",
            Self::MaxAge => "max_age",
            Self::MaxBytes => "max_bytes",
        }
    }

    fn key(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// Whether the setting of this stream can be chosen.
    fn concerns(self, stream: &str) -> bool {
        matches!(self, Self::Replicas) || stream == EVENTS
    }
}

/// The chosen value of a setting; none restores the file's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The setting.
    pub setting: Setting,
    /// Its value, in JetStream's unit.
    pub value: Option<i64>,
}

impl Choice {
    /// So many copies.
    pub fn replicas(copies: usize) -> Self {
        Self {
            setting: Setting::Replicas,
            value: i64::try_from(copies).ok(),
        }
    }

    /// Events are kept so long; for ever, where nothing is given.
    pub fn max_age(age: Option<Duration>) -> Self {
        let nanos = age.map_or(Ok(0), |age| i64::try_from(age.as_nanos()));
        Self {
            setting: Setting::MaxAge,
            value: Some(nanos.unwrap_or(0)),
        }
    }

    /// So much is kept; without a limit, where nothing is given.
    pub fn max_bytes(bytes: Option<i64>) -> Self {
        Self {
            setting: Setting::MaxBytes,
            value: Some(bytes.unwrap_or(-1)),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "{} {value}", self.setting.name()),
            None => write!(f, "{} of the file", self.setting.name()),
        }
    }
}

/// The choices for a stream, read from its configuration on the server.
pub fn chosen(config: &Value) -> Vec<Choice> {
    let of = |setting: Setting| {
        let value = config["metadata"][setting.key()].as_str()?.parse().ok()?;
        Some(Choice {
            setting,
            value: Some(value),
        })
    };
    Setting::ALL.into_iter().filter_map(of).collect()
}

/// The wanted configuration of a stream: its file with the choices applied.
pub(super) fn wanted(file: &Map<String, Value>, choices: &[Choice]) -> Map<String, Value> {
    let mut wanted = file.clone();
    for choice in choices {
        if let Some(value) = choice.value {
            wanted.insert(choice.setting.name().to_owned(), value.into());
        }
    }
    wanted
}

/// A configuration of the server with these choices, which it also keeps; the same again where they change nothing.
pub(crate) fn with_choices(stream: &str, file: &Map<String, Value>, config: &Value, choices: &[Choice]) -> Value {
    let mut changed = config.clone();
    for choice in choices.iter().filter(|choice| choice.setting.concerns(stream)) {
        let (name, key) = (choice.setting.name(), choice.setting.key());
        match choice.value {
            Some(value) => {
                changed[name] = value.into();
                changed["metadata"][key] = value.to_string().into();
            }
            None => {
                changed[name] = file.get(name).cloned().unwrap_or(Value::Null);
                if let Some(metadata) = changed["metadata"].as_object_mut() {
                    metadata.remove(&key);
                }
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_choice_is_kept_with_the_stream_and_taken_back() {
        let file = json!({"name": "EVENTS", "num_replicas": 1, "max_age": 100, "max_bytes": -1});
        let file = file.as_object().unwrap();
        let server = json!({"num_replicas": 1, "max_age": 100, "max_bytes": -1, "metadata": {"_nats.ver": "2"}});
        assert_eq!(chosen(&server), []);
        let choices = [
            Choice::replicas(3),
            Choice::max_age(Some(Duration::from_nanos(7))),
            Choice::max_bytes(Some(9)),
        ];
        let changed = with_choices("EVENTS", file, &server, &choices);
        assert_eq!((&changed["num_replicas"], &changed["max_age"]), (&json!(3), &json!(7)));
        assert_eq!(changed["metadata"]["_nats.ver"], "2");
        assert_eq!(chosen(&changed), choices);
        assert_eq!(wanted(file, &chosen(&changed))["max_bytes"], 9);
        // Age and bytes apply to the log alone.
        let lanes = with_choices("LANES", file, &server, &choices);
        assert_eq!((chosen(&lanes), &lanes["max_age"]), (vec![choices[0]], &json!(100)));
        let back = choices.map(|choice| Choice { value: None, ..choice });
        let back = with_choices("EVENTS", file, &changed, &back);
        assert_eq!(back, server);
        // "Unlimited" is a choice, too.
        let unlimited = with_choices(
            "EVENTS",
            file,
            &server,
            &[Choice::max_age(None), Choice::max_bytes(None)],
        );
        assert_eq!(
            (&unlimited["max_age"], &unlimited["max_bytes"]),
            (&json!(0), &json!(-1))
        );
    }
}
