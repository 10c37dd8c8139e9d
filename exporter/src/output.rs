//! `--output`: what to make of an image, as `docker buildx build` spells it.

use std::path::PathBuf;

use oci::{ImageReference, ReferenceError};

use crate::annotations::{AnnotationError, Annotations};
use crate::attestation::{AttestationForm, AttestationManifestForm};
use crate::compression::{Compression, CompressionKind, MediaTypes};
use crate::fields::{FieldError, Fields, Grammar, LAYER_KEYS};
use crate::form::{ImageForm, LayerForm};

/// What to make of the result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// An image, kept in the store, pushed or both.
    Image(ImageOutput),
    /// An OCI layout, as a tar or a directory.
    Oci(ArchiveOutput),
    /// A tar that `docker load` reads; an OCI layout as well.
    Docker(ArchiveOutput),
    /// The files, as one tar.
    Tar(FilesOutput<Destination>),
    /// The files, in a directory.
    Local(FilesOutput<PathBuf>),
    /// Nothing: the build fills the cache.
    CacheOnly,
}

/// `type=image` and `type=registry`. That the image is unpacked (`unpack`) is what the store of this program always is
/// when an image is in it: its layers are there as snapshots, or can be made into some without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// The names that were given with the output, as they were written; `-t` adds others.
    pub names: Vec<ImageReference>,
    /// Whether and how the image is pushed.
    pub push: Option<PushOutput>,
    /// Whether the image is kept in the local store under its names.
    pub store: bool,
    /// What it is called besides.
    pub naming: Naming,
    /// What form it has.
    pub form: ImageForm,
}

/// How an image is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushOutput {
    /// By its digest alone, so that no tag names it (`push-by-digest`).
    pub by_digest: bool,
    /// Whether the registry may be spoken to without TLS or without a certificate that is known (`registry.insecure`).
    pub insecure: bool,
}

/// Names of an image that have its digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    /// The image is called `<prefix>@<digest>` as well (`dangling-name-prefix`).
    pub dangling_prefix: Option<ImageReference>,
    /// But only if it has no name (`danging-name-empty-only`, which BuildKit spells so).
    pub dangling_empty_only: bool,
    /// Each name stands with the digest as well (`name-canonical`).
    pub canonical: bool,
}

/// `type=oci` and `type=docker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOutput {
    /// Where to.
    pub destination: Destination,
    /// One file or a directory.
    pub packaging: Packaging,
    /// The names that were given with the output, as they were written; `-t` adds others.
    pub names: Vec<ImageReference>,
    /// What form it has.
    pub form: ImageForm,
}

impl ArchiveOutput {
    /// An image for an engine. Its layers are not compressed: the engine unpacks them anyway.
    pub fn loaded(target: LoadTarget) -> Self {
        let plain = Compression::new(CompressionKind::Uncompressed, None);
        let compression = plain.expect("what is not compressed has no level");
        let layers = LayerForm { compression, media_types: MediaTypes::Docker, ..LayerForm::default() };
        let attestations = AttestationForm { inline: false, ..AttestationForm::default() };
        let form = ImageForm { layers, attestations, ..ImageForm::default() };
        Self { destination: Destination::Engine(target), packaging: Packaging::Tar, names: Vec::new(), form }
    }
}

/// `type=tar` and `type=local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesOutput<D> {
    /// Where to.
    pub destination: D,
    /// What becomes of other files in the directory (`mode`).
    pub others: OtherFiles,
    /// Whether each platform has a directory of its own. Where nothing was said, it has if there are several.
    pub platform_split: Option<bool>,
    /// What the names of files with attestations begin with (`attestation-prefix`).
    pub attestation_prefix: String,
    /// The time of the files that takes precedence over the build's epoch (`source-date-epoch`), in seconds since 1970.
    pub epoch: Option<i64>,
}

impl<D> FilesOutput<D> {
    fn new(destination: D) -> Self {
        let attestation_prefix = String::new();
        Self { destination, others: OtherFiles::Kept, platform_split: None, attestation_prefix, epoch: None }
    }
}

/// What becomes of files that are in a directory already, and not in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherFiles {
    /// They stay.
    Kept,
    /// They go (`mode=delete`).
    Deleted,
}

/// One file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packaging {
    /// A tar.
    Tar,
    /// A directory (`tar=false`).
    Directory,
}

/// Which engine an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadTarget {
    /// The first that is there: docker's, containerd's, podman's.
    First,
    /// Docker's.
    Docker {
        /// The docker context that says where it is; what holds without one for `None`.
        context: Option<String>,
    },
    /// That of containerd's commands.
    Containerd,
    /// That of podman's command.
    Podman,
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// An engine of this machine, to which whoever knows it hands the archive ([`crate::stream_archives`]).
    Engine(LoadTarget),
    /// A path.
    Path(PathBuf),
    /// Standard output (`-`).
    Stdout,
}

