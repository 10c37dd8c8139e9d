//! What the command line asks for: outputs, names, and files for digests.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use exporter::{
    Annotations, ArchiveOutput, Destination, ExportError, ImageForm, ImageOutput, OtherFiles, OutputSpec,
    PushOutput, RootForm,
};
use frontend::LowerOptions;
use oci::{Digest, ImageReference, Platform};

use super::digests::DigestFiles;
use super::squash::Squash;
use crate::arguments::{BuildArguments, LoadWish};
use crate::attestations::Attestations;
use crate::engines::{self, Waiting};
use crate::entitlements::Entitlements;
use crate::report::{Failure, FailureKind};

/// What the command line asks for.
pub(crate) struct Outputs {
    pub(super) specs: Vec<OutputSpec>,
    /// The names of `-t`, as they were written.
    tags: Vec<ImageReference>,
    pub(super) squash: Squash,
    pub(super) files: DigestFiles,
    /// What is to be said of the images.
    pub(crate) attestations: Attestations,
    /// The program that waits for an image.
    begun: Mutex<Option<Waiting>>,
}

/// What an image is called.
pub(super) struct Names {
    /// In the store.
    pub(super) kept: Vec<ImageReference>,
    /// In registries.
    pub(super) pushed: Vec<ImageReference>,
}

impl Outputs {
    /// Reads `-t`, `-o`, `--push`, what says which form images take, and the files that digests are written to.
    ///
    /// With `-t` alone the image is kept in the store. With neither `-t` nor `-o`, only what wants a digest has an
    /// image made: the rest of such builds fill the cache.
    pub(crate) fn of(arguments: &BuildArguments) -> Result<Self, Failure> {
        let mut tags = Vec::new();
        for text in &arguments.image.tags {
            tags.push(bare_tag(text)?);
        }
        let mut specs = Vec::new();
        for text in &arguments.output.outputs {
            specs.push(
                exporter::parse_output(text)
                    .map_err(|error| Failure::from_error(FailureKind::Usage, &error))?,
            );
        }
        if let Some(target) = &arguments.output.load {
            load_images(&mut specs, target);
        }
        let files = DigestFiles::of(arguments);
        let wants_digest = files.are_wanted() || arguments.switches.quiet;
        if specs.is_empty() && (!tags.is_empty() || arguments.switches.push || wants_digest) {
            specs.push(OutputSpec::Image(stored_image()));
        }
        if arguments.switches.push {
            push_images(&mut specs);
        }
        let mut annotations = Annotations::default();
        for text in &arguments.form.annotations {
            annotations.read_flag(text).map_err(|error| Failure::from_error(FailureKind::Usage, &error))?;
        }
        for form in specs.iter_mut().filter_map(form_of) {
            form.annotate(&annotations);
            form.rewrite_timestamp |= arguments.form.rewrites_timestamps();
            form.omit_history = arguments.form.omit_history;
        }
        let attestations = Attestations::of(&arguments.attestations)?;
        attestations.prepare(&mut specs);
        let squash = arguments.form.squash.clone();
        let outputs = Self { specs, tags, squash, files, attestations, begun: Mutex::default() };
        outputs.check()?;
        outputs.check_deletion(arguments)?;
        Ok(outputs)
    }

    /// An image that is kept in the store under these names.
    pub(crate) fn tagging(tags: Vec<ImageReference>) -> Self {
        Self {
            specs: vec![OutputSpec::Image(stored_image())],
            tags,
            squash: Squash::Nothing,
            files: DigestFiles::default(),
            attestations: Attestations::default(),
            begun: Mutex::default(),
        }
    }

    /// Begins the program that is to take an image, where that has to be before the session.
    pub(crate) fn begin_program(&self) {
        let target = self.specs.iter().find_map(|spec| match spec {
            OutputSpec::Docker(ArchiveOutput { destination: Destination::Engine(target), .. }) => {
                Some(target)
            }
            _ => None,
        });
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = target.and_then(engines::begin);
    }

