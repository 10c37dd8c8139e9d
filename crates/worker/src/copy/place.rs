//! How what was selected lands in a tree.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cache::layer::{ExtractOptions, extract_archive, is_archive};
use cache::tree::{
    Attributes, FileContent, FileKind, Follow, Hashing, Made, Timestamp, TreeError, TreeWriter,
};
use pattern::clean;
use rayon::prelude::*;
use solver::{ContentDigest, CopyOp, CopySource, Input, InputKey, Selector, Unpack};
use tokio_util::sync::CancellationToken;

use super::chmod::ModeChange;
use super::digest::digest_of;
use super::select::{Match, Node, Selection, select};
use super::share::Sharing;
use super::source::SourceTree;
use super::{CopyError, is_worth_threads};
use crate::context::is_root;
use crate::user;

/// A COPY or ADD to be done.
pub(crate) struct CopyRequest<'a> {
    pub(crate) op: &'a CopyOp,
    /// The inputs of the vertex.
    pub(crate) inputs: &'a [Input],
    /// By index of input; the first one, which is copied to, is not looked at.
    pub(crate) sources: &'a [SourceTree],
    /// By index of input: the digest that went into the cache key.
    pub(crate) digests: &'a [Option<ContentDigest>],
    /// By index of input: what is selected in a snapshot, if that is known.
    pub(crate) selected: &'a [Option<Arc<Selection>>],
    /// What is copied to.
    pub(crate) writer: &'a TreeWriter,
    /// What it may share with other snapshots, if it is one.
    pub(crate) sharing: Option<&'a Sharing<'a>>,
    /// Whether that is the empty root file system, which has no users whose names `--chown` could take.
    pub(crate) on_empty_root: bool,
    /// Ends when the build is to stop.
    pub(crate) cancel: &'a CancellationToken,
}

/// Copies. From a context, just what its digest in the cache key was made of lands, or it is an error.
pub(crate) fn copy(request: &CopyRequest<'_>) -> Result<(), CopyError> {
    let op = request.op;
    let users = (!request.on_empty_root).then(|| request.writer.view());
    let placement = Placement {
        writer: request.writer,
        sharing: request.sharing,
        owner: op.chown.as_deref().map(|spec| user::owner(users, spec)).transpose()?,
        mode: op.chmod.as_ref().map(ModeChange::new).transpose()?,
        keeps_directories: op.parents,
        cancel: request.cancel,
        times: Mutex::default(),
        destination: Destination::new(&op.destination),
    };
    let selections = selections(request)?;
    for source in &op.sources {
        match source {
            CopySource::Inline { name, content } => placement.inline(name, content)?,
            CopySource::Path { input, path } => {
                let selection = selections.get(input).expect("every input was selected from");
                let selected = selection.sources.iter().find(|selected| selected.path == *path);
                let matches = selected.map_or(&[][..], |selected| &selected.matches);
                let archives = if op.unpack == Unpack::Never { Archives::Keep } else { Archives::Extract };
                for found in matches {
                    placement.place(&request.sources[*input], found, archives)?;
                }
            }
            CopySource::Remote { input, path } => {
                let source = &request.sources[*input];
                let selection = select(source, &remote_selector(op, path))?;
                let archives =
                    if op.unpack == Unpack::Everything { Archives::Extract } else { Archives::Keep };
                for found in selection.sources.iter().flat_map(|selected| &selected.matches) {
                    placement.place(source, found, archives)?;
                }
            }
        }
    }
    placement.finish()
}

/// Where [`copy_whole`] puts what is no directory.
pub(crate) const LONE_ENTRY: &str = "/entry";

/// Makes a tree of `node` alone: a directory becomes its root, with mode, owner and time, and anything else its only
/// entry, [`LONE_ENTRY`]. The root of a context is one like others, 0755, whatever its directory is to its user.
pub(crate) fn copy_whole(
    source: &SourceTree,
    node: &Node,
    writer: &TreeWriter,
    cancel: &CancellationToken,
) -> Result<(), CopyError> {
    let placement = Placement {
        writer,
        sharing: None,
        owner: None,
        mode: None,
        keeps_directories: false,
        cancel,
        times: Mutex::default(),
        destination: Destination::new("/"),
    };
    if node.is_directory() {
        let mut attributes = node.attributes();
        if source.context().is_some() && is_root(&node.path) {
            attributes.mode = 0o755;
        }
        writer.set_attributes(Path::new("/"), &attributes)?;
        placement.place_contents(source, node)?;
    } else {
        placement.place_leaf(source, node, Path::new(LONE_ENTRY))?;
    }
    placement.finish()
}

