//! The directories of an upper directory: opened once, copied up when they only exist below, given their times
//! back at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, StatxFlags};
use rustix::io::Errno;

use super::attributes::{self, Owners};
use super::beneath::{self, DIRECTORY};
use super::merged::{Merged, stat};
use super::view::split;
use super::{Attributes, FileKind, Timestamp, TreeError, TreeMode, TreeView};

/// How many directories are kept open.
const MAXIMUM_OPEN: usize = 128;

/// One directory of the upper directory.
#[derive(Debug)]
pub(super) struct Upper {
    pub(super) fd: OwnedFd,
    /// What shows through from below; `None` if nothing.
    pub(super) lower: Option<Arc<Merged>>,
}

impl Upper {
    /// Whether the lower directories have `name` here.
    pub(super) fn shows_through(&self, name: &OsStr) -> Result<bool, Errno> {
        self.lower.as_ref().map_or(Ok(false), |lower| Ok(lower.find(name)?.is_some()))
    }

    /// Whether the upper directory itself has `name`, if only as a whiteout.
    pub(super) fn contains(&self, name: &OsStr) -> Result<bool, Errno> {
        match rustix::fs::statx(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An upper directory over lower ones.
#[derive(Debug)]
pub(super) struct UpperTree {
    owners: Owners,
    view: TreeView,
    root: Arc<Upper>,
    state: Mutex<State>,
}

/// What is known about directories of the upper directory.
#[derive(Debug, Default)]
pub(super) struct State {
    open: HashMap<PathBuf, Arc<Upper>>,
    /// The times that directories have at the end.
    times: HashMap<PathBuf, Timestamp>,
}

impl State {
    pub(super) fn set_time(&mut self, path: &Path, time: Timestamp) {
        self.times.insert(path.to_owned(), time);
    }

    pub(super) fn insert(&mut self, path: &Path, directory: Arc<Upper>) {
        if self.open.len() >= MAXIMUM_OPEN {
            self.open.clear();
        }
        self.open.insert(path.to_owned(), directory);
    }

    /// The directory `path` was removed.
    pub(super) fn forget_tree(&mut self, path: &Path) {
        self.open.retain(|directory, _| !directory.starts_with(path));
        self.times.retain(|directory, _| !directory.starts_with(path));
    }

    /// What shows through in the directory `path` has changed.
    pub(super) fn forget_below(&mut self, path: &Path) {
        self.open.retain(|directory, _| !directory.starts_with(path));
    }
}

impl UpperTree {
    pub(super) fn open(
        upper: &Path,
        lower_dirs: &[PathBuf],
        mode: TreeMode,
        owners: Owners,
    ) -> Result<Self, TreeError> {
        let fd = beneath::open_root(upper).map_err(|source| TreeError::io("open", upper, source))?;
        let is_opaque = mode.kind.is_opaque(fd.as_fd());
        let is_opaque = is_opaque.map_err(|source| TreeError::io("read an attribute of", upper, source))?;
        let has_lower = !lower_dirs.is_empty() && !is_opaque;
        let lower = if has_lower { Some(TreeView::open(lower_dirs, mode)?) } else { None };
        let chain: Vec<_> = std::iter::once(upper.to_owned()).chain(lower_dirs.iter().cloned()).collect();
        let view = TreeView::open(&chain, mode)?;
        let mut state = State::default();
        if let Some(root) = view.entry(Path::new("/"))? {
            state.set_time(Path::new("/"), root.mtime);
        }
        let root = Arc::new(Upper { fd, lower: lower.map(|lower| lower.root().clone()) });
        Ok(Self { owners, view, root, state: Mutex::new(state) })
    }

    pub(super) fn owners(&self) -> Owners {
        self.owners
    }

    pub(super) fn view(&self) -> &TreeView {
        &self.view
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory `path` of the upper directory, copied up if it only exists below.
    pub(super) fn directory(&self, path: &Path) -> Result<Arc<Upper>, TreeError> {
        if split(path)?.is_none() {
            return Ok(self.root.clone());
        }
        // Held while directories are opened and copied up, so that two threads never copy up the same one.
        let mut state = self.state();
        if let Some(directory) = state.open.get(path) {
            return Ok(directory.clone());
        }
        let known = path.ancestors().find(|ancestor| state.open.contains_key(*ancestor));
        let mut at = known.unwrap_or(Path::new("/")).to_owned();
        let mut directory = state.open.get(&at).unwrap_or(&self.root).clone();
        let rest = path.strip_prefix(&at).unwrap_or(path).to_owned();
        for name in &rest {
            at.push(name);
            directory = self.open_child(&mut state, &directory, &at, name)?;
        }
        Ok(directory)
    }

    fn open_child(
        &self,
        state: &mut State,
        parent: &Upper,
        path: &Path,
        name: &OsStr,
    ) -> Result<Arc<Upper>, TreeError> {
        let fail = |source: Errno| TreeError::io("open the directory", path, source);
        let mode = self.view.mode();
        let fd = match rustix::fs::openat(&parent.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.copy_up(state, parent, path, name)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let entry = stat(parent.fd.as_fd(), name, mode).map_err(fail)?;
                let is_whiteout = entry.is_none_or(|entry| mode.kind.is_whiteout(entry.kind, entry.rdev));
                let path = path.to_owned();
                return Err(if is_whiteout {
                    TreeError::NotFound(path)
                } else {
                    TreeError::NotADirectory(path)
                });
            }
            Err(error) => return Err(fail(error)),
        };
        if !state.times.contains_key(path)
            && let Some(entry) = stat(fd.as_fd(), OsStr::new(""), TreeMode::PLAIN).map_err(fail)?
        {
            state.set_time(path, entry.mtime);
        }
        let lower = match &parent.lower {
            Some(lower) if !mode.kind.is_opaque(fd.as_fd()).map_err(fail)? => {
                lower.descend(name).map_err(fail)?.map(Arc::new)
            }
            _ => None,
        };
        let directory = Arc::new(Upper { fd, lower });
        state.insert(path, directory.clone());
        Ok(directory)
    }

    fn copy_up(
        &self,
        state: &mut State,
        parent: &Upper,
        path: &Path,
        name: &OsStr,
    ) -> Result<OwnedFd, TreeError> {
        let fail = |source: Errno| TreeError::io("copy up the directory", path, source);
        let lower = parent.lower.as_ref().ok_or_else(|| TreeError::NotFound(path.to_owned()))?;
        let found = lower.find(name).map_err(fail)?.ok_or_else(|| TreeError::NotFound(path.to_owned()))?;
        if found.entry.kind != FileKind::Directory {
            return Err(TreeError::NotADirectory(path.to_owned()));
        }
        let attributes = Attributes::of(&found.entry, lower.xattrs(name, found).map_err(fail)?);
        rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU).map_err(fail)?;
        let fd = rustix::fs::openat(&parent.fd, name, DIRECTORY, Mode::empty()).map_err(fail)?;
        attributes::set_on_fd(fd.as_fd(), &attributes, self.owners).map_err(fail)?;
        state.set_time(path, found.entry.mtime);
        self.view.forget(path);
        Ok(fd)
    }

    /// Sets the time of every directory that something was written in.
    pub(super) fn restore_times(&self) -> Result<(), TreeError> {
        let state = self.state();
        for (path, time) in &state.times {
            let fail = |source: Errno| TreeError::io("set the time of", path, source);
            if let Some(directory) = state.open.get(path) {
                attributes::set_time_on_fd(directory.fd.as_fd(), *time).map_err(fail)?;
                continue;
            }
            match beneath::open_directory(self.root.fd.as_fd(), path) {
                Ok(fd) => attributes::set_time_on_fd(fd.as_fd(), *time).map_err(fail)?,
                // It was replaced by something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }
}
