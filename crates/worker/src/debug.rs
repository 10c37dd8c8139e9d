//! Looking into steps while a build goes on.

use std::fmt;
use std::pin::Pin;

use solver::{ExecContext, RunOp, VertexId};

use crate::{Scene, WorkerError};

/// What a [`Debugger`] answers in time.
pub type Looking<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Is shown steps before they are executed, and RUNs whose process has failed, on what they run on. It is asked for many
/// vertices at once. The step's claim, its permit and its caches are held meanwhile; other steps go on.
pub trait Debugger: fmt::Debug + Send + Sync {
    /// Whether the build is to stop before `vertex` is executed, and as what the debugger wants to run programs there. Its
    /// mounts are those of the vertex, or none.
    fn stops_before(&self, vertex: VertexId) -> Looking<'_, Option<RunOp>>;

    /// Looks at the files before a vertex is executed, which gets them as they were. An error fails the vertex.
    fn before<'a>(
        &'a self,
        scene: Scene,
        context: &'a ExecContext,
    ) -> Looking<'a, (Scene, Result<(), WorkerError>)>;

    /// Looks at the files as the process of a RUN left them that failed with `error`. Gives back the scene.
    fn after_failure<'a>(
        &'a self,
        scene: Scene,
        context: &'a ExecContext,
        error: &'a WorkerError,
    ) -> Looking<'a, Scene>;
}
