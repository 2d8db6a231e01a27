//! Checks whether a floor belongs to the current log (see [`crate::journal::identity`]).

use async_nats::jetstream::consumer;

use super::tenure::Tenure;
use crate::{
    delivery::lease::note::Floor,
    journal::{
        connection::Connection,
        identity::{self, Compared, LogState, Remembered, Trail, id_of, message_at, watch::LogIdentity},
    },
};

/// A floor made from the server's acknowledgement floor alone.
pub(super) const fn acknowledged(log: LogState, up_to: u64) -> Floor {
    Floor {
        created: log.created,
        known: 0,
        known_id: String::new(),
        trail: Trail::EMPTY,
        recorded: up_to,
        settled: up_to,
        open: Vec::new(),
        lanes: None,
    }
}

/// The floor that the previous instance left, or this one before it started over.
pub(super) enum InheritedFloor {
    /// How far the stage is on this log.
    Floor(Floor),
    /// Nothing.
    Nothing,
    /// How far it was on a log that went back, or was another.
    OfOther(Compared),
}

/// Compares the inherited floor with the log, and reports if it belongs to another one.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn inherited_floor(
    connection: &Connection,
    identity: &LogIdentity,
    log: LogState,
    tenure: &Tenure,
    stage: &'static str,
) -> anyhow::Result<InheritedFloor> {
    let Some(mut floor) = tenure.inherited() else {
        return Ok(InheritedFloor::Nothing);
    };
    let remembered = Remembered {
        created: Some(floor.created),
        as_of: None,
        position: floor.known,
        trail: floor.trail.clone(),
    };
    let compared = compare(connection, log, &remembered, &floor.known_id).await?;
    if compared.holds() {
        floor.created = log.created;
        return Ok(InheritedFloor::Floor(floor));
    }
    let consequence = "what the stage had settled is forgotten, and what is open is read from the log anew";
    identity.report(stage, compared, &remembered, &log, consequence);
    Ok(InheritedFloor::OfOther(compared))
}

/// Discards the progress if the log is no longer the one that the stage works on.
///
/// # Errors
/// If that is so, or NATS does not answer.
pub(super) async fn check(connection: &Connection, tenure: &Tenure) -> anyhow::Result<()> {
    let times = connection.times();
    // Taken before the log is read: the stage works meanwhile, and later marks may be newer than what is read.
    let Some((remembered, id)) = tenure.progress(|progress| progress.remembered()) else {
        return Ok(());
    };
    let log = LogState::look(connection).await?;
    let compared = compare(connection, log, &remembered, &id).await?;
    if compared.holds() {
        tenure.progress(|progress| progress.set_created(log.created));
        tenure.is_compared(times);
        return Ok(());
    }
    tenure.forget();
    Err(WentBack {
        known: remembered.position,
        last: log.last,
    }
    .into())
}

/// The log is no longer the one that the stage worked on.
#[derive(Debug, thiserror::Error)]
#[error("the event log went back or is another: {known} was known and {last} is the last")]
pub(super) struct WentBack {
    known: u64,
    last: u64,
}

/// Looks at the end of the log, so that the next instance need not read what is there already. Where NATS does not answer,
/// the next look does.
///
/// # Errors
/// [`WentBack`].
pub(super) async fn look(connection: &Connection, tenure: &Tenure) -> anyhow::Result<()> {
    // Checked first, because the existing marks prove that this is the same log.
    let looked = async {
        check(connection, tenure).await?;
        let log = LogState::look(connection).await?;
        if let Some(last) = message_at(connection, log.last).await? {
            tenure.progress(|progress| {
                progress.know(log.last, &id_of(&last));
                progress.mark(identity::Mark::of(&last));
            });
        }
        anyhow::Ok(())
    };
    match looked.await {
        Err(error) if error.downcast_ref::<WentBack>().is_none() => {
            tracing::debug!(error = format!("{error:#}"), "cannot look at the event log");
            Ok(())
        }
        looked => looked,
    }
}

/// Compares the marks, and the id of the last message that is known: of one that this instance appended itself it is not known when it
/// was stored, so it has no mark.
async fn compare(
    connection: &Connection,
    log: LogState,
    remembered: &Remembered,
    id: &str,
) -> anyhow::Result<Compared> {
    let compared = identity::compare(connection, &log, remembered).await?;
    let known = remembered.position;
    if !compared.holds() || known == 0 || known < log.first {
        return Ok(compared);
    }
    let found = message_at(connection, known).await?;
    if found.is_some_and(|message| id_of(&message) == id) {
        return Ok(compared);
    }
    let common = remembered.trail.newest().map(|mark| mark.sequence);
    Ok(Compared::WentBack(common.filter(|common| *common < known)))
}

/// Whether a consumer takes messages of a subject.
pub(super) fn is_taken(consumer: &consumer::Config, subject: &str) -> bool {
    let single = std::iter::once(&consumer.filter_subject).filter(|filter| !filter.is_empty());
    let mut filters = consumer.filter_subjects.iter().chain(single).peekable();
    filters.peek().is_none() || filters.any(|filter| matches(filter, subject))
}

/// Whether a subject is one that a filter means (`orders.transformed.>`).
fn matches(filter: &str, subject: &str) -> bool {
    let (mut wanted, mut found) = (filter.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), found.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_a_consumer_takes() {
        let consumer = |filters: &[&str]| consumer::Config {
            filter_subjects: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            ..consumer::Config::default()
        };
        let some = consumer(&["orders.transformed.>", "due.*.x"]);
        for taken in [
            "orders.transformed.careem",
            "orders.transformed.careem._.p01",
            "due.a.x",
        ] {
            assert!(is_taken(&some, taken), "{taken}");
        }
        for other in [
            "orders.transformed",
            "orders.forwarded.careem._.p01",
            "due.a.b.x",
            "due.a",
            "",
        ] {
            assert!(!is_taken(&some, other), "{other}");
        }
        assert!(is_taken(&consumer(&[]), "anything"));
    }
}
