//! Which cgroup hierarchies there are, and where this process is in them: version 2, version 1, or both side by side
//! (cgroups(7), "Cgroups version 1" and "Cgroups version 2").

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A tree of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) root: PathBuf,
    pub(crate) version: Version,
    /// What can be limited in it.
    pub(crate) controllers: Vec<String>,
    /// The directory of this process's cgroup, if it can be seen.
    pub(crate) own: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether it limits nothing, and only keeps processes apart for a program (`name=systemd`).
    pub(super) fn is_named(&self) -> bool {
        self.controllers.iter().any(|name| name.starts_with("name="))
    }

    /// The directories from this process's cgroup up to the root.
    pub(crate) fn own_and_above(&self) -> impl Iterator<Item = &Path> {
        let own = self.own.as_deref().into_iter();
        own.flat_map(Path::ancestors).take_while(|directory| directory.starts_with(&self.root))
    }
}

/// The hierarchies of this machine. They do not change during a build.
pub(crate) fn hierarchies() -> &'static [Hierarchy] {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    })
}

/// The hierarchy that a controller belongs to.
pub(super) fn with<'h>(hierarchies: &'h [Hierarchy], controller: &str) -> Option<&'h Hierarchy> {
    hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
}

/// Whether this process may make cgroups in a directory.
pub(super) fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`; `controllers` tells those of a hierarchy of version 2.
fn parse(mounts: &str, own: &str, controllers: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut fields = before.split(' ').skip(3);
        let (Some(shown), Some(root)) = (fields.next(), fields.next().map(PathBuf::from)) else { continue };
        let mut fields = after.split(' ');
        let (version, controllers) = match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => {
                (Version::Two, controllers(&root).split_whitespace().map(str::to_owned).collect())
            }
            // Among the options of the file system; none of the others is called like a controller.
            (Some("cgroup"), Some(options)) => {
                (Version::One, options.split(',').map(str::to_owned).collect::<Vec<_>>())
            }
            _ => continue,
        };
        // What is mounted twice is one hierarchy.
        if found.iter().any(|known| known.version == version && known.controllers == controllers) {
            continue;
        }
        let own = own_path(own, version, &controllers).and_then(|path| {
            let beneath = Path::new(path).strip_prefix(shown).ok()?;
            Some(root.join(beneath))
        });
        found.push(Hierarchy { root, version, controllers, own });
    }
    found
}

/// The path in `/proc/self/cgroup`: lines of `number:controllers:path`, the number of version 2 being 0.
fn own_path<'t>(text: &'t str, version: Version, controllers: &[String]) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let matches = match version {
            Version::Two => number == "0",
            Version::One => names.split(',').any(|name| controllers.iter().any(|known| known == name)),
        };
        matches.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(hierarchies: &[Hierarchy], controller: &str) -> Option<(Version, PathBuf, Option<PathBuf>)> {
        with(hierarchies, controller).map(|found| (found.version, found.root.clone(), found.own.clone()))
    }

    #[test]
    fn version_two_alone() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
                      1 2 0:3 / / rw - ext4 /dev/x rw\n";
        let found = parse(mounts, "0::/user.slice/a.scope\n", |_| "cpuset cpu io memory pids\n".to_owned());
        let own_directory = PathBuf::from("/sys/fs/cgroup/user.slice/a.scope");
        let expected = (Version::Two, PathBuf::from("/sys/fs/cgroup"), Some(own_directory));
        assert_eq!(own(&found, "memory"), Some(expected));
        assert_eq!(own(&found, "hugetlb"), None);
        let above: Vec<&Path> = found[0].own_and_above().collect();
        let expected = ["/sys/fs/cgroup/user.slice/a.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]
            .map(Path::new);
        assert_eq!(above, expected);
    }

    #[test]
    fn both_side_by_side() {
        let mounts = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 24 0:29 /box /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      34 24 0:27 / /other/memory rw - cgroup cgroup rw,memory\n\
                      35 24 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let text = "9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/box/c\n0::/\n";
        let found = parse(mounts, text, |_| "hugetlb\n".to_owned());
        assert_eq!(found.len(), 4);
        assert_eq!(found.iter().filter(|hierarchy| hierarchy.is_named()).count(), 1);
        let one = |root: &str, own: &str| Some((Version::One, root.into(), Some(own.into())));
        assert_eq!(own(&found, "memory"), one("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b"));
        assert_eq!(own(&found, "cpu"), one("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c"));
        assert_eq!(own(&found, "hugetlb").unwrap().0, Version::Two);
        assert_eq!(own(&found, "cpuset"), None);
    }

    #[test]
    fn a_cgroup_out_of_sight_is_nowhere() {
        let mounts = "31 24 0:27 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parse(mounts, "4:memory:/\n", |_| String::new())[0].own, None);
        assert_eq!(parse("1 2 0:3 / / rw - ext4 /dev/x rw\n", "", |_| String::new()), []);
    }
}
