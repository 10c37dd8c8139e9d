//! Snapshots: each is there, on top of what it lies on, with the content that was seen when it was made.
//!
//! Three things are known of content: the digests of the files that a copy wrote, the diff ID of a layer that was
//! exported, and, for layers of images, the blob that they were unpacked from, if that is in the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use oci::{DiffId, Digest, Hasher, ImageConfig, Manifest};
use rayon::prelude::*;

use super::{Outcome, Part, Verified};
use crate::database::kind_number;
use crate::layer::{LayerSource, apply_blob, write_layer};
use crate::links::Origins;
use crate::snapshot::read_snapshot_row;
use crate::tree::TreeView;
use crate::{EntryId, Pruned, Snapshot, SnapshotId, Store, StoreError};

/// A row, with what is known of its layer.
struct Row {
    snapshot: Snapshot,
    /// Whether it is of the snapshotter in use: others' directories are not compared.
    is_own_kind: bool,
    is_image_layer: bool,
    /// `None` where they cannot be read.
    origins: Option<Origins>,
    diff_id: Option<DiffId>,
}

/// What a look at a snapshot found.
enum Look {
    /// All that is known of it holds.
    Compared,
    /// It is there; nothing is known of its content.
    There,
    Damaged(String),
}

impl Store {
    pub(super) fn verify_snapshots(&self, found: &mut Verified) -> Result<(), StoreError> {
        let rows = self.snapshot_rows()?;
        let by_id: HashMap<SnapshotId, &Snapshot> =
            rows.iter().map(|row| (row.snapshot.id, &row.snapshot)).collect();
        let blobs = self.blobs_of_layers()?;
        let looks: Vec<Look> = rows
            .par_iter()
            .map(|row| match self.look_at(row, &by_id, &blobs) {
                Ok(look) => look,
                Err(reason) => Look::Damaged(reason),
            })
            .collect();
        found.snapshots = rows.len() as u64;
        found.compared_snapshots = looks.iter().filter(|look| matches!(look, Look::Compared)).count() as u64;
        let damaged: Vec<(SnapshotId, String)> = rows
            .iter()
            .zip(looks)
            .filter_map(|(row, look)| match look {
                Look::Damaged(detail) => Some((row.snapshot.id, detail)),
                Look::Compared | Look::There => None,
            })
            .collect();
        self.drop_snapshots(damaged, found)
    }

    fn snapshot_rows(&self) -> Result<Vec<Row>, StoreError> {
        let own_kind = kind_number(self.snapshotter());
        self.shared.database.read(|connection| {
            connection
                .prepare(
                    "SELECT s.id, s.parent, s.depth, s.kind, s.chain IS NOT NULL, s.origins, l.diff_id
                     FROM snapshots s LEFT JOIN layers l ON l.snapshot = s.id WHERE s.doomed = 0",
                )?
                .query_map([], |row| {
                    let snapshot = read_snapshot_row(row)?;
                    let origins: Option<Vec<u8>> = row.get(5)?;
                    let diff_id: Option<String> = row.get(6)?;
                    Ok(Row {
                        is_own_kind: row.get::<_, i64>(3)? == own_kind,
                        is_image_layer: row.get(4)?,
                        origins: match origins {
                            None => Some(Origins::own(snapshot.id)),
                            Some(bytes) => Origins::decode(&bytes),
                        },
                        snapshot,
                        diff_id: diff_id.and_then(|text| text.parse().ok()).map(DiffId),
                    })
                })?
                .collect()
        })
    }

    /// The compressed blobs that layers of images were unpacked from, as far as they are in the store.
    fn blobs_of_layers(&self) -> Result<HashMap<DiffId, Digest>, StoreError> {
        let manifests: Vec<String> = self.shared.database.read(|connection| {
            connection
                .prepare("SELECT i.manifest FROM images i JOIN blobs b ON b.digest = i.manifest")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        let mut blobs = HashMap::new();
        for digest in manifests.iter().filter_map(|text| text.parse().ok()) {
            let manifest =
                self.bytes(&digest).and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
            let Some(Manifest { config, layers, .. }) = manifest else { continue };
            let config = self.bytes(&config.digest);
            let config = config.and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok());
            let Some(config) = config else { continue };
            blobs
                .extend(config.rootfs.diff_ids.into_iter().zip(layers.into_iter().map(|layer| layer.digest)));
        }
        Ok(blobs)
    }

    /// The bytes of a small blob. One that is gone has none.
    fn bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        fs::read(self.blobs().path(digest).ok()?).ok()
    }

