//! What becomes of the result of a build.

mod told;

use std::path::PathBuf;
use std::sync::Arc;

use cache::Store;
use exporter::{
    ArchiveKind, ArchiveOutput, Destination, ExportError, ImageBuild, ImageForm, ImageOutput, ImageSet,
    LayerFetcher, LayerOrigin, OutputSpec, Packaging, PlatformFiles, PlatformSplit, RootForm,
};
use frontend::LowerOptions;
use oci::{ImageConfig, ImageReference, InlineCache, Platform};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::{LocalWorker, Output, OutputLayer, WorkerError};

use crate::arguments::BuildArguments;
use crate::progress::{Progress, StepNumber};
use crate::report::{Failure, FailureKind};
use crate::resolver::BuildFetcher;
use crate::session::blocking;

/// What the command line asks for.
pub(crate) struct Outputs {
    specs: Vec<OutputSpec>,
    tags: Vec<ImageReference>,
    iidfile: Option<PathBuf>,
    metadata_file: Option<PathBuf>,
}

impl Outputs {
    /// Reads `-t`, `-o`, `--push` and the files that digests are written to.
    ///
    /// With `-t` alone the image is kept in the store. With neither `-t` nor `-o`, only what wants a digest has an
    /// image made: the rest of such builds fill the cache.
    pub(crate) fn of(arguments: &BuildArguments) -> Result<Self, Failure> {
        let mut tags = Vec::new();
        for text in &arguments.image.tags {
            tags.push(tag(text)?);
        }
        let mut specs = Vec::new();
        for text in &arguments.output.outputs {
            specs.push(
                exporter::parse_output(text)
                    .map_err(|error| Failure::from_error(FailureKind::Usage, &error))?,
            );
        }
        let wants_digest = arguments.output.iidfile.is_some()
            || arguments.output.metadata_file.is_some()
            || arguments.switches.quiet;
        if specs.is_empty() && (!tags.is_empty() || arguments.switches.push || wants_digest) {
            specs.push(OutputSpec::Image(stored_image()));
        }
        if arguments.switches.push {
            push_images(&mut specs);
        }
        let outputs = Self {
            specs,
            tags,
            iidfile: arguments.output.iidfile.clone(),
            metadata_file: arguments.output.metadata_file.clone(),
        };
        outputs.check()?;
        Ok(outputs)
    }

    /// An image that is kept in the store under these names.
    pub(crate) fn tagging(tags: Vec<ImageReference>) -> Self {
        Self { specs: vec![OutputSpec::Image(stored_image())], tags, iidfile: None, metadata_file: None }
    }

    fn check(&self) -> Result<(), Failure> {
        let to_stdout = self.specs.iter().filter(|spec| goes_to_stdout(spec)).count();
        if to_stdout > 1 {
            return Err(Failure::usage("only one output can go to standard output"));
        }
        for spec in &self.specs {
            if let OutputSpec::Image(image) = spec
                && image.push
                && self.names(&image.names).is_empty()
            {
                return Err(Failure::usage("an image needs a name to be pushed")
                    .with_hint("name it with `-t registry/name:tag`"));
            }
        }
        Ok(())
    }

    /// Whether an image is made.
    pub(crate) fn make_an_image(&self) -> bool {
        let is_image = |spec: &OutputSpec| {
            matches!(spec, OutputSpec::Image(_) | OutputSpec::Oci(_) | OutputSpec::Docker(_))
        };
        self.specs.iter().any(is_image)
    }

    /// Whether something goes to a registry.
    pub(crate) fn needs_registry(&self) -> bool {
        self.specs.iter().any(|spec| matches!(spec, OutputSpec::Image(image) if image.push))
    }

    /// Whether all of them can hold images of the form; told before anything is built.
    pub(crate) fn check_form(&self, form: RootForm) -> Result<(), Failure> {
        let is_docker = |spec: &OutputSpec| matches!(spec, OutputSpec::Docker(_));
        if form == RootForm::Index && self.specs.iter().any(is_docker) {
            return Err(Failure::from_error(FailureKind::Usage, &ExportError::IndexForDocker)
                .with_hint("`type=oci` can hold several platforms, and so can the store and registries"));
        }
        Ok(())
    }

