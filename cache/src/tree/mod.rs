//! File trees on disk: host directories and chains of overlay directories, read and written by directory file
//! descriptor, never through a mount and never by a path that a link could redirect.
//!
//! [`TreeView`] merges a chain of directories the way the overlay file system would (whiteouts, opaque
//! directories); [`TreeWriter`] writes the raw upper directory of such a chain. Paths inside a tree are absolute
//! (`/a/b`) bytes; `/` is the root of the tree.

mod attributes;
mod beneath;
mod content;
mod error;
mod merged;
mod overlay;
mod owner;
mod resolve;
mod upper;
mod view;
mod write;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;

pub(crate) use content::next_data;
pub use error::TreeError;
pub(crate) use merged::{Found, Merged};
pub(crate) use overlay::is_hidden_attribute;
pub use resolve::Follow;
pub use view::{Holder, TreeView};
pub use write::{Hashing, Made, TreeWriter};

/// How a directory on disk is to be read as a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeMode {
    /// Which meaning the directory has.
    pub kind: TreeKind,
    /// Where the owners of its entries are found.
    pub owners: OwnerMode,
}

impl TreeMode {
    /// A host directory: nothing in it has a special meaning.
    pub const PLAIN: Self = Self { kind: TreeKind::Plain, owners: OwnerMode::Native };
}

/// Which meaning a directory on disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// A host directory, without whiteouts.
    Plain,
    /// A layer of an overlay chain: character devices 0/0 are whiteouts, an extended attribute marks opaque
    /// directories.
    Overlay {
        /// Whether overlay's attributes are `user.overlay.*` (mounts with `userxattr`) instead of
        /// `trusted.overlay.*`.
        user_xattrs: bool,
    },
}

/// Where the owners of a tree's entries are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerMode {
    /// In the inode.
    Native,
    /// In the extended attribute `user.rbuild.owner` where there is one, because the process has a single id and
    /// cannot change owners. Links, fifos and sockets cannot carry it: they belong to 0:0. A device is an empty
    /// file with that attribute.
    Recorded,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A time as the file system keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, possibly negative.
    pub seconds: i64,
    /// Nanoseconds of that second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What `lstat` says of one entry, with the owners of the tree's [`OwnerMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes of a file or a link's target.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Timestamp,
    /// Time of the last change of the inode; not a property of the tree, useful to tell whether a file changed.
    pub ctime: Timestamp,
    /// Major and minor number of a device, else zeros.
    pub rdev: (u32, u32),
    /// The file system it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// How many names the inode has.
    pub nlink: u32,
}

/// The metadata that a written entry gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits, `0o7777`. Not used for links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change; `None` leaves the present time.
    pub mtime: Option<Timestamp>,
    /// Extended attributes. Those that the file system refuses (`ENOTSUP`, `EPERM`) are left out.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// The metadata of `entry`, with `xattrs`.
    pub fn of(entry: &Entry, xattrs: Vec<(OsString, Vec<u8>)>) -> Self {
        Self { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: Some(entry.mtime), xattrs }
    }
}

/// Where the bytes of a written file come from.
pub enum FileContent<'a> {
    /// All of a file, moved by the cheapest means: reflink, `copy_file_range`, read and write. Holes stay holes.
    Fd(&'a File),
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A stream, to its end.
    Reader(&'a mut dyn Read),
}
