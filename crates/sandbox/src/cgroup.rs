//! Cgroups for a sandbox: where limits or a parent were asked for, and where one is cheap and tells more (version 2 with
//! a memory controller). Moving a process into a cgroup of version 1 waits for all of the machine's processors, so that
//! version is used only on demand.
//!
//! A controller is in one hierarchy alone, of either version; a sandbox gets a cgroup in each that its limits need.

mod hierarchy;
mod limits;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use hierarchy::{Hierarchy, Version, hierarchies};
use hierarchy::{is_writable, with};
use limits::Controller;

use crate::{CgroupLimits, Fallback, ProcessSpec, SandboxError, memory};

/// The parent of cgroups that were not asked for.
const OWN_PARENT: &str = "rbuild";

/// How often and with what pauses a cgroup is tried to be removed whose processes have only just ended.
const REMOVALS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The cgroups of a sandbox, removed when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    /// The one that the process can be started in: that of version 2.
    start: Option<File>,
    /// Those that it has to be moved to.
    moves: Vec<PathBuf>,
}

impl Cgroup {
    /// The cgroups that a process is to have, if any.
    pub(crate) fn for_process(spec: &ProcessSpec) -> Result<Option<Self>, SandboxError> {
        Self::within(hierarchies(), spec)
    }

    fn within(hierarchies: &[Hierarchy], spec: &ProcessSpec) -> Result<Option<Self>, SandboxError> {
        let late = spec.fallbacks.contains(&Fallback::LateCgroup);
        let wanted = wanted(hierarchies, spec)?;
        if wanted.is_empty() {
            let Some(hierarchy) = default_hierarchy(hierarchies) else { return Ok(None) };
            let mut cgroup = Self::default();
            let made = cgroup.make(hierarchy, &hierarchy.root.join(OWN_PARENT), &[Controller::Memory]);
            // Nobody asked for it.
            return Ok(made.and_then(|path| cgroup.enter(hierarchy, path, late)).is_ok().then_some(cgroup));
        }
        let mut cgroup = Self::default();
        for (hierarchy, controllers) in wanted {
            let parent = parent(hierarchy, &controllers, spec.cgroup_parent.as_deref())?;
            let path = cgroup.make(hierarchy, &parent, &controllers)?;
            for controller in controllers {
                set(&path, &spec.cgroup_limits, controller, hierarchy.version)?;
            }
            cgroup.enter(hierarchy, path, late)?;
        }
        Ok(Some(cgroup))
    }

