//! Parses times in the providers' formats, and applies a time zone to those that name none.

use std::fmt;

use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use rust_decimal::{Decimal, prelude::ToPrimitive as _};
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
            .map_err(|_| E::custom(format_args!("{text:?} is not an offset from UTC such as +03:00")))
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

/// The offset in a field; none if it is not an offset.
pub(super) fn offset(minutes: &str) -> Option<FixedOffset> {
    let minutes: i32 = minutes.trim().parse().ok()?;
    let is_near = (-MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES).contains(&minutes);
    is_near.then(|| FixedOffset::east_opt(minutes * 60)).flatten()
}

/// A time parsed from a provider's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParsedTime {
    /// This time.
    Time(DateTime<Utc>),
    /// A zero date: that there is none.
    Nothing,
    /// The text is not a time.
    Unreadable,
}

/// Years in which an order may be placed or promised. What is outside of them was written in another unit, or stands for
/// nothing.
const YEARS: std::ops::Range<i32> = 2000..2100;
/// The last year in which no order can have been: databases begin their calendars in the years 1, 1753, 1899 and 1900.
const LAST_ZERO_YEAR: i32 = 1900;
/// The year by which some say "never".
const NEVER: i32 = 9999;

/// A time by ISO 8601, in any of its common forms: extended (`2025-10-01T12:00:00Z`) or basic (`20251001T120000Z`), with a blank
/// for the `T`, without seconds, with a fraction behind `.` or `,`, with a zone of `Z`, `+03:00`, `+0300` or `+03`. `zone` is
/// asked where it names none. Dates without a time of day say too little, and dates by week or day of the year are not read.
pub(super) fn iso(text: &str, zone: impl FnOnce() -> Option<FixedOffset>) -> ParsedTime {
    let text = text.trim();
    if text == "0" || text.starts_with("0000-00-00") || text.starts_with("00000000") {
        return ParsedTime::Nothing;
    }
    let Some((naive, offset)) = parts(text) else {
        return ParsedTime::Unreadable;
    };
    if is_zero(&naive) {
        return ParsedTime::Nothing;
    }
    let Some(offset) = offset.or_else(zone) else {
        return ParsedTime::Unreadable;
    };
    // A fixed offset gives exactly one time; a zone may give none or two.
    let time = naive.and_local_timezone(offset).single();
    time.map_or(ParsedTime::Unreadable, |time| plausible(time.to_utc()))
}

/// Units since 1970 from which on they are milliseconds: as seconds they are in the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// A time that needs nothing beside it: by ISO 8601 with a zone, or in seconds or milliseconds since 1970.
pub fn moment(text: &str) -> Option<DateTime<Utc>> {
    let a_second = |units: Decimal| {
        if units < Decimal::from(MILLISECONDS_FROM) {
            1
        } else {
            1000
        }
    };
    let parsed = match decimal(text.trim()) {
        Some(units) => unix(text, a_second(units)),
        None => iso(text, || None),
    };
    match parsed {
        ParsedTime::Time(time) => Some(time),
        ParsedTime::Nothing | ParsedTime::Unreadable => None,
    }
}

fn is_zero(naive: &NaiveDateTime) -> bool {
    naive.year() <= LAST_ZERO_YEAR || naive.year() == NEVER || naive.and_utc() == DateTime::UNIX_EPOCH
}

fn plausible(time: DateTime<Utc>) -> ParsedTime {
    match YEARS.contains(&time.year()) {
        true => ParsedTime::Time(time),
        false => ParsedTime::Unreadable,
    }
}

/// The time of day and date, and the offset where one is named.
fn parts(text: &str) -> Option<(NaiveDateTime, Option<FixedOffset>)> {
    let (date, rest) = split_date(text)?;
    let rest = rest.strip_prefix(['T', 't', ' ', '\u{a0}'])?.trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ',')));
    let (clock, zone) = rest.split_at(end.unwrap_or(rest.len()));
    let zone = zone.trim_start();
    let offset = if zone.is_empty() { None } else { Some(named_zone(zone)?) };
    Some((
        date.and_time(NaiveTime::MIN).checked_add_signed(time_of_day(clock)?)?,
        offset,
    ))
}

/// A date of four, two and two digits, with or without hyphens, and what follows it.
fn split_date(text: &str) -> Option<(NaiveDate, &str)> {
    let is_extended = text.as_bytes().get(4) == Some(&b'-');
    let (date, rest) = text.split_at_checked(if is_extended { 10 } else { 8 })?;
    let digits = match is_extended {
        true => [date.get(..4)?, date.get(5..7)?, date.get(8..)?],
        false => [date.get(..4)?, date.get(4..6)?, date.get(6..)?],
    };
    if is_extended && date.as_bytes().get(7) != Some(&b'-') {
        return None;
    }
    let [year, month, day] = digits.map(number);
    let date = NaiveDate::from_ymd_opt(i32::try_from(year?).ok()?, month?, day?)?;
    Some((date, rest))
}

