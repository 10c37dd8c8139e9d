//! The write side of a tree.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::attributes::{self, Owners};
use super::beneath::DIRECTORY;
use super::content::{self, Cloning};
use super::merged::names;
use super::overlay::make_whiteout;
use super::owner::path_of;
use super::upper::{Upper, UpperTree};
use super::view::split;
use super::{Attributes, FileContent, FileKind, OwnerMode, TreeError, TreeMode, TreeView};

/// Whether the bytes of a file are hashed while they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// No digest is wanted.
    Skip,
    /// The blake3 digest of the content is wanted.
    Blake3,
}

/// What [`TreeWriter::make_directory`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It made the directory.
    Created,
    /// There was one already, which is left as it was.
    Existed,
}

/// Writes the raw upper directory of a chain. All methods may be called from several threads at once, as long as
/// no two of them write the same path.
///
/// Nothing is ever written through an existing inode: what is in the way is unlinked (a directory with all that is
/// in it), then the new entry is made exclusively. The parent of a written path must exist in the tree as a
/// directory; where it only exists below, it is copied up with its metadata. Times of directories in which
/// something was written are put back by [`finish`](Self::finish), which must be called last.
#[derive(Debug)]
pub struct TreeWriter {
    tree: UpperTree,
    cloning: Cloning,
}

impl TreeWriter {
    /// A writer of `upper` over `lower_dirs` (top first).
    pub fn new(upper: &Path, lower_dirs: &[PathBuf], mode: TreeMode) -> Result<Self, TreeError> {
        let owners = match mode.owners {
            OwnerMode::Native => Owners::Set,
            OwnerMode::Recorded => Owners::Record,
        };
        Ok(Self { tree: UpperTree::open(upper, lower_dirs, mode, owners)?, cloning: Cloning::new() })
    }

    /// A writer of a host directory, which leaves owners alone that the process may not set.
    pub(crate) fn of_host_directory(directory: &Path) -> Result<Self, TreeError> {
        let tree = UpperTree::open(directory, &[], TreeMode::PLAIN, Owners::SetIfAllowed)?;
        Ok(Self { tree, cloning: Cloning::new() })
    }

    /// The merged tree, with what was written so far.
    pub fn view(&self) -> &TreeView {
        self.tree.view()
    }

