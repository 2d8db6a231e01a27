//! `restore`: makes the log again of a backup.
//!
//! Until all of it was seen on the server the log carries a mark ([`restoring`]) and takes no event, so that an interruption at any
//! moment leaves either no log or one that everybody knows to be a part.

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
    journal::{
        EVENTS,
        connection::Connection,
        snapshot::{self, Taken},
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
    /// Deletes a log that is there and holds events.
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
    let taken = Taken {
        config: restoring::marked(&config, manifest.backup.last_sequence),
        state: manifest.state.clone(),
    };
    let connection = connect(&settings, "webhook-hub restore").await?;
    let work = async {
        make_room(&connection, how.replace).await?;
        let mut file = File::open(&snapshot).await?;
        let sent = progress("sent", manifest.backup.bytes);
        snapshot::give(&connection, EVENTS, &taken, &mut file, sent).await?;
        until_there(&connection, &manifest, how.chosen.forget).await?;
        // Now it is the log: the mark is taken off, and it takes events.
        change(&connection, &config).await
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
        "the backup was made of a log whose restore was interrupted: it is a part of another backup"
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
            "the backup holds events since {first}, which are older than its max_age: NATS would remove them at once; \
             --max-age keeps them, --forget does not"
        );
    }
    if let Some((bytes, most)) = streams::more_than_kept(&config, &manifest.state) {
        bail!(
            "the backup holds {bytes} bytes of events, more than max_bytes {most}: NATS would remove the oldest at once, or refuse \
             new ones; a larger --max-bytes keeps them, --forget does not"
        );
    }
    Ok(config)
}

/// Takes away an empty log, as `streams apply` makes one, or what an interrupted restore left; any other log only where that is
/// asked for.
async fn make_room(connection: &Connection, replace: bool) -> anyhow::Result<()> {
    let Some(info) = api::stream_info(connection, EVENTS).await? else {
        return Ok(());
    };
    if !replace && !restoring::holds_only_a_part(&info) {
        if let Err(error) = ensure_empty(&info) {
            if restoring::mark(&info["config"]) == Some(0) {
                // A restore ended between the mark and the second look below: the events are the log's own.
                let open = restoring::unmarked(&info["config"], &streams::events_file()?);
                change(connection, &open).await?;
            }
            return Err(error);
        }
        // Nothing may come in between the look and the deletion. The mark says that it is empty, so that a log that took events
        // just before it is not deleted by the next restore, should this one end here.
        change(connection, &restoring::marked(&info["config"], 0)).await?;
        let again = api::stream_info(connection, EVENTS).await?;
        if let Err(error) = again.as_ref().map_or(Ok(()), ensure_empty) {
            change(connection, &info["config"]).await?;
            return Err(error);
        }
    }
    tell(format!(
        "removing the log that is there, last sequence {}",
        info["state"]["last_seq"]
    ));
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
        "EVENTS is there already and holds events up to sequence {last}. If they are of no use: stop the hubs, make a backup of it \
         (`webhook-hub backup`), and run this again with --replace, which deletes it"
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