/// `12:00`, `1200`, `12:00:00`, `120000`, with a fraction of the seconds; since midnight. `24:00` ends a day.
fn time_of_day(clock: &str) -> Option<TimeDelta> {
    let (whole, fraction) = match clock.split_once(['.', ',']) {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (clock, None),
    };
    let parts: Vec<&str> = if whole.contains(':') {
        whole.split(':').collect()
    } else {
        vec![whole.get(..2)?, whole.get(2..4)?, whole.get(4..)?]
    };
    let two = |digits: &&str| (digits.len() == 2).then(|| number(digits)).flatten();
    let (hour, minute) = (two(parts.first()?)?, two(parts.get(1)?)?);
    let second = match parts.get(2) {
        // A fraction belongs to the seconds; no provider writes fractions of minutes.
        None | Some(&"") if fraction.is_none() => 0,
        digits => two(digits?)?,
    };
    let nanos = match fraction {
        // Nine digits are nanoseconds; further digits are dropped.
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            number(&format!("{:0<9}", &digits[..digits.len().min(9)]))?
        }
        Some(_) => return None,
        None => 0,
    };
    let is_end_of_day = hour == 24 && minute == 0 && second == 0 && nanos == 0;
    // A leap second (60) counts as the first second of the next minute.
    let is_of_a_day = hour < 24 && minute < 60 && second <= 60;
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    (parts.len() <= 3 && (is_of_a_day || is_end_of_day)).then(|| TimeDelta::new(seconds, nanos))?
}

/// Digits, and nothing else.
fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// `Z`, `UTC`, `GMT`, `+03:00`, `+0300`, `+03`; the minus may be that of typesetting.
fn named_zone(zone: &str) -> Option<FixedOffset> {
    if ["Z", "UTC", "GMT"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)) {
        return FixedOffset::east_opt(0);
    }
    let (sign, rest) = match zone.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, zone.strip_prefix(['-', '\u{2212}'])?),
    };
    let (hours, minutes) = match (rest.len(), rest.as_bytes().get(2)) {
        (2, _) => (rest, "00"),
        (4, _) => rest.split_at_checked(2)?,
        (5, Some(b':')) => (rest.get(..2)?, rest.get(3..)?),
        _ => return None,
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minutes_east = i32::try_from(hours * 60 + minutes).ok().filter(|_| minutes < 60)?;
    let is_near = minutes_east <= MAX_OFFSET_MINUTES;
    is_near.then(|| FixedOffset::east_opt(sign * minutes_east * 60))?
}

/// A number of units since 1970, of which so many make a second, also with a fraction, as languages without whole numbers write
/// it. Zero, and what is before 1970, says that there is no time.
pub(super) fn unix(text: &str, a_second: i64) -> ParsedTime {
    let Some(units) = decimal(text.trim()) else {
        return ParsedTime::Unreadable;
    };
    if units <= Decimal::ZERO {
        return ParsedTime::Nothing;
    }
    let millis = units.checked_mul(Decimal::from(1000 / a_second));
    let time = millis.and_then(|millis| DateTime::from_timestamp_millis(millis.trunc().to_i64()?));
    time.map_or(ParsedTime::Unreadable, plausible)
}

