//! Where and how a run was made: facts without which its figures mean little, and by which runs that cannot be compared are told apart.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::yardstick;

/// How much two readings of the memory of one machine may differ: a kernel reserves a little more or less at each start.
const SAME_MEMORY: f64 = 0.01;
const UNKNOWN: &str = "unknown";

/// Whatever has to be the same in two runs that are compared. What is not known is `unknown` or 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Cores that the bench may use.
    pub(crate) cores: usize,
    /// CPU model.
    pub(crate) cpu: String,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Type of the file system that holds the log and the tables, such as `ext4`.
    pub(crate) store: String,
    /// Profile by which bench and hub were built: the name of its folder, such as `release`.
    pub(crate) profile: String,
    /// Measured time of one run of the load, in seconds.
    pub(crate) seconds: f64,
    /// Version of the yardstick's work.
    pub(crate) yardstick: u32,
}

impl Fingerprint {
    /// Reads the machine from `/proc`. `store` is a folder on the file system that the servers write to.
    pub(crate) fn read(store: &Path, seconds: f64) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        let known = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| UNKNOWN.into());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: known(value(&read("/proc/cpuinfo"), "model name")),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: known(Some(read("/proc/sys/kernel/osrelease").trim().to_owned())),
            store: known(file_system(&read("/proc/self/mounts"), store)),
            profile: known(profile()),
            seconds,
            yardstick: yardstick::VERSION,
        }
    }

    /// What differs between this run and an earlier one, a line each; empty if they may be compared.
    pub(crate) fn differences(&self, earlier: &Self) -> Vec<String> {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let memory = self.memory_bytes.abs_diff(earlier.memory_bytes) as f64;
        let is_same_memory = memory <= earlier.memory_bytes as f64 * SAME_MEMORY;
        let facts = [
            (
                self.cpu == earlier.cpu,
                "CPU model",
                earlier.cpu.clone(),
                self.cpu.clone(),
            ),
            (
                self.cores == earlier.cores,
                "cores",
                earlier.cores.to_string(),
                self.cores.to_string(),
            ),
            (
                is_same_memory,
                "memory",
                format!("{:.1} GiB", gib(earlier.memory_bytes)),
                format!("{:.1} GiB", gib(self.memory_bytes)),
            ),
            (
                self.kernel == earlier.kernel,
                "kernel",
                earlier.kernel.clone(),
                self.kernel.clone(),
            ),
            (
                self.store == earlier.store,
                "file system of the store",
                earlier.store.clone(),
                self.store.clone(),
            ),
            (
                self.profile == earlier.profile,
                "profile",
                earlier.profile.clone(),
                self.profile.clone(),
            ),
            (
                self.seconds == earlier.seconds,
                "seconds of a run",
                earlier.seconds.to_string(),
                self.seconds.to_string(),
            ),
            (
                self.yardstick == earlier.yardstick,
                "version of the yardstick",
                earlier.yardstick.to_string(),
                self.yardstick.to_string(),
            ),
        ];
        facts
            .into_iter()
            .filter(|(is_same, ..)| !is_same)
            .map(|(_, what, then, now)| format!("{what}: {then} then, {now} now"))
            .collect()
    }
}

/// The value of the first line `key: value`.
fn value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the file system that a folder is on, by the lines of `/proc/self/mounts`: of the mount points above it the longest, of
/// equal ones the last, which hides those before it.
pub(crate) fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    above.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}

/// `…/target/PROFILE/deps/hub-…` is where cargo puts the bench.
fn profile() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?.parent()?.file_name()?;
    Some(folder.to_string_lossy().into_owned())
}
