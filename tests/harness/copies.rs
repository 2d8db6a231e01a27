//! An older copy of what a server keeps, as a restore brings it back.

use std::path::{Path, PathBuf};

/// A copy of a stream and its consumers; made, and put back, while the server does not run.
pub(crate) struct StreamCopy {
    folder: PathBuf,
    copied: tempfile::TempDir,
}

impl StreamCopy {
    /// Of this stream of a server that keeps its streams below `dir`.
    pub(crate) fn of(dir: &Path, stream: &str) -> Self {
        let folder = folder_of(dir, stream);
        let copied = tempfile::tempdir().unwrap();
        copy(&folder, copied.path());
        Self { folder, copied }
    }

    /// The stream is as it was.
    pub(crate) fn put_back(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy(self.copied.path(), &self.folder);
    }
}

/// A copy of every stream and consumer of a server; made, and put back, while the server does not run.
pub(crate) struct StoreCopy(tempfile::TempDir);

impl StoreCopy {
    /// Of a server that keeps its streams below `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        let copied = tempfile::tempdir().unwrap();
        copy(&dir.join(STORE), copied.path());
        Self(copied)
    }

    /// Of a server that has none.
    pub(crate) fn nothing() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The server has what it had then, and nothing else.
    pub(crate) fn put_back(&self, dir: &Path) {
        let store = dir.join(STORE);
        std::fs::remove_dir_all(&store).unwrap();
        copy(self.0.path(), &store);
    }
}

/// Copies every stream and consumer of a server that does not run to the folder of another one that has none.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    copy(&from.join(STORE), &to.join(STORE));
}

/// Where a server keeps its streams, below its folder.
const STORE: &str = "jetstream";

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn folder_of(dir: &Path, stream: &str) -> PathBuf {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.ends_with(format!("streams/{stream}")) {
                    return path;
                }
                left.push(path);
            }
        }
    }
    panic!("no stream {stream}");
}