/// A decimal number, also with an exponent.
pub(super) fn decimal(text: &str) -> Option<Decimal> {
    let is_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(is_number) {
        return None;
    }
    match text.contains(['e', 'E']) {
        true => Decimal::from_scientific(text).ok(),
        false => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Option<FixedOffset> {
        "+03:00".parse().ok()
    }

    fn read(text: &str) -> String {
        match iso(text, zone) {
            ParsedTime::Time(time) => time.to_rfc3339(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_moment_needs_nothing_beside_it() {
        let noon = "2025-10-01T12:00:00Z".parse().ok();
        for text in [
            "2025-10-01T15:00:00+03:00",
            "1759320000",
            "1759320000000",
            "1759320000.0",
        ] {
            assert_eq!(moment(text), noon, "{text}");
        }
        for text in ["2025-10-01T12:00:00", "0", "", "soon", "20251001"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn every_common_form_is_read() {
        for (text, time) in [
            ("2025-10-01T12:00:00Z", "2025-10-01T12:00:00+00:00"),
            ("2025-10-01t12:00:00z", "2025-10-01T12:00:00+00:00"),
            ("2025-10-01T12:00Z", "2025-10-01T12:00:00+00:00"),
            ("2025-10-01 12:00", "2025-10-01T09:00:00+00:00"),
            ("2025-10-01 12:00:00", "2025-10-01T09:00:00+00:00"),
            (" 2025-10-01  12:00:00 UTC ", "2025-10-01T12:00:00+00:00"),
            ("2025-10-01 12:00:00 +0000", "2025-10-01T12:00:00+00:00"),
            ("2025-10-01T12:00:00.5+0200", "2025-10-01T10:00:00.500+00:00"),
            ("2025-10-01T12:00:00,25+02", "2025-10-01T10:00:00.250+00:00"),
            ("2025-10-01T12:00:00.1234567Z", "2025-10-01T12:00:00.123456700+00:00"),
            ("2025-10-01T12:00:00.1234567891Z", "2025-10-01T12:00:00.123456789+00:00"),
            ("2025-10-01T12:00-03:30", "2025-10-01T15:30:00+00:00"),
            ("2025-10-01T12:00:00\u{2212}03:00", "2025-10-01T15:00:00+00:00"),
            ("20251001T120000Z", "2025-10-01T12:00:00+00:00"),
            ("20251001T1200+0300", "2025-10-01T09:00:00+00:00"),
            ("20251001 120000", "2025-10-01T09:00:00+00:00"),
            ("2025-10-01T24:00:00Z", "2025-10-02T00:00:00+00:00"),
            ("2025-12-31T23:59:60Z", "2026-01-01T00:00:00+00:00"),
        ] {
            assert_eq!(read(text), time, "{text}");
        }
        assert_eq!(
            iso("2025-10-01T12:00:00", || None),
            ParsedTime::Unreadable,
            "which zone is not known"
        );
    }

    #[test]
    fn zero_dates_count_as_absent() {
        for text in [
            "0000-00-00 00:00:00",
            "0000-00-00",
            "0000-00-00T00:00:00Z",
            "0001-01-01T00:00:00",
            "0001-01-01T00:00:00Z",
            "1899-12-30 00:00",
            "1900-01-01T00:00:00",
            "1970-01-01T00:00:00Z",
            "9999-12-31T23:59:59.9999999",
            "0",
        ] {
            assert_eq!(iso(text, zone), ParsedTime::Nothing, "{text}");
            assert_eq!(iso(text, || None), ParsedTime::Nothing, "{text} without a zone");
        }
        for text in ["0", "0.0", "-62135596800"] {
            assert_eq!(unix(text, 1), ParsedTime::Nothing, "{text}");
        }
    }

    #[test]
    fn invalid_texts_are_no_times() {
        for text in [
            "yesterday",
            "2025-10-01",
            "20251001",
            "12:00",
            "2025-13-01T12:00:00Z",
            "2025-02-30T12:00:00Z",
            "2025-10-01T25:00:00Z",
            "2025-10-01T24:01:00Z",
            "2025-10-01T12:60Z",
            "2025-10-01T12Z",
            "2025-10-01T12:00:00+03:60",
            "2025-10-01T12:00:00+25",
            "2025-10-01T12:00:00 Asia/Amman",
            "2025-10-01T12:00:00.Z",
            "2025-10-01T1:00Z",
            "2025-W40-3T12:00Z",
            "2025-274T12:00Z",
            "2025/10/01 12:00",
            "01-10-2025 12:00",
            "1759312800",
            "1999-12-31T23:59:59Z",
            "2100-01-01T00:00:00Z",
            "false",
            "",
        ] {
            assert_eq!(iso(text, zone), ParsedTime::Unreadable, "{text}");
        }
    }

    #[test]
    fn seconds_and_milliseconds() {
        let read = |text, a_second| match unix(text, a_second) {
            ParsedTime::Time(time) => time.to_rfc3339(),
            other => format!("{other:?}"),
        };
        for (text, a_second) in [
            ("1606780145", 1),
            ("1606780145.0", 1),
            (" 1.606780145e9 ", 1),
            ("1606780145000", 1000),
            ("1606780145000.9", 1000),
        ] {
            assert_eq!(read(text, a_second), "2020-11-30T23:49:05+00:00", "{text}");
        }
        assert_eq!(read("1606780145.25", 1), "2020-11-30T23:49:05.250+00:00");
        // The wrong unit would be the year 1970 or 52885.
        for (text, a_second) in [
            ("soon", 1),
            ("9223372036854775807", 1),
            ("1606780145000", 1),
            ("1606780145", 1000),
            ("2020-11-30T23:49:05Z", 1),
        ] {
            assert_eq!(unix(text, a_second), ParsedTime::Unreadable, "{text}");
        }
    }

    proptest! {
        /// Each way to write a time means it.
        #[test]
        fn equal_times_in_different_formats(seconds in 946_684_800i64..4_102_444_800, minutes in -840i32..=840, form in 0..6usize) {
            let minutes = minutes - minutes % 15;
            let zone = FixedOffset::east_opt(minutes * 60).unwrap();
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            let local = time.with_timezone(&zone);
            let format = ["%Y-%m-%dT%H:%M:%S%:z", "%Y-%m-%d %H:%M:%S%z", "%Y%m%dT%H%M%S%z", "%Y-%m-%dT%H:%M:%S.000%:z",
                "%Y-%m-%dT%H:%M:%S", "%Y%m%d %H%M%S"][form];
            prop_assert_eq!(iso(&local.format(format).to_string(), || Some(zone)), ParsedTime::Time(time));
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}|[0-9TZ:.+ -]{0,40}") {
            let _ = (iso(&text, zone), unix(&text, 1), unix(&text, 1000));
        }
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