    /// That program, once.
    pub(super) fn begun_program(&self) -> Option<Waiting> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn check(&self) -> Result<(), Failure> {
        let to_stdout = self.specs.iter().filter(|spec| goes_to_stdout(spec)).count();
        if to_stdout > 1 {
            return Err(Failure::usage("only one output can go to standard output"));
        }
        for spec in &self.specs {
            let OutputSpec::Image(ImageOutput { names, push: Some(push), naming, .. }) = spec else {
                continue;
            };
            let names = self.given(names);
            if names.is_empty() && naming.dangling_prefix.is_none() {
                return Err(Failure::usage("an image needs a name to be pushed")
                    .with_hint("name it with `-t registry/name:tag`"));
            }
            if push.by_digest
                && let Some(tagged) = names.iter().find(|name| name.tag().is_some())
            {
                return Err(Failure::usage(format!("can't push tagged ref {tagged} by digest")));
            }
        }
        Ok(())
    }

    /// Files are deleted beneath the working directory, and elsewhere where that is allowed.
    fn check_deletion(&self, arguments: &BuildArguments) -> Result<(), Failure> {
        let entitlements = Entitlements::read(&arguments.steps.allow).map_err(Failure::usage)?;
        for spec in &self.specs {
            if let OutputSpec::Local(local) = spec
                && local.others == OtherFiles::Deleted
                && !entitlements.local_delete
                && !is_below_working_directory(&local.destination)
            {
                return Err(Failure::usage(format!(
                    "`mode=delete` would delete files in `{}`, which is not below the working directory",
                    local.destination.display()
                ))
                .with_hint("allow it with `--allow buildx.local.delete`"));
            }
        }
        Ok(())
    }

    /// Whether a file tells all that is known.
    pub(crate) fn tell_metadata(&self) -> bool {
        self.files.tell_metadata()
    }

    /// Whether an image is made.
    pub(crate) fn make_an_image(&self) -> bool {
        let is_image = |spec: &OutputSpec| {
            matches!(spec, OutputSpec::Image(_) | OutputSpec::Oci(_) | OutputSpec::Docker(_))
        };
        self.specs.iter().any(is_image)
    }

    /// Whether layers of images become one.
    pub(crate) fn squash(&self) -> bool {
        self.squash != Squash::Nothing
    }

    /// Whether something goes to a registry.
    pub(crate) fn needs_registry(&self) -> bool {
        self.specs.iter().any(|spec| matches!(spec, OutputSpec::Image(image) if image.push.is_some()))
    }

    /// Whether all of them can hold images of the form for these platforms; told before anything is built.
    pub(crate) fn check_form(&self, form: RootForm, platforms: &[Platform]) -> Result<(), Failure> {
        let is_docker = |spec: &OutputSpec| matches!(spec, OutputSpec::Docker(_));
        if form == RootForm::Index && self.specs.iter().any(is_docker) {
            return Err(Failure::from_error(FailureKind::Usage, &ExportError::IndexForDocker)
                .with_hint("`type=oci` can hold several platforms, and so can the store and registries"));
        }
        let is_attested = |spec: &OutputSpec| match spec {
            OutputSpec::Docker(archive) => self.attestations.make_an_index_of(&archive.form),
            _ => false,
        };
        if self.specs.iter().any(is_attested) {
            return Err(Failure::from_error(FailureKind::Usage, &ExportError::IndexForDocker).with_hint(
                "images with attestations are indexes, which `type=oci`, the store and registries hold",
            ));
        }
        for spec in &self.specs {
            if let OutputSpec::Image(ImageOutput { form: wanted, .. }) = spec {
                wanted
                    .annotations
                    .check(platforms, form)
                    .map_err(|error| Failure::from_error(FailureKind::Usage, &error))?;
            }
            if let OutputSpec::Oci(archive) | OutputSpec::Docker(archive) = spec {
                archive
                    .form
                    .annotations
                    .check(platforms, form)
                    .map_err(|error| Failure::from_error(FailureKind::Usage, &error))?;
            }
        }
        Ok(())
    }

    /// The names of an output as they were written: its own, else those of `-t`.
    fn given<'a>(&'a self, own: &'a [ImageReference]) -> &'a [ImageReference] {
        if own.is_empty() { &self.tags } else { own }
    }

    /// The names of an output with their tags.
    pub(super) fn names(&self, own: &[ImageReference]) -> Vec<ImageReference> {
        self.given(own).iter().cloned().map(ImageReference::with_default_tag).collect()
    }

