//! Applying a layer to an upper directory (OCI image layer specification, "Applying Changesets").

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci::DiffId;

use super::LayerError;
use super::finish;
use super::member::{Member, MemberKind, Members, canonical};
use super::pipeline::{Hashed, HashingReader, with_decompressed};
use super::unpack::{write_directory, write_entry};
use crate::tree::{
    Attributes, FileKind, Follow, OwnerMode, Timestamp, TreeKind, TreeMode, TreeView, TreeWriter,
};

/// What marks a whiteout (OCI image layer specification, "Whiteouts").
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// What marks a directory whose lower content is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What the hard links to lower layers may take in memory: they wait there, and an archive of them takes no room on
/// any disk.
const MAXIMUM_DEFERRED: usize = 64 << 20;
/// How many notes are taken; more would tell no more.
const MAXIMUM_NOTES: usize = 100;

/// A layer whose entries are in its upper directory; [`finish`](Self::finish) completes it.
#[derive(Debug)]
#[must_use = "a layer is complete only after `finish`"]
pub struct AppliedLayer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The length of the uncompressed archive.
    pub size_bytes: u64,
    /// What could not be represented, such as devices without the privilege to make them; for people.
    pub notes: Vec<String>,
    upper: PathBuf,
    mode: TreeMode,
    deferred: Deferred,
}

/// What needs the layers below.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// Directories that no entry of the archive describes.
    pub(super) implied: BTreeSet<PathBuf>,
    /// Names and targets of hard links whose target is not in this layer.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// What the links take.
    bytes: usize,
}

impl Deferred {
    fn link(&mut self, path: &Path, target: PathBuf) -> Result<(), LayerError> {
        self.bytes += path.as_os_str().len() + target.as_os_str().len() + size_of::<(PathBuf, PathBuf)>();
        if self.bytes > MAXIMUM_DEFERRED {
            let reason = "there are too many hard links to lower layers";
            return Err(LayerError::Header { name: path.display().to_string(), reason });
        }
        self.links.push((path.to_owned(), target));
        Ok(())
    }
}

/// Applies an uncompressed archive to the directory `upper`. As an overlay layer that is an empty directory, and
/// nothing of the layers below is needed, so all layers of an image can be applied at once. As a plain directory
/// it is the whole tree below, in which whiteouts remove.
///
/// Nothing outside `upper` is touched, whatever the archive says. A link among the parents of an entry is replaced
/// by a directory if this layer made it, and followed inside the tree if a lower one did.
pub fn apply_layer(reader: impl Read, upper: &Path, mode: TreeMode) -> Result<AppliedLayer, LayerError> {
    let mut reader = BufReader::with_capacity(256 * 1024, HashingReader::new(reader));
    let (deferred, notes) = apply(&mut reader, upper, mode)?;
    let hashed = reader.into_inner().finish();
    Ok(AppliedLayer::new((upper, mode), hashed, deferred, notes))
}

/// Like [`apply_layer`] for a compressed archive (gzip, zstd or none, told by the first bytes), decompressing and
/// hashing in a thread of its own. The reader is read to its end.
pub fn apply_blob(
    reader: impl Read + Send,
    upper: &Path,
    mode: TreeMode,
) -> Result<AppliedLayer, LayerError> {
    let ((deferred, notes), hashed) = with_decompressed(reader, |reader| apply(reader, upper, mode))?;
    Ok(AppliedLayer::new((upper, mode), hashed, deferred, notes))
}

impl AppliedLayer {
    fn new((upper, mode): (&Path, TreeMode), hashed: Hashed, deferred: Deferred, notes: Vec<String>) -> Self {
        let Hashed { digest, size_bytes } = hashed;
        Self { diff_id: DiffId(digest), size_bytes, notes, upper: upper.to_owned(), mode, deferred }
    }

    /// Does what needs the layers below, `lower_dirs` (top first; each of them finished): hard links to their files
    /// and the metadata of directories that the archive only implies.
    pub fn finish(self, lower_dirs: &[PathBuf]) -> Result<(), LayerError> {
        finish::finish(&self.upper, lower_dirs, self.mode, &self.deferred)
    }
}

/// Applies the members of `reader` and reads it to its end.
fn apply(
    reader: &mut impl BufRead,
    upper: &Path,
    mode: TreeMode,
) -> Result<(Deferred, Vec<String>), LayerError> {
    let writer = TreeWriter::new(upper, &[], mode)?;
    let mut applier = Applier::new(&writer);
    let mut members = Members::new(reader);
    while let Some(member) = members.next()? {
        applier.apply(&mut members, &member)?;
    }
    // What stands behind the last member counts for the digest.
    io::copy(members.into_inner(), &mut io::sink()).map_err(LayerError::Read)?;
    let Applier { deferred, notes, .. } = applier;
    writer.finish()?;
    Ok((deferred, notes))
}

struct Applier<'a> {
    writer: &'a TreeWriter,
    is_overlay: bool,
    /// What this layer made. An overlay layer made all that is in its directory, so nothing is kept for it.
    made: HashSet<PathBuf>,
    /// Parents that are known to be directories.
    parents: HashSet<PathBuf>,
    deferred: Deferred,
    notes: Vec<String>,
}

impl<'a> Applier<'a> {
    fn new(writer: &'a TreeWriter) -> Self {
        let is_overlay = matches!(writer.mode().kind, TreeKind::Overlay { .. });
        let mut deferred = Deferred::default();
        if is_overlay {
            deferred.implied.insert(PathBuf::from("/"));
        }
        let (made, parents) = (HashSet::new(), HashSet::from([PathBuf::from("/")]));
        Self { writer, is_overlay, made, parents, deferred, notes: Vec::new() }
    }

