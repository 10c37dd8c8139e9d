//! One directory of a tree: the directories of the chain that together make it.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::beneath::DIRECTORY;
use super::overlay::is_hidden_attribute;
use super::owner::{RecordedOwner, path_of};
use super::{Entry, FileKind, OwnerMode, Timestamp, TreeMode};

/// The directories, top first, that show through at one path; at least one.
#[derive(Debug)]
pub(crate) struct Merged {
    mode: TreeMode,
    levels: Vec<Level>,
}

/// One of the directories.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) fd: OwnedFd,
    /// Which directory of the chain it is in, counted from the top.
    pub(super) number: usize,
}

/// An entry, and in which of the directories it was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    level: usize,
    pub(crate) entry: Entry,
}

impl Merged {
    pub(super) fn new(mode: TreeMode, levels: Vec<Level>) -> Self {
        Self { mode, levels }
    }

    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The directory itself, as an entry.
    pub(crate) fn itself(&self) -> Result<Entry, Errno> {
        let top = self.levels.first().ok_or(Errno::NOENT)?;
        stat(top.fd.as_fd(), OsStr::new(""), self.mode)?.ok_or(Errno::NOENT)
    }

    /// What `name` is; `None` if nothing, or a whiteout.
    pub(crate) fn find(&self, name: &OsStr) -> Result<Option<Found>, Errno> {
        for (level, directory) in self.levels.iter().enumerate() {
            if let Some(entry) = stat(directory.fd.as_fd(), name, self.mode)? {
                let hidden = self.mode.kind.is_whiteout(entry.kind, entry.rdev);
                return Ok((!hidden).then_some(Found { level, entry }));
            }
        }
        Ok(None)
    }

