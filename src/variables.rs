//! The environment variables that mean something to whoever builds with docker, and what becomes of each here. Those of
//! others are in no list.

use crate::notices::{NO_POLICIES, Notices};

/// What becomes of a variable.
enum Effect {
    /// It is heeded.
    Heeded,
    /// It makes no difference to a build here, so that there is nothing to tell.
    Nothing,
    /// What is told of a value that is not empty.
    Told(fn(&str, &mut Notices)),
}

use Effect::{Heeded, Nothing, Told};

/// All of them, by the name.
const VARIABLES: &[(&str, Effect)] = &[
    ("ALL_PROXY", Heeded),
    ("BUILDKIT_COLORS", Heeded),
    ("BUILDKIT_HOST", Told(|_, notices| notices.warn("`BUILDKIT_HOST` has no effect: this machine builds"))),
    ("BUILDKIT_PROGRESS", Heeded),
    ("BUILDKIT_STEP_LOG_MAX_SIZE", Heeded),
    ("BUILDKIT_STEP_LOG_MAX_SPEED", Heeded),
    ("BUILDKIT_TTY_LOG_LINES", Heeded),
    ("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP", Nothing),
    ("BUILDX_BAKE_ENTITLEMENTS_FS", Nothing),
    ("BUILDX_BAKE_FILE", Nothing),
    ("BUILDX_BAKE_FILE_RELATIVE_PATHS", Nothing),
    ("BUILDX_BAKE_GIT_AUTH_HEADER", Nothing),
    ("BUILDX_BAKE_GIT_AUTH_TOKEN", Nothing),
    ("BUILDX_BAKE_GIT_SSH", Nothing),
    ("BUILDX_BAKE_PATH_SEPARATOR", Nothing),
    (
        "BUILDX_BUILDER",
        Told(|name, notices| {
            if name != "default" {
                notices.warn(format!("`BUILDX_BUILDER={name}` has no effect: this machine builds"));
            }
        }),
    ),
    ("BUILDX_CONFIG", Nothing),
    ("BUILDX_CPU_PROFILE", Told(|_, notices| notices.warn("`BUILDX_CPU_PROFILE` has no effect"))),
    (
        "BUILDX_DEFAULT_POLICY",
        Told(|value, notices| {
            if frontend::go_bool(value) == Some(true) {
                notices.warn("`BUILDX_DEFAULT_POLICY` has no effect: signatures of images are not verified");
            }
        }),
    ),
    ("BUILDX_EXPERIMENTAL", Nothing),
    ("BUILDX_GIT_CHECK_DIRTY", Heeded),
    ("BUILDX_GIT_INFO", Heeded),
    ("BUILDX_GIT_LABELS", Heeded),
    ("BUILDX_MEM_PROFILE", Told(|_, notices| notices.warn("`BUILDX_MEM_PROFILE` has no effect"))),
    ("BUILDX_METADATA_PROVENANCE", Heeded),
    ("BUILDX_METADATA_WARNINGS", Heeded),
    ("BUILDX_NO_DEFAULT_ATTESTATIONS", Nothing),
    ("BUILDX_NO_DEFAULT_LOAD", Nothing),
    ("BUILDX_NO_DEFAULT_OCI_ARTIFACT", Heeded),
    ("CONTAINERD_ADDRESS", Heeded),
    (
        "DOCKER_BUILDKIT",
        Told(|value, notices| {
            if frontend::go_bool(value) == Some(false) {
                notices.warn(format!("`DOCKER_BUILDKIT={value}` has no effect: there is no other builder"));
            }
        }),
    ),
    ("DOCKER_CONFIG", Heeded),
    (
        "DOCKER_CONTENT_TRUST",
        Told(|value, notices| {
            if frontend::go_bool(value) == Some(true) {
                notices.warn("`DOCKER_CONTENT_TRUST` has no effect: signatures of images are not verified");
            }
        }),
    ),
    ("DOCKER_CONTEXT", Heeded),
    ("DOCKER_DEFAULT_PLATFORM", Heeded),
    ("DOCKER_HOST", Heeded),
    (
        "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
        Told(|_, notices| notices.refuse(format!("`EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`: {NO_POLICIES}"))),
    ),
    ("GIT_SSH_COMMAND", Heeded),
    ("GIT_SSL_CAINFO", Heeded),
    ("GIT_SSL_CAPATH", Heeded),
    ("HOME", Heeded),
    ("HTTPS_PROXY", Heeded),
    ("HTTP_PROXY", Heeded),
    ("NO_COLOR", Heeded),
    ("NO_PROXY", Heeded),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", Heeded),
    ("OTEL_EXPORTER_OTLP_HEADERS", Heeded),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", Heeded),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", Heeded),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Heeded),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", Heeded),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", Heeded),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", Heeded),
    ("OTEL_RESOURCE_ATTRIBUTES", Heeded),
    ("OTEL_SDK_DISABLED", Heeded),
    ("OTEL_SERVICE_NAME", Heeded),
    ("OTEL_TRACES_EXPORTER", Heeded),
    ("PATH", Heeded),
    ("REGISTRY_AUTH_FILE", Heeded),
    ("SOURCE_DATE_EPOCH", Heeded),
    ("SSH_AUTH_SOCK", Heeded),
    ("SSL_CERT_FILE", Heeded),
    ("TERM", Heeded),
    ("TMPDIR", Heeded),
    ("TRACEPARENT", Heeded),
    ("TRACESTATE", Heeded),
    ("XDG_CONFIG_HOME", Heeded),
    ("XDG_DATA_HOME", Heeded),
    ("XDG_RUNTIME_DIR", Heeded),
];