    /// The names of all images.
    pub(super) fn all_names(&self) -> Vec<ImageReference> {
        let mut all: Vec<ImageReference> = Vec::new();
        for spec in &self.specs {
            let own = match spec {
                OutputSpec::Image(image) => &image.names,
                OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => &archive.names,
                OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => continue,
            };
            for name in self.names(own) {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        all
    }

    /// The names of an image with this digest.
    pub(super) fn names_of(&self, image: &ImageOutput, digest: &Digest) -> Names {
        let by_digest = |name: &ImageReference| name.by_digest(digest.clone());
        let names = self.names(&image.names);
        let is_by_digest = image.push.is_some_and(|push| push.by_digest);
        let plain: Vec<_> = if is_by_digest { names.iter().map(by_digest).collect() } else { names.clone() };
        let naming = &image.naming;
        let dangling = naming.dangling_prefix.as_ref();
        let dangling = dangling.filter(|_| names.is_empty() || !naming.dangling_empty_only).map(by_digest);
        let mut pushed = plain.clone();
        pushed.extend(dangling.clone());
        let mut kept = plain;
        if naming.canonical && !is_by_digest {
            kept.extend(names.iter().map(by_digest));
        }
        kept.extend(dangling);
        Names { kept, pushed }
    }
}

/// Reads the name of an image that is to be kept.
pub(crate) fn tag(text: &str) -> Result<ImageReference, Failure> {
    Ok(bare_tag(text)?.with_default_tag())
}

fn bare_tag(text: &str) -> Result<ImageReference, Failure> {
    let reference: ImageReference =
        text.parse().map_err(|error| Failure::usage(format!("invalid tag `{text}`: {error}")))?;
    if reference.digest().is_some() {
        return Err(Failure::usage(format!("invalid tag `{text}`: a tag cannot hold a digest")));
    }
    Ok(reference)
}

fn stored_image() -> ImageOutput {
    ImageOutput {
        names: Vec::new(),
        push: None,
        store: true,
        naming: exporter::Naming::default(),
        form: ImageForm::default(),
    }
}

/// `--push`: images that are asked for are pushed; where there are none, one more is.
fn push_images(specs: &mut Vec<OutputSpec>) {
    let mut found = false;
    for spec in specs.iter_mut() {
        if let OutputSpec::Image(image) = spec {
            image.push.get_or_insert_default();
            found = true;
        }
    }
    if !found {
        let push = Some(PushOutput::default());
        specs.push(OutputSpec::Image(ImageOutput { push, store: false, ..stored_image() }));
    }
}

/// `--load`: an image for an engine, unless there is one already.
fn load_images(specs: &mut Vec<OutputSpec>, target: &LoadWish) {
    let is_loaded = |spec: &OutputSpec| matches!(spec, OutputSpec::Docker(archive) if matches!(archive.destination, Destination::Engine(_)));
    if let LoadWish::In(target) = target
        && !specs.iter().any(is_loaded)
    {
        specs.push(OutputSpec::Docker(ArchiveOutput::loaded(target.clone())));
    }
}

/// The form of the image that an output makes, if it makes one.
fn form_of(spec: &mut OutputSpec) -> Option<&mut ImageForm> {
    match spec {
        OutputSpec::Image(image) => Some(&mut image.form),
        OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => Some(&mut archive.form),
        OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => None,
    }
}

pub(super) fn goes_to_stdout(spec: &OutputSpec) -> bool {
    match spec {
        OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => archive.destination == Destination::Stdout,
        OutputSpec::Tar(files) => files.destination == Destination::Stdout,
        OutputSpec::Image(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => false,
    }
}

/// Whether what will be at `path` lies in the working directory, and is not that itself.
fn is_below_working_directory(path: &Path) -> bool {
    let Ok(working) = std::env::current_dir().and_then(std::fs::canonicalize) else { return false };
    resolved(path).is_some_and(|path| path != working && path.starts_with(&working))
}

/// The path without links and dots; what is not there yet has none.
fn resolved(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok())?;
    let rest = path.strip_prefix(there).ok()?;
    let is_plain = rest.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    is_plain.then(|| std::fs::canonicalize(there).ok().map(|there| there.join(rest)))?
}

/// What a build's image is to be known by.
pub(crate) fn root_form(options: &LowerOptions) -> RootForm {
    if options.is_one_of_several { RootForm::Index } else { RootForm::Manifest }
}
