//! `backup`: writes the whole log into a folder, and checks what was written. [`super::restore`] reads it.
//!
//! A backup is two files: `stream.tar.s2`, the snapshot as the server gave it, and `backup.json`, written last, which
//! describes it. A folder without `backup.json` is no backup. Only `EVENTS` is backed up: every other stream is made from it,
//! or holds nothing that is needed for longer than a day.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
};

use super::{
    print,
    progress::{ProgressDisplay, Unit},
    with_rights,
};
use crate::{
    config::{self, Environment},
    journal::{
        EVENTS,
        connection::{BACKUP_INBOX, Connection, PROVISION_INBOX},
        snapshot::{self, StreamSnapshot, frames::Frames},
        streams::{self, api, restoring},
    },
    projection::rebuild::Progress,
};

/// The two files. The `nats` command uses the same names and can read both.
pub(super) const SNAPSHOT: &str = "stream.tar.s2";
pub(super) const MANIFEST: &str = "backup.json";
/// Name of the snapshot's file while it is written.
const UNFINISHED: &str = "stream.tar.s2.unfinished";
/// Bytes read at a time to check a file.
const BLOCK: usize = 1 << 20;
/// The user with all rights. Its inbox differs from that of the user that makes backups.
const PROVISION: &str = "provision";

/// `backup.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// What `nats stream restore` reads.
    pub(super) config: Value,
    pub(super) state: Value,
    /// What this program reads.
    pub(super) backup: Details,
}

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) stream: String,
    /// The program's version.
    pub(super) version: String,
    pub(super) taken_at: String,
    /// When the stream was created: another one has another time.
    pub(super) created: String,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) messages: u64,
    /// Of the snapshot's file.
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Details {
    pub(super) fn text(&self) -> String {
        format!(
            "{}: {} events, {} to {}, {} bytes, taken {}",
            self.stream, self.messages, self.first_sequence, self.last_sequence, self.bytes, self.taken_at
        )
    }
}

/// Opens a connection for a backup or a restore, with the inbox that its user may listen to.
pub(super) async fn connect(settings: &config::Nats, name: &str) -> anyhow::Result<Connection> {
    let inbox = match settings.user.as_deref() {
        Some(PROVISION) => PROVISION_INBOX,
        _ => BACKUP_INBOX,
    };
    let connection = Connection::open(settings, name, inbox).await?;
    connection.reach().await?;
    Ok(connection)
}

/// Shows how many bytes were read or sent, of about how many.
pub(super) fn progress(phase: &'static str, about: u64) -> impl FnMut(u64) {
    let shown = ProgressDisplay::new(Unit::Bytes);
    move |done| {
        shown.tell(Progress { phase, done, of: about });
    }
}

