//! Whether a floor is about the log that is there.
//!
//! A log may go back under its readers: NATS is restored from an older copy, or set up anew. Then other events stand, or will
//! stand, at the sequences that a floor calls settled. So each floor names when the stream was created and which message
//! stood at the last place that it knew.

use anyhow::Context as _;
use async_nats::jetstream::{consumer, message::StreamMessage, stream::RawMessageErrorKind};

use super::tenure::Tenure;
use crate::journal::{EVENTS, codec::MESSAGE_ID, connection::Connection, lease::note::Floor};

/// The log, as its leader describes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogState {
    /// When it was created, in nanoseconds since 1970.
    pub(super) created: i64,
    /// Sequences of the first message that is left, and of the last one; 0 where there was none ever.
    pub(super) first: u64,
    pub(super) last: u64,
}

impl LogState {
    /// Asks the leader.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub(super) async fn look(connection: &Connection) -> anyhow::Result<Self> {
        let stream = connection.context.get_stream(EVENTS).await;
        let stream = stream.context("cannot look up EVENTS")?;
        let info = stream.cached_info();
        Ok(Self {
            created: i64::try_from(info.created.unix_timestamp_nanos())?,
            first: info.state.first_sequence,
            last: info.state.last_sequence,
        })
    }

    /// A floor that knows nothing but that the server counts as acknowledged what stands up to here.
    pub(super) fn acknowledged(self, up_to: u64) -> Floor {
        Floor {
            created: self.created,
            known: 0,
            known_id: String::new(),
            recorded: up_to,
            settled: up_to,
            open: Vec::new(),
            lanes: None,
        }
    }
}

/// The floor of the instance before, where it is about this log; else none, and that is said.
///
/// # Errors
/// Where NATS does not answer.
pub(super) async fn of_this_log(
    connection: &Connection,
    log: LogState,
    floor: Option<Floor>,
    stage: &str,
) -> anyhow::Result<Option<Floor>> {
    let Some(floor) = floor else { return Ok(None) };
    if !is_of(connection, log, floor.created, floor.known, &floor.known_id).await? {
        tracing::error!(
            stage,
            floor = floor.settled,
            known = floor.known,
            last = log.last,
            "the event log is not the one that this stage worked on: it went back or is another; what the stage had settled is \
             forgotten, and read from the log anew"
        );
        return Ok(None);
    }
    Ok(Some(floor))
}

/// Where the log is not the one that the stage works on any more, forgets what is known of it.
///
/// # Errors
/// Where that is so, or NATS does not answer.
pub(super) async fn check(connection: &Connection, tenure: &Tenure) -> anyhow::Result<()> {
    let log = LogState::look(connection).await?;
    let identity = tenure.progress(|progress| {
        let (known, id) = progress.known();
        (progress.created(), known, id.to_owned())
    });
    let Some((created, known, id)) = identity else {
        return Ok(());
    };
    if is_of(connection, log, created, known, &id).await? {
        return Ok(());
    }
    tenure.forget();
    Err(WentBack { known, last: log.last }.into())
}

/// The log is not the one that the stage worked on any more.
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
    // First: what is known is the proof that this is the same log.
    let looked = async {
        check(connection, tenure).await?;
        let log = LogState::look(connection).await?;
        if let Some(last) = message_at(connection, log.last).await? {
            tenure.progress(|progress| progress.know(log.last, &id_of(&last)));
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

async fn is_of(connection: &Connection, log: LogState, created: i64, known: u64, id: &str) -> anyhow::Result<bool> {
    if created != log.created || known > log.last {
        return Ok(false);
    }
    // Nothing was known, or what was known is too old to be on the log still.
    if known == 0 || known < log.first {
        return Ok(true);
    }
    let found = message_at(connection, known).await?;
    Ok(found.is_some_and(|message| id_of(&message) == id))
}

/// A message of the log as its leader has it.
///
/// # Errors
/// Where NATS does not answer.
pub(super) async fn message_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<StreamMessage>> {
    if sequence == 0 {
        // The log is empty; the server calls such a question a bad request.
        return Ok(None);
    }
    let stream = connection.context.get_stream_no_info(EVENTS).await?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error).context("cannot read the event log"),
    }
}

pub(super) fn id_of(message: &StreamMessage) -> String {
    let id = message.headers.get(MESSAGE_ID);
    id.map(|id| id.as_str().to_owned()).unwrap_or_default()
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
