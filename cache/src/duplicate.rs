//! Copies of trees on disk with everything that is known of them: for the copy snapshotter, and for the root
//! directories of overlay's upper directories.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::removal::entries;

/// Whether a tree is one of overlay's upper directories, whose own marks are not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// It is.
    Yes,
    /// It is an ordinary tree.
    No,
}

/// Gives a directory that has just been made the mode 0755, whatever the umask is.
pub(crate) fn set_default_mode(directory: &Path) -> io::Result<()> {
    let stat = rustix::fs::stat(directory)?;
    if stat.st_mode & 0o7777 != 0o755 {
        rustix::fs::chmod(directory, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Gives `to`, an empty directory, the owner, mode, times and extended attributes of the directory `from`.
pub(crate) fn copy_root_attributes(from: &Path, to: &Path, overlay: Overlay) -> io::Result<()> {
    let stat = rustix::fs::stat(from)?;
    let own = rustix::fs::stat(to)?;
    if (own.st_uid, own.st_gid) != (stat.st_uid, stat.st_gid) {
        rustix::fs::chown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    copy_xattrs(from, to, overlay)?;
    if own.st_mode & 0o7777 != stat.st_mode & 0o7777 {
        rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    Ok(rustix::fs::utimensat(CWD, to, &times(&stat), AtFlags::empty())?)
}

/// Copies the tree `from` into the empty directory `to`, root directory included: hard links stay hard links, data
/// is reflinked where the file system can.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let open = |path: &Path| rustix::fs::openat(CWD, path, DIRECTORY_FLAGS, Mode::empty());
    let mut copier = Copier { links: HashMap::new(), reflinks: true, target: open(to)? };
    copier.directory(&open(from)?, &open(to)?, Path::new(""))?;
    copy_root_attributes(from, to, Overlay::No)
}

/// Copies one file that is not a directory.
pub(crate) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let parts = |path: &Path| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let directory = rustix::fs::openat(CWD, parent, DIRECTORY_FLAGS, Mode::empty())?;
            Ok((directory, CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?))
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let (from, name) = parts(from)?;
    let (to, _) = parts(to)?;
    let stat = rustix::fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let target = to.try_clone()?;
    Copier { links: HashMap::new(), reflinks: true, target }.leaf(&from, &to, &name, &stat)?;
    attributes((from.as_fd(), to.as_fd()), &name, &stat)
}

const DIRECTORY_FLAGS: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

struct Copier {
    /// Where the first link of a file with several links went, from the root of the copy.
    links: HashMap<(u64, u64), PathBuf>,
    reflinks: bool,
    target: OwnedFd,
}

impl Copier {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path) -> io::Result<()> {
        for (name, kind) in entries(from)? {
            let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = path.join(as_path(&name));
            if kind == FileType::Directory {
                rustix::fs::mkdirat(to, &name, Mode::RWXU)?;
                let child_from = rustix::fs::openat(from, &name, DIRECTORY_FLAGS, Mode::empty())?;
                let child_to = rustix::fs::openat(to, &name, DIRECTORY_FLAGS, Mode::empty())?;
                self.directory(&child_from, &child_to, &path)?;
            } else if self.link(to, &name, &stat, path)? {
                continue;
            } else {
                self.leaf(from, to, &name, &stat)?;
            }
            attributes((from.as_fd(), to.as_fd()), &name, &stat)?;
        }
        Ok(())
    }

    /// Links to the copy of an earlier link of the same file, if there is one.
    fn link(&mut self, to: &OwnedFd, name: &CStr, stat: &Stat, path: PathBuf) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else {
            self.links.insert((stat.st_dev, stat.st_ino), path);
            return Ok(false);
        };
        rustix::fs::linkat(&self.target, first, to, name, AtFlags::empty())?;
        Ok(true)
    }

    fn leaf(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(from, to, name),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                Ok(rustix::fs::symlinkat(&target, to, name)?)
            }
            kind => Ok(rustix::fs::mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut copy = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        if self.reflinks {
            match rustix::fs::ioctl_ficlone(&copy, &source) {
                Ok(()) => return Ok(()),
                // Asked once per tree: a file system either can or cannot.
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
                    self.reflinks = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        io::copy(&mut source, &mut copy)?;
        Ok(())
    }
}

/// Copies owner, extended attributes, mode and times, in this order: a change of the owner clears set-user-ID and
/// capabilities, and everything else changes the times.
fn attributes((from, to): (BorrowedFd<'_>, BorrowedFd<'_>), name: &CStr, stat: &Stat) -> io::Result<()> {
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), no_follow)?;
    // There is no call for the extended attributes of a name in an open directory.
    let in_proc =
        |fd: BorrowedFd<'_>| Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()).join(as_path(name));
    copy_xattrs(&in_proc(from), &in_proc(to), Overlay::No)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, name, &times(stat), no_follow)?)
}

/// Copies the extended attributes of a file or link.
pub(crate) fn copy_xattrs(from: &Path, to: &Path, overlay: Overlay) -> io::Result<()> {
    let names = match read_growing(|buffer| rustix::fs::llistxattr(from, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if overlay == Overlay::Yes && is_overlay_mark(name) {
            continue;
        }
        let value = match read_growing(|buffer| rustix::fs::lgetxattr(from, name, buffer)) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        match rustix::fs::lsetxattr(to, name, &value, XattrFlags::empty()) {
            // A security label is the host's, and a process in a user namespace cannot set it.
            Err(Errno::PERM | Errno::OPNOTSUPP) if is_host_label(name) => {}
            other => other?,
        }
    }
    Ok(())
}

pub(crate) fn is_overlay_mark(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn is_host_label(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
}

/// Reads an attribute or a list of them, of whatever size.
pub(crate) fn read_growing(
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// The times of a file, for utimensat(2).
pub(crate) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn as_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
