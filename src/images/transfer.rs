//! `rbuild pull` and `rbuild push`.

use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use cache::Store;
use exporter::{ImageSet, LayerFetcher, PushMeans};
use oci::{Descriptor, Digest, ImageReference, Platform};
use solver::ImageLocation;
use worker::{ImageStore, ResolvedImage};

use super::flags::{PullArguments, PushArguments};
use super::{export_failure, find_one, platform, reference, store_failure, unknown};
use crate::progress::{Display, LogLimits, Progress, StepNumber, bytes};
use crate::registries::RegistryArguments;
use crate::report::{Failure, FailureKind};
use crate::resolver::Fetcher;
use crate::session::blocking;

/// Progress of a command, line by line: there is little to look at; none if it is to be quiet.
pub(crate) fn progress(is_quiet: bool) -> Arc<Progress> {
    let display = if is_quiet { Display::Nothing } else { Display::Plain };
    Arc::new(Progress::new(display, LogLimits::default()))
}

/// The client of registries.
pub(crate) fn client(arguments: &RegistryArguments) -> Result<registry::Client, Failure> {
    Ok(registry::Client::new(arguments.client_options()?))
}

/// Fetches layers, and tells.
struct Told {
    fetcher: Fetcher,
    progress: Arc<Progress>,
    step: StepNumber,
}

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl LayerFetcher for Told {
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> Pending<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move {
            self.fetcher.fetch(layer).await?;
            self.progress.line(self.step, &format!("{} {} done", layer.digest, bytes(layer.size)));
            Ok(())
        })
    }

    fn repositories<'a>(&'a self, blob: &'a Digest) -> Pending<'a, Vec<ImageReference>> {
        self.fetcher.repositories(blob)
    }
}

/// An image that is to be pulled.
pub(crate) struct Pull<'a> {
    pub(crate) store: &'a Store,
    pub(crate) client: &'a registry::Client,
    pub(crate) reference: &'a ImageReference,
    /// As the user wrote it.
    pub(crate) name: &'a str,
    pub(crate) platform: &'a Platform,
    pub(crate) progress: &'a Arc<Progress>,
}

/// Brings an image of a registry into the store, all of its layers too, under its name.
pub(crate) async fn pull_image(pull: &Pull<'_>) -> Result<ResolvedImage, Failure> {
    let step = pull.progress.begin(format!("pulling {}", pull.reference));
    let pulled = pull_in_step(pull, step).await;
    match &pulled {
        Ok(_) => pull.progress.done(step),
        Err(failure) => pull.progress.failed(step, failure.cause()),
    }
    pulled
}

async fn pull_in_step(pull: &Pull<'_>, step: StepNumber) -> Result<ResolvedImage, Failure> {
    let images = ImageStore::new(pull.store.clone(), pull.client.clone());
    let location = ImageLocation::Registry(pull.reference.clone());
    let resolved = images.resolve(&location, pull.platform, pull.name).await.map_err(|error| {
        let hint = error.hint();
        Failure::from_error(FailureKind::Build, &error).with_hints(hint)
    })?;
    if let Some(warning) = &resolved.warning {
        pull.progress.warning(step, warning);
    }
    fetch(pull.store, images, &resolved.manifest.layers, (pull.progress, step)).await?;
    let (store, reference, target) =
        (pull.store.clone(), pull.reference.clone(), resolved.descriptor.clone());
    blocking(move || store.tag(&reference, &target)).await.map_err(|error| store_failure(&error))?;
    pull.progress.line(step, &format!("naming {} to {}", resolved.descriptor.digest, pull.reference));
    Ok(resolved)
}

/// Fetches layers that the store does not have.
async fn fetch(
    store: &Store,
    images: ImageStore,
    layers: &[Descriptor],
    (progress, step): (&Arc<Progress>, StepNumber),
) -> Result<(), Failure> {
    let fetcher: Arc<dyn LayerFetcher> =
        Arc::new(Told { fetcher: Fetcher(images), progress: Arc::clone(progress), step });
    exporter::fetch_blobs(store, layers, &fetcher).await.map_err(|error| export_failure(&error))
}

