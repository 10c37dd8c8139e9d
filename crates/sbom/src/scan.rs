//! One walk over all files, and who reads which.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::files::{FileKind, Files};
use crate::package::{Distribution, Package};
use crate::{languages, systems};

/// What was found in a file system.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The distribution, if the files say which it is.
    pub distribution: Option<Distribution>,
    /// All packages, each once, by their URLs.
    pub packages: Vec<Package>,
    /// What could not be read.
    pub warnings: Vec<Warning>,
}

/// A file that should have told of packages and could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file, from the root.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}

/// Why a file does not tell of packages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it has more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    #[error("it is not UTF-8")]
    Encoding,
    #[error("it is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is no TOML: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("it is no YAML: {0}")]
    Yaml(#[from] yaml_rust2::ScanError),
    #[error("it is no database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("{0}")]
    Form(&'static str),
}

/// A file that somebody reads.
pub(crate) struct Source<'s> {
    /// Its path from the root, without a slash at the beginning.
    pub(crate) path: &'s Path,
    pub(crate) distribution: Option<&'s Distribution>,
    pub(crate) size_bytes: u64,
    files: &'s dyn Files,
}

impl Source<'_> {
    pub(crate) fn open(&self) -> io::Result<Box<dyn crate::ReadSeek>> {
        self.files.open(self.path)
    }

    /// The whole file, if it has at most `limit_bytes`.
    pub(crate) fn bytes(&self, limit_bytes: u64) -> Result<Vec<u8>, Malformed> {
        let mut bytes = Vec::new();
        if self.size_bytes <= limit_bytes {
            self.open()?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 <= limit_bytes {
                return Ok(bytes);
            }
        }
        Err(Malformed::TooLarge { limit_bytes })
    }

    /// The text of a file that people or their tools write.
    pub(crate) fn text(&self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes(TEXT_BYTES)?).map_err(|_| Malformed::Encoding)
    }

    pub(crate) fn file_name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// The most that is read of a lock file or a text database. The largest known have a tenth of it.
const TEXT_BYTES: u64 = 64 << 20;

/// A kind of file that tells of packages.
pub(crate) struct Reader {
    /// Whether a regular file is of this kind: by its path, and whether it can be executed.
    pub(crate) takes: fn(&Path, Executable) -> bool,
    /// Reads it.
    pub(crate) read: fn(&Source<'_>) -> Result<Vec<Package>, Malformed>,
}

/// Whether a file can be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Executable {
    Yes,
    No,
}

/// What is a mount in every container, and no part of an image.
const MOUNTS: [&str; 3] = ["dev", "proc", "sys"];
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// Finds the packages in `files`. What cannot be read of single files is a warning; only where directories cannot be
/// listed it fails.
pub fn scan(files: &dyn Files) -> io::Result<Inventory> {
    let distribution = OS_RELEASE.iter().find_map(|path| distribution(files, Path::new(path)));
    let mut found: BTreeMap<_, Package> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in files.entries(&directory)? {
            let path = directory.join(&entry.name);
            let (size_bytes, executable) = match entry.kind {
                FileKind::Directory if MOUNTS.iter().any(|mount| path == Path::new(mount)) => continue,
                FileKind::Directory => {
                    open.push(path);
                    continue;
                }
                FileKind::File { size_bytes, executable: true } => (size_bytes, Executable::Yes),
                FileKind::File { size_bytes, executable: false } => (size_bytes, Executable::No),
                FileKind::Other => continue,
            };
            let Some(reader) = reader_of(&path, executable) else { continue };
            let source = Source { path: &path, distribution: distribution.as_ref(), size_bytes, files };
            match (reader.read)(&source) {
                Ok(packages) => add(&mut found, packages, &path),
                Err(problem) => {
                    warnings.push(Warning { path: Path::new("/").join(&path), problem: problem.to_string() });
                }
            }
        }
    }
    warnings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Inventory { distribution, packages: found.into_values().collect(), warnings })
}

