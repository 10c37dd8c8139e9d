//! The digest of what a copy selects.
//!
//! Written format, version 1; numbers are little endian, texts and lists begin with their length as eight bytes:
//!
//! - selection: `rbuild content 1`, then the list of sources, each a list of matches;
//! - match: 1 and the name if a wildcard brought it about, else 0; then the 32 bytes of the node;
//! - node, hashed by itself: a byte for the kind (`f`, `d`, `l`, `p`, `c`, `b`), 1 if it is selected itself (else 0,
//!   a directory above something selected), mode, uid and gid (four bytes each, zeros for a link's mode), major and
//!   minor number, the list of extended attributes (name, value); then
//!   - file: 1 and the path of its first name if it is a further name of an inode, else 0 and the digest of its bytes,
//!   - link: its target,
//!   - directory: the list of its entries, each its name and the 32 bytes of its node.
//!
//! Times are in no digest, and neither is the name or the path of what is selected without wildcards.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use blake3::Hasher;
use cache::tree::FileKind;
use cache::{Snapshot, SnapshotId, Store};
use rayon::prelude::*;
use solver::{ContentDigest, Selector};

use super::select::{Node, Selection, select};
use super::share::known_content;
use super::source::SourceTree;
use super::{CopyError, is_worth_threads};

/// Bytes read at a time: large enough for the hash to use its vector instructions.
const BUFFER_BYTES: usize = 128 << 10;

/// The digest of what `selector` selects in `source`. A context keeps the selection for the copy that follows.
pub(crate) fn content_digest(source: &SourceTree, selector: &Selector) -> Result<ContentDigest, CopyError> {
    let (digest, selection) = digest_of(source, selector)?;
    if let Some(context) = source.context() {
        context.keep(selector.digest(), digest, Arc::new(selection));
    }
    Ok(digest)
}

/// The same for a snapshot, remembered in the store.
pub(crate) fn snapshot_digest(
    store: &Store,
    snapshot: &Snapshot,
    selector: &Selector,
    kept: &Selections,
) -> Result<ContentDigest, CopyError> {
    let name = selector.digest();
    if let Some(digest) = store.content_digest(&snapshot.id, &name)? {
        return Ok(ContentDigest(digest));
    }
    let (digest, selection) = digest_of(&SourceTree::open(store, snapshot)?, selector)?;
    store.set_content_digest(&snapshot.id, &name, &digest.0)?;
    kept.keep(snapshot.id, name, Arc::new(selection));
    Ok(digest)
}

/// A digest of what `node` is, which has the digest `content`, and of all times in it. What is kept of a context under
/// it looks to programs that compare times (make) like the context itself.
pub(crate) fn dated_digest(content: &ContentDigest, node: &Node) -> [u8; 32] {
    fn add(hasher: &mut Hasher, node: &Node) {
        let time = node.mtime.unwrap_or_default();
        hasher.update(&time.seconds.to_le_bytes());
        hasher.update(&time.nanoseconds.to_le_bytes());
        for (_, child) in &node.children {
            add(hasher, child);
        }
    }
    let mut hasher = Hasher::new();
    hasher.update(b"rbuild dated content 1");
    hasher.update(&content.0);
    add(&mut hasher, node);
    *hasher.finalize().as_bytes()
}

/// How many selections are kept: the copies that follow the digests come soon, if at all.
const SELECTIONS_KEPT: usize = 4;

/// What was selected in snapshots for digests, kept for the copies that follow, which need not walk again.
#[derive(Debug, Default)]
pub(crate) struct Selections(Mutex<VecDeque<Kept>>);

/// Of which snapshot, by the digest of which selector, what.
type Kept = (SnapshotId, [u8; 32], Arc<Selection>);

impl Selections {
    fn keep(&self, snapshot: SnapshotId, selector: [u8; 32], selection: Arc<Selection>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == SELECTIONS_KEPT {
            kept.pop_front();
        }
        kept.push_back((snapshot, selector, selection));
    }

    /// What `selector` selects in a snapshot, if that is kept; it no longer is then.
    pub(crate) fn take(&self, snapshot: SnapshotId, selector: &Selector) -> Option<Arc<Selection>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let selector = selector.digest();
        let found = kept.iter().position(|(of, by, _)| (*of, *by) == (snapshot, selector))?;
        kept.remove(found).map(|(.., selection)| selection)
    }
}

/// What `selector` selects in `source`, with its digest.
pub(crate) fn digest_of(
    source: &SourceTree,
    selector: &Selector,
) -> Result<(ContentDigest, Selection), CopyError> {
    let mut selection = select(source, selector)?;
    let mut hasher = Hasher::new();
    hasher.update(b"rbuild content 1");
    count(&mut hasher, selection.sources.len());
    for selected in &mut selection.sources {
        count(&mut hasher, selected.matches.len());
        for found in &mut selected.matches {
            hasher.update(&[u8::from(found.is_name_found)]);
            if found.is_name_found {
                text(&mut hasher, found.name.as_bytes());
            }
            hasher.update(&node_digest(source, &mut found.node)?);
        }
    }
    Ok((ContentDigest(*hasher.finalize().as_bytes()), selection))
}

