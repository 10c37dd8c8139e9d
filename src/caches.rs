//! `--cache-from` and `--cache-to`: caches that lie elsewhere.

use std::ops::Range;
use std::sync::Arc;

use cache::Store;
use exporter::{
    CacheBuild, CacheBuildLayer, CacheBuildMount, CacheExport, CacheFlagError, CacheImport, CacheMode,
    CacheMounts, ExportPlace, ImageSet, ImportPlace, LayerFetcher, LayerOrigin, MountOrigin, PushMeans,
};
use oci::{CacheConfig, CacheHash, Descriptor, InlineCache};
use registry::RegistryError;
use solver::{ExecContext, Graph, ImageLocation, Solved, VertexId};
use tokio_util::sync::CancellationToken;
use worker::{
    CarriedResults, CarryMode, CarryRequest, ImageError, ImageStore, Import, ImportSource, Imports,
    LocalWorker, MountContent, MountFilter, Output,
};

use crate::arguments::BuildArguments;
use crate::export::{Outputs, failure, origin};
use crate::progress::{Progress, StepNumber};
use crate::report::{self, Failure, FailureKind};
use crate::resolver::BuildFetcher;
use crate::session::blocking;

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    imports: Vec<CacheImport>,
    exports: Vec<CacheExport>,
}

impl Caches {
    /// Reads `--cache-from` and `--cache-to`.
    pub(crate) fn of(arguments: &BuildArguments, outputs: &Outputs) -> Result<Self, Failure> {
        let mut caches = Self::default();
        for text in &arguments.cache.cache_from {
            caches.imports.extend(exporter::parse_cache_import(text).map_err(|error| mistake(&error))?);
        }
        for text in &arguments.cache.cache_to {
            caches.exports.extend(exporter::parse_cache_export(text).map_err(|error| mistake(&error))?);
        }
        if caches.is_inline() && outputs.squash() {
            return Err(Failure::usage("`--squash` and `--cache-to type=inline` exclude each other")
                .with_hint("`type=registry` carries the layers as they are"));
        }
        if caches.is_inline() && !outputs.make_an_image() {
            return Err(Failure::usage("`type=inline` puts the cache into the image, and no output is one")
                .with_hint("name the image with `-t`"));
        }
        Ok(caches)
    }

    /// Whether one of them is in a registry.
    pub(crate) fn need_registry(&self) -> bool {
        let is_read = |import: &CacheImport| matches!(import.place, ImportPlace::Registry { .. });
        let is_written = |export: &CacheExport| matches!(export.place, ExportPlace::Registry { .. });
        self.imports.iter().any(is_read) || self.exports.iter().any(is_written)
    }

    fn is_inline(&self) -> bool {
        self.exports.iter().any(|export| export.place == ExportPlace::Inline)
    }

    /// Begins to read the caches that are there, side by side.
    pub(crate) fn begin_imports(
        &self,
        store: &Store,
        client: &registry::Client,
        progress: &Arc<Progress>,
    ) -> Arc<Imports> {
        let mut tasks = Vec::new();
        for import in &self.imports {
            let client = match &import.place {
                ImportPlace::Registry { reference, insecure: true } => {
                    client.with_insecure(std::slice::from_ref(reference))
                }
                _ => client.clone(),
            };
            let images = ImageStore::new(store.clone(), client);
            let (source, progress) = (source_of(import), Arc::clone(progress));
            tasks.push(tokio::spawn(async move { read(&images, &source, &progress).await }));
        }
        Arc::new(Imports::new(tasks))
    }
}

fn mistake(error: &CacheFlagError) -> Failure {
    Failure::from_error(FailureKind::Usage, error).with_hints(error.hint())
}

fn source_of(import: &CacheImport) -> ImportSource {
    let (location, name) = match &import.place {
        ImportPlace::Registry { reference, .. } => {
            (ImageLocation::Registry(reference.clone()), reference.to_string())
        }
        ImportPlace::Local { directory, tag_or_digest } => {
            let location =
                ImageLocation::OciLayout { path: directory.clone(), tag_or_digest: tag_or_digest.clone() };
            (location, format!("local:{}", directory.display()))
        }
    };
    ImportSource { location, name, mounts: mounts_of(&import.mounts) }
}

