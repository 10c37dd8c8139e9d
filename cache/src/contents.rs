//! What the files of a snapshot contain, as far as that is known: whoever wrote them has hashed them.
//!
//! The file `snapshots/<id>/contents`: `rbcont` and two bytes of version; for each file, in the order of their paths,
//! the length of the path (4 bytes, little endian), the path from the root of the tree, and 32 bytes of blake3 digest
//! of its bytes; at the end 32 bytes of blake3 digest of all before. By path, and not by inode: a store that was moved
//! to another disk has other inodes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};

use crate::links::Origins;
use crate::tree::{Holder, TreeView};
use crate::{ActiveSnapshot, Snapshot, SnapshotId, SnapshotterKind, Store, StoreError};

const MAGIC: &[u8; 8] = b"rbcont\x00\x01";
const DIGEST_BYTES: usize = 32;
/// The name of the file in the snapshot's directory.
pub(crate) const FILE: &str = "contents";

/// The digests of files by path, `/a/b`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents(HashMap<PathBuf, [u8; DIGEST_BYTES]>);

impl Contents {
    /// A file with that content has come to `path`.
    pub fn insert(&mut self, path: PathBuf, digest: [u8; DIGEST_BYTES]) {
        self.0.insert(path, digest);
    }

    /// Something of which the content is not known has come to `path`.
    pub fn remove(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The digest of the file at `path`.
    pub fn get(&self, path: &Path) -> Option<[u8; DIGEST_BYTES]> {
        self.0.get(path).copied()
    }

    /// The files and their digests.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &[u8; DIGEST_BYTES])> {
        self.0.iter().map(|(path, digest)| (path.as_path(), digest))
    }

    fn encode(&self) -> Vec<u8> {
        let mut files: Vec<_> = self.0.iter().collect();
        files.sort_unstable();
        let mut bytes = MAGIC.to_vec();
        for (path, digest) in files {
            let path = path.as_os_str().as_bytes();
            bytes.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(path);
            bytes.extend_from_slice(digest);
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// `None` for anything but the whole of what was written.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
        if blake3::hash(body).as_bytes() != check {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let mut files = HashMap::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (path, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            let (digest, after) = after.split_first_chunk::<DIGEST_BYTES>()?;
            files.insert(PathBuf::from(OsStr::from_bytes(path)), *digest);
            rest = after;
        }
        Some(Self(files))
    }
}

impl ActiveSnapshot {
    /// Keeps what is known of the files that were written to the upper directory. All of it must be right.
    pub fn set_contents(&self, contents: Contents) {
        *self.contents.lock().unwrap_or_else(PoisonError::into_inner) = contents;
    }

    /// Writes what is known of the files beside the tree.
    pub(crate) fn write_contents(&self) -> Result<(), StoreError> {
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if contents.0.is_empty() {
            return Ok(());
        }
        let path = self.directory.join(FILE);
        let disk = &self.store.shared.disk;
        let file = disk.create_file(&path)?;
        disk.write_all(&file, &path, &contents.encode())
    }
}

/// The files of a snapshot, open for reading, with what is known of them. May be used from several threads.
#[derive(Debug)]
pub struct SnapshotTree {
    view: TreeView,
    /// The snapshots that the directories of the chain belong to, top first. A merged directory belongs to none.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    store: Store,
    snapshot: SnapshotId,
    origins: OnceLock<Origins>,
    contents: OnceLock<Arc<Contents>>,
}

impl SnapshotTree {
    /// Describes `view`, which was opened on the [`Store::layer_dirs`] of `snapshot`.
    pub fn new(store: &Store, snapshot: &Snapshot, view: TreeView) -> Result<Self, StoreError> {
        let mut snapshots = match store.snapshotter() {
            SnapshotterKind::Overlay => store.chain(snapshot)?,
            SnapshotterKind::Copy => vec![*snapshot],
        };
        snapshots.reverse();
        snapshots.truncate(store.layer_dirs(snapshot)?.len());
        if snapshots.last().is_some_and(|last| last.parent.is_some())
            && store.snapshotter() == SnapshotterKind::Overlay
        {
            // What the last directory merges are several.
            snapshots.pop();
        }
        Ok(Self::with_levels(store, view, snapshots.iter().map(|snapshot| snapshot.id)))
    }

    /// Describes `view`, which was opened on the [`Store::own_dir`] of `snapshot` alone.
    pub fn of_own_directory(store: &Store, snapshot: &Snapshot, view: TreeView) -> Self {
        Self::with_levels(store, view, std::iter::once(snapshot.id))
    }

    fn with_levels(store: &Store, view: TreeView, snapshots: impl Iterator<Item = SnapshotId>) -> Self {
        let level = |snapshot| {
            let store = store.clone();
            Level { store, snapshot, origins: OnceLock::new(), contents: OnceLock::new() }
        };
        Self { view, levels: snapshots.map(level).collect() }
    }

    /// The tree.
    pub fn view(&self) -> &TreeView {
        &self.view
    }

    /// The digest of the bytes of the file `path`, which `holder` holds, if it is known.
    pub fn content(&self, holder: &Holder, path: &Path) -> Option<[u8; 32]> {
        let level = self.levels.get(holder.level())?;
        level.contents.get_or_init(|| level.store.contents(level.snapshot)).get(path)
    }

    /// The origins of what `holder` holds; `None` if they are not known.
    pub fn origins(&self, holder: &Holder) -> Result<Option<&Origins>, StoreError> {
        let Some(level) = self.levels.get(holder.level()) else { return Ok(None) };
        if let Some(known) = level.origins.get() {
            return Ok(Some(known));
        }
        let origins = level.store.origins(level.snapshot)?;
        Ok(Some(level.origins.get_or_init(|| origins)))
    }
}

impl From<TreeView> for SnapshotTree {
    /// A tree of which nothing else is known.
    fn from(view: TreeView) -> Self {
        Self { view, levels: Vec::new() }
    }
}

impl Store {
    /// The files of a snapshot's own directory of which the digests are kept, if what keeps them is there: `None` in it
    /// is damage.
    #[expect(clippy::option_option, reason = "not there and not whole are different things")]
    pub(crate) fn kept_contents(&self, snapshot: SnapshotId) -> std::io::Result<Option<Option<Contents>>> {
        match std::fs::read(self.snapshot_directory(snapshot).join(FILE)) {
            Ok(bytes) => Ok(Some(Contents::decode(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of the files in a snapshot's own directory. A file that cannot be read or is damaged knows nothing.
    fn contents(&self, snapshot: SnapshotId) -> Arc<Contents> {
        let path = self.snapshot_directory(snapshot).join(FILE);
        let contents = std::fs::read(path).ok().and_then(|bytes| Contents::decode(&bytes));
        Arc::new(contents.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_survive_their_stored_form_and_damage_is_seen() {
        let mut contents = Contents::default();
        assert_eq!(Contents::decode(&contents.encode()), Some(contents.clone()));
        contents.insert(PathBuf::from("/a"), [1; 32]);
        contents.insert(PathBuf::from(OsStr::from_bytes(b"/d/\xff\n")), [2; 32]);
        contents.insert(PathBuf::from("/gone"), [3; 32]);
        contents.remove(Path::new("/gone"));
        let bytes = contents.encode();
        assert_eq!(Contents::decode(&bytes), Some(contents));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Contents::decode(&damaged), None, "byte {at}");
            assert_eq!(Contents::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