/// Fetches what is lacking for the files of an image: layers of a base that was never needed so far.
pub(crate) async fn fetch_missing(
    store: &Store,
    images: &ImageStore,
    resolved: &ResolvedImage,
    progress: &Arc<Progress>,
) -> Result<(), Failure> {
    let missing = images.missing_layers(&resolved.source).await;
    let missing = missing.map_err(|error| Failure::from_error(FailureKind::Build, &error))?;
    if missing.is_empty() {
        return Ok(());
    }
    let step = progress.begin(format!("pulling layers of {}", resolved.source.name));
    let outcome = fetch(store, images.clone(), &missing, (progress, step)).await;
    match &outcome {
        Ok(()) => progress.done(step),
        Err(failure) => progress.failed(step, failure.cause()),
    }
    outcome
}

/// `rbuild pull`.
pub(super) async fn pull(store: &Store, arguments: PullArguments) -> Result<String, Failure> {
    let reference = reference(&arguments.image)?;
    let platform = platform(arguments.platform.as_deref())?.unwrap_or_else(Platform::host);
    let client = client(&arguments.registries)?;
    let progress = progress(arguments.quiet);
    let pull = Pull {
        store,
        client: &client,
        reference: &reference,
        name: &arguments.image,
        platform: &platform,
        progress: &progress,
    };
    let resolved = pull_image(&pull).await?;
    Ok(format!("{}\n", resolved.descriptor.digest))
}

/// `rbuild push`. All names are looked up before the first is pushed.
pub(super) async fn push(store: &Store, arguments: PushArguments) -> Result<String, Failure> {
    let client = client(&arguments.registries)?;
    let progress = progress(arguments.quiet);
    let opened = store.clone();
    let all = blocking(move || to_push(&opened, &arguments)).await?;
    let fetcher: Arc<dyn LayerFetcher> = Arc::new(Fetcher(ImageStore::new(store.clone(), client.clone())));
    let mut text = String::new();
    for (images, names) in &all {
        let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
        let step = progress.begin(format!("pushing {}", shown.join(", ")));
        let means = PushMeans { store, client: &client, fetcher: &fetcher, streams: None };
        match exporter::push(means, images, names).await {
            Ok(()) => progress.done(step),
            Err(error) => {
                progress.failed(step, "push failed");
                return Err(export_failure(&error));
            }
        }
        let _ = writeln!(text, "{}", images.descriptor().digest);
    }
    Ok(text)
}

/// Each image with its names.
fn to_push(
    store: &Store,
    arguments: &PushArguments,
) -> Result<Vec<(ImageSet, Vec<ImageReference>)>, Failure> {
    let mut tags = Vec::new();
    for name in &arguments.images {
        if !arguments.all_tags {
            tags.push(find_one(store, name)?);
            continue;
        }
        let wanted = reference(name)?;
        let all = store.images().map_err(|error| store_failure(&error))?;
        let before = tags.len();
        tags.extend(
            all.into_iter()
                .filter(|tag| tag.reference.name() == wanted.name() && tag.reference.digest().is_none()),
        );
        if tags.len() == before {
            return Err(unknown(name));
        }
    }
    let mut images: Vec<(ImageSet, Vec<ImageReference>)> = Vec::new();
    for tag in tags {
        match images.iter_mut().find(|(known, _)| known.descriptor().digest == tag.target.digest) {
            Some((_, names)) if names.contains(&tag.reference) => {}
            Some((_, names)) => names.push(tag.reference),
            None => {
                let set = ImageSet::load(store, &tag.target).map_err(|error| export_failure(&error))?;
                images.push((set, vec![tag.reference]));
            }
        }
    }
    Ok(images)
}
