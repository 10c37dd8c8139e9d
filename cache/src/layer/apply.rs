//! Applying a layer to an upper directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci::DiffId;

use super::LayerError;
use crate::tree::TreeMode;

/// A layer whose entries are in its upper directory; [`finish`](Self::finish) completes it.
#[must_use = "a layer is complete only after `finish`"]
pub struct AppliedLayer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The length of the uncompressed archive.
    pub size_bytes: u64,
    /// What could not be represented, such as devices without the privilege to make them; for people.
    pub notes: Vec<String>,
}

/// Applies an uncompressed archive to the empty directory `upper`. Needs nothing of the layers below, so all
/// layers of an image can be applied at once.
pub fn apply_layer(reader: impl Read, upper: &Path, mode: TreeMode) -> Result<AppliedLayer, LayerError> {
    todo!()
}

/// Like [`apply_layer`] for a compressed archive (gzip, zstd or none, told by the first bytes), decompressing and
/// hashing in a thread of its own. The reader is read to its end.
pub fn apply_blob(reader: impl Read + Send, upper: &Path, mode: TreeMode) -> Result<AppliedLayer, LayerError> {
    todo!()
}

impl AppliedLayer {
    /// Does what needs the layers below, `lower_dirs` (top first; each of them finished): hard links to their files
    /// and the metadata of directories that the archive only implies.
    pub fn finish(self, lower_dirs: &[PathBuf]) -> Result<(), LayerError> {
        todo!()
    }
}

/// The body of the fuzz target: applies `data` below the empty directory `scratch`. Errors are fine, panics and
/// anything written outside `scratch` are not.
pub fn fuzz_apply(data: &[u8], scratch: &Path) {
    todo!()
}
