//! The image that a command is run in: from the store, or pulled.

use std::sync::Arc;

use cache::{ImageTag, Store};
use oci::{ContainerConfig, Digest, Platform};
use solver::{GraphBuilder, ImageLocation, ImageOp, Op, SolveError, SolveOptions, VertexId, VertexMeta};
use worker::{LazyImage, LocalWorker, Output, PullPolicy, ResolvedImage, WorkerError};

use super::flags::RunArguments;
use crate::images::{Named, Pull, fetch_missing, find, platform, pull_image, reference, unknown};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{self, Failure, FailureKind};
use crate::session::blocking;

/// What is looked for, and what with.
pub(super) struct Search<'a> {
    pub(super) arguments: &'a RunArguments,
    pub(super) store: &'a Store,
    pub(super) client: &'a registry::Client,
    pub(super) worker: &'a LocalWorker,
    pub(super) progress: &'a Arc<Progress>,
}

/// An image in which something can be run.
pub(super) struct Ready {
    pub(super) config: ContainerConfig,
    pub(super) platform: Platform,
    pub(super) output: Output,
    pub(super) vertex: VertexId,
    /// The name of the machine that the command believes to be on.
    pub(super) hostname: String,
}

impl Search<'_> {
    pub(super) async fn find(&self, interrupt: &Interrupt) -> Result<Ready, Failure> {
        let name = &self.arguments.words[0];
        let asked = platform(self.arguments.platform.as_deref())?;
        let wanted = asked.clone().unwrap_or_else(Platform::host);
        let resolved = match self.local(name, &wanted, asked.is_some()).await? {
            Some(resolved) => resolved,
            None => self.pulled(name, &wanted).await?,
        };
        if let Some(warning) = resolved.warning.as_ref().filter(|_| asked.is_none()) {
            self.progress.note(&format!("WARNING: {warning}\n"));
        }
        fetch_missing(self.store, self.worker.images(), &resolved, self.progress).await?;
        let (vertex, output) = self.output(&resolved, interrupt).await?;
        let run = self.store.run_directory().to_string_lossy().into_owned();
        Ok(Ready {
            config: resolved.config.config,
            platform: resolved.source.platform,
            output,
            vertex,
            hostname: Digest::sha256(run.as_bytes()).hex().chars().take(12).collect(),
        })
    }

    /// The image of the store, if it is there and will do.
    async fn local(
        &self,
        name: &str,
        wanted: &Platform,
        is_strict: bool,
    ) -> Result<Option<ResolvedImage>, Failure> {
        if matches!(self.arguments.pull, PullPolicy::Always | PullPolicy::Newer) {
            return Ok(None);
        }
        let found = self.tag(name).await?;
        let Some(tag) = found else {
            return match self.arguments.pull {
                PullPolicy::Never => Err(unknown(name)),
                _ => Ok(None),
            };
        };
        let resolved = self.resolve(&tag, wanted, name).await?;
        // Of another platform it may be there because that was asked for the last time.
        let serves = !is_strict || resolved.source.platform.matches(wanted);
        Ok(Some(resolved).filter(|_| serves || self.arguments.pull == PullPolicy::Never))
    }

    async fn tag(&self, name: &str) -> Result<Option<ImageTag>, Failure> {
        let (store, name) = (self.store.clone(), name.to_owned());
        blocking(move || Ok(find(&store, &name)?.map(Named::first))).await
    }

    async fn resolve(&self, tag: &ImageTag, wanted: &Platform, name: &str) -> Result<ResolvedImage, Failure> {
        let location = ImageLocation::Store(tag.reference.clone());
        self.worker.images().resolve(&location, wanted, name).await.map_err(|error| {
            let hint = error.hint();
            Failure::from_error(FailureKind::NotRun, &error).with_hints(hint)
        })
    }

    async fn pulled(&self, name: &str, wanted: &Platform) -> Result<ResolvedImage, Failure> {
        let reference = reference(name)?;
        let pull = Pull {
            store: self.store,
            client: self.client,
            reference: &reference,
            name,
            platform: wanted,
            progress: self.progress,
        };
        let pulled = pull_image(&pull).await;
        match (pulled, self.arguments.pull) {
            (Ok(resolved), _) => Ok(resolved),
            (Err(failure), PullPolicy::Newer) => match self.tag(name).await? {
                Some(tag) => self.resolve(&tag, wanted, name).await,
                None => Err(failure),
            },
            (Err(failure), _) => Err(failure),
        }
    }

    /// The files of the image, which are unpacked when they are needed.
    async fn output(
        &self,
        resolved: &ResolvedImage,
        interrupt: &Interrupt,
    ) -> Result<(VertexId, Output), Failure> {
        let failed =
            |error: &WorkerError| Failure::from_error(FailureKind::NotRun, error).with_hints(error.hint());
        let image = LazyImage::of(&resolved.source, &resolved.manifest, &resolved.config)
            .map_err(|error| Failure::from_error(FailureKind::NotRun, &error))?;
        let mut graph = GraphBuilder::new();
        let op = match image.chain_ids.last() {
            Some(chain) => Op::Image(ImageOp { chain_id: chain.clone(), source: resolved.source.clone() }),
            None => Op::Scratch,
        };
        let meta =
            VertexMeta { name: format!("unpacking {}", resolved.source.name), ..VertexMeta::default() };
        let vertex = graph
            .add(op, Vec::new(), meta)
            .map_err(|error| Failure::new(FailureKind::NotRun, error.to_string()))?;
        let graph = Arc::new(graph.finish());
        let options = SolveOptions {
            parallelism: 1,
            salt: Vec::new(),
            cancel: interrupt.token().clone(),
            events: Arc::new(|_| {}),
        };
        let solved = solver::solve(graph, &[vertex], Arc::new(self.worker.clone()), options).await;
        let solved = solved.map_err(|error| match &error {
            SolveError::Vertex { error, .. } => failed(error),
            other => Failure::new(FailureKind::NotRun, report::chain(other)),
        })?;
        let output = solved.outputs.into_iter().next().expect("there is one for each target");
        Ok((vertex, output))
    }
}
