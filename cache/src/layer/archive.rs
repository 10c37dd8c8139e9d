//! Unpacking the archives of ADD.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::LayerError;
use super::compression::{Compression, decompress_detected, detect_compression};
use super::member::{BLOCK, Member, MemberKind, Members, canonical, is_header};
use super::unpack::{write_directory, write_entry};
use crate::tree::{Attributes, FileKind, Follow, TreeError, TreeWriter};

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractOptions {
    /// Owner and group of everything, instead of those in the archive.
    pub owner: Option<(u32, u32)>,
    /// Whether the extended attributes in the archive are left out.
    pub without_xattrs: bool,
}

/// Whether `reader` is an archive that ADD unpacks: a tar, compressed or not, with at least one entry.
pub fn is_archive(reader: impl Read + Send) -> bool {
    let Ok(reader) = decompress_detected(reader) else { return false };
    matches!(Members::new(BufReader::new(reader)).next(), Ok(Some(_)))
}

/// How many bytes [`begins_archive`] looks at.
pub const ARCHIVE_START_BYTES: usize = BLOCK;

/// Whether a stream that begins with `start` ([`ARCHIVE_START_BYTES`], or all that there are) is to be unpacked: it is
/// compressed in a way that is known, or begins with the header of a tar's member.
pub fn begins_archive(start: &[u8]) -> bool {
    detect_compression(start) != Compression::None || is_header(start)
}

/// The time of the regular file in an archive that was changed last, in seconds since 1970; `None` if there is none, or
/// if it is no archive that ADD unpacks.
pub fn newest_time(reader: impl Read + Send) -> Option<i64> {
    let reader = decompress_detected(reader).ok()?;
    let mut members = Members::new(BufReader::with_capacity(256 * 1024, reader));
    let mut newest: Option<i64> = None;
    while let Some(member) = members.next().ok()? {
        let time = member.attributes.mtime.map(|time| time.seconds);
        if member.kind == MemberKind::Entry(FileKind::File) {
            newest = newest.max(time);
        }
    }
    newest
}

/// Unpacks an archive (gzip, bzip2, xz, zstd or none, told by its content) below the existing directory
/// `destination` (resolved, canonical).
///
/// Names never lead out of the destination, but links that are on the way are followed inside the tree. What is
/// there already is replaced, save that directories are merged and take the archive's metadata. Devices that the
/// process may not make are left out. [`TreeWriter::finish`] stays to be called.
pub fn extract_archive(
    reader: impl Read + Send,
    writer: &TreeWriter,
    destination: &Path,
    options: &ExtractOptions,
) -> Result<(), LayerError> {
    let reader = decompress_detected(reader).map_err(LayerError::Read)?;
    let mut members = Members::new(BufReader::with_capacity(256 * 1024, reader));
    while let Some(mut member) = members.next()? {
        if let Some((uid, gid)) = options.owner {
            (member.attributes.uid, member.attributes.gid) = (uid, gid);
        }
        if options.without_xattrs {
            member.attributes.xattrs.clear();
        }
        let path = below(destination, &member.path);
        if path != destination {
            // The destination itself keeps its metadata.
            let parent = parent_of(&path, writer, options)?;
            extract(&mut members, writer, (destination, &parent), &member)?;
        }
    }
    // A stream that is damaged behind the last member is damaged too.
    std::io::copy(&mut members.into_inner(), &mut std::io::sink()).map_err(LayerError::Read)?;
    Ok(())
}

fn extract<R: BufRead>(
    members: &mut Members<R>,
    writer: &TreeWriter,
    (destination, parent): (&Path, &Path),
    member: &Member,
) -> Result<(), LayerError> {
    let path = parent.join(member.path.file_name().unwrap_or_default());
    match member.kind {
        MemberKind::Entry(FileKind::Directory) => drop(write_directory(writer, &path, &member.attributes)?),
        MemberKind::Entry(kind) => {
            writer.remove(&path)?;
            write_entry(writer, members, member, (&path, kind))?;
        }
        MemberKind::HardLink => {
            let target = below(destination, &canonical(&member.link));
            let target = writer.view().resolve(&target, Follow::Parents)?;
            if target != path {
                match writer.view().entry(&target)? {
                    Some(entry) if entry.kind != FileKind::Directory => {}
                    _ => return Err(LayerError::LinkTarget { path, target }),
                }
                writer.remove(&path)?;
                writer.hard_link(&target, &path)?;
            }
        }
    }
    Ok(())
}

fn below(destination: &Path, path: &Path) -> PathBuf {
    destination.join(path.strip_prefix("/").unwrap_or(path))
}

/// The parent of `path`, links on the way followed, and made where it is missing.
fn parent_of(path: &Path, writer: &TreeWriter, options: &ExtractOptions) -> Result<PathBuf, LayerError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let resolved = writer.view().resolve(parent, Follow::All)?;
    let mut missing = Vec::new();
    for ancestor in resolved.ancestors() {
        match writer.view().entry(ancestor)? {
            Some(entry) if entry.kind == FileKind::Directory => break,
            Some(_) => return Err(TreeError::NotADirectory(ancestor.to_owned()).into()),
            None => missing.push(ancestor),
        }
    }
    let (uid, gid) = options.owner.unwrap_or((0, 0));
    let implied = Attributes { mode: 0o755, uid, gid, mtime: None, xattrs: Vec::new() };
    for directory in missing.into_iter().rev() {
        writer.make_directory(directory, &implied)?;
    }
    Ok(resolved)
}
