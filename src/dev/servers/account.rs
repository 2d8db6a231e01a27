//! The account of a server that refuses to run as root, and whether that account can reach the server's files.
//!
//! Not here: switching to the account (`process`), and giving it the folder (`postgres`).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

/// Tried in this order: the account that the packages make for PostgreSQL, then the one that owns nothing.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// Outlives a reboot, which the other temporary folder need not.
const LASTING_TEMPORARY: &str = "/var/tmp";

/// A line of the system's list of accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Our own user id.
pub(super) fn own_uid() -> Result<u32> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id -u`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().with_context(|| format!("`id -u` printed {text:?}"))
}

/// The account for a server that must not be root: `None` if this process is not root. An existing folder keeps the
/// account that owns it.
pub(super) fn unprivileged(data: &Path) -> Result<Option<Account>> {
    if own_uid()? != 0 {
        return Ok(None);
    }
    if let Ok(metadata) = fs::metadata(data)
        && metadata.uid() != 0
    {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        return Ok(Some(Account {
            name: uid.to_string(),
            uid,
            gid,
        }));
    }
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read the list of accounts")?;
    CANDIDATES
        .iter()
        .find_map(|name| {
            accounts
                .lines()
                .find_map(|line| parse(line).filter(|account| account.name == *name))
        })
        .map(Some)
        .ok_or_else(|| anyhow!("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody`"))
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let mut numbers = fields.skip(1);
    Some(Account {
        name,
        uid: numbers.next()?.parse().ok()?,
        gid: numbers.next()?.parse().ok()?,
    })
}

impl Account {
    /// Whether it may pass through every folder above `path`.
    pub(super) fn reaches(&self, path: &Path) -> bool {
        path.ancestors().skip(1).all(|folder| {
            fs::metadata(folder).is_ok_and(|metadata| {
                let needed = match () {
                    () if metadata.uid() == self.uid => 0o100,
                    () if metadata.gid() == self.gid => 0o010,
                    () => 0o001,
                };
                metadata.mode() & needed != 0
            })
        })
    }
}

/// A folder that every account can get to, with a name that is the same for the same wanted folder.
pub(super) fn reachable_folder(wanted: &Path) -> PathBuf {
    let lasting = Path::new(LASTING_TEMPORARY);
    let parent = if lasting.is_dir() {
        lasting.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    parent.join(stable_name(wanted))
}

/// A short file name made of a path: the same path gives the same name.
pub(super) fn stable_name(path: &Path) -> String {
    // The hasher's keys are fixed. If its algorithm changes, the only effect is a new folder.
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("webhook-hub-{:016x}", hasher.finish())
}
