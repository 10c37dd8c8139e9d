//! `--attest`, `--provenance` and `--sbom`, as `docker buildx build` spells them.

use std::collections::BTreeMap;

use oci::{ImageReference, ReferenceError};

use crate::fields::{FieldError, Grammar};

/// An attestation that is asked for, or asked not to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestationSpec {
    /// How the image was built; `None` for `disabled`.
    Provenance(Option<ProvenanceSpec>),
    /// What is in the image; `None` for `disabled`.
    Sbom(Option<SbomSpec>),
}

/// How much a provenance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProvenanceMode {
    /// What the build was made of, and when.
    Min,
    /// Also its arguments, its steps and its Dockerfile.
    #[default]
    Max,
}

/// The version of a provenance's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProvenanceVersion {
    /// SLSA 0.2.
    V02,
    /// SLSA 1.
    #[default]
    V1,
}

/// `type=provenance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceSpec {
    /// `mode`.
    pub mode: ProvenanceMode,
    /// `version`.
    pub version: ProvenanceVersion,
    /// `builder-id`: who builds.
    pub builder_id: String,
    /// `filename`: its name beside files.
    pub file_name: String,
    /// `reproducible`: whether it says that building again gives the same.
    pub reproducible: bool,
    /// `inline-only`: whether only images have it.
    pub inline_only: bool,
}

impl Default for ProvenanceSpec {
    fn default() -> Self {
        Self {
            mode: ProvenanceMode::default(),
            version: ProvenanceVersion::default(),
            builder_id: String::new(),
            file_name: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
        }
    }
}

/// `type=sbom`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SbomSpec {
    /// `generator`: the image that scans; the own scanner where there is none.
    pub generator: Option<ImageReference>,
    /// All other keys, which the scanner gets as `BUILDKIT_SCAN_<key>`.
    pub parameters: BTreeMap<String, String>,
}

/// Why a text is no attestation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// It has not the form of one.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// The generator is no image.
    #[error("invalid `generator` of attestation type `sbom`")]
    Generator(#[source] ReferenceError),
    /// The own scanner takes no parameters.
    #[error("unknown key `{0}` for attestation type `sbom`: only a `generator` takes parameters of its own")]
    Parameter(String),
    /// A file name that leads elsewhere.
    #[error(
        "invalid value `{0}` for `filename` of attestation type `provenance`: it should be the name of a file"
    )]
    FileName(String),
}

const GRAMMAR: Grammar = Grammar {
    option: "attestation",
    types: &["provenance", "sbom"],
    example: "type=provenance,mode=max",
    later: &[],
};
const PROVENANCE_KEYS: &[&str] =
    &["mode", "version", "builder-id", "filename", "reproducible", "inline-only", "disabled"];

