//! Flags of other builders: what to write here instead of them.

/// Flags that rbuild does not have, and what does the same. A row has all flags with one answer.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--context"], "the context is an argument of its own: `rbuild DIRECTORY` or `rbuild URL`"),
    (&["--context-sub-path"], "name the directory after the repository: `URL#BRANCH:DIRECTORY`"),
    (&["--git"], "name the branch after the repository: `URL#BRANCH`"),
    (&["--dockerfile"], "write `-f FILE`"),
    (&["--local"], "the context is an argument of its own, and `-f FILE` names the Dockerfile"),
    (&["--frontend"], "leave it out: Dockerfiles are all that is built"),
    (&["--opt"], "write `--build-arg`, `--target`, `--platform` or `--label`"),
    (&["--oci-layout"], "write `--build-context NAME=oci-layout://DIRECTORY`"),
    (&["--destination", "-d"], "write `-t NAME --push`"),
    (&["--no-push", "--no-push-cache"], "leave it out: nothing is pushed without `--push`"),
    (&["--tar-path", "--tarPath"], "write `--output type=docker,dest=FILE`"),
    (&["--oci-layout-path"], "write `--output type=oci,dest=DIRECTORY,tar=false`"),
    (&["--ref-file"], "`--metadata-file FILE` has names and digests of the result"),
    (&["--iidfile-raw"], "write `--iidfile FILE`"),
    (
        &[
            "--cache",
            "--layers",
            "--cache-copy-layers",
            "--cache-run-layers",
            "--compressed-caching",
            "--skip-unused-stages",
            "--use-new-run",
            "--snapshot-mode",
            "--snapshotMode",
            "--cleanup",
            "--force",
            "--force-build-metadata",
            "--ignore-var-run",
            "--kaniko-dir",
            "--stream",
        ],
        "leave it out: all steps are cached, only the stages that are needed are built, and nothing is left behind",
    ),
    (
        &["--cache-repo", "--import-cache", "--export-cache"],
        "write `--cache-from type=registry,ref=NAME` and `--cache-to type=registry,ref=NAME`",
    ),
    (&["--cache-dir"], "`--root DIRECTORY` is where layers, images and the cache are kept"),
    (
        &["--cache-ttl"],
        "leave it out: `rbuild prune --keep-duration` and config.toml say how long what is kept",
    ),
    (&["--single-snapshot"], "write `--squash`"),
    (
        &["--compression", "--compression-level"],
        "they belong to an output: `--output type=image,compression=zstd`",
    ),
    (
        &["--format"],
        "it belongs to an output: `--output type=image,oci-mediatypes=false` makes docker's media types",
    ),
    (&["--manifest"], "several platforms make a manifest list: `--platform linux/amd64,linux/arm64 -t NAME`"),
    (
        &["--custom-platform", "--customPlatform", "--arch", "--os", "--variant"],
        "write `--platform OS/ARCH[/VARIANT]`",
    ),
    (&["--all-platforms"], "write `--platform` with the platforms' names"),
    (&["--os-version", "--os-feature"], "images get none but those of their base"),
    (&["--reproducible"], "write `--timestamp 0`"),
    (&["--ignorefile"], "write `--ignore-file FILE`"),
    (&["--ignore-path"], "write `RUN --mount=type=tmpfs,target=PATH` in the Dockerfile"),
    (&["--env"], "write ENV in the Dockerfile"),
    (
        &["--volume", "-v", "--mount"],
        "write `RUN --mount=type=bind,from=NAME,target=PATH` in the Dockerfile and `--build-context NAME=DIRECTORY`",
    ),
    (
        &["--cap-add", "--cap-drop", "--group-add"],
        "`RUN --security=insecure` with `--allow security.insecure` lets a step do everything",
    ),
    (&["--device"], "write `RUN --device=NAME` in the Dockerfile and `--allow device=NAME`"),
    (&["--proxy-network"], "proxies are build arguments: `--build-arg HTTP_PROXY=URL`"),
    (
        &["--http-proxy"],
        "proxies come from `proxies` in docker's config.json or are build arguments: `--build-arg HTTP_PROXY=URL`",
    ),
    (
        &["--dns", "--dns-option", "--dns-search", "--no-hosts", "--no-hostname"],
        "steps see this machine's resolver; `--add-host` adds names",
    ),
    (
        &["--registry-auth-tlscontext"],
        "write `--cert-dir DIRECTORY`, or name certificates in config.toml: `[registry.\"HOST\"]`",
    ),
    (
        &[
            "--insecure",
            "--insecure-pull",
            "--insecure-registry",
            "--skip-tls-verify",
            "--skip-tls-verify-pull",
            "--skip-tls-verify-registry",
        ],
        "write `--tls-verify=false`, or `insecure = true` in config.toml: `[registry.\"HOST\"]`",
    ),
    (
        &[
            "--skip-push-permission-check",
            "--registry-certificate",
            "--registry-client-cert",
            "--registry-mirror",
            "--registry-map",
            "--skip-default-registry-fallback",
        ],
        "certificates, plain HTTP and mirrors of a registry stand in config.toml: `[registry.\"HOST\"]`",
    ),
    (
        &["--push-retry", "--image-download-retry", "--image-fs-extract-retry"],
        "leave it out, or write `--retry N`: transfers are tried again, and go on where they were",
    ),
    (&["--push-ignore-immutable-tag-errors"], "write `--output type=image,push-by-digest=true,push=true`"),
    (&["--sign-by"], "sign what was pushed, by the digest that `--metadata-file` has"),
    (
        &["--verbosity", "--log-format", "--log-timestamp", "--logfile"],
        "`--progress` says how progress is shown; it goes to standard error",
    ),
    (&["--logsplit"], "`rbuild history logs` has what a build has shown"),
    (&["--trace"], "set `OTEL_EXPORTER_OTLP_ENDPOINT` to have the steps as spans"),
    (&["--invoke", "--on"], "write `--on-failure shell` or `--break LINE`"),
    (
        &["--detach", "--addr", "--builder", "--driver"],
        "leave it out: there is no daemon, this machine builds",
    ),
    (&["--stdin"], "steps read nothing from standard input; `RUN <<EOF` gives one a text"),
    (&["--hooks-dir", "--runtime", "--runtime-flag"], "leave it out: steps run in sandboxes of rbuild's own"),
    (
        &[
            "--userns",
            "--userns-uid-map",
            "--userns-gid-map",
            "--userns-uid-map-user",
            "--userns-gid-map-group",
            "--ipc",
            "--pid",
            "--uts",
            "--cgroupns",
        ],
        "leave it out: each step has namespaces of its own; `--ids` says which ids there are",
    ),
    (&["--cpp-flag"], "Dockerfiles are not preprocessed"),
    (
        &["--cw", "--decryption-key", "--save-stages", "--stage-labels", "--layer-label", "--compat-volumes"],
        "there is nothing like it",
    ),
];