    /// Makes one beneath `parent`, with these controllers.
    fn make(
        &mut self,
        hierarchy: &Hierarchy,
        parent: &Path,
        controllers: &[Controller],
    ) -> Result<PathBuf, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{OWN_PARENT}-{}-{number}", std::process::id()));
        let mut tries = 0;
        loop {
            let made = make_directories(hierarchy, parent)
                .and_then(|()| pass_on(hierarchy, parent, controllers))
                .and_then(|()| make_directory(hierarchy, &path));
            match made {
                // Another build has removed a parent that was empty.
                Err((_, source)) if source.kind() == io::ErrorKind::NotFound && tries < REMOVALS => {
                    tries += 1;
                }
                Err((path, source)) => {
                    remove_own_parent(parent);
                    return Err(SandboxError::Cgroup { path, source });
                }
                Ok(()) => break,
            }
        }
        self.directories.push(path.clone());
        Ok(path)
    }

    /// Notes how the process gets there.
    fn enter(&mut self, hierarchy: &Hierarchy, path: PathBuf, late: bool) -> Result<(), SandboxError> {
        if hierarchy.version == Version::Two && !late {
            let opened = File::open(&path);
            self.start = Some(opened.map_err(|source| SandboxError::Cgroup { path, source })?);
        } else {
            self.moves.push(path);
        }
        Ok(())
    }

    /// Its directories.
    pub(crate) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// What a process is started in; nothing if it has to be moved later.
    pub(crate) fn start_in(&self) -> Option<BorrowedFd<'_>> {
        self.start.as_ref().map(AsFd::as_fd)
    }

    /// Moves a process to where it was not started.
    pub(crate) fn move_in(&self, pidfd: &OwnedFd) -> Result<(), SandboxError> {
        for path in &self.moves {
            pid_of(pidfd)
                .and_then(|pid| fs::write(path.join("cgroup.procs"), pid))
                .map_err(|source| SandboxError::Cgroup { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// How often the kernel killed one of its processes because memory ran out; nothing if it does not tell.
    pub(crate) fn memory_kills(&self) -> Option<u64> {
        let files = self
            .directories
            .iter()
            .flat_map(|directory| ["memory.events", "memory.oom_control"].map(|name| directory.join(name)));
        files.into_iter().find_map(|file| memory::parse(&fs::read_to_string(file).ok()?))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            remove(directory);
        }
    }
}

/// Removes a cgroup whose processes have ended, with those that they have made beneath it. What cannot be removed is
/// empty, which harms nobody.
pub(crate) fn remove(directory: &Path) {
    let mut pause = FIRST_PAUSE;
    for _ in 0..REMOVALS {
        match remove_all(directory) {
            // The kernel may still be at it.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(pause),
            _ => break,
        }
        pause *= 2;
    }
    if let Some(parent) = directory.parent() {
        remove_own_parent(parent);
    }
}

/// Removes the parent that nobody asked for, unless there are others in it.
fn remove_own_parent(parent: &Path) {
    if parent.ends_with(OWN_PARENT) {
        let _ = fs::remove_dir(parent);
    }
}

fn remove_all(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// The hierarchies that a sandbox needs cgroups in, each with the controllers that it needs there.
fn wanted<'h>(
    hierarchies: &'h [Hierarchy],
    spec: &ProcessSpec,
) -> Result<Vec<(&'h Hierarchy, Vec<Controller>)>, SandboxError> {
    let mut wanted: Vec<(&Hierarchy, Vec<Controller>)> = Vec::new();
    for controller in limits::controllers(&spec.cgroup_limits) {
        let hierarchy = with(hierarchies, controller.name())
            .ok_or(SandboxError::NoController { controller: controller.name() })?;
        match wanted.iter_mut().find(|(known, _)| *known == hierarchy) {
            Some((_, controllers)) => controllers.push(controller),
            None => wanted.push((hierarchy, vec![controller])),
        }
    }
    let Some(parent) = &spec.cgroup_parent else { return Ok(wanted) };
    // Whoever has made the parent may have limited it.
    let with_parent = hierarchies.iter().filter(|found| !found.is_named() && beneath(found, parent).is_dir());
    for hierarchy in with_parent {
        if !wanted.iter().any(|(known, _)| *known == hierarchy) {
            wanted.push((hierarchy, Vec::new()));
        }
    }
    if wanted.is_empty() {
        // Where memory is counted, so that a lack of it is told.
        let memory = with(hierarchies, Controller::Memory.name());
        let hierarchy = memory.or_else(|| hierarchies.iter().find(|found| found.version == Version::Two));
        let unsupported =
            || SandboxError::Cgroup { path: parent.into(), source: io::ErrorKind::Unsupported.into() };
        wanted.push((hierarchy.ok_or_else(unsupported)?, Vec::new()));
    }
    Ok(wanted)
}

/// The directory of a cgroup that was asked for.
fn beneath(hierarchy: &Hierarchy, parent: &str) -> PathBuf {
    hierarchy.root.join(parent.trim_matches('/'))
}

/// Where a cgroup with these controllers can be made: beneath the one that was asked for, else at the root, else, for an
/// ordinary user, where one has been delegated.
fn parent(
    hierarchy: &Hierarchy,
    controllers: &[Controller],
    asked_for: Option<&str>,
) -> Result<PathBuf, SandboxError> {
    if let Some(parent) = asked_for {
        return Ok(beneath(hierarchy, parent));
    }
    if is_writable(&hierarchy.root) {
        return Ok(hierarchy.root.join(OWN_PARENT));
    }
    let delegated = hierarchy.own_and_above().find(|directory| {
        // A cgroup of version 2 with processes of its own, as this one's, passes nothing on.
        is_writable(directory)
            && (hierarchy.version == Version::One || passes_on(directory, controllers))
            && is_writable(&directory.join("cgroup.procs"))
    });
    delegated.map(Path::to_owned).ok_or_else(|| SandboxError::NotDelegated {
        controllers: controllers
            .iter()
            .map(|one| format!("`{}`", one.name()))
            .collect::<Vec<_>>()
            .join(" and "),
        version: if hierarchy.version == Version::One { 1 } else { 2 },
    })
}

type Made = Result<(), (PathBuf, io::Error)>;

/// Makes a directory with all above it.
fn make_directories(hierarchy: &Hierarchy, directory: &Path) -> Made {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directories(hierarchy, parent)?;
    }
    match make_directory(hierarchy, directory) {
        Err((_, error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn make_directory(hierarchy: &Hierarchy, directory: &Path) -> Made {
    let failed = |error| (directory.to_owned(), error);
    fs::create_dir(directory).map_err(failed)?;
    if hierarchy.version == Version::One && hierarchy.has(Controller::Cpuset.name()) {
        inherit_cpuset(directory).map_err(failed)?;
    }
    Ok(())
}

/// A new cpuset of version 1 has no processors and no memory, and takes no process until it has.
fn inherit_cpuset(directory: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let is_empty = fs::read_to_string(directory.join(file))?.trim().is_empty();
        if let Some(parent) = directory.parent().filter(|_| is_empty) {
            fs::write(directory.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Sees to it that the cgroups beneath `parent` have these controllers: in version 2 each level has to pass them on.
fn pass_on(hierarchy: &Hierarchy, parent: &Path, controllers: &[Controller]) -> Made {
    if hierarchy.version == Version::One {
        return Ok(());
    }
    // Where nothing is limited a lack of it means only that kills are told by the machine's counter.
    let memory = [Controller::Memory];
    let is_wanted = !controllers.is_empty();
    let controllers = if is_wanted { controllers } else { &memory };
    let beneath: Vec<&Path> =
        parent.ancestors().take_while(|level| level.starts_with(&hierarchy.root)).collect();
    for level in beneath.into_iter().rev() {
        for controller in controllers.iter().filter(|controller| !passes_on(level, &[**controller])) {
            let file = level.join("cgroup.subtree_control");
            let written = fs::write(&file, format!("+{}", controller.name()));
            if let (Err(error), true) = (written, is_wanted) {
                return Err((file, error));
            }
        }
    }
    Ok(())
}

/// Whether what is beneath a cgroup of version 2 has these controllers.
fn passes_on(directory: &Path, controllers: &[Controller]) -> bool {
    let passed = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    controllers.iter().all(|controller| passed.split_whitespace().any(|name| name == controller.name()))
}

/// Sets the limits of one controller.
fn set(
    directory: &Path,
    limits: &CgroupLimits,
    controller: Controller,
    version: Version,
) -> Result<(), SandboxError> {
    for setting in limits::settings(limits, controller, version)? {
        let file = directory.join(setting.file);
        let written = File::options().write(true).truncate(true).open(&file).and_then(|mut file| {
            use io::Write;
            file.write_all(setting.value.as_bytes())
        });
        written.map_err(|source| SandboxError::Limit {
            controller: controller.name(),
            limit: setting.limit,
            value: setting.value,
            file,
            source,
        })?;
    }
    Ok(())
}

/// The number of the process, in this pid namespace.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(|pid| pid.trim().to_owned());
    pid.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What this process can do with cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupSupport {
    /// Where the hierarchy is in which memory is counted; the first that there is, where memory is counted in none.
    pub root: PathBuf,
    /// Its version: 1 or 2.
    pub version: u8,
    /// The controllers of all hierarchies in which cgroups can be made (`memory`), in the kernel's order.
    pub controllers: Vec<String>,
}

/// The cgroups that this process may make; nothing if it may make none.
pub fn cgroup_support() -> Option<CgroupSupport> {
    let may_make =
        |found: &&Hierarchy| is_writable(&found.root) || found.own.as_deref().is_some_and(is_writable);
    let usable: Vec<&Hierarchy> = hierarchies().iter().filter(may_make).collect();
    let counting = usable.iter().find(|found| found.has(Controller::Memory.name()));
    let first = counting.or(usable.first())?;
    Some(CgroupSupport {
        root: first.root.clone(),
        version: if first.version == Version::Two { 2 } else { 1 },
        controllers: usable.iter().flat_map(|found| found.controllers.clone()).collect(),
    })
}

/// Whether processes get a cgroup of their own without asking.
pub(crate) fn is_default() -> bool {
    default_hierarchy(hierarchies()).is_some()
}

/// The hierarchy of the cgroups that are made without asking.
fn default_hierarchy(hierarchies: &[Hierarchy]) -> Option<&Hierarchy> {
    with(hierarchies, Controller::Memory.name())
        .filter(|found| found.version == Version::Two && is_writable(&found.root))
}

#[cfg(test)]
#[path = "cgroup/tests.rs"]
mod tests;
