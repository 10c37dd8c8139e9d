//! COPY --link: one layer put on top of another tree.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use cache::tree::{Attributes, Entry, FileContent, FileKind, Hashing, Made, TreeView, TreeWriter};
use cache::{Snapshot, Store};

use crate::WorkerError;
use crate::local::write_snapshot;

/// Puts all that `added`, a tree of its own, consists of on top of `base`. Nothing of `base` is asked: directories
/// that both have get the metadata of `added`'s, and anything else gives way.
pub(crate) fn merge(
    store: &Store,
    base: Option<&Snapshot>,
    added: Option<&Snapshot>,
) -> Result<Snapshot, WorkerError> {
    let dirs = match added {
        Some(added) => store.layer_dirs(added)?,
        None => Vec::new(),
    };
    write_snapshot(store, base, |writer| {
        if dirs.is_empty() {
            return Ok(writer.finish()?);
        }
        let view = TreeView::open(&dirs, store.tree_mode())?;
        // Links are made from one directory on disk; a chain of them would first have to be asked which one it is.
        let from = if let [only] = dirs.as_slice() { Some(only.clone()) } else { None };
        Merge { view: &view, writer, from, names: HashMap::new() }.merge()
    })
}

struct Merge<'a> {
    view: &'a TreeView,
    writer: &'a TreeWriter,
    /// The one directory on disk that holds the tree, if it is one.
    from: Option<PathBuf>,
    /// By inode with several names: the first of them, which is in the new tree.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Merge<'_> {
    fn merge(mut self) -> Result<(), WorkerError> {
        let root = Path::new("/");
        if let Some(entry) = self.view.entry(root)? {
            self.writer.set_attributes(root, &self.attributes(root, &entry)?)?;
        }
        // An explicit stack: trees may be deeper than a thread's.
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for (name, entry) in self.view.read_dir(&directory)? {
                let path = directory.join(name);
                if entry.kind == FileKind::Directory {
                    self.directory(&path, &entry)?;
                    directories.push(path);
                } else {
                    self.other(&path, &entry)?;
                }
            }
        }
        Ok(self.writer.finish()?)
    }

    fn attributes(&self, path: &Path, entry: &Entry) -> Result<Attributes, WorkerError> {
        Ok(Attributes::of(entry, self.view.xattrs(path)?))
    }

    fn directory(&self, path: &Path, entry: &Entry) -> Result<(), WorkerError> {
        let attributes = self.attributes(path, entry)?;
        if self.writer.make_directory(path, &attributes)? == Made::Existed {
            self.writer.set_attributes(path, &attributes)?;
        }
        Ok(())
    }

    fn other(&mut self, path: &Path, entry: &Entry) -> Result<(), WorkerError> {
        let inode = (entry.dev, entry.ino);
        if entry.nlink > 1 {
            if let Some(first) = self.names.get(&inode) {
                return Ok(self.writer.hard_link(first, path)?);
            }
            self.names.insert(inode, path.to_owned());
        }
        // Programs in a RUN see inodes: two names of one are "the same file" to cp. An inode with a single name is in
        // no other layer, so that no tree can come to hold it twice.
        if entry.nlink == 1 && self.linked(path)? {
            return Ok(());
        }
        let attributes = self.attributes(path, entry)?;
        match entry.kind {
            FileKind::File => {
                let file = self.view.open_file(path)?;
                self.writer.file(path, FileContent::Fd(&file), &attributes, Hashing::Skip)?;
            }
            FileKind::Symlink => self.writer.symlink(path, &self.view.read_link(path)?, &attributes)?,
            kind => self.writer.special(path, kind, entry.rdev, &attributes)?,
        }
        Ok(())
    }

    /// Makes a link to the file itself, where that can be.
    fn linked(&self, path: &Path) -> Result<bool, WorkerError> {
        let (Some(from), Some(name)) = (&self.from, path.file_name()) else { return Ok(false) };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let relative = parent.strip_prefix("/").unwrap_or(parent);
        // The tree is a snapshot of ours that nobody writes to any more, and links were not followed to get here.
        let Ok(directory) = File::open(from.join(relative)) else { return Ok(false) };
        Ok(self.writer.link_from(directory.as_fd(), name, path)?)
    }
}
