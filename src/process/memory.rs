//! The memory limit of the process's control group, version 2 and version 1.

use std::path::{Path, PathBuf};

/// A limit of at least this much is none: version 1 writes the largest number of pages where nothing was set.
const NO_LIMIT: u64 = 1 << 60;

/// How many bytes the process's control group may use; none if there is no limit. Blocks on files that the kernel makes.
pub fn limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same, with another root of the file system.
fn limit_below(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        limits_of(&root.join(mount), group, file)
    });
    limits.min()
}

/// Of the group and of every group that it is in. A container may see its own group as the root, so that its path is not
/// there: then only the root is.
fn limits_of(mount: &Path, group: &str, file: &str) -> Vec<u64> {
    let group = PathBuf::from(group.trim_start_matches('/'));
    let read = |group: &Path| {
        let text = std::fs::read_to_string(mount.join(group).join(file)).ok()?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    };
    group.ancestors().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The limit where these are the files.
    fn limit_of(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        limit_below(root.path())
    }

    #[test]
    fn the_narrowest_group_counts_in_both_versions() {
        let v2 = ("proc/self/cgroup", "0::/system.slice/hub.service\n");
        let of_slice = ("sys/fs/cgroup/system.slice/memory.max", "268435456\n");
        let none = ("sys/fs/cgroup/system.slice/hub.service/memory.max", "max\n");
        assert_eq!(limit_of(&[v2, of_slice, none]), Some(256 * MIB));
        let own = ("sys/fs/cgroup/system.slice/hub.service/memory.max", "134217728\n");
        assert_eq!(limit_of(&[v2, of_slice, own]), Some(128 * MIB));
        assert_eq!(limit_of(&[v2, none]), None);
        // In a container the control group is the root.
        let inside = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "134217728\n"),
        ];
        assert_eq!(limit_of(&inside), Some(128 * MIB));
        let v1 = ("proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/docker/abc\n0::/\n");
        let root = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
        assert_eq!(
            limit_of(&[v1, root]),
            Some(128 * MIB),
            "the container's path is not there"
        );
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let own = ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "100663296\n");
        assert_eq!(limit_of(&[v1, unlimited]), None);
        assert_eq!(limit_of(&[v1, unlimited, own]), Some(96 * MIB));
        assert_eq!(limit_of(&[]), None);
    }
}
