//! In which form new events are written (`EVENT_FORMAT`).
//!
//! Versions from before the compact form cannot read it: they would give such an event up. So it is written on a log that never
//! had another form, and on an older log only from when an operator says that no such version works on it any more
//! (`EVENT_FORMAT=compact`). From then on the log's last event says so to whoever starts.

use std::time::Duration;

use anyhow::Context as _;

use super::{
    codec::Form,
    connection::Connection,
    read::{self, Reader},
};
use crate::config::EventFormat;

/// Longest time that the look at the log may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The form of what is to be written on this log.
///
/// # Errors
/// Where the log must be asked and does not answer.
pub async fn chosen(connection: &Connection, format: EventFormat) -> anyhow::Result<Form> {
    match format {
        EventFormat::Headers => Ok(Form::Headers),
        EventFormat::Compact => Ok(Form::Compact),
        EventFormat::Auto => tokio::time::timeout(TIMEOUT, of_log(connection))
            .await
            .context("the event log did not answer")?,
    }
}

async fn of_log(connection: &Connection) -> anyhow::Result<Form> {
    let end = read::end(connection).await?;
    if end.sequence == 0 {
        return Ok(Form::Compact);
    }
    let last = Reader::from(connection, end.sequence).at_most(1).next_raw().await?;
    // Where the copy that answers does not have it, or it is gone, the form that all versions read is the safe one.
    Ok(last.first().map_or(Form::Headers, |last| Form::of(&last.headers)))
}