fn reader_of(path: &Path, executable: Executable) -> Option<&'static Reader> {
    systems::READERS.iter().chain(languages::READERS).find(|reader| (reader.takes)(path, executable))
}

fn add(found: &mut BTreeMap<crate::PackageUrl, Package>, packages: Vec<Package>, path: &Path) {
    let path = Path::new("/").join(path).to_string_lossy().into_owned();
    for mut package in packages {
        package.found_in.insert(path.clone());
        match found.entry(package.url.clone()) {
            Entry::Occupied(mut known) => known.get_mut().merge(package),
            Entry::Vacant(place) => {
                place.insert(package);
            }
        }
    }
}

/// What one of the files says that tell it; a distribution without such a file is none of note.
fn distribution(files: &dyn Files, path: &Path) -> Option<Distribution> {
    const LARGEST_BYTES: u64 = 1 << 16;
    // Opened only where it is a regular file: one of the two is a symbolic link to the other.
    let name = path.file_name()?;
    let entries = files.entries(path.parent()?).ok()?;
    let entry = entries.into_iter().find(|entry| entry.name == name)?;
    let FileKind::File { .. } = entry.kind else { return None };
    let mut bytes = Vec::new();
    files.open(path).ok()?.take(LARGEST_BYTES).read_to_end(&mut bytes).ok()?;
    Distribution::parse(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::io::Cursor;

    use super::*;
    use crate::files::{FileEntry, ReadSeek};

    /// Files in memory; those whose path ends in `*` can be executed.
    #[derive(Default)]
    pub(crate) struct Memory(pub(crate) BTreeMap<PathBuf, (Vec<u8>, bool)>);

    impl Memory {
        pub(crate) fn of<B: AsRef<[u8]>>(files: &[(&str, B)]) -> Self {
            let file = |(path, bytes): &(&str, B)| {
                let name = path.trim_end_matches('*');
                (PathBuf::from(name), (bytes.as_ref().to_vec(), name != *path))
            };
            Self(files.iter().map(file).collect())
        }

        /// The packages in these files, as URLs, after which there are no warnings.
        pub(crate) fn urls(&self) -> Vec<String> {
            let inventory = scan(self).unwrap();
            assert_eq!(inventory.warnings, []);
            inventory.packages.iter().map(|package| package.url.to_string()).collect()
        }
    }

    impl Files for Memory {
        fn entries(&self, directory: &Path) -> io::Result<Vec<FileEntry>> {
            let mut found = BTreeMap::new();
            for (path, (bytes, executable)) in &self.0 {
                let Ok(rest) = path.strip_prefix(directory) else { continue };
                let mut parts = rest.components();
                let Some(name) = parts.next() else { continue };
                let kind = match parts.next() {
                    Some(_) => FileKind::Directory,
                    None => FileKind::File { size_bytes: bytes.len() as u64, executable: *executable },
                };
                found.insert(name.as_os_str().to_owned(), kind);
            }
            Ok(found.into_iter().map(|(name, kind)| FileEntry { name, kind }).collect())
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn ReadSeek>> {
            let (bytes, _) = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(Cursor::new(bytes.clone())))
        }
    }

    #[test]
    fn a_malformed_file_is_a_warning_and_the_rest_is_told() {
        let files = Memory::of(&[
            ("app/package-lock.json", "{"),
            ("app/Cargo.lock", "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n"),
            ("srv/Cargo.lock", "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n"),
            ("proc/Cargo.lock", "[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n"),
        ]);
        let inventory = scan(&files).unwrap();
        assert_eq!(inventory.warnings.len(), 1);
        assert_eq!(inventory.warnings[0].path, Path::new("/app/package-lock.json"));
        assert!(inventory.warnings[0].problem.starts_with("it is no JSON"), "{:?}", inventory.warnings);
        assert_eq!(inventory.packages.len(), 1);
        let found: Vec<_> = inventory.packages[0].found_in.iter().map(String::as_str).collect();
        assert_eq!(found, ["/app/Cargo.lock", "/srv/Cargo.lock"]);
    }
}
