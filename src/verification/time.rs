//! The time of signing of a webhook.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, de};

use super::location::{LocationTable, Parse, Source, ValueLocation};
use crate::text::parse_duration;

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TimeUnit {
    /// Seconds since 1970.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since 1970.
    #[serde(rename = "ms")]
    Milliseconds,
    /// ISO 8601, with its offset from UTC.
    #[serde(rename = "iso")]
    Iso,
}

/// Where the time of signing stands and how far it may be from the time of receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// Where.
    pub location: ValueLocation,
    /// How it is written.
    pub unit: TimeUnit,
    /// How old it may be, and how far in the future.
    pub tolerance: Duration,
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            deny_unknown_fields,
            expecting = "timestamp = { header = \"x-name\", unit = \"s\", tolerance = \"5m\" }"
        )]
        struct WrittenTime {
            header: Option<String>,
            pointer: Option<String>,
            #[serde(default)]
            prefix: String,
            pair: Option<String>,
            unit: TimeUnit,
            tolerance: String,
        }
        let written = WrittenTime::deserialize(deserializer)?;
        let table = LocationTable {
            header: written.header,
            pointer: written.pointer,
            prefix: written.prefix,
            pair: written.pair,
            list: None,
        };
        let tolerance = parse_duration(&written.tolerance)
            .map_err(|expected| de::Error::custom(format_args!("tolerance: {expected}")))?;
        Ok(Self {
            location: ValueLocation::try_from(table).map_err(de::Error::custom)?,
            unit: written.unit,
            tolerance,
        })
    }
}

impl Timestamp {
    /// A time as it was sent.
    pub(super) fn read(&self, text: &str) -> Option<DateTime<Utc>> {
        let digits = || {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<i64>().ok()).flatten()
        };
        match self.unit {
            TimeUnit::Seconds => DateTime::from_timestamp(digits()?, 0),
            TimeUnit::Milliseconds => DateTime::from_timestamp_millis(digits()?),
            TimeUnit::Iso => Some(DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc)),
        }
    }

    /// A time as it is sent.
    pub(super) fn write(&self, time: DateTime<Utc>) -> String {
        match self.unit {
            TimeUnit::Seconds => time.timestamp().to_string(),
            TimeUnit::Milliseconds => time.timestamp_millis().to_string(),
            TimeUnit::Iso => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        }
    }

    /// Whether a webhook that was signed then may still come in now.
    pub(super) fn allows(&self, signed_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        (now - signed_at)
            .abs()
            .to_std()
            .is_ok_and(|apart| apart <= self.tolerance)
    }

    /// Where it stands in the same header as the signature, the name that it has there.
    pub(super) fn pair_in(&self, signature: &ValueLocation) -> Option<&str> {
        match &self.location.parse {
            Parse::Pair(name) if self.location.source == signature.source => Some(name),
            _ => None,
        }
    }

    /// The header that holds nothing else.
    pub(super) const fn own_header(&self) -> Option<&axum::http::HeaderName> {
        match (&self.location.source, &self.location.parse) {
            (Source::Header(name), Parse::Whole) => Some(name),
            _ => None,
        }
    }
}
