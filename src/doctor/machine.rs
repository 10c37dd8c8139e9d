//! The kernel, what surrounds this process, and the sandbox.

use std::fs;
use std::path::Path;

use cache::IdMode;
use sandbox::{HostSupport, Missing};

use super::ids::User;
use super::{Finding, Status};

pub(super) fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    Finding::ok(
        "kernel",
        format!("{} {release} on {}", name.sysname().to_string_lossy(), name.machine().to_string_lossy()),
    )
}

/// What the sandbox of RUN can have, as it is found by trying.
pub(super) fn sandbox(ids: &IdMode) -> Vec<Finding> {
    let support = sandbox::probe_host();
    let mut findings = vec![if support.usable {
        Finding::ok("sandbox", "RUN works: namespaces, mounts and a filter of system calls")
    } else {
        let Missing { what, why, remedy } = support.missing.first().cloned().unwrap_or_else(|| Missing {
            what: "the sandbox".to_owned(),
            why: "it does not start".to_owned(),
            remedy: None,
        });
        let finding = Finding::missing("sandbox", format!("{what}: {why}")).fatal();
        Finding { remedy, ..finding }
    }];
    if support.usable {
        findings.push(proc(&support));
        let rest = support.missing.iter().filter(|missing| is_worth_telling(missing, ids));
        findings.extend(rest.map(|missing| Finding {
            remedy: missing.remedy.clone(),
            ..Finding::limited("sandbox", format!("{} is missing: {}", missing.what, missing.why))
        }));
    }
    findings
}

fn proc(support: &HostSupport) -> Finding {
    match support.missing.iter().find(|missing| missing.what == "a fresh /proc") {
        None => Finding::ok("proc", "RUN sees its own processes alone"),
        Some(missing) => {
            let detail = format!("a fresh one is refused: {}", missing.why);
            Finding { remedy: missing.remedy.clone(), ..Finding::limited("proc", detail) }
        }
    }
}

/// `/proc` and cgroups have lines of their own. A fresh `/sys` needs a network of its own, which in a user namespace
/// nobody has who uses the machine's.
fn is_worth_telling(missing: &Missing, ids: &IdMode) -> bool {
    match missing.what.as_str() {
        "a fresh /proc" | "cgroups" => false,
        "a fresh /sys" => *ids == IdMode::Root,
        _ => true,
    }
}

/// Whether this is within a container, and how that confines.
pub(super) fn container() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
    };
    let mut signs = Vec::new();
    for (path, sign) in [("/.dockerenv", "docker's mark"), ("/run/.containerenv", "podman's mark")] {
        if Path::new(path).exists() {
            signs.push(sign);
        }
    }
    if has_masks(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) {
        signs.push("masked parts of /proc");
    }
    if field("Seccomp") == "2" {
        signs.push("a filter of system calls (seccomp)");
    }
    if field("NoNewPrivs") == "1" {
        signs.push("no_new_privs, with which `newuidmap` cannot work");
    }
    if signs.is_empty() {
        Finding::ok("container", "none is around this")
    } else {
        // What does not work because of it has findings of its own.
        Finding::new("container", Status::Ok, format!("this seems to be in one: {}", signs.join(", ")))
    }
}

/// Whether something is mounted within `/proc` that is not the machine's.
fn has_masks(mountinfo: &str) -> bool {
    mountinfo.lines().any(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        point.starts_with("/proc/") && !point.starts_with("/proc/sys/fs/binfmt_misc")
    })
}

pub(super) fn cgroups(user: &User) -> Finding {
    let Some(support) = sandbox::cgroup_support() else {
        let why = "none can be made here: a lack of memory is told by the machine's counter, and `--cgroup-parent` is an \
                   error";
        let remedy = if user.is_root() {
            "a writable cgroup hierarchy: start the container with a private one, and /sys/fs/cgroup writable"
        } else {
            "delegate a cgroup to the user: `systemd-run --user --scope -p Delegate=yes rbuild …`"
        };
        return Finding::limited("cgroups", why).with_remedy(remedy);
    };
    let detail = format!(
        "version {} at `{}`, controllers: {}",
        support.version,
        support.root.display(),
        if support.controllers.is_empty() { "none".to_owned() } else { support.controllers.join(", ") }
    );
    if support.controllers.iter().any(|name| name == "memory") {
        Finding::ok("cgroups", detail)
    } else {
        Finding::limited("cgroups", format!("{detail}; a lack of memory is told by the machine's counter"))
            .with_remedy("a memory controller in the hierarchy of version 2")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_told_from_the_machines_own_mounts() {
        let own = "20 1 0:5 / /proc rw - proc proc rw\n30 20 0:9 / /proc/sys/fs/binfmt_misc rw - binfmt_misc b rw\n";
        assert!(!has_masks(own));
        assert!(has_masks(&format!("{own}31 20 0:6 /null /proc/kcore rw - tmpfs tmpfs rw\n")));
    }
}