/// Reads the value of `--attest`: comma-separated `key=value` fields, which may be quoted as in CSV.
pub fn parse_attestation(text: &str) -> Result<AttestationSpec, AttestationError> {
    let split = GRAMMAR.split(text)?;
    let mut parameters = BTreeMap::new();
    let mut fields = Vec::new();
    let is_sbom = split.iter().any(|field| field.trim() == "type=sbom");
    for field in split {
        match field.split_once('=') {
            // The scanner's own keys, whose case matters.
            Some((key, value)) if is_sbom && !matches!(key.trim(), "type" | "generator" | "disabled") => {
                parameters.insert(key.trim().to_owned(), value.to_owned());
            }
            // As with buildx, a key alone is switched on.
            None if matches!(field.trim(), "disabled" | "reproducible" | "inline-only") => {
                fields.push(format!("{field}=true"));
            }
            _ => fields.push(field),
        }
    }
    let mut fields = GRAMMAR.read(text, &fields)?;
    if fields.kind == "sbom" {
        let generator = fields.take("generator").filter(|generator| !generator.is_empty());
        let generator = generator.map(|name| name.parse::<ImageReference>()).transpose();
        let generator = generator.map_err(AttestationError::Generator)?;
        let generator = generator.map(ImageReference::with_default_tag);
        if let (None, Some((key, _))) = (&generator, parameters.first_key_value()) {
            return Err(AttestationError::Parameter(key.clone()));
        }
        let is_disabled = fields.boolean("disabled")?.unwrap_or(false);
        return Ok(AttestationSpec::Sbom((!is_disabled).then_some(SbomSpec { generator, parameters })));
    }
    fields.check_keys(PROVENANCE_KEYS)?;
    let mode = match fields.take("mode").as_deref() {
        None | Some("" | "max") => ProvenanceMode::Max,
        Some("min") => ProvenanceMode::Min,
        Some(other) => return Err(fields.wrong("mode", other.to_owned(), "`min` or `max`").into()),
    };
    let version = match fields.take("version").as_deref() {
        None | Some("" | "v1") => ProvenanceVersion::V1,
        Some("v0.2") => ProvenanceVersion::V02,
        Some(other) => return Err(fields.wrong("version", other.to_owned(), "`v1` or `v0.2`").into()),
    };
    let spec = ProvenanceSpec::default();
    let file_name = fields.take("filename").filter(|name| !name.is_empty()).unwrap_or(spec.file_name);
    if file_name.contains('/') || matches!(file_name.as_str(), "." | "..") {
        return Err(AttestationError::FileName(file_name));
    }
    let spec = ProvenanceSpec {
        mode,
        version,
        builder_id: fields.take("builder-id").unwrap_or_default(),
        file_name,
        reproducible: fields.boolean("reproducible")?.unwrap_or(false),
        inline_only: fields.boolean("inline-only")?.unwrap_or(false),
    };
    let is_disabled = fields.boolean("disabled")?.unwrap_or(false);
    Ok(AttestationSpec::Provenance((!is_disabled).then_some(spec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_are_read() {
        let provenance = ProvenanceSpec::default();
        let sbom = SbomSpec::default();
        let scanned = SbomSpec {
            generator: Some("docker/buildkit-syft-scanner:stable-1".parse().unwrap()),
            parameters: BTreeMap::from([("SELECT_CATALOGERS".to_owned(), "+a,b".to_owned())]),
        };
        let cases = [
            ("type=provenance", AttestationSpec::Provenance(Some(provenance.clone()))),
            ("type=provenance,disabled=true", AttestationSpec::Provenance(None)),
            (
                "type=provenance,mode=min,version=v0.2,builder-id=https://x/1?a=b,filename=p.json,reproducible,inline-only=1",
                AttestationSpec::Provenance(Some(ProvenanceSpec {
                    mode: ProvenanceMode::Min,
                    version: ProvenanceVersion::V02,
                    builder_id: "https://x/1?a=b".to_owned(),
                    file_name: "p.json".to_owned(),
                    reproducible: true,
                    inline_only: true,
                })),
            ),
            ("type=sbom", AttestationSpec::Sbom(Some(sbom))),
            ("type=sbom,disabled", AttestationSpec::Sbom(None)),
            (
                "type=sbom,generator=docker/buildkit-syft-scanner:stable-1,\"SELECT_CATALOGERS=+a,b\"",
                AttestationSpec::Sbom(Some(scanned)),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_attestation(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (
                "mode=max",
                "invalid attestation `mode=max`: a `type` is required, as in `type=provenance,mode=max`",
            ),
            ("type=provenence", "unknown attestation type `provenence` (did you mean provenance?)"),
            (
                "type=provenance,moed=max",
                "unknown key `moed` for attestation type `provenance` (did you mean mode?)",
            ),
            (
                "type=provenance,mode=all",
                "invalid value `all` for `mode` of attestation type `provenance`: it should be `min` or `max`",
            ),
            (
                "type=provenance,version=v2",
                "invalid value `v2` for `version` of attestation type `provenance`: it should be `v1` or `v0.2`",
            ),
            (
                "type=provenance,filename=../x",
                "invalid value `../x` for `filename` of attestation type `provenance`: it should be the name of a file",
            ),
            ("type=sbom,generator=A", "invalid `generator` of attestation type `sbom`"),
            (
                "type=sbom,generater=a",
                "unknown key `generater` for attestation type `sbom`: only a `generator` takes parameters of its own",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse_attestation(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