/// Makes a backup of the log.
///
/// # Errors
/// If the folder is not empty or cannot be written, or NATS refuses or breaks off. An unfinished backup has no `backup.json`.
pub async fn run(environment: &Environment, folder: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    prepare(folder).await?;
    let connection = connect(&settings, "webhook-hub backup").await?;
    let manifest = with_rights(&connection, &settings, back_up(&connection, folder)).await?;
    let text = format!("{}; checked, in {}", manifest.backup.text(), folder.display());
    print(as_json, &manifest.backup, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Creates the folder, or checks that it is empty. Only its owner may read it, because a backup holds customers' data.
async fn prepare(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let mut made = fs::DirBuilder::new();
    let made = made.recursive(true).mode(0o700).create(folder).await;
    made.with_context(|| format!("cannot make {shown}"))?;
    let mut entries = fs::read_dir(folder)
        .await
        .with_context(|| format!("cannot read {shown}"))?;
    ensure!(
        entries.next_entry().await?.is_none(),
        "{shown} is not empty: every backup needs its own folder"
    );
    Ok(())
}

async fn back_up(connection: &Connection, folder: &Path) -> anyhow::Result<Manifest> {
    let info = api::stream_info(connection, EVENTS)
        .await?
        .context("EVENTS is missing on the NATS server, so there is nothing to back up")?;
    restoring::refuse(EVENTS, &info["config"])?;
    write(connection, folder, &info).await
}

/// Makes the folder and writes a backup of the log into it; `info` is what `STREAM.INFO` says of it.
///
/// # Errors
/// The same as [`run`].
pub(super) async fn write_into(connection: &Connection, folder: &Path, info: &Value) -> anyhow::Result<Manifest> {
    prepare(folder).await?;
    write(connection, folder, info).await
}

async fn write(connection: &Connection, folder: &Path, info: &Value) -> anyhow::Result<Manifest> {
    let about = info["state"]["bytes"].as_u64().unwrap_or_default();
    let (unfinished, snapshot) = (folder.join(UNFINISHED), folder.join(SNAPSHOT));
    let mut out = Hashing::new(create(&unfinished).await?);
    let taken = snapshot::take(connection, EVENTS, &mut out, progress("read", about)).await?;
    let (file, bytes, sha256) = out.finish();
    file.sync_all().await.context("cannot write the backup")?;
    drop(file);
    // Read back, because only what is on the disk counts.
    let checked = check(&unfinished).await?;
    ensure!(
        checked == (bytes, sha256.clone()),
        "{} differs from what was written to it",
        unfinished.display()
    );
    fs::rename(&unfinished, &snapshot)
        .await
        .context("cannot write the backup")?;
    let manifest = manifest(taken, info, bytes, sha256)?;
    let mut file = create(&folder.join(MANIFEST)).await?;
    file.write_all(&serde_json::to_vec_pretty(&manifest)?).await?;
    file.sync_all().await.context("cannot write the backup")?;
    File::open(folder)
        .await?
        .sync_all()
        .await
        .context("cannot write the backup")?;
    Ok(manifest)
}

fn manifest(mut taken: StreamSnapshot, info: &Value, bytes: u64, sha256: String) -> anyhow::Result<Manifest> {
    if restoring::mark(&taken.config) == Some(0) {
        // A restore closed it and put nothing there: the events are the log's own, and all of them.
        taken.config = restoring::unmarked(&taken.config, &streams::events_file()?);
    }
    let number = |name: &str| {
        let number = taken.state[name].as_u64();
        number.with_context(|| format!("NATS gives no {name}"))
    };
    let backup = Details {
        stream: EVENTS.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        created: info["created"].as_str().unwrap_or_default().to_owned(),
        first_sequence: number("first_seq")?,
        last_sequence: number("last_seq")?,
        messages: number("messages")?,
        bytes,
        sha256,
    };
    Ok(Manifest {
        config: taken.config,
        state: taken.state,
        backup,
    })
}

async fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path).await;
    opened.with_context(|| format!("cannot create {}", path.display()))
}

/// Reads a backup's manifest, and its whole snapshot to check that it is unchanged.
///
/// # Errors
/// If a file is missing or differs from what was written.
pub(super) async fn read_checked(folder: &Path) -> anyhow::Result<(Manifest, PathBuf)> {
    let (path, snapshot) = (folder.join(MANIFEST), folder.join(SNAPSHOT));
    let manifest = fs::read(&path).await.with_context(|| {
        format!(
            "cannot read {}: a folder without this file is no backup, or an unfinished one",
            path.display()
        )
    })?;
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .with_context(|| format!("{} is not a manifest of `webhook-hub backup`", path.display()))?;
    if manifest.backup.stream != EVENTS {
        bail!("{} is a backup of {}", path.display(), manifest.backup.stream);
    }
    let (bytes, sha256) = check(&snapshot).await?;
    ensure!(
        bytes == manifest.backup.bytes && sha256 == manifest.backup.sha256,
        "{} is not the file that the backup wrote: it has {bytes} bytes and the SHA-256 {sha256}",
        snapshot.display()
    );
    Ok((manifest, snapshot))
}

/// Size and checksum of a snapshot, after a check that it is complete.
async fn check(path: &Path) -> anyhow::Result<(u64, String)> {
    let shown = path.display();
    let mut file = File::open(path).await.with_context(|| format!("cannot read {shown}"))?;
    let (mut hash, mut frames, mut bytes) = (Sha256::new(), Frames::default(), 0);
    let (mut read_at_once, mut content) = (vec![0; BLOCK], Vec::new());
    let mut unpack_all = |frames: &mut Frames| {
        while let Some(block) = frames.next_block()? {
            block.unpack(&mut content)?;
        }
        anyhow::Ok(())
    };
    loop {
        let read = file
            .read(&mut read_at_once)
            .await
            .with_context(|| format!("cannot read {shown}"))?;
        if read == 0 {
            break;
        }
        hash.update(&read_at_once[..read]);
        frames.feed(&read_at_once[..read]);
        unpack_all(&mut frames).with_context(|| format!("{shown} is broken"))?;
        bytes += read as u64;
    }
    frames.end().with_context(|| format!("{shown} is broken"))?;
    Ok((bytes, hex::encode(hash.finalize())))
}

/// Passes bytes on to the file, and keeps their number and checksum.
struct Hashing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn new(file: File) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> (File, u64, String) {
        (self.file, self.bytes, hex::encode(self.hash.finalize()))
    }
}

impl AsyncWrite for Hashing {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.file).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.hash.update(&bytes[..count]);
            self.bytes += count as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}
