//! The position of the tables and what keeps them from advancing, as this instance knows it; for health and metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::database::trouble::Class;

/// From this age of the oldest event that is not in them on the tables count as late. They are a second behind in ordinary
/// times; a failover of PostgreSQL takes less than a minute.
pub const LATE_AFTER: Duration = Duration::from_secs(60);

/// The part of the hub that met the trouble. Success of one does not end the trouble of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleSource {
    /// The writer of the tables, or an instance that tries to become it.
    Writer,
    /// The check that health makes.
    Question,
}

/// Why the tables are not written, or PostgreSQL does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablesTrouble {
    /// Its class.
    pub class: Class,
    /// In words, without values of rows.
    pub message: String,
    /// When it was met first of all that came one after another.
    pub since: Instant,
}

/// The events of the log that the tables lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages.
    pub events: u64,
    /// How long the oldest of them is on the log.
    pub age: Duration,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tables(Arc<Mutex<TablesState>>);

#[derive(Debug, Default)]
struct TablesState {
    position: Option<u64>,
    lag: Option<Lag>,
    writer: Option<TablesTrouble>,
    question: Option<TablesTrouble>,
    /// Tables with old rows that may not be deleted, and why.
    retention_refused: BTreeMap<&'static str, String>,
}

impl TablesState {
    fn slot(&mut self, who: TroubleSource) -> &mut Option<TablesTrouble> {
        match who {
            TroubleSource::Writer => &mut self.writer,
            TroubleSource::Question => &mut self.question,
        }
    }

    fn show(&self) {
        for class in Class::ALL {
            let is_met = [&self.writer, &self.question]
                .iter()
                .any(|slot| slot.as_ref().is_some_and(|trouble| trouble.class == class));
            metrics::gauge!("database_trouble", "class" => class.as_str()).set(if is_met { 1.0 } else { 0.0 });
        }
    }
}

impl Tables {
    /// The tables hold what the log says up to here.
    pub fn at(&self, position: u64) {
        self.lock().position = Some(position);
        metrics::gauge!("projection_position").set(position as f64);
    }

    /// How far they are; none while that was never read.
    pub fn position(&self) -> Option<u64> {
        self.lock().position
    }

    /// Something went wrong.
    pub fn failed(&self, who: TroubleSource, error: &anyhow::Error) {
        let class = Class::of(error);
        metrics::counter!("database_errors_total", "class" => class.as_str()).increment(1);
        let mut state = self.lock();
        let since = state
            .slot(who)
            .as_ref()
            .map_or_else(Instant::now, |before| before.since);
        *state.slot(who) = Some(TablesTrouble {
            class,
            message: format!("{error:#}"),
            since,
        });
        state.show();
    }

    /// It works.
    pub fn works(&self, who: TroubleSource) {
        let mut state = self.lock();
        if state.slot(who).take().is_some() {
            state.show();
        }
    }

    /// The current trouble; the writer's trouble precedes that of health's check, because it is more specific.
    pub fn trouble(&self) -> Option<TablesTrouble> {
        let state = self.lock();
        state.writer.clone().or_else(|| state.question.clone())
    }

    /// The events of the log that they lack.
    pub fn set_lag(&self, lag: Lag) {
        self.lock().lag = Some(lag);
        metrics::gauge!("projection_lag_events").set(lag.events as f64);
        metrics::gauge!("projection_lag_seconds").set(lag.age.as_secs_f64());
    }

    /// The same, as it was last looked at; none before.
    pub fn lag(&self) -> Option<Lag> {
        self.lock().lag
    }

    /// Old rows of a table may not be deleted, for this reason; none: they may.
    pub fn set_retention_refused(&self, table: &'static str, why: Option<String>) {
        metrics::gauge!("retention_refused", "table" => table).set(if why.is_some() { 1.0 } else { 0.0 });
        let mut state = self.lock();
        match why {
            Some(why) => state.retention_refused.insert(table, why),
            None => state.retention_refused.remove(table),
        };
    }

    /// This instance no longer deletes old rows.
    pub fn retention_ended(&self) {
        for table in self.retention_refused().into_keys() {
            self.set_retention_refused(table, None);
        }
    }

    /// Tables with old rows that this instance should delete and may not, each with the reason.
    pub fn retention_refused(&self) -> BTreeMap<&'static str, String> {
        self.lock().retention_refused.clone()
    }

    /// Whether they follow the log: nothing is wrong, and nothing is late.
    pub fn follow(&self) -> bool {
        self.trouble().is_none() && self.lag().is_none_or(|lag| lag.age < LATE_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, TablesState> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;

    #[test]
    fn trouble_lasts_until_its_reporter_succeeds() {
        let tables = Tables::default();
        assert!(tables.follow());
        let deadline = anyhow::Error::from(database::Error::Deadline(Duration::from_secs(12)));
        tables.failed(TroubleSource::Writer, &deadline);
        let since = tables.trouble().unwrap().since;
        tables.works(TroubleSource::Question);
        tables.failed(TroubleSource::Writer, &deadline.context("again"));
        let trouble = tables.trouble().unwrap();
        assert_eq!((trouble.class, trouble.since), (Class::TimeLimit, since));
        assert!(!tables.follow());
        tables.works(TroubleSource::Writer);
        assert_eq!(tables.trouble(), None);
        tables.failed(
            TroubleSource::Question,
            &anyhow::Error::from(database::Error::unreachable("refused", None)),
        );
        assert_eq!(tables.trouble().unwrap().class, Class::NoConnection);
    }

    #[test]
    fn retention_that_is_refused_is_shown_until_it_is_not() {
        let tables = Tables::default();
        tables.set_retention_refused("webhook_logs", Some("no right".to_owned()));
        tables.set_retention_refused("delivery_error_logs", Some("no right".to_owned()));
        tables.set_retention_refused("webhook_logs", None);
        assert_eq!(
            tables.retention_refused().into_keys().collect::<Vec<_>>(),
            ["delivery_error_logs"]
        );
        assert!(tables.follow(), "the tables are written all the same");
        tables.retention_ended();
        assert!(tables.retention_refused().is_empty());
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_missing_event() {
        let tables = Tables::default();
        let lag = |seconds| Lag {
            events: 100_000,
            age: Duration::from_secs(seconds),
        };
        tables.set_lag(lag(59));
        assert!(tables.follow(), "many events that came just now");
        tables.set_lag(lag(60));
        assert!(!tables.follow());
    }
}
