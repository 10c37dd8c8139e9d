//! What becomes of the result of a build.

mod digests;
mod outputs;
mod squash;
mod told;

use std::path::PathBuf;
use std::sync::Arc;

use cache::layer::FileTimes;
use cache::{Snapshot, Store};
use exporter::{
    ArchiveKind, ArchiveOutput, Compression, Destination, ExportError, FilesForm, FilesOutput, ImageBuild,
    ImageForm, ImageOutput, ImageSet, IndexBuild, LayerFetcher, LayerOrigin, LayerStreams, OutputSpec,
    Packaging, PlatformFiles, PlatformSplit, PushMeans, PushOutput, RootForm,
};
use oci::{ImageConfig, ImageReference, InlineCache, Platform};
use solver::SourceLines;
use tokio_util::sync::CancellationToken;
use worker::{LocalWorker, Output, OutputLayer};

use crate::attestations::Said;
use crate::engines::{self, Load};
use crate::progress::{Progress, StepNumber};
use crate::report::{Failure, FailureKind};
use crate::resolver::BuildFetcher;
use crate::session::{blocking, joined};

use outputs::{Names, goes_to_stdout};
pub(crate) use outputs::{Outputs, root_form, tag};
pub(crate) use squash::{Squash, lines_of};

/// The image that was built for a platform.
pub(crate) struct BuiltImage {
    pub(crate) platform: Platform,
    /// Save diff IDs and times.
    pub(crate) config: ImageConfig,
    /// How many of its layers are the base image's.
    pub(crate) base_layers: usize,
    /// The lines of the instructions that made the others, from below.
    pub(crate) lines: Vec<Option<SourceLines>>,
    /// Its files.
    pub(crate) output: Output,
    /// What it is to carry.
    pub(crate) cache: Option<InlineCache>,
}

/// What came of an export.
pub(crate) struct Exported {
    /// What goes to standard output.
    pub(crate) text: Option<String>,
    /// The image, in the first encoding that was asked for.
    pub(crate) images: Option<Arc<ImageSet>>,
    /// What it is called.
    names: Vec<ImageReference>,
}

/// The end of a build: writes its outputs while the store brings what is new to the disk.
pub(crate) struct Export<'a> {
    pub(crate) outputs: &'a Outputs,
    pub(crate) progress: &'a Progress,
    pub(crate) store: &'a Store,
    pub(crate) client: &'a registry::Client,
    pub(crate) worker: &'a LocalWorker,
    pub(crate) epoch: Option<i64>,
    pub(crate) form: RootForm,
    /// What is said of the images.
    pub(crate) said: Option<Said<'a>>,
    pub(crate) cancel: &'a CancellationToken,
}

