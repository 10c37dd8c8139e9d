//! What is copied from: a snapshot or a build context, looked at in one way.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::tree::{Entry, FileKind, Timestamp, TreeView};
use cache::{Snapshot, SnapshotTree, Store};

use super::CopyError;
use crate::context::{Context, IgnoreAt, is_root, normalised};

/// More links than the kernel follows (40): the peers take that many.
const MAX_LINKS: usize = 255;

/// The root directory of a tree without anything in it.
const EMPTY_ROOT: Entry = Entry {
    kind: FileKind::Directory,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Timestamp { seconds: 0, nanoseconds: 0 },
    ctime: Timestamp { seconds: 0, nanoseconds: 0 },
    rdev: (0, 0),
    dev: 0,
    ino: 0,
    nlink: 1,
};

/// A tree that is copied from. Cheap to clone.
#[derive(Clone)]
pub(crate) enum SourceTree {
    /// A tree without anything in it.
    Empty,
    /// The result of a step or the files of an image.
    Snapshot(Arc<SnapshotTree>),
    /// A directory of this machine.
    Context(Arc<Context>),
}

/// Something in a source.
#[derive(Clone)]
pub(crate) struct Found {
    /// Its canonical path.
    pub(crate) path: PathBuf,
    /// What it is. The owner of everything in a context is root, and sockets there are files.
    pub(crate) entry: Entry,
    /// Its time; none for the root of a context or of an empty tree, whose time is that of the build.
    pub(crate) mtime: Option<Timestamp>,
    /// What the context's rules say of what is below.
    pub(crate) filter: Option<IgnoreAt>,
    /// Whether it is a directory that the ignore file leaves out unless there is something in it.
    pub(crate) is_hollow: bool,
    /// Whether it is a socket that is taken for an empty file.
    pub(crate) is_socket: bool,
}

impl SourceTree {
    /// The files of a snapshot.
    pub(crate) fn open(store: &Store, snapshot: &Snapshot) -> Result<Self, CopyError> {
        let view = TreeView::open(&store.layer_dirs(snapshot)?, store.tree_mode())?;
        Ok(Self::Snapshot(Arc::new(SnapshotTree::new(store, snapshot, view)?)))
    }

    /// The name of the source in messages.
    pub(crate) fn reference(&self) -> &'static str {
        match self {
            Self::Empty => "scratch",
            Self::Snapshot(_) => "snapshot",
            Self::Context(_) => "context",
        }
    }

    /// The tree on disk.
    pub(crate) fn view(&self) -> Option<&TreeView> {
        match self {
            Self::Empty => None,
            Self::Snapshot(tree) => Some(tree.view()),
            Self::Context(context) => Some(&context.view),
        }
    }

    /// The context, if this is one.
    pub(crate) fn context(&self) -> Option<&Context> {
        match self {
            Self::Context(context) => Some(context),
            Self::Empty | Self::Snapshot(_) => None,
        }
    }

    /// The root directory; that of an empty tree is one, too.
    pub(crate) fn root(&self) -> Result<Option<Found>, CopyError> {
        let entry = match self.view() {
            Some(view) => view.entry(Path::new("/"))?,
            None => Some(EMPTY_ROOT),
        };
        let Some(entry) = entry else { return Ok(None) };
        let found = |entry: Entry, mtime, filter| {
            let path = PathBuf::from("/");
            Some(Found { path, entry, mtime, filter, is_hollow: false, is_socket: false })
        };
        Ok(match self.context() {
            Some(context) => found(normalised(entry), None, Some(context.root()?)),
            None => found(entry, self.view().map(|_| entry.mtime), None),
        })
    }

    /// What `name`, which `entry` describes, is in `directory`; `None` if the ignore file leaves it out.
    pub(crate) fn admit(
        &self,
        directory: &Found,
        name: &OsStr,
        entry: Entry,
    ) -> Result<Option<Found>, CopyError> {
        let path = directory.path.join(name);
        let is_socket = entry.kind == FileKind::Socket;
        let mtime = Some(entry.mtime);
        let (Some(context), Some(filter)) = (self.context(), &directory.filter) else {
            let found = Found { path, entry, mtime, filter: None, is_hollow: false, is_socket: false };
            return Ok(Some(found).filter(|_| !is_socket));
        };
        let filtered = context.filter(filter, &path, entry.kind)?;
        if filtered.is_ignored && filtered.below.is_none() {
            return Ok(None);
        }
        let (is_hollow, filter) = (filtered.is_ignored, filtered.below);
        Ok(Some(Found { path, entry: normalised(entry), mtime, filter, is_hollow, is_socket }))
    }

    /// The entries of `directory`, sorted by the bytes of their names.
    pub(crate) fn children(&self, directory: &Found) -> Result<Vec<(OsString, Found)>, CopyError> {
        let Some(view) = self.view() else { return Ok(Vec::new()) };
        let entries = view.read_dir(&directory.path)?;
        let admit = |(name, entry): (OsString, Entry)| {
            let found = self.admit(directory, &name, entry).transpose()?;
            Some(found.map(|found| (name, found)))
        };
        entries.into_iter().filter_map(admit).collect()
    }

    /// The entry `name` of `directory`. A directory that is left out and in which nothing is to be found is none.
    fn child(&self, directory: &Found, name: &OsStr) -> Result<Option<Found>, CopyError> {
        let Some(view) = self.view() else { return Ok(None) };
        let Some(entry) = view.entry(&directory.path.join(name))? else { return Ok(None) };
        match self.admit(directory, name, entry)? {
            Some(found) if found.is_hollow && !self.has_content(&found)? => Ok(None),
            found => Ok(found),
        }
    }

    /// Whether anything below a directory that is left out is to be found.
    pub(crate) fn has_content(&self, directory: &Found) -> Result<bool, CopyError> {
        for (_, found) in self.children(directory)? {
            if !found.is_hollow || self.has_content(&found)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Follows `path` from `start`, all links included; what lies outside the tree is inside it. `None` if there is
    /// nothing.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Option<Found>, CopyError> {
        let Some(root) = self.root()? else { return Ok(None) };
        let mut above = vec![root];
        let mut links = 0;
        // The components that are still to be walked, the next one last.
        let mut rest: Vec<OsString> = components(path);
        while let Some(name) = rest.pop() {
            if name == ".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let directory = above.last().expect("the root is never taken away");
            if directory.entry.kind != FileKind::Directory {
                return Ok(None);
            }
            let Some(found) = self.child(directory, &name)? else { return Ok(None) };
            let (FileKind::Symlink, Some(view)) = (found.entry.kind, self.view()) else {
                above.push(found);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(CopyError::LinkLoop(path.to_string_lossy().into_owned()));
            }
            let target = view.read_link(&found.path)?;
            if target.is_absolute() {
                above.truncate(1);
            }
            rest.extend(components(&target));
        }
        Ok(above.pop())
    }
}

/// The components of a path, the first one last; `.` and the root are none.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    let mut parts: Vec<_> = parts.map(|part| OsStr::from_bytes(part).to_owned()).collect();
    parts.reverse();
    parts
}

/// The last component of a path; empty for the root.
pub(crate) fn base_name(path: &Path) -> OsString {
    if is_root(path) { OsString::new() } else { path.file_name().unwrap_or_default().to_owned() }
}
