//! Whether overlay can be mounted over the file system of the store.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::disk::Disk;
use crate::store::random_u64;
use crate::{IdMode, StoreError};

/// What a file system offers to a store.
#[derive(Debug)]
pub struct FileSystemSupport {
    /// Whether overlay can be mounted over it; else what the kernel said.
    pub overlay: Result<(), std::io::Error>,
    /// Whether files can share their bytes and stay apart otherwise (`FICLONE`).
    pub clones: bool,
}

impl FileSystemSupport {
    /// Tries them out in `directory`, in which nothing is left.
    pub fn try_in(directory: &Path, ids: &IdMode) -> Result<Self, StoreError> {
        let disk = Disk::default();
        let scratch = || directory.join(format!(".rbuild-{:016x}", random_u64()));
        let overlay = match overlay(&scratch(), ids, &disk)? {
            Support::Works => Ok(()),
            Support::Refused(error) | Support::Unknown(error) => Err(error.into()),
        };
        Ok(Self { overlay, clones: clones(&scratch(), &disk)? })
    }
}

/// What a try has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It works.
    Works,
    /// The kernel or the file system refuses it.
    Refused(Errno),
    /// This process may not mount anything.
    Unknown(Errno),
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
        Err(error @ (Errno::PERM | Errno::ACCESS)) => Support::Unknown(error),
        Err(error) => Support::Refused(error),
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
    fn a_directory_is_tried_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let support = FileSystemSupport::try_in(directory.path(), &IdMode::Root).unwrap();
        assert!(support.overlay.is_ok(), "{support:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = FileSystemSupport::try_in(Path::new("/proc/self"), &IdMode::Root).unwrap_err();
        assert!(error.to_string().contains("`/proc/self/.rbuild-"), "{error}");
    }

    #[test]
    fn overlay_is_refused_where_there_is_no_room_for_marks() {
        let scratch = Path::new("/proc/self/none");
        assert!(overlay(scratch, &IdMode::Root, &Disk::default()).is_err());
    }
}
