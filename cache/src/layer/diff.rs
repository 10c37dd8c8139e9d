//! Writing the difference between two trees as a layer.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use rustix::io::Errno;

use super::LayerError;
use super::apply::WHITEOUT;
use super::export::FileTimes;
use super::tar_writer::{MemberHeader, TarKind, TarWriter};
use crate::tree::{Entry, FileKind, Found, Merged, TreeError, TreeMode, TreeView, next_data};

/// What a layer is made from.
#[derive(Debug, Clone)]
pub enum LayerSource {
    /// An overlay upper directory over its lower ones.
    Overlay {
        /// The upper directory.
        upper: PathBuf,
        /// Those below, top first.
        lower_dirs: Vec<PathBuf>,
        /// How they are read.
        mode: TreeMode,
    },
    /// Two full trees, compared with each other.
    Trees {
        /// The directories of the tree before, top first; none for an empty one.
        old: Vec<PathBuf>,
        /// Those of the tree after.
        new: Vec<PathBuf>,
        /// How they are read.
        mode: TreeMode,
    },
}

/// Writes `source` as a deterministic uncompressed layer archive.
///
/// In the order of names, with the parents of what changed: whatever differs from what is below in type, mode,
/// owner, capabilities, time or content (for a directory, time aside). An old name that is gone is a whiteout of
/// its own; there are no opaque markers. Of several names of one inode the first is the file and the others hard
/// links, if they are all in the layer. Sockets are left out, times are whole seconds, and of the extended
/// attributes only `security.capability` is kept.
pub fn write_layer(source: &LayerSource, out: impl Write) -> Result<(), LayerError> {
    let mut writer = DifferenceWriter::new(out);
    match source {
        LayerSource::Overlay { upper, lower_dirs, mode } => {
            let new = TreeView::open(std::slice::from_ref(upper), *mode)?;
            let old = if lower_dirs.is_empty() { None } else { Some(TreeView::open(lower_dirs, *mode)?) };
            let hides = new.root().is_opaque().map_err(|source| TreeError::io("stat", upper, source))?;
            let hides = if hides { Lower::Hidden } else { Lower::ShowsThrough };
            writer.directory(new.root(), old.as_ref().map(|old| &**old.root()), hides)?;
        }
        LayerSource::Trees { old, new, mode } => {
            let new = TreeView::open(new, *mode)?;
            let old = if old.is_empty() { None } else { Some(TreeView::open(old, *mode)?) };
            writer.directory(new.root(), old.as_ref().map(|old| &**old.root()), Lower::Hidden)?;
        }
    }
    writer.finish()
}

/// Whether old names that the new directory lacks are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lower {
    /// They are still there.
    ShowsThrough,
    /// They are gone: the directory is opaque, or below one that is, or a full tree.
    Hidden,
}

/// Writes what is new.
struct DifferenceWriter<W: Write> {
    tar: TarWriter<W>,
    path: PathBuf,
    /// The directories on the way to `path`, with whether they are written already.
    parents: Vec<(PathBuf, Entry, bool)>,
    /// The name that an inode with several names was first written under.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> DifferenceWriter<W> {
    fn new(out: W) -> Self {
        let (parents, links) = (Vec::new(), HashMap::new());
        Self { tar: TarWriter::new(out), path: PathBuf::from("/"), parents, links }
    }

    fn finish(self) -> Result<(), LayerError> {
        self.tar.finish().map_err(LayerError::Write)
    }

    /// Writes what in `new` differs from `old`. The root itself is in no layer.
    fn directory(&mut self, new: &Merged, old: Option<&Merged>, lower: Lower) -> Result<(), LayerError> {
        let entries = new.list_with_whiteouts().map_err(|source| self.tree("list", source))?;
        let gone = match old {
            Some(old) if lower == Lower::Hidden => {
                let names: HashSet<&OsStr> = entries.iter().map(|(name, _)| name.as_os_str()).collect();
                let mut gone = old.list().map_err(|source| self.tree("list", source))?;
                gone.retain(|(name, _)| !names.contains(name.as_os_str()));
                gone
            }
            _ => Vec::new(),
        };
        // A file that is named like a whiteout (from an archive of ADD) stands for the whiteout itself.
        let is_written = |name: &OsStr| {
            let whiteout = whiteout_name(name);
            entries.binary_search_by(|(known, _)| known.as_os_str().cmp(&whiteout)).is_ok()
        };
        let mut gone = gone.into_iter().map(|(name, _)| name).filter(|name| !is_written(name)).peekable();
        for (name, found) in &entries {
            while let Some(gone) = gone.next_if(|gone| gone < name) {
                self.whiteout(&gone)?;
            }
            let is_whiteout = new.mode().kind.is_whiteout(found.entry.kind, found.entry.rdev);
            let old_found = match old {
                Some(old) => old.find(name).map_err(|source| self.tree("stat", source))?,
                None => None,
            };
            match (is_whiteout, old_found) {
                (true, Some(_)) if !is_written(name) => self.whiteout(name)?,
                (true, _) => {}
                (false, old_found) => {
                    self.path.push(name);
                    let old = old.zip(old_found);
                    self.entry((new, name, *found), old, lower)?;
                    self.path.pop();
                }
            }
        }
        gone.try_for_each(|gone| self.whiteout(&gone))
    }

