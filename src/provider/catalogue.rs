//! The providers that this installation knows: the shipped files, and those of `PROVIDERS_DIR`.
//!
//! A file of the folder replaces the shipped file of the same name. A known provider is not enabled by that.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::declarative::{
    file::File,
    load::{FileFaults, MAX_FILE_BYTES, load},
};

/// Most files of a folder that are read: a folder with more is not one of providers.
const MAX_FILES: usize = 256;

/// A shipped file is named after its provider, with this behind it.
const SUFFIX: &str = ".toml";

/// The files that are part of this program.
const SHIPPED: [(&str, &str); 16] = [
    ("careem-pos.toml", include_str!("../../providers/careem-pos.toml")),
    ("careem.toml", include_str!("../../providers/careem.toml")),
    ("deliverect.toml", include_str!("../../providers/deliverect.toml")),
    ("deliveroo.toml", include_str!("../../providers/deliveroo.toml")),
    ("delivery-hero.toml", include_str!("../../providers/delivery-hero.toml")),
    ("doordash.toml", include_str!("../../providers/doordash.toml")),
    ("generic.toml", include_str!("../../providers/generic.toml")),
    ("glovo.toml", include_str!("../../providers/glovo.toml")),
    ("hubrise.toml", include_str!("../../providers/hubrise.toml")),
    ("jahez.toml", include_str!("../../providers/jahez.toml")),
    ("just-eat.toml", include_str!("../../providers/just-eat.toml")),
    ("keeta.toml", include_str!("../../providers/keeta.toml")),
    ("rappi.toml", include_str!("../../providers/rappi.toml")),
    ("talabat.toml", include_str!("../../providers/talabat.toml")),
    ("uber-eats.toml", include_str!("../../providers/uber-eats.toml")),
    ("wolt.toml", include_str!("../../providers/wolt.toml")),
];

/// The source of a provider's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOrigin {
    /// Part of this program.
    Shipped,
    /// In the folder.
    Folder(PathBuf),
}

/// A provider that is known.
#[derive(Debug, Clone)]
pub struct KnownProvider(Source);

#[derive(Debug, Clone)]
enum Source {
    /// Its place in [`SHIPPED`].
    Shipped(usize),
    Folder(PathBuf, Arc<File>),
}

impl KnownProvider {
    /// Its file. A shipped file is read when it is needed, once in a process: an installation enables few of them.
    pub fn file(&self) -> &Arc<File> {
        static READ: [OnceLock<Arc<File>>; SHIPPED.len()] = [const { OnceLock::new() }; SHIPPED.len()];
        match &self.0 {
            Source::Shipped(at) => READ[*at].get_or_init(|| {
                let (name, text) = SHIPPED[*at];
                Arc::new(load(name, text).expect("a test loads every shipped file"))
            }),
            Source::Folder(_, file) => file,
        }
    }

    /// Its source.
    pub fn origin(&self) -> FileOrigin {
        match &self.0 {
            Source::Shipped(_) => FileOrigin::Shipped,
            Source::Folder(path, _) => FileOrigin::Folder(path.clone()),
        }
    }
}

/// All of them, by name.
#[derive(Debug, Clone)]
pub struct Catalogue(BTreeMap<String, KnownProvider>);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It, or a file of it, cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is wrong.
    #[error(transparent)]
    Faults(#[from] FileFaults),
    /// Two files have one name.
    #[error("{first} and {second} both are provider {name}")]
    Twice {
        /// The provider.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// More files than any folder of providers has.
    #[error("{0} holds more than {MAX_FILES} files")]
    TooMany(PathBuf),
}

impl Catalogue {
    /// Those that are shipped, and those of a folder.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn load(folder: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut known = Self::shipped();
        if let Some(folder) = folder {
            known.add_folder(folder)?;
        }
        Ok(known)
    }

    /// Those that are shipped.
    pub fn shipped() -> Self {
        let name = |file: &str| file.strip_suffix(SUFFIX).unwrap_or(file).to_owned();
        let all = SHIPPED.iter().enumerate();
        Self(
            all.map(|(at, (file, _))| (name(file), KnownProvider(Source::Shipped(at))))
                .collect(),
        )
    }

    /// The names of the files that are shipped, and their text.
    pub const fn shipped_files() -> &'static [(&'static str, &'static str)] {
        &SHIPPED
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), CatalogueError> {
        let unreadable = |error| CatalogueError::Unreadable {
            path: folder.to_owned(),
            error,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
            if paths.len() > MAX_FILES {
                return Err(CatalogueError::TooMany(folder.to_owned()));
            }
        }
        paths.sort();
        for path in paths {
            let file = load_file(&path)?;
            let name = file.identity.name.clone();
            let known = KnownProvider(Source::Folder(path.clone(), Arc::new(file)));
            if let Some(KnownProvider(Source::Folder(first, _))) = self.0.insert(name.clone(), known) {
                return Err(CatalogueError::Twice {
                    name,
                    first,
                    second: path,
                });
            }
        }
        Ok(())
    }

    /// By name.
    pub fn get(&self, name: &str) -> Option<&KnownProvider> {
        self.0.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All of them with their names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KnownProvider)> {
        self.0.iter().map(|(name, known)| (name.as_str(), known))
    }
}

/// Reads one file.
///
/// # Errors
/// If it cannot be read or is wrong.
pub fn load_file(path: &Path) -> Result<File, CatalogueError> {
    let unreadable = |error| CatalogueError::Unreadable {
        path: path.to_owned(),
        error,
    };
    // A file that is too large is refused without being read.
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES as u64 {
        return Err(unreadable(io::Error::other(format!(
            "it is larger than {MAX_FILE_BYTES} bytes"
        ))));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(load(&path.display().to_string(), &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipped_file_has_the_name_of_its_provider() {
        for (name, known) in Catalogue::shipped().0 {
            assert_eq!(known.file().identity.name, name);
        }
    }
}
