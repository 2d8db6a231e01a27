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
