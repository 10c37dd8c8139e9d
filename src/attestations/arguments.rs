//! The flags that ask for attestations.

use clap::Args;

/// What is to be said of the result.
#[derive(Debug, Args)]
pub(crate) struct AttestationArguments {
    /// Say something of the image beside it: `type=provenance,mode=min|max,…` how it was built, `type=sbom,…` what is in
    /// it; may be repeated
    #[arg(long = "attest", value_name = "ATTESTATION")]
    pub(crate) attest: Vec<String>,
    /// Say how the image was built: `--attest type=provenance,…` [default: off]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|KEY=VALUE,…")]
    pub(crate) provenance: Option<String>,
    /// Say what is in the image, found by the own scanner or by that of `generator=IMAGE`: `--attest type=sbom,…`
    /// [default: off]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|KEY=VALUE,…")]
    pub(crate) sbom: Option<String>,
}

impl AttestationArguments {
    /// All of them as `--attest` would have them.
    pub(super) fn texts(&self) -> Vec<String> {
        let short = [("provenance", &self.provenance), ("sbom", &self.sbom)];
        let short = short.into_iter().filter_map(|(kind, value)| Some(long(kind, value.as_deref()?)));
        self.attest.iter().cloned().chain(short).collect()
    }
}

fn long(kind: &str, value: &str) -> String {
    match frontend::go_bool(value) {
        Some(is_on) => format!("type={kind},disabled={}", !is_on),
        None => format!("type={kind},{value}"),
    }
}