impl Export<'_> {
    /// Writes all outputs, of `built` in its order. What goes to standard output is the digest of the image, unless
    /// something else went there.
    pub(crate) async fn run(&self, built: Vec<BuiltImage>) -> Result<Exported, Failure> {
        let seal = {
            let store = self.store.clone();
            tokio::spawn(blocking(move || {
                if let Some(seal) = store.seal()? {
                    return seal.complete();
                }
                // That others' leftovers could not be removed is no failure of this build.
                let _ = store.sweep();
                Ok(())
            }))
        };
        let exported = self.write_outputs(&built).await?;
        joined(seal).await.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
        Ok(exported)
    }

    async fn write_outputs(&self, built: &[BuiltImage]) -> Result<Exported, Failure> {
        let mut images = Images { export: self, built, builds: None, made: Vec::new(), streams: Vec::new() };
        if self.outputs.specs.is_empty() {
            self.progress.made(told::NOTHING);
        }
        for spec in &self.outputs.specs {
            let step = match spec {
                OutputSpec::Image(_) => self.progress.begin("exporting to image"),
                OutputSpec::Oci(_) => self.progress.begin("exporting to oci image format"),
                OutputSpec::Docker(_) => self.progress.begin("exporting to docker image format"),
                OutputSpec::Tar(_) | OutputSpec::Local(_) => self.progress.begin("exporting to client"),
                OutputSpec::CacheOnly => continue,
            };
            let result = match spec {
                OutputSpec::Image(image) => self.write_image(&mut images, image, step).await,
                OutputSpec::Oci(archive) => {
                    self.write_archive(&mut images, (archive, ArchiveKind::Oci), step).await
                }
                OutputSpec::Docker(archive) => {
                    self.write_archive(&mut images, (archive, ArchiveKind::Docker), step).await
                }
                OutputSpec::Tar(tar) => self.write_tar(built, tar).await,
                OutputSpec::Local(local) => self.write_directory(built, local).await,
                OutputSpec::CacheOnly => Ok(()),
            };
            match result {
                Ok(()) => {
                    self.progress.done(step);
                    self.tell(spec, images.of(spec));
                }
                Err(failure) => {
                    self.progress.failed(step, "export failed");
                    return Err(failure);
                }
            }
        }
        let names = self.outputs.all_names();
        let Some((_, made)) = images.made.first() else {
            return Ok(Exported { text: None, images: None, names });
        };
        let is_taken = self.outputs.specs.iter().any(goes_to_stdout);
        let text = (!is_taken).then(|| format!("{}\n", made.descriptor().digest));
        Ok(Exported { text, images: Some(Arc::clone(made)), names })
    }

    fn tell(&self, spec: &OutputSpec, image: Option<&ImageSet>) {
        let own = match spec {
            OutputSpec::Image(image) => image.names.as_slice(),
            OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => archive.names.as_slice(),
            OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => &[],
        };
        for line in told::results(spec, image, &self.outputs.names(own)) {
            self.progress.made(line);
        }
    }

    async fn write_image(
        &self,
        images: &mut Images<'_, '_>,
        wanted: &ImageOutput,
        step: StepNumber,
    ) -> Result<(), Failure> {
        let image = images.get(&wanted.form, &self.outputs.names(&wanted.names), step).await?;
        let Names { kept, pushed } = self.outputs.names_of(wanted, &image.descriptor().digest);
        if wanted.store {
            let layers: Vec<_> = image.layers().into_iter().cloned().collect();
            let fetched = self.worker.fetch_carried_blobs(&layers).await;
            fetched
                .map_err(|error| Failure::from_error(FailureKind::Build, &error).with_hints(error.hint()))?;
            let (store, saved, tags) = (self.store.clone(), Arc::clone(&image), kept.clone());
            blocking(move || {
                saved.save(&store)?;
                for name in &tags {
                    store.tag(name, saved.descriptor())?;
                }
                Ok::<_, ExportError>(())
            })
            .await
            .map_err(|error| failure(&error))?;
            for name in &kept {
                self.progress.line(step, &format!("naming to {name} done"));
            }
        }
        if let Some(PushOutput { insecure, .. }) = wanted.push {
            self.progress.line(step, "pushing layers");
            let fetcher = self.fetcher(step);
            let client = if insecure { self.client.with_insecure(&pushed) } else { self.client.clone() };
            let streams = images.streams(wanted.form.layers.compression);
            let (store, client) = (self.store, &client);
            let means = PushMeans { store, client, fetcher: &fetcher, streams: streams.as_deref() };
            exporter::push(means, &image, &pushed).await.map_err(|error| failure(&error))?;
            self.progress.line(step, "pushing layers done");
            let digest = &image.descriptor().digest;
            for name in &pushed {
                let name = name.without_digest();
                self.progress.line(step, &format!("pushing manifest for {name}@{digest} done"));
            }
        }
        Ok(())
    }

    async fn write_archive(
        &self,
        images: &mut Images<'_, '_>,
        (wanted, kind): (&ArchiveOutput, ArchiveKind),
        step: StepNumber,
    ) -> Result<(), Failure> {
        let names = self.outputs.names(&wanted.names);
        let image = images.get(&wanted.form, &names, step).await?;
        exporter::fetch_layers(self.store, &image, &self.fetcher(step))
            .await
            .map_err(|error| failure(&error))?;
        if let Destination::Engine(target) = &wanted.destination {
            self.progress.line(step, "handing the image over");
            let load = Load { store: self.store.clone(), images: image, names };
            for line in engines::load(load, target, self.outputs.begun_program()).await? {
                self.progress.line(step, &line);
            }
            return Ok(());
        }
        self.progress.line(step, "sending tarball");
        let (store, wanted) = (self.store.clone(), wanted.clone());
        blocking(move || match (wanted.packaging, &wanted.destination) {
            (Packaging::Directory, Destination::Path(path)) => {
                exporter::write_layout(&store, &image, &names, path)
            }
            (_, destination) => exporter::write_archive(&store, &image, &names, kind, destination),
        })
        .await
        .map_err(|error| failure(&error))?;
        self.progress.line(step, "sending tarball done");
        Ok(())
    }

    async fn write_tar(
        &self,
        built: &[BuiltImage],
        wanted: &FilesOutput<Destination>,
    ) -> Result<(), Failure> {
        let files = self.files_of(built, &wanted.attestation_prefix).await?;
        let (store, form) = (self.store.clone(), self.files_form(wanted));
        let destination = wanted.destination.clone();
        let written = blocking(move || exporter::write_files(&store, &files, form, &destination)).await;
        written.map_err(|error| failure(&error))
    }

    async fn write_directory(
        &self,
        built: &[BuiltImage],
        wanted: &FilesOutput<PathBuf>,
    ) -> Result<(), Failure> {
        let files = self.files_of(built, &wanted.attestation_prefix).await?;
        let (store, form) = (self.store.clone(), self.files_form(wanted));
        let destination = wanted.destination.clone();
        let written = blocking(move || exporter::copy_files(&store, &files, form, &destination)).await;
        written.map_err(|error| failure(&error))
    }

    /// The files of `built`, with what is said of them in files whose names begin with `prefix`.
    async fn files_of(&self, built: &[BuiltImage], prefix: &str) -> Result<Vec<PlatformFiles>, Failure> {
        let mut files = Vec::with_capacity(built.len());
        for (number, image) in built.iter().enumerate() {
            let snapshot = self.snapshot_of(image).await?;
            let mut attestations = self.said.as_ref().map_or_else(Vec::new, |said| said.of(number, None));
            for attestation in &mut attestations {
                attestation.file_name.insert_str(0, prefix);
            }
            files.push(PlatformFiles { platform: image.platform.clone(), snapshot, attestations });
        }
        Ok(files)
    }

    /// What holds the files of an image; there are none for `None`.
    async fn snapshot_of(&self, image: &BuiltImage) -> Result<Option<Snapshot>, Failure> {
        let snapshot = self.worker.snapshot_for_export(&image.output, self.cancel).await;
        snapshot.map_err(|error| Failure::from_error(FailureKind::Build, &error).with_hints(error.hint()))
    }

    /// How files are written. All have the time of the epoch if there is one, as with BuildKit.
    fn files_form<D>(&self, wanted: &FilesOutput<D>) -> FilesForm {
        let is_split = wanted.platform_split.unwrap_or(self.form == RootForm::Index);
        FilesForm {
            split: if is_split { PlatformSplit::Split } else { PlatformSplit::Together },
            times: wanted.epoch.or(self.epoch).map_or(FileTimes::Own, FileTimes::All),
            others: wanted.others,
        }
    }

    /// Whether anything stands beside the images.
    fn is_anything_said(&self) -> bool {
        self.said.as_ref().is_some_and(|said| said.wanted.provenance.is_some() || said.wanted.sbom.is_some())
    }

    /// What is said of an image depends on its names.
    fn made(&self, form: &ImageForm, names: &[ImageReference]) -> Made {
        let names = if self.is_anything_said() { names.to_vec() } else { Vec::new() };
        Made { form: form.clone(), names }
    }

    fn fetcher(&self, step: StepNumber) -> Arc<dyn LayerFetcher> {
        let (worker, progress) = (self.worker.clone(), self.progress.clone());
        Arc::new(BuildFetcher { worker, progress, step })
    }
}

