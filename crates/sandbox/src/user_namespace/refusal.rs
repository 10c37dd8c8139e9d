//! Why the kernel refuses a user namespace, and what can be done about it.

use std::fs;
use std::io;
use std::path::Path;

/// Why a user namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The process already has more than one thread.
    #[error("a user namespace can only be entered before the first thread starts")]
    Threads,
    /// The kernel refuses.
    #[error("cannot make a user namespace{cause}")]
    Refused {
        /// Why, where that can be told.
        cause: Refusal,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The user has subordinate ids, which cannot be mapped.
    #[error("cannot map the subordinate ids: {reason}")]
    Mapping {
        /// What failed, in words.
        reason: String,
    },
    /// A step failed.
    #[error("cannot enter a user namespace: {step} failed")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UserNamespaceError {
    /// What can be done about it, in words for people.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Refused { cause, .. } => cause.remedy(),
            Self::Threads | Self::Mapping { .. } | Self::Step { .. } => None,
        }
    }
}

/// Why the kernel refuses a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A setting (`sysctl(8)`).
    Setting {
        /// Its name (`user.max_user_namespaces`).
        name: &'static str,
        /// Its value.
        value: String,
        /// A value that allows them.
        wanted: &'static str,
    },
    /// As many as a setting allows are there already.
    Exhausted {
        /// The value of `user.max_user_namespaces`.
        allowed: String,
    },
    /// A kernel without user namespaces.
    Kernel,
    /// A system call filter, as of a container.
    Filter,
    /// The process is in a chroot (`unshare(2)`).
    Chroot,
    /// Root of a container that lacks the capability to map its own id (`user_namespaces(7)`, Linux 5.12).
    OwnIdOfRoot,
    /// Nothing that could be found.
    Unknown,
}

/// Name, the value that forbids, one that allows.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

impl Refusal {
    /// Looks for the reason of the kernel's answer, in `/proc`.
    pub(super) fn find(proc: &Path, answer: &io::Error) -> Self {
        let read = |path: &str| fs::read_to_string(proc.join(path)).ok().map(|text| text.trim().to_owned());
        let read_setting = |name: &str| read(&format!("sys/{}", name.replace('.', "/")));
        for (name, forbidding, wanted) in SETTINGS {
            if let Some(value) = read_setting(name).filter(|value| value == forbidding) {
                return Self::Setting { name, value, wanted };
            }
        }
        match answer.raw_os_error() {
            Some(libc::ENOSPC | libc::EUSERS) => {
                let allowed = read_setting("user.max_user_namespaces").unwrap_or_default();
                return Self::Exhausted { allowed };
            }
            Some(libc::EINVAL) if !proc.join("self/ns/user").exists() => return Self::Kernel,
            _ => {}
        }
        let status = read("self/status").unwrap_or_default();
        if status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])) {
            return Self::Filter;
        }
        // A chroot whose root is no mount point does not show its root.
        let mounts = read("self/mountinfo").unwrap_or_default();
        if !mounts.is_empty() && !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")) {
            return Self::Chroot;
        }
        Self::Unknown
    }

    fn remedy(&self) -> Option<String> {
        let setting = |name: &str, value: &str| {
            format!(
                "as root of the machine: `sysctl -w {name}={value}`, and a line in /etc/sysctl.d to keep it"
            )
        };
        Some(match self {
            Self::Setting { name: name @ "kernel.apparmor_restrict_unprivileged_userns", wanted, .. } => {
                format!(
                    "{}; or an AppArmor profile for this program that allows `userns`",
                    setting(name, wanted)
                )
            }
            Self::Setting { name, wanted, .. } => setting(name, wanted),
            Self::Exhausted { .. } => setting("user.max_user_namespaces", "15000 or more"),
            Self::Kernel => "a kernel with CONFIG_USER_NS; or run as root".to_owned(),
            Self::Filter => {
                "start the container with a seccomp profile that allows `unshare`, `clone` and `mount` \
                             (`--security-opt seccomp=unconfined`, or podman's default one)"
                    .to_owned()
            }
            Self::Chroot => {
                "leave the chroot, or make its root a mount point and enter it by `pivot_root`".to_owned()
            }
            Self::OwnIdOfRoot => {
                "start the container with `--cap-add SETFCAP`, or as another user (`--user 1000`)".to_owned()
            }
            Self::Unknown => return None,
        })
    }
}

impl std::fmt::Display for Refusal {
    /// With the colon that stands before it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setting { name, value, .. } => write!(f, ": the setting `{name}` is {value}"),
            Self::Exhausted { allowed } => {
                write!(f, ": there are as many as the setting `user.max_user_namespaces` allows ({allowed})")
            }
            Self::Kernel => f.write_str(": this kernel has none"),
            Self::Filter => f.write_str(": a system call filter is in force, as of a container's seccomp profile"),
            Self::Chroot => f.write_str(": the process is in a chroot"),
            Self::OwnIdOfRoot => f.write_str(
                ": the process is root without CAP_SYS_ADMIN, and without CAP_SETFCAP it may not map its own id",
            ),
            Self::Unknown => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` with these files.
    fn proc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn found(files: &[(&str, &str)], errno: i32) -> (String, String) {
        let refusal = Refusal::find(proc(files).path(), &io::Error::from_raw_os_error(errno));
        (refusal.to_string(), refusal.remedy().unwrap_or_default())
    }

    #[test]
    fn the_forbidding_setting_is_named_with_its_remedy() {
        let restrict = ("sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        let (cause, remedy) = found(&[restrict, ("sys/user/max_user_namespaces", "0\n")], libc::ENOSPC);
        assert_eq!(cause, ": the setting `user.max_user_namespaces` is 0");
        assert!(remedy.contains("`sysctl -w user.max_user_namespaces=15000`"), "{remedy}");
        let (cause, remedy) = found(&[restrict, ("sys/user/max_user_namespaces", "100\n")], libc::EACCES);
        assert_eq!(cause, ": the setting `kernel.apparmor_restrict_unprivileged_userns` is 1");
        assert!(
            remedy.contains("apparmor_restrict_unprivileged_userns=0`") && remedy.contains("profile"),
            "{remedy}"
        );
        let (cause, remedy) = found(&[("sys/kernel/unprivileged_userns_clone", "0\n")], libc::EPERM);
        assert_eq!(cause, ": the setting `kernel.unprivileged_userns_clone` is 0");
        assert!(remedy.contains("kernel.unprivileged_userns_clone=1"), "{remedy}");
    }

    #[test]
    fn without_a_forbidding_setting_other_reasons_are_looked_for() {
        let allowed = ("sys/user/max_user_namespaces", "100\n");
        let user = ("self/ns/user", "");
        let filtered = ("self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        let free = ("self/status", "Name:\tx\nSeccomp:\t0\n");
        let root = ("self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/a rw\n");
        let chroot = ("self/mountinfo", "20 1 8:1 / /proc rw - proc proc rw\n");
        let cause = |files: &[(&str, &str)], errno| {
            Refusal::find(proc(files).path(), &io::Error::from_raw_os_error(errno))
        };
        assert_eq!(cause(&[allowed, user], libc::ENOSPC), Refusal::Exhausted { allowed: "100".to_owned() });
        assert_eq!(cause(&[allowed], libc::EINVAL), Refusal::Kernel);
        assert_eq!(cause(&[allowed, user, filtered, root], libc::EPERM), Refusal::Filter);
        assert_eq!(cause(&[allowed, user, free, chroot], libc::EPERM), Refusal::Chroot);
        assert_eq!(cause(&[allowed, user, free, root], libc::EPERM), Refusal::Unknown);
    }
}