    fn entry(
        &mut self,
        (new, name, found): (&Merged, &OsStr, Found),
        old: Option<(&Merged, Found)>,
        lower: Lower,
    ) -> Result<(), LayerError> {
        let same = match old {
            Some((old, old_found)) => is_same((new, found), (old, old_found), name)
                .map_err(|source| self.tree("compare", source))?,
            None => false,
        };
        if found.entry.kind != FileKind::Directory {
            return if same { Ok(()) } else { self.file(new, name, found) };
        }
        let fail = |source| TreeError::io("open", &self.path, source);
        let Some(new_child) = new.descend(name).map_err(fail)? else { return Ok(()) };
        let old_child = match old {
            Some((old, old_found)) if old_found.entry.kind == FileKind::Directory => {
                old.descend(name).map_err(fail)?
            }
            _ => None,
        };
        let lower = if new_child.is_opaque().map_err(fail)? { Lower::Hidden } else { lower };
        self.parents.push((self.path.clone(), found.entry, false));
        if !same {
            self.write_parents()?;
        }
        self.directory(&new_child, old_child.as_ref(), lower)?;
        self.parents.pop();
        Ok(())
    }

    fn file(&mut self, new: &Merged, name: &OsStr, found: Found) -> Result<(), LayerError> {
        let Found { entry, .. } = found;
        if entry.kind == FileKind::Socket {
            return Ok(());
        }
        self.write_parents()?;
        let path = self.path.clone();
        if entry.nlink > 1 {
            match self.links.entry((entry.dev, entry.ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    let header = MemberHeader::of(&path, &entry, TarKind::HardLink { target: first.get() });
                    return self.tar.header(&header).map_err(LayerError::Write);
                }
                std::collections::hash_map::Entry::Vacant(vacant) => drop(vacant.insert(path.clone())),
            }
        }
        match entry.kind {
            FileKind::File => self.regular_file(new, name, found),
            FileKind::Symlink => {
                let target =
                    new.read_link(name, found).map_err(|source| self.tree("read the link", source))?;
                let kind = TarKind::Symlink { target: target.as_os_str() };
                self.tar.header(&MemberHeader::of(&path, &entry, kind)).map_err(LayerError::Write)
            }
            _ => match TarKind::simple(&entry) {
                Some(kind) => {
                    self.tar.header(&MemberHeader::of(&path, &entry, kind)).map_err(LayerError::Write)
                }
                None => Ok(()),
            },
        }
    }

    fn regular_file(&mut self, new: &Merged, name: &OsStr, found: Found) -> Result<(), LayerError> {
        let file = new.open_file(name, found).map_err(|source| self.tree("open", source))?;
        let file = file.ok_or_else(|| TreeError::NotAFile(self.path.clone()))?;
        let capability = new.xattr(name, found, CAPABILITY).map_err(|source| self.tree("read", source))?;
        let metadata = file.metadata().map_err(|source| self.tree("stat", source))?;
        let size = metadata.len();
        let header = MemberHeader {
            capability: capability.as_deref(),
            ..MemberHeader::of(&self.path, &found.entry, TarKind::File { size })
        };
        self.tar.header(&header).map_err(LayerError::Write)?;
        let mut offset = 0;
        let is_sparse = metadata.blocks() * 512 < size;
        while offset < size {
            let data = if is_sparse { next_data(&file, offset, size) } else { Ok((offset, size)) };
            let (start, end) = data.map_err(|source| self.tree("read", source))?;
            self.tar.zeros(start - offset).map_err(LayerError::Write)?;
            self.copy(&file, start, end)?;
            offset = end;
        }
        self.tar.padding(size).map_err(LayerError::Write)
    }

