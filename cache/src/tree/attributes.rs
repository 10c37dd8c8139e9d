//! Giving entries their metadata.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::owner::{ATTRIBUTE, RecordedOwner, path_of};
use super::{Attributes, FileKind, Timestamp};

/// How a writer treats owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// They are set.
    Set,
    /// They are set where the process may; elsewhere the bits that would act for the owner are dropped.
    SetIfAllowed,
    /// They are recorded in an attribute.
    Record,
}

/// Sets everything on an open file or directory. The mode comes after the owner, and the attributes after both:
/// the kernel drops setuid bits and capabilities when an owner changes.
pub(super) fn set_on_fd(fd: BorrowedFd<'_>, attributes: &Attributes, owners: Owners) -> Result<(), Errno> {
    let mut mode = attributes.mode;
    let (user, group) = ids(attributes)?;
    match owners {
        Owners::Set => rustix::fs::fchown(fd, user, group)?,
        Owners::SetIfAllowed => match rustix::fs::fchown(fd, user, group) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::INVAL) => mode &= 0o1777,
            Err(error) => return Err(error),
        },
        Owners::Record => record_on_fd(fd, attributes, None)?,
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    for (name, value) in &attributes.xattrs {
        tolerate(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    }
    match attributes.mtime {
        Some(mtime) => set_time_on_fd(fd, mtime),
        None => Ok(()),
    }
}

/// Records owner and device in place of the real ones.
pub(super) fn record_on_fd(
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
    device: Option<(FileKind, (u32, u32))>,
) -> Result<(), Errno> {
    let owner = RecordedOwner { uid: attributes.uid, gid: attributes.gid, device };
    if owner == (RecordedOwner { uid: 0, gid: 0, device: None }) {
        return match rustix::fs::fremovexattr(fd, ATTRIBUTE) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error),
        };
    }
    rustix::fs::fsetxattr(fd, ATTRIBUTE, owner.encode().as_bytes(), XattrFlags::empty())
}

/// Sets everything on `name`, a link, fifo, socket or device that was just made.
pub(super) fn set_on_name(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    attributes: &Attributes,
    (owners, kind): (Owners, FileKind),
) -> Result<(), Errno> {
    let mut mode = attributes.mode;
    let (user, group) = ids(attributes)?;
    match owners {
        Owners::Set => rustix::fs::chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?,
        Owners::SetIfAllowed => {
            match rustix::fs::chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::INVAL) => mode &= 0o1777,
                Err(error) => return Err(error),
            }
        }
        Owners::Record => {}
    }
    if kind != FileKind::Symlink {
        rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    for (attribute, value) in &attributes.xattrs {
        let path = path_of(directory, name);
        tolerate(rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty()))?;
    }
    match attributes.mtime {
        Some(mtime) => rustix::fs::utimensat(directory, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW),
        None => Ok(()),
    }
}

pub(super) fn set_time_on_fd(fd: BorrowedFd<'_>, mtime: Timestamp) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &timestamps(mtime))
}

fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// The last number is no owner: it is chown's word for "leave as it is".
fn ids(attributes: &Attributes) -> Result<(Option<Uid>, Option<Gid>), Errno> {
    if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid))))
}

fn timestamps(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
