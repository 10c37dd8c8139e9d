//! Mount points inside the new root: finding them, and making those that are missing.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, open, openat, openat2, statat, statx,
};
use rustix::io::Errno;

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
    root: OwnedFd,
    /// The mount that holds the root file system.
    root_mount: u64,
    stubs: Vec<Stub>,
}

/// A mount point that is there.
pub(super) struct Point {
    /// The file or directory to mount over.
    pub(super) place: OwnedFd,
    /// Its path without links.
    pub(super) path: PathBuf,
}

impl Points {
    /// Points in the file system that is mounted at `root`, and on what is mounted there later.
    pub(super) fn on(root: &Path) -> io::Result<Self> {
        let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root_mount: mount_of(&root)?, root, stubs: Vec::new() })
    }

    /// Makes sure that a mount point is there. The directory that something had to be made in has the time of that from
    /// then on, as with other builders: it shows in RUN and to `COPY --from`, and in no layer, since a directory is not
    /// changed by its time alone.
    ///
    /// Below a directory that others write to at this moment (a shared cache), a part of the path may become a link
    /// after it was looked at: that is an error, as the kernel follows none here.
    pub(super) fn ensure(&mut self, path: &Path, kind: PointKind) -> io::Result<Point> {
        let path = canonical(path)?;
        // As with other runtimes: what is mounted there could make other programs believe anything.
        if path.starts_with("/proc") {
            return Err(Errno::PERM.into());
        }
        let mut place = self.root.try_clone()?;
        let mut prefix = PathBuf::from("/");
        let names = names(&path);
        for (index, name) in names.iter().enumerate() {
            prefix.push(name);
            if let Err(Errno::NOENT) = statat(&place, name, AtFlags::SYMLINK_NOFOLLOW) {
                let is_directory = kind == PointKind::Directory || index + 1 < names.len();
                make(&place, name, is_directory)?;
                // One that was made on another mount is of no concern to the root file system, where the same path may
                // well belong to the image.
                if mount_of(&place)? == self.root_mount {
                    self.stubs.push(Stub { path: prefix.clone(), is_directory });
                }
            }
            place = openat2(
                &place,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )?;
        }
        Ok(Point { place, path })
    }

    /// Those that had to be made in the root file system, parents before children.
    pub(super) fn into_stubs(self) -> Vec<Stub> {
        self.stubs
    }
}

fn make(parent: &OwnedFd, name: &OsStr, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return Ok(mkdirat(parent, name, Mode::from_raw_mode(0o755))?);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
    Ok(())
}

/// The number of the mount that a place is on (Linux 5.8).
fn mount_of(place: impl AsFd) -> io::Result<u64> {
    Ok(statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
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
        let mut points = Points::on(Path::new("/")).unwrap();
        points.root_mount = mount_of(fs::File::open(&root).unwrap()).unwrap();
        let path = root.join("x/y");
        assert_eq!(points.ensure(&path, PointKind::File).unwrap().path, path);
        points.ensure(&root.join("x"), PointKind::Directory).unwrap();
        assert_eq!(
            points.into_stubs(),
            [
                Stub { path: root.join("x"), is_directory: true },
                Stub { path: path.clone(), is_directory: false }
            ]
        );
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
    }

    #[test]
    fn points_on_other_mounts_are_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let mut points = Points::on(Path::new("/")).unwrap();
        points.root_mount = mount_of(fs::File::open("/proc").unwrap()).unwrap();
        points.ensure(&root.join("x"), PointKind::Directory).unwrap();
        assert!(root.join("x").is_dir() && points.into_stubs().is_empty());
    }
}
