//! What a RUN mounts: from what its inputs are to what the sandbox mounts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::tree::{TreeKind, TreeView};
use cache::{ActiveSnapshot, RecordKey, Replace, Snapshot, Store};
use sandbox::{MountKind, MountSpec, OverlaySpec, UpperSpec};
use solver::{ContentDigest, Input, InputKey, RunMountKind, RunOp, Selector};
use tokio_util::sync::CancellationToken;

use crate::WorkerError;
use crate::context::Context;
use crate::copy::{self, CopyError, SourceTree};
use crate::local::{Execution, LocalWorker, write_snapshot};
use crate::output::Output;

/// What an input of a RUN is made of.
pub(super) enum Source {
    /// A directory of this machine.
    Context(Arc<Context>),
    /// The files of a step or an image; none if there are not any.
    Snapshot(Option<Snapshot>),
}

impl Source {
    /// The sources of all inputs but the first, which no mount shows.
    pub(super) async fn all(
        worker: &LocalWorker,
        execution: &Execution<'_>,
    ) -> Result<Vec<Self>, WorkerError> {
        let mut sources = vec![Self::Snapshot(None)];
        for output in execution.inputs.iter().skip(1) {
            sources.push(match output {
                Output::Context(name) => Self::Context(worker.context(name).await?),
                other => Self::Snapshot(worker.snapshot_of(other).await?),
            });
        }
        Ok(sources)
    }
}

/// Makes the mounts of a RUN. Blocks.
pub(super) struct Preparation<'a> {
    pub(super) store: &'a Store,
    /// The inputs of the vertex, what they are made of, and what of them went into the key.
    pub(super) inputs: &'a [Input],
    pub(super) sources: &'a [Source],
    pub(super) digests: &'a [Option<ContentDigest>],
    /// Ends when the build is to stop.
    pub(super) cancel: &'a CancellationToken,
}

/// What is mounted, with what has to be there for as long as it is.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) specs: Vec<MountSpec>,
    /// What is written to them, or is in the place of what is not there; thrown away in the end.
    scratch: Vec<ActiveSnapshot>,
}

/// A file or a directory of a snapshot.
struct Part {
    snapshot: Option<Snapshot>,
    /// Its path from the root, without links.
    path: PathBuf,
}