pub(crate) fn failure(error: &ExportError) -> Failure {
    let kind = match error {
        ExportError::Store(_)
        | ExportError::Write { .. }
        | ExportError::Stdout(_)
        | ExportError::Files { .. } => FailureKind::Environment,
        _ => FailureKind::Build,
    };
    Failure::from_error(kind, error).with_hints(error.hints())
}

/// The images in the forms that outputs ask for, each made once.
struct Images<'a, 'e> {
    export: &'a Export<'e>,
    built: &'a [BuiltImage],
    /// What each is made of.
    builds: Option<Vec<ImageBuild>>,
    made: Vec<(Made, Arc<ImageSet>)>,
    /// To the first registry that wants layers of a compression.
    streams: Vec<(Compression, Arc<LayerStreams>)>,
}

/// What images are made for: their form, and the names that are told of them where anything is said of them.
#[derive(PartialEq)]
struct Made {
    form: ImageForm,
    names: Vec<ImageReference>,
}

impl Images<'_, '_> {
    /// The image that an output has got.
    fn of(&self, spec: &OutputSpec) -> Option<&ImageSet> {
        let (form, names) = match spec {
            OutputSpec::Image(image) => (&image.form, &image.names),
            OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => (&archive.form, &archive.names),
            OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => return None,
        };
        let wanted = self.export.made(form, &self.export.outputs.names(names));
        self.made.iter().find(|(made, _)| *made == wanted).map(|(_, images)| &**images)
    }

