//! Attestations: what is said of an image or of files, as in-toto statements, and the manifests that hold them beside
//! images (BuildKit's "Image Attestation Storage").

use std::collections::BTreeMap;

use cache::Store;
use oci::{Descriptor, Digest, ImageReference, Manifest, MediaType, Platform};
use sbom::PackageUrl;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::ExportError;
use crate::image::Assembled;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const STATEMENT_MEDIA_TYPE: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const MANIFEST_ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const EMPTY_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
const EMPTY_IN_BASE64: &str = "e30=";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION_MANIFEST: &str = "attestation-manifest";
/// What stands where something has no name.
const NAMELESS: &str = "_";

/// What is said of something, and what kind of saying it is.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// The type of the predicate, a URI.
    pub predicate_type: String,
    /// The predicate, JSON.
    pub predicate: Box<RawValue>,
    /// The name of the file that holds it beside files.
    pub file_name: String,
    /// Where it goes.
    pub reach: Reach,
}

/// Where an attestation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To images and beside files.
    Everywhere,
    /// To images alone (`inline-only`).
    Images,
}

/// What an attestation is about: a name and digests by their algorithms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL for images, a path for files.
    pub name: String,
    /// Hexadecimal digests.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// Something with one digest.
    pub fn new(name: &str, digest: &Digest) -> Self {
        let digest = BTreeMap::from([(digest.algorithm().to_owned(), digest.hex().to_owned())]);
        Self { name: name.to_owned(), digest }
    }
}

/// An in-toto statement (version 1).
#[derive(Serialize)]
struct Statement<'s> {
    #[serde(rename = "_type")]
    kind: &'static str,
    #[serde(rename = "predicateType")]
    predicate_type: &'s str,
    subject: &'s [Subject],
    predicate: &'s RawValue,
}

impl Attestation {
    /// The statement that says it of `subjects`.
    pub fn statement(&self, subjects: &[Subject]) -> Result<Vec<u8>, ExportError> {
        let statement = Statement {
            kind: STATEMENT,
            predicate_type: &self.predicate_type,
            subject: subjects,
            predicate: &self.predicate,
        };
        serde_json::to_vec(&statement).map_err(ExportError::Json)
    }
}

/// The package URL of an image: `pkg:docker/name@tag?platform=…`.
pub fn image_url(reference: &ImageReference, platform: Option<&Platform>) -> String {
    let mut name = reference.familiar();
    if let Some((rest, _)) = name.split_once('@') {
        name.truncate(rest.len());
    }
    let version = reference.tag().unwrap_or_default();
    if let Some(rest) = name.strip_suffix(&format!(":{version}")) {
        name.truncate(rest.len());
    }
    PackageUrl::of_path("docker", &name, version)
        .with("digest", reference.digest().map(Digest::as_str))
        .with("platform", platform.map(ToString::to_string))
        .to_string()
}

/// How attestations stand beside images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttestationForm {
    /// Whether their manifests are artifacts with a subject, or look like images (`oci-artifact`), where that was said.
    pub manifest: Option<AttestationManifestForm>,
    /// Whether those that are for images alone make an index of an image that is none otherwise
    /// (`attestation-inline`).
    pub inline: bool,
}

/// What an attestation manifest looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttestationManifestForm {
    /// An artifact (OCI image spec 1.1) with the image as its subject.
    #[default]
    Artifact,
    /// An image with a config, which registries without artifacts take.
    Image,
}

impl AttestationManifestForm {
    /// What `oci-artifact` asks for.
    pub(crate) fn of_artifact(is_artifact: bool) -> Self {
        if is_artifact { Self::Artifact } else { Self::Image }
    }
}

impl Default for AttestationForm {
    fn default() -> Self {
        Self { manifest: None, inline: true }
    }
}

impl AttestationForm {
    /// Whether `attestations` make an index of an image that would be none without them. In an index, all are there.
    pub fn make_an_index(self, attestations: &[Attestation]) -> bool {
        attestations.iter().any(|attestation| self.inline || attestation.reach == Reach::Everywhere)
    }
}

/// A manifest with the attestations of one image.
#[derive(Debug, Clone)]
pub(crate) struct AttestationManifest {
    pub(crate) manifest: Vec<u8>,
    /// As it stands in the index: with a platform that no machine has, so that nobody takes it for an image.
    pub(crate) descriptor: Descriptor,
    pub(crate) config: (Descriptor, Vec<u8>),
    pub(crate) statements: Vec<(Descriptor, Vec<u8>)>,
}

/// A config that makes an attestation manifest look like an image. The members are in BuildKit's order.
#[derive(Serialize)]
struct ImageLikeConfig<'c> {
    architecture: &'static str,
    os: &'static str,
    config: BTreeMap<String, String>,
    rootfs: ImageLikeRootFs<'c>,
}

#[derive(Serialize)]
struct ImageLikeRootFs<'c> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<&'c Digest>,
}

