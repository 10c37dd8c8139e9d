//! A user namespace for a process that may not mount anything without: an ordinary user, or root of a container.

mod helper;
mod refusal;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::kernel;
use crate::subordinate::{map_arguments, own_ids, ranges, user_name};
use helper::{Helper, Mapping};
pub use refusal::{Refusal, UserNamespaceError};

/// The ids that the process has at its disposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Which kind.
    pub mode: IdMode,
    /// The text of `/proc/self/uid_map`, spaces normalised, one range per line: `inside outside count`.
    pub uid_map: String,
    /// The same for groups.
    pub gid_map: String,
    /// Why there is only one id, if there is.
    pub one_id: Option<OneId>,
}

/// Why there is only one id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OneId {
    /// It was asked for.
    #[error("one was asked for")]
    Asked,
    /// The user has no subordinate ids.
    #[error("`{file}` has no line for `{user}`")]
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user's name, or number without one.
        user: String,
    },
    /// The program that maps them is not there.
    #[error("`{program}` is not installed (package `uidmap`)")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// They could not be mapped.
    #[error("{reason}")]
    NotMapped {
        /// What failed, in words.
        reason: String,
    },
    /// Root of a container may map none but its own.
    #[error("root without CAP_SETUID, CAP_SETGID and CAP_SETFCAP may map no others")]
    RootWithoutRights,
    /// The process was in a user namespace with one id when it started.
    #[error("no others are mapped in the user namespace around this")]
    Given,
}

/// How many ids there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMode {
    /// All of the machine's: root outside of any user namespace.
    Root,
    /// A range: a user namespace with subordinate ids, or with those of the container around it.
    Mapped,
    /// One: root inside is the user, and nobody else exists.
    Single,
}

/// Which ids are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdChoice {
    /// As many as there are.
    All,
    /// One.
    One,
}

/// Makes the calling process root of a user and mount namespace of its own, with the user's subordinate ids
/// (`/etc/subuid`, `/etc/subgid`, by name or number, by way of `newuidmap` and `newgidmap`) or else with one id. Root of
/// a container that may not mount gets the container's ids, where it may map them.
///
/// Where there are subordinate ids that cannot be mapped, `accepts_one` is asked whether one id will do; it is called
/// within the namespace, in which nobody has a name yet, and may read files.
///
/// The process stays the same one: its pid, terminal, signals and exit code are untouched. Must be called before any
/// thread starts. Does nothing for root with `CAP_SYS_ADMIN`, inside a namespace or not, but tell its ids.
pub fn enter_user_namespace(
    choice: IdChoice,
    accepts_one: impl FnOnce() -> bool,
) -> Result<IdMap, UserNamespaceError> {
    let held = capabilities(None).map_err(step("reading capabilities"))?.effective;
    if geteuid().is_root() && held.contains(CapabilitySet::SYS_ADMIN) {
        return current(OneId::Given);
    }
    if fs::read_dir("/proc/self/task").map_err(step("counting threads"))?.count() > 1 {
        return Err(UserNamespaceError::Threads);
    }
    let plan = match choice {
        IdChoice::One => Plan::Single(OneId::Asked),
        IdChoice::All if geteuid().is_root() => plan_of_root(held)?,
        IdChoice::All => plan_of_user(),
    };
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let map_own = || match map_own_ids(uid, gid) {
        Err(UserNamespaceError::Refused { source, .. })
            if uid == 0 && !held.contains(CapabilitySet::SETFCAP) =>
        {
            Err(UserNamespaceError::Refused { cause: Refusal::OwnIdOfRoot, source })
        }
        mapped => mapped,
    };
    let helper = match &plan {
        Plan::Several(mapping) => Some(Helper::start(mapping)?),
        Plan::Single(_) => None,
    };
    kernel::unshare_user_and_mounts().map_err(refused)?;
    let mut one_id = OneId::Given;
    match (helper, plan) {
        (Some(helper), _) => {
            if let Err(reason) = helper.map() {
                if !accepts_one() {
                    return Err(UserNamespaceError::Mapping { reason });
                }
                map_own()?;
                one_id = OneId::NotMapped { reason };
            }
        }
        (None, Plan::Single(reason)) => {
            map_own()?;
            one_id = reason;
        }
        (None, Plan::Several(_)) => unreachable!("a helper was started for these"),
    }
    // The first thing that needs the new rights; some settings let the namespace be made, but without any.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| refused(error.into()))?;
    current(one_id)
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> UserNamespaceError {
    move |source| UserNamespaceError::Step { step, source: source.into() }
}

fn refused(source: io::Error) -> UserNamespaceError {
    UserNamespaceError::Refused { cause: Refusal::find(Path::new("/proc"), &source), source }
}

/// The ids in force, and if there is one, that this is why.
fn current(reason: OneId) -> Result<IdMap, UserNamespaceError> {
    // A root without /proc, as in a bare chroot, cannot be told from one inside a namespace and is taken for root.
    if geteuid().is_root() && !Path::new("/proc/self").exists() {
        let all = ALL_IDS.to_owned();
        return Ok(IdMap { mode: IdMode::Root, uid_map: all.clone(), gid_map: all, one_id: None });
    }
    let read = |path: &str| {
        let text = fs::read_to_string(path).map_err(step("reading the id map"))?;
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        Ok(lines.join("\n"))
    };
    let (uid_map, gid_map) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
    let mode = mode(&uid_map);
    let one_id = (mode == IdMode::Single).then_some(reason);
    Ok(IdMap { mode, uid_map, gid_map, one_id })
}

/// The map of the first user namespace.
const ALL_IDS: &str = "0 0 4294967295";

fn mode(uid_map: &str) -> IdMode {
    let count = |line: &str| line.split(' ').nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    match uid_map {
        ALL_IDS => IdMode::Root,
        map if map.lines().map(count).sum::<u64>() <= 1 => IdMode::Single,
        _ => IdMode::Mapped,
    }
}

enum Plan {
    /// More ids than the own one, and how they are mapped.
    Several(Mapping),
    /// One id, and why.
    Single(OneId),
}

/// Root of a container has the container's ids, if it may map them (`user_namespaces(7)`).
fn plan_of_root(held: CapabilitySet) -> Result<Plan, UserNamespaceError> {
    if !held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP) {
        return Ok(Plan::Single(OneId::RootWithoutRights));
    }
    let read = |path: &str| fs::read_to_string(path).map_err(step("reading the id map"));
    let texts = [own_ids(&read("/proc/self/gid_map")?), own_ids(&read("/proc/self/uid_map")?)];
    Ok(Plan::Several(Mapping::ByOwnRights(texts)))
}

