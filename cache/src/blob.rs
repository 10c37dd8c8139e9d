//! Blobs: files named by the digest of their content.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use oci::Digest;

use crate::StoreError;

/// The blobs of a store: manifests, configs and compressed layers. Clones are the same.
#[derive(Debug, Clone)]
pub struct BlobStore;

/// Writes a blob; nothing is in the store until [`BlobWriter::finish`]. Dropping it discards what was written.
#[derive(Debug)]
pub struct BlobWriter;

/// Reads a blob and fails at its end if the bytes do not have its digest.
#[derive(Debug)]
pub struct BlobReader;

impl BlobStore {
    /// The most bytes that [`BlobStore::read`] takes into memory: manifests and configs are far smaller.
    pub const MAX_READ_BYTES: u64 = 64 << 20;

    /// Whether the blob is there. If it is, it stays for as long as this run lives.
    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _ = digest;
        todo!()
    }

    /// The size of the blob in bytes, if it is there. If it is, it stays for as long as this run lives.
    pub fn size_bytes(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let _ = digest;
        todo!()
    }

    /// The blob's file, at its beginning, after its bytes have been verified (once per run).
    pub fn open(&self, digest: &Digest) -> Result<File, StoreError> {
        let _ = digest;
        todo!()
    }

    /// A reader that verifies as it goes: its last read fails if the digest is wrong.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        let _ = digest;
        todo!()
    }

    /// The blob's bytes, verified, at most [`BlobStore::MAX_READ_BYTES`].
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Begins a blob. With `expected`, [`BlobWriter::finish`] fails unless the bytes have that digest.
    pub fn writer(&self, expected: Option<&Digest>) -> Result<BlobWriter, StoreError> {
        let _ = expected;
        todo!()
    }

    /// Stores `bytes`.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let _ = bytes;
        todo!()
    }
}

impl BlobWriter {
    /// The number of bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// Verifies the digest and puts the blob into the store.
    pub fn finish(self) -> Result<Digest, StoreError> {
        todo!()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = bytes;
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        todo!()
    }
}