/// What to write instead of a flag that rbuild does not have.
pub(super) fn advice(flag: &str) -> Option<&'static str> {
    let name = flag.split('=').next().unwrap_or_default();
    FLAGS.iter().find(|(names, _)| names.contains(&name)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::arguments::{CommandLine, parse};

    #[test]
    fn nothing_is_foreign_that_a_build_takes() {
        let mut command = CommandLine::command();
        command.build();
        let build = command.find_subcommand("build").expect("there is a command `build`");
        let known: BTreeSet<String> = build
            .get_arguments()
            .flat_map(|argument| {
                let short = argument.get_short().map(|short| format!("-{short}"));
                let longs =
                    argument.get_long().into_iter().chain(argument.get_all_aliases().unwrap_or_default());
                short.into_iter().chain(longs.map(|name| format!("--{name}"))).collect::<Vec<_>>()
            })
            .collect();
        let mut twice = Vec::new();
        let mut seen = BTreeSet::new();
        for flag in FLAGS.iter().flat_map(|(names, _)| *names) {
            assert!(seen.insert(flag), "{flag} is there twice");
            // Other commands may lack it.
            twice.extend(Some(*flag).filter(|flag| known.contains(*flag) && *flag != "--builder"));
        }
        assert_eq!(twice, Vec::<&str>::new(), "these are rbuild's own");
    }

    #[test]
    fn the_advice_is_told_in_place_of_what_looks_alike() {
        let error = |line: &[&str]| parse(line.iter().map(Into::into).collect()).unwrap_err().to_string();
        let text = error(&["rbuild", "--dockerfile", "x", "."]);
        let expected = "error: unexpected argument '--dockerfile' found\n\n  tip: write `-f FILE`\n\nUsage: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(error(&["rbuild", "--no-push=true", "."]).contains("nothing is pushed without"));
        assert!(error(&["rbuild", "-d", "x", "."]).contains("tip: write `-t NAME --push`"));
        assert!(error(&["rbuild", "prune", "--builder=x"]).contains("tip: leave it out: there is no daemon"));
    }
}