/// What is to be told of the variables that are set; `read` knows their values.
pub(crate) fn tell(read: impl Fn(&str) -> Option<String>, notices: &mut Notices) {
    for (name, effect) in VARIABLES {
        if let Told(told) = effect
            && let Some(value) = read(name).filter(|value| !value.is_empty())
        {
            told(&value, notices);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(name: &str, value: &str) -> (Vec<String>, Vec<String>) {
        let mut notices = Notices::default();
        tell(|asked| (asked == name).then(|| value.to_owned()), &mut notices);
        (notices.warnings, notices.errors)
    }

    #[test]
    fn what_each_comes_to() {
        let warning = |text: &str| (vec![text.to_owned()], Vec::new());
        let nothing = (Vec::new(), Vec::new());
        let unverified = "has no effect: signatures of images are not verified";
        let policy = "`EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`: source policies are not supported".to_owned();
        let rows = [
            ("BUILDKIT_HOST", "tcp://x", warning("`BUILDKIT_HOST` has no effect: this machine builds")),
            ("BUILDX_BUILDER", "x", warning("`BUILDX_BUILDER=x` has no effect: this machine builds")),
            ("BUILDX_BUILDER", "default", nothing.clone()),
            ("BUILDX_BUILDER", "", nothing.clone()),
            ("BUILDX_CPU_PROFILE", "f", warning("`BUILDX_CPU_PROFILE` has no effect")),
            ("BUILDX_MEM_PROFILE", "f", warning("`BUILDX_MEM_PROFILE` has no effect")),
            ("BUILDX_DEFAULT_POLICY", "1", warning(&format!("`BUILDX_DEFAULT_POLICY` {unverified}"))),
            ("BUILDX_DEFAULT_POLICY", "0", nothing.clone()),
            ("DOCKER_CONTENT_TRUST", "1", warning(&format!("`DOCKER_CONTENT_TRUST` {unverified}"))),
            ("DOCKER_BUILDKIT", "1", nothing.clone()),
            ("DOCKER_BUILDKIT", "0", warning("`DOCKER_BUILDKIT=0` has no effect: there is no other builder")),
            ("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "p.json", (Vec::new(), vec![policy])),
            ("BUILDX_CONFIG", "x", nothing.clone()),
            ("BUILDX_EXPERIMENTAL", "1", nothing),
        ];
        for (name, value, expected) in rows {
            assert_eq!(told(name, value), expected, "{name}={value}");
        }
        assert!(VARIABLES.is_sorted_by_key(|(name, _)| name), "each has its place");
    }

    /// The words of `text` in double quotes that are variables of the environment by their form.
    fn names(text: &str) -> Vec<&str> {
        let is_name = |word: &&str| {
            word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
        };
        text.split('"').skip(1).step_by(2).filter(is_name).collect()
    }

    #[test]
    fn all_that_are_read_are_in_the_list() {
        let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut missing = Vec::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).expect("a source folder can be read");
                open.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            let reads = text.lines().filter(|line| {
                ["Environment::", "Self::text(", "Self::path(", "var_os(", " env = "]
                    .iter()
                    .any(|call| line.contains(call))
            });
            let read = reads.flat_map(names).filter(|name| !name.starts_with("RBUILD_"));
            missing.extend(
                read.filter(|name| !VARIABLES.iter().any(|(known, _)| known == name)).map(str::to_owned),
            );
        }
        assert_eq!(missing, Vec::<String>::new(), "variables that `VARIABLES` lacks");
    }
}
