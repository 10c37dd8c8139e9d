//! Mount points inside the new root: finding them, and making those that are missing.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};

use crate::wire::Stub;

const MAX_LINKS: u32 = 40;

/// The path with all links followed, clamped at the root; a missing tail is kept as it is. Links are followed as text,
/// never by the kernel, so that the magic ones of `/proc` lead nowhere.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    let mut done = PathBuf::from("/");
    let mut todo: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(name);
        match fs::read_link(&next) {
            Ok(link) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if link.is_absolute() {
                    done = PathBuf::from("/");
                }
                for name in names(&link).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            Err(_) => done = next,
        }
    }
    Ok(done)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// What a mount point is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PointKind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

/// The mount points of a sandbox, and which of them had to be made.
pub(super) struct Points {
    /// The mount that holds the root file system.
    root_mount: u64,
    stubs: Vec<Stub>,
}

impl Points {
    /// Points in the file system that is mounted at `root`, and on what is mounted there later.
    pub(super) fn on(root: &Path) -> io::Result<Self> {
        Ok(Self { root_mount: mount_of(root)?, stubs: Vec::new() })
    }

    /// Makes sure that a mount point is there, and gives its path without links. The directory that something had to
    /// be made in has the time of that from then on, as with other builders: it shows in RUN and to `COPY --from`, and
    /// in no layer, since a directory is not changed by its time alone.
    pub(super) fn ensure(&mut self, path: &Path, kind: PointKind) -> io::Result<PathBuf> {
        let path = canonical(path)?;
        let mut prefix = PathBuf::new();
        for component in path.components() {
            let parent = prefix.clone();
            prefix.push(component);
            if prefix.symlink_metadata().is_ok() {
                continue;
            }
            let is_directory = kind == PointKind::Directory || prefix != path;
            make(&prefix, is_directory)?;
            // One that was made on another mount is of no concern to the root file system, where the same path may
            // well belong to the image.
            if mount_of(&parent)? == self.root_mount {
                self.stubs.push(Stub { path: prefix.clone(), is_directory });
            }
        }
        Ok(path)
    }

    /// Those that had to be made in the root file system, parents before children.
    pub(super) fn into_stubs(self) -> Vec<Stub> {
        self.stubs
    }
}

fn make(path: &Path, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o644))?;
    Ok(())
}

/// The number of the mount that a path is on (Linux 5.8).
fn mount_of(path: &Path) -> io::Result<u64> {
    Ok(statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Makes sure that one of the fixed mount points (`/proc`, `/sys`, `/dev`) is an ordinary directory. Made ones stay in
/// the root file system, as other builders leave them.
pub(super) fn ensure_fixed(path: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_text() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("b/../b/./c", root.join("a")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        assert_eq!(canonical(&root.join("a/d")).unwrap(), root.join("b/c/d"));
        assert_eq!(canonical(Path::new("/../../x")).unwrap(), Path::new("/x"));
        assert_eq!(canonical(&root.join("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn made_points_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let mut points = Points::on(&root).unwrap();
        let made = points.ensure(&root.join("x/y"), PointKind::File).unwrap();
        assert_eq!(made, root.join("x/y"));
        points.ensure(&root.join("x"), PointKind::Directory).unwrap();
        assert_eq!(
            points.into_stubs(),
            [
                Stub { path: root.join("x"), is_directory: true },
                Stub { path: root.join("x/y"), is_directory: false },
            ]
        );
        assert_eq!(fs::metadata(root.join("x/y")).unwrap().len(), 0);
    }

    #[test]
    fn points_on_other_mounts_are_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let mut points = Points { root_mount: mount_of(Path::new("/proc")).unwrap(), stubs: Vec::new() };
        points.ensure(&root.join("x"), PointKind::Directory).unwrap();
        assert!(root.join("x").is_dir() && points.into_stubs().is_empty());
    }
}
