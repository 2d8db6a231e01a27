//! `restore`: makes the log again of a backup.
//!
//! Until all of it was seen on the server the log carries a mark ([`restoring`]) and takes no event, and before the old log is deleted
//! `LEASES` carries one. So an interruption at any moment leaves the old log, a marked part of the new one, or no log and that mark;
//! hubs and `streams apply` refuse the last two.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::fs::File;

use super::{
    backup::{Manifest, connect, progress, read_checked},
    print, tell, with_rights,
};
use crate::{
    config::{self, Environment},
    fault_injection::crash_at,
    journal::{
        EVENTS,
        connection::Connection,
        snapshot::{self, StreamSnapshot},
        streams::{self, api, choices::with_choices, restoring},
    },
    operator::streams::Chosen,
};

/// Wait for an answer of the server.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a cluster may take until the restored log has a leader that knows all of it.
const SETTLED: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How to restore.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct How {
    #[command(flatten)]
    chosen: Chosen,
    /// Replaces a log that holds events: it is deleted.
    #[arg(long)]
    replace: bool,
}

/// Restores the log.
///
/// # Errors
/// Where the backup is not whole, there is a log with events already, events would be removed at once for their age or their
/// size, or NATS refuses.
pub async fn run(environment: &Environment, folder: &Path, how: &How, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    tell(format!("checking {}", folder.display()));
    let (manifest, snapshot) = read_checked(folder).await?;
    let config = configured(&manifest, how)?;
    let taken = StreamSnapshot {
        config: restoring::marked(&config, manifest.backup.last_sequence),
        state: manifest.state.clone(),
    };
    let connection = connect(&settings, "webhook-hub restore").await?;
    let work = async {
        if let Some(left) = may_replace(&connection, how.replace).await? {
            tell(format!("deleting the existing log, last sequence {left}"));
        }
        restoring::begin(&connection, &config, manifest.backup.last_sequence).await?;
        crash_at("restore_begun");
        remove(&connection).await?;
        crash_at("restore_removed");
        let mut file = File::open(&snapshot).await?;
        let sent = progress("sent", manifest.backup.bytes);
        snapshot::give(&connection, EVENTS, &taken, &mut file, sent).await?;
        until_there(&connection, &manifest, how.chosen.forget).await?;
        // Now it is the log: the mark is taken off, and it takes events.
        change(&connection, &config).await?;
        crash_at("restore_opened");
        restoring::end(&connection).await
    };
    with_rights(&connection, &settings, work).await?;
    let text = format!(
        "restored {}; now `webhook-hub streams apply`, then start the hubs",
        manifest.backup.text()
    );
    print(as_json, &manifest.backup, text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the server is to make of it: as it was, but for what is chosen now; of a mirror's backup a log.
fn configured(manifest: &Manifest, how: &How) -> anyhow::Result<Value> {
    ensure!(
        restoring::mark(&manifest.config).is_none(),
        "this backup is incomplete: when it was made, a restore of that log had been interrupted"
    );
    let file = streams::events_file()?;
    let before = match manifest.config["mirror"].is_object() {
        true => Value::Object(file.clone()),
        false => manifest.config.clone(),
    };
    let config = with_choices(EVENTS, &file, &before, &how.chosen.choices());
    if how.chosen.forget {
        return Ok(config);
    }
    if let Some(first) = streams::older_than_kept(&config, &manifest.state) {
        bail!(
            "the backup holds events since {first}, which are older than its max_age, so NATS would delete them immediately: choose a \
             longer --max-age to keep them, or --forget to let them go"
        );
    }
    if let Some((bytes, most)) = streams::more_than_kept(&config, &manifest.state) {
        bail!(
            "the backup holds {bytes} bytes of events, more than max_bytes {most}, so NATS would delete the oldest immediately, or refuse \
             new ones: choose a larger --max-bytes to keep them, or --forget to let them go"
        );
    }
    Ok(config)
}

/// Whether the log that is there may be deleted: an empty one, as `streams apply` makes it, or what an interrupted restore left; any other
/// one only with `replace`. Its last sequence; none where there is no log. An empty one takes no event any more when this returns.
async fn may_replace(connection: &Connection, replace: bool) -> anyhow::Result<Option<u64>> {
    let Some(info) = api::stream_info(connection, EVENTS).await? else {
        return Ok(None);
    };
    if !replace && !restoring::holds_only_a_part(&info) {
        if let Err(error) = ensure_empty(&info) {
            if restoring::mark(&info["config"]) == Some(0) {
                // A restore ended between the mark and the second look below: the events are the log's own.
                let open = restoring::unmarked(&info["config"], &streams::events_file()?);
                change(connection, &open).await?;
                tell("an earlier restore closed a log that had just taken an event; it is open again".to_owned());
            }
            return Err(error);
        }
        // Nothing may come in between the look and the deletion. The mark says that it is empty, so that a log that took events
        // just before it is not deleted by the next restore, should this one end here.
        change(connection, &restoring::marked(&info["config"], 0)).await?;
        crash_at("restore_closed");
        let again = api::stream_info(connection, EVENTS).await?;
        if let Err(error) = again.as_ref().map_or(Ok(()), ensure_empty) {
            change(connection, &info["config"]).await?;
            return Err(error);
        }
    }
    Ok(Some(info["state"]["last_seq"].as_u64().unwrap_or_default()))
}

/// Deletes the log, where there is one.
async fn remove(connection: &Connection) -> anyhow::Result<()> {
    if api::stream_info(connection, EVENTS).await?.is_none() {
        return Ok(());
    }
    let what = format!("STREAM.DELETE.{EVENTS}");
    api::ask(connection, &what, &Value::Null, ANSWER)
        .await
        .context("cannot delete EVENTS")?;
    Ok(())
}

fn ensure_empty(info: &Value) -> anyhow::Result<()> {
    let last = info["state"]["last_seq"].as_u64().unwrap_or(u64::MAX);
    ensure!(
        last == 0,
        "EVENTS exists and holds events up to sequence {last}. To replace it: stop the hubs, back it up (`webhook-hub backup`), and run \
         this again with --replace, which deletes it"
    );
    Ok(())
}

async fn change(connection: &Connection, config: &Value) -> anyhow::Result<()> {
    let what = format!("STREAM.UPDATE.{EVENTS}");
    api::ask(connection, &what, config, ANSWER)
        .await
        .context("cannot change EVENTS")?;
    Ok(())
}

/// Waits until the server has what the backup holds.
async fn until_there(connection: &Connection, manifest: &Manifest, forgets: bool) -> anyhow::Result<()> {
    let expected = &manifest.backup;
    let look = async {
        loop {
            let info = api::stream_info(connection, EVENTS).await.ok().flatten();
            let state = info.unwrap_or_default()["state"].take();
            let is = |name: &str, number: u64| state[name].as_u64() == Some(number);
            if is("last_seq", expected.last_sequence) && (forgets || is("messages", expected.messages)) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let there = tokio::time::timeout(SETTLED, look).await;
    there.map_err(|_| anyhow::anyhow!("NATS does not show {}", json!(manifest.backup)))
}