    fn copy(&mut self, file: &File, start: u64, end: u64) -> Result<(), LayerError> {
        let mut offset = start;
        let mut buffer = vec![0; usize::try_from((end - start).min(256 * 1024)).unwrap_or(256 * 1024)];
        while offset < end {
            let wanted = usize::try_from((end - offset).min(buffer.len() as u64)).unwrap_or(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            file.read_exact_at(piece, offset).map_err(|source| self.tree("read", source))?;
            self.tar.content(piece).map_err(LayerError::Write)?;
            offset += wanted as u64;
        }
        Ok(())
    }

    fn whiteout(&mut self, name: &OsStr) -> Result<(), LayerError> {
        self.write_parents()?;
        let path = self.path.join(whiteout_name(name));
        self.tar.header(&MemberHeader::empty(&path)).map_err(LayerError::Write)
    }

    fn write_parents(&mut self) -> Result<(), LayerError> {
        for (path, entry, is_written) in &mut self.parents {
            if !*is_written {
                let header = MemberHeader::of(path, entry, TarKind::Directory);
                self.tar.header(&header).map_err(LayerError::Write)?;
                *is_written = true;
            }
        }
        Ok(())
    }

    fn tree(&self, operation: &'static str, source: impl Into<std::io::Error>) -> LayerError {
        LayerError::Tree(TreeError::io(operation, &self.path, source))
    }
}

const CAPABILITY: &str = "security.capability";

fn whiteout_name(name: &OsStr) -> OsString {
    let mut whiteout = OsStr::from_bytes(WHITEOUT).to_owned();
    whiteout.push(name);
    whiteout
}

/// Whether an entry is what it was. A time that has no fraction in one of the two has come through an archive, and
/// is compared in whole seconds.
fn is_same(
    (new, new_found): (&Merged, Found),
    (old, old_found): (&Merged, Found),
    name: &OsStr,
) -> Result<bool, std::io::Error> {
    let (a, b) = (&new_found.entry, &old_found.entry);
    if (a.dev, a.ino) == (b.dev, b.ino) {
        return Ok(true);
    }
    if (a.kind, a.mode, a.uid, a.gid, a.rdev) != (b.kind, b.mode, b.uid, b.gid, b.rdev) {
        return Ok(false);
    }
    if a.kind == FileKind::Directory {
        return Ok(true);
    }
    let (seconds, fraction) = (a.mtime.seconds, a.mtime.nanoseconds);
    let is_cut = fraction == 0 || b.mtime.nanoseconds == 0;
    if a.size != b.size || seconds != b.mtime.seconds || (!is_cut && fraction != b.mtime.nanoseconds) {
        return Ok(false);
    }
    if a.kind == FileKind::Symlink {
        return Ok(new.read_link(name, new_found)? == old.read_link(name, old_found)?);
    }
    if a.kind != FileKind::File {
        return Ok(true);
    }
    if new.xattr(name, new_found, CAPABILITY)? != old.xattr(name, old_found, CAPABILITY)? {
        return Ok(false);
    }
    let files = new.open_file(name, new_found)?.zip(old.open_file(name, old_found)?);
    let (new, old) = files.ok_or(Errno::STALE)?;
    has_same_content(&new, &old, a.size)
}

fn has_same_content(a: &File, b: &File, size: u64) -> std::io::Result<bool> {
    let length = usize::try_from(size.min(64 * 1024)).unwrap_or(64 * 1024);
    let (mut left, mut right) = (vec![0; length], vec![0; length]);
    let mut offset = 0;
    while offset < size {
        let wanted = usize::try_from((size - offset).min(length as u64)).unwrap_or(length);
        let (left, right) = (&mut left[..wanted], &mut right[..wanted]);
        a.read_exact_at(left, offset)?;
        b.read_exact_at(right, offset)?;
        if left != right {
            return Ok(false);
        }
        offset += wanted as u64;
    }
    Ok(true)
}

/// Whole trees, as differences from nothing, each beneath its directory if it has one.
pub(super) fn write_whole(
    trees: &[(Option<&OsStr>, &TreeView)],
    times: FileTimes,
    out: impl Write,
) -> Result<(), LayerError> {
    let mut writer = DifferenceWriter::new(out);
    writer.tar.times = times;
    for (directory, view) in trees {
        // A file that two trees share is one in each.
        writer.links.clear();
        writer.path = PathBuf::from("/");
        if let Some(directory) = directory {
            writer.path.push(directory);
            let header =
                MemberHeader { kind: TarKind::Directory, mode: 0o755, ..MemberHeader::empty(&writer.path) };
            writer.tar.header(&header).map_err(LayerError::Write)?;
        }
        writer.directory(view.root(), None, Lower::Hidden)?;
    }
    writer.finish()
}
