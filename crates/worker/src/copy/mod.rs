//! COPY and ADD: what is selected, its digest, and how it lands in a snapshot.

mod chmod;
mod digest;
mod error;
mod place;
mod select;
mod share;
mod source;
#[cfg(test)]
mod tests;

pub use error::CopyError;

pub(crate) use digest::{Selections, content_digest, dated_digest, snapshot_digest};
pub(crate) use place::{CopyRequest, LONE_ENTRY, copy, copy_whole, make_directories, now, selection};
pub(crate) use select::Selection;
pub(crate) use share::Sharing;
pub(crate) use source::SourceTree;

/// Whether a directory with so many entries, of which so many are directories, is better divided among threads.
/// Waking them takes longer than looking at a few files.
fn is_worth_threads(entries: usize, directories: usize) -> bool {
    entries >= 16 || directories >= 2
}