/// The digest of a node, with the digests of all files below it filled in.
fn node_digest(source: &SourceTree, node: &mut Node) -> Result<[u8; 32], CopyError> {
    let mut hasher = Hasher::new();
    header(&mut hasher, node);
    match node.entry.kind {
        FileKind::File => {
            hasher.update(&[u8::from(node.same_as.is_some())]);
            if let Some(first) = &node.same_as {
                text(&mut hasher, first.as_os_str().as_bytes());
            } else {
                let digest = file_digest(source, node)?;
                hasher.update(&digest);
                node.content = Some(digest);
            }
        }
        FileKind::Symlink => {
            let target = node.target.as_deref().unwrap_or(std::path::Path::new(""));
            text(&mut hasher, target.as_os_str().as_bytes());
        }
        FileKind::Directory => {
            let digests = children_digests(source, node)?;
            count(&mut hasher, digests.len());
            for ((name, _), digest) in node.children.iter().zip(&digests) {
                text(&mut hasher, name.as_bytes());
                hasher.update(digest);
            }
        }
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The digests of what is in a directory.
fn children_digests(source: &SourceTree, node: &mut Node) -> Result<Vec<[u8; 32]>, CopyError> {
    let directories = node.children.iter().filter(|(_, child)| child.is_directory()).take(2).count();
    if is_worth_threads(node.children.len(), directories) {
        node.children.par_iter_mut().map(|(_, child)| node_digest(source, child)).collect()
    } else {
        node.children.iter_mut().map(|(_, child)| node_digest(source, child)).collect()
    }
}

/// Hashes what every kind of node has.
fn header(hasher: &mut Hasher, node: &Node) {
    let kind = match node.entry.kind {
        FileKind::File | FileKind::Socket => b'f',
        FileKind::Directory => b'd',
        FileKind::Symlink => b'l',
        FileKind::Fifo => b'p',
        FileKind::CharDevice => b'c',
        FileKind::BlockDevice => b'b',
    };
    hasher.update(&[kind, u8::from(node.is_included)]);
    let mode = if node.entry.kind == FileKind::Symlink { 0 } else { node.entry.mode };
    let (major, minor) = node.entry.rdev;
    for number in [mode, node.entry.uid, node.entry.gid, major, minor] {
        hasher.update(&number.to_le_bytes());
    }
    count(hasher, node.xattrs.len());
    for (name, value) in &node.xattrs {
        text(hasher, name.as_bytes());
        text(hasher, value);
    }
}

/// Hashes a number.
fn count(hasher: &mut Hasher, number: usize) {
    hasher.update(&(number as u64).to_le_bytes());
}

/// Hashes bytes of any length.
fn text(hasher: &mut Hasher, bytes: &[u8]) {
    count(hasher, bytes.len());
    hasher.update(bytes);
}

/// The digest of the bytes of a file, from the stat cache if it is a context's file that has not changed.
fn file_digest(source: &SourceTree, node: &Node) -> Result<[u8; 32], CopyError> {
    if node.is_socket {
        return Ok(*blake3::hash(b"").as_bytes());
    }
    let view = source.view().expect("a node comes from a tree");
    if let SourceTree::Snapshot(tree) = source
        && let Some(digest) = known_content(tree, &node.path)?
    {
        return Ok(digest);
    }
    let Some(context) = source.context() else {
        return hash_file(&view.open_seen_file(&node.path)?, node);
    };
    if let Some(digest) = context.stats.digest(&node.entry) {
        return Ok(digest);
    }
    let started = context.stats.now();
    let file = view.open_seen_file(&node.path)?;
    let digest = hash_file(&file, node)?;
    let after = view.entry(&node.path)?;
    let is_same = after.is_some_and(|after| {
        let stamp = |entry: &cache::tree::Entry| (entry.dev, entry.ino, entry.size, entry.mtime, entry.ctime);
        stamp(&after) == stamp(&node.entry)
    });
    if is_same {
        context.stats.remember(&file, &node.entry, started, digest);
    }
    Ok(digest)
}

/// Hashes all bytes of an open file.
fn hash_file(mut file: &File, node: &Node) -> Result<[u8; 32], CopyError> {
    let read_error = |source: io::Error| CopyError::Read { path: node.path.clone(), source };
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = None;
        loop {
            let filled = fill(&mut file, buffer).map_err(read_error)?;
            let piece = &buffer[..filled];
            if filled == buffer.len() {
                hasher.get_or_insert_with(Hasher::new).update(piece);
                continue;
            }
            let digest = match hasher {
                // Most files are one piece, and that is hashed faster at once.
                None => blake3::hash(piece),
                Some(mut hasher) => hasher.update(piece).finalize(),
            };
            return Ok(*digest.as_bytes());
        }
    })
}

thread_local! {
    /// Clearing a new buffer for each file would take as long as reading it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads until the buffer is full or the file at its end.
fn fill(file: &mut &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
