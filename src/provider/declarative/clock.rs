//! Times as providers write them, and the zone of those that name none.

use std::fmt;

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::pick::Sources;

/// Furthest from UTC that any clock is set, in minutes: UTC+14 in Kiribati.
const MAX_OFFSET_MINUTES: i32 = 14 * 60;

/// The zone of times that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    /// Always this one.
    Fixed(FixedOffset),
    /// Minutes from UTC, east of it positive, in a field of the document.
    Minutes(Sources),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Minutes {
    minutes: Sources,
}

struct ZoneVisitor;

impl<'de> Visitor<'de> for ZoneVisitor {
    type Value = Zone;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offset from UTC such as \"+03:00\", or { minutes = \"/place\" } where a field holds it")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Zone, E> {
        let offset = text.parse();
        offset
            .map(Zone::Fixed)
            .map_err(|_| E::custom(format_args!("{text:?} is no offset from UTC such as +03:00")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Zone, A::Error> {
        let Minutes { minutes } = Minutes::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Zone::Minutes(minutes))
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ZoneVisitor)
    }
}

/// What a field says of the zone; none where that is no offset.
pub(super) fn offset(minutes: &str) -> Option<FixedOffset> {
    let minutes: i32 = minutes.trim().parse().ok()?;
    let is_near = (-MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES).contains(&minutes);
    is_near.then(|| FixedOffset::east_opt(minutes * 60)).flatten()
}

/// An ISO 8601 time, with `T` or a blank in its middle. `zone` is asked where it names none.
pub(super) fn iso(
    text: &str,
    zone: impl FnOnce() -> Option<FixedOffset>,
) -> Result<Option<DateTime<Utc>>, &'static str> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(time.to_utc()));
    }
    // Without the colon in the offset, as some write it.
    if let Ok(time) = DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z") {
        return Ok(Some(time.to_utc()));
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .ok_or("expected a time such as 2025-10-01T12:00:00Z")?;
    let zone = zone().ok_or("expected a time with a zone; order.zone can say which is meant")?;
    Ok(naive.and_local_timezone(zone).single().map(|time| time.to_utc()))
}

/// A whole number since 1970, of which so many make a second. Zero says that there is no time.
pub(super) fn unix(text: &str, a_second: i64) -> Result<Option<DateTime<Utc>>, ()> {
    let units: i64 = text.trim().parse().map_err(|_| ())?;
    let millis = units.checked_mul(1000 / a_second).ok_or(())?;
    if millis == 0 {
        return Ok(None);
    }
    DateTime::from_timestamp_millis(millis).map(Some).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_they_are_sent() {
        let zone = || "+03:00".parse().ok();
        let read = |text| iso(text, zone).unwrap().unwrap().to_rfc3339();
        assert_eq!(read("2025-10-01T12:00:00Z"), "2025-10-01T12:00:00+00:00");
        assert_eq!(read("2025-10-01T12:00:00.5+0200"), "2025-10-01T10:00:00.500+00:00");
        assert_eq!(read("2025-10-01 12:00:00"), "2025-10-01T09:00:00+00:00");
        assert!(iso("2025-10-01T12:00:00", || None).is_err());
        assert!(iso("yesterday", zone).is_err());
        assert_eq!(
            unix("1606780145", 1).unwrap().unwrap().to_rfc3339(),
            "2020-11-30T23:49:05+00:00"
        );
        assert_eq!(unix("1606780145000", 1000), unix("1606780145", 1));
        assert_eq!(unix("0", 1), Ok(None));
        assert_eq!(unix("soon", 1), Err(()));
        assert_eq!(unix("9223372036854775807", 1), Err(()));
    }

    #[test]
    fn offsets_are_minutes_that_some_clock_has() {
        for (text, seconds) in [("60", 3_600), (" -210 ", -12_600), ("0", 0), ("840", 50_400)] {
            assert_eq!(
                offset(text).map(|offset| offset.local_minus_utc()),
                Some(seconds),
                "{text}"
            );
        }
        for text in ["841", "-841", "3600", "60.5", "+03:00", "", "9999999999"] {
            assert_eq!(offset(text), None, "{text}");
        }
    }
}