/// What each input's selector selects.
fn selections(request: &CopyRequest<'_>) -> Result<BTreeMap<usize, Arc<Selection>>, CopyError> {
    let mut selections = BTreeMap::new();
    for (index, input) in request.inputs.iter().enumerate() {
        let InputKey::Content(selector) = &input.key else { continue };
        if let Some(Some(known)) = request.selected.get(index) {
            selections.insert(index, Arc::clone(known));
            continue;
        }
        let digest = request.digests.get(index).copied().flatten();
        let selection = selection(&request.sources[index], selector, digest)?;
        selections.insert(index, selection);
    }
    Ok(selections)
}

/// What `selector` selects. Of a context it is what went into the cache key under `digest`.
pub(crate) fn selection(
    source: &SourceTree,
    selector: &Selector,
    digest: Option<ContentDigest>,
) -> Result<Arc<Selection>, CopyError> {
    let Some(context) = source.context() else { return Ok(Arc::new(select(source, selector)?)) };
    if let Some(kept) = digest.and_then(|digest| context.kept(selector.digest(), digest)) {
        return Ok(kept);
    }
    let (now, selection) = digest_of(source, selector)?;
    match digest {
        Some(digest) if digest != now => {
            let path = selector.paths.first().cloned().unwrap_or_default();
            Err(CopyError::Changed(PathBuf::from(path)))
        }
        _ => Ok(Arc::new(selection)),
    }
}

/// What a path of a remote source selects. It is in no key: the source as a whole is.
fn remote_selector(op: &CopyOp, path: &str) -> Selector {
    Selector {
        paths: vec![path.to_owned()],
        wildcards: false,
        exclude: op.exclude.clone(),
        parents: op.parents,
    }
}

/// What becomes of a source that is an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archives {
    Extract,
    Keep,
}

/// Where things land and what becomes of them.
struct Placement<'a> {
    writer: &'a TreeWriter,
    sharing: Option<&'a Sharing<'a>>,
    /// `--chown`.
    owner: Option<(u32, u32)>,
    /// `--chmod`.
    mode: Option<ModeChange>,
    /// `--parents`.
    keeps_directories: bool,
    cancel: &'a CancellationToken,
    /// The times of directories in which something landed; none for the present time.
    times: Mutex<BTreeMap<PathBuf, Option<Timestamp>>>,
    destination: Destination,
}

/// The destination as it is written.
struct Destination {
    path: PathBuf,
    /// Whether it ends in a slash and is a directory for that.
    is_directory: bool,
}

impl Destination {
    fn new(text: &str) -> Self {
        let is_directory = text.ends_with('/') || text.ends_with("/.");
        Self { path: PathBuf::from(clean(&format!("/{text}"))), is_directory }
    }
}

