//! How the results of two executions of a step differ.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::{Snapshot, Store, StoreError};

const COMPARED_BYTES: usize = 64 << 10;

/// What became of a file from one result to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content, or where it leads, is another one.
    Content,
    /// Its mode is another one.
    Mode,
    /// Its owner or its group is another one.
    Owner,
    /// It is of another kind: a link instead of a file, say.
    Kind,
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileChange {
    /// Its path in the result, from the root.
    pub path: PathBuf,
    /// What became of it.
    pub change: Change,
}

impl Store {
    /// The files that differ between what two steps have made, sorted by path, no more than `limit` of them; and
    /// whether there are more. What the steps were made on does not count, except under
    /// [`crate::SnapshotterKind::Copy`], where each result has all files.
    ///
    /// Times do not count: no cache key has them.
    pub fn changes(
        &self,
        old: &Snapshot,
        new: &Snapshot,
        limit: usize,
    ) -> Result<(Vec<FileChange>, bool), StoreError> {
        let mut comparison = Comparison { limit, changes: Vec::new(), has_more: false };
        let (old, new) = (self.own_dir(&old.id), self.own_dir(&new.id));
        let mut open = vec![PathBuf::new()];
        while let Some(directory) = open.pop() {
            if comparison.has_more {
                break;
            }
            let (old, new) = (old.join(&directory), new.join(&directory));
            let below = comparison.directory(&directory, &old, &new);
            open.extend(below.map_err(|error| StoreError::io("compare", &new, error))?);
        }
        comparison.changes.sort();
        Ok((comparison.changes, comparison.has_more))
    }
}

struct Comparison {
    limit: usize,
    changes: Vec<FileChange>,
    has_more: bool,
}

impl Comparison {
    /// Compares the entries of a directory, and returns the directories that both have.
    fn directory(&mut self, path: &Path, old: &Path, new: &Path) -> io::Result<Vec<PathBuf>> {
        let mut entries: BTreeMap<OsString, [Option<Metadata>; 2]> = BTreeMap::new();
        for (side, directory) in [old, new].into_iter().enumerate() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                entries.entry(entry.file_name()).or_default()[side] = Some(entry.metadata()?);
            }
        }
        let mut both = Vec::new();
        for (name, sides) in entries {
            let shown = Path::new("/").join(path).join(&name);
            match sides {
                [Some(before), Some(after)] => {
                    let is_directory = before.is_dir() && after.is_dir();
                    if let Some(change) = change(&old.join(&name), &new.join(&name), &before, &after)? {
                        self.add(shown, change);
                    }
                    if is_directory {
                        both.push(path.join(&name));
                    }
                }
                [Some(_), None] => self.add(shown, Change::Removed),
                [None, Some(_)] => self.add(shown, Change::Added),
                [None, None] => {}
            }
        }
        Ok(both)
    }

    fn add(&mut self, path: PathBuf, change: Change) {
        if self.changes.len() == self.limit {
            self.has_more = true;
        } else {
            self.changes.push(FileChange { path, change });
        }
    }
}

fn change(old: &Path, new: &Path, before: &Metadata, after: &Metadata) -> io::Result<Option<Change>> {
    if (before.dev(), before.ino()) == (after.dev(), after.ino()) {
        return Ok(None);
    }
    if before.file_type() != after.file_type() {
        return Ok(Some(Change::Kind));
    }
    let differs = if before.is_file() {
        before.len() != after.len() || !same_bytes(old, new)?
    } else if before.is_symlink() {
        fs::read_link(old)? != fs::read_link(new)?
    } else {
        before.rdev() != after.rdev()
    };
    Ok(if differs {
        Some(Change::Content)
    } else if before.mode() != after.mode() {
        Some(Change::Mode)
    } else if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        Some(Change::Owner)
    } else {
        None
    })
}

fn same_bytes(old: &Path, new: &Path) -> io::Result<bool> {
    let (mut old, mut new) = (File::open(old)?, File::open(new)?);
    let (mut before, mut after) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    loop {
        let length = old.read(&mut before)?;
        if length == 0 {
            return Ok(new.read(&mut after)? == 0);
        }
        match new.read_exact(&mut after[..length]) {
            Ok(()) if before[..length] == after[..length] => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(false),
        }
    }
}
