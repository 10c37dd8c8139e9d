//! Images for the frontend, and their layers for exports: both by way of the worker's image store.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use exporter::LayerFetcher;
use frontend::{ImageRequest, ImageResolver, ResolveError, ResolvedImage, TimeSource};
use oci::{Descriptor, Digest, ImageConfig, ImageReference};
use solver::{ImageLocation, ImageSource, Op};
use tokio::runtime::Handle;
use worker::{ImageStore, LocalWorker};

use crate::inputs::{Inputs, MAIN_CONTEXT};
use crate::progress::{Progress, StepNumber};
use crate::remote;
use crate::report::{Failure, chain};
use crate::session::blocking;

/// Answers the frontend's questions about images. The frontend is synchronous and calls it from a thread that may
/// block; the requests of one call run side by side.
pub(crate) struct Resolver {
    pub(crate) handle: Handle,
    pub(crate) images: ImageStore,
    pub(crate) times: Times,
    pub(crate) progress: Arc<Progress>,
    /// Whether steps tell the platform that is asked for.
    pub(crate) tells_platform: bool,
    /// What may help with the requests that failed.
    pub(crate) hints: Vec<String>,
}

/// What knows the times of things that are no images.
pub(crate) struct Times {
    pub(crate) inputs: Arc<Inputs>,
    /// Where the build context is.
    pub(crate) main_directory: PathBuf,
    pub(crate) worker: LocalWorker,
    pub(crate) salt: Vec<u8>,
}

impl Times {
    async fn of(&self, source: &TimeSource) -> Result<Option<i64>, Failure> {
        let op = match source {
            TimeSource::Http(file) => Op::Http(file.clone()),
            TimeSource::Git(git) => Op::Git(git.clone()),
            TimeSource::Context(name) => match self.inputs.remotes().get(name) {
                Some(remote) => remote.op(),
                None if name == MAIN_CONTEXT && self.inputs.is_archive() => {
                    let directory = self.main_directory.clone();
                    return blocking(move || {
                        remote::newest_file(&directory).map_err(|error| {
                            Failure::solve(&format!("cannot read `{}`: {error}", directory.display()))
                        })
                    })
                    .await;
                }
                None => return Ok(None),
            },
        };
        remote::time_of(op, &self.worker, self.salt.clone()).await
    }
}

impl Resolver {
    fn step_name(&self, request: &ImageRequest, name: &str) -> String {
        let platform = if self.tells_platform { format!("{} ", request.platform) } else { String::new() };
        format!("[{platform}internal] load metadata for {name}")
    }
}