    /// Looks at one snapshot; an error is what is wrong with it.
    fn look_at(
        &self,
        row: &Row,
        by_id: &HashMap<SnapshotId, &Snapshot>,
        blobs: &HashMap<DiffId, Digest>,
    ) -> Result<Look, String> {
        let Row { snapshot, .. } = row;
        let parent = match snapshot.parent {
            None => None,
            Some(id) => Some(**by_id.get(&id).ok_or_else(|| format!("snapshot `{id}` below it is missing"))?),
        };
        if snapshot.depth != parent.map_or(0, |parent| parent.depth) + 1 {
            return Err(format!("its depth is recorded as {}", snapshot.depth));
        }
        if row.origins.is_none() {
            return Err("its origins cannot be read".to_owned());
        }
        let own = self.own_dir(&snapshot.id);
        match fs::symlink_metadata(&own) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err("its directory is none".to_owned()),
            Err(error) => return Err(format!("its directory cannot be read: {error}")),
        }
        let mut is_compared = self.compare_contents(snapshot.id)?;
        if row.is_own_kind
            && let Some(diff_id) = &row.diff_id
        {
            is_compared |= if row.is_image_layer {
                self.compare_with_blob(&own, parent.as_ref(), blobs.get(diff_id))?
            } else {
                let source = self.layer_source_of(own, parent.as_ref()).map_err(|error| told(&error))?;
                let content = digest_of(&source)?;
                if content != diff_id.0 {
                    return Err(format!("its layer is `{content}` instead of `{}`", diff_id.0));
                }
                true
            };
        }
        Ok(if is_compared { Look::Compared } else { Look::There })
    }

    /// Compares the files of which the digests are kept. Returns whether there are any.
    fn compare_contents(&self, snapshot: SnapshotId) -> Result<bool, String> {
        let kept = self.kept_contents(snapshot).map_err(|error| told(&error))?;
        let Some(kept) = kept else { return Ok(false) };
        let contents = kept.ok_or("the digests of its files are damaged")?;
        let view =
            TreeView::open(&[self.own_dir(&snapshot)], self.tree_mode()).map_err(|error| told(&error))?;
        for (path, digest) in contents.iter() {
            let shown = path.display();
            let file = view.open_file(path).map_err(|error| format!("`{shown}`: {}", told(&error)))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
            if hasher.finalize().as_bytes() != digest {
                return Err(format!("`{shown}` is not what was copied"));
            }
        }
        Ok(true)
    }

    /// Compares the directory of an image's layer with what its blob holds. Returns whether that is in the store.
    fn compare_with_blob(
        &self,
        own: &Path,
        parent: Option<&Snapshot>,
        blob: Option<&Digest>,
    ) -> Result<bool, String> {
        let Some(path) = blob.and_then(|digest| self.blobs().path(digest).ok()) else { return Ok(false) };
        let Ok(blob) = fs::File::open(path) else { return Ok(false) };
        let active = self.prepare(parent).map_err(|error| told(&error))?;
        let applied = apply_blob(blob, active.upper(), self.tree_mode())
            .and_then(|applied| applied.finish(active.lower_dirs()));
        applied.map_err(|error| told(&error))?;
        let digest = |own: &Path| {
            digest_of(&self.layer_source_of(own.to_owned(), parent).map_err(|error| told(&error))?)
        };
        if digest(own)? != digest(active.upper())? {
            return Err("it is not what its layer holds".to_owned());
        }
        Ok(true)
    }

    /// Throws damaged snapshots away, as prune does it, with all that may share files with them and all that lies on
    /// these.
    fn drop_snapshots(
        &self,
        damaged: Vec<(SnapshotId, String)>,
        found: &mut Verified,
    ) -> Result<(), StoreError> {
        // What was pruned while it was looked at has lost its row before its files.
        let rows = self.snapshot_rows()?;
        let there: HashSet<SnapshotId> = rows.iter().map(|row| row.snapshot.id).collect();
        let damaged: BTreeMap<_, _> = damaged.into_iter().filter(|(id, _)| there.contains(id)).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let doomed = affected(&rows, &damaged.keys().copied().collect());
        let candidates: Vec<EntryId> = doomed.iter().map(|id| EntryId::Snapshot(*id)).collect();
        self.prune_batch(&candidates, &mut Pruned::default())?;
        let is_left = self.snapshot_rows()?.iter().any(|row| doomed.contains(&row.snapshot.id));
        let outcome = if is_left { Outcome::InUse } else { Outcome::Repaired };
        for (id, detail) in damaged {
            found.defect(Part::Snapshots, format!("snapshot `{id}`"), detail, outcome);
        }
        Ok(())
    }
}

/// The damaged snapshots, those that may hold the same inodes, and all that lies on these.
fn affected(rows: &[Row], damaged: &HashSet<SnapshotId>) -> HashSet<SnapshotId> {
    let origins =
        rows.iter().filter(|row| damaged.contains(&row.snapshot.id)).filter_map(|row| row.origins.as_ref());
    let origins: Vec<&Origins> = origins.collect();
    let mut affected = damaged.clone();
    let mut upwards: Vec<&Row> = rows.iter().collect();
    upwards.sort_unstable_by_key(|row| row.snapshot.depth);
    for Row { snapshot, origins: own, .. } in upwards {
        let shares = own.as_ref().is_none_or(|own| origins.iter().any(|others| others.meet(own)));
        if shares || snapshot.parent.is_some_and(|parent| affected.contains(&parent)) {
            affected.insert(snapshot.id);
        }
    }
    affected
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Hashes what is written to it.
struct Hashed(Hasher);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The digest of a layer as it would be written.
fn digest_of(source: &LayerSource) -> Result<Digest, String> {
    let mut hashed = io::BufWriter::with_capacity(1 << 16, Hashed(Hasher::new()));
    write_layer(source, &mut hashed).map_err(|error| told(&error))?;
    let hashed = hashed.into_inner().map_err(|error| told(error.error()))?;
    Ok(hashed.0.finish())
}
