//! The owners that a process of a single id cannot set, kept in an extended attribute.
//!
//! The value of `user.rbuild.owner` is text: `UID:GID`, and for a device `UID:GID:c:MAJOR:MINOR` or
//! `UID:GID:b:MAJOR:MINOR` on an empty file that stands for it. All numbers are decimal. The permission bits are
//! those of the inode, which the process may set, so that a later chmod by RUN counts.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::io::Errno;

use super::FileKind;

/// The name of the attribute.
pub(super) const ATTRIBUTE: &str = "user.rbuild.owner";

/// What the attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordedOwner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Kind and number of the device that the file stands for.
    pub(super) device: Option<(FileKind, (u32, u32))>,
}

impl RecordedOwner {
    pub(super) fn encode(&self) -> String {
        let Self { uid, gid, device } = self;
        match device {
            None => format!("{uid}:{gid}"),
            Some((kind, (major, minor))) => {
                let letter = if *kind == FileKind::BlockDevice { 'b' } else { 'c' };
                format!("{uid}:{gid}:{letter}:{major}:{minor}")
            }
        }
    }

    /// `None` for anything but the exact form: RUN may have written it, so it is not trusted to make sense.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let device = match parts.next() {
            None => None,
            Some(letter) => {
                let kind = match letter {
                    "c" => FileKind::CharDevice,
                    "b" => FileKind::BlockDevice,
                    _ => return None,
                };
                Some((kind, (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)))
            }
        };
        parts.next().is_none().then_some(Self { uid, gid, device })
    }

    /// What is recorded for `name` in `directory`.
    pub(super) fn read(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Self>, Errno> {
        let mut value = [0_u8; 64];
        match rustix::fs::lgetxattr(path_of(directory, name), ATTRIBUTE, &mut value[..]) {
            Ok(length) => Ok(Self::decode(value.get(..length).unwrap_or_default())),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A path to `name` in an open directory for the calls that know no `…at` form. They must not follow links.
pub(super) fn path_of(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    PathBuf::from(OsStr::from_bytes(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_survive_their_text_form() {
        let plain = RecordedOwner { uid: 1000, gid: 0, device: None };
        assert_eq!(plain.encode(), "1000:0");
        assert_eq!(RecordedOwner::decode(b"1000:0"), Some(plain));
        let device = RecordedOwner { uid: 0, gid: 6, device: Some((FileKind::BlockDevice, (8, 1))) };
        assert_eq!(device.encode(), "0:6:b:8:1");
        assert_eq!(RecordedOwner::decode(b"0:6:b:8:1"), Some(device));
    }

    #[test]
    fn nonsense_is_no_owner() {
        for value in ["", "1", "1:", "1:2:", "1:2:x:1:2", "1:2:c:1", "1:2:c:1:2:3", "-1:2", "4294967296:0"] {
            assert_eq!(RecordedOwner::decode(value.as_bytes()), None, "{value}");
        }
    }
}
