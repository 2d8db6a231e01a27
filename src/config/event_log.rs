//! How events are written to the log: `PARTITIONS`, `EVENT_FORMAT`, `EVENT_BATCH_FROM`.

use super::{Bounds, ConfigError, Environment};

const PARTITIONS: Bounds<u16> = Bounds {
    least: 1,
    most: 512,
    why: "each is a subject by which subscribers share work, and the log keeps state for each",
};
const BATCH_FROM: Bounds<usize> = Bounds {
    least: 2,
    most: 1000,
    why: "a batch has at least two events, and NATS takes at most 1000",
};
/// Measured on one server with an fsync of 0.15 ms: with eleven events a round, NATS needs the same CPU per event in batches
/// and singly.
const DEFAULT_BATCH_FROM: usize = 10;
const FORMAT: &str = "EVENT_FORMAT";

/// How the envelope of a new event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// The form of the last event on the log; compact on a log that never had an event.
    #[default]
    Auto,
    /// A header for each part of the envelope, which versions before the compact form can read.
    Headers,
    /// CloudEvents' own attributes as headers, the rest in one header.
    Compact,
}

/// How events are written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLog {
    /// `PARTITIONS`: the number of subjects over which the log spreads orders.
    pub partitions: u16,
    /// `EVENT_FORMAT`.
    pub format: EventFormat,
    /// `EVENT_BATCH_FROM`: the number of waiting events from which they are appended as one atomic batch.
    pub batch_from: usize,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            partitions: 64,
            format: EventFormat::Auto,
            batch_from: DEFAULT_BATCH_FROM,
        }
    }
}

impl EventLog {
    /// Reads these settings.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        let default = Self::default();
        let format = match env.text_or(FORMAT, "auto")?.as_str() {
            "auto" => EventFormat::Auto,
            "headers" => EventFormat::Headers,
            "compact" => EventFormat::Compact,
            _ => return Err(ConfigError::new(FORMAT, "expected auto, headers or compact")),
        };
        Ok(Self {
            partitions: env.whole("PARTITIONS", default.partitions, &PARTITIONS)?,
            format,
            batch_from: env.whole("EVENT_BATCH_FROM", default.batch_from, &BATCH_FROM)?,
        })
    }
}
