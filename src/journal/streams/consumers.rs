//! The durable consumers: those of each stage, which two files describe for all stages, that of the tables, and those that read
//! much of the log.

use anyhow::Context as _;
use async_nats::jetstream::consumer::{self, FromConsumer as _};
use serde_json::{Map, Value};

use super::{Difference, EVENTS, LANES, Missing, compare::compare, consumer, missing};
use crate::{
    event::stage::{self, StageInfo},
    journal::{connection::Connection, read::LongReader},
};

/// The consumer of a stage's events, with the stage's words for `STAGE`, `EVENTS` and `SUBJECTS`.
const STAGE_FILE: &str = include_str!("../../../streams/EVENTS.STAGE.json");
/// The consumer of a stage's lanes, with the same.
const LANES_FILE: &str = include_str!("../../../streams/LANES.read-STAGE.json");
const PROJECTION_FILE: &str = include_str!("../../../streams/EVENTS.projection.json");
/// The consumers by which much of the log is read.
const LONG_READER_FILES: [&str; LongReader::ALL.len()] = [
    include_str!("../../../streams/EVENTS.read-tables.json"),
    include_str!("../../../streams/EVENTS.read-rebuild.json"),
];

/// What a consumer must be like.
pub(super) struct WantedConsumer {
    pub(super) stream: &'static str,
    pub(super) name: String,
    config: Map<String, Value>,
}

/// All of them.
///
/// # Errors
/// If an embedded file is broken, which a test rules out.
pub(super) fn all() -> anyhow::Result<Vec<WantedConsumer>> {
    let mut all = Vec::new();
    for stage in &stage::ALL {
        all.push(WantedConsumer::new(
            EVENTS,
            STAGE_FILE,
            Some((stage, stage.subjects())),
        )?);
    }
    all.push(WantedConsumer::new(EVENTS, PROJECTION_FILE, None)?);
    for file in LONG_READER_FILES {
        all.push(WantedConsumer::new(EVENTS, file, None)?);
    }
    for stage in &stage::ALL {
        if let Some(lanes) = stage.lanes() {
            all.push(WantedConsumer::new(
                LANES,
                LANES_FILE,
                Some((stage, vec![lanes.all()])),
            )?);
        }
    }
    Ok(all)
}

impl WantedConsumer {
    fn new(stream: &'static str, file: &str, of: Option<(&StageInfo, Vec<String>)>) -> anyhow::Result<Self> {
        let mut text = file.to_owned();
        if let Some((stage, subjects)) = of {
            let subjects = serde_json::to_string(&subjects)?;
            text = text
                .replace("[\"SUBJECTS\"]", &subjects)
                .replace("STAGE", stage.name)
                .replace("EVENTS", stage.events);
        }
        let config: Map<String, Value> = serde_json::from_str(&text)?;
        let name = config.get("durable_name").and_then(Value::as_str);
        let name = name.context("a consumer's file has no durable_name")?.to_owned();
        Ok(Self { stream, name, config })
    }

    /// Whether it has no position, because nothing is acknowledged. Its stream is read in another way without it.
    pub(super) fn is_dispensable(&self) -> bool {
        self.config.get("ack_policy").and_then(Value::as_str) == Some("none")
    }

    /// How many copies of it there are to be, if its stream has so many.
    pub(super) fn replicas(&self, of_stream: u64) -> u64 {
        let own = self.config.get("num_replicas").and_then(Value::as_u64);
        own.unwrap_or(of_stream)
    }

    /// Where the server's differs; one difference without a setting if it is missing.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn differences(&self, connection: &Connection) -> anyhow::Result<Vec<Difference>> {
        let needed = !self.is_dispensable();
        match consumer(connection, self.stream, &self.name).await {
            Ok(consumer) => {
                let mut found = serde_json::to_value(&consumer.cached_info().config)?;
                // The server returns a single filter in another field than several filters.
                if let Some(filter) = found.get("filter_subject").filter(|filter| filter.is_string()).cloned() {
                    found["filter_subjects"] = Value::Array(vec![filter]);
                }
                Ok(compare(&self.name, self.config.clone(), &found, needed))
            }
            Err(error) if error.downcast_ref::<Missing>().is_some() => Ok(vec![Difference {
                dangerous: needed,
                ..missing(&self.name)
            }]),
            Err(error) => Err(error),
        }
    }

    /// Creates it, or brings it up to date.
    ///
    /// # Errors
    /// If NATS refuses or does not answer.
    pub(super) async fn create(&self, connection: &Connection) -> anyhow::Result<()> {
        let config: consumer::Config = serde_json::from_value(Value::Object(self.config.clone()))?;
        let config =
            consumer::pull::Config::try_from_consumer_config(config).map_err(|error| anyhow::anyhow!(error))?;
        let created = connection.context.create_consumer_on_stream(config, self.stream).await;
        created.with_context(|| format!("cannot create or update consumer {}", self.name))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_server_takes() {
        let consumers = all().unwrap();
        for wanted in &consumers {
            let config: consumer::Config = serde_json::from_value(Value::Object(wanted.config.clone())).unwrap();
            assert!(config.name.is_none() && config.durable_name.as_ref() == Some(&wanted.name));
        }
        let of_events = consumers.iter().filter(|wanted| wanted.stream == EVENTS);
        let (without_position, with_position): (Vec<_>, Vec<_>) = of_events.partition(|wanted| wanted.is_dispensable());
        let names = |wanted: Vec<&WantedConsumer>| wanted.into_iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(with_position), stage::READERS);
        assert_eq!(names(without_position), LongReader::ALL.map(LongReader::name));
        let of_lanes = consumers.iter().filter(|wanted| wanted.stream == LANES);
        assert!(of_lanes.count() == 3 && consumers.iter().filter(|wanted| wanted.is_dispensable()).count() == 5);
    }

    /// Servers have these consumers from earlier versions, and instances of those compare them.
    #[test]
    fn consumers_are_as_earlier_versions_made_them() {
        let consumers = all().unwrap();
        let of = |name: &str| {
            let config = &consumers.iter().find(|wanted| wanted.name == name).unwrap().config;
            (
                config["description"].as_str().unwrap(),
                config["filter_subjects"].clone(),
            )
        };
        let order = "one instance at a time takes them, and keeps the events of one order in their order";
        let (description, subjects) = of("forward");
        assert_eq!(description, format!("Events for the stage forward; {order}"));
        assert_eq!(
            subjects,
            serde_json::json!(["orders.transformed.>", "orders.retry_requested.>"])
        );
        let (description, _) = of("push");
        assert_eq!(
            description,
            format!("What is to be said to providers or fetched from them, for the stage push; {order}")
        );
        for (name, lanes) in [
            ("forward", "lane.*.*"),
            ("transform", "lane.transform.>"),
            ("push", "lane.push.>"),
        ] {
            assert_eq!(of(&format!("read-{name}")).1, serde_json::json!([lanes]));
        }
    }
}
