//! A build context as a tree: ignored paths left out, read in place.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::StoreError;
use cache::context_stat::ContextStats;
use cache::tree::{Entry, FileKind, TreeError, TreeMode, TreeView};
use pattern::{Directory, PatternSet};
use solver::ContentDigest;

use crate::copy::Selection;

/// Why a build context could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The directory could not be opened.
    #[error("cannot open the build context `{}`", directory.display())]
    Open {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// The stat cache could not be written.
    #[error("cannot save what is known of the build context")]
    Stats(#[from] StoreError),
}

/// A directory of this machine that a build may copy from.
#[derive(Debug, Clone)]
pub struct ContextSource {
    /// The directory, absolute.
    pub directory: PathBuf,
    /// What of it is left out.
    pub ignore: PatternSet,
}

/// By the digest of the selector: what it selected, and the digest of that.
type Selections = HashMap<[u8; 32], (ContentDigest, Arc<Selection>)>;

/// A build context that is open.
pub(crate) struct Context {
    pub(crate) view: TreeView,
    ignore: PatternSet,
    pub(crate) stats: ContextStats,
    /// What went into cache keys in this build.
    selections: Mutex<Selections>,
}

/// What the ignore file says of an entry.
pub(crate) struct Filtered {
    /// Whether the entry itself is left out. If it is a directory, something below it may not be.
    pub(crate) is_ignored: bool,
    /// Below the entry, if it is a directory that must be looked into.
    pub(crate) below: Option<Directory>,
}

impl Context {
    /// Opens the directory of `source`. `stats` is its stat cache.
    pub(crate) fn open(source: &ContextSource, stats: ContextStats) -> Result<Self, ContextError> {
        let directory = source.directory.clone();
        let view = TreeView::open(std::slice::from_ref(&source.directory), TreeMode::PLAIN)
            .map_err(|source| ContextError::Open { directory, source })?;
        Ok(Self { view, ignore: source.ignore.clone(), stats, selections: Mutex::default() })
    }

    /// Saves the stat cache; to be called once, at the end of the build.
    pub(crate) fn finish(&self) -> Result<(), ContextError> {
        Ok(self.stats.save()?)
    }

    /// The root, for [`filter`](Self::filter).
    pub(crate) fn root(&self) -> Directory {
        self.ignore.root()
    }

    /// What the ignore file says of `name` in `directory`.
    pub(crate) fn filter(&self, directory: &Directory, name: &OsStr, kind: FileKind) -> Filtered {
        if kind != FileKind::Directory {
            let is_ignored = self.ignore.check(directory, name.as_bytes()).matched;
            return Filtered { is_ignored, below: None };
        }
        let (verdict, below) = self.ignore.enter(directory, name.as_bytes());
        let is_closed = verdict.matched && !self.ignore.may_be_negated_below(&below);
        Filtered { is_ignored: verdict.matched, below: Some(below).filter(|_| !is_closed) }
    }

    /// Keeps what was selected for a cache key, so that the copy copies just that.
    pub(crate) fn keep(&self, selector: [u8; 32], digest: ContentDigest, selection: Arc<Selection>) {
        self.lock().insert(selector, (digest, selection));
    }

    /// What was selected for a cache key.
    pub(crate) fn kept(&self, selector: [u8; 32], digest: ContentDigest) -> Option<Arc<Selection>> {
        let selections = self.lock();
        let (kept, selection) = selections.get(&selector)?;
        (*kept == digest).then(|| Arc::clone(selection))
    }

    /// The selections; a thread that panicked leaves them whole, as every change is one insertion.
    fn lock(&self) -> MutexGuard<'_, Selections> {
        self.selections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry of a context as it is in a build: it belongs to root, and a socket is an empty file.
pub(crate) fn normalised(mut entry: Entry) -> Entry {
    (entry.uid, entry.gid) = (0, 0);
    if entry.kind == FileKind::Socket {
        (entry.kind, entry.size) = (FileKind::File, 0);
    }
    entry
}

/// Whether `path` is the root of a tree.
pub(crate) fn is_root(path: &Path) -> bool {
    path.as_os_str() == "/"
}
