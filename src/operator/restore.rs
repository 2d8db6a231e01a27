//! `restore`: restores the log from a backup.
//!
//! Until the log is verified to be complete on the server, it carries a mark ([`restoring`]) and takes no event, and before the old log is deleted
//! `LEASES` carries one. So an interruption at any moment leaves the old log, a marked part of the new one, or no log and that mark;
//! hubs and `streams apply` refuse the last two.
//!
//! NATS cannot rename a stream, so the old log must go before the new one is there. If it holds events, a checked backup of it is on
//! the disk by then.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::fs::File;

use super::{
    acts::{ActKind, ActOptions},
    backup::{self, Details, Manifest, connect, progress, read_checked},
    print, tell, with_rights,
};
use crate::{
    config::{self, Environment},
    event::operator::{ActResult, Acted},
    fault_injection::crash_at,
    journal::{
        EVENTS,
        connection::Connection,
        snapshot::{self, StreamSnapshot},
        streams::{
            self,
            api::{self, ApiError},
            choices::with_choices,
            notes::{ActNote, with_note},
            restoring,
        },
    },
    operator::streams::Chosen,
};

const CANNOT_BE_MADE: &str = "NATS cannot make this log, and the existing one stays";
/// JetStream's error code for an impossible configuration.
const INVALID_CONFIG: u64 = 10052;
/// A stream that exists only while it is tried whether NATS makes such a log. It takes no event.
const TRIAL: &str = "EVENTS_TRIAL";
const TRIAL_SUBJECT: &str = "hub.restoring.trial";
/// Room that it has at least.
const TRIAL_BYTES: i64 = 1 << 20;
/// Time limit of one request to the server.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a cluster may take until the restored log has a leader that knows all of it.
const SETTLED: Duration = Duration::from_secs(60);
/// Pause between two checks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How to restore.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct How {
    #[command(flatten)]
    chosen: Chosen,
    /// Replaces a log that holds events. A backup of that log is written first: to FOLDER.replaced-TIME.
    #[arg(long)]
    replace: bool,
    /// Writes that backup to this folder instead.
    #[arg(
        long,
        value_name = "OTHER_FOLDER",
        requires = "replace",
        conflicts_with = "no_backup"
    )]
    backup_to: Option<PathBuf>,
    /// Deletes the log that is replaced without a backup, for example because NATS cannot read it.
    #[arg(long, requires = "replace")]
    no_backup: bool,
    #[command(flatten)]
    act: ActOptions,
}

/// The log that is replaced.
#[derive(Debug, Default)]
struct Replaced {
    /// Its last sequence; 0 if it never held an event.
    last_sequence: u64,
    /// The folder with its backup.
    backup: Option<PathBuf>,
}

/// The result, as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    #[serde(flatten)]
    restored: Details,
    /// The folder with the backup of the replaced log.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<PathBuf>,
}

/// What is on the server before the restore.
enum Existing {
    Nothing,
    /// The part that an interrupted restore left, up to this sequence.
    Part(Value, u64),
    /// A log, up to this sequence: 0 if it never held an event.
    Log(Value, u64),
}

/// Restores the log.
///
/// # Errors
/// If the backup is incomplete, the server has a log with events or that log cannot be backed up, events would be removed at once for
/// their age or size, or NATS refuses.
pub async fn run(environment: &Environment, folder: &Path, how: &How, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    tell(format!("checking {}", folder.display()));
    let (manifest, snapshot) = read_checked(folder).await?;
    let config = configured(&manifest, how)?;
    let acted = how.act.acted(environment, ActKind::Restore, Value::Null)?;
    let connection = connect(&settings, "webhook-hub restore").await?;
    let work = async {
        let replaced = make_way(&connection, folder, how, &config, &manifest).await?;
        let acted = with_result(acted, folder, &replaced, &manifest.backup);
        let made = make(&connection, &manifest, &snapshot, (&config, acted), how.chosen.forget).await;
        made.with_context(|| unfinished(replaced.backup.as_deref()))?;
        anyhow::Ok(replaced.backup)
    };
    let replaced = with_rights(&connection, &settings, work).await?;
    let mut text = format!("restored {}", manifest.backup.text());
    if let Some(replaced) = &replaced {
        text = format!(
            "{text}; a backup of the log that was replaced is in {}",
            replaced.display()
        );
    }
    text.push_str("; now `webhook-hub streams apply`, then start the hubs");
    let restored = Restored {
        restored: manifest.backup,
        replaced,
    };
    print(as_json, &restored, text)?;
    Ok(ExitCode::SUCCESS)
}

