//! This program's executable in a form that a sandbox cannot write to. An image can name `/proc/self/exe` as its
//! program or interpreter, and so get hold of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::kernel;

const OWN: &str = "/proc/self/exe";

/// How it is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// A read-only mount that is attached nowhere; a copy where that fails.
    Mount,
    /// A sealed copy in memory.
    Copy,
}

/// The executable, prepared once in the life of this process.
pub(crate) fn own(protection: Protection) -> io::Result<BorrowedFd<'static>> {
    static MOUNT: OnceLock<OwnedFd> = OnceLock::new();
    static COPY: OnceLock<OwnedFd> = OnceLock::new();
    if protection == Protection::Mount {
        if let Some(mount) = MOUNT.get() {
            return Ok(mount.as_fd());
        }
        if COPY.get().is_none()
            && let Ok(mount) = read_only_mount()
        {
            return Ok(MOUNT.get_or_init(|| mount).as_fd());
        }
    }
    if let Some(copy) = COPY.get() {
        return Ok(copy.as_fd());
    }
    let copy = sealed(&mut File::open(OWN)?)?;
    Ok(COPY.get_or_init(|| copy).as_fd())
}

fn read_only_mount() -> io::Result<OwnedFd> {
    // By name: the link of /proc leads to a mount of the namespace that this process was started in.
    let path = std::fs::read_link(OWN)?;
    let tree = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let (found, own) = (rustix::fs::fstat(&tree)?, std::fs::metadata(OWN)?);
    #[allow(clippy::unnecessary_cast, reason = "the width differs between architectures")]
    if (found.st_dev as u64, found.st_ino as u64) != (own.dev(), own.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    kernel::restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    Ok(tree)
}

/// A file in memory that can be executed and not be changed.
pub(crate) fn sealed(content: &mut impl io::Read) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // The flag is needed where the kernel makes such files not executable otherwise, and unknown before Linux 6.3.
    let copy = memfd_create("sandbox-init", flags | MemfdFlags::EXEC)
        .or_else(|_| memfd_create("sandbox-init", flags))?;
    let mut to = File::from(copy);
    io::copy(content, &mut to)?;
    // Closed for writing, too: an executable that is open for writing cannot be run.
    let copy = File::open(format!("/proc/self/fd/{}", to.as_raw_fd()))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&to, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_form_can_be_changed() {
        let name = |descriptor: &OwnedFd| format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let mount = read_only_mount().unwrap();
        let refused = rustix::fs::chmod(name(&mount), rustix::fs::Mode::RWXU).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::ROFS);
        let copy = sealed(&mut File::open(OWN).unwrap()).unwrap();
        let seals = rustix::fs::fcntl_get_seals(&copy).unwrap();
        assert!(seals.contains(SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE));
        let own = std::fs::read(OWN).unwrap();
        assert!(std::fs::read(name(&copy)).unwrap() == own);
    }
}