fn mounts_of(mounts: &CacheMounts) -> MountFilter {
    match mounts {
        CacheMounts::None => MountFilter::None,
        CacheMounts::All => MountFilter::All,
        CacheMounts::Ids(ids) => MountFilter::Ids(ids.clone()),
    }
}

/// A cache that is not there is no reason to fail: the build takes longer.
async fn read(images: &ImageStore, source: &ImportSource, progress: &Progress) -> Vec<Import> {
    let step = progress.begin(format!("importing cache manifest from {}", source.name));
    match Import::read(images, source).await {
        Ok(found) => {
            progress.done(step);
            found
        }
        Err(error) => {
            let kind = match source.location {
                ImageLocation::OciLayout { .. } => "local",
                ImageLocation::Registry(_) | ImageLocation::Store(_) => "registry",
            };
            let cause = match &error {
                ImageError::Registry { source: cause, .. } if is_missing(cause) => {
                    format!("{}: not found", source.name)
                }
                other => report::chain(other),
            };
            progress.failed(step, &format!("failed to configure {kind} cache importer: {cause}"));
            Vec::new()
        }
    }
}

fn is_missing(error: &RegistryError) -> bool {
    matches!(error, RegistryError::NotFound { .. })
}

/// A build that has been solved, and where its cache goes.
pub(crate) struct Carrying<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) progress: &'a Arc<Progress>,
    pub(crate) store: &'a Store,
    pub(crate) client: &'a registry::Client,
    pub(crate) worker: &'a LocalWorker,
    pub(crate) graph: &'a Graph,
    pub(crate) targets: &'a [VertexId],
    pub(crate) solved: &'a Solved<Output>,
    pub(crate) epoch: Option<i64>,
    pub(crate) cancel: &'a CancellationToken,
}

