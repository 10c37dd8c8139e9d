//! The flags that ask for attestations.

use std::ffi::OsString;

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

/// As with docker, a value may also stand by itself after `--provenance` and `--sbom`. What looks like no value of theirs
/// is left where it is: here they need none.
pub(crate) fn join_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    let mut all_are_paths = false;
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        let is_value =
            frontend::go_bool(text).is_some() || (text.contains('=') && !text.starts_with(['-', '.', '/']));
        match joined.last_mut() {
            Some(flag) if is_value && !all_are_paths && (flag == "--provenance" || flag == "--sbom") => {
                flag.push("=");
                flag.push(&argument);
            }
            _ => {
                all_are_paths |= argument == "--";
                joined.push(argument);
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_stand_by_themselves() {
        let join = |words: &[&str]| join_values(words.iter().map(Into::into).collect());
        assert_eq!(
            join(&["--sbom", "true", "--provenance", "mode=min", "."]),
            ["--sbom=true", "--provenance=mode=min", "."]
        );
        assert_eq!(
            join(&["--sbom", ".", "--provenance", "--sbom=0"]),
            ["--sbom", ".", "--provenance", "--sbom=0"]
        );
    }
}
