//! Putting one member of an archive into a tree: what layers and ADD's archives have in common.

use std::fs::File;
use std::io::{self, BufRead, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::LayerError;
use super::member::{Member, Members};
use crate::tree::{Attributes, FileKind, Made, TreeError, TreeWriter};

/// Writes a member that is neither a directory nor a hard link to `path`, whose parent exists. Returns false for a
/// device that the process may not make.
pub(super) fn write_entry<R: BufRead>(
    writer: &TreeWriter,
    members: &mut Members<R>,
    member: &Member,
    (path, kind): (&Path, FileKind),
) -> Result<bool, LayerError> {
    let attributes = &member.attributes;
    match kind {
        FileKind::File => write_file(writer, members, member, path)?,
        FileKind::Symlink => writer.symlink(path, &member.link, attributes)?,
        FileKind::CharDevice | FileKind::BlockDevice => {
            return match writer.special(path, kind, member.rdev, attributes) {
                Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    Ok(false)
                }
                result => Ok(result.map(|()| true)?),
            };
        }
        FileKind::Fifo | FileKind::Socket => writer.special(path, kind, (0, 0), attributes)?,
        FileKind::Directory => drop(write_directory(writer, path, attributes)?),
    }
    Ok(true)
}

/// Makes the directory `path`, or gives the one that is there new metadata.
pub(super) fn write_directory(
    writer: &TreeWriter,
    path: &Path,
    attributes: &Attributes,
) -> Result<Made, LayerError> {
    let made = writer.make_directory(path, attributes)?;
    if made == Made::Existed {
        writer.set_attributes(path, attributes)?;
    }
    Ok(made)
}

/// A stream that ends too early is an error of the archive, not of the file that is written from it.
fn write_file<R: BufRead>(
    writer: &TreeWriter,
    members: &mut Members<R>,
    member: &Member,
    path: &Path,
) -> Result<(), LayerError> {
    let mut read_error = None;
    let written = writer.file_with(path, &member.attributes, |file| match &member.sparse {
        None => copy_content(members, u64::MAX, file, &mut read_error),
        Some(map) => {
            for (offset, length) in map {
                file.seek(SeekFrom::Start(*offset))?;
                copy_content(members, *length, file, &mut read_error)?;
            }
            file.set_len(member.size)
        }
    });
    match read_error {
        Some(error) => Err(LayerError::Read(error)),
        None => Ok(written?),
    }
}

fn copy_content<R: BufRead>(
    members: &mut Members<R>,
    mut limit: u64,
    file: &mut File,
    read_error: &mut Option<io::Error>,
) -> io::Result<()> {
    let mut write_error = None;
    while limit > 0 {
        let moved = members.with_content(limit, |bytes| {
            file.write_all(bytes).map_err(|error| {
                let kind = error.kind();
                write_error = Some(error);
                kind.into()
            })
        });
        match (moved, write_error.take()) {
            (_, Some(error)) => return Err(error),
            (Ok(0), None) => break,
            (Ok(length), None) => limit -= length,
            (Err(error), None) => {
                let kind = error.kind();
                *read_error = Some(error);
                return Err(kind.into());
            }
        }
    }
    Ok(())
}