impl Carrying<'_> {
    /// What the image of the target with this number is to carry.
    pub(crate) async fn inline(&self, number: usize) -> Result<Option<InlineCache>, Failure> {
        if !self.caches.is_inline() {
            return Ok(None);
        }
        let step = self.progress.begin("preparing layers for inline cache");
        let gathered = self.gather(number..number + 1, CarryMode::Min, MountFilter::None).await;
        self.end(step, gathered.as_ref().err());
        Ok(Some(InlineCache { version: CacheConfig::VERSION, records: gathered?.records }))
    }

    /// Carries the cache to all places but the image. Gives the manifest of the last one.
    pub(crate) async fn export(&self) -> Result<Option<Descriptor>, Failure> {
        let mut manifest = None;
        for export in &self.caches.exports {
            let step = match &export.place {
                ExportPlace::Registry { .. } => self.progress.begin("exporting cache to registry"),
                ExportPlace::Local { .. } => self.progress.begin("exporting cache to client directory"),
                ExportPlace::Inline => continue,
            };
            let exported = self.export_to(export, step).await;
            self.end(step, exported.as_ref().err());
            match exported {
                Ok(descriptor) => manifest = Some(descriptor),
                Err(_) if export.ignore_error => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(manifest)
    }

    fn end(&self, step: StepNumber, failure: Option<&Failure>) {
        match failure {
            None => self.progress.done(step),
            Some(failure) => self.progress.failed(step, failure.cause()),
        }
    }

    async fn export_to(&self, export: &CacheExport, step: StepNumber) -> Result<Descriptor, Failure> {
        self.progress.line(step, "preparing build cache for export");
        let mode = match export.mode {
            CacheMode::Min => CarryMode::Min,
            CacheMode::Max => CarryMode::Max,
        };
        let build =
            build_of(self.gather(0..self.targets.len(), mode, mounts_of(&export.mounts)).await?, self.epoch);
        let form = export.form;
        let (worker, progress) = (self.worker.clone(), Progress::clone(self.progress));
        let fetcher: Arc<dyn LayerFetcher> = Arc::new(BuildFetcher { worker, progress, step });
        let changed = layers_of(&build).filter(|layer| form.changes(layer));
        exporter::fetch_blobs(self.store, changed, &fetcher).await.map_err(|error| failure(&error))?;
        let store = self.store.clone();
        let assembled = blocking(move || exporter::assemble_cache(&store, build, form)).await;
        let assembled = assembled.map_err(|error| failure(&error))?;
        let descriptor = assembled.descriptor.clone();
        self.progress.line(step, &format!("writing config {} done", assembled.config_descriptor.digest));
        let assembled = ImageSet::from(assembled);
        let written = match &export.place {
            ExportPlace::Registry { reference, insecure } => {
                let names = std::slice::from_ref(reference);
                let client = if *insecure { self.client.with_insecure(names) } else { self.client.clone() };
                let means =
                    PushMeans { store: self.store, client: &client, fetcher: &fetcher, streams: None };
                exporter::push(means, &assembled, names).await
            }
            ExportPlace::Local { directory, tag, reset } => {
                exporter::fetch_layers(self.store, &assembled, &fetcher)
                    .await
                    .map_err(|error| failure(&error))?;
                let (store, directory, tag, reset) =
                    (self.store.clone(), directory.clone(), tag.clone(), *reset);
                blocking(move || exporter::write_cache_layout(&store, &assembled, (&directory, &tag), reset))
                    .await
            }
            ExportPlace::Inline => Ok(()),
        };
        written.map_err(|error| failure(&error))?;
        self.progress.line(step, &format!("writing cache image manifest {} done", descriptor.digest));
        Ok(descriptor)
    }

    async fn gather(
        &self,
        targets: Range<usize>,
        mode: CarryMode,
        mounts: MountFilter,
    ) -> Result<CarriedResults, Failure> {
        let progress = Arc::clone(self.progress);
        let request = CarryRequest {
            graph: self.graph,
            targets: &self.targets[targets.clone()],
            outputs: &self.solved.outputs[targets],
            keys: &self.solved.vertex_keys,
            contents: &self.solved.contents,
            mode,
            mounts,
            context: ExecContext {
                vertex: self.targets[0],
                cancel: self.cancel.clone(),
                events: Arc::new(move |event| progress.event(event)),
            },
        };
        let gathered = self.worker.gather(&request).await;
        gathered
            .map_err(|error| Failure::from_error(report::kind_of(&error), &error).with_hints(error.hint()))
    }
}

fn build_of(results: CarriedResults, epoch: Option<i64>) -> CacheBuild {
    let layers = results.layers.into_iter();
    let layers = layers.map(|layer| CacheBuildLayer { parent: layer.parent, origin: origin(layer.layer) });
    let mounts = results.mounts.into_iter().map(|mount| CacheBuildMount {
        id: mount.key.id,
        beginning: CacheHash(mount.key.beginning),
        content: match mount.content {
            MountContent::Directory(directory) => MountOrigin::Directory(directory),
            MountContent::Layer { descriptor, diff_id } => MountOrigin::Layer { diff_id, descriptor },
        },
    });
    CacheBuild { layers: layers.collect(), records: results.records, mounts: mounts.collect(), epoch }
}

/// The layers that have been compressed before.
fn layers_of(build: &CacheBuild) -> impl Iterator<Item = &Descriptor> {
    let layers = build.layers.iter().filter_map(|layer| match &layer.origin {
        LayerOrigin::Image { descriptor, .. } => Some(descriptor),
        LayerOrigin::Snapshot(_) | LayerOrigin::Merged { .. } => None,
    });
    let mounts = build.mounts.iter().filter_map(|mount| match &mount.content {
        MountOrigin::Layer { descriptor, .. } => Some(&**descriptor),
        MountOrigin::Directory(_) => None,
    });
    layers.chain(mounts)
}