    async fn get(
        &mut self,
        form: &ImageForm,
        names: &[ImageReference],
        step: StepNumber,
    ) -> Result<Arc<ImageSet>, Failure> {
        let wanted = self.export.made(form, names);
        if let Some((_, images)) = self.made.iter().find(|(made, _)| *made == wanted) {
            return Ok(Arc::clone(images));
        }
        let (progress, root) = (self.export.progress, self.export.form);
        progress.line(step, "exporting layers");
        let (store, builds) = (self.export.store.clone(), self.builds().await?);
        let is_timeless = builds.iter().all(|build| form.epoch.or(build.epoch).is_none());
        if form.rewrite_timestamp && is_timeless {
            progress.note("\nWARNING: rewrite-timestamp is specified, but no source-date-epoch was found\n");
        }
        let needed = builds.iter().flat_map(|build| build.needed_blobs(form));
        let fetched = exporter::fetch_blobs(&store, needed, &self.export.fetcher(step)).await;
        fetched.map_err(|error| failure(&error))?;
        let (encoding, streams) = (form.clone(), self.streams(form.layers.compression));
        let assembled = blocking(move || {
            let assemble = |build| exporter::assemble(&store, build, &encoding, streams.as_ref());
            builds.into_iter().map(assemble).collect::<Result<Vec<_>, _>>()
        });
        let assembled = assembled.await.map_err(|error| failure(&error))?;
        progress.line(step, "exporting layers done");
        let said = assembled.iter().enumerate().map(|(number, image)| {
            self.export.said.as_ref().map_or_else(Vec::new, |said| said.of(number, Some(&image.layers)))
        });
        let said: Vec<_> = said.collect();
        let build = IndexBuild { attestations: &said, names: &wanted.names, root };
        let images = Arc::new(ImageSet::new(assembled, form, &build).map_err(|error| failure(&error))?);
        for image in images.images() {
            progress.line(step, &format!("exporting manifest {} done", image.descriptor.digest));
            progress.line(step, &format!("exporting config {} done", image.config_descriptor.digest));
        }
        if images.single().is_none() {
            progress.line(step, &format!("exporting manifest list {} done", images.descriptor().digest));
        }
        self.made.push((wanted, Arc::clone(&images)));
        Ok(images)
    }

    /// Streams for layers of a compression, if any output pushes such: also where another output comes first, as layers
    /// are compressed for whichever that is.
    fn streams(&mut self, compression: Compression) -> Option<Arc<LayerStreams>> {
        if let Some((_, streams)) = self.streams.iter().find(|(known, _)| *known == compression) {
            return Some(Arc::clone(streams));
        }
        let outputs = self.export.outputs;
        let target = outputs.specs.iter().find_map(|spec| match spec {
            OutputSpec::Image(image) if image.form.layers.compression == compression => {
                image.push.zip(outputs.names(&image.names).into_iter().next())
            }
            _ => None,
        });
        let (PushOutput { insecure, .. }, target) = target?;
        let mut client = self.export.client.clone();
        if insecure {
            client = client.with_insecure(std::slice::from_ref(&target));
        }
        let streams = LayerStreams::new(&client, &target);
        self.streams.push((compression, Arc::clone(&streams)));
        Some(streams)
    }

    async fn builds(&mut self) -> Result<Vec<ImageBuild>, Failure> {
        if let Some(builds) = &self.builds {
            return Ok(builds.clone());
        }
        let mut builds = Vec::with_capacity(self.built.len());
        for image in self.built {
            builds.push(self.build_of(image).await?);
        }
        Ok(self.builds.insert(builds).clone())
    }

    async fn build_of(&self, image: &BuiltImage) -> Result<ImageBuild, Failure> {
        let (worker, output) = (self.export.worker.clone(), image.output.clone());
        let layers = blocking(move || worker.layers_of(&output)).await;
        let layers = layers.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
        let build = ImageBuild {
            config: image.config.clone(),
            layers: layers.into_iter().map(origin).collect(),
            base_layers: image.base_layers,
            epoch: self.export.epoch,
            cache: image.cache.clone(),
        };
        let groups = self.export.outputs.squash.groups(image.base_layers, &image.lines);
        if groups.is_empty() {
            return Ok(build);
        }
        let snapshot = self.export.snapshot_of(image).await?;
        let store = self.export.store.clone();
        let chain = blocking(move || snapshot.map_or_else(|| Ok(Vec::new()), |top| store.chain(&top))).await;
        let chain = chain.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
        if chain.len() != build.layers.len() {
            let (snapshots, layers) = (chain.len(), build.layers.len());
            return Err(Failure::new(
                FailureKind::Build,
                format!("the image has {layers} layers, and its files lie in {snapshots}"),
            ));
        }
        Ok(build.squashed(&chain, &groups))
    }
}

pub(crate) fn origin(layer: OutputLayer) -> LayerOrigin {
    match layer {
        OutputLayer::Snapshot(snapshot) => LayerOrigin::Snapshot(snapshot),
        OutputLayer::Image { diff_id, descriptor } => LayerOrigin::Image { diff_id, descriptor },
    }
}
