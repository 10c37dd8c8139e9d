//! Merging the lower parts of long chains: overlay takes 500 lower directories, so beyond that the bottom of a chain is
//! one directory made of hard links to the files of its snapshots.
//!
//! Merged directories belong to every 256th snapshot of a chain, so that all chains that share a bottom share them,
//! and each is made from the one before. A merged directory is `snapshots/<id>/merged-<number>`, and counts once its row
//! is written: two makers do not disturb each other.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::duplicate::{self, Overlay};
use crate::removal::{entries, remove_tree};
use crate::store::random_u64;
use crate::{Snapshot, Store, StoreError, probe};

const MERGED_EVERY: u32 = 256;

impl Store {
    /// The lower directories of a snapshot's tree, top first.
    pub(crate) fn overlay_dirs(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, StoreError> {
        if let Some(directories) = self.remembered(snapshot) {
            return Ok(directories);
        }
        let directories = self.find_overlay_dirs(snapshot)?;
        self.shared.memory().directories = Some((snapshot.id, directories.clone()));
        Ok(directories)
    }

    /// The same if it, or its parent, is what was last asked for.
    fn remembered(&self, snapshot: &Snapshot) -> Option<Vec<PathBuf>> {
        let mut memory = self.shared.memory();
        let (id, directories) = memory.directories.as_mut()?;
        let grows = snapshot.parent == Some(*id) && snapshot.depth as usize <= Self::MAX_LAYER_DIRECTORIES;
        if *id != snapshot.id && !grows {
            return None;
        }
        if grows {
            *id = snapshot.id;
            directories.insert(0, self.own_dir(&snapshot.id));
        }
        Some(directories.clone())
    }

    fn find_overlay_dirs(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, StoreError> {
        let chain = self.chain(snapshot)?;
        if chain.len() <= Self::MAX_LAYER_DIRECTORIES {
            return Ok(chain.iter().rev().map(|snapshot| self.own_dir(&snapshot.id)).collect());
        }
        let step = MERGED_EVERY as usize;
        let bottom = (chain.len() - 1) / step * step;
        let mut merged: Option<PathBuf> = None;
        for end in (step..=bottom).step_by(step) {
            merged = Some(self.merged(&chain[end - step..end], merged.as_deref())?);
        }
        let above = chain[bottom..].iter().rev().map(|snapshot| self.own_dir(&snapshot.id));
        Ok(above.chain(merged).collect())
    }

    /// The merged directory of `part`, bottom first, on top of the merged directory `below`.
    fn merged(&self, part: &[Snapshot], below: Option<&Path>) -> Result<PathBuf, StoreError> {
        let top = part.last().expect("parts are not empty");
        if let Some(known) = self.shared.memory().merged.get(&top.id) {
            return Ok(known.clone());
        }
        let directory = match self.read_merged(top)? {
            Some(directory) => directory,
            None => self.make_merged(part, top, below)?,
        };
        let path = self.snapshot_directory(top.id).join(directory);
        self.shared.memory().merged.insert(top.id, path.clone());
        Ok(path)
    }

    fn read_merged(&self, top: &Snapshot) -> Result<Option<String>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT directory FROM merged WHERE snapshot = ?1")?
                .query_row([top.id.0], |row| row.get(0))
                .optional()
        })
    }

    fn make_merged(
        &self,
        part: &[Snapshot],
        top: &Snapshot,
        below: Option<&Path>,
    ) -> Result<String, StoreError> {
        let disk = &self.shared.disk;
        let scratch = self.fresh_path();
        disk.create_dir(&scratch, 0o755)?;
        let write = |error| StoreError::io("write", &scratch, error);
        disk.step().map_err(write)?;
        let own: Vec<PathBuf> = part.iter().map(|snapshot| self.own_dir(&snapshot.id)).collect();
        let layers = below.into_iter().chain(own.iter().map(PathBuf::as_path));
        merge(layers, &scratch, probe::uses_user_xattrs(&self.shared.ids)).map_err(write)?;
        let name = format!("merged-{:016x}", random_u64());
        let path = self.snapshot_directory(top.id).join(&name);
        disk.rename(&scratch, &path)?;
        let holds: String = self.shared.database.write(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO merged (snapshot, directory, generation)
                 VALUES (?1, ?2, (SELECT max(id) FROM generations))",
                params![top.id.0, name],
            )?;
            let query = "SELECT directory FROM merged WHERE snapshot = ?1";
            Ok(transaction.query_row(query, [top.id.0], |row| row.get(0))?)
        })?;
        self.shared.mark_unsealed();
        if holds != name {
            disk.remove_tree(&path)?;
        }
        Ok(holds)
    }
}

/// Lays overlay upper directories, bottom first, over each other in the empty directory `target`.
fn merge<'a>(layers: impl Iterator<Item = &'a Path>, target: &Path, user_xattrs: bool) -> io::Result<()> {
    let opaque = if user_xattrs { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    let to = open_directory(CWD, target)?;
    let mut top = None;
    for layer in layers {
        lay(&open_directory(CWD, layer)?, &to, (layer, target), opaque)?;
        top = Some(layer);
    }
    match top {
        Some(top) => duplicate::copy_root_attributes(top, target, Overlay::Yes),
        None => Ok(()),
    }
}

/// Lays one directory over another. The paths are those of the directories.
fn lay(from: &OwnedFd, to: &OwnedFd, (from_path, to_path): (&Path, &Path), opaque: &str) -> io::Result<()> {
    for (name, kind) in entries(from)? {
        let name = name.as_c_str();
        let path = |directory: &Path| directory.join(os_name(name));
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Directory {
            remove_tree(&path(to_path))?;
            if !is_whiteout(kind, &stat) {
                link(from, to, name, &path(from_path), &path(to_path))?;
            }
            continue;
        }
        if hides_below(&path(from_path), opaque)? || !is_directory(to, name)? {
            remove_tree(&path(to_path))?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
        }
        let children = (open_directory(from, name)?, open_directory(to, name)?);
        lay(&children.0, &children.1, (&path(from_path), &path(to_path)), opaque)?;
        duplicate::copy_root_attributes(&path(from_path), &path(to_path), Overlay::Yes)?;
    }
    Ok(())
}

fn link(from: &OwnedFd, to: &OwnedFd, name: &CStr, from_path: &Path, to_path: &Path) -> io::Result<()> {
    match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
        // As many links as the file system allows (65,000 on ext4).
        Err(Errno::MLINK) => duplicate::copy_file(from_path, to_path),
        other => Ok(other?),
    }
}

/// A character device 0/0 (overlayfs documentation of the kernel, "whiteouts and opaque directories").
fn is_whiteout(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::CharacterDevice && stat.st_rdev == 0
}

fn hides_below(directory: &Path, opaque: &str) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::lgetxattr(directory, opaque, &mut value) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_directory(directory: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open_directory<P: rustix::path::Arg>(at: impl AsFd, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn os_name(name: &CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}
