//! What is known of images: local tags, pins, where their blobs can be fetched, and the layers that snapshots make.

use std::collections::BTreeSet;

use oci::{Descriptor, DiffId, Digest, ImageReference, Index, Manifest, MediaType, Platform};
use rayon::prelude::*;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::database::Durability;
use crate::store::now;
use crate::{BlobStore, SnapshotId, Store, StoreError};

/// The layer that a snapshot makes on top of its parent, once it has been written or applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The size of its uncompressed tar in bytes.
    pub size_bytes: u64,
}

/// A local tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTag {
    /// The tag.
    pub reference: ImageReference,
    /// The manifest or index it names, which is a blob of the store.
    pub target: Descriptor,
    /// When it was set, in seconds since 1970.
    pub tagged_at: i64,
}

/// What a tag of a registry was last seen to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The manifest's digest.
    pub digest: Digest,
    /// When it was seen, in seconds since 1970.
    pub seen_at: i64,
}

impl Store {
    /// The layer of a snapshot, if it is known.
    pub fn layer(&self, snapshot: &SnapshotId) -> Result<Option<Layer>, StoreError> {
        if let Some(layer) = self.shared.memory().layers.get(snapshot) {
            return Ok(Some(layer.clone()));
        }
        let row: Option<(String, i64)> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT diff_id, size FROM layers WHERE snapshot = ?1")?
                .query_row([snapshot.0], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        let Some((diff_id, size)) = row else { return Ok(None) };
        let diff_id = DiffId(self.parse_digest(diff_id)?);
        Ok(Some(Layer { diff_id, size_bytes: size.cast_unsigned() }))
    }

    /// Remembers the layer of a snapshot; it goes away with the snapshot.
    pub fn set_layer(&self, snapshot: &SnapshotId, layer: &Layer) -> Result<(), StoreError> {
        self.shared.memory().layers.insert(*snapshot, layer.clone());
        self.shared.database.pending().layers.insert(*snapshot, layer.clone());
        Ok(())
    }

    /// The compressed form of a layer. `compression` names whatever its bytes depend on (algorithm, level, version
    /// of the encoder). Its blob may be in the store or not.
    pub fn variant(&self, layer: &DiffId, compression: &str) -> Result<Option<Descriptor>, StoreError> {
        let text: Option<String> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT descriptor FROM variants WHERE diff_id = ?1 AND compression = ?2")?
                .query_row([layer.0.as_str(), compression], |row| row.get(0))
                .optional()
        })?;
        text.map(|text| self.parse_descriptor(text)).transpose()
    }

    /// Remembers the compressed form of a layer.
    pub fn set_variant(
        &self,
        layer: &DiffId,
        compression: &str,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        let text = descriptor_text(descriptor);
        self.shared.database.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO variants (diff_id, compression, blob, descriptor)
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute([layer.0.as_str(), compression, descriptor.digest.as_str(), &text])?;
            Ok(())
        })
    }

    /// Remembers where the blobs of a manifest can be fetched. `location` is the caller's text. The latest one of a
    /// manifest holds.
    pub fn set_image(
        &self,
        manifest: &Digest,
        blobs: &[Descriptor],
        location: &str,
    ) -> Result<(), StoreError> {
        self.shared.database.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO images (manifest, location, seen) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![manifest.as_str(), location, now()])?;
            let mut insert = transaction
                .prepare_cached("INSERT OR IGNORE INTO image_blobs (blob, manifest) VALUES (?1, ?2)")?;
            for blob in blobs {
                insert.execute([blob.digest.as_str(), manifest.as_str()])?;
            }
            Ok(())
        })
    }

    /// Where the blobs of a manifest can be fetched.
    pub fn image_location(&self, manifest: &Digest) -> Result<Option<String>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT location FROM images WHERE manifest = ?1")?
                .query_row([manifest.as_str()], |row| row.get(0))
                .optional()
        })
    }

    /// Where a blob can be fetched: the locations of all images that are known to have it, the latest first.
    pub fn blob_locations(&self, blob: &Digest) -> Result<Vec<String>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT i.location FROM image_blobs b JOIN images i ON i.manifest = b.manifest
                     WHERE b.blob = ?1 ORDER BY i.seen DESC, i.location",
                )?
                .query_map([blob.as_str()], |row| row.get(0))?
                .collect()
        })
    }

    /// Addresses besides registries at which a blob can be fetched (`urls` of the OCI descriptor), as the manifests in
    /// the store say that have it.
    pub fn blob_addresses(&self, blob: &Digest) -> Result<Vec<String>, StoreError> {
        let manifests: Vec<String> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT manifest FROM image_blobs WHERE blob = ?1 ORDER BY manifest")?
                .query_map([blob.as_str()], |row| row.get(0))?
                .collect()
        })?;
        let mut addresses = Vec::new();
        for digest in manifests {
            let digest = self.parse_digest(digest)?;
            if !self.blobs().contains(&digest)? {
                continue;
            }
            // What is no manifest that can be read has no addresses either.
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&self.blobs().read(&digest)?) else {
                continue;
            };
            let layers = manifest.layers.into_iter().filter(|layer| layer.digest == *blob);
            addresses.extend(layers.flat_map(|layer| layer.urls));
        }
        Ok(addresses)
    }

    /// Sets a local tag. The manifest (or index) must be a blob of the store; it and what it refers to, as far as
    /// that is in the store and cannot be fetched again, is on the disk when this returns.
    pub fn tag(&self, reference: &ImageReference, target: &Descriptor) -> Result<(), StoreError> {
        if !self.blobs().contains(&target.digest)? {
            return Err(StoreError::NoBlob(target.digest.clone()));
        }
        let mut blobs = BTreeSet::new();
        collect_blobs(self.blobs(), &target.digest, &mut blobs)?;
        let mut own = Vec::new();
        for digest in blobs {
            if !self.is_sealed(&digest)?
                && self.blobs().contains(&digest)?
                && self.blob_locations(&digest)?.is_empty()
            {
                own.push(digest);
            }
        }
        let text = descriptor_text(target);
        let set = |transaction: &Transaction<'_>| {
            transaction.execute(
                "INSERT OR REPLACE INTO tags (reference, target, tagged) VALUES (?1, ?2, ?3)",
                params![reference.to_string(), text, now()],
            )
        };
        let is_tagged = self.tag_row(reference)?.is_some_and(|(_, target, _)| target == text);
        if own.is_empty() && is_tagged {
            // All of it is on the disk but for the time.
            return self.shared.database.write(|transaction| Ok(set(transaction).map(drop)?));
        }
        own.par_iter().try_for_each(|digest| self.shared.disk.sync_file(&self.blobs().path(digest)?))?;
        self.shared.disk.sync_file(&self.shared.blobs_directory())?;
        self.shared.database.write_durably(Durability::Now, |transaction| {
            set(transaction)?;
            let mut keep = transaction.prepare_cached("UPDATE blobs SET generation = 0 WHERE digest = ?1")?;
            for digest in &own {
                keep.execute([digest.as_str()])?;
            }
            Ok(())
        })
    }

    /// Whether a blob was brought to the disk with the generation that it is of, or by itself.
    fn is_sealed(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.shared.database.read(|connection| {
            let sealed: Option<bool> = connection
                .prepare_cached(
                    "SELECT generation NOT IN (SELECT id FROM generations) FROM blobs WHERE digest = ?1",
                )?
                .query_row([digest.as_str()], |row| row.get(0))
                .optional()?;
            Ok(sealed.unwrap_or(false))
        })
    }

    fn tag_row(&self, reference: &ImageReference) -> Result<Option<TagRow>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT reference, target, tagged FROM tags WHERE reference = ?1")?
                .query_row([reference.to_string()], read_tag_row)
                .optional()
        })
    }

    /// Removes a local tag. Returns whether it was there.
    pub fn untag(&self, reference: &ImageReference) -> Result<bool, StoreError> {
        self.shared.database.write_durably(Durability::Now, |transaction| {
            Ok(transaction.execute("DELETE FROM tags WHERE reference = ?1", [reference.to_string()])? > 0)
        })
    }

    /// All local tags, in the order of their names.
    pub fn images(&self) -> Result<Vec<ImageTag>, StoreError> {
        let rows: Vec<TagRow> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT reference, target, tagged FROM tags ORDER BY reference")?
                .query_map([], read_tag_row)?
                .collect()
        })?;
        rows.into_iter().map(|row| self.parse_tag(row)).collect()
    }

    /// What a local tag names. Its manifest and what that refers to, as far as it is in the store, stays in place
    /// for as long as this run lives.
    pub fn image(&self, reference: &ImageReference) -> Result<Option<ImageTag>, StoreError> {
        let Some(row) = self.tag_row(reference)? else { return Ok(None) };
        let tag = self.parse_tag(row)?;
        let mut blobs = BTreeSet::new();
        collect_blobs(self.blobs(), &tag.target.digest, &mut blobs)?;
        for digest in blobs {
            // Declares the use.
            self.blobs().contains(&digest)?;
        }
        Ok(Some(tag))
    }

    /// Remembers what a name was seen to be for a platform.
    pub fn set_pin(&self, name: &str, platform: &Platform, digest: &Digest) -> Result<(), StoreError> {
        self.shared.database.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO pins (name, platform, digest, seen) VALUES (?1, ?2, ?3, ?4)",
                params![name, platform.to_string(), digest.as_str(), now()],
            )?;
            Ok(())
        })
    }

    /// What a name was last seen to be for a platform.
    pub fn pin(&self, name: &str, platform: &Platform) -> Result<Option<Pin>, StoreError> {
        let row: Option<(String, i64)> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT digest, seen FROM pins WHERE name = ?1 AND platform = ?2")?
                .query_row([name, &platform.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        let Some((digest, seen_at)) = row else { return Ok(None) };
        Ok(Some(Pin { digest: self.parse_digest(digest)?, seen_at }))
    }

    /// Remembers what something that is no image was seen to be, in words that the store does not interpret.
    pub fn set_seen(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.shared.database.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO pins (name, platform, digest, seen) VALUES (?1, '', ?2, ?3)",
                params![name, text, now()],
            )?;
            Ok(())
        })
    }

    /// What something that is no image was last seen to be.
    pub fn seen(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT digest FROM pins WHERE name = ?1 AND platform = ''")?
                .query_row([name], |row| row.get(0))
                .optional()
        })
    }

    fn parse_tag(&self, (reference, target, tagged_at): TagRow) -> Result<ImageTag, StoreError> {
        let target = self.parse_descriptor(target)?;
        match reference.parse() {
            Ok(reference) => Ok(ImageTag { reference, target, tagged_at }),
            Err(_) => Err(self.invalid("image reference", reference)),
        }
    }

    fn parse_digest(&self, text: String) -> Result<Digest, StoreError> {
        text.parse().map_err(|_| self.invalid("digest", text))
    }

    fn parse_descriptor(&self, text: String) -> Result<Descriptor, StoreError> {
        serde_json::from_str(&text).map_err(|_| self.invalid("descriptor", text))
    }
}

