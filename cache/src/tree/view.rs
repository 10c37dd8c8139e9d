//! The read side of a tree.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::beneath::open_root;
use super::merged::{Found, Level, Merged, open_file_in, stat, xattrs};
use super::{Entry, FileKind, TreeError, TreeMode};

/// How many descriptors the cache of directories may hold.
const MAXIMUM_DESCRIPTORS: usize = 256;

/// A chain of directories read as one tree. Cheap to share between threads.
///
/// Except for [`resolve`](Self::resolve), methods take canonical paths: no `.` or `..`, and no link among the
/// parents is followed (such a path is not a directory).
#[derive(Debug)]
pub struct TreeView {
    mode: TreeMode,
    root: Arc<Merged>,
    cache: Mutex<Cache>,
}

/// The directory on disk that holds something in a tree.
#[derive(Debug)]
pub struct Holder {
    directory: Arc<Merged>,
    position: usize,
}

impl Holder {
    /// Which directory of the chain it is in, counted from the top.
    pub fn level(&self) -> usize {
        self.own().number
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.own().fd.as_fd()
    }

    /// What `path`, for which this was asked, is; `None` if there is nothing.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let name = path.file_name().unwrap_or_default();
        let entry = stat(self.directory(), name, self.directory.mode());
        entry.map_err(|source| TreeError::io("stat", path, source))
    }

    /// The extended attributes of `path`, for which this was asked, as in [`TreeView::xattrs`].
    pub fn xattrs(&self, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, TreeError> {
        let found = xattrs(self.directory(), path.file_name().unwrap_or_default());
        found.map_err(|source| TreeError::io("read the attributes of", path, source))
    }

    fn own(&self) -> &Level {
        self.directory.levels().get(self.position).expect("the position is that of a directory")
    }
}

/// Directories that were opened, by path. An entry holds while no directory appears or vanishes in the tree, of
/// which only a writer of the same tree can know: it says so by `forget`.
#[derive(Debug, Default)]
struct Cache {
    directories: HashMap<PathBuf, Arc<Merged>>,
    descriptors: usize,
    /// Counts what was forgotten, so that a directory opened before is not kept after.
    generation: u64,
}

impl TreeView {
    /// Opens the chain `dirs`, top first.
    pub fn open(dirs: &[PathBuf], mode: TreeMode) -> Result<Self, TreeError> {
        let mut levels = Vec::with_capacity(dirs.len());
        for directory in dirs {
            let fd = open_root(directory).map_err(|source| TreeError::io("open", directory, source))?;
            let opaque = mode.kind.is_opaque(fd.as_fd());
            levels.push(Level { fd, number: levels.len() });
            if opaque.map_err(|source| TreeError::io("read an attribute of", directory, source))? {
                break;
            }
        }
        Ok(Self { mode, root: Arc::new(Merged::new(mode, levels)), cache: Mutex::default() })
    }

    /// How the directories are read.
    pub fn mode(&self) -> TreeMode {
        self.mode
    }

    pub(crate) fn root(&self) -> &Arc<Merged> {
        &self.root
    }