    /// The names of an output: its own, else those of `-t`.
    fn names(&self, own: &[ImageReference]) -> Vec<ImageReference> {
        if own.is_empty() { self.tags.clone() } else { own.to_vec() }
    }
}

/// Reads the name of an image that is to be kept.
pub(crate) fn tag(text: &str) -> Result<ImageReference, Failure> {
    let reference: ImageReference =
        text.parse().map_err(|error| Failure::usage(format!("invalid tag `{text}`: {error}")))?;
    if reference.digest().is_some() {
        return Err(Failure::usage(format!("invalid tag `{text}`: a tag cannot hold a digest")));
    }
    Ok(reference.with_default_tag())
}

fn stored_image() -> ImageOutput {
    ImageOutput { names: Vec::new(), push: false, store: true, form: ImageForm::default() }
}

/// `--push`: images that are asked for are pushed; where there are none, one more is.
fn push_images(specs: &mut Vec<OutputSpec>) {
    let mut found = false;
    for spec in specs.iter_mut() {
        if let OutputSpec::Image(image) = spec {
            image.push = true;
            found = true;
        }
    }
    if !found {
        specs.push(OutputSpec::Image(ImageOutput { push: true, store: false, ..stored_image() }));
    }
}

fn goes_to_stdout(spec: &OutputSpec) -> bool {
    match spec {
        OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => archive.destination == Destination::Stdout,
        OutputSpec::Tar(files) => files.destination == Destination::Stdout,
        OutputSpec::Image(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => false,
    }
}

/// The image that was built for a platform.
pub(crate) struct BuiltImage {
    pub(crate) platform: Platform,
    /// Save diff IDs and times.
    pub(crate) config: ImageConfig,
    /// Its files.
    pub(crate) output: Output,
    /// What it is to carry.
    pub(crate) cache: Option<InlineCache>,
}

/// What a build's image is to be known by.
pub(crate) fn root_form(options: &LowerOptions) -> RootForm {
    if options.is_one_of_several { RootForm::Index } else { RootForm::Manifest }
}

/// What came of an export.
pub(crate) struct Exported {
    /// What goes to standard output.
    pub(crate) text: Option<String>,
    /// The image, in the first encoding that was asked for.
    pub(crate) images: Option<Arc<ImageSet>>,
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
        match seal.await {
            Ok(sealed) => sealed.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        Ok(exported)
    }

    async fn write_outputs(&self, built: &[BuiltImage]) -> Result<Exported, Failure> {
        let mut images = Images { export: self, built, layers: None, made: Vec::new() };
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
                spec => self.write_files(built, spec.clone()).await,
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
        let Some((_, made)) = images.made.first() else { return Ok(Exported { text: None, images: None }) };
        self.write_digests(made).await?;
        let is_taken = self.outputs.specs.iter().any(goes_to_stdout);
        let text = (!is_taken).then(|| format!("{}\n", made.descriptor().digest));
        Ok(Exported { text, images: Some(Arc::clone(made)) })
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
        let image = images.get(&wanted.form, step).await?;
        let names = self.outputs.names(&wanted.names);
        if wanted.store {
            let layers: Vec<_> = image.layers().into_iter().cloned().collect();
            let fetched = self.worker.fetch_carried_blobs(&layers).await;
            fetched
                .map_err(|error| Failure::from_error(FailureKind::Build, &error).with_hints(error.hint()))?;
            let (store, saved, tags) = (self.store.clone(), Arc::clone(&image), names.clone());
            blocking(move || {
                saved.save(&store)?;
                for name in &tags {
                    store.tag(name, saved.descriptor())?;
                }
                Ok::<_, ExportError>(())
            })
            .await
            .map_err(|error| failure(&error))?;
            for name in &names {
                self.progress.line(step, &format!("naming to {name} done"));
            }
        }
        if wanted.push {
            self.progress.line(step, "pushing layers");
            let fetcher = self.fetcher();
            exporter::push(self.store, self.client, &fetcher, &image, &names)
                .await
                .map_err(|error| failure(&error))?;
            for name in &names {
                let digest = &image.descriptor().digest;
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
        let image = images.get(&wanted.form, step).await?;
        exporter::fetch_layers(self.store, &image, &self.fetcher()).await.map_err(|error| failure(&error))?;
        self.progress.line(step, "sending tarball");
        let names = self.outputs.names(&wanted.names);
        let (store, wanted) = (self.store.clone(), wanted.clone());
        blocking(move || match (wanted.packaging, &wanted.destination) {
            (Packaging::Directory, Destination::Path(path)) => {
                exporter::write_layout(&store, &image, &names, path)
            }
            (_, destination) => exporter::write_archive(&store, &image, &names, kind, destination),
        })
        .await
        .map_err(|error| failure(&error))
    }

    async fn write_files(&self, built: &[BuiltImage], spec: OutputSpec) -> Result<(), Failure> {
        let mut files = Vec::with_capacity(built.len());
        for image in built {
            let snapshot =
                self.worker.snapshot_for_export(&image.output, self.cancel).await.map_err(|error| {
                    Failure::from_error(FailureKind::Build, &error).with_hints(error.hint())
                })?;
            files.push(PlatformFiles { platform: image.platform.clone(), snapshot });
        }
        let form = self.form;
        let split = move |asked: Option<bool>| {
            if asked.unwrap_or(form == RootForm::Index) {
                PlatformSplit::Split
            } else {
                PlatformSplit::Together
            }
        };
        let store = self.store.clone();
        blocking(move || match spec {
            OutputSpec::Tar(tar) => {
                exporter::write_files(&store, &files, split(tar.platform_split), &tar.destination)
            }
            OutputSpec::Local(local) => {
                exporter::copy_files(&store, &files, split(local.platform_split), &local.destination)
            }
            OutputSpec::Image(_) | OutputSpec::Oci(_) | OutputSpec::Docker(_) | OutputSpec::CacheOnly => {
                Ok(())
            }
        })
        .await
        .map_err(|error| failure(&error))
    }

    /// An index has no config, and thus no ID but its digest.
    async fn write_digests(&self, images: &ImageSet) -> Result<(), Failure> {
        let descriptor = images.descriptor();
        let config = images.single().map(|image| &image.config_descriptor.digest);
        if let Some(path) = self.outputs.iidfile.clone() {
            let id = config.unwrap_or(&descriptor.digest).to_string();
            write_small_file(path, id.into_bytes()).await?;
        }
        if let Some(path) = self.outputs.metadata_file.clone() {
            let mut metadata = json!({
                "containerimage.descriptor": descriptor,
                "containerimage.digest": descriptor.digest,
            });
            if let Some(config) = config {
                metadata["containerimage.config.digest"] = config.as_str().into();
            }
            if !self.outputs.tags.is_empty() {
                let names: Vec<String> = self.outputs.tags.iter().map(ToString::to_string).collect();
                metadata["image.name"] = names.join(",").into();
            }
            let text = serde_json::to_vec_pretty(&metadata).expect("a JSON value can be written");
            write_small_file(path, text).await?;
        }
        Ok(())
    }

    fn fetcher(&self) -> Arc<dyn LayerFetcher> {
        Arc::new(BuildFetcher(self.worker.clone()))
    }
}

async fn write_small_file(path: PathBuf, bytes: Vec<u8>) -> Result<(), Failure> {
    blocking(move || {
        std::fs::write(&path, bytes).map_err(|error| {
            Failure::new(FailureKind::Environment, format!("cannot write `{}`: {error}", path.display()))
        })
    })
    .await
}

pub(crate) fn failure(error: &ExportError) -> Failure {
    let kind = match error {
        ExportError::Store(_)
        | ExportError::Write { .. }
        | ExportError::Stdout(_)
        | ExportError::Files { .. } => FailureKind::Environment,
        _ => FailureKind::Build,
    };
    let hint = match error {
        ExportError::Push { source, .. } => source.hint(),
        _ => None,
    };
    Failure::from_error(kind, error).with_hints(hint)
}

/// The images in the forms that outputs ask for, each made once.
struct Images<'a, 'e> {
    export: &'a Export<'e>,
    built: &'a [BuiltImage],
    /// The layers of each.
    layers: Option<Vec<Vec<LayerOrigin>>>,
    made: Vec<(ImageForm, Arc<ImageSet>)>,
}

impl Images<'_, '_> {
    /// The image that an output has got.
    fn of(&self, spec: &OutputSpec) -> Option<&ImageSet> {
        let form = match spec {
            OutputSpec::Image(image) => &image.form,
            OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => &archive.form,
            OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => return None,
        };
        self.made.iter().find(|(made, _)| made == form).map(|(_, images)| &**images)
    }

    async fn get(&mut self, form: &ImageForm, step: StepNumber) -> Result<Arc<ImageSet>, Failure> {
        if let Some((_, images)) = self.made.iter().find(|(made, _)| made == form) {
            return Ok(Arc::clone(images));
        }
        let (progress, root) = (self.export.progress, self.export.form);
        progress.line(step, "exporting layers");
        let (store, builds) = (self.export.store.clone(), self.builds().await?);
        let changed = builds.iter().flat_map(|build| &build.layers).filter_map(|layer| match layer {
            LayerOrigin::Image { descriptor, .. } if form.layers.changes(descriptor) => Some(descriptor),
            _ => None,
        });
        let fetched = exporter::fetch_blobs(&store, changed, &self.export.fetcher()).await;
        fetched.map_err(|error| failure(&error))?;
        let wanted = form.clone();
        let images = blocking(move || {
            let assemble = |build| exporter::assemble(&store, build, &wanted);
            let mut images: Vec<_> = builds.into_iter().map(assemble).collect::<Result<_, _>>()?;
            match (root, images.pop()) {
                (RootForm::Manifest, Some(image)) => Ok(ImageSet::from(image)),
                (_, last) => {
                    images.extend(last);
                    ImageSet::with_index(images, &wanted)
                }
            }
        });
        let images = Arc::new(images.await.map_err(|error| failure(&error))?);
        for image in images.images() {
            progress.line(step, &format!("exporting manifest {} done", image.descriptor.digest));
            progress.line(step, &format!("exporting config {} done", image.config_descriptor.digest));
        }
        if images.single().is_none() {
            progress.line(step, &format!("exporting manifest list {} done", images.descriptor().digest));
        }
        self.made.push((form.clone(), Arc::clone(&images)));
        Ok(images)
    }

    async fn builds(&mut self) -> Result<Vec<ImageBuild>, Failure> {
        let layers = if let Some(layers) = &self.layers {
            layers.clone()
        } else {
            let worker = self.export.worker.clone();
            let outputs: Vec<Output> = self.built.iter().map(|image| image.output.clone()).collect();
            let layers = blocking(move || {
                let layers_of = |output| Ok(worker.layers_of(output)?.into_iter().map(origin).collect());
                outputs.iter().map(layers_of).collect::<Result<Vec<Vec<LayerOrigin>>, WorkerError>>()
            });
            let layers =
                layers.await.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
            self.layers.insert(layers).clone()
        };
        let epoch = self.export.epoch;
        let images = self.built.iter().zip(layers);
        Ok(images
            .map(|(image, layers)| ImageBuild {
                config: image.config.clone(),
                layers,
                epoch,
                cache: image.cache.clone(),
            })
            .collect())
    }
}

pub(crate) fn origin(layer: OutputLayer) -> LayerOrigin {
    match layer {
        OutputLayer::Snapshot(snapshot) => LayerOrigin::Snapshot(snapshot),
        OutputLayer::Image { diff_id, descriptor } => LayerOrigin::Image { diff_id, descriptor },
    }
}