impl Placement<'_> {
    /// A file whose content stands in the Dockerfile.
    fn inline(&self, name: &str, content: &[u8]) -> Result<(), CopyError> {
        let target = self.target_of_file(&OsString::from(name))?;
        let mut attributes = Attributes { mode: 0o644, ..Attributes::default() };
        self.change(&mut attributes, false);
        self.refuse_directory(&target)?;
        self.writer.file(&target, FileContent::Bytes(content), &attributes, Hashing::Skip)?;
        self.replaced(&target);
        self.touch_parent(&target);
        Ok(())
    }

    /// One match of a source.
    fn place(&self, source: &SourceTree, found: &Match, archives: Archives) -> Result<(), CopyError> {
        let node = &found.node;
        if node.is_directory() {
            return self.place_contents(source, node);
        }
        if archives == Archives::Extract && self.place_archive(source, node)? {
            return Ok(());
        }
        let target = self.target_of_file(&found.name)?;
        self.refuse_directory(&target)?;
        self.place_leaf(source, node, &target)?;
        self.touch_parent(&target);
        Ok(())
    }

    /// The contents of a directory land in the destination, whose own mode and owner are not the source's.
    fn place_contents(&self, source: &SourceTree, node: &Node) -> Result<(), CopyError> {
        if self.destination.is_directory {
            self.make_directories(&self.destination.path)?;
        }
        let target = self.writer.view().resolve(&self.destination.path, Follow::All)?;
        let is_new = match self.writer.view().entry(&target)?.map(|entry| entry.kind) {
            Some(FileKind::Directory) => false,
            Some(_) => return Err(CopyError::DirectoryOverFile(target)),
            None => {
                self.make_directories(&target)?;
                true
            }
        };
        let tree = Tree { placement: self, source };
        let mut links = tree.children(node, &target, is_new)?;
        links.sort();
        for (new, existing) in links {
            self.writer.hard_link(&target.join(existing), &new)?;
            self.replaced(&new);
        }
        self.set_time(&target, node.mtime);
        Ok(())
    }

    /// Unpacks the file if it is an archive.
    fn place_archive(&self, source: &SourceTree, node: &Node) -> Result<bool, CopyError> {
        if node.entry.kind != FileKind::File || node.is_socket {
            return Ok(false);
        }
        let mut file = open(source, node)?;
        if !is_archive(&file) {
            return Ok(false);
        }
        let read_error = |source: io::Error| CopyError::Read { path: node.path.clone(), source };
        file.rewind().map_err(read_error)?;
        let parents = Attributes { mode: 0o755, ..self.new_directory() };
        let target = make_directories(self.writer, &self.destination.path, &parents)?.path;
        if let Some(sharing) = self.sharing {
            sharing.lost_track();
        }
        let mut reader = HashingReader { inner: file, hasher: blake3::Hasher::new() };
        let options = ExtractOptions { owner: self.owner, ..ExtractOptions::default() };
        extract_archive(&mut reader, self.writer, &target, &options)
            .map_err(|source| CopyError::Archive { path: node.path.clone(), source })?;
        io::copy(&mut reader, &mut io::sink()).map_err(read_error)?;
        check_content(node, reader.hasher.finalize())?;
        self.set_time(&target, None);
        Ok(true)
    }

    /// Where a file of that name lands: in the destination if that is a directory, else as the destination.
    fn target_of_file(&self, name: &OsString) -> Result<PathBuf, CopyError> {
        let view = self.writer.view();
        if self.destination.is_directory {
            let directory = self.make_directories(&self.destination.path)?;
            return Ok(directory.join(name));
        }
        let target = view.resolve(&self.destination.path, Follow::All)?;
        if view.entry(&target)?.is_some_and(|entry| entry.kind == FileKind::Directory) {
            return Ok(target.join(name));
        }
        if let Some(parent) = target.parent() {
            self.make_directories(parent)?;
        }
        Ok(target)
    }

    /// Makes a directory and those above it that are missing. Returns its canonical path.
    fn make_directories(&self, path: &Path) -> Result<PathBuf, CopyError> {
        let made = make_directories(self.writer, path, &self.new_directory())?;
        if let Some(first) = made.first_made {
            self.touch_parent(&first);
        }
        Ok(made.path)
    }

    /// The metadata of directories that no source brings along.
    fn new_directory(&self) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let mode = self.mode.as_ref().map_or(0o755, ModeChange::of_parents);
        Attributes { mode, uid, gid, ..Attributes::default() }
    }

    /// Applies `--chown` and `--chmod`.
    fn change(&self, attributes: &mut Attributes, is_directory: bool) {
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        if let Some(change) = &self.mode {
            attributes.mode = change.apply(attributes.mode, is_directory);
        }
    }

    /// Fails if there is a directory where a file is to land.
    fn refuse_directory(&self, target: &Path) -> Result<(), CopyError> {
        match self.writer.view().entry(target)? {
            Some(entry) if entry.kind == FileKind::Directory => {
                Err(CopyError::FileOverDirectory(target.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// What is known of the file `target` no longer holds.
    fn replaced(&self, target: &Path) {
        if let Some(sharing) = self.sharing {
            sharing.replaced(target);
        }
    }

    /// Places anything that is no directory; what is in the way is replaced.
    fn place_leaf(&self, source: &SourceTree, node: &Node, target: &Path) -> Result<(), CopyError> {
        if self.cancel.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let mut attributes = node.attributes();
        self.change(&mut attributes, false);
        if let (Some(sharing), FileKind::File, false) = (self.sharing, node.entry.kind, node.is_socket)
            && sharing.place(self.writer, (source, node), target, &attributes)?
        {
            return Ok(());
        }
        self.write_leaf(source, node, target, &attributes)?;
        match self.sharing {
            Some(sharing) => sharing.copied(source, node, target),
            None => Ok(()),
        }
    }

    /// Writes anything that is no directory.
    fn write_leaf(
        &self,
        source: &SourceTree,
        node: &Node,
        target: &Path,
        attributes: &Attributes,
    ) -> Result<(), CopyError> {
        match node.entry.kind {
            FileKind::File => self.write_file(source, node, target, attributes),
            FileKind::Symlink => {
                let link = node.target.as_deref().unwrap_or(Path::new(""));
                Ok(self.writer.symlink(target, link, attributes)?)
            }
            kind => Ok(self.writer.special(target, kind, node.entry.rdev, attributes)?),
        }
    }

    /// Writes a file. Of a context, its bytes must be those that went into the cache key.
    fn write_file(
        &self,
        source: &SourceTree,
        node: &Node,
        target: &Path,
        attributes: &Attributes,
    ) -> Result<(), CopyError> {
        if node.is_socket {
            self.writer.file(target, FileContent::Bytes(b""), attributes, Hashing::Skip)?;
            return Ok(());
        }
        let file = open(source, node)?;
        let hashing = if node.content.is_some() { Hashing::Blake3 } else { Hashing::Skip };
        let Some(landed) = self.writer.file(target, FileContent::Fd(&file), attributes, hashing)? else {
            return Ok(());
        };
        let checked = check_content(node, landed);
        // A file that has only grown, as a log of this very build does, still begins with what went into the key.
        if checked.is_err() && file.metadata().is_ok_and(|metadata| metadata.len() > node.entry.size) {
            let mut beginning = open(source, node)?.take(node.entry.size);
            let content = FileContent::Reader(&mut beginning);
            if let Some(landed) = self.writer.file(target, content, attributes, hashing)? {
                return check_content(node, landed);
            }
        }
        checked
    }

    /// Something landed at `path`: the time of the directory it is in is that of the build.
    fn touch_parent(&self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.set_time(parent, None);
        }
    }

    /// The time that a directory is to have.
    fn set_time(&self, directory: &Path, time: Option<Timestamp>) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(directory.to_owned(), time);
    }

    /// Sets the times of directories, after all else.
    fn finish(self) -> Result<(), CopyError> {
        let now = now();
        for (path, time) in self.times.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let Some(entry) = self.writer.view().entry(&path)? else { continue };
            let attributes = Attributes { mtime: time.or(Some(now)), ..Attributes::of(&entry, Vec::new()) };
            self.writer.set_attributes(&path, &attributes)?;
        }
        if let Some(sharing) = self.sharing {
            sharing.finish();
        }
        Ok(self.writer.finish()?)
    }
}

/// The contents of a directory that are being placed.
struct Tree<'a> {
    placement: &'a Placement<'a>,
    source: &'a SourceTree,
}

