//! A disk that loses what was not synced: a file system of its own, in an image on a loop device. It is cut off by the file
//! system's own "going down" call without a flush of its log, as file systems' developers play a power cut: what was written and
//! not synced is gone when it is mounted again.
//!
//! It needs root and loop devices; without them the test says so and is skipped.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use super::wait::{PATIENCE, eventually};

/// Room for the log of a test, and for the file system's own journal.
const MEGABYTES: u64 = 192;
/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH` (2): fs/ext4/ext4.h of Linux.
const CUT: &str = r#"open(my $root, "<", $ARGV[0]) or die "open: $!"; my $flags = pack("L", 2);
    ioctl($root, 0x8004587d, $flags) or die "ioctl: $!";"#;

/// A mounted file system; unmounted when it is dropped.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    _folder: TempDir,
}

impl Disk {
    /// Makes and mounts one; what is missing where this machine cannot.
    pub(crate) async fn new() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("hub-disk-").tempdir().unwrap();
        let disk = Self {
            image: folder.path().join("image"),
            mount: folder.path().join("mount"),
            _folder: folder,
        };
        std::fs::create_dir(&disk.mount).unwrap();
        let image = std::fs::File::create(&disk.image).unwrap();
        image.set_len(MEGABYTES << 20).unwrap();
        run(
            "mkfs.ext4",
            &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", text(&disk.image)],
        )
        .await?;
        disk.mount().await?;
        run("perl", &["-e", "1"]).await?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Writes all that there is to the device.
    pub(crate) async fn sync(&self) {
        run("sync", &["-f", text(&self.mount)]).await.unwrap();
    }

    /// The power fails. Nothing is read or written here until [`Self::back`].
    pub(crate) async fn cut(&self) {
        run("perl", &["-e", CUT, text(&self.mount)]).await.unwrap();
    }

    /// The power is back: synced data is there. No process may use the folder at this moment.
    pub(crate) async fn back(&self) {
        eventually("the file system can be unmounted", PATIENCE, async || {
            run("umount", &[text(&self.mount)]).await
        })
        .await;
        self.mount().await.unwrap();
    }

    async fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(&self.image), text(&self.mount)]).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, for a server of a failed test may still run.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.mount).output();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
