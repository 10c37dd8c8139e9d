//! The store as a whole: opening it, sealing what a build has made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Transaction, params};

use crate::database::{Database, Failed};
use crate::disk::{Disk, Faults};
use crate::image::Layer;
use crate::links::{LinkPolicy, Origins};
use crate::probe::{self, Support};
use crate::run::{self, Prunes, Run};
use crate::tree::{OwnerMode, TreeKind, TreeMode};
use crate::{BlobStore, Snapshot, SnapshotId, StoreError};

/// How snapshots are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotterKind {
    /// Each snapshot is an overlay upper directory: what differs from its parent.
    Overlay,
    /// Each snapshot is a whole tree, reflinked or copied from its parent. For a store on a file system over which
    /// overlay cannot be mounted.
    Copy,
}

/// How the user and group IDs in images relate to those of files on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMode {
    /// They are the same: this process is root of the machine.
    Root,
    /// A user namespace with several IDs.
    Mapped {
        /// The text of `uid_map` followed by that of `gid_map`.
        map: String,
    },
    /// A user namespace with one ID, in which every file belongs to root; owners are recorded beside the files.
    Single,
}

impl IdMode {
    /// One line that is the same for the same mapping.
    fn description(&self) -> String {
        match self {
            Self::Root => "root".to_owned(),
            Self::Mapped { map } => {
                let lines = map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
                lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
            }
            Self::Single => "one id".to_owned(),
        }
    }
}

/// Where a store is and how it is used.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The directory; made if it is not there.
    pub root: PathBuf,
    /// The snapshotter; `None` tries whether overlay can be mounted there.
    pub snapshotter: Option<SnapshotterKind>,
    /// The mapping of IDs that this process runs under.
    pub ids: IdMode,
    /// The identifier of this boot of the machine; `None` asks the kernel. Tests give their own.
    pub boot_id: Option<String>,
    /// Whether snapshots may share files.
    pub links: LinkPolicy,
}

/// A store. Clones are the same store and the same run in it: what one of them uses, [`Store::prune`] of no process
/// touches until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    blobs: BlobStore,
}

/// What a store, its blobs and its seals have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pub(crate) snapshotter: SnapshotterKind,
    pub(crate) links: LinkPolicy,
    pub(crate) ids: IdMode,
    pub(crate) boot: String,
    pub(crate) disk: Disk,
    pub(crate) database: Database,
    pub(crate) run: Run,
    pub(crate) prunes: Prunes,
    /// Whether something was saved since the last seal.
    pub(crate) unsealed: AtomicBool,
    pub(crate) next_snapshot: AtomicU64,
    memory: Mutex<Memory>,
    /// Whether files can be cloned, once that was asked.
    clones: OnceLock<bool>,
}

/// What this process has seen of the store and cannot change while it uses it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) snapshots: HashMap<SnapshotId, Snapshot>,
    pub(crate) origins: HashMap<SnapshotId, Origins>,
    pub(crate) digests: HashMap<(SnapshotId, [u8; 32]), [u8; 32]>,
    pub(crate) layers: HashMap<SnapshotId, Layer>,
    pub(crate) merged: HashMap<SnapshotId, PathBuf>,
    /// The directories of the snapshot that was last asked for: a chain grows by one at a time.
    pub(crate) directories: Option<(SnapshotId, Vec<PathBuf>)>,
}

