//! Rows as `COPY … FROM STDIN` takes them, in its text format.
//!
//! It is the cheapest way to add many rows. The text format is used and not the binary one: PostgreSQL then reads each value by the type
//! that the column has, as it does for `INSERT`, whatever the platform made of its tables.

use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, Datelike as _, NaiveDateTime, Timelike as _};

use super::table::Table;
use crate::database::{Error, Transaction};

/// Fewer new rows of a batch are inserted by a statement, which takes one answer of PostgreSQL less.
const FEWEST: usize = 16;
/// The value of a column without one.
const NULL: &str = "\\N";

/// How the new rows of a batch are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adding {
    /// By `INSERT`, which passes over rows that others wrote meanwhile, and works for every table that can be written.
    Insert,
    /// By `COPY`, which fails in those cases.
    Copy,
}

impl Adding {
    /// Whether so many new rows are copied.
    pub(super) fn copies(self, rows: usize) -> bool {
        self == Self::Copy && rows >= FEWEST
    }
}

/// Rows of one table.
#[derive(Debug, Default)]
pub(super) struct CopiedRows {
    text: String,
}

/// Whether a byte stands for something else in the text format. All of these are characters of one byte.
const fn is_special(byte: u8) -> bool {
    matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')
}

impl CopiedRows {
    /// The next value of the row.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        let mut rest = value;
        while let Some(at) = rest.bytes().position(is_special) {
            let (plain, special) = rest.split_at(at);
            self.text.push_str(plain);
            self.text.push_str(match special.as_bytes()[0] {
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                _ => "\\t",
            });
            rest = &special[1..];
        }
        self.text.push_str(rest);
        self.between()
    }

    /// The next value of the row, which may be absent.
    pub(super) fn maybe(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(value),
            None => self.plain(NULL),
        }
    }

    /// The next value of the row: an array of the words between commas.
    pub(super) fn words(&mut self, with_commas: &str) -> &mut Self {
        let mut array = String::from("{");
        for (at, word) in with_commas.split(',').filter(|_| !with_commas.is_empty()).enumerate() {
            array.push_str(if at > 0 { ",\"" } else { "\"" });
            array.push_str(&word.replace('\\', "\\\\").replace('"', "\\\""));
            array.push('"');
        }
        array.push('}');
        self.text(&array)
    }

    /// The next value of the row: a number, `true`, `false`, or an id.
    pub(super) fn plain(&mut self, value: impl std::fmt::Display) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
        self.between()
    }

    /// The next value of the row: a time in UTC, with microseconds, which PostgreSQL rounds as the column says.
    pub(super) fn time(&mut self, time: NaiveDateTime) -> &mut Self {
        // A leap second is the first one of the next minute, as for a parameter.
        let micros = time.and_utc().timestamp_micros();
        let time = DateTime::from_timestamp_micros(micros).map_or(time, |time| time.naive_utc());
        let digits = [
            (time.month(), '-'),
            (time.day(), ' '),
            (time.hour(), ':'),
            (time.minute(), ':'),
            (time.second(), '.'),
        ];
        let _ = write!(self.text, "{:04}-", time.year());
        for (number, then) in digits {
            self.digits(number, 10);
            self.text.push(then);
        }
        self.digits(time.nanosecond() / 1000, 100_000);
        self.between()
    }

    /// A time that may be absent.
    pub(super) fn maybe_time(&mut self, time: Option<NaiveDateTime>) -> &mut Self {
        match time {
            Some(time) => self.time(time),
            None => self.plain(NULL),
        }
    }

    /// Ends the row.
    pub(super) fn end(&mut self) {
        self.text.pop();
        self.text.push('\n');
    }

    fn between(&mut self) -> &mut Self {
        self.text.push('\t');
        self
    }

    /// A number with leading zeros; `first`: the value of its first digit.
    fn digits(&mut self, number: u32, first: u32) {
        let mut value = first;
        while value > 0 {
            self.text.extend(char::from_digit(number / value % 10, 10));
            value /= 10;
        }
    }

    /// Adds the rows to a table; each must have the columns of the table's statement, in its order.
    ///
    /// # Errors
    /// If PostgreSQL refuses a row or the statement, or does not answer.
    pub(super) async fn store(self, transaction: &Transaction<'_>, table: &Table) -> Result<(), Error> {
        if self.text.is_empty() {
            return Ok(());
        }
        transaction.copy_in(&table.copy(), Bytes::from(self.text)).await
    }
}