/// The act as a hub records it once the log is complete.
fn with_result(acted: Acted, folder: &Path, replaced: &Replaced, backup: &Details) -> Acted {
    let shown = |path: &Path| path.display().to_string();
    Acted {
        arguments: json!({
            "folder": shown(folder), "replacedLastSequence": replaced.last_sequence, "replacedBackup": replaced.backup.as_deref().map(shown),
        }),
        result: Some(ActResult {
            error: None,
            counts: json!({
                "events": backup.messages, "firstSequence": backup.first_sequence, "lastSequence": backup.last_sequence,
                "takenAt": backup.taken_at,
            }),
        }),
        ..acted
    }
}

/// Deletes the existing log if that is allowed; if it holds events, after a backup of it.
async fn make_way(
    connection: &Connection,
    folder: &Path,
    how: &How,
    config: &Value,
    manifest: &Manifest,
) -> anyhow::Result<Replaced> {
    let existing = existing(connection, how.replace).await?;
    if let Existing::Part(info, _) | Existing::Log(info, _) = &existing {
        can_be_made(connection, info, config, manifest).await?;
    }
    let mut replaced = Replaced::default();
    if let Existing::Log(info, last_seen) = &existing {
        replaced.last_sequence = *last_seen;
        if *last_seen > 0 && !how.no_backup {
            replaced = keep(connection, info, folder, how).await?;
        }
    }
    let last = replaced.last_sequence;
    restoring::begin(connection, config, manifest.backup.last_sequence).await?;
    crash_at("restore_begun");
    match existing {
        Existing::Nothing => {}
        Existing::Part(_, last) => {
            tell(format!(
                "an earlier restore left a part of the log, up to sequence {last}: it is deleted, and this one begins again"
            ));
            remove(connection, EVENTS).await?;
        }
        Existing::Log(info, _) => {
            // A mirror takes no events except those of its log. Without a backup, the log may be one that cannot be changed.
            let is_mirror = info["config"]["mirror"].is_object();
            if !is_mirror && (last == 0 || !how.no_backup) {
                close(connection, &info, last).await?;
            }
            tell(format!("deleting the existing log, last sequence {last}"));
            remove(connection, EVENTS).await?;
        }
    }
    crash_at("restore_removed");
    Ok(replaced)
}

/// Creates the log and opens it once it is complete, with a note of the act.
async fn make(
    connection: &Connection,
    manifest: &Manifest,
    snapshot: &Path,
    (config, acted): (&Value, Acted),
    forgets: bool,
) -> anyhow::Result<()> {
    let taken = StreamSnapshot {
        config: restoring::marked(config, manifest.backup.last_sequence),
        state: manifest.state.clone(),
    };
    let mut file = File::open(snapshot).await?;
    let sent = progress("sent", manifest.backup.bytes);
    snapshot::give(connection, EVENTS, &taken, &mut file, sent).await?;
    until_there(connection, manifest, forgets).await?;
    // From now on it is the log: the mark is removed, and it takes events.
    change(connection, &with_note(config.clone(), &ActNote::new(acted))).await?;
    crash_at("restore_opened");
    restoring::end(connection).await
}

/// The message for an operator when the old log is gone and the new one is incomplete.
fn unfinished(replaced: Option<&Path>) -> String {
    let again = "the restore is not finished, and there is no log until it is: run the same command again";
    match replaced {
        None => again.to_owned(),
        Some(replaced) => format!(
            "{again} (a backup of the log that was deleted is in {}; `restore` takes it, too)",
            replaced.display()
        ),
    }
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
    let config = streams::restorable(&with_choices(EVENTS, &file, &before, &how.chosen.choices()))?;
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

/// The existing log, if it may be deleted: an empty log, as `streams apply` makes it, or what an interrupted restore left; any other log
/// only with `replace`.
async fn existing(connection: &Connection, replace: bool) -> anyhow::Result<Existing> {
    let Some(info) = api::stream_info(connection, EVENTS).await? else {
        return Ok(Existing::Nothing);
    };
    let last = last_sequence(&info);
    if restoring::holds_only_a_part(&info) {
        return Ok(Existing::Part(info, last));
    }
    if last == 0 || replace {
        return Ok(Existing::Log(info, last));
    }
    if restoring::mark(&info["config"]) == Some(0) {
        // A restore ended between `close` and its deletion of the log: the events are the log's own.
        let open = restoring::unmarked(&info["config"], &streams::events_file()?);
        change(connection, &open).await?;
        tell("an earlier restore closed this log and did not delete it; it is open again".to_owned());
    }
    bail!(
        "EVENTS exists and holds events up to sequence {last}. To replace it: stop the hubs, and run this again with --replace, which \
         writes a backup of it and then deletes it"
    )
}

/// Checks, as far as possible in advance, that the server would take the new log if the existing one were gone.
///
/// # Errors
/// If it would not.
async fn can_be_made(connection: &Connection, info: &Value, config: &Value, manifest: &Manifest) -> anyhow::Result<()> {
    let copies = config["num_replicas"].as_u64().unwrap_or(1);
    ensure!(
        copies == 1 || info["cluster"]["name"].is_string(),
        "the log of the backup has {copies} copies, and this server is alone: choose --replicas 1"
    );
    // The server checks the configuration before it refuses because of the name.
    let marked = restoring::marked(config, manifest.backup.last_sequence);
    let request = json!({ "config": marked, "state": manifest.state });
    let what = format!("STREAM.RESTORE.{EVENTS}");
    match api::ask(connection, &what, &request, ANSWER).await {
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(refusal) if refusal.code == INVALID_CONFIG => return Err(error.context(CANNOT_BE_MADE)),
            Some(_) => {}
            None => return Err(error),
        },
        Ok(_) => bail!("EVENTS was deleted by another program: run this again"),
    }
    // There it asks neither for room nor for servers. It does for a new stream.
    remove(connection, TRIAL).await?;
    let what = format!("STREAM.CREATE.{TRIAL}");
    let made = api::ask(connection, &what, &trial(config, &info["config"]), ANSWER).await;
    made.context(CANNOT_BE_MADE)?;
    remove(connection, TRIAL).await
}