impl Shared {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshots_directory(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn blobs_directory(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn tmp_directory(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn locks_directory(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Says that there is something to seal.
    pub(crate) fn mark_unsealed(&self) {
        self.unsealed.store(true, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What waits is worth nothing more than time; records never wait. The run's uses must outlive it.
        let _ = self.database.flush();
    }
}

/// A store that is not kept open by this.
#[derive(Debug)]
pub struct WeakStore(Weak<Shared>);

impl WeakStore {
    /// Gives up the run, for a process that ends in the midst of its work: what other threads of it have begun cannot
    /// get into the store any more, and is removed as far as they let it be. A later sweep removes the rest.
    pub fn abandon(&self) -> Result<(), StoreError> {
        self.0.upgrade().map_or(Ok(()), |shared| shared.run.abandon(&shared.disk))
    }
}

/// What has been saved up to some point; see [`Store::seal`].
#[derive(Debug)]
pub struct Seal {
    shared: Arc<Shared>,
    generation: i64,
}

impl Seal {
    /// Writes everything that was saved before the seal to the disk (one `syncfs`) and records that it is there;
    /// removes what dead runs have left. May take seconds.
    pub fn complete(self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let done = shared.disk.sync_file_system(&shared.root).and_then(|()| {
            shared.database.write(|transaction| {
                transaction.execute("DELETE FROM generations WHERE id <= ?1", [self.generation])?;
                Ok(())
            })
        });
        if let Err(error) = done {
            shared.mark_unsealed();
            return Err(error);
        }
        shared.database.checkpoint();
        run::sweep_dead_runs(&shared.tmp_directory(), &shared.disk)?;
        Ok(())
    }
}

impl Store {
    /// Opens the store, making it if need be, and begins a run in it.
    pub fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(options, Disk::default())
    }

    /// Removes what dead runs have left. [`Seal::complete`] does it too; this is for builds that had nothing to seal.
    pub fn sweep(&self) -> Result<(), StoreError> {
        run::sweep_dead_runs(&self.shared.tmp_directory(), &self.shared.disk)?;
        Ok(())
    }

    /// [`Store::open`] on a disk that fails as a test wants it to.
    #[doc(hidden)]
    pub fn open_with_faults(options: &StoreOptions, faults: Arc<Faults>) -> Result<Self, StoreError> {
        Self::open_on(options, Disk::with_faults(Some(faults)))
    }

    fn open_on(options: &StoreOptions, disk: Disk) -> Result<Self, StoreError> {
        let root = options.root.clone();
        let tmp = root.join("tmp");
        if fs::metadata(&tmp).is_err() {
            for directory in ["blobs/sha256", "snapshots", "locks", "tmp"] {
                disk.create_dir_all(&root.join(directory))?;
            }
        }
        let run = Run::begin(&tmp, &disk)?;
        let prunes = Prunes::open(&root, &disk)?;
        let database = Database::open(&root, run.directory(), &disk)?;
        let boot = match &options.boot_id {
            Some(boot) => boot.clone(),
            None => boot_id()?,
        };
        let header = Header::read(&database)?;
        check_ids(&database, &root, header.ids.as_deref(), &options.ids)?;
        if header.boot.as_ref() != Some(&boot) {
            begin_boot(&database, &boot)?;
        }
        let snapshotter = match options.snapshotter {
            Some(kind) => kind,
            None => choose_snapshotter(&database, &run, &disk, (&header, &boot, &options.ids))?,
        };
        let shared = Arc::new(Shared {
            root,
            snapshotter,
            links: options.links,
            ids: options.ids.clone(),
            boot,
            disk,
            database,
            run,
            prunes,
            unsealed: AtomicBool::new(false),
            next_snapshot: AtomicU64::new(random_u64()),
            memory: Mutex::default(),
            clones: OnceLock::new(),
        });
        Ok(Self { blobs: BlobStore::new(Arc::clone(&shared)), shared })
    }

    /// A handle that does not keep the store open.
    pub fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.shared))
    }

    /// Whether there is a store at `root` that was made under one id ([`IdMode::Single`]). Changes nothing.
    pub fn has_one_id(root: &Path) -> bool {
        let recorded = Database::read_once(root, |connection| {
            connection
                .query_row("SELECT value FROM meta WHERE name = 'ids'", [], |row| row.get::<_, String>(0))
        });
        recorded.is_some_and(|ids| ids == IdMode::Single.description())
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// How snapshots are kept.
    pub fn snapshotter(&self) -> SnapshotterKind {
        self.shared.snapshotter
    }

    /// Whether files of the store can share their bytes on the disk and stay apart otherwise (`FICLONE`). It is tried
    /// once for each run.
    pub fn clones_files(&self) -> bool {
        // A try that fails is like one that finds that they cannot: they are copied then.
        let clones = || probe::clones(&self.fresh_path(), &self.shared.disk).unwrap_or(false);
        *self.shared.clones.get_or_init(clones)
    }

    /// The mapping of IDs.
    pub fn ids(&self) -> &IdMode {
        &self.shared.ids
    }

    /// How the directories of snapshots are to be read and written.
    pub fn tree_mode(&self) -> TreeMode {
        let kind = match self.shared.snapshotter {
            SnapshotterKind::Overlay => {
                TreeKind::Overlay { user_xattrs: probe::uses_user_xattrs(&self.shared.ids) }
            }
            SnapshotterKind::Copy => TreeKind::Plain,
        };
        let owners = match self.shared.ids {
            IdMode::Root | IdMode::Mapped { .. } => OwnerMode::Native,
            IdMode::Single => OwnerMode::Recorded,
        };
        TreeMode { kind, owners }
    }

    /// The directory of this run, on the file system of the store, for whatever is begun and not finished. It goes
    /// away with the run.
    pub fn run_directory(&self) -> &Path {
        self.shared.run.directory()
    }

    /// A path in [`Store::run_directory`] that nobody else gets. Nothing is there.
    pub fn fresh_path(&self) -> PathBuf {
        self.shared.run.fresh_path()
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Draws a line under what has been saved so far, by this and all other processes: [`Seal::complete`] brings
    /// it to the disk, on another thread if one likes. `None` if this run has saved nothing since the last seal.
    pub fn seal(&self) -> Result<Option<Seal>, StoreError> {
        let shared = &self.shared;
        shared.database.flush()?;
        if !shared.unsealed.swap(false, Ordering::AcqRel) {
            return Ok(None);
        }
        let generation = shared.database.write(|transaction| {
            let current = transaction.query_row("SELECT max(id) FROM generations", [], |row| row.get(0))?;
            transaction.execute("INSERT INTO generations (boot) VALUES (?1)", [&shared.boot])?;
            Ok(current)
        });
        match generation {
            Ok(generation) => Ok(Some(Seal { shared: Arc::clone(shared), generation })),
            Err(error) => {
                shared.mark_unsealed();
                Err(error)
            }
        }
    }

    /// [`Store::seal`] and [`Seal::complete`] at once. Without it, what was saved does not outlive a power failure
    /// (it does outlive the process in any case).
    pub fn finish(&self) -> Result<(), StoreError> {
        match self.seal()? {
            Some(seal) => seal.complete(),
            None => self.sweep(),
        }
    }
}

/// What is read when a store is opened.
struct Header {
    ids: Option<String>,
    overlay: Option<String>,
    boot: Option<String>,
}

impl Header {
    fn read(database: &Database) -> Result<Self, StoreError> {
        const QUERY: &str = "SELECT (SELECT value FROM meta WHERE name = 'ids'),
            (SELECT value FROM meta WHERE name = 'overlay'),
            (SELECT boot FROM generations ORDER BY id DESC LIMIT 1)";
        database.read(|connection| {
            connection.query_row(QUERY, [], |row| {
                Ok(Self { ids: row.get(0)?, overlay: row.get(1)?, boot: row.get(2)? })
            })
        })
    }
}

fn check_ids(database: &Database, root: &Path, stored: Option<&str>, ids: &IdMode) -> Result<(), StoreError> {
    let current = ids.description();
    let stored = match stored {
        Some(stored) => stored.to_owned(),
        None => database.write(|transaction| {
            transaction.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('ids', ?1)", [&current])?;
            let query = "SELECT value FROM meta WHERE name = 'ids'";
            Ok(transaction.query_row(query, [], |row| row.get(0))?)
        })?,
    };
    if stored == current {
        return Ok(());
    }
    let had_one = stored == IdMode::Single.description();
    Err(StoreError::IdsChanged { root: root.to_owned(), stored, current, had_one })
}

/// Begins the first generation of this boot, and drops what may not have reached the disk before the machine was
/// started again.
fn begin_boot(database: &Database, boot: &str) -> Result<(), StoreError> {
    database.write(|transaction| {
        let newest: Option<String> = transaction
            .query_row("SELECT boot FROM generations ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
            .optional()?;
        if newest.as_deref() == Some(boot) {
            return Ok(());
        }
        drop_lost(transaction)?;
        transaction.execute("INSERT INTO generations (boot) VALUES (?1)", [boot])?;
        Ok(())
    })
}

fn drop_lost(transaction: &Transaction<'_>) -> Result<(), Failed> {
    transaction.execute_batch(
        "DELETE FROM snapshots WHERE generation IN (SELECT id FROM generations);
         DELETE FROM records WHERE generation IN (SELECT id FROM generations)
             OR snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM digests WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM copies WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM layers WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM merged WHERE generation IN (SELECT id FROM generations)
             OR snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM blobs WHERE generation IN (SELECT id FROM generations);
         DELETE FROM generations;",
    )?;
    Ok(())
}

/// Tries overlay, once per boot: the answer depends on the kernel and on how the file system is mounted.
fn choose_snapshotter(
    database: &Database,
    run: &Run,
    disk: &Disk,
    (header, boot, ids): (&Header, &str, &IdMode),
) -> Result<SnapshotterKind, StoreError> {
    let kind_of = |works: &str| match works {
        "yes" => SnapshotterKind::Overlay,
        _ => SnapshotterKind::Copy,
    };
    let remembered = header.overlay.as_deref().and_then(|text| text.split_once(' '));
    if let Some((works, _)) = remembered.filter(|(_, at)| *at == boot) {
        return Ok(kind_of(works));
    }
    let works = match probe::overlay(&run.fresh_path(), ids, disk)? {
        Support::Works => "yes",
        Support::Refused(_) => "no",
        // Outside its user namespace an ordinary user cannot tell; what was last seen inside will still hold.
        Support::Unknown(_) => {
            return Ok(remembered.map_or(SnapshotterKind::Copy, |(works, _)| kind_of(works)));
        }
    };
    database.write(|transaction| {
        let value = format!("{works} {boot}");
        transaction.execute(
            "INSERT INTO meta (name, value) VALUES ('overlay', ?1) ON CONFLICT DO UPDATE SET value = ?1",
            params![value],
        )?;
        Ok(())
    })?;
    Ok(kind_of(works))
}

fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        // Without /proc nobody can tell whether the machine was restarted in between: as if it always was.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(format!("unknown {:016x}", random_u64()))
        }
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The time of last use is no more precise than that, so that a build that finds everything writes nothing.
pub(crate) const USED_RESOLUTION_SECONDS: u32 = 600;

/// Whether a time of last use is to be set anew: it has passed, or the clock was wrong and it is still to come.
pub(crate) fn is_outdated(used: i64) -> bool {
    now().abs_diff(used) > u64::from(USED_RESOLUTION_SECONDS)
}

/// A number that no other process has.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // Only names are made of it, and a name that is taken is never overwritten.
        Err(_) => (u64::from(std::process::id()) << 32) ^ now().unsigned_abs(),
    }
}
