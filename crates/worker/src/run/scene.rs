//! What a RUN runs on: files, mounts and surroundings, for the process of the step and for those who look into it.

use std::path::Path;
use std::sync::Arc;

use cache::tree::{FileKind, Follow, TreeKind, TreeView};
use cache::{ActiveSnapshot, Snapshot, Store};
use sandbox::{Console, Emulation, MountSpec, OwnerChanges, ProcessSpec, RootAccess, RootFs, Running};
use solver::{ExecContext, RunOp};

use super::caches::Caches;
use super::mounts::{Mounts, Preparation};
use super::network::Place;
use super::removals::Removals;
use super::{one_id, process_spec};
use crate::local::{Execution, blocking};
use crate::{LocalWorker, Output, WorkerError, user};

/// Everything that a scene is made of.
pub(super) struct Setup {
    pub(super) preparation: Arc<Preparation>,
    pub(super) command: Arc<str>,
    caches: Caches,
    parent: Option<Snapshot>,
    op: RunOp,
    place: Place,
    worker: LocalWorker,
}

impl Setup {
    /// Gets hold of what `op` takes from the inputs of an execution, and of its caches.
    pub(super) async fn new(
        worker: &LocalWorker,
        op: &RunOp,
        execution: &Execution<'_>,
    ) -> Result<Self, WorkerError> {
        let parent = worker.snapshot_of(execution.inputs.first().unwrap_or(&Output::Scratch)).await?;
        let preparation = Arc::new(Preparation::new(worker, op, execution).await?);
        let caches = Caches::take(&preparation, op, execution.context).await?;
        let place = worker.networks().take(op, execution.context).await?;
        Ok(Self { caches, ..Self::bare(worker, preparation, parent, (op, place)) })
    }

    /// The same for an `op` without mounts.
    fn bare(
        worker: &LocalWorker,
        preparation: Arc<Preparation>,
        parent: Option<Snapshot>,
        (op, place): (&RunOp, Place),
    ) -> Self {
        Self {
            preparation,
            command: op.args.join(" ").into(),
            caches: Caches::default(),
            parent,
            op: op.clone(),
            place,
            worker: worker.clone(),
        }
    }

    /// Makes the scene. Blocks.
    pub(super) fn scene(self) -> Result<Scene, WorkerError> {
        let Self { preparation, command, caches, parent, op, place, worker } = self;
        let store = &preparation.store;
        let view = match &parent {
            Some(parent) => Some(TreeView::open(&store.layer_dirs(parent)?, store.tree_mode())?),
            None => None,
        };
        let user = user::process_user(view.as_ref(), &op.user)
            .map_err(|cause| WorkerError::ProcessUser { command: command.to_string(), cause })?;
        one_id::check(store, &user, &command)?;
        let apt = match worker.owner_changes() {
            OwnerChanges::Ignored => one_id::apt_stays_root(view.as_ref())?,
            OwnerChanges::Made => None,
        };
        drop(view);
        let mut mounts = preparation.mounts(&op, caches)?;
        let active = store.prepare(parent.as_ref())?;
        let mut spec = process_spec(root_file_system(store, &active)?, &op, &user, &place);
        spec.cgroup_limits = worker.limits().clone();
        spec.owner_changes = worker.owner_changes();
        spec.emulation = worker
            .emulators()
            .emulation(&op.platform)
            .map_err(|cause| WorkerError::Sandbox { command: command.to_string(), cause })?;
        spec.mounts = std::mem::take(&mut mounts.specs);
        spec.mounts.extend(apt);
        if !op.devices.is_empty() {
            let given = worker.devices().give(&op.devices, &mut spec);
            given.map_err(|cause| WorkerError::Device { command: command.to_string(), cause })?;
        }
        spec.env.extend(preparation.variables(&op));
        let removals = Arc::clone(worker.removals());
        Ok(Scene { preparation, command, active, mounts, spec, place, removals, is_used: false })
    }
}

fn root_file_system(store: &Store, active: &ActiveSnapshot) -> Result<RootFs, WorkerError> {
    Ok(match store.tree_mode().kind {
        TreeKind::Plain => RootFs::Directory(active.upper().to_owned()),
        TreeKind::Overlay { user_xattrs } => RootFs::Overlay {
            lower_dirs: active.lower_dirs().to_vec(),
            upper: active.upper().to_owned(),
            work: active.work_dir()?,
            user_xattrs,
        },
    })
}

