//! Moving the bytes of a file the cheapest way that is right.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::FileContent;

/// The largest piece that is read at once.
const BUFFER_BYTES: u64 = 256 * 1024;

/// Up to this size a file is simply read and written.
const SMALL_BYTES: usize = 32 * 1024;

/// Whether the file system that is written to can share the extents of what is read. Once it has said no it is not
/// asked again for each file.
#[derive(Debug)]
pub(super) struct Cloning(AtomicBool);

impl Cloning {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    fn is_worth_a_try(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes `out` share all of the extents of `source`, if it can.
    fn clone_whole(&self, out: &File, source: &File) -> bool {
        if !self.is_worth_a_try() {
            return false;
        }
        match rustix::fs::ioctl_ficlone(out, source) {
            Ok(()) => true,
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV) => {
                self.0.store(false, Ordering::Relaxed);
                false
            }
            // The reason lies in this one file.
            Err(_) => false,
        }
    }
}

/// Fills the new, empty file `out`, and hashes what goes into it if there is a `hasher`.
pub(super) fn fill(
    out: &mut File,
    content: FileContent<'_>,
    hasher: Option<&mut blake3::Hasher>,
    cloning: &Cloning,
) -> io::Result<()> {
    match content {
        FileContent::Bytes(bytes) => {
            if let Some(hasher) = hasher {
                hasher.update(bytes);
            }
            out.write_all(bytes)
        }
        FileContent::Reader(reader) => fill_from_reader(out, reader, hasher),
        FileContent::Fd(source) => match hasher {
            None => clone_file(out, source, cloning),
            Some(hasher) => fill_and_hash(out, source, hasher, cloning),
        },
    }
}

fn fill_from_reader(
    out: &mut File,
    reader: &mut dyn Read,
    mut hasher: Option<&mut blake3::Hasher>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..length).unwrap_or_default();
        if let Some(hasher) = hasher.as_deref_mut() {
            hasher.update(piece);
        }
        out.write_all(piece)?;
    }
}

/// Copies a file that one buffer takes, holes and all, and hashes it. Returns false, and nothing is done, if it is
/// larger.
fn fill_and_hash_small(out: &File, source: &File, hasher: &mut blake3::Hasher) -> io::Result<bool> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(SMALL_BYTES, 0);
        let mut filled = 0;
        loop {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(false);
            }
            match source.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let content = buffer.get(..filled).unwrap_or_default();
        hasher.update(content);
        if !content.is_empty() {
            out.write_all_at(content, 0)?;
        }
        Ok(true)
    })
}

thread_local! {
    /// Clearing a new buffer for each small file would take as long as reading it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads all of `source`, since all of it is hashed; writes only what is not a hole.
fn fill_and_hash(
    out: &mut File,
    source: &File,
    hasher: &mut blake3::Hasher,
    cloning: &Cloning,
) -> io::Result<()> {
    if !cloning.is_worth_a_try() && fill_and_hash_small(out, source, hasher)? {
        return Ok(());
    }
    let metadata = source.metadata()?;
    let is_sparse = has_holes(&metadata);
    let shares_extents = metadata.len() > 0 && cloning.clone_whole(out, source);
    let size = metadata.len().clamp(1, BUFFER_BYTES);
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(1) + 1];
    let mut offset = 0;
    loop {
        let length = match source.read_at(&mut buffer, offset) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..length).unwrap_or_default();
        hasher.update(piece);
        let is_hole = is_sparse && piece.iter().all(|byte| *byte == 0);
        if !shares_extents && !is_hole {
            out.write_all_at(piece, offset)?;
        }
        offset += length as u64;
    }
    if shares_extents {
        // What was hashed has to be what landed: a file that grew or shrank in between differs in length.
        if out.metadata()?.len() != offset {
            return Err(io::Error::other("the file changed while it was read"));
        }
    } else if is_sparse {
        out.set_len(offset)?;
    }
    Ok(())
}

fn has_holes(metadata: &std::fs::Metadata) -> bool {
    metadata.blocks() * 512 < metadata.len()
}

fn clone_file(out: &File, source: &File, cloning: &Cloning) -> io::Result<()> {
    let metadata = source.metadata()?;
    if metadata.len() > 0 && cloning.clone_whole(out, source) {
        return Ok(());
    }
    if !has_holes(&metadata) {
        // The pipe inside `copy_file_range` costs more than it saves on a small file.
        let copy = if metadata.len() <= SMALL_BYTES as u64 { copy_by_reading } else { copy_range };
        return copy(out, source, 0, metadata.len()).map(|_| ());
    }
    let length = metadata.len();
    let mut offset = 0;
    while offset < length {
        let (start, end) = next_data(source, offset, length)?;
        offset = copy_range(out, source, start, end)?.max(end);
    }
    out.set_len(length)
}

/// The next stretch of `file` from `offset` on that is not a hole; both ends are `length` if there is none.
/// Moves the file's position.
pub(crate) fn next_data(file: &File, offset: u64, length: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start.min(length),
        Err(Errno::NXIO) => return Ok((length, length)),
        // The file system cannot tell.
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok((offset, length)),
        Err(error) => return Err(error.into()),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(length),
        Err(Errno::NXIO) => length,
        Err(error) => return Err(error.into()),
    };
    Ok((start, end.max(start)))
}

/// Copies `start..end`, or up to the end of `source`; returns where it stopped.
fn copy_range(out: &File, source: &File, start: u64, end: u64) -> io::Result<u64> {
    let mut offset = start;
    while offset < end {
        let (mut from, mut to) = (offset, offset);
        // The kernel takes less than 2 GiB at once.
        let length = usize::try_from((end - offset).min(1 << 30)).unwrap_or(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), out, Some(&mut to), length) {
            Ok(count) if count > 0 => offset += count as u64,
            Err(Errno::INTR) => {}
            // Some file systems (and files of /proc) say zero although there is more to read.
            Ok(_)
            | Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::IO
                | Errno::BADF,
            ) => return copy_by_reading(out, source, offset, end),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(offset)
}

fn copy_by_reading(out: &File, source: &File, start: u64, end: u64) -> io::Result<u64> {
    let mut offset = start;
    let mut buffer = vec![0; usize::try_from((end - start).min(64 * 1024)).unwrap_or(64 * 1024)];
    while offset < end {
        let wanted = usize::try_from((end - offset).min(buffer.len() as u64)).unwrap_or(buffer.len());
        match source.read_at(buffer.get_mut(..wanted).unwrap_or_default(), offset) {
            Ok(0) => break,
            Ok(length) => {
                out.write_all_at(buffer.get(..length).unwrap_or_default(), offset)?;
                offset += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(offset)
}