    /// Makes a directory, replacing anything else that has that name. A directory that exists is left alone.
    pub fn make_directory(&self, path: &Path, attributes: &Attributes) -> Result<Made, TreeError> {
        if self.view().kind(path)? == Some(FileKind::Directory) {
            return Ok(Made::Existed);
        }
        let (parent, name) = self.parent(path)?;
        let fail = |source: Errno| TreeError::io("make the directory", path, source);
        // Held until the attributes are set: a second maker of the same directory waits for them.
        let mut state = self.tree.state();
        let mut replaced = false;
        loop {
            match rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU) {
                Ok(()) => break,
                Err(Errno::EXIST) if self.view().kind(path)? == Some(FileKind::Directory) => {
                    return Ok(Made::Existed);
                }
                Err(Errno::EXIST) => {
                    replaced = true;
                    rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(fail)?;
                }
                Err(error) => return Err(fail(error)),
            }
        }
        let fd = rustix::fs::openat(&parent.fd, name, DIRECTORY, Mode::empty()).map_err(fail)?;
        if replaced && parent.shows_through(name).map_err(fail)? {
            self.mode().kind.set_opaque(fd.as_fd()).map_err(fail)?;
        }
        attributes::set_on_fd(fd.as_fd(), attributes, self.tree.owners()).map_err(fail)?;
        if let Some(mtime) = attributes.mtime {
            state.set_time(path, mtime);
        }
        state.insert(path, Arc::new(Upper { fd, lower: None }));
        self.view().forget(path);
        Ok(Made::Created)
    }

    /// Gives an existing directory new metadata. `xattrs` are added to those it has; `mtime: None` keeps its time.
    pub fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), TreeError> {
        let directory = self.tree.directory(path)?;
        attributes::set_on_fd(directory.fd.as_fd(), attributes, self.tree.owners())
            .map_err(|source| TreeError::io("set the attributes of", path, source))?;
        if let Some(mtime) = attributes.mtime {
            self.tree.state().set_time(path, mtime);
        }
        Ok(())
    }

    /// Writes a regular file. Returns the digest of its bytes if `hashing` asks for it.
    pub fn file(
        &self,
        path: &Path,
        content: FileContent<'_>,
        attributes: &Attributes,
        hashing: Hashing,
    ) -> Result<Option<blake3::Hash>, TreeError> {
        let mut hasher = (hashing == Hashing::Blake3).then(blake3::Hasher::new);
        let fill = |out: &mut File| content::fill(out, content, hasher.as_mut(), &self.cloning);
        self.file_with(path, attributes, fill)?;
        Ok(hasher.map(|hasher| hasher.finalize()))
    }

    /// Writes a regular file whose content `fill` puts into it.
    pub(crate) fn file_with(
        &self,
        path: &Path,
        attributes: &Attributes,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path)?;
        let mut out = self.create(path, &parent, name)?;
        fill(&mut out).map_err(|source| TreeError::io("write", path, source))?;
        attributes::set_on_fd(out.as_fd(), attributes, self.tree.owners())
            .map_err(|source| TreeError::io("set the attributes of", path, source))
    }

    fn create(&self, path: &Path, parent: &Upper, name: &OsStr) -> Result<File, TreeError> {
        // Readable too: a clone of a file's extents is made into it.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&parent.fd, name, flags, Mode::RUSR | Mode::WUSR);
        let fd = self.replacing(path, (parent, name), make);
        fd.map(File::from).map_err(|source| TreeError::io("create", path, source))
    }

    /// Makes `new` another name of `existing`, a file (or other non-directory) of the tree. If that is not in the
    /// upper directory yet, it is copied up first; if the file system allows no more links, `new` is a copy.
    pub fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), TreeError> {
        match self.view().kind(existing)? {
            None => return Err(TreeError::NotFound(existing.to_owned())),
            Some(FileKind::Directory) => return Err(TreeError::NotAFile(existing.to_owned())),
            Some(_) if existing == new => return Ok(()),
            Some(_) => {}
        }
        let (from, from_name) = self.parent(existing)?;
        if !from.contains(from_name).map_err(|source| TreeError::io("stat", existing, source))? {
            self.copy(existing, existing)?;
        }
        if self.link_from(from.fd.as_fd(), from_name, new)? { Ok(()) } else { self.copy(existing, new) }
    }

    /// Makes `new` a link to the inode of `name` in `directory`, which may be anywhere on the same file system.
    /// Returns false, and there is nothing at `new` in the upper directory, where that cannot be (`EXDEV`,
    /// `EMLINK`, `EPERM`).
    pub fn link_from(&self, directory: BorrowedFd<'_>, name: &OsStr, new: &Path) -> Result<bool, TreeError> {
        let (parent, new_name) = self.parent(new)?;
        let make = || rustix::fs::linkat(directory, name, &parent.fd, new_name, AtFlags::empty());
        match self.replacing(new, (&parent, new_name), make) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(TreeError::io("link", new, error)),
        }
    }

    /// Copies a non-directory of the tree with all its metadata.
    fn copy(&self, existing: &Path, new: &Path) -> Result<(), TreeError> {
        let view = self.view();
        let entry = view.entry(existing)?.ok_or_else(|| TreeError::NotFound(existing.to_owned()))?;
        let attributes = Attributes::of(&entry, view.xattrs(existing)?);
        match entry.kind {
            FileKind::File => {
                let file = view.open_file(existing)?;
                self.file(new, FileContent::Fd(&file), &attributes, Hashing::Skip).map(|_| ())
            }
            FileKind::Symlink => self.symlink(new, &view.read_link(existing)?, &attributes),
            FileKind::Directory => Err(TreeError::NotAFile(existing.to_owned())),
            kind => self.special(new, kind, entry.rdev, &attributes),
        }
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, path: &Path, target: &Path, attributes: &Attributes) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path)?;
        let make = || rustix::fs::symlinkat(target, &parent.fd, name);
        let how = (self.tree.owners(), FileKind::Symlink);
        self.replacing(path, (&parent, name), make)
            .and_then(|()| attributes::set_on_name(parent.fd.as_fd(), name, attributes, how))
            .map_err(|source| TreeError::io("make the link", path, source))
    }

    /// Makes a fifo, socket or device (an empty file for any other kind).
    pub fn special(
        &self,
        path: &Path,
        kind: FileKind,
        rdev: (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path)?;
        let fail = |source: Errno| TreeError::io("make the special file", path, source);
        let file_type = match kind {
            FileKind::CharDevice | FileKind::BlockDevice if self.tree.owners() == Owners::Record => {
                let file = self.create(path, &parent, name)?;
                attributes::set_on_fd(file.as_fd(), attributes, Owners::Record).map_err(fail)?;
                return attributes::record_on_fd(file.as_fd(), attributes, Some((kind, rdev))).map_err(fail);
            }
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::File | FileKind::Directory | FileKind::Symlink => FileType::RegularFile,
        };
        let device = rustix::fs::makedev(rdev.0, rdev.1);
        let bits = Mode::RUSR | Mode::WUSR;
        let make = || rustix::fs::mknodat(&parent.fd, name, file_type, bits, device);
        let how = (self.tree.owners(), kind);
        self.replacing(path, (&parent, name), make)
            .and_then(|()| attributes::set_on_name(parent.fd.as_fd(), name, attributes, how))
            .map_err(fail)
    }

    /// Removes what is at `path`, with all below it, leaving a whiteout where a lower directory has that name.
    /// Returns whether there was anything.
    pub fn remove(&self, path: &Path) -> Result<bool, TreeError> {
        if self.view().kind(path)?.is_none() {
            return Ok(false);
        }
        let (parent, name) = self.parent(path)?;
        let fail = |source: Errno| TreeError::io("remove", path, source);
        self.clear(path, &parent, name).map_err(fail)?;
        if parent.shows_through(name).map_err(fail)? {
            make_whiteout(parent.fd.as_fd(), name).map_err(fail)?;
            self.view().forget_all();
        }
        Ok(true)
    }

    /// Hides what is at `path` below the upper directory, not what is in that.
    pub(crate) fn hide_lower(&self, path: &Path) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path)?;
        match make_whiteout(parent.fd.as_fd(), name) {
            Ok(()) => {
                self.view().forget_all();
                Ok(())
            }
            Err(Errno::EXIST) if self.view().kind(path)? == Some(FileKind::Directory) => {
                self.make_opaque(path)
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(TreeError::io("make the whiteout", path, error)),
        }
    }

    /// Hides what the lower directories have in the directory `path`.
    pub(crate) fn make_opaque(&self, path: &Path) -> Result<(), TreeError> {
        let directory = self.tree.directory(path)?;
        let result = self.mode().kind.set_opaque(directory.fd.as_fd());
        self.view().forget_all();
        self.tree.state().forget_below(path);
        result.map_err(|source| TreeError::io("make opaque", path, source))
    }

    /// Puts the times of directories right.
    pub fn finish(&self) -> Result<(), TreeError> {
        self.tree.restore_times()
    }

    pub(crate) fn mode(&self) -> TreeMode {
        self.view().mode()
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(Arc<Upper>, &'p OsStr), TreeError> {
        let (parent, name) = split(path)?.ok_or_else(|| TreeError::NotAFile(path.to_owned()))?;
        Ok((self.tree.directory(parent)?, name))
    }

    /// Makes a new entry, after unlinking what is in the way.
    fn replacing<T>(
        &self,
        path: &Path,
        (parent, name): (&Upper, &OsStr),
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(path, parent, name)?;
                make()
            }
            Ok(entry) => {
                self.view().forget_hidden(path);
                Ok(entry)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what the upper directory has at `path`.
    fn clear(&self, path: &Path, parent: &Upper, name: &OsStr) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                self.view().forget_hidden(path);
                return Ok(());
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        let removed = std::fs::remove_dir_all(path_of(parent.fd.as_fd(), name));
        self.tree.state().forget_tree(path);
        self.view().forget_all();
        removed.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

/// What completing an applied layer needs.
impl TreeWriter {
    /// Whether the upper directory itself has something at `path`.
    pub(crate) fn upper_has(&self, path: &Path) -> Result<bool, TreeError> {
        let (parent, name) = self.parent(path)?;
        parent.contains(name).map_err(|source| TreeError::io("stat", path, source))
    }

    /// Moves all that the upper directory has in the directory `from` into the directory `to`, and removes `from`
    /// from it.
    pub(crate) fn move_contents(&self, from: &Path, to: &Path) -> Result<(), TreeError> {
        let (source, target) = (self.tree.directory(from)?, self.tree.directory(to)?);
        let fail = |error: Errno| TreeError::io("move", from, error);
        for name in names(source.fd.as_fd()).map_err(fail)? {
            let move_it = || renameat_with(&source.fd, &name, &target.fd, &name, RenameFlags::NOREPLACE);
            match move_it() {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let (path, new) = (from.join(&name), to.join(&name));
                    let is_directory = |path: &Path| Ok(self.view().kind(path)? == Some(FileKind::Directory));
                    if is_directory(&path)? && is_directory(&new)? {
                        self.move_contents(&path, &new)?;
                    } else {
                        self.clear(&new, &target, &name).map_err(fail)?;
                        move_it().map_err(fail)?;
                    }
                }
                Err(error) => return Err(fail(error)),
            }
        }
        let (parent, name) = self.parent(from)?;
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR).map_err(fail)?;
        self.tree.state().forget_tree(from);
        self.view().forget_all();
        Ok(())
    }
}
