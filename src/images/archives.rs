//! `rbuild save` and `rbuild load`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::sync::Arc;

use cache::Store;
use exporter::{
    ArchiveKind, ArchiveSource, Destination, ImageSet, LayerFetcher, LoadError, LoadedImage, NamedImages,
};
use oci::ImageReference;
use worker::ImageStore;

use super::find::{Named, find};
use super::flags::{LoadArguments, SaveArguments, SaveFormat};
use super::transfer::client;
use super::{export_failure, platform, read, store_failure, unknown};
use crate::report::{Failure, FailureKind};
use crate::resolver::Fetcher;
use crate::session::blocking;

/// `rbuild save`.
pub(super) async fn save(store: &Store, arguments: SaveArguments) -> Result<(), Failure> {
    let destination = match &arguments.output {
        Some(path) if path.as_os_str() != "-" => Destination::Path(path.clone()),
        _ if io::stdout().is_terminal() => {
            return Err(Failure::usage("an archive is not for terminals")
                .with_hint("name a file with `-o`, or redirect standard output"));
        }
        _ => Destination::Stdout,
    };
    let kind = match arguments.format {
        SaveFormat::Docker => ArchiveKind::Docker,
        SaveFormat::Oci => ArchiveKind::Oci,
    };
    let client = client(&arguments.registries)?;
    let opened = store.clone();
    let images = blocking(move || named(&opened, &arguments)).await?;
    if kind == ArchiveKind::Docker && images.iter().any(|(images, _)| images.single().is_none()) {
        return Err(Failure::from_error(FailureKind::Usage, &exporter::ExportError::IndexForDocker)
            .with_hint("`--format oci` holds all platforms, `--platform` chooses one"));
    }
    let fetcher: Arc<dyn LayerFetcher> = Arc::new(Fetcher(ImageStore::new(store.clone(), client)));
    for (images, _) in &images {
        exporter::fetch_layers(store, images, &fetcher).await.map_err(|error| export_failure(&error))?;
    }
    let store = store.clone();
    blocking(move || {
        let all: Vec<NamedImages<'_>> =
            images.iter().map(|(images, names)| NamedImages { images, names }).collect();
        exporter::write_archives(&store, &all, kind, &destination).map_err(|error| export_failure(&error))
    })
    .await
}

/// What is to be saved, each image once with all the names that it was asked for by.
fn named(store: &Store, arguments: &SaveArguments) -> Result<Vec<(ImageSet, Vec<ImageReference>)>, Failure> {
    let platform = platform(arguments.platform.as_deref())?;
    let mut all: Vec<(ImageSet, Vec<ImageReference>)> = Vec::new();
    for text in &arguments.images {
        let found = find(store, text)?.ok_or_else(|| unknown(text))?;
        // Whoever asks for an ID gets no name, as with docker.
        let name = match &found {
            Named::Tag(tag) => Some(tag.reference.clone()).filter(|name| name.digest().is_none()),
            Named::Id(_) => None,
        };
        let mut images = read(store, &found.first(), platform.as_ref())?;
        // An image that has an index for what is said of it, which docker's form has no place for.
        if let (SaveFormat::Docker, None, [only]) = (arguments.format, images.single(), images.images()) {
            images = ImageSet::from(only.clone());
        }
        let digest = &images.descriptor().digest;
        let known = all.iter().position(|(known, _)| known.descriptor().digest == *digest);
        let at = known.unwrap_or_else(|| {
            all.push((images, Vec::new()));
            all.len() - 1
        });
        let names = &mut all[at].1;
        names.extend(name.filter(|name| !names.contains(name)));
    }
    Ok(all)
}

/// `rbuild load`. Blocks.
pub(super) fn load(store: &Store, arguments: &LoadArguments) -> Result<String, Failure> {
    let own = arguments.tag.as_deref().map(crate::export::tag).transpose()?;
    let (source, shown) = source(arguments)?;
    let loaded = exporter::load_archive(store, source).map_err(|error| load_failure(&error, &shown))?;
    let mut text = String::new();
    for image in name(loaded, own)? {
        for name in &image.names {
            store.tag(name, &image.descriptor).map_err(|error| store_failure(&error))?;
            let _ = writeln!(text, "Loaded image: {}", name.familiar());
        }
    }
    Ok(if arguments.quiet { String::new() } else { text })
}

fn source(arguments: &LoadArguments) -> Result<(ArchiveSource, String), Failure> {
    let Some(path) = arguments.input.as_ref().filter(|path| path.as_os_str() != "-") else {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(Failure::usage("there is no archive on standard input")
                .with_hint("name a file with `-i`, or redirect standard input"));
        }
        let input: Box<dyn Read + Send> = Box::new(stdin);
        return Ok((ArchiveSource::Stream(input), "standard input".to_owned()));
    };
    let shown = format!("`{}`", path.display());
    if path.is_dir() {
        return Ok((ArchiveSource::Directory(path.clone()), shown));
    }
    let file = File::open(path)
        .map_err(|error| Failure::new(FailureKind::Build, format!("cannot read {shown}: {error}")))?;
    Ok((ArchiveSource::Stream(Box::new(file)), shown))
}

/// Gives the images their names: what has none could not be asked for.
fn name(mut loaded: Vec<LoadedImage>, own: Option<ImageReference>) -> Result<Vec<LoadedImage>, Failure> {
    if let Some(own) = own {
        let [image] = loaded.as_mut_slice() else {
            let count = loaded.len();
            return Err(Failure::usage(format!(
                "there are {count} images in the archive: `--tag` is for archives of one"
            )));
        };
        image.names = vec![own];
    }
    if loaded.iter().all(|image| image.names.is_empty()) {
        return Err(Failure::new(FailureKind::Build, "the image in the archive has no name")
            .with_hint("`--tag NAME` gives it one"));
    }
    Ok(loaded)
}

fn load_failure(error: &LoadError, source: &str) -> Failure {
    let kind = match error {
        LoadError::Store(_) => FailureKind::Environment,
        _ => FailureKind::Build,
    };
    let message = format!("cannot load {source}: {}", crate::report::chain(error));
    Failure::new(kind, message)
}