impl Preparation<'_> {
    /// All mounts of `op`, in their order.
    pub(super) fn mounts(&self, op: &RunOp) -> Result<Mounts, WorkerError> {
        let mut mounts = Mounts::default();
        for mount in &op.mounts {
            let kind = match &mount.kind {
                RunMountKind::Inline { content, mode } => {
                    MountKind::File { content: content.clone(), mode: *mode, uid: 0, gid: 0 }
                }
                RunMountKind::Tmpfs { size_bytes, read_only } => {
                    MountKind::Tmpfs { size_bytes: *size_bytes, read_only: *read_only }
                }
                RunMountKind::Bind { input, read_only } => {
                    let part = self.part(*input)?;
                    let made = if *read_only { self.read_only(&part) } else { self.writable(&part) };
                    made.map(|(kind, scratch)| {
                        mounts.scratch.extend(scratch);
                        kind
                    })?
                }
            };
            mounts.specs.push(MountSpec { target: PathBuf::from(&mount.target), kind });
        }
        Ok(mounts)
    }

    /// What the selector of an input selects.
    fn part(&self, input: usize) -> Result<Part, WorkerError> {
        let InputKey::Content(selector) = &self.inputs[input].key else {
            unreachable!("a graph has no mount of an input by chain")
        };
        match &self.sources[input] {
            Source::Context(context) => {
                let digest = self.digests[input].expect("an input by content has a digest in the key");
                self.copied(context, selector, digest)
            }
            Source::Snapshot(snapshot) => self.found(*snapshot, selector),
        }
    }

    /// Finds what is selected of a snapshot.
    fn found(&self, snapshot: Option<Snapshot>, selector: &Selector) -> Result<Part, WorkerError> {
        let tree = match &snapshot {
            Some(snapshot) => {
                let directories = self.store.layer_dirs(snapshot)?;
                SourceTree::Snapshot(Arc::new(TreeView::open(&directories, self.store.tree_mode())?))
            }
            None => SourceTree::Empty,
        };
        let path = selector.paths.first().map_or("/", String::as_str);
        let found = tree.resolve(Path::new(path))?.ok_or_else(|| CopyError::NotFound {
            path: path.to_owned(),
            reference: tree.reference().to_owned(),
            ignored: false,
        })?;
        Ok(Part { snapshot, path: found.path })
    }

    /// Copies what is selected of a context, as a step must see neither what changes in it nor its owners. A copy of
    /// the same content and times will do, whenever it was made.
    fn copied(
        &self,
        context: &Arc<Context>,
        selector: &Selector,
        digest: ContentDigest,
    ) -> Result<Part, WorkerError> {
        let tree = SourceTree::Context(Arc::clone(context));
        let selection = copy::selection(&tree, selector, Some(digest))?;
        // One path without wildcards selects one thing, or it is an error.
        let node = &selection.sources[0].matches[0].node;
        let path = PathBuf::from(if node.is_directory() { "/" } else { copy::LONE_ENTRY });
        let record = RecordKey(copy::dated_digest(&digest, node));
        if let Some(snapshot) = self.store.lookup(&record)? {
            return Ok(Part { snapshot: Some(snapshot), path });
        }
        let snapshot = write_snapshot(self.store, None, |writer| {
            Ok(copy::copy_whole(&tree, node, writer, self.cancel)?)
        })?;
        let snapshot = self.store.save(&record, &[], &snapshot, Replace::No)?;
        Ok(Part { snapshot: Some(snapshot), path })
    }

    /// A mount that shows the part as it is.
    fn read_only(&self, part: &Part) -> Result<(MountKind, Option<ActiveSnapshot>), WorkerError> {
        let Some(snapshot) = &part.snapshot else {
            let empty = self.store.prepare(None)?;
            let source = empty.upper().to_owned();
            return Ok((MountKind::Bind { source, read_only: true }, Some(empty)));
        };
        let mut lower_dirs = self.store.layer_dirs(snapshot)?;
        let TreeKind::Overlay { user_xattrs } = self.store.tree_mode().kind else {
            let source = beneath(&lower_dirs[0], &part.path);
            return Ok((MountKind::Bind { source, read_only: true }, None));
        };
        // Even a single directory may have marks of overlay in it, and two make one without an upper directory.
        let mut empty = None;
        if lower_dirs.len() == 1 {
            lower_dirs.push(empty.insert(self.store.prepare(None)?).upper().to_owned());
        }
        let overlay = OverlaySpec { lower_dirs, upper: None, user_xattrs };
        Ok((MountKind::Overlay { overlay, source: part.path.clone() }, empty))
    }

    /// A mount that takes writes, which go nowhere in the end.
    fn writable(&self, part: &Part) -> Result<(MountKind, Option<ActiveSnapshot>), WorkerError> {
        let scratch = self.store.prepare(part.snapshot.as_ref())?;
        let kind = match self.store.tree_mode().kind {
            TreeKind::Overlay { user_xattrs } if !scratch.lower_dirs().is_empty() => {
                let upper = UpperSpec { directory: scratch.upper().to_owned(), work: scratch.work_dir()? };
                let lower_dirs = scratch.lower_dirs().to_vec();
                let overlay = OverlaySpec { lower_dirs, upper: Some(upper), user_xattrs };
                MountKind::Overlay { overlay, source: part.path.clone() }
            }
            _ => MountKind::Bind { source: beneath(scratch.upper(), &part.path), read_only: false },
        };
        Ok((kind, Some(scratch)))
    }
}

/// The path on this machine of what is at `path` in the tree in `directory`.
fn beneath(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path.strip_prefix("/").unwrap_or(path))
}
