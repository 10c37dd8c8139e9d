//! `--output`: what to make of an image, as `docker buildx build` spells it.

use std::path::PathBuf;

use oci::{ImageReference, ReferenceError};

use crate::annotations::{AnnotationError, Annotations};
use crate::compression::MediaTypes;
use crate::fields::{FieldError, Fields, Grammar, LAYER_KEYS};
use crate::form::ImageForm;

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

/// `type=image` and `type=registry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// The names that were given with the output; `-t` adds others.
    pub names: Vec<ImageReference>,
    /// Whether the image is pushed.
    pub push: bool,
    /// Whether the image is kept in the local store under its names.
    pub store: bool,
    /// What form it has.
    pub form: ImageForm,
}

/// `type=oci` and `type=docker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOutput {
    /// Where to.
    pub destination: Destination,
    /// One file or a directory.
    pub packaging: Packaging,
    /// The names that were given with the output; `-t` adds others.
    pub names: Vec<ImageReference>,
    /// What form it has.
    pub form: ImageForm,
}

/// `type=tar` and `type=local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesOutput<D> {
    /// Where to.
    pub destination: D,
    /// Whether each platform has a directory of its own. Where nothing was said, it has if there are several.
    pub platform_split: Option<bool>,
}

impl<D> FilesOutput<D> {
    fn new(destination: D) -> Self {
        Self { destination, platform_split: None }
    }
}

/// One file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packaging {
    /// A tar.
    Tar,
    /// A directory (`tar=false`).
    Directory,
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
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
    Grammar { option: "output", types: TYPES, example: "type=oci,dest=image.tar", later: LATER_KEYS };

/// Keys that BuildKit's exporters take and that come here later.
const LATER_KEYS: &[&str] = &[
    "push-by-digest",
    "registry.insecure",
    "oci-artifact",
    "unpack",
    "store",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "prefer-nondist-layers",
    "rewrite-timestamp",
    "source-date-epoch",
    "attestation-inline",
    "attestation-prefix",
    "compatibility-version",
    "context",
    "mode",
    "buildinfo",
];

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

const IMAGE_KEYS: &[&str] = &["name", "push"];
const ARCHIVE_KEYS: &[&str] = &["dest", "tar", "name"];
const FILES_KEYS: &[&str] = &["dest", "platform-split"];

impl Output {
    fn read(mut self) -> Result<OutputSpec, OutputError> {
        self.fields.check_keys(&match self.fields.kind {
            "image" | "registry" => [LAYER_KEYS, IMAGE_KEYS].concat(),
            "oci" | "docker" => [LAYER_KEYS, ARCHIVE_KEYS].concat(),
            "tar" | "local" => FILES_KEYS.to_vec(),
            _ => Vec::new(),
        })?;
        match self.fields.kind {
            "image" => self.image(false, true),
            "registry" => self.image(true, false),
            "oci" => Ok(OutputSpec::Oci(self.archive(MediaTypes::Oci)?)),
            "docker" => Ok(OutputSpec::Docker(self.archive(MediaTypes::Docker)?)),
            "tar" => {
                let destination = self.destination("out.tar")?;
                Ok(OutputSpec::Tar(FilesOutput {
                    destination,
                    platform_split: self.fields.boolean("platform-split")?,
                }))
            }
            "local" => match self.destination("out")? {
                Destination::Path(destination) => Ok(OutputSpec::Local(FilesOutput {
                    destination,
                    platform_split: self.fields.boolean("platform-split")?,
                })),
                Destination::Stdout => Err(OutputError::DirectoryToStdout(self.fields.kind)),
            },
            _ => Ok(OutputSpec::CacheOnly),
        }
    }