/// The files, mounts, environment and user of a step. Several processes can be run in it, one after the other: each finds
/// the files as the one before left them. A tmpfs is empty again each time. What is written to caches stays; all the rest
/// is thrown away unless the step makes a snapshot of it.
pub struct Scene {
    pub(super) preparation: Arc<Preparation>,
    pub(super) command: Arc<str>,
    active: ActiveSnapshot,
    mounts: Mounts,
    spec: ProcessSpec,
    place: Place,
    removals: Arc<Removals>,
    /// Whether its overlays have been mounted.
    is_used: bool,
}

/// What is run in a scene, if not its step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub args: Vec<Vec<u8>>,
    /// Variables for it where the step has none of the name: `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Mounts on top of those of the step.
    pub mounts: Vec<MountSpec>,
    /// What it may do to the files of the scene.
    pub root_access: RootAccess,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Scene {
    /// Whether there is a file that may be executed, links followed. Blocks.
    pub fn has_program(&self, path: &Path) -> Result<bool, WorkerError> {
        let mut dirs = vec![self.active.upper().to_owned()];
        dirs.extend_from_slice(self.active.lower_dirs());
        let view = TreeView::open(&dirs, self.preparation.store.tree_mode())?;
        let entry = view.entry(&view.resolve(path, Follow::All)?)?;
        Ok(entry.is_some_and(|entry| entry.kind == FileKind::File && entry.mode & 0o111 != 0))
    }

    /// Runs another program in it. Blocks for some milliseconds.
    pub fn spawn(&mut self, program: Program, console: Console<'_>) -> Result<Running, WorkerError> {
        self.renew()?;
        let Program { args, mut env, mounts, root_access } = program;
        env.extend_from_slice(&self.spec.env);
        let mut spec = ProcessSpec { args, env, root_access, ..self.spec.clone() };
        spec.mounts.extend(mounts);
        self.run(&spec, console)
    }

    /// How programs of its platform are executed.
    pub(super) fn emulation(&self) -> &Emulation {
        &self.spec.emulation
    }

    /// Runs the program of the step. Blocks for some milliseconds.
    pub(super) fn start(mut self) -> Result<(Self, Running), WorkerError> {
        self.is_used = true;
        let running = self.run(&self.spec, Console::Output)?;
        Ok((self, running))
    }

    fn run(&self, spec: &ProcessSpec, console: Console<'_>) -> Result<Running, WorkerError> {
        sandbox::spawn_on(spec, console)
            .map_err(|cause| WorkerError::Sandbox { command: self.command.to_string(), cause })
    }

    /// Overlays cannot be mounted twice with one work directory.
    fn renew(&mut self) -> Result<(), WorkerError> {
        if std::mem::replace(&mut self.is_used, true) {
            if let RootFs::Overlay { work, .. } = &mut self.spec.rootfs {
                *work = self.active.work_dir()?;
            }
            self.mounts.renew(&mut self.spec.mounts)?;
        }
        Ok(())
    }

    /// Makes a snapshot of the files where all went well. Blocks.
    pub(super) fn end(self, outcome: Result<(), WorkerError>) -> Result<Snapshot, WorkerError> {
        // Also what is thrown away takes its time. Agents are there until now.
        drop((self.place, self.mounts, self.preparation));
        outcome?;
        self.removals.remove(self.active.take_work_dirs());
        Ok(self.active.commit()?)
    }
}

impl LocalWorker {
    /// What `op`, a RUN without mounts, would run on with the files of `output`. Nothing of it is kept.
    pub async fn scene(
        &self,
        output: &Output,
        op: &RunOp,
        context: &ExecContext,
    ) -> Result<Scene, WorkerError> {
        let parent = self.snapshot_for_export(output, &context.cancel).await?;
        let place = self.networks().take(op, context).await?;
        let preparation = Arc::new(Preparation::bare(self.store().clone(), context.cancel.clone()));
        let setup = Setup::bare(self, preparation, parent, (op, place));
        blocking(move || setup.scene()).await
    }
}
