//! Whether overlay can be mounted over the file system of the store.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::disk::Disk;
use crate::{IdMode, StoreError};

/// What a try has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It works.
    Works,
    /// The kernel or the file system refuses it.
    Refused,
    /// This process may not mount anything.
    Unknown,
}

/// Whether overlay keeps its marks in `user.overlay.*`: mounts in a user namespace cannot use `trusted.*`
/// (overlayfs documentation of the kernel, "User xattr").
pub(crate) fn uses_user_xattrs(ids: &IdMode) -> bool {
    *ids != IdMode::Root
}

/// Mounts an overlay in `scratch`, which is made and removed again. The mount is never attached to anything, so that
/// nothing stays mounted whatever happens.
pub(crate) fn overlay(scratch: &Path, ids: &IdMode, disk: &Disk) -> Result<Support, StoreError> {
    for directory in ["", "lower", "upper", "work"] {
        disk.create_dir(&scratch.join(directory), 0o755)?;
    }
    let support = match try_overlay(scratch, uses_user_xattrs(ids)) {
        Ok(()) => Support::Works,
        Err(Errno::PERM | Errno::ACCESS) => Support::Unknown,
        Err(_) => Support::Refused,
    };
    disk.remove_tree(scratch)?;
    Ok(support)
}

fn try_overlay(scratch: &Path, user_xattrs: bool) -> rustix::io::Result<()> {
    mount(scratch, user_xattrs)?;
    // A file system may be good enough to mount and not to hold whiteouts and opaque directories.
    let marked = scratch.join("upper/opaque");
    rustix::fs::mkdir(&marked, Mode::RWXU)?;
    let name = if user_xattrs { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    rustix::fs::setxattr(&marked, name, b"y", XattrFlags::empty())?;
    let whiteout = scratch.join("upper/whiteout");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0)
}

fn mount(scratch: &Path, user_xattrs: bool) -> rustix::io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = &context;
    for (key, directory) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        rustix::mount::fsconfig_set_string(context, key, scratch.join(directory))?;
    }
    for key in ["index", "metacopy", "xino"] {
        rustix::mount::fsconfig_set_string(context, key, "off")?;
    }
    // The kernel refuses both together: `userxattr` has redirects off in a way of its own.
    if user_xattrs {
        rustix::mount::fsconfig_set_flag(context, "userxattr")?;
    } else {
        rustix::mount::fsconfig_set_string(context, "redirect_dir", "off")?;
    }
    rustix::mount::fsconfig_create(context)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}

/// Whether two files in `scratch`, which is made and removed again, can share their bytes on the disk.
pub(crate) fn clones(scratch: &Path, disk: &Disk) -> Result<bool, StoreError> {
    disk.create_dir(scratch, 0o700)?;
    let path = scratch.join("source");
    let source = disk.create_file(&path)?;
    // More than what a file system keeps in the inode itself.
    disk.write_all(&source, &path, &[1; 8192])?;
    let copy = disk.open_or_create(&scratch.join("copy"))?;
    let clones = rustix::fs::ioctl_ficlone(&copy, &source).is_ok();
    disk.remove_tree(scratch)?;
    Ok(clones)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_works_on_the_disk_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = directory.path().join("scratch");
        for ids in [IdMode::Root, IdMode::Single] {
            assert_eq!(overlay(&scratch, &ids, &Disk::default()).unwrap(), Support::Works, "{ids:?}");
            assert!(!scratch.exists());
        }
    }

    #[test]
    fn overlay_is_refused_where_there_is_no_room_for_marks() {
        let scratch = Path::new("/proc/self/none");
        assert!(overlay(scratch, &IdMode::Root, &Disk::default()).is_err());
    }
}