/// The same log under another name. It needs as much room as the log needs beyond what the existing one gives back.
fn trial(config: &Value, existing: &Value) -> Value {
    let bytes = |config: &Value| config["max_bytes"].as_i64().filter(|bytes| *bytes > 0);
    let mut trial = config.clone();
    trial["name"] = TRIAL.into();
    trial["subjects"] = json!([TRIAL_SUBJECT]);
    if let Some(most) = bytes(config) {
        let more = most - bytes(existing).unwrap_or_default();
        trial["max_bytes"] = more.max(TRIAL_BYTES).into();
    }
    trial
}

/// Writes a backup of the log that is to be deleted.
async fn keep(connection: &Connection, info: &Value, folder: &Path, how: &How) -> anyhow::Result<Replaced> {
    let to = match &how.backup_to {
        Some(to) => to.clone(),
        None => {
            let name = folder.file_name().context("name a folder by --backup-to")?;
            let time = Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
            folder.with_file_name(format!("{}.replaced-{time}", name.display()))
        }
    };
    tell(format!("writing a backup of the existing log to {}", to.display()));
    let kept = backup::write_into(connection, &to, info).await;
    let kept = kept.context(
        "the existing log stays, because no backup of it can be written (--backup-to takes another folder, --no-backup deletes it without)",
    )?;
    Ok(Replaced {
        last_sequence: kept.backup.last_sequence,
        backup: Some(to),
    })
}

/// Closes the log to new events and checks again that it ends at `last`, because nothing may come in between this check and the
/// deletion. The mark says that the events are the log's own: if this restore ends here, the next one does not mistake them for a
/// partly restored log.
async fn close(connection: &Connection, info: &Value, last: u64) -> anyhow::Result<()> {
    if restoring::mark(&info["config"]).is_none() {
        change(connection, &restoring::marked(&info["config"], 0)).await?;
    }
    crash_at("restore_closed");
    let again = api::stream_info(connection, EVENTS).await?;
    let now = again.as_ref().map_or(last, last_sequence);
    if now != last {
        change(connection, &info["config"]).await?;
        restoring::end(connection).await?;
        bail!("EVENTS took events up to sequence {now} meanwhile, and stays: stop the hubs, and run this again");
    }
    Ok(())
}

/// The last sequence that `STREAM.INFO` names; if it names none, the result is that of a log with events.
fn last_sequence(info: &Value) -> u64 {
    info["state"]["last_seq"].as_u64().unwrap_or(u64::MAX)
}

/// Deletes a stream if there is one.
async fn remove(connection: &Connection, name: &str) -> anyhow::Result<()> {
    if api::stream_info(connection, name).await?.is_none() {
        return Ok(());
    }
    let what = format!("STREAM.DELETE.{name}");
    api::ask(connection, &what, &Value::Null, ANSWER)
        .await
        .with_context(|| format!("cannot delete {name}"))?;
    Ok(())
}

async fn change(connection: &Connection, config: &Value) -> anyhow::Result<()> {
    let what = format!("STREAM.UPDATE.{EVENTS}");
    api::ask(connection, &what, config, ANSWER)
        .await
        .context("cannot change EVENTS")?;
    Ok(())
}

/// Waits until the server has all events of the backup.
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
