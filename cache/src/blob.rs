//! Blobs: files named by the digest of their content.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci::{Digest, Hasher};
use rusqlite::{Connection, OptionalExtension, params};

use crate::StoreError;
use crate::run::{Declared, Use};
use crate::store::{Shared, is_outdated, now};

const BUFFER_BYTES: usize = 256 << 10;

/// The blobs of a store: manifests, configs and compressed layers. Clones are the same.
///
/// A blob is a file `blobs/sha256/<digits>` and a row; it takes both.
#[derive(Debug, Clone)]
pub struct BlobStore {
    shared: Arc<Shared>,
    verified: Arc<Mutex<HashSet<Digest>>>,
}

impl BlobStore {
    /// The most bytes that [`BlobStore::read`] takes into memory: manifests and configs are far smaller.
    pub const MAX_READ_BYTES: u64 = 64 << 20;

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, verified: Arc::default() }
    }

    /// Whether the blob is there. If it is, it stays for as long as this run lives.
    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.size_bytes(digest)?.is_some())
    }

    /// The size of the blob in bytes, if it is there. If it is, it stays for as long as this run lives.
    pub fn size_bytes(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest)?;
        // What this run holds stays, also while a prune that began before has it hidden for a moment.
        let held = self.shared.run.holds(Use::blob(digest));
        let read = |connection: &Connection| read_row(connection, digest, held);
        let (size_bytes, used) = loop {
            let prunes = self.shared.prunes.known();
            let Some(found) = self.shared.database.read(read)? else { return Ok(None) };
            let declared = self.shared.run.declare(Use::blob(digest))?;
            if declared == Declared::Before || self.shared.prunes.none_since(prunes)? {
                self.shared.run.confirm(Use::blob(digest));
                break found;
            }
        };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.len() == size_bytes => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path, error)),
        }
        if is_outdated(used) {
            self.shared.database.pending().used_blobs.insert(digest.clone());
        }
        Ok(Some(size_bytes))
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        if digest.algorithm() != "sha256" {
            return Err(StoreError::UnsupportedDigest(digest.clone()));
        }
        Ok(self.shared.blobs_directory().join(digest.hex()))
    }

    /// The blob's file, at its beginning, after its bytes have been verified (once per run).
    pub fn open(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest)?;
        if !self.contains(digest)? {
            return Err(StoreError::NoBlob(digest.clone()));
        }
        let read = |error| StoreError::io("read", &path, error);
        let mut file = File::open(&path).map_err(read)?;
        if self.is_verified(digest) {
            return Ok(file);
        }
        let found = hash(&mut file).map_err(read)?;
        self.check(digest, found)?;
        file.rewind().map_err(read)?;
        Ok(file)
    }

    /// A reader that verifies as it goes: its last read fails if the digest is wrong.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        let path = self.path(digest)?;
        if !self.contains(digest)? {
            return Err(StoreError::NoBlob(digest.clone()));
        }
        let file = File::open(&path).map_err(|error| StoreError::io("open", &path, error))?;
        Ok(BlobReader { blobs: self.clone(), digest: digest.clone(), file, hasher: Some(Hasher::new()) })
    }

    /// The blob's bytes, verified, at most [`BlobStore::MAX_READ_BYTES`].
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let size_bytes = self.size_bytes(digest)?.ok_or_else(|| StoreError::NoBlob(digest.clone()))?;
        let limit_bytes = Self::MAX_READ_BYTES;
        if size_bytes > limit_bytes {
            return Err(StoreError::BlobTooLarge { digest: digest.clone(), size_bytes, limit_bytes });
        }
        let path = self.path(digest)?;
        let bytes = fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
        self.check(digest, Digest::sha256(&bytes))?;
        Ok(bytes)
    }

    /// Begins a blob. With `expected`, [`BlobWriter::finish`] fails unless the bytes have that digest.
    pub fn writer(&self, expected: Option<&Digest>) -> Result<BlobWriter, StoreError> {
        self.new_writer(expected, Some(Hasher::new()))
    }

    /// Begins the blob of `digest` for a caller that verifies the bytes itself, as they arrive, and calls
    /// [`BlobWriter::finish`] only when all of them are written and were right. Hashing them twice would cost a
    /// download a good part of its time.
    pub fn writer_of_verified(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        self.new_writer(Some(digest), None)
    }

    /// Begins a blob for a caller that hashes the bytes itself, as it makes them, and tells what they are in the end
    /// ([`BlobWriter::finish_hashed`]).
    pub fn unhashed_writer(&self) -> Result<BlobWriter, StoreError> {
        self.new_writer(None, None)
    }

    fn new_writer(
        &self,
        expected: Option<&Digest>,
        hasher: Option<Hasher>,
    ) -> Result<BlobWriter, StoreError> {
        if let Some(digest) = expected {
            self.path(digest)?;
        }
        let path = self.shared.run.fresh_path();
        let file = self.shared.disk.create_file(&path)?;
        Ok(BlobWriter {
            blobs: self.clone(),
            expected: expected.cloned(),
            path: Some(path),
            file,
            hasher,
            size_bytes: 0,
        })
    }

    /// Stores `bytes`.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::sha256(bytes);
        if self.contains(&digest)? {
            return Ok(digest);
        }
        let mut writer = self.writer(Some(&digest))?;
        let written = writer.write_all(bytes);
        written.map_err(|error| writer.failed(error))?;
        writer.finish()
    }

    fn is_verified(&self, digest: &Digest) -> bool {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Fails if a blob of the store is not what it should be, and removes it then, so that it can be had anew.
    fn check(&self, expected: &Digest, found: Digest) -> Result<(), StoreError> {
        if found == *expected {
            self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(found);
            return Ok(());
        }
        self.shared.database.write(|transaction| {
            transaction.execute("DELETE FROM blobs WHERE digest = ?1", [expected.as_str()])?;
            Ok(())
        })?;
        Err(StoreError::WrongDigest { expected: expected.clone(), found })
    }

    /// Moves a finished file into place. Prune removes files in transactions, so that it never removes one that
    /// has just been written anew.
    fn publish(&self, digest: &Digest, from: &Path, size_bytes: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let path = self.path(digest)?;
        shared.run.hold(Use::blob(digest))?;
        shared.database.write(|transaction| {
            shared.disk.rename(from, &path)?;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO blobs (digest, size, used, generation, doomed)
                     VALUES (?1, ?2, ?3, (SELECT max(id) FROM generations), 0)",
                )?
                .execute(params![digest.as_str(), size_bytes.cast_signed(), now()])?;
            Ok(())
        })?;
        shared.mark_unsealed();
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone());
        Ok(())
    }
}

