//! The process as the operating system sees it, under the names that Prometheus' own clients use. Linux only: elsewhere there is no
//! `/proc`, and these metrics are missing.

use std::fs;

/// Bytes of a page of memory, in which `statm` counts; the same on every machine that the hub is built for.
const PAGE_BYTES: u64 = 4096;

/// Reads and shows the figures. What is read is made by the kernel from memory, so it does not wait for a disk.
pub(super) fn show() {
    if let Some(count) = open_files() {
        metrics::gauge!("process_open_fds").set(count as f64);
    }
    if let Some(limit) = fs::read_to_string("/proc/self/limits")
        .ok()
        .as_deref()
        .and_then(max_files)
    {
        metrics::gauge!("process_max_fds").set(limit as f64);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/statm")
        .ok()
        .as_deref()
        .and_then(resident)
    {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
}

fn open_files() -> Option<usize> {
    // One of them is open for reading this folder.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// The soft limit of open files.
fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(max_files(limits), Some(1024));
        assert_eq!(
            max_files("Max open files            unlimited            unlimited            files"),
            None
        );
        assert_eq!(resident("5000 1234 900 10 0 300 0\n"), Some(1234 * 4096));
        assert!(open_files().is_some_and(|count| count > 2));
    }
}
