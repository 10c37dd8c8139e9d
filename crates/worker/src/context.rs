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

#[cfg(test)]
mod tests {
    use std::fs;

    use cache::tree::Timestamp;
    use solver::Selector;

    use super::*;
    use crate::copy::{SourceTree, content_digest};

    fn open(root: &Path, ignore: &str) -> Arc<Context> {
        let directory = root.join("source");
        let ignore = PatternSet::parse(ignore).expect("valid");
        let clock = Arc::new(|| Timestamp { seconds: i64::from(u32::MAX), nanoseconds: 0 });
        let stats = ContextStats::load_with_clock(&root.join("contexts"), &directory, clock);
        Arc::new(Context::open(&ContextSource { directory, ignore }, stats).expect("open"))
    }

    #[test]
    fn ignored_directories_are_entered_only_where_something_may_come_back() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(root.path().join("source")).expect("mkdir");
        let context = open(root.path(), "out\nvendor\n!vendor/keep\n");
        let filter = |name: &str, kind| {
            let filtered = context.filter(&context.root(), OsStr::new(name), kind);
            (filtered.is_ignored, filtered.below.is_some())
        };
        assert_eq!(filter("out", FileKind::Directory), (true, false));
        assert_eq!(filter("vendor", FileKind::Directory), (true, true));
        assert_eq!(filter("src", FileKind::Directory), (false, true));
        assert_eq!(filter("out", FileKind::File), (true, false));
        assert_eq!(filter("main.c", FileKind::File), (false, false));
    }

    #[test]
    fn a_second_build_knows_the_files_of_the_first() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(root.path().join("source")).expect("mkdir");
        fs::write(root.path().join("source/file"), "content").expect("write");
        let paths = vec!["file".to_owned()];
        let selector = Selector { paths, wildcards: true, exclude: Vec::new(), parents: false };
        let context = open(root.path(), "");
        let digest = content_digest(&SourceTree::Context(Arc::clone(&context)), &selector).expect("a digest");
        assert!(context.kept(selector.digest(), digest).is_some());
        assert!(context.kept(selector.digest(), ContentDigest([0; 32])).is_none());
        context.finish().expect("saved");
        let next = open(root.path(), "");
        let entry = next.view.entry(Path::new("/file")).expect("stat").expect("a file");
        assert_eq!(next.stats.digest(&entry), Some(*blake3::hash(b"content").as_bytes()));
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error_with_its_name() {
        let source =
            ContextSource { directory: PathBuf::from("/no/such/context"), ignore: PatternSet::default() };
        let stats = ContextStats::load(Path::new("/no/such"), &source.directory);
        let error = Context::open(&source, stats).err().expect("an error");
        assert_eq!(error.to_string(), "cannot open the build context `/no/such/context`");
    }
}