impl ImageResolver for Resolver {
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>> {
        let handle = self.handle.clone();
        let tasks: Vec<_> = requests
            .iter()
            .map(|request| {
                let (images, request) = (self.images.clone(), request.clone());
                let name = full_name(&request);
                let step = self.progress.begin(self.step_name(&request, &name));
                let progress = Arc::clone(&self.progress);
                handle.spawn(async move {
                    let found = images.resolve(&request.location, &request.platform, &request.name).await;
                    match found {
                        Ok(image) => {
                            if let Some(warning) = &image.warning {
                                progress.warning(step, warning);
                            }
                            progress.done(step);
                            Ok(ResolvedImage {
                                source: image.source,
                                config: image.config,
                                index_or_manifest: image.index_or_manifest,
                            })
                        }
                        Err(error) => {
                            let message = chain(&error);
                            progress.failed(step, &message);
                            let message = format!("failed to resolve source metadata for {name}: {message}");
                            Err((ResolveError { message }, error.hint()))
                        }
                    }
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            let answer = match handle.block_on(task) {
                Ok(answer) => answer,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down, and the build with it.
                    Err(_) => Err((ResolveError { message: "the build was cancelled".to_owned() }, None)),
                },
            };
            answers.push(answer.map_err(|(error, hint)| {
                self.hints.extend(hint.filter(|hint| !self.hints.contains(hint)));
                error
            }));
        }
        answers
    }

    fn time_of(&mut self, source: &TimeSource) -> Result<Option<i64>, ResolveError> {
        let step = self.progress.begin(match source {
            TimeSource::Context(name) if name == MAIN_CONTEXT => {
                "[internal] resolve main build context metadata".to_owned()
            }
            TimeSource::Context(name) => {
                format!("[internal] resolve SOURCE_DATE_EPOCH named context {name}")
            }
            TimeSource::Http(_) | TimeSource::Git(_) => {
                "[internal] resolve SOURCE_DATE_EPOCH source stage".to_owned()
            }
        });
        match self.handle.block_on(self.times.of(source)) {
            Ok(time) => {
                self.progress.done(step);
                Ok(time)
            }
            Err(failure) => {
                self.progress.failed(step, failure.cause());
                Err(ResolveError { message: failure.cause().to_owned() })
            }
        }
    }
}

/// Asks once for each image, however often it is asked.
pub(crate) struct Remembering {
    pub(crate) resolver: Resolver,
    answers: Vec<(ImageRequest, Result<ResolvedImage, ResolveError>)>,
    times: Vec<(TimeSource, Result<Option<i64>, ResolveError>)>,
    /// Whether images that cannot be had are taken for empty ones.
    pub(crate) forgives: bool,
}

impl Remembering {
    /// Nothing yet.
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self { resolver, answers: Vec::new(), times: Vec::new(), forgives: false }
    }

    fn known(&self, request: &ImageRequest) -> Option<&Result<ResolvedImage, ResolveError>> {
        self.answers.iter().find(|(known, _)| known == request).map(|(_, answer)| answer)
    }
}

impl ImageResolver for Remembering {
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>> {
        let new: Vec<ImageRequest> =
            requests.iter().filter(|request| self.known(request).is_none()).cloned().collect();
        if !new.is_empty() {
            let answers = self.resolver.resolve(&new);
            self.answers.extend(new.into_iter().zip(answers));
        }
        let answers = requests.iter().filter_map(|request| {
            let answer = self.known(request)?.clone();
            Some(if self.forgives { answer.or_else(|_| Ok(empty_image(request))) } else { answer })
        });
        answers.collect()
    }

    fn time_of(&mut self, source: &TimeSource) -> Result<Option<i64>, ResolveError> {
        if let Some((_, time)) = self.times.iter().find(|(known, _)| known == source) {
            return time.clone();
        }
        let time = self.resolver.time_of(source);
        self.times.push((source.clone(), time.clone()));
        time
    }
}

fn empty_image(request: &ImageRequest) -> ResolvedImage {
    let nothing = Digest::sha256(b"");
    let platform = &request.platform;
    ResolvedImage {
        source: ImageSource {
            name: request.name.clone(),
            manifest: nothing.clone(),
            location: request.location.clone(),
            platform: platform.clone(),
        },
        config: ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        },
        index_or_manifest: nothing.clone(),
    }
}

fn full_name(request: &ImageRequest) -> String {
    match &request.location {
        ImageLocation::Registry(reference) | ImageLocation::Store(reference) => {
            reference.clone().with_default_tag().to_string()
        }
        ImageLocation::OciLayout { .. } => request.name.clone(),
    }
}

/// Layers of base images and of carried caches for exports of builds.
pub(crate) struct BuildFetcher {
    pub(crate) worker: LocalWorker,
    /// Who is told of what is sent, and the step that it is about.
    pub(crate) progress: Progress,
    pub(crate) step: StepNumber,
}

impl LayerFetcher for BuildFetcher {
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> Pending<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { self.worker.fetch_layer_blob(layer).await.map_err(Into::into) })
    }

    fn repositories<'a>(&'a self, blob: &'a Digest) -> Pending<'a, Vec<ImageReference>> {
        // As below.
        Box::pin(async move { self.worker.repositories(blob).await.unwrap_or_default() })
    }

    fn sent(&self, layer: &Descriptor, current: u64) {
        let name = format!("pushing layer {}", layer.digest);
        self.progress.transfer(self.step, &name, current, Some(layer.size));
    }
}

/// Layers of base images for other exports.
pub(crate) struct Fetcher(pub(crate) ImageStore);

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl LayerFetcher for Fetcher {
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> Pending<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { self.0.fetch_layer_blob(layer).await.map_err(Into::into) })
    }

    fn repositories<'a>(&'a self, blob: &'a Digest) -> Pending<'a, Vec<ImageReference>> {
        // A mount only saves an upload: where nothing is known, nothing is mounted.
        Box::pin(async move { self.0.repositories(blob).await.unwrap_or_default() })
    }
}
