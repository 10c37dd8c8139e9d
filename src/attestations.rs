//! What a build says of its result: how it was built (provenance), and what is in it (SBOM). Nothing is said that nobody
//! asked for.

mod arguments;
mod json;
mod packages;
mod provenance;
mod saying;
mod scans;
mod steps;

use exporter::{
    Attestation, AttestationManifestForm, AttestationSpec, ImageForm, OutputSpec, ProvenanceMode,
    ProvenanceSpec, Reach, SbomSpec,
};
use serde_json::Value;
use serde_json::value::to_raw_value;

pub(crate) use arguments::{AttestationArguments, join_values};
pub(crate) use scans::Scans;

use provenance::Provenance;

use crate::report::{Failure, FailureKind};
use crate::settings::Environment;

/// What is to be said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attestations {
    pub(crate) provenance: Option<ProvenanceSpec>,
    pub(crate) sbom: Option<SbomSpec>,
    /// How much of the provenance goes into the file of `--metadata-file`; nothing for `None`.
    pub(crate) metadata: Option<ProvenanceMode>,
    /// How they stand beside images of outputs that do not say it.
    form: AttestationManifestForm,
}

impl Attestations {
    /// Reads `--attest`, `--provenance`, `--sbom` and the variables of buildx that have to do with them.
    pub(crate) fn of(arguments: &AttestationArguments) -> Result<Self, Failure> {
        let mut wanted = Self {
            metadata: metadata_mode(Environment::text("BUILDX_METADATA_PROVENANCE").as_deref())
                .map_err(Failure::usage)?,
            form: default_form(Environment::text("BUILDX_NO_DEFAULT_OCI_ARTIFACT").as_deref())
                .map_err(Failure::usage)?,
            ..Self::default()
        };
        let (mut has_provenance, mut has_sbom) = (false, false);
        for text in arguments.texts() {
            let spec = exporter::parse_attestation(&text)
                .map_err(|error| Failure::from_error(FailureKind::Usage, &error))?;
            let twice = match spec {
                AttestationSpec::Provenance(spec) => {
                    wanted.provenance = spec;
                    std::mem::replace(&mut has_provenance, true)
                }
                AttestationSpec::Sbom(spec) => {
                    wanted.sbom = spec;
                    std::mem::replace(&mut has_sbom, true)
                }
            };
            if twice {
                return Err(Failure::usage(format!(
                    "attestations of one type are asked for twice: `{text}`"
                )));
            }
        }
        Ok(wanted)
    }

    /// Whether anything is said that makes an index of any image.
    pub(crate) fn make_an_index(&self) -> bool {
        self.sbom.is_some() || self.provenance.as_ref().is_some_and(|provenance| !provenance.inline_only)
    }

    /// Whether an image of that form is in an index because of what is said of it.
    pub(crate) fn make_an_index_of(&self, form: &ImageForm) -> bool {
        self.make_an_index() || (form.attestations.inline && self.provenance.is_some())
    }

    /// Has images take the form that goes with what is said of them.
    pub(crate) fn prepare(&self, outputs: &mut [OutputSpec]) {
        for output in outputs {
            let form = match output {
                OutputSpec::Image(image) => &mut image.form,
                OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => &mut archive.form,
                OutputSpec::Tar(_) | OutputSpec::Local(_) | OutputSpec::CacheOnly => continue,
            };
            if self.make_an_index_of(form) {
                form.attest(self.form);
            }
        }
    }
}

/// The value of a variable that docker reads as a boolean.
fn boolean(name: &str, value: &str) -> Result<bool, String> {
    frontend::go_bool(value)
        .ok_or_else(|| format!("invalid value `{value}` of `{name}`: it should be a boolean"))
}

fn default_form(value: Option<&str>) -> Result<AttestationManifestForm, String> {
    match value {
        Some(value) if !value.is_empty() && boolean("BUILDX_NO_DEFAULT_OCI_ARTIFACT", value)? => {
            Ok(AttestationManifestForm::Image)
        }
        _ => Ok(AttestationManifestForm::Artifact),
    }
}