/// Why a text is no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// It has not the form of an output.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// An annotation that cannot be.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// A name that is no image reference.
    #[error("invalid image name in output type `{kind}`")]
    Name {
        /// The type.
        kind: &'static str,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// There is no `dest`.
    #[error("output type `{kind}` needs a destination, as in `type={kind},dest={example}`")]
    NoDestination {
        /// The type.
        kind: &'static str,
        /// A destination that would do.
        example: &'static str,
    },
    /// A directory cannot go to standard output.
    #[error("output type `{0}` makes a directory, which cannot go to standard output")]
    DirectoryToStdout(&'static str),
}

const TYPES: &[&str] = &["image", "registry", "oci", "docker", "tar", "local", "cacheonly"];

const GRAMMAR: Grammar =
    Grammar { option: "output", types: TYPES, example: "type=oci,dest=image.tar", later: &[] };

/// Reads the value of `--output`: comma-separated `key=value` fields, which may be quoted as in CSV; a bare path is
/// `type=local,dest=<path>`, and `-` is `type=tar,dest=-`.
pub fn parse_output(text: &str) -> Result<OutputSpec, OutputError> {
    let fields = GRAMMAR.split(text)?;
    if let [single] = fields.as_slice()
        && !single.contains('=')
    {
        return Ok(match single.as_str() {
            "-" => OutputSpec::Tar(FilesOutput::new(Destination::Stdout)),
            path => OutputSpec::Local(FilesOutput::new(PathBuf::from(path))),
        });
    }
    let mut fields = GRAMMAR.read(text, &fields)?;
    Output { annotations: fields.annotations()?, fields }.read()
}

/// The fields of one output.
struct Output {
    fields: Fields,
    annotations: Annotations,
}

/// Keys of every output of an image.
const FORM_KEYS: &[&str] = &[
    "name",
    "rewrite-timestamp",
    "source-date-epoch",
    "prefer-nondist-layers",
    "oci-artifact",
    "attestation-inline",
    "compatibility-version",
];
const IMAGE_KEYS: &[&str] = &[
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
];
const ARCHIVE_KEYS: &[&str] = &["dest", "tar"];
const TAR_KEYS: &[&str] = &["dest", "platform-split", "attestation-prefix", "source-date-epoch"];
const LOCAL_KEYS: &[&str] = &["dest", "platform-split", "attestation-prefix", "source-date-epoch", "mode"];

impl Output {
    fn read(mut self) -> Result<OutputSpec, OutputError> {
        self.fields.check_keys(&match self.fields.kind {
            "image" | "registry" => [LAYER_KEYS, FORM_KEYS, IMAGE_KEYS].concat(),
            "docker" => [LAYER_KEYS, FORM_KEYS, ARCHIVE_KEYS, &["context"]].concat(),
            "oci" => [LAYER_KEYS, FORM_KEYS, ARCHIVE_KEYS].concat(),
            "tar" => TAR_KEYS.to_vec(),
            "local" => LOCAL_KEYS.to_vec(),
            _ => Vec::new(),
        })?;
        match self.fields.kind {
            "image" => self.image(Place::Store),
            "registry" => self.image(Place::Registry),
            "oci" => Ok(OutputSpec::Oci(self.archive(MediaTypes::Oci)?)),
            "docker" => Ok(OutputSpec::Docker(self.docker()?)),
            "tar" => {
                let destination = self.destination("out.tar")?;
                Ok(OutputSpec::Tar(self.files(destination)?))
            }
            "local" => match self.destination("out")? {
                Destination::Path(destination) => Ok(OutputSpec::Local(self.files(destination)?)),
                Destination::Stdout | Destination::Engine(_) => {
                    Err(OutputError::DirectoryToStdout(self.fields.kind))
                }
            },
            _ => Ok(OutputSpec::CacheOnly),
        }
    }

    fn image(&mut self, place: Place) -> Result<OutputSpec, OutputError> {
        // Accepted, as BuildKit's users give it: see `ImageOutput`.
        self.fields.boolean("unpack")?;
        let is_pushed = self.fields.boolean("push")?.unwrap_or(place == Place::Registry);
        let push = PushOutput {
            by_digest: self.fields.boolean("push-by-digest")?.unwrap_or(false),
            insecure: self.fields.boolean("registry.insecure")?.unwrap_or(false),
        };
        Ok(OutputSpec::Image(ImageOutput {
            names: self.names()?,
            push: is_pushed.then_some(push),
            store: self.fields.boolean("store")?.unwrap_or(place == Place::Store),
            naming: self.naming()?,
            form: self.form(MediaTypes::Oci)?,
        }))
    }

    fn naming(&mut self) -> Result<Naming, OutputError> {
        let prefix = self.fields.take("dangling-name-prefix").filter(|prefix| !prefix.is_empty());
        Ok(Naming {
            dangling_prefix: prefix.map(|prefix| self.name(&prefix)).transpose()?,
            dangling_empty_only: self.fields.boolean("danging-name-empty-only")?.unwrap_or(false),
            canonical: self.fields.boolean("name-canonical")?.unwrap_or(false),
        })
    }

    fn archive(&mut self, default: MediaTypes) -> Result<ArchiveOutput, OutputError> {
        let packaging = match self.fields.boolean("tar")? {
            Some(false) => Packaging::Directory,
            _ => Packaging::Tar,
        };
        let example = if packaging == Packaging::Tar { "image.tar" } else { "image" };
        let destination = self.destination(example)?;
        if packaging == Packaging::Directory && destination == Destination::Stdout {
            return Err(OutputError::DirectoryToStdout(self.fields.kind));
        }
        Ok(ArchiveOutput { destination, packaging, names: self.names()?, form: self.form(default)? })
    }

    /// Without a place, or with a context, it is for an engine: see [`ArchiveOutput::loaded`].
    fn docker(&mut self) -> Result<ArchiveOutput, OutputError> {
        let context = self.fields.take("context").filter(|context| !context.is_empty());
        let is_file = self.fields.has("dest") || self.fields.has("tar");
        if is_file && context.is_none() {
            return self.archive(MediaTypes::Docker);
        }
        let is_compressed = self.fields.has("compression");
        let target =
            context.map_or(LoadTarget::First, |context| LoadTarget::Docker { context: Some(context) });
        let loaded = ArchiveOutput::loaded(target);
        let form = self.form(MediaTypes::Docker)?;
        let compression =
            if is_compressed { form.layers.compression } else { loaded.form.layers.compression };
        let layers = LayerForm { compression, ..form.layers };
        Ok(ArchiveOutput { names: self.names()?, form: ImageForm { layers, ..form }, ..loaded })
    }

    /// What outputs of images have in common.
    fn form(&mut self, default: MediaTypes) -> Result<ImageForm, OutputError> {
        self.compatibility_version()?;
        let mut form = ImageForm {
            layers: self.fields.layer_form(default)?,
            rewrite_timestamp: self.fields.boolean("rewrite-timestamp")?.unwrap_or(false),
            omit_history: false,
            epoch: self.fields.epoch()?,
            keep_foreign: self.fields.boolean("prefer-nondist-layers")?.unwrap_or(false),
            attestations: AttestationForm {
                manifest: self.fields.boolean("oci-artifact")?.map(AttestationManifestForm::of_artifact),
                // `docker load` takes no index.
                inline: self.fields.boolean("attestation-inline")?.unwrap_or(self.fields.kind != "docker"),
            },
            annotations: Annotations::default(),
        };
        form.annotate(&self.annotations);
        Ok(form)
    }

    /// With it BuildKit assembles images as one of its earlier versions did. Here all versions assemble them alike, so
    /// that each is as good as another.
    fn compatibility_version(&mut self) -> Result<(), FieldError> {
        match self.fields.take("compatibility-version") {
            Some(version) if !matches!(version.as_str(), "10" | "20" | "30") => {
                Err(self.fields.wrong("compatibility-version", version, "`10`, `20` or `30`"))
            }
            _ => Ok(()),
        }
    }

    fn files<D>(&mut self, destination: D) -> Result<FilesOutput<D>, OutputError> {
        let others = match self.fields.take("mode").as_deref() {
            None | Some("" | "copy") => OtherFiles::Kept,
            Some("delete") => OtherFiles::Deleted,
            Some(other) => {
                return Err(self.fields.wrong("mode", other.to_owned(), "`copy` or `delete`").into());
            }
        };
        Ok(FilesOutput {
            destination,
            others,
            platform_split: self.fields.boolean("platform-split")?,
            attestation_prefix: self.fields.take("attestation-prefix").unwrap_or_default(),
            epoch: self.fields.epoch()?,
        })
    }

    fn destination(&mut self, example: &'static str) -> Result<Destination, OutputError> {
        match self.fields.take("dest").as_deref() {
            None | Some("") => Err(OutputError::NoDestination { kind: self.fields.kind, example }),
            Some("-") => Ok(Destination::Stdout),
            Some(path) => Ok(Destination::Path(PathBuf::from(path))),
        }
    }

    fn names(&mut self) -> Result<Vec<ImageReference>, OutputError> {
        let Some(names) = self.fields.take("name") else { return Ok(Vec::new()) };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(|name| self.name(name)).collect()
    }

    fn name(&self, text: &str) -> Result<ImageReference, OutputError> {
        text.parse().map_err(|source| OutputError::Name { kind: self.fields.kind, source })
    }
}

/// Where an image goes if nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Store,
    Registry,
}

#[cfg(test)]
mod tests;
