//! Files that some snapshot holds already: they are cloned or linked, and their bytes stay where they are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::Hasher;
use cache::tree::{
    Attributes, Entry, FileContent, FileKind, Hashing, Holder, TreeError, TreeView, TreeWriter,
};
use cache::{ActiveSnapshot, Contents, LinkSource, SnapshotTree, Store};
use solver::{CopyOp, CopySource};

use super::CopyError;
use super::select::Node;
use super::source::SourceTree;

/// What a copy may share with snapshots that are there, and what it lets later ones know.
pub(crate) struct Sharing<'a> {
    store: &'a Store,
    active: &'a ActiveSnapshot,
    /// What the same copy made when it was last done.
    last: Option<SnapshotTree>,
    /// What is known of the files that have landed.
    contents: Mutex<Landed>,
}

#[derive(Default)]
struct Landed {
    contents: Contents,
    /// Whether something landed that was not told.
    is_unknown: bool,
}

/// A file of a snapshot that has the bytes of the one to be placed.
struct Twin<'t> {
    tree: &'t SnapshotTree,
    path: &'t Path,
    holder: &'t Holder,
    entry: Entry,
    has_same_metadata: bool,
}

impl<'a> Sharing<'a> {
    /// For a copy from `sources` into `active`, a snapshot of `store`.
    pub(crate) fn new(
        store: &'a Store,
        active: &'a ActiveSnapshot,
        op: &CopyOp,
        sources: &[SourceTree],
    ) -> Result<Self, CopyError> {
        let mut last = None;
        // What came out of a stage is linked from there.
        if let Some(name) = copy_name(op, sources) {
            if let Some(snapshot) = store.last_copy(&name)? {
                let view = TreeView::open(&[store.own_dir(&snapshot.id)], store.tree_mode())?;
                last = Some(SnapshotTree::of_own_directory(store, &snapshot, view));
            }
            active.set_copy(name);
        }
        Ok(Self { store, active, last, contents: Mutex::default() })
    }

    /// Puts the file of `node` at `target` without reading it, if it can be told where its bytes are already. Returns
    /// false, and nothing is done, if it cannot.
    pub(super) fn place(
        &self,
        writer: &TreeWriter,
        (source, node): (&SourceTree, &Node),
        target: &Path,
        attributes: &Attributes,
    ) -> Result<bool, CopyError> {
        let is_placed = match source {
            SourceTree::Snapshot(tree) => self.place_from_stage(writer, (tree, node), target, attributes)?,
            SourceTree::Context(_) => self.place_from_last(writer, node, target, attributes)?,
            SourceTree::Empty => false,
        };
        if is_placed {
            self.note(target, Self::digest(source, node)?);
        }
        Ok(is_placed)
    }

    fn place_from_stage(
        &self,
        writer: &TreeWriter,
        (tree, node): (&Arc<SnapshotTree>, &Node),
        target: &Path,
        attributes: &Attributes,
    ) -> Result<bool, CopyError> {
        // Where files can be cloned, copying them as any other does it.
        if self.store.clones_files() {
            return Ok(false);
        }
        let holder = tree.view().holder(&node.path)?;
        let has_same_metadata = node.is_whole && agree(&node.entry, attributes);
        let twin = Twin { tree, path: &node.path, holder: &holder, entry: node.entry, has_same_metadata };
        self.link(writer, &twin, target)
    }

