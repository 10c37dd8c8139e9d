//! Unpacking the archives of ADD.

use std::io::Read;
use std::path::Path;

use super::LayerError;
use crate::tree::TreeWriter;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractOptions {
    /// Owner and group of everything, instead of those in the archive.
    pub owner: Option<(u32, u32)>,
}

/// Whether `reader` is an archive that ADD unpacks: a tar, compressed or not, with at least one entry.
pub fn is_archive(reader: impl Read + Send) -> bool {
    todo!()
}

/// Unpacks an archive (gzip, bzip2, xz, zstd or none, told by its content) below the existing directory
/// `destination` (resolved, canonical).
pub fn extract_archive(
    reader: impl Read + Send,
    writer: &TreeWriter,
    destination: &Path,
    options: &ExtractOptions,
) -> Result<(), LayerError> {
    todo!()
}