type TagRow = (String, String, i64);

fn read_tag_row(row: &Row<'_>) -> rusqlite::Result<TagRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn descriptor_text(descriptor: &Descriptor) -> String {
    serde_json::to_string(descriptor).expect("a descriptor can always be written")
}

/// Adds the blob `root` and, if it is a manifest or an index, all that it refers to. What is not in the store, or is
/// neither, is not looked into.
pub(crate) fn collect_blobs(
    blobs: &BlobStore,
    root: &Digest,
    found: &mut BTreeSet<Digest>,
) -> Result<(), StoreError> {
    let mut next = vec![root.clone()];
    while let Some(digest) = next.pop() {
        if !found.insert(digest.clone()) || digest.algorithm() != "sha256" || !blobs.contains(&digest)? {
            continue;
        }
        let bytes = blobs.read(&digest)?;
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
            found.insert(manifest.config.digest);
            found.extend(manifest.layers.into_iter().map(|layer| layer.digest));
        } else if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            let is_image =
                |media_type: &str| MediaType::is_manifest(media_type) || MediaType::is_index(media_type);
            for child in index.manifests {
                if is_image(&child.media_type) {
                    next.push(child.digest);
                } else {
                    found.insert(child.digest);
                }
            }
        }
    }
    Ok(())
}
