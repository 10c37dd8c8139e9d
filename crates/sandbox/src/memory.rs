//! How often the kernel has killed a process because memory ran out.

/// The count since the start of the machine, over all processes; nothing where the kernel does not tell
/// (`oom_kill` in `/proc/vmstat`, Linux 4.13).
pub(crate) fn kills() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/vmstat").ok()?)
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
}
