//! Programs and services that some builds need, and the configuration.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::programs::is_program;
use crate::settings::Environment;

/// A program on the `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let path = Environment::bytes("PATH").unwrap_or_default();
    directories(&path).map(|directory| directory.join(name)).find(|path| is_program(path))
}

fn directories(path: &[u8]) -> impl Iterator<Item = PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    path.split(|byte| *byte == b':')
        .filter(|part| !part.is_empty())
        .map(|part| std::ffi::OsStr::from_bytes(part).into())
}

/// What a network of their own for steps takes.
pub(super) fn network() -> Finding {
    let Some(pasta) = find("pasta") else {
        return Finding::limited(
            "network",
            "`pasta` is not installed, which connects a network of RUN's own",
        )
        .with_remedy("install the package `passt`");
    };
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/net/tun") {
        let detail = format!("`pasta` is there, but /dev/net/tun, which it needs, cannot be opened: {error}");
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "as root: `chmod 666 /dev/net/tun`",
            _ => "as root: `modprobe tun`; in a container: `--device /dev/net/tun`",
        };
        return Finding::limited("network", detail).with_remedy(remedy);
    }
    Finding::ok("network", format!("`{}` and /dev/net/tun are there", pasta.display()))
}

/// Which other machines' programs can be run.
pub(super) fn platforms() -> Finding {
    let registered = handlers(Path::new("/proc/sys/fs/binfmt_misc"));
    if !registered.is_empty() {
        return Finding::ok("platforms", format!("others are emulated: {}", registered.join(", ")));
    }
    let path = Environment::bytes("PATH").unwrap_or_default();
    let programs: BTreeSet<String> = directories(&path)
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("qemu-") && name.ends_with("-static"))
        .collect();
    let only = "RUN works for this machine's platform only";
    if programs.is_empty() {
        Finding::limited("platforms", format!("{only}: no emulator is registered or installed"))
            .with_remedy("install the packages `qemu-user-static` and `binfmt-support`")
    } else {
        let names: Vec<String> = programs.into_iter().collect();
        Finding::limited(
            "platforms",
            format!("{only}: there are {}, and none is registered", names.join(", ")),
        )
        .with_remedy("install the package `binfmt-support`, or mount binfmt_misc and register them there")
    }
}

/// The handlers in `binfmt_misc` that emulate other processors and are enabled.
fn handlers(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("enabled")))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("qemu-").map(str::to_owned))
        .collect();
    names.sort();
    names
}

pub(super) fn git() -> Finding {
    match find("git") {
        Some(path) => Finding::ok("git", format!("`{}`", path.display())),
        None => {
            Finding::missing("git", "not installed: ADD of repositories and contexts in them do not work")
                .with_remedy("install the package `git`")
        }
    }
}

pub(super) fn agent() -> Finding {
    let Some(socket) = Environment::path("SSH_AUTH_SOCK") else {
        return Finding::missing(
            "ssh agent",
            "SSH_AUTH_SOCK is not set: `--ssh default` and `git@…` do not work",
        )
        .with_remedy("`eval $(ssh-agent)` and `ssh-add`");
    };
    let shown = socket.display();
    match socket.metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => Finding::ok("ssh agent", format!("`{shown}`")),
        Ok(_) => Finding::missing("ssh agent", format!("`{shown}` of SSH_AUTH_SOCK is no socket"))
            .with_remedy("`eval $(ssh-agent)` and `ssh-add`"),
        Err(error) => Finding::missing("ssh agent", format!("`{shown}` of SSH_AUTH_SOCK: {error}"))
            .with_remedy("`eval $(ssh-agent)` and `ssh-add`"),
    }
}

/// `config.toml` and docker's `config.json`, with the helpers that it names.
pub(super) fn configuration() -> Vec<Finding> {
    let mut findings = vec![match Environment::client_options() {
        Ok(_) => Finding::ok("configuration", "`config.toml` is right, or there is none"),
        Err(failure) => Finding::of_failure("configuration", &failure),
    }];
    let helpers = match Environment::credential_helpers() {
        Ok(helpers) => helpers,
        Err(failure) => {
            findings.push(Finding::of_failure("credentials", &failure));
            return findings;
        }
    };
    let programs = helpers.iter().map(|name| format!("docker-credential-{name}"));
    let (there, missing): (Vec<String>, Vec<String>) = programs.partition(|program| find(program).is_some());
    findings.push(if !missing.is_empty() {
        let detail =
            format!("docker's config.json names helpers that are not on the PATH: {}", missing.join(", "));
        Finding::missing("credentials", detail)
            .with_remedy("install them, or take `credsStore` and `credHelpers` out of docker's config.json")
    } else if there.is_empty() {
        Finding::ok("credentials", "docker's config.json names no helpers")
    } else {
        Finding::ok("credentials", there.join(", "))
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_emulators_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("qemu-riscv64", "enabled\ninterpreter /x\n"),
            ("qemu-aarch64", "enabled\n"),
            ("qemu-arm", "disabled\n"),
            ("python3", "enabled\n"),
            ("status", "enabled\n"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        assert_eq!(handlers(directory.path()), ["aarch64", "riscv64"]);
        assert_eq!(handlers(&directory.path().join("none")), Vec::<String>::new());
    }
}
