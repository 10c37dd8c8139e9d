//! Writing whole trees.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::LayerError;
use super::diff::write_whole;
use super::unpack::write_directory;
use crate::tree::{
    Attributes, Entry, FileContent, FileKind, Hashing, Timestamp, TreeError, TreeView, TreeWriter,
};

/// Which times exported files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTimes {
    /// Their own.
    Own,
    /// This one, in seconds since 1970.
    All(i64),
}

impl FileTimes {
    /// The time of what was changed at `own`.
    pub(super) fn of(self, own: i64) -> i64 {
        match self {
            Self::Own => own,
            Self::All(seconds) => seconds,
        }
    }
}

/// Writes trees as one uncompressed archive, in the same form as layers: each beneath the directory that is named with
/// it, or together where none is. A directory that is made for that has mode 0755, root as its owner and no time of its own.
pub fn write_trees(
    trees: &[(Option<&OsStr>, &TreeView)],
    times: FileTimes,
    out: impl Write,
) -> Result<(), LayerError> {
    write_whole(trees, times, out)
}

/// Copies the whole of `view` into the host directory `destination`, which is made if it is missing. What is there
/// is merged with: other files stay, files of the same name are replaced. All belongs to whoever builds (0, which in a
/// user namespace is the caller), as with the peers: else a user could not remove what a build has written. Devices are
/// made where the process may; sockets are left out.
pub fn export_tree(view: &TreeView, times: FileTimes, destination: &Path) -> Result<(), LayerError> {
    std::fs::create_dir_all(destination)
        .map_err(|source| TreeError::io("make the directory", destination, source))?;
    let writer = TreeWriter::of_host_directory(destination)?;
    let mut export = Export { view, writer: &writer, times, links: HashMap::new() };
    let mut directories = vec![PathBuf::from("/")];
    while let Some(directory) = directories.pop() {
        for (name, entry) in view.read_dir(&directory)? {
            let path = directory.join(name);
            export.entry(&path, &entry)?;
            if entry.kind == FileKind::Directory {
                directories.push(path);
            }
        }
    }
    Ok(writer.finish()?)
}

struct Export<'a> {
    view: &'a TreeView,
    writer: &'a TreeWriter,
    times: FileTimes,
    /// The name that an inode with several names was first written under.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Export<'_> {
    fn entry(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        let mut attributes = Attributes { uid: 0, gid: 0, ..Attributes::of(entry, self.view.xattrs(path)?) };
        if let FileTimes::All(seconds) = self.times {
            attributes.mtime = Some(Timestamp { seconds, nanoseconds: 0 });
        }
        if entry.kind == FileKind::Directory {
            write_directory(self.writer, path, &attributes)?;
            return Ok(());
        }
        if entry.nlink > 1 {
            if let Some(first) = self.links.get(&(entry.dev, entry.ino)) {
                return Ok(self.writer.hard_link(first, path)?);
            }
            self.links.insert((entry.dev, entry.ino), path.to_owned());
        }
        match entry.kind {
            FileKind::File => {
                let file = self.view.open_file(path)?;
                self.writer.file(path, FileContent::Fd(&file), &attributes, Hashing::Skip)?;
            }
            FileKind::Symlink => self.writer.symlink(path, &self.view.read_link(path)?, &attributes)?,
            FileKind::Socket | FileKind::Directory => {}
            kind => match self.writer.special(path, kind, entry.rdev, &attributes) {
                // The next name of the same inode tries again, in vain too.
                Err(TreeError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    self.links.remove(&(entry.dev, entry.ino));
                }
                result => result?,
            },
        }
        Ok(())
    }
}