fn metadata_mode(value: Option<&str>) -> Result<Option<ProvenanceMode>, String> {
    const NAME: &str = "BUILDX_METADATA_PROVENANCE";
    match value {
        None | Some("" | "min") => Ok(Some(ProvenanceMode::Min)),
        Some("max") => Ok(Some(ProvenanceMode::Max)),
        Some("disabled") => Ok(None),
        Some(other) => match boolean(NAME, other) {
            Ok(true) => Ok(Some(ProvenanceMode::Min)),
            Ok(false) => Ok(None),
            Err(_) => {
                Err(format!("invalid value `{other}` of `{NAME}`: it should be `min`, `max` or `disabled`"))
            }
        },
    }
}

/// What is said of the results of one build.
pub(crate) struct Said<'s> {
    pub(crate) wanted: &'s Attestations,
    /// For each image the documents of its packages, with the names of their files.
    pub(crate) packages: Vec<Vec<Attestation>>,
    /// For each image.
    pub(crate) provenance: Vec<Provenance<'s>>,
}

impl Said<'_> {
    /// What is said of the image of that number, whose layers are known if it is one.
    pub(crate) fn of(&self, number: usize, layers: Option<&[oci::Descriptor]>) -> Vec<Attestation> {
        let mut said = self.packages.get(number).cloned().unwrap_or_default();
        if let (Some(spec), Some(provenance)) = (&self.wanted.provenance, self.provenance.get(number)) {
            let predicate = provenance.predicate(spec, layers);
            said.push(Attestation {
                predicate_type: provenance::predicate_type(spec.version).to_owned(),
                predicate: to_raw_value(&predicate).expect("a JSON value can be written"),
                file_name: spec.file_name.clone(),
                reach: if spec.inline_only { Reach::Images } else { Reach::Everywhere },
            });
        }
        said
    }

    /// What the file of `--metadata-file` has of it, by its key. `layers` are those of each image.
    pub(crate) fn metadata(&self, layers: &[&[oci::Descriptor]]) -> Vec<(String, Value)> {
        let Some(mode) = self.wanted.metadata else { return Vec::new() };
        let spec = self.wanted.provenance.clone().unwrap_or_default();
        let spec = ProvenanceSpec { mode, ..spec };
        let predicates = self.provenance.iter().enumerate().map(|(number, provenance)| {
            let key = match self.provenance.len() {
                1 => "buildx.build.provenance".to_owned(),
                _ => format!("buildx.build.provenance/{}", provenance.platform),
            };
            (key, provenance.predicate(&spec, layers.get(number).copied()))
        });
        predicates.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        assert_eq!(metadata_mode(None), Ok(Some(ProvenanceMode::Min)));
        assert_eq!(metadata_mode(Some("max")), Ok(Some(ProvenanceMode::Max)));
        assert_eq!(metadata_mode(Some("disabled")), Ok(None));
        assert_eq!(metadata_mode(Some("0")), Ok(None));
        let wrong =
            "invalid value `all` of `BUILDX_METADATA_PROVENANCE`: it should be `min`, `max` or `disabled`";
        assert_eq!(metadata_mode(Some("all")), Err(wrong.to_owned()));
        assert_eq!(default_form(Some("1")), Ok(AttestationManifestForm::Image));
        assert_eq!(default_form(Some("false")), Ok(AttestationManifestForm::Artifact));
        assert!(default_form(Some("x")).is_err());
    }

    #[test]
    fn what_is_asked_for_twice_is_refused() {
        let read = |attest: &[&str], provenance: Option<&str>, sbom: Option<&str>| {
            let attest = attest.iter().map(|text| (*text).to_owned()).collect();
            let (provenance, sbom) = (provenance.map(str::to_owned), sbom.map(str::to_owned));
            Attestations::of(&AttestationArguments { attest, provenance, sbom })
        };
        let off = read(&[], Some("false"), Some("0")).unwrap();
        assert!(off.provenance.is_none() && off.sbom.is_none() && !off.make_an_index());
        let on = read(&["type=sbom"], Some("mode=min,inline-only=true"), None).unwrap();
        assert_eq!(on.provenance.unwrap().mode, ProvenanceMode::Min);
        assert!(on.sbom.is_some());
        assert!(read(&["type=sbom"], None, Some("true")).is_err());
    }
}
