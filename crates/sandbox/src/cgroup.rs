//! A cgroup for a sandbox: where one was asked for, and where it is cheap and tells more (version 2 with a memory
//! controller). Moving a process into a cgroup of version 1 waits for all of the machine's processors, so that version
//! is used only on demand.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Fallback, ProcessSpec, SandboxError, memory};

/// The parent of cgroups that were not asked for.
const OWN_PARENT: &str = "rbuild";

/// A cgroup, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    version: Version,
    directory: Option<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where cgroups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
    /// Whether it tells of kills for lack of memory.
    has_memory: bool,
}

impl Cgroup {
    /// The cgroup that a process is to have, if any.
    pub(crate) fn for_process(spec: &ProcessSpec) -> Result<Option<Self>, SandboxError> {
        let late = spec.fallbacks.contains(&Fallback::LateCgroup);
        let Some(hierarchy) = hierarchy() else {
            return match &spec.cgroup_parent {
                None => Ok(None),
                Some(parent) => Err(SandboxError::Cgroup {
                    path: parent.into(),
                    source: io::ErrorKind::Unsupported.into(),
                }),
            };
        };
        if let Some(parent) = &spec.cgroup_parent {
            return Self::make(hierarchy, parent.trim_matches('/'), late).map(Some);
        }
        if hierarchy.version == Version::Two && hierarchy.has_memory {
            return Ok(Self::make(hierarchy, OWN_PARENT, late).ok());
        }
        Ok(None)
    }

    fn make(hierarchy: &Hierarchy, parent: &str, late: bool) -> Result<Self, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = hierarchy.root.join(parent);
        let path = parent.join(format!("{}-{number}", std::process::id()));
        let failed = |source| SandboxError::Cgroup { path: path.clone(), source };
        fs::create_dir_all(&parent).map_err(failed)?;
        if hierarchy.version == Version::Two && hierarchy.has_memory {
            // Where a level does not pass its controllers on, kills are told by the machine's counter instead.
            for level in [&hierarchy.root, &parent] {
                let _ = fs::write(level.join("cgroup.subtree_control"), "+memory");
            }
        }
        fs::create_dir(&path).map_err(failed)?;
        let directory = (hierarchy.version == Version::Two && !late).then(|| File::open(&path)).transpose();
        let directory = directory.map_err(failed)?;
        Ok(Self { path, version: hierarchy.version, directory })
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process is started in; nothing if it has to be moved later.
    pub(crate) fn start_in(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// Moves a process there that was not started there.
    pub(crate) fn move_in(&self, pidfd: &OwnedFd) -> Result<(), SandboxError> {
        if self.directory.is_some() {
            return Ok(());
        }
        pid_of(pidfd)
            .and_then(|pid| fs::write(self.path.join("cgroup.procs"), pid))
            .map_err(|source| SandboxError::Cgroup { path: self.path.clone(), source })
    }

    /// How often the kernel killed one of its processes because memory ran out; nothing if it does not tell.
    pub(crate) fn memory_kills(&self) -> Option<u64> {
        let name = if self.version == Version::Two { "memory.events" } else { "memory.oom_control" };
        memory::parse(&fs::read_to_string(self.path.join(name)).ok()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended; if the kernel is still at it, an empty directory stays, which harms nobody.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The number of the process, in this pid namespace.
fn pid_of(pidfd: &OwnedFd) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(|pid| pid.trim().to_owned());
    pid.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The hierarchy of this machine that this process may write to: version 2, else the memory controller's of version 1.
fn hierarchy() -> Option<&'static Hierarchy> {
    static FOUND: OnceLock<Option<Hierarchy>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
            choose(&table, |root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default())
                .filter(|found| rustix::fs::access(&found.root, rustix::fs::Access::WRITE_OK).is_ok())
        })
        .as_ref()
}

/// Whether processes get a cgroup of their own without asking.
pub(crate) fn is_default() -> bool {
    hierarchy().is_some_and(|found| found.version == Version::Two && found.has_memory)
}

fn choose(table: &str, controllers: impl Fn(&Path) -> String) -> Option<Hierarchy> {
    let mut two = None;
    let mut one = None;
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(root) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut fields = after.split(' ');
        let kind = fields.next();
        if kind == Some("cgroup2") {
            let has_memory = controllers(&root).split_whitespace().any(|name| name == "memory");
            two = Some(Hierarchy { root, version: Version::Two, has_memory });
        } else if kind == Some("cgroup")
            && fields.nth(1).is_some_and(|options| options.split(',').any(|name| name == "memory"))
        {
            one = Some(Hierarchy { root, version: Version::One, has_memory: true });
        }
    }
    match (two, one) {
        (Some(two), _) if two.has_memory => Some(two),
        (_, Some(one)) => Some(one),
        (two, None) => two,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const ONE: &str = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                       32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_two_wins_if_it_counts_memory() {
        let found = choose(TWO, |_| "cpu memory pids\n".to_owned()).unwrap();
        assert_eq!((found.version, found.has_memory), (Version::Two, true));
        let found = choose(ONE, |_| String::new()).unwrap();
        assert_eq!((found.version, found.root), (Version::One, PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(choose("1 2 0:3 / / rw - ext4 /dev/x rw\n", |_| String::new()), None);
    }
}