    fn image(&mut self, push: bool, store: bool) -> Result<OutputSpec, OutputError> {
        Ok(OutputSpec::Image(ImageOutput {
            names: self.names()?,
            push: self.fields.boolean("push")?.unwrap_or(push),
            store,
            form: self.form(MediaTypes::Oci)?,
        }))
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

    /// What outputs of images have in common.
    fn form(&mut self, default: MediaTypes) -> Result<ImageForm, OutputError> {
        let mut form = ImageForm { layers: self.fields.layer_form(default)?, ..ImageForm::default() };
        form.annotate(&self.annotations);
        Ok(form)
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
        names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| match name.parse::<ImageReference>() {
                Ok(reference) => Ok(reference.with_default_tag()),
                Err(source) => Err(OutputError::Name { kind: self.fields.kind, source }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::AnnotationLevel;
    use crate::compression::{Compression, CompressionKind};
    use crate::form::LayerForm;

    fn image() -> ImageOutput {
        ImageOutput { names: Vec::new(), push: false, store: true, form: ImageForm::default() }
    }

    fn archive(path: &str, media_types: MediaTypes) -> ArchiveOutput {
        ArchiveOutput {
            destination: Destination::Path(path.into()),
            packaging: Packaging::Tar,
            names: Vec::new(),
            form: ImageForm::of_types(media_types),
        }
    }

    #[test]
    fn outputs_are_read() {
        let mut annotations = Annotations::default();
        annotations.set(AnnotationLevel::Manifest, None, "org.Example", "x");
        let arm = Some("linux/arm64".parse().unwrap());
        annotations.set(AnnotationLevel::ManifestDescriptor, arm, "a.b", "y=z");
        let forced = LayerForm { force: true, ..LayerForm::default() };
        let zstd = Compression::new(CompressionKind::Zstd, Some(9)).unwrap();
        let names = vec!["a:1".parse().unwrap(), "b:latest".parse().unwrap()];
        let cases = [
            ("out", OutputSpec::Local(FilesOutput::new("out".into()))),
            ("-", OutputSpec::Tar(FilesOutput::new(Destination::Stdout))),
            ("type=local,dest=a b", OutputSpec::Local(FilesOutput::new("a b".into()))),
            ("type=tar,dest=-", OutputSpec::Tar(FilesOutput::new(Destination::Stdout))),
            (
                "type=local,dest=x,platform-split=false",
                OutputSpec::Local(FilesOutput { destination: "x".into(), platform_split: Some(false) }),
            ),
            ("type=cacheonly", OutputSpec::CacheOnly),
            ("type=image", OutputSpec::Image(image())),
            ("type=image,push=true", OutputSpec::Image(ImageOutput { push: true, ..image() })),
            (
                "type=registry,\"name=a:1,b\",oci-mediatypes=0",
                OutputSpec::Image(ImageOutput {
                    names,
                    push: true,
                    store: false,
                    form: ImageForm::of_types(MediaTypes::Docker),
                    ..image()
                }),
            ),
            (
                "dest=x.tar,type=oci,compression=zstd,compression-level=9",
                OutputSpec::Oci(ArchiveOutput {
                    form: ImageForm::compressed(zstd),
                    ..archive("x.tar", MediaTypes::Oci)
                }),
            ),
            (
                "type=oci,tar=false,dest=x",
                OutputSpec::Oci(ArchiveOutput {
                    packaging: Packaging::Directory,
                    ..archive("x", MediaTypes::Oci)
                }),
            ),
            (
                "type=image,annotation.org.Example=x,annotation-manifest-descriptor[linux/arm64].a.b=y=z,\
                 oci-mediatypes=false,force-compression=true",
                OutputSpec::Image(ImageOutput { form: ImageForm { layers: forced, annotations }, ..image() }),
            ),
            ("type=docker,dest=x.tar", OutputSpec::Docker(archive("x.tar", MediaTypes::Docker))),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_output(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("type=ocl,dest=x", "unknown output type `ocl` (did you mean oci?)"),
            ("type=whatever", "unknown output type `whatever`"),
            ("dest=x", "invalid output `dest=x`: a `type` is required, as in `type=oci,dest=image.tar`"),
            ("type=oci,x", "invalid output `type=oci,x`: `x` should have the form `key=value`"),
            ("type=oci,dets=x", "unknown key `dets` for output type `oci` (did you mean dest?)"),
            ("type=local,name=x,dest=x", "unknown key `name` for output type `local`"),
            ("type=oci", "output type `oci` needs a destination, as in `type=oci,dest=image.tar`"),
            (
                "type=local,dest=-",
                "output type `local` makes a directory, which cannot go to standard output",
            ),
            ("type=image,annotation-layer.a=b", "unknown annotation type \"layer\""),
            (
                "type=image,annotation[linux/x/y/z].a=b",
                "invalid platform of annotation `annotation[linux/x/y/z].a`",
            ),
            (
                "type=image,compression=lzma",
                "invalid value `lzma` for `compression` of output type `image`: it should be `uncompressed`, `gzip`, `zstd` or `estargz`",
            ),
            (
                "type=image,compression-level=11",
                "compression level 11 is out of range for gzip: it should be between 0 and 9",
            ),
            (
                "type=image,push=yes",
                "invalid value `yes` for `push` of output type `image`: it should be `true` or `false`",
            ),
            ("type=image,\"name=a", "invalid output `type=image,\"name=a`: a double quote is not closed"),
            ("type=image,name=A", "invalid image name in output type `image`"),
        ];
        for (text, message) in cases {
            assert_eq!(parse_output(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
