//! The number of events on the log that the tables do not have yet.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::{
    event::stage::PROJECTION,
    journal::{EVENTS, connection::Connection, read::appended_at, streams},
    telemetry::tables::{Lag, Tables},
};

/// When the oldest message that is missing was appended; read again only when it is another one.
#[derive(Default)]
pub(super) struct Behind {
    oldest: Option<(u64, DateTime<Utc>)>,
}

impl Behind {
    /// Compares the log's end with the tables' position. Where that was never read, as PostgreSQL is away since the start, the
    /// consumer's acknowledgement floor stands in for it: it is never beyond the position.
    pub(super) async fn look(&mut self, connection: &Connection, tables: &Tables) -> anyhow::Result<()> {
        let stream = connection.context.get_stream(EVENTS).await;
        let stream = stream.context("cannot look up EVENTS")?;
        let state = &stream.cached_info().state;
        let position = match tables.position() {
            Some(position) => position,
            None => {
                let consumer = streams::consumer(connection, EVENTS, PROJECTION).await?;
                consumer.cached_info().ack_floor.stream_sequence
            }
        };
        let events = missing(position, state.first_sequence, state.last_sequence);
        let age = if events == 0 {
            self.oldest = None;
            Duration::ZERO
        } else {
            let first = position.max(state.first_sequence.saturating_sub(1)) + 1;
            self.age_of(connection, first).await?
        };
        tables.set_lag(Lag { events, age });
        Ok(())
    }

    async fn age_of(&mut self, connection: &Connection, sequence: u64) -> anyhow::Result<Duration> {
        let time = match self.oldest {
            Some((known, time)) if known == sequence => time,
            _ => {
                let Some(time) = appended_at(connection, sequence).await? else {
                    return Ok(Duration::ZERO);
                };
                self.oldest = Some((sequence, time));
                time
            }
        };
        Ok((Utc::now() - time).to_std().unwrap_or_default())
    }
}

/// How many messages are beyond a position, of those that are still on the log.
fn missing(position: u64, first: u64, last: u64) -> u64 {
    last.saturating_sub(position.max(first.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_events_do_not_count_as_lag() {
        for (position, first, last, expected) in [
            (0, 0, 0, 0),
            (0, 1, 10, 10),
            (7, 1, 10, 3),
            (10, 1, 10, 0),
            (3, 8, 10, 3),
            // The position is beyond the log, so the log is another one, which is reported elsewhere.
            (20, 1, 10, 0),
        ] {
            assert_eq!(missing(position, first, last), expected, "{position} {first} {last}");
        }
    }
}
