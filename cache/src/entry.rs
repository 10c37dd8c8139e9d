//! What the store holds, one by one, as `du` lists it and filters choose it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use oci::Digest;

use crate::usage::{Needed, names};
use crate::{SnapshotId, Store, StoreError};

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryId {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A blob.
    Blob(Digest),
    /// A cache mount, by the name of its directory.
    CacheMount(String),
    /// What is known of the files of a build context, by the name of its file.
    ContextStats(String),
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => id.fmt(f),
            Self::Blob(digest) => digest.fmt(f),
            Self::CacheMount(name) | Self::ContextStats(name) => f.write_str(name),
        }
    }
}

/// What kind of thing an entry is, in BuildKit's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// `regular`: what a step made, a layer of an image, a blob.
    #[default]
    Regular,
    /// `source.local`: what was read of a build context.
    LocalSource,
    /// `source.git.checkout`: files of a git repository.
    GitCheckout,
    /// `exec.cachemount`: what `RUN --mount=type=cache` keeps.
    CacheMount,
}

impl EntryKind {
    const ALL: [Self; 4] = [Self::Regular, Self::LocalSource, Self::GitCheckout, Self::CacheMount];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::LocalSource => "source.local",
            Self::GitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
        }
    }

    /// As it is stored with a record.
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    pub(crate) fn from_number(number: i64) -> Self {
        Self::ALL.into_iter().find(|kind| kind.number() == number).unwrap_or_default()
    }
}

/// Something that takes space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// What kind of thing it is.
    pub kind: EntryKind,
    /// The snapshot that it lies on.
    pub parent: Option<SnapshotId>,
    /// What made it, for people.
    pub description: String,
    /// Whether a living run uses it, or something that lies on it.
    pub in_use: bool,
    /// Whether an image of the store needs it.
    pub shared: bool,
    /// Whether it may still change.
    pub mutable: bool,
    /// When it was last used, in seconds since 1970, known to ten minutes.
    pub used: i64,
}

impl Entry {
    /// Whether prune may take it.
    pub fn is_reclaimable(&self) -> bool {
        !self.in_use && !self.shared
    }
}

/// A snapshot as the database describes it.
struct SnapshotRow {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    used: i64,
    kind: Option<i64>,
    description: Option<String>,
    is_layer: bool,
}

impl Store {
    /// All that the store holds. Nothing is walked.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.shared.database.flush()?;
        self.entries_beside(&self.needed()?)
    }

    /// The same, where it is known what is needed.
    pub(crate) fn entries_beside(&self, needed: &Needed) -> Result<Vec<Entry>, StoreError> {
        let mut entries = self.snapshot_entries(needed)?;
        entries.extend(self.blob_entries(needed)?);
        for mount in self.cache_mounts()? {
            entries.push(Entry {
                in_use: self.is_mounted(&mount.name),
                id: EntryId::CacheMount(mount.name),
                kind: EntryKind::CacheMount,
                parent: None,
                description: format!("cache mount {}", mount.id),
                shared: false,
                mutable: true,
                used: mount.used,
            });
        }
        entries.extend(self.context_entries()?);
        Ok(entries)
    }

    fn snapshot_entries(&self, needed: &Needed) -> Result<Vec<Entry>, StoreError> {
        let rows: Vec<SnapshotRow> = self.shared.database.read(|connection| {
            connection
                // Of several records of a snapshot the one that was used last tells what it is. Who finds a step by
                // its record leaves the snapshot's own time alone.
                .prepare(
                    "SELECT s.id, s.parent,
                         max(iif(s.chain IS NULL AND count(r.key) > 0, 0, s.used), coalesce(max(r.used), 0)),
                         r.kind, r.description, s.chain IS NOT NULL
                     FROM snapshots s LEFT JOIN records r ON r.snapshot = s.id WHERE s.doomed = 0 GROUP BY s.id",
                )?
                .query_map([], |row| {
                    let parent: Option<i64> = row.get(1)?;
                    Ok(SnapshotRow {
                        id: SnapshotId(row.get(0)?),
                        parent: parent.map(SnapshotId),
                        used: row.get(2)?,
                        kind: row.get(3)?,
                        description: row.get(4)?,
                        is_layer: row.get(5)?,
                    })
                })?
                .collect()
        })?;
        let entry = |row: SnapshotRow| Entry {
            kind: row.kind.map(EntryKind::from_number).unwrap_or_default(),
            parent: row.parent,
            description: match row.description {
                Some(text) if !text.is_empty() => text,
                _ if row.is_layer => "layer of an image".to_owned(),
                _ => "step".to_owned(),
            },
            in_use: needed.snapshots.contains(&row.id),
            id: EntryId::Snapshot(row.id),
            shared: false,
            mutable: false,
            used: row.used,
        };
        Ok(rows.into_iter().map(entry).collect())
    }

    fn blob_entries(&self, needed: &Needed) -> Result<Vec<Entry>, StoreError> {
        let (rows, layers): (Vec<(String, i64)>, HashMap<String, String>) =
            self.shared.database.read(|connection| {
                let rows = connection
                    .prepare("SELECT digest, used FROM blobs WHERE doomed = 0")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                let layers = connection
                    .prepare("SELECT blob, compression FROM variants")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                Ok((rows, layers))
            })?;
        let entry = |(text, used): (String, i64)| {
            let digest: Digest = text.parse().ok()?;
            let description = match layers.get(&text) {
                Some(compression) => format!("layer blob ({compression})"),
                None => "blob".to_owned(),
            };
            Some(Entry {
                kind: EntryKind::Regular,
                parent: None,
                description,
                in_use: needed.uses_blob(&digest),
                shared: needed.tagged.contains(&digest),
                id: EntryId::Blob(digest),
                mutable: false,
                used,
            })
        };
        Ok(rows.into_iter().filter_map(entry).collect())
    }

    pub(crate) fn context_entries(&self) -> Result<Vec<Entry>, StoreError> {
        let directory = self.contexts_directory();
        if fs::metadata(&directory).is_err() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in names(&directory)? {
            // One that is being written anew has another name for a moment.
            let Ok(metadata) = fs::metadata(directory.join(&name)) else { continue };
            found.push(Entry {
                id: EntryId::ContextStats(name),
                kind: EntryKind::LocalSource,
                parent: None,
                description: "digests of the files of a build context".to_owned(),
                in_use: false,
                shared: false,
                mutable: true,
                used: metadata.mtime(),
            });
        }
        Ok(found)
    }

    pub(crate) fn contexts_directory(&self) -> PathBuf {
        self.root().join("contexts")
    }

    /// Where the files of an entry are.
    pub(crate) fn entry_path(&self, id: &EntryId) -> Result<PathBuf, StoreError> {
        Ok(match id {
            EntryId::Snapshot(id) => self.snapshot_directory(*id),
            EntryId::Blob(digest) => self.blobs().path(digest)?,
            EntryId::CacheMount(name) => self.mounts_directory().join(name),
            EntryId::ContextStats(name) => self.contexts_directory().join(name),
        })
    }
}
