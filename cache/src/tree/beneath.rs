//! Opening directories beneath a directory file descriptor, following no link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Set once the kernel, or a seccomp policy older than the call, has refused `openat2`.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// What every directory is opened with. Not `O_PATH`: attributes are read through the same descriptor.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// By which call a path of several components is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// `openat2` with `RESOLVE_BENEATH` and no links.
    Openat2,
    /// One `openat` with `O_NOFOLLOW` for each component.
    Openat,
}

/// Opens the directory `relative` beneath `root`. A link, or anything else that is no directory, among the
/// components is `ELOOP` or `ENOTDIR`.
pub(super) fn open_directory(root: BorrowedFd<'_>, relative: &Path) -> Result<OwnedFd, Errno> {
    let relative = relative.strip_prefix("/").unwrap_or(relative);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    if REFUSED.load(Ordering::Relaxed) {
        return open_by(Call::Openat, root, relative);
    }
    match open_by(Call::Openat2, root, relative) {
        // Permission may truly be lacking: then the second way says so too.
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = open_by(Call::Openat, root, relative)?;
            REFUSED.store(true, Ordering::Relaxed);
            Ok(fd)
        }
        result => result,
    }
}

fn open_by(call: Call, root: BorrowedFd<'_>, relative: &Path) -> Result<OwnedFd, Errno> {
    match call {
        Call::Openat2 => {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
            loop {
                match rustix::fs::openat2(root, relative, DIRECTORY, Mode::empty(), resolve) {
                    // A rename elsewhere on the way raced with the check.
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    result => return result,
                }
            }
        }
        Call::Openat => {
            let mut at: Option<OwnedFd> = None;
            for component in relative.components() {
                let name = match component {
                    Component::Normal(name) => Path::new(name),
                    Component::CurDir | Component::RootDir => Path::new("."),
                    Component::ParentDir | Component::Prefix(_) => return Err(Errno::XDEV),
                };
                let parent = at.as_ref().map_or(root, AsFd::as_fd);
                let fd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
                at = Some(fd);
            }
            at.ok_or(Errno::NOENT)
        }
    }
}

/// Opens the directory `path` of the host; a link as its last component is followed, because the caller named it.
pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_calls_open_directories_and_refuse_links_and_ways_out() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::fs::write(scratch.path().join("f"), "").unwrap();
        std::os::unix::fs::symlink("a", scratch.path().join("l")).unwrap();
        let root = open_root(scratch.path()).unwrap();
        for call in [Call::Openat2, Call::Openat] {
            let open = |path: &str| open_by(call, root.as_fd(), Path::new(path)).map(|_| ());
            assert_eq!(open("a/b"), Ok(()), "{call:?}");
            assert_eq!(open("."), Ok(()), "{call:?}");
            assert_eq!(open("a/x"), Err(Errno::NOENT), "{call:?}");
            assert_eq!(open("f"), Err(Errno::NOTDIR), "{call:?}");
            assert!(matches!(open("l/b"), Err(Errno::LOOP | Errno::NOTDIR)), "{call:?}");
            assert!(matches!(open("l"), Err(Errno::LOOP | Errno::NOTDIR)), "{call:?}");
            assert_eq!(open("../a"), Err(Errno::XDEV), "{call:?}");
        }
    }
}
