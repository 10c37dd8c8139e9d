//! What takes space.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci::Digest;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::image::collect_blobs;
use crate::removal::{disk_bytes, entries};
use crate::run::{self, Use};
use crate::{Entry, EntryId, Snapshot, SnapshotId, Store, StoreError};

/// The space a store takes. Files are counted once however many links they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it, in bytes on the disk.
    pub total_bytes: u64,
    /// What [`Store::prune`] of everything unused would free now, in bytes on the disk.
    pub reclaimable_bytes: u64,
    /// The number of snapshots.
    pub snapshots: u64,
    /// The number of cache records.
    pub records: u64,
    /// The number of blobs.
    pub blobs: u64,
    /// The number of cache mounts.
    pub cache_mounts: u64,
    /// What the store holds, with the bytes that each takes on the disk. Files that several of them have are counted
    /// in each.
    pub entries: Vec<(Entry, u64)>,
}

impl Store {
    /// The bytes on the disk of what a step has added to what it was made on.
    pub fn own_size_bytes(&self, snapshot: &Snapshot) -> Result<u64, StoreError> {
        Count::default().add(&self.own_dir(&snapshot.id), true)
    }

    /// What takes space. Walks the whole store.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let root = self.root();
        self.shared.database.flush()?;
        let living = run::living_runs(&self.shared.tmp_directory())?;
        let needed = self.needed()?;
        let mut count = Count::default();
        let mut sizes = HashMap::new();
        let (snapshots, blobs) = (self.shared.snapshots_directory(), self.shared.blobs_directory());
        for name in names(&snapshots)? {
            let id = SnapshotId::from_directory_name(&name);
            let is_needed = id.is_some_and(|id| needed.snapshots.contains(&id));
            let path = snapshots.join(name);
            let size = count.add(&path, is_needed)?;
            sizes.insert(path, size);
        }
        for name in names(&blobs)? {
            let path = blobs.join(&name);
            let size = count.add(&path, needed.has_blob(&name))?;
            sizes.insert(path, size);
        }
        for name in names(&self.shared.tmp_directory())? {
            let path = self.shared.tmp_directory().join(name);
            count.add(&path, living.contains(&path))?;
        }
        let mounts = self.cache_mounts()?;
        for mount in &mounts {
            let path = self.mounts_directory().join(&mount.name);
            let size = count.add(&path, self.is_mounted(&mount.name))?;
            sizes.insert(path, size);
        }
        let mut entries = Vec::new();
        for entry in self.entries_beside(&needed)? {
            let path = self.entry_path(&entry.id)?;
            let size = match &entry.id {
                EntryId::ContextStats(_) => count.add(&path, false)?,
                // What has come since it was walked is for the next look.
                _ => sizes.get(&path).copied().unwrap_or(0),
            };
            entries.push((entry, size));
        }
        for name in names(root)? {
            if !["snapshots", "blobs", "tmp", "mounts", "contexts"].contains(&name.as_str()) {
                count.add(&root.join(name), true)?;
            }
        }
        let rows = |table: &str| {
            self.shared.database.read(|connection| {
                connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
            })
        };
        Ok(Usage {
            total_bytes: count.total_bytes,
            reclaimable_bytes: count.reclaimable(),
            snapshots: rows("snapshots")?.cast_unsigned(),
            records: rows("records")?.cast_unsigned(),
            blobs: rows("blobs")?.cast_unsigned(),
            cache_mounts: mounts.len() as u64,
            entries,
        })
    }

    /// What no prune may touch now.
    pub(crate) fn needed(&self) -> Result<Needed, StoreError> {
        let uses = run::uses_of_living_runs(&self.shared.tmp_directory())?;
        let rows: Vec<(i64, Option<i64>)> = self.shared.database.read(|connection| {
            connection
                .prepare("SELECT id, parent FROM snapshots")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let parents: HashMap<SnapshotId, Option<SnapshotId>> =
            rows.into_iter().map(|(id, parent)| (SnapshotId(id), parent.map(SnapshotId))).collect();
        let in_use = parents.keys().copied().filter(|id| uses.contains(&Use::snapshot(*id)));
        let snapshots = with_ancestors(in_use, &parents);
        let mut tagged = BTreeSet::new();
        for tag in self.images()? {
            match collect_blobs(self.blobs(), &tag.target.digest, &mut tagged) {
                // A manifest that is damaged is the trouble of whoever wants that image.
                Err(StoreError::WrongDigest { .. }) => {}
                other => other?,
            }
        }
        Ok(Needed { uses, snapshots, tagged })
    }
}

/// What no prune may touch.
pub(crate) struct Needed {
    /// What living runs use.
    pub(crate) uses: HashSet<Use>,
    /// The snapshots that living runs use, and all below them.
    pub(crate) snapshots: HashSet<SnapshotId>,
    /// The blobs of local tags.
    pub(crate) tagged: BTreeSet<Digest>,
}

impl Needed {
    fn has_blob(&self, hex: &str) -> bool {
        format!("sha256:{hex}")
            .parse()
            .is_ok_and(|digest: Digest| self.tagged.contains(&digest) || self.uses_blob(&digest))
    }

    /// Whether a living run uses it.
    pub(crate) fn uses_blob(&self, digest: &Digest) -> bool {
        self.uses.contains(&Use::blob(digest))
    }
}

/// `roots` and everything below them.
pub(crate) fn with_ancestors(
    roots: impl Iterator<Item = SnapshotId>,
    parents: &HashMap<SnapshotId, Option<SnapshotId>>,
) -> HashSet<SnapshotId> {
    let mut found = HashSet::new();
    for root in roots {
        let mut next = Some(root);
        while let Some(id) = next {
            if !found.insert(id) {
                break;
            }
            next = parents.get(&id).copied().flatten();
        }
    }
    found
}

/// The names in a directory, those that are text: others are not the store's.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let read = |error| StoreError::io("read", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        if let Ok(name) = entry.map_err(read)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[derive(Default)]
struct Count {
    total_bytes: u64,
    reclaimable_bytes: u64,
    /// Files with several links.
    shared: HashMap<(u64, u64), SharedFile>,
    /// What has been counted since [`Self::add`] was called, and the files with several links among it.
    entry_bytes: u64,
    entry_shared: HashSet<(u64, u64)>,
}

struct SharedFile {
    bytes: u64,
    links: u64,
    reclaimable_links: u64,
}

impl Count {
    /// Counts what is at `path`, and returns the bytes that it takes on the disk.
    fn add(&mut self, path: &Path, is_needed: bool) -> Result<u64, StoreError> {
        self.entry_bytes = 0;
        self.entry_shared.clear();
        let result = (|| -> io::Result<()> {
            let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
                // Gone since it was listed.
                Err(Errno::NOENT) => return Ok(()),
                other => other?,
            };
            self.file(&stat, is_needed);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && let Some(directory) = open(CWD, path)?
            {
                self.directory(&directory, is_needed)?;
            }
            Ok(())
        })();
        result.map_err(|error| StoreError::io("read", path, error))?;
        Ok(self.entry_bytes)
    }

    fn directory(&mut self, directory: &OwnedFd, is_needed: bool) -> io::Result<()> {
        for (name, kind) in entries(directory)? {
            match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.file(&stat, is_needed),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
            if kind == FileType::Directory
                && let Some(child) = open(directory, &name)?
            {
                self.directory(&child, is_needed)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, stat: &rustix::fs::Stat, is_needed: bool) {
        let bytes = disk_bytes(stat);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink < 2 {
            self.total_bytes += bytes;
            self.entry_bytes += bytes;
            self.reclaimable_bytes += if is_needed { 0 } else { bytes };
            return;
        }
        if self.entry_shared.insert((stat.st_dev, stat.st_ino)) {
            self.entry_bytes += bytes;
        }
        let total_bytes = &mut self.total_bytes;
        let file = self.shared.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| {
            *total_bytes += bytes;
            SharedFile { bytes, links: stat.st_nlink, reclaimable_links: 0 }
        });
        file.reclaimable_links += u64::from(!is_needed);
    }

    /// Of a file with several links, all must go.
    fn reclaimable(&self) -> u64 {
        let all_go = self.shared.values().filter(|file| file.reclaimable_links >= file.links);
        self.reclaimable_bytes + all_go.map(|file| file.bytes).sum::<u64>()
    }
}

/// Opens a directory; `None` if it is gone or this process may not read it.
fn open<P: rustix::path::Arg>(at: impl std::os::fd::AsFd, name: P) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
