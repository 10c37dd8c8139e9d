//! A build context as a tree: ignored paths left out, read in place.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::context_stat::ContextStats;
use cache::layer::{ExtractOptions, LayerError, extract_archive};
use cache::tree::{Entry, FileKind, TreeError, TreeMode, TreeView, TreeWriter};
use cache::{Store, StoreError};
use pattern::{Directory, GitDirectory, GitRules, PatternSet};
use solver::ContentDigest;

use crate::copy::{CopyError, Selection};

/// More is no ignore file; what is behind is passed over.
const MAX_IGNORE_BYTES: u64 = 16 << 20;

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
    /// The directory of a context that is made for this run could not be made.
    #[error("cannot make the directory of the build context `{}`", directory.display())]
    Make {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive could not be unpacked as a context.
    #[error("cannot unpack the build context")]
    Unpack(#[source] LayerError),
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
    pub ignore: IgnoreRules,
}

/// What of a context is left out.
#[derive(Debug, Clone)]
pub enum IgnoreRules {
    /// What an ignore file matches.
    Patterns(PatternSet),
    /// What the `.gitignore` files in the context leave out ([`GitRules`]), and whatever is called `.git`. Files that
    /// git has outside the tree (`.git/info/exclude`, the user's own) and above the context do not count, and neither
    /// does whether git tracks a file. As with git, a `.gitignore` that is a link is none.
    Git,
}

impl Default for IgnoreRules {
    /// Nothing is left out.
    fn default() -> Self {
        Self::Patterns(PatternSet::default())
    }
}

impl ContextSource {
    /// A context without anything in it, in the directory of this run in `store`: it goes away with the run.
    pub fn empty(store: &Store) -> Result<Self, ContextError> {
        let directory = store.fresh_path();
        let make = || {
            fs::create_dir(&directory)?;
            // Whatever the umask is, contexts of one content are one context.
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
        };
        match make() {
            Ok(()) => Ok(Self { directory, ignore: IgnoreRules::default() }),
            Err(source) => Err(ContextError::Make { directory, source }),
        }
    }

    /// A context of what is in `archive`, a tar that is compressed (gzip, bzip2, xz, zstd) or not, told by its content.
    /// It is unpacked in the directory of this run in `store` and goes away with the run. Blocks.
    ///
    /// Modes and times are the archive's, owners are not: in a context everything belongs to root. Nothing is written
    /// outside the context, whatever the archive says. Devices that the process may not make are left out.
    pub fn unpack(archive: impl Read + Send, store: &Store) -> Result<Self, ContextError> {
        let context = Self::empty(store)?;
        let options = ExtractOptions { owner: Some((0, 0)), without_xattrs: true };
        let unpack = || -> Result<(), LayerError> {
            let writer = TreeWriter::new(&context.directory, &[], TreeMode::PLAIN)?;
            extract_archive(archive, &writer, Path::new("/"), &options)?;
            Ok(writer.finish()?)
        };
        unpack().map_err(ContextError::Unpack)?;
        Ok(context)
    }

    /// Where the stat cache of the context is kept: with the context, where that is one of this run.
    pub(crate) fn stats_directory(&self, store: &Store) -> PathBuf {
        let is_of_run = self.directory.starts_with(store.run_directory());
        let place = if is_of_run { store.run_directory() } else { store.root() };
        place.join("contexts")
    }
}

/// By the digest of the selector: what it selected, and the digest of that.
type Selections = HashMap<[u8; 32], (ContentDigest, Arc<Selection>)>;

/// A build context that is open.
pub(crate) struct Context {
    directory: PathBuf,
    pub(crate) view: TreeView,
    /// The patterns of an ignore file; without, the rules of git hold.
    patterns: Option<Arc<PatternSet>>,
    pub(crate) stats: ContextStats,
    /// What went into cache keys in this build.
    selections: Mutex<Selections>,
}

/// How far the rules have come at a directory of a context.
#[derive(Clone)]
pub(crate) enum IgnoreAt {
    Patterns(Arc<PatternSet>, Directory),
    Git(GitDirectory),
}

/// What the rules say of an entry.
pub(crate) struct Filtered {
    /// Whether the entry itself is left out. If it is a directory, something below it may not be.
    pub(crate) is_ignored: bool,
    /// Below the entry, if it is a directory that must be looked into.
    pub(crate) below: Option<IgnoreAt>,
}

impl Context {
    /// Opens the directory of `source`. `stats` is its stat cache.
    pub(crate) fn open(source: &ContextSource, stats: ContextStats) -> Result<Self, ContextError> {
        let directory = source.directory.clone();
        let view = TreeView::open(std::slice::from_ref(&source.directory), TreeMode::PLAIN)
            .map_err(|cause| ContextError::Open { directory: directory.clone(), source: cause })?;
        let patterns = match &source.ignore {
            IgnoreRules::Patterns(patterns) => Some(Arc::new(patterns.clone())),
            IgnoreRules::Git => None,
        };
        Ok(Self { directory, view, patterns, stats, selections: Mutex::default() })
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Saves the stat cache; to be called once, at the end of the build.
    pub(crate) fn finish(&self) -> Result<(), ContextError> {
        Ok(self.stats.save()?)
    }

    /// The root, for [`filter`](Self::filter).
    pub(crate) fn root(&self) -> Result<IgnoreAt, CopyError> {
        Ok(match &self.patterns {
            Some(patterns) => IgnoreAt::Patterns(Arc::clone(patterns), patterns.root()),
            None => IgnoreAt::Git(GitDirectory::root(self.git_rules(Path::new("/"))?)),
        })
    }

    /// What the rules say of the entry `path`, which is in the directory that `at` has come to.
    pub(crate) fn filter(&self, at: &IgnoreAt, path: &Path, kind: FileKind) -> Result<Filtered, CopyError> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let is_directory = kind == FileKind::Directory;
        Ok(match at {
            IgnoreAt::Patterns(patterns, at) if is_directory => {
                let (verdict, below) = patterns.enter(at, name);
                let is_open = !verdict.matched || patterns.may_be_negated_below(&below);
                let below = is_open.then(|| IgnoreAt::Patterns(Arc::clone(patterns), below));
                Filtered { is_ignored: verdict.matched, below }
            }
            IgnoreAt::Patterns(patterns, at) => {
                Filtered { is_ignored: patterns.check(at, name).matched, below: None }
            }
            IgnoreAt::Git(at) => {
                let is_ignored = at.ignores(name, is_directory);
                let mut below = None;
                if is_directory && !is_ignored {
                    below = Some(IgnoreAt::Git(at.enter(name, self.git_rules(path)?)));
                }
                Filtered { is_ignored, below }
            }
        })
    }

    /// The rules of the `.gitignore` in `directory`, if there is one.
    fn git_rules(&self, directory: &Path) -> Result<Option<GitRules>, CopyError> {
        let path = directory.join(".gitignore");
        if self.view.entry(&path)?.is_none_or(|entry| entry.kind != FileKind::File) {
            return Ok(None);
        }
        let mut text = Vec::new();
        let read = self.view.open_file(&path)?.take(MAX_IGNORE_BYTES).read_to_end(&mut text);
        read.map_err(|source| CopyError::Read { path, source })?;
        Ok(Some(GitRules::parse(&text)))
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
    use cache::tree::Timestamp;
    use solver::Selector;

    use super::*;
    use crate::copy::{SourceTree, content_digest};

    fn open(root: &Path, ignore: &str) -> Arc<Context> {
        let directory = root.join("source");
        let ignore = IgnoreRules::Patterns(PatternSet::parse(ignore).expect("valid"));
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
            let root = context.root().expect("the root");
            let filtered = context.filter(&root, &Path::new("/").join(name), kind).expect("no file is read");
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

    fn store(root: &Path) -> Store {
        let options = cache::StoreOptions {
            root: root.join("store"),
            snapshotter: Some(cache::SnapshotterKind::Copy),
            ids: cache::IdMode::Root,
            boot_id: None,
            links: cache::LinkPolicy::default(),
        };
        Store::open(&options).expect("a store")
    }

    #[test]
    fn an_archive_is_unpacked_in_the_directory_of_the_run() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::write(root.path().join("outside"), "untouched").expect("write");
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: tar::EntryType, link: &str, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_link_name_literal(link).expect("a short name");
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_mtime(1000);
            header.set_uid(1234);
            header.set_gid(1234);
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content.as_bytes()).expect("append");
        };
        add("dir/file", tar::EntryType::Regular, "", "content");
        add("up", tar::EntryType::Symlink, "../../../..", "");
        add("up/outside", tar::EntryType::Regular, "", "harm");
        add("../../../../outside", tar::EntryType::Regular, "", "harm");
        let archive = archive.into_inner().expect("a tar");
        let store = store(root.path());
        let context = ContextSource::unpack(archive.as_slice(), &store).expect("a context");
        assert!(context.directory.starts_with(store.run_directory()));
        assert!(context.stats_directory(&store).starts_with(store.run_directory()));
        let view = TreeView::open(std::slice::from_ref(&context.directory), TreeMode::PLAIN).expect("open");
        let entry = view.entry(Path::new("/dir/file")).expect("stat").expect("a file");
        assert_eq!((entry.uid, entry.gid, entry.mode & 0o7777, entry.mtime.seconds), (0, 0, 0o640, 1000));
        assert_eq!(fs::read_to_string(context.directory.join("outside")).expect("read"), "harm");
        assert_eq!(fs::read_to_string(root.path().join("outside")).expect("read"), "untouched");
        drop(store);
        assert!(!context.directory.exists(), "it goes away with the run");
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let error = ContextSource::unpack(&b"\x1f\x8b\x08"[..], &store(root.path())).expect_err("an error");
        assert_eq!(error.to_string(), "cannot unpack the build context");
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error_with_its_name() {
        let source =
            ContextSource { directory: PathBuf::from("/no/such/context"), ignore: IgnoreRules::default() };
        let stats = ContextStats::load(Path::new("/no/such"), &source.directory);
        let error = Context::open(&source, stats).err().expect("an error");
        assert_eq!(error.to_string(), "cannot open the build context `/no/such/context`");
    }
}