/// `held` finds blobs that a prune has hidden, too.
fn read_row(connection: &Connection, digest: &Digest, held: bool) -> rusqlite::Result<Option<(u64, i64)>> {
    connection
        .prepare_cached("SELECT size, used FROM blobs WHERE digest = ?1 AND (doomed = 0 OR ?2)")?
        .query_row(params![digest.as_str(), held], |row| {
            let size: i64 = row.get(0)?;
            Ok((size.cast_unsigned(), row.get(1)?))
        })
        .optional()
}

pub(crate) fn hash(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Writes a blob; nothing is in the store until [`BlobWriter::finish`]. Dropping it discards what was written.
///
/// Not buffered.
pub struct BlobWriter {
    blobs: BlobStore,
    expected: Option<Digest>,
    path: Option<PathBuf>,
    file: File,
    /// `None` where the caller verifies what it writes.
    hasher: Option<Hasher>,
    size_bytes: u64,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl BlobWriter {
    /// The number of bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Verifies the digest and puts the blob into the store.
    pub fn finish(mut self) -> Result<Digest, StoreError> {
        let expected = self.expected.take();
        let found = match self.hasher.take() {
            Some(hasher) => hasher.finish(),
            None => expected.clone().expect("a writer that does not hash is told the digest"),
        };
        if let Some(expected) = expected
            && expected != found
        {
            return Err(StoreError::WrongDigest { expected, found });
        }
        if self.blobs.contains(&found)? {
            return Ok(found);
        }
        if let Some(path) = &self.path {
            self.blobs.publish(&found, path, self.size_bytes)?;
            self.path = None;
        }
        Ok(found)
    }

    /// Puts the blob into the store as `digest`, which is what its bytes were found to have while they were written.
    pub fn finish_hashed(mut self, digest: &Digest) -> Result<Digest, StoreError> {
        self.expected = Some(digest.clone());
        self.finish()
    }

    /// Another handle to the file, to read what has been written so far, also when the blob is finished.
    pub fn reader(&self) -> Result<File, StoreError> {
        let path = self.path.as_deref().unwrap_or(&self.blobs.shared.root);
        self.file.try_clone().map_err(|error| StoreError::io("read", path, error))
    }

    /// The error for a write to this that failed: names the file, and tells a full disk from other failures.
    pub fn failed(&self, error: io::Error) -> StoreError {
        StoreError::io("write", self.path.as_deref().unwrap_or(&self.blobs.shared.root), error)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blobs.shared.disk.step()?;
        let length = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..length]);
        }
        self.size_bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed goes away with the run's directory.
            let _ = self.blobs.shared.disk.remove_file(path);
        }
    }
}

/// Reads a blob and fails at its end if the bytes do not have its digest.
pub struct BlobReader {
    blobs: BlobStore,
    digest: Digest,
    file: File,
    hasher: Option<Hasher>,
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if length > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..length]);
            }
        } else if !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            self.blobs
                .check(&self.digest, hasher.finish())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(length)
    }
}
