//! Writing the difference between two trees as a layer.

use std::io::Write;
use std::path::PathBuf;

use super::LayerError;
use crate::tree::TreeMode;

/// What a layer is made from.
#[derive(Debug, Clone)]
pub enum LayerSource {
    /// An overlay upper directory over its lower ones.
    Overlay {
        /// The upper directory.
        upper: PathBuf,
        /// Those below, top first.
        lower_dirs: Vec<PathBuf>,
        /// How they are read.
        mode: TreeMode,
    },
    /// Two full trees, compared with each other.
    Trees {
        /// The tree before; `None` is an empty one.
        old: Option<PathBuf>,
        /// The tree after.
        new: PathBuf,
        /// How they are read.
        mode: TreeMode,
    },
}

/// Writes `source` as a deterministic uncompressed layer archive.
pub fn write_layer(source: &LayerSource, out: impl Write) -> Result<(), LayerError> {
    todo!()
}
