//! Telling compressed streams apart by their first bytes, and reading them.

use std::io::{self, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
}

/// How a stream that begins with `start` (six bytes are enough) is compressed.
pub fn detect_compression(start: &[u8]) -> Compression {
    todo!()
}

/// The decompressed bytes of `reader`.
pub fn decompress<'a>(
    reader: impl Read + Send + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    todo!()
}