    /// What is at `path` (as `lstat`), or `None` if there is nothing or a parent is no directory.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let Some((parent, name)) = split(path)? else {
            return self.root.itself().map(Some).map_err(|source| TreeError::io("stat", path, source));
        };
        let Some(directory) = self.directory(parent)? else { return Ok(None) };
        let found = directory.find(name).map_err(|source| TreeError::io("stat", path, source))?;
        Ok(found.map(|found| found.entry))
    }

    /// The entries of the directory `path`, merged, sorted by the bytes of their names.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Entry)>, TreeError> {
        let Some(directory) = self.directory(path)? else {
            return Err(match self.entry(path)? {
                Some(_) => TreeError::NotADirectory(path.to_owned()),
                None => TreeError::NotFound(path.to_owned()),
            });
        };
        let entries = directory.list().map_err(|source| TreeError::io("list", path, source))?;
        Ok(entries.into_iter().map(|(name, found)| (name, found.entry)).collect())
    }

    /// Opens the regular file `path` for reading.
    pub fn open_file(&self, path: &Path) -> Result<File, TreeError> {
        let (directory, name, found) = self.locate(path)?;
        let file = directory.open_file(name, found).map_err(|source| TreeError::io("open", path, source))?;
        file.ok_or_else(|| TreeError::NotAFile(path.to_owned()))
    }

    /// Opens `path`, which was seen to be a regular file and is expected to be one still; that spares a look at it.
    pub fn open_seen_file(&self, path: &Path) -> Result<File, TreeError> {
        let holder = self.holder(path)?;
        let name = path.file_name().unwrap_or_default();
        let file = open_file_in(holder.directory(), name);
        let file = file.map_err(|source| match source {
            Errno::NOENT => TreeError::NotFound(path.to_owned()),
            source => TreeError::io("open", path, source),
        })?;
        file.ok_or_else(|| TreeError::NotAFile(path.to_owned()))
    }

    /// The target of the symbolic link `path`.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let (directory, name, found) = self.locate(path)?;
        directory.read_link(name, found).map_err(|source| TreeError::io("read the link", path, source))
    }

    /// The extended attributes of `path`, sorted by name; overlay's and our own are left out.
    pub fn xattrs(&self, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, TreeError> {
        if split(path)?.is_some() {
            return self.holder(path)?.xattrs(path);
        }
        self.root.own_xattrs().map_err(|source| TreeError::io("read the attributes of", path, source))
    }

    /// Which directory on disk holds `path`, something in this tree that is no directory.
    pub fn holder(&self, path: &Path) -> Result<Holder, TreeError> {
        let (parent, name) = split(path)?.ok_or_else(|| TreeError::NotAFile(path.to_owned()))?;
        let directory = self.directory(parent)?.ok_or_else(|| TreeError::NotFound(path.to_owned()))?;
        let position = directory.position(name).map_err(|source| TreeError::io("stat", path, source))?;
        Ok(Holder { directory, position })
    }

    fn locate<'p>(&self, path: &'p Path) -> Result<(Arc<Merged>, &'p OsStr, Found), TreeError> {
        let (parent, name) = split(path)?.ok_or_else(|| TreeError::NotAFile(path.to_owned()))?;
        let directory = self.directory(parent)?.ok_or_else(|| TreeError::NotFound(path.to_owned()))?;
        let found = directory.find(name).map_err(|source| TreeError::io("stat", path, source))?;
        let found = found.ok_or_else(|| TreeError::NotFound(path.to_owned()))?;
        Ok((directory, name, found))
    }

    /// The directory at `path`, or `None` if there is no directory.
    pub(crate) fn directory(&self, path: &Path) -> Result<Option<Arc<Merged>>, TreeError> {
        let (generation, mut directory, mut at) = self.nearest_ancestor(path)?;
        let rest = path.strip_prefix(&at).unwrap_or(path).to_owned();
        for component in rest.components() {
            let Component::Normal(name) = component else { continue };
            at.push(name);
            let next = directory.descend(name).map_err(|source| TreeError::io("open", &at, source))?;
            let Some(next) = next else { return Ok(None) };
            directory = Arc::new(next);
            self.remember(generation, &at, &directory);
        }
        Ok(Some(directory))
    }

    /// The longest prefix of `path` that is in the cache, or the root.
    fn nearest_ancestor(&self, path: &Path) -> Result<(u64, Arc<Merged>, PathBuf), TreeError> {
        check_canonical(path)?;
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for ancestor in path.ancestors() {
            if let Some(directory) = cache.directories.get(ancestor) {
                return Ok((cache.generation, directory.clone(), ancestor.to_owned()));
            }
        }
        Ok((cache.generation, self.root.clone(), PathBuf::from("/")))
    }

    fn remember(&self, generation: u64, path: &Path, directory: &Arc<Merged>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.generation != generation {
            return;
        }
        let count = directory.levels().len();
        if cache.descriptors + count > MAXIMUM_DESCRIPTORS {
            // Nothing is kept this time either: a directory is only in the cache together with its parents.
            cache.directories.clear();
            cache.descriptors = 0;
            return;
        }
        if cache.directories.insert(path.to_owned(), directory.clone()).is_none() {
            cache.descriptors += count;
        }
    }

    /// A directory has appeared at `path` in the top directory, where there was none.
    pub(super) fn forget(&self, path: &Path) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.generation += 1;
        if let Some(directory) = cache.directories.remove(path) {
            cache.descriptors = cache.descriptors.saturating_sub(directory.levels().len());
        }
    }

    /// Something that is no directory has appeared at `path`, and may hide a lower directory.
    pub(super) fn forget_hidden(&self, path: &Path) {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let hides = cache.directories.contains_key(path);
        drop(cache);
        if hides {
            self.forget_all();
        }
    }

    /// A directory has vanished, or hides something now.
    pub(super) fn forget_all(&self) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.generation += 1;
        cache.directories.clear();
        cache.descriptors = 0;
    }

    /// The kind of what is at `path`.
    pub(super) fn kind(&self, path: &Path) -> Result<Option<FileKind>, TreeError> {
        Ok(self.entry(path)?.map(|entry| entry.kind))
    }
}

/// Parent and name; `None` for the root.
pub(super) fn split(path: &Path) -> Result<Option<(&Path, &OsStr)>, TreeError> {
    check_canonical(path)?;
    Ok(path.parent().zip(path.file_name()))
}

fn check_canonical(path: &Path) -> Result<(), TreeError> {
    // `components` drops single dots, which are harmless, but a path that ends in `..` has no name.
    let is_canonical = path.has_root() && !path.components().any(|part| part == Component::ParentDir);
    if is_canonical { Ok(()) } else { Err(TreeError::NotCanonical(path.to_owned())) }
}
