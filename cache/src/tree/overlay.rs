//! What the overlay file system writes into its directories: whiteouts and opaque marks.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::{FileKind, TreeKind};

impl TreeKind {
    /// Whether an entry of this kind and device number only says that there is nothing.
    pub(crate) fn is_whiteout(self, kind: FileKind, rdev: (u32, u32)) -> bool {
        matches!(self, Self::Overlay { .. }) && kind == FileKind::CharDevice && rdev == (0, 0)
    }

    fn opaque_name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Overlay { user_xattrs: true } => Some("user.overlay.opaque"),
            Self::Overlay { user_xattrs: false } => Some("trusted.overlay.opaque"),
        }
    }

    /// Whether the directory hides what is below it.
    pub(super) fn is_opaque(self, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        let Some(name) = self.opaque_name() else { return Ok(false) };
        let mut value = [0_u8; 8];
        match rustix::fs::fgetxattr(directory, name, &mut value[..]) {
            Ok(length) => Ok(value.get(..length) == Some(b"y")),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the directory hide what is below it.
    pub(super) fn set_opaque(self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.opaque_name() {
            None => Ok(()),
            Some(name) => rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty()),
        }
    }
}

/// Makes a whiteout, which needs no privilege even in a user namespace (Linux 5.8).
pub(super) fn make_whiteout(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(0, 0))
}

/// Whether an extended attribute is overlay's or ours, and so no part of the tree.
pub(crate) fn is_hidden_attribute(name: &OsStr) -> bool {
    let name = name.as_bytes();
    [&b"trusted.overlay."[..], b"user.overlay.", b"user.rbuild."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