/// A name to be made, and the path below the top of what it is another name of.
type Link = (PathBuf, PathBuf);

impl Tree<'_> {
    /// Places the entries of a directory. `is_new`: there is nothing in `target` yet. Returns the hard links that
    /// are to be made when all else is there.
    fn children(&self, node: &Node, target: &Path, is_new: bool) -> Result<Vec<Link>, CopyError> {
        let place = |(name, child): &(OsString, Node)| self.child(child, target.join(name), is_new);
        let directories = node.children.iter().filter(|(_, child)| child.is_directory()).take(2).count();
        let links: Vec<Vec<Link>> = if is_worth_threads(node.children.len(), directories) {
            node.children.par_iter().map(place).collect::<Result<_, _>>()?
        } else {
            node.children.iter().map(place).collect::<Result<_, _>>()?
        };
        Ok(links.concat())
    }

    fn child(&self, node: &Node, target: PathBuf, is_new: bool) -> Result<Vec<Link>, CopyError> {
        let existing = if is_new { None } else { self.placement.writer.view().entry(&target)? };
        let existing = existing.map(|entry| entry.kind);
        if node.is_directory() {
            return self.directory(node, &target, existing);
        }
        if existing == Some(FileKind::Directory) {
            return Err(CopyError::FileOverDirectory(target));
        }
        if let Some(first) = &node.same_as {
            return Ok(vec![(target, first.clone())]);
        }
        self.placement.place_leaf(self.source, node, &target)?;
        Ok(Vec::new())
    }

    /// A directory below the top takes the source's mode, owner and time even if it exists; under `--parents`, and
    /// where it is only on the way to what is selected, only a new one does.
    fn directory(
        &self,
        node: &Node,
        target: &Path,
        existing: Option<FileKind>,
    ) -> Result<Vec<Link>, CopyError> {
        let placement = self.placement;
        let mut attributes = node.attributes();
        placement.change(&mut attributes, true);
        if !node.is_included {
            attributes.mtime = None;
        }
        let is_new = match existing {
            Some(FileKind::Directory) if node.is_included && !placement.keeps_directories => {
                placement.writer.set_attributes(target, &attributes)?;
                false
            }
            Some(FileKind::Directory) => {
                placement.set_time(target, attributes.mtime);
                false
            }
            Some(_) => return Err(CopyError::DirectoryOverFile(target.to_owned())),
            None => placement.writer.make_directory(target, &attributes)? == Made::Created,
        };
        self.children(node, target, is_new)
    }
}