    /// The directory `name`; `None` if there is no directory of that name.
    pub(crate) fn descend(&self, name: &OsStr) -> Result<Option<Self>, Errno> {
        let mut levels = Vec::new();
        for level in &self.levels {
            match rustix::fs::openat(&level.fd, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => {
                    let opaque = self.mode.kind.is_opaque(fd.as_fd())?;
                    levels.push(Level { fd, number: level.number });
                    if opaque {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // Anything that is no directory, a whiteout too, hides what is below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(error),
            }
        }
        Ok((!levels.is_empty()).then_some(Self { mode: self.mode, levels }))
    }

    pub(crate) fn mode(&self) -> TreeMode {
        self.mode
    }

    /// Whether the topmost directory hides what is below it.
    pub(crate) fn is_opaque(&self) -> Result<bool, Errno> {
        self.levels.first().map_or(Ok(false), |top| self.mode.kind.is_opaque(top.fd.as_fd()))
    }

    /// All entries, sorted by the bytes of their names.
    pub(crate) fn list(&self) -> Result<Vec<(OsString, Found)>, Errno> {
        let mut entries = self.list_with_whiteouts()?;
        entries.retain(|(_, found)| !self.mode.kind.is_whiteout(found.entry.kind, found.entry.rdev));
        Ok(entries)
    }

    /// Like [`list`](Self::list), with the whiteouts that hide something further below.
    pub(crate) fn list_with_whiteouts(&self) -> Result<Vec<(OsString, Found)>, Errno> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        for (level, directory) in self.levels.iter().enumerate() {
            let is_last = level + 1 == self.levels.len();
            let fd = directory.fd.as_fd();
            for name in names(fd)? {
                if !seen.is_empty() && seen.contains(&name) {
                    continue;
                }
                // It may have been removed since, in a directory that someone else writes.
                let Some(entry) = stat(fd, &name, self.mode)? else { continue };
                if !is_last {
                    seen.insert(name.clone());
                }
                entries.push((name, Found { level, entry }));
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    /// Opens the file that [`find`](Self::find) or [`list`](Self::list) found. `None` if it is none (any more).
    pub(crate) fn open_file(&self, name: &OsStr, found: Found) -> Result<Option<File>, Errno> {
        if found.entry.kind != FileKind::File {
            return Ok(None);
        }
        open_file_in(self.level(found)?, name)
    }

    pub(crate) fn read_link(&self, name: &OsStr, found: Found) -> Result<PathBuf, Errno> {
        let target = rustix::fs::readlinkat(self.level(found)?, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    pub(crate) fn xattrs(&self, name: &OsStr, found: Found) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
        xattrs(self.level(found)?, name)
    }

    /// One attribute of an entry.
    pub(crate) fn xattr(
        &self,
        name: &OsStr,
        found: Found,
        attribute: &str,
    ) -> Result<Option<Vec<u8>>, Errno> {
        xattr(&path_of(self.level(found)?, name), OsStr::new(attribute))
    }

    /// The extended attributes of the directory itself.
    pub(crate) fn own_xattrs(&self) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
        let top = self.levels.first().ok_or(Errno::NOENT)?;
        xattrs(top.fd.as_fd(), OsStr::new("."))
    }

    fn level(&self, found: Found) -> Result<BorrowedFd<'_>, Errno> {
        self.levels.get(found.level).map(|level| level.fd.as_fd()).ok_or(Errno::NOENT)
    }

    /// The position among the directories of the one that holds `name`, which is known to be there.
    pub(super) fn position(&self, name: &OsStr) -> Result<usize, Errno> {
        // Most trees that are copied from are one directory, which then need not be asked.
        if self.levels.len() == 1 {
            return Ok(0);
        }
        self.find(name)?.map(|found| found.level).ok_or(Errno::NOENT)
    }
}

/// Opens `name` in a directory for reading. `None` if it is no regular file.
pub(super) fn open_file_in(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<File>, Errno> {
    // Without `NONBLOCK`, a fifo that has taken the file's place would block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    let status = rustix::fs::fstat(&fd)?;
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    Ok(is_file.then(|| File::from(fd)))
}

/// The names in a directory, without `.` and `..`, in no order.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(directory)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// What `name` in `directory` is, whiteouts as the devices they are; the directory itself for an empty name.
pub(crate) fn stat(directory: BorrowedFd<'_>, name: &OsStr, mode: TreeMode) -> Result<Option<Entry>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let status = match rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
        Ok(status) => status,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(mut entry) = entry_of(&status) else { return Ok(None) };
    if mode.owners == OwnerMode::Recorded && matches!(entry.kind, FileKind::File | FileKind::Directory) {
        let name = if name.is_empty() { OsStr::new(".") } else { name };
        if let Some(owner) = RecordedOwner::read(directory, name)? {
            (entry.uid, entry.gid) = (owner.uid, owner.gid);
            if let (FileKind::File, Some((kind, rdev))) = (entry.kind, owner.device) {
                (entry.kind, entry.rdev, entry.size) = (kind, rdev, 0);
            }
        }
    }
    Ok(Some(entry))
}

fn entry_of(status: &Statx) -> Option<Entry> {
    let raw_mode = u32::from(status.stx_mode);
    let kind = match FileType::from_raw_mode(raw_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    };
    Some(Entry {
        kind,
        mode: raw_mode & 0o7777,
        uid: status.stx_uid,
        gid: status.stx_gid,
        size: if matches!(kind, FileKind::File | FileKind::Symlink) { status.stx_size } else { 0 },
        mtime: timestamp(status.stx_mtime),
        ctime: timestamp(status.stx_ctime),
        rdev: (status.stx_rdev_major, status.stx_rdev_minor),
        dev: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
        ino: status.stx_ino,
        nlink: status.stx_nlink,
    })
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

pub(super) fn xattrs(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let path = path_of(directory, name);
    let mut list = vec![0_u8; 1024];
    let length = loop {
        match rustix::fs::llistxattr(&path, &mut list[..]) {
            Ok(length) => break length,
            // The kernel's limit is 64 KiB.
            Err(Errno::RANGE) if list.len() < 1 << 16 => list.resize(1 << 16, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    };
    let mut attributes = Vec::new();
    for attribute in list.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        let attribute = OsStr::from_bytes(attribute);
        if attribute.is_empty() || is_hidden_attribute(attribute) {
            continue;
        }
        if let Some(value) = xattr(&path, attribute)? {
            attributes.push((attribute.to_owned(), value));
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn xattr(path: &std::path::Path, attribute: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0_u8; 256];
    loop {
        match rustix::fs::lgetxattr(path, attribute, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