    fn place_from_last(
        &self,
        writer: &TreeWriter,
        node: &Node,
        target: &Path,
        attributes: &Attributes,
    ) -> Result<bool, CopyError> {
        let (Some(tree), Some(wanted)) = (&self.last, node.content) else { return Ok(false) };
        let view = tree.view();
        let holder = match view.holder(target) {
            Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)) => return Ok(false),
            found => found?,
        };
        if tree.content(&holder, target) != Some(wanted) {
            return Ok(false);
        }
        let Some(entry) = holder.entry(target)?.filter(|entry| entry.kind == FileKind::File) else {
            return Ok(false);
        };
        if self.store.clones_files() {
            let file = view.open_file(target)?;
            writer.file(target, FileContent::Fd(&file), attributes, Hashing::Skip)?;
            return Ok(true);
        }
        let has_same_metadata = agree(&entry, attributes) && holder.xattrs(target)? == attributes.xattrs;
        self.link(writer, &Twin { tree, path: target, holder: &holder, entry, has_same_metadata }, target)
    }

    fn link(&self, writer: &TreeWriter, twin: &Twin<'_>, target: &Path) -> Result<bool, CopyError> {
        let Some(name) = twin.path.file_name().filter(|_| twin.has_same_metadata) else { return Ok(false) };
        let Some(origins) = twin.tree.origins(twin.holder)? else { return Ok(false) };
        let source = LinkSource { holder: twin.holder, name, entry: &twin.entry, origins };
        Ok(self.active.link(writer, &source, target)?)
    }

    /// The digest of the bytes of a node, if it is known.
    fn digest(source: &SourceTree, node: &Node) -> Result<Option<[u8; 32]>, CopyError> {
        match (node.content, source) {
            (Some(digest), _) => Ok(Some(digest)),
            (None, SourceTree::Snapshot(tree)) => known_content(tree, &node.path),
            (None, _) => Ok(None),
        }
    }

    /// A file with those bytes has landed, or something else, or nobody knows.
    fn note(&self, target: &Path, digest: Option<[u8; 32]>) {
        let mut landed = self.landed();
        match digest {
            Some(digest) => landed.contents.insert(target.to_owned(), digest),
            None => landed.contents.remove(target),
        }
    }

    /// The file of `node`, or whatever else it is, has landed as it was in its source.
    pub(super) fn copied(&self, source: &SourceTree, node: &Node, target: &Path) -> Result<(), CopyError> {
        let is_file = node.entry.kind == FileKind::File && !node.is_socket;
        let digest = if is_file { Self::digest(source, node)? } else { None };
        self.note(target, digest);
        Ok(())
    }

    /// Something landed at `target` that nothing is known of.
    pub(super) fn replaced(&self, target: &Path) {
        self.note(target, None);
    }

    /// Whatever landed may have landed anywhere.
    pub(super) fn lost_track(&self) {
        self.landed().is_unknown = true;
    }

    /// Keeps what is known of what has landed.
    pub(super) fn finish(&self) {
        let landed = std::mem::take(&mut *self.landed());
        if !landed.is_unknown {
            self.active.set_contents(landed.contents);
        }
    }

    fn landed(&self) -> MutexGuard<'_, Landed> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest of the bytes of the file `path`, if whoever wrote it has told.
pub(super) fn known_content(tree: &SnapshotTree, path: &Path) -> Result<Option<[u8; 32]>, CopyError> {
    let holder = tree.view().holder(path)?;
    Ok(tree.content(&holder, path))
}

/// Whether a file that `entry` describes has the metadata that is wanted, extended attributes aside.
fn agree(entry: &Entry, wanted: &Attributes) -> bool {
    (entry.mode, entry.uid, entry.gid, Some(entry.mtime))
        == (wanted.mode, wanted.uid, wanted.gid, wanted.mtime)
}

/// What tells one copy from others, whatever it finds in its context; `None` for one that copies from no context.
///
/// Two copies that share a name by chance would only find less to share: what is shared is compared file by file.
fn copy_name(op: &CopyOp, sources: &[SourceTree]) -> Option<[u8; 32]> {
    let mut hasher = Hasher::new();
    let mut text = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    text(b"rbuild copy 1");
    text(op.destination.as_bytes());
    let mut has_context = false;
    for source in &op.sources {
        let CopySource::Path { input, path } = source else { continue };
        let directory: PathBuf = match sources.get(*input)?.context() {
            Some(context) => {
                has_context = true;
                context.directory().to_owned()
            }
            None => PathBuf::new(),
        };
        text(directory.as_os_str().as_encoded_bytes());
        text(path.as_bytes());
    }
    has_context.then(|| *hasher.finalize().as_bytes())
}
