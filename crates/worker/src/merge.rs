//! COPY --link: one layer put on top of another tree.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cache::tree::{Attributes, Entry, FileContent, FileKind, Hashing, Holder, Made, TreeView, TreeWriter};
use cache::{ActiveSnapshot, Contents, LinkSource, Snapshot, SnapshotTree, Store};

use crate::WorkerError;
use crate::local::write_snapshot;

/// Puts all that `added`, a tree of its own, consists of on top of `base`. Nothing of `base` is asked: directories
/// that both have get the metadata of `added`'s, and anything else gives way.
pub(crate) fn merge(
    store: &Store,
    base: Option<&Snapshot>,
    added: Option<&Snapshot>,
) -> Result<Snapshot, WorkerError> {
    write_snapshot(store, base, |writer, active| {
        let Some(added) = added else { return Ok(writer.finish()?) };
        let view = TreeView::open(&store.layer_dirs(added)?, store.tree_mode())?;
        let tree = SnapshotTree::new(store, added, view)?;
        let (names, contents) = (HashMap::new(), Contents::default());
        Merge { store, tree: &tree, writer, active, names, contents }.merge()
    })
}

struct Merge<'a> {
    store: &'a Store,
    tree: &'a SnapshotTree,
    writer: &'a TreeWriter,
    active: &'a ActiveSnapshot,
    /// By inode with several names: the first of them, which is in the new tree.
    names: HashMap<(u64, u64), PathBuf>,
    /// What is known of the files that were put there.
    contents: Contents,
}

impl Merge<'_> {
    fn merge(mut self) -> Result<(), WorkerError> {
        let root = Path::new("/");
        if let Some(entry) = self.tree.view().entry(root)? {
            self.writer.set_attributes(root, &self.attributes(root, &entry)?)?;
        }
        // An explicit stack: trees may be deeper than a thread's.
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for (name, entry) in self.tree.view().read_dir(&directory)? {
                let path = directory.join(name);
                if entry.kind == FileKind::Directory {
                    self.directory(&path, &entry)?;
                    directories.push(path);
                } else {
                    self.other(&path, &entry)?;
                }
            }
        }
        self.active.set_contents(self.contents);
        Ok(self.writer.finish()?)
    }

    fn attributes(&self, path: &Path, entry: &Entry) -> Result<Attributes, WorkerError> {
        Ok(Attributes::of(entry, self.tree.view().xattrs(path)?))
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
        if entry.kind == FileKind::File {
            let holder = self.tree.view().holder(path)?;
            if let Some(digest) = self.tree.content(&holder, path) {
                self.contents.insert(path.to_owned(), digest);
            }
            if self.linked(path, entry, &holder)? {
                return Ok(());
            }
        }
        let attributes = self.attributes(path, entry)?;
        match entry.kind {
            FileKind::File => {
                let file = self.tree.view().open_file(path)?;
                self.writer.file(path, FileContent::Fd(&file), &attributes, Hashing::Skip)?;
            }
            FileKind::Symlink => {
                let target = self.tree.view().read_link(path)?;
                self.writer.symlink(path, &target, &attributes)?;
            }
            kind => self.writer.special(path, kind, entry.rdev, &attributes)?,
        }
        Ok(())
    }

    /// Makes a link to the file itself, where that can be.
    fn linked(&self, path: &Path, entry: &Entry, holder: &Holder) -> Result<bool, WorkerError> {
        if self.store.clones_files() {
            return Ok(false);
        }
        let (Some(name), Some(origins)) = (path.file_name(), self.tree.origins(holder)?) else {
            return Ok(false);
        };
        let source = LinkSource { holder, name, entry, origins };
        Ok(self.active.link(self.writer, &source, path)?)
    }
}
