//! What is known of images: local tags, pins, where their blobs can be fetched, and the layers that snapshots make.

use oci::{Descriptor, DiffId, Digest, ImageReference, Platform};

use crate::{SnapshotId, Store, StoreError};

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
        let _ = snapshot;
        todo!()
    }

    /// Remembers the layer of a snapshot; it goes away with the snapshot.
    pub fn set_layer(&self, snapshot: &SnapshotId, layer: &Layer) -> Result<(), StoreError> {
        let _ = (snapshot, layer);
        todo!()
    }

    /// The compressed form of a layer. `compression` names whatever its bytes depend on (algorithm, level, version
    /// of the encoder). Its blob may be in the store or not.
    pub fn variant(&self, layer: &DiffId, compression: &str) -> Result<Option<Descriptor>, StoreError> {
        let _ = (layer, compression);
        todo!()
    }

    /// Remembers the compressed form of a layer.
    pub fn set_variant(
        &self,
        layer: &DiffId,
        compression: &str,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        let _ = (layer, compression, descriptor);
        todo!()
    }

    /// Remembers where the blobs of a manifest can be fetched. `location` is the caller's text. The latest one of a
    /// manifest holds.
    pub fn set_image(
        &self,
        manifest: &Digest,
        blobs: &[Descriptor],
        location: &str,
    ) -> Result<(), StoreError> {
        let _ = (manifest, blobs, location);
        todo!()
    }

    /// Where the blobs of a manifest can be fetched.
    pub fn image_location(&self, manifest: &Digest) -> Result<Option<String>, StoreError> {
        let _ = manifest;
        todo!()
    }

    /// Where a blob can be fetched: the locations of all images that are known to have it, the latest first.
    pub fn blob_locations(&self, blob: &Digest) -> Result<Vec<String>, StoreError> {
        let _ = blob;
        todo!()
    }

    /// Sets a local tag. The manifest (or index) must be a blob of the store; it and what it refers to, as far as
    /// that is in the store, is on the disk when this returns.
    pub fn tag(&self, reference: &ImageReference, target: &Descriptor) -> Result<(), StoreError> {
        let _ = (reference, target);
        todo!()
    }

    /// Removes a local tag. Returns whether it was there.
    pub fn untag(&self, reference: &ImageReference) -> Result<bool, StoreError> {
        let _ = reference;
        todo!()
    }

    /// All local tags, in the order of their names.
    pub fn images(&self) -> Result<Vec<ImageTag>, StoreError> {
        todo!()
    }

    /// What a local tag names. Its manifest stays in place for as long as this run lives.
    pub fn image(&self, reference: &ImageReference) -> Result<Option<ImageTag>, StoreError> {
        let _ = reference;
        todo!()
    }

    /// Remembers what a name was seen to be for a platform.
    pub fn set_pin(&self, name: &str, platform: &Platform, digest: &Digest) -> Result<(), StoreError> {
        let _ = (name, platform, digest);
        todo!()
    }

    /// What a name was last seen to be for a platform.
    pub fn pin(&self, name: &str, platform: &Platform) -> Result<Option<Pin>, StoreError> {
        let _ = (name, platform);
        todo!()
    }
}