/// What [`make_directories`] did.
pub(crate) struct MadeDirectories {
    /// The canonical path of the directory.
    pub(crate) path: PathBuf,
    /// The first directory that had to be made, the others being below it.
    pub(crate) first_made: Option<PathBuf>,
}

/// Makes the directory `path` and those above it that are missing; links on the way are followed. Those that exist
/// are left as they are.
pub(crate) fn make_directories(
    writer: &TreeWriter,
    path: &Path,
    attributes: &Attributes,
) -> Result<MadeDirectories, CopyError> {
    let view = writer.view();
    let path = view.resolve(path, Follow::All)?;
    let mut missing = Vec::new();
    let mut current = path.as_path();
    loop {
        match view.entry(current)?.map(|entry| entry.kind) {
            Some(FileKind::Directory) => break,
            Some(_) => return Err(CopyError::NotADirectory(current.to_owned())),
            None => missing.push(current),
        }
        match current.parent() {
            Some(parent) => current = parent,
            None => break,
        }
    }
    for directory in missing.iter().rev() {
        writer.make_directory(directory, attributes)?;
    }
    let first_made = missing.last().map(|first| first.to_path_buf());
    Ok(MadeDirectories { path, first_made })
}

/// Opens the file of a node. A file of a context that is gone has changed.
fn open(source: &SourceTree, node: &Node) -> Result<File, CopyError> {
    let view = source.view().expect("a node comes from a tree");
    match view.open_seen_file(&node.path) {
        Err(TreeError::NotFound(_) | TreeError::NotAFile(_) | TreeError::NotADirectory(_))
            if source.context().is_some() =>
        {
            Err(changed(node))
        }
        opened => Ok(opened?),
    }
}

/// Fails if the bytes of a node that went into a cache key are not those of `landed`.
fn check_content(node: &Node, landed: blake3::Hash) -> Result<(), CopyError> {
    match node.content {
        Some(expected) if expected != *landed.as_bytes() => Err(changed(node)),
        _ => Ok(()),
    }
}

/// The error for a file of a context that is not what it was; its path as seen from the context.
fn changed(node: &Node) -> CopyError {
    CopyError::Changed(node.path.strip_prefix("/").unwrap_or(&node.path).to_owned())
}

/// Hashes what is read through it.
struct HashingReader {
    inner: File,
    hasher: blake3::Hasher,
}

impl Read for HashingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// The present time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}