fn plan_of_user() -> Plan {
    let uid = geteuid().as_raw();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let passwd = read("/etc/passwd");
    let name = user_name(&passwd, uid);
    let shown = name.map_or_else(|| uid.to_string(), str::to_owned);
    let mut maps = Vec::new();
    for (file, program, own) in
        [("/etc/subuid", "newuidmap", uid), ("/etc/subgid", "newgidmap", getegid().as_raw())]
    {
        let found = ranges(&read(file), uid, name);
        if found.is_empty() {
            return Plan::Single(OneId::NoRange { file, user: shown });
        }
        let Some(path) = find_program(program) else {
            return Plan::Single(OneId::NoProgram { program });
        };
        maps.push((path, map_arguments(own, &found)));
    }
    maps.reverse();
    match <[_; 2]>::try_from(maps) {
        Ok(maps) => Plan::Several(Mapping::ByPrograms(maps)),
        Err(_) => unreachable!("the loop makes one entry per program"),
    }
}

/// Fixed places: the set-user-ID programs that belong to the system, whatever the caller's `PATH`.
fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"]
        .into_iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}

/// Maps the own ids by own rights, and no others.
fn map_own_ids(uid: u32, gid: u32) -> Result<(), UserNamespaceError> {
    let write = |path: &str, text: &str| {
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
    };
    if fs::read_to_string("/proc/self/gid_map").is_ok_and(|map| !map.is_empty()) {
        // Groups are mapped first, and a map is written once: where the users' could not be, a further namespace leaves
        // the groups behind.
        write("/proc/self/uid_map", &format!("0 {uid} 1")).map_err(refused)?;
        kernel::unshare_user_and_mounts().map_err(refused)?;
        return map_own_ids(0, 0);
    }
    // Without this the kernel allows no map of groups to an ordinary user.
    write("/proc/self/setgroups", "deny").map_err(refused)?;
    write("/proc/self/uid_map", &format!("0 {uid} 1")).map_err(refused)?;
    write("/proc/self/gid_map", &format!("0 {gid} 1")).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode("0 0 4294967295"), IdMode::Root);
        assert_eq!(mode("0 1000 1"), IdMode::Single);
        assert_eq!(mode("0 1000 1\n1 100000 65536"), IdMode::Mapped);
        assert_eq!(mode("0 0 4294967294"), IdMode::Mapped);
    }
}
