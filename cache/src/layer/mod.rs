//! Layers as archives: applying one to an upper directory, writing the difference of two trees as one, writing
//! whole trees, and unpacking the archives of ADD.
//!
//! The format is tar as in the OCI image layer specification. Nothing here compresses, and nothing knows of
//! registries or of the store.

mod apply;
mod archive;
mod compression;
mod diff;
mod error;
mod export;
mod extension;
mod finish;
mod member;
mod pipeline;
mod tar_writer;
mod unpack;

pub use apply::{AppliedLayer, apply_blob, apply_layer, fuzz_apply};
pub use archive::{
    ARCHIVE_START_BYTES, ExtractOptions, begins_archive, extract_archive, is_archive, newest_time,
};
pub use compression::{Compression, decompress, decompress_detected, detect_compression};
pub use diff::{LayerSource, write_layer};
pub use error::LayerError;
pub use export::{FileTimes, export_tree, write_trees};
pub use tar_writer::pax_record;

#[cfg(test)]
mod tests;