    fn apply<R: BufRead>(&mut self, members: &mut Members<R>, member: &Member) -> Result<(), LayerError> {
        let Some((parent, name)) = member.path.parent().zip(member.path.file_name()) else {
            if member.kind == MemberKind::Entry(FileKind::Directory) {
                self.writer.set_attributes(Path::new("/"), &member.attributes)?;
                self.deferred.implied.remove(Path::new("/"));
            }
            return Ok(());
        };
        let parent = self.parent(parent)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&parent, name, OsStr::from_bytes(hidden));
        }
        let path = parent.join(name);
        match member.kind {
            MemberKind::Entry(FileKind::Directory) => {
                write_directory(self.writer, &path, &member.attributes)?;
                self.deferred.implied.remove(&path);
            }
            MemberKind::Entry(kind) => {
                self.replaces(&path);
                let written = write_entry(self.writer, members, member, (&path, kind))?;
                if !written && self.notes.len() < MAXIMUM_NOTES {
                    self.notes.push(format!("device `{}` cannot be made by this user", path.display()));
                }
            }
            MemberKind::HardLink => {
                let target = canonical(&member.link);
                self.hard_link(&path, target)?;
            }
        }
        self.made(&path);
        Ok(())
    }

    fn made(&mut self, path: &Path) {
        if !self.is_overlay {
            self.made.insert(path.to_owned());
        }
    }

    fn is_made(&self, path: &Path) -> bool {
        self.is_overlay || self.made.contains(path)
    }

    /// Something that is no directory comes to `path`.
    fn replaces(&mut self, path: &Path) {
        if self.parents.contains(path) {
            self.parents.retain(|parent| !parent.starts_with(path));
            self.deferred.implied.retain(|implied| !implied.starts_with(path));
        }
    }

    /// Where the parent `path` of an entry really is; makes it where it is missing.
    fn parent(&mut self, path: &Path) -> Result<PathBuf, LayerError> {
        if self.parents.contains(path) {
            return Ok(path.to_owned());
        }
        let mut at = PathBuf::from("/");
        for name in path.strip_prefix("/").unwrap_or(path) {
            at.push(name);
            if self.parents.contains(&at) {
                continue;
            }
            let kind = self.writer.view().entry(&at)?.map(|entry| entry.kind);
            if kind == Some(FileKind::Symlink) && !self.is_made(&at) {
                at = self.writer.view().resolve(&at, Follow::All)?;
                continue;
            }
            if kind != Some(FileKind::Directory) {
                self.writer.make_directory(&at, &implied())?;
                if self.is_overlay {
                    self.deferred.implied.insert(at.clone());
                }
                self.made(&at);
            }
            self.parents.insert(at.clone());
        }
        Ok(at)
    }

    fn whiteout(&mut self, parent: &Path, name: &OsStr, hidden: &OsStr) -> Result<(), LayerError> {
        let invalid = |reason| LayerError::Header { name: parent.join(name).display().to_string(), reason };
        if name.as_bytes() == OPAQUE {
            return self.opaque(parent);
        }
        if hidden.as_bytes().starts_with(WHITEOUT) {
            // What aufs kept for itself.
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(invalid("it is a whiteout of nothing"));
        }
        let path = parent.join(hidden);
        if self.is_overlay {
            self.writer.hide_lower(&path)?;
        } else if self.made.contains(&path) {
            self.remove_lower(&path)?;
        } else {
            self.replaces(&path);
            self.writer.remove(&path)?;
        }
        Ok(())
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), LayerError> {
        if self.is_overlay { Ok(self.writer.make_opaque(directory)?) } else { self.remove_lower(directory) }
    }

    /// Removes what is below `directory` in a plain tree and was there before this layer.
    fn remove_lower(&mut self, directory: &Path) -> Result<(), LayerError> {
        let mut rest = vec![directory.to_owned()];
        while let Some(directory) = rest.pop() {
            let kind = self.writer.view().entry(&directory)?.map(|entry| entry.kind);
            if kind != Some(FileKind::Directory) {
                continue;
            }
            for (name, _) in self.writer.view().read_dir(&directory)? {
                let path = directory.join(name);
                if self.made.contains(&path) {
                    rest.push(path);
                } else {
                    self.replaces(&path);
                    self.writer.remove(&path)?;
                }
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, target: PathBuf) -> Result<(), LayerError> {
        let entry = self.writer.view().entry(&target)?;
        match entry {
            Some(entry) if entry.kind != FileKind::Directory => {
                self.replaces(path);
                self.writer.hard_link(&target, path)?;
                Ok(())
            }
            None if self.is_overlay => {
                // What an earlier entry made there is replaced, now already.
                self.replaces(path);
                self.writer.remove(path)?;
                self.deferred.link(path, target)
            }
            _ => Err(LayerError::LinkTarget { path: path.to_owned(), target }),
        }
    }
}

/// The metadata of a directory that nothing describes.
fn implied() -> Attributes {
    let mtime = Some(Timestamp::default());
    Attributes { mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

/// The body of the fuzz target: applies `data` below the empty directory `scratch`. Errors are fine, panics and
/// anything written outside `scratch` are not.
pub fn fuzz_apply(data: &[u8], scratch: &Path) {
    let mode = TreeMode { kind: TreeKind::Overlay { user_xattrs: true }, owners: OwnerMode::Native };
    let upper = scratch.join("upper");
    if std::fs::create_dir(&upper).is_err() {
        return;
    }
    let applied = apply_blob(data, &upper, mode).and_then(|layer| layer.finish(&[]));
    if applied.is_ok()
        && let Ok(view) = TreeView::open(std::slice::from_ref(&upper), mode)
    {
        // What was applied can be written again.
        drop(super::write_trees(&[(None, &view)], super::FileTimes::Own, io::sink()));
    }
}
