//! What this machine offers.

use std::io;

use crate::process::{Init, surroundings};
use crate::wire::{Answer, Probed, Request};
use crate::{SandboxError, cgroup};

/// What works here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent answers, one per feature")]
pub struct HostSupport {
    /// Whether a sandbox can be started at all.
    pub usable: bool,
    /// Whether overlays take their lower directories one by one (Linux 6.7).
    pub lowerdir_append: bool,
    /// Whether `mount_setattr(2)` works (Linux 5.12).
    pub mount_setattr: bool,
    /// Whether a fresh `/proc` can be mounted.
    pub fresh_proc: bool,
    /// Whether a fresh `/sys` can be mounted together with the host's network.
    pub fresh_sys: bool,
    /// Whether processes get a cgroup of their own.
    pub cgroup: bool,
    /// What is missing, most important first.
    pub missing: Vec<Missing>,
}

/// Something that does not work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What (`a fresh /proc`).
    pub what: String,
    /// Why, with what that means for builds.
    pub why: String,
    /// What can be done about it.
    pub remedy: Option<String>,
}

/// Tries out what this machine offers to the calling process (after [`crate::enter_user_namespace`], where that is
/// needed): some ten milliseconds.
pub fn probe_host() -> HostSupport {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let cgroup = cgroup::is_default();
    match ask() {
        Ok(probed) => judge(&probed, &release, cgroup),
        Err(error) => HostSupport {
            usable: false,
            lowerdir_append: false,
            mount_setattr: false,
            fresh_proc: false,
            fresh_sys: false,
            cgroup,
            missing: vec![not_usable(&error)],
        },
    }
}

fn ask() -> Result<Probed, SandboxError> {
    let mut init = Init::start_probe()?;
    let answer = init.ask(&Request::Probe);
    init.end();
    match answer {
        Ok(Answer::Probed(probed)) => Ok(probed),
        _ => Err(SandboxError::InitDied),
    }
}

fn not_usable(error: &SandboxError) -> Missing {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let unprivileged = !rustix::process::geteuid().is_root();
    Missing {
        what: "namespaces".to_owned(),
        why: format!("{error}{cause}; no RUN can be executed"),
        remedy: unprivileged.then(|| "run as root, or allow user namespaces".to_owned()),
    }
}

fn judge(probed: &Probed, release: &str, cgroup: bool) -> HostSupport {
    let mut missing = Vec::new();
    let mut works = |errno: Option<i32>, what: &str, meaning: &str, remedy: Option<&str>| {
        if let Some(errno) = errno {
            missing.push(Missing {
                what: what.to_owned(),
                why: format!("{}; {meaning}", io::Error::from_raw_os_error(errno)),
                remedy: remedy.map(str::to_owned),
            });
        }
        errno.is_none()
    };
    let mount = works(
        probed.mount,
        "mounts",
        "no RUN can be executed",
        Some("start the container around this with a seccomp and an AppArmor profile that allow `mount`"),
    );
    let seccomp = works(
        probed.seccomp,
        "system call filters",
        "no RUN can be executed",
        Some("a kernel with CONFIG_SECCOMP_FILTER"),
    );
    let fresh_proc = works(
        probed.fresh_proc,
        "a fresh /proc",
        "RUN sees the processes of the machine or container around it, by other numbers than its own",
        Some("start the outer container with an unmasked /proc (`--security-opt systempaths=unconfined`)"),
    );
    let fresh_sys = works(probed.fresh_sys, "a fresh /sys", "RUN sees the caller's, read-only", None);
    works(
        probed.host_name,
        "a host name for RUN",
        "RUN has the one of the container around it",
        Some("start the container with a seccomp profile that allows `sethostname`"),
    );
    let mount_setattr = works(
        probed.mount_setattr,
        "mount_setattr(2)",
        "mounts are made read-only one by one",
        Some(if at_least(release, (5, 12)) {
            "start the container with a seccomp profile that allows it"
        } else {
            "Linux 5.12 or later"
        }),
    );
    let lowerdir_append = at_least(release, (6, 7));
    if !lowerdir_append {
        missing.push(Missing {
            what: "overlays with many layers".to_owned(),
            why: format!("Linux {release} takes all layers in one page"),
            remedy: Some("Linux 6.7 or later".to_owned()),
        });
    }
    missing.extend((!cgroup).then(no_cgroup));
    HostSupport {
        usable: mount && seccomp,
        lowerdir_append,
        mount_setattr,
        fresh_proc,
        fresh_sys,
        cgroup,
        missing,
    }
}

fn no_cgroup() -> Missing {
    let groups = "no writable cgroup hierarchy of version 2 with a memory controller";
    let in_namespace = surroundings().in_user_namespace;
    Missing {
        what: "cgroups".to_owned(),
        why: format!("{groups}; a lack of memory is told by the machine's counter"),
        remedy: in_namespace.then(|| "delegate a cgroup to the user".to_owned()),
    }
}

/// Whether a kernel release (`6.1.0-18-amd64`) is this version or a later one.
fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert!(at_least("6.18.44-x", (6, 7)));
        assert!(at_least("7.0", (6, 7)));
        assert!(!at_least("6.1.0-18-amd64", (6, 7)));
        assert!(!at_least("5.11", (6, 7)));
    }

    #[test]
    fn every_lack_is_told() {
        let probed =
            Probed { fresh_proc: Some(libc::EPERM), fresh_sys: Some(libc::EPERM), ..Probed::default() };
        let filtered =
            Probed { host_name: Some(libc::EPERM), mount_setattr: Some(libc::ENOSYS), ..Probed::default() };
        let lacks = |probed, release| {
            let missing = judge(&probed, release, true).missing;
            missing.into_iter().map(|missing| (missing.what, missing.remedy.unwrap())).collect::<Vec<_>>()
        };
        let (name, call) = ("a host name for RUN".to_owned(), "mount_setattr(2)".to_owned());
        let profile = |what| format!("start the container with a seccomp profile that allows {what}");
        assert_eq!(
            lacks(filtered, "6.8.0"),
            [(name, profile("`sethostname`")), (call.clone(), profile("it"))]
        );
        let old = Probed { mount_setattr: Some(libc::ENOSYS), ..Probed::default() };
        assert_eq!(lacks(old, "5.11.0")[0], (call, "Linux 5.12 or later".to_owned()));
        let closed = Probed { mount: Some(libc::EPERM), ..Probed::default() };
        assert!(!judge(&closed, "6.8.0", true).usable);
        let support = judge(&probed, "6.1.0", true);
        assert!(support.usable && support.mount_setattr && !support.fresh_proc && !support.lowerdir_append);
        let names: Vec<&str> = support.missing.iter().map(|missing| missing.what.as_str()).collect();
        assert_eq!(names, ["a fresh /proc", "a fresh /sys", "overlays with many layers"]);
    }
}
