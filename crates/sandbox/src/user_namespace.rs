//! A user namespace for an ordinary user.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};

use crate::kernel;
use crate::subordinate::{map_arguments, ranges, user_name};

/// The ids that the process has at its disposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Which kind.
    pub mode: IdMode,
    /// The text of `/proc/self/uid_map`, spaces normalised, one range per line: `inside outside count`.
    pub uid_map: String,
    /// The same for groups.
    pub gid_map: String,
    /// Why there is only one id, in words for people.
    pub note: Option<String>,
}

/// How many ids there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMode {
    /// All of the machine's: root outside of any user namespace.
    Root,
    /// A range: a user namespace with subordinate ids.
    Mapped,
    /// One: root inside is the user, and nobody else exists.
    Single,
}

/// Why a user namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The process already has more than one thread.
    #[error("a user namespace can only be entered before the first thread starts")]
    Threads,
    /// The kernel refuses.
    #[error("cannot make a user namespace{}", setting.as_ref().map(|setting| format!(": {setting}")).unwrap_or_default())]
    Refused {
        /// The setting that forbids it (``the setting `user.max_user_namespaces` is 0``), where one is found.
        setting: Option<String>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
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

/// Makes the calling process root of a user and mount namespace of its own, with the user's subordinate ids
/// (`/etc/subuid`, `/etc/subgid`, by name or number, by way of `newuidmap` and `newgidmap`) or else with one id.
///
/// The process stays the same one: its pid, terminal, signals and exit code are untouched. Must be called before any
/// thread starts. Does nothing for a process whose effective user is 0, inside a namespace or not, but tell its ids.
pub fn enter_user_namespace() -> Result<IdMap, UserNamespaceError> {
    if geteuid().is_root() {
        return current(None);
    }
    if fs::read_dir("/proc/self/task").map_err(step("counting threads"))?.count() > 1 {
        return Err(UserNamespaceError::Threads);
    }
    let plan = plan();
    let helper = match &plan {
        Plan::Subordinate { maps } => Some(Helper::start(maps)?),
        Plan::Single { .. } => None,
    };
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    kernel::unshare_user_and_mounts().map_err(refused)?;
    let note = match (helper, plan) {
        (Some(helper), _) => match helper.map() {
            Ok(()) => None,
            Err(reason) => {
                map_own(uid, gid)?;
                Some(reason)
            }
        },
        (None, Plan::Single { reason }) => {
            map_own(uid, gid)?;
            Some(reason)
        }
        (None, Plan::Subordinate { .. }) => None,
    };
    // The first thing that needs the new rights; some settings let the namespace be made, but without any.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| refused(error.into()))?;
    current(note)
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> UserNamespaceError {
    move |source| UserNamespaceError::Step { step, source: source.into() }
}

fn refused(source: io::Error) -> UserNamespaceError {
    UserNamespaceError::Refused { setting: forbidding_setting(Path::new("/proc/sys")), source }
}

/// The setting that keeps ordinary users from having user namespaces.
fn forbidding_setting(settings: &Path) -> Option<String> {
    [
        ("kernel.unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ]
    .into_iter()
    .find(|(name, forbidding)| {
        let path = settings.join(name.replace('.', "/"));
        fs::read_to_string(path).is_ok_and(|value| value.trim() == *forbidding)
    })
    .map(|(name, value)| format!("the setting `{name}` is {value}"))
}

/// The ids in force.
fn current(note: Option<String>) -> Result<IdMap, UserNamespaceError> {
    // A root without /proc, as in a bare chroot, cannot be told from one inside a namespace and is taken for root.
    if geteuid().is_root() && !Path::new("/proc/self").exists() {
        let all = ALL_IDS.to_owned();
        return Ok(IdMap { mode: IdMode::Root, uid_map: all.clone(), gid_map: all, note });
    }
    let read = |path: &str| {
        let text = fs::read_to_string(path).map_err(step("reading the id map"))?;
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        Ok(lines.join("\n"))
    };
    let (uid_map, gid_map) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
    Ok(IdMap { mode: mode(&uid_map), uid_map, gid_map, note })
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
    /// The programs with their arguments after the process.
    Subordinate { maps: [(PathBuf, Vec<String>); 2] },
    /// One id, and why.
    Single { reason: String },
}

fn plan() -> Plan {
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
            return Plan::Single { reason: format!("`{file}` has no line for `{shown}`") };
        }
        let Some(path) = find_program(program) else {
            return Plan::Single { reason: format!("`{program}` is not installed (package `uidmap`)") };
        };
        maps.push((path, map_arguments(own, &found)));
    }
    match <[_; 2]>::try_from(maps) {
        Ok(maps) => Plan::Subordinate { maps },
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

/// Maps the own ids by own rights.
fn map_own(uid: u32, gid: u32) -> Result<(), UserNamespaceError> {
    let write = |path: &str, text: &str| {
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
    };
    // Without this the kernel allows no map of groups to an ordinary user.
    write("/proc/self/setgroups", "deny").map_err(refused)?;
    write("/proc/self/uid_map", &format!("0 {uid} 1")).map_err(refused)?;
    write("/proc/self/gid_map", &format!("0 {gid} 1")).map_err(refused)
}

/// A child that stays in the outer namespace, where `newuidmap` has to run, and maps this process's ids. It ends before
/// this process goes on, so that no process stays between the terminal and the build.
struct Helper {
    child: Pid,
    go: fs::File,
    answer: fs::File,
}

impl Helper {
    fn start(maps: &[(PathBuf, Vec<String>); 2]) -> Result<Self, UserNamespaceError> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).map_err(step("making a pipe"))?;
        let (answer, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(step("making a pipe"))?;
        let own = std::process::id().to_string();
        if let Some(child) = kernel::fork().map_err(step("starting a helper"))? {
            let child = Pid::from_raw(child).expect("a child's number is not zero");
            return Ok(Self { child, go: go.into(), answer: answer.into() });
        }
        drop((go, answer));
        let mut byte = [0];
        if fs::File::from(wait).read_exact(&mut byte).is_ok()
            && let Err(reason) = run_programs(maps, &own)
        {
            let _ = fs::File::from(tell).write_all(reason.as_bytes());
        }
        kernel::exit_now(0)
    }

    /// Maps the ids of this process, which is in its namespace by now; else gives the reason.
    fn map(mut self) -> Result<(), String> {
        let told = self.go.write_all(b"g").and_then(|()| {
            let mut reason = String::new();
            self.answer.read_to_string(&mut reason).map(|_| reason)
        });
        let _ = waitpid(Some(self.child), WaitOptions::empty());
        match told {
            Ok(reason) if reason.is_empty() => Ok(()),
            Ok(reason) => Err(reason),
            Err(error) => Err(format!("the helper failed: {error}")),
        }
    }
}

fn run_programs(maps: &[(PathBuf, Vec<String>); 2], process: &str) -> Result<(), String> {
    for (program, arguments) in maps {
        let shown = program.display();
        let output = Command::new(program)
            .arg(process)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{shown}` failed: {}", words.trim()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode("0 0 4294967295"), IdMode::Root);
        assert_eq!(mode("0 1000 1"), IdMode::Single);
        assert_eq!(mode("0 1000 1\n1 100000 65536"), IdMode::Mapped);
    }

    #[test]
    fn the_forbidding_setting_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for (path, value) in
            [("kernel/apparmor_restrict_unprivileged_userns", "1\n"), ("user/max_user_namespaces", "0\n")]
        {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let setting = || forbidding_setting(directory.path());
        assert_eq!(setting().unwrap(), "the setting `user.max_user_namespaces` is 0");
        fs::write(directory.path().join("user/max_user_namespaces"), "100\n").unwrap();
        assert_eq!(setting().unwrap(), "the setting `kernel.apparmor_restrict_unprivileged_userns` is 1");
        fs::write(directory.path().join("kernel/apparmor_restrict_unprivileged_userns"), "0\n").unwrap();
        assert_eq!(setting(), None);
    }
}
