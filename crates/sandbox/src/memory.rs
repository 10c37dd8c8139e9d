//! How much memory there is, and how often the kernel has killed a process because it ran out.

use std::fs;
use std::path::Path;

use crate::cgroup::{Hierarchy, Version, hierarchies};

/// The bytes of memory that new processes can use without others being swapped out or killed: the kernel's estimate
/// (`MemAvailable` in `/proc/meminfo`), or what is left to this process's cgroup or one above it, if that is less. Nothing
/// where the kernel does not tell.
pub fn available_memory_bytes() -> Option<u64> {
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(limited(hierarchies()).filter_map(|cgroup| cgroup.left()).fold(machine, u64::min))
}

/// The bytes of memory of this machine, or of this process's cgroup or one above it, if that is less.
pub fn total_memory_bytes() -> Option<u64> {
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(limited(hierarchies()).map(|cgroup| cgroup.limit).fold(machine, u64::min))
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let kilobytes = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// A cgroup with a limit.
struct Limited<'h> {
    directory: &'h Path,
    version: Version,
    limit: u64,
}

impl Limited<'_> {
    /// What is left to it.
    fn left(&self) -> Option<u64> {
        let [usage, cache] = match self.version {
            Version::One => ["memory.usage_in_bytes", "total_inactive_file "],
            Version::Two => ["memory.current", "inactive_file "],
        };
        let usage: u64 = read(self.directory, usage)?.trim().parse().ok()?;
        // Files that nobody has used for a while are dropped as soon as the memory is wanted.
        let statistics = read(self.directory, "memory.stat")?;
        let cache = statistics.lines().find_map(|line| line.strip_prefix(cache));
        let cache: u64 = cache.and_then(|count| count.parse().ok()).unwrap_or_default();
        Some(self.limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

fn read(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok()
}

/// The cgroups with a limit that this process is in.
fn limited(hierarchies: &[Hierarchy]) -> impl Iterator<Item = Limited<'_>> {
    let with_memory = hierarchies.iter().filter(|hierarchy| hierarchy.has("memory"));
    with_memory.flat_map(|hierarchy| {
        let version = hierarchy.version;
        let file = if version == Version::One { "memory.limit_in_bytes" } else { "memory.max" };
        hierarchy.own_and_above().filter_map(move |directory| {
            // The root has no such file in version 2, and a cgroup without a limit says `max` there.
            let limit = read(directory, file)?.trim().parse().ok()?;
            Some(Limited { directory, version, limit })
        })
    })
}

/// The count of kills since the start of the machine, over all processes; nothing where the kernel does not tell
/// (`oom_kill` in `/proc/vmstat`, Linux 4.13).
pub(crate) fn kills() -> Option<u64> {
    parse(&fs::read_to_string("/proc/vmstat").ok()?)
}

/// The count in a text of `name number` lines: `/proc/vmstat`, `memory.events`, `memory.oom_control`.
pub(crate) fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!(parse("oom 3\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse("nr_free 1\n"), None);
        assert!(kills().is_some());
    }

    #[test]
    fn the_machine_tells() {
        let text = "MemTotal:       16303428 kB\nMemFree:         123 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(1_024_000));
        assert_eq!(meminfo("MemTotal: 1 kB\n", "MemAvailable:"), None);
        let (available, total) = (available_memory_bytes().unwrap(), total_memory_bytes().unwrap());
        assert!(0 < available && available < total, "{available} of {total}");
    }

    #[test]
    fn the_tightest_cgroup_counts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, limit: &str, usage: &str, statistics: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("memory.max"), limit).unwrap();
            fs::write(path.join("memory.current"), usage).unwrap();
            fs::write(path.join("memory.stat"), statistics).unwrap();
        };
        write("a/b/c", "max\n", "70\n", "anon 20\n");
        write("a/b", "100\n", "80\n", "anon 20\nactive_file 5\ninactive_file 50\n");
        write("a", "90\n", "85\n", "inactive_file 60\n");
        let hierarchy = |root: &Path, version| Hierarchy {
            root: root.to_owned(),
            version,
            controllers: vec!["memory".to_owned()],
            own: Some(root.join("a/b/c")),
        };
        let two = hierarchy(directory.path(), Version::Two);
        let left = |hierarchy: &Hierarchy| -> Vec<u64> {
            limited(std::slice::from_ref(hierarchy)).filter_map(|cgroup| cgroup.left()).collect()
        };
        assert_eq!(left(&two), [70, 65]);
        assert_eq!(limited(&[two]).map(|cgroup| cgroup.limit).collect::<Vec<_>>(), [100, 90]);
        for (name, value) in [
            ("limit_in_bytes", "50"),
            ("usage_in_bytes", "60"),
            ("stat", "inactive_file 1\ntotal_inactive_file 20\n"),
        ] {
            fs::write(directory.path().join(format!("a/memory.{name}")), value).unwrap();
        }
        assert_eq!(left(&hierarchy(directory.path(), Version::One)), [10]);
    }
}