impl AttestationManifest {
    /// Says `attestations` of an image that has `names`.
    pub(crate) fn new(
        image: &Assembled,
        attestations: &[Attestation],
        names: &[ImageReference],
        form: AttestationForm,
    ) -> Result<Self, ExportError> {
        let digest = &image.descriptor.digest;
        let mut subjects: Vec<Subject> =
            names.iter().map(|name| Subject::new(&image_url(name, Some(&image.platform)), digest)).collect();
        if subjects.is_empty() {
            subjects.push(Subject::new(NAMELESS, digest));
        }
        let mut statements = Vec::with_capacity(attestations.len());
        for attestation in attestations {
            let bytes = attestation.statement(&subjects)?;
            let annotation = (PREDICATE_TYPE.to_owned(), attestation.predicate_type.clone());
            let descriptor = Descriptor {
                annotations: BTreeMap::from([annotation]),
                ..Descriptor::of(STATEMENT_MEDIA_TYPE, &bytes)
            };
            statements.push((descriptor, bytes));
        }
        let layers: Vec<Descriptor> = statements.iter().map(|(descriptor, _)| descriptor.clone()).collect();
        let (config, artifact_type, subject) = match form.manifest.unwrap_or_default() {
            AttestationManifestForm::Artifact => {
                let config = Descriptor {
                    data: Some(EMPTY_IN_BASE64.to_owned()),
                    ..Descriptor::of(EMPTY_MEDIA_TYPE, EMPTY)
                };
                let subject =
                    Descriptor { annotations: BTreeMap::new(), platform: None, ..image.descriptor.clone() };
                ((config, EMPTY.to_vec()), Some(MANIFEST_ARTIFACT_TYPE.to_owned()), Some(subject))
            }
            AttestationManifestForm::Image => {
                let diff_ids = layers.iter().map(|layer| &layer.digest).collect();
                let config = ImageLikeConfig {
                    architecture: "unknown",
                    os: "unknown",
                    config: BTreeMap::new(),
                    rootfs: ImageLikeRootFs { kind: "layers", diff_ids },
                };
                let config = serde_json::to_vec(&config).map_err(ExportError::Json)?;
                ((Descriptor::of(MediaType::OCI_CONFIG, &config), config), None, None)
            }
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
            artifact_type,
            config: config.0.clone(),
            layers,
            subject,
            annotations: BTreeMap::new(),
        };
        // Indented as manifests of images are.
        let manifest = serde_json::to_vec_pretty(&manifest).map_err(ExportError::Json)?;
        let descriptor = Descriptor {
            annotations: BTreeMap::from([
                (REFERENCE_DIGEST.to_owned(), digest.to_string()),
                (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
            ]),
            platform: Some(Platform::new("unknown", "unknown", None)),
            ..Descriptor::of(MediaType::OCI_MANIFEST, &manifest)
        };
        Ok(Self { manifest, descriptor, config, statements })
    }

    /// Whether an entry of an index names one.
    pub(crate) fn is_named_by(entry: &Descriptor) -> bool {
        entry.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION_MANIFEST)
    }

    /// The one in the store that an entry of an index names.
    pub(crate) fn load(store: &Store, entry: &Descriptor) -> Result<Self, ExportError> {
        let manifest = store.blobs().read(&entry.digest)?;
        let parsed: Manifest = serde_json::from_slice(&manifest)
            .map_err(|source| ExportError::Document { digest: entry.digest.clone(), source })?;
        let config = store.blobs().read(&parsed.config.digest)?;
        let statements = parsed.layers.into_iter().map(|layer| {
            let bytes = store.blobs().read(&layer.digest)?;
            Ok::<_, ExportError>((layer, bytes))
        });
        Ok(Self {
            statements: statements.collect::<Result<_, _>>()?,
            manifest,
            descriptor: entry.clone(),
            config: (parsed.config, config),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_package_urls() {
        let digest = Digest::sha256(b"x");
        let pinned = format!("alpine:3.19@{digest}");
        let cases = [
            ("alpine", "pkg:docker/alpine?platform=linux%2Famd64".to_owned()),
            ("docker.io/library/alpine:3.19", "pkg:docker/alpine@3.19?platform=linux%2Famd64".to_owned()),
            ("a/b:v1", "pkg:docker/a/b@v1?platform=linux%2Famd64".to_owned()),
            ("localhost:5000/x/y:v1", "pkg:docker/localhost%3A5000/x/y@v1?platform=linux%2Famd64".to_owned()),
            (&pinned, format!("pkg:docker/alpine@3.19?digest={digest}&platform=linux%2Famd64")),
        ];
        let platform = Platform::new("linux", "amd64", None);
        for (text, url) in cases {
            assert_eq!(image_url(&text.parse().unwrap(), Some(&platform)), url, "{text}");
        }
    }

    #[test]
    fn a_statement_says_a_predicate_of_subjects() {
        let attestation = Attestation {
            predicate_type: "https://spdx.dev/Document".to_owned(),
            predicate: RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap(),
            file_name: "sbom.spdx.json".to_owned(),
            reach: Reach::Everywhere,
        };
        let digest = Digest::sha256(b"");
        let text = String::from_utf8(attestation.statement(&[Subject::new("x", &digest)]).unwrap()).unwrap();
        let expected = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[{{"name":"x","digest":{{"sha256":"{}"}}}}],"predicate":{{"a":1}}}}"#,
            digest.hex()
        );
        assert_eq!(text, expected);
    }
}
