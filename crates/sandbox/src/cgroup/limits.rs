//! What is written where for a limit: the files of cgroups of version 1 (the kernel's admin-guide/cgroup-v1) and of
//! version 2 (admin-guide/cgroup-v2), with the conversions of runc.

use super::hierarchy::Version;
use crate::{CgroupLimits, SandboxError, SwapLimit};

/// What limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuset,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Cpuset];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
        }
    }
}

/// A value for a file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The limit that it is for, by docker's name.
    pub(super) limit: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
}

/// How long the kernel's own period is, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// The controllers that the limits need.
pub(super) fn controllers(limits: &CgroupLimits) -> Vec<Controller> {
    let needs = |controller: &Controller| match controller {
        Controller::Memory => limits.memory_bytes.is_some() || limits.memory_swap.is_some(),
        Controller::Cpu => {
            limits.cpu_shares.is_some() || limits.cpu_period_us.is_some() || limits.cpu_quota_us.is_some()
        }
        Controller::Cpuset => limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some(),
    };
    Controller::ALL.into_iter().filter(needs).collect()
}

/// What to write for the limits of a controller, in this order.
pub(super) fn settings(
    limits: &CgroupLimits,
    controller: Controller,
    version: Version,
) -> Result<Vec<Setting>, SandboxError> {
    let mut settings = Vec::new();
    let mut set = |limit, [one, two]: [&'static str; 2], value: String| {
        let file = if version == Version::One { one } else { two };
        settings.push(Setting { limit, file, value });
    };
    match controller {
        Controller::Memory => {
            if let Some(bytes) = limits.memory_bytes {
                set("memory", ["memory.limit_in_bytes", "memory.max"], bytes.to_string());
            }
            if let Some(value) = swap(limits, version)? {
                set("memory-swap", ["memory.memsw.limit_in_bytes", "memory.swap.max"], value);
            }
        }
        Controller::Cpu => {
            if let Some(shares) = limits.cpu_shares {
                let value = if version == Version::One { shares } else { weight(shares) };
                set("cpu-shares", ["cpu.shares", "cpu.weight"], value.to_string());
            }
            let (period, quota) = (limits.cpu_period_us, limits.cpu_quota_us);
            match version {
                Version::One => {
                    // The period first: a quota is checked against it.
                    for (limit, file, value) in [
                        ("cpu-period", "cpu.cfs_period_us", period),
                        ("cpu-quota", "cpu.cfs_quota_us", quota),
                    ] {
                        if let Some(value) = value {
                            set(limit, [file, ""], value.to_string());
                        }
                    }
                }
                Version::Two if period.is_some() || quota.is_some() => {
                    let limit = if quota.is_some() { "cpu-quota" } else { "cpu-period" };
                    let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                    let period = period.unwrap_or(DEFAULT_PERIOD_US);
                    set(limit, ["", "cpu.max"], format!("{quota} {period}"));
                }
                Version::Two => {}
            }
        }
        Controller::Cpuset => {
            for (limit, file, value) in [
                ("cpuset-cpus", "cpuset.cpus", &limits.cpuset_cpus),
                ("cpuset-mems", "cpuset.mems", &limits.cpuset_mems),
            ] {
                if let Some(value) = value {
                    set(limit, [file, file], value.clone());
                }
            }
        }
    }
    Ok(settings)
}

/// The limit of swap. Docker's number is that of memory and swap together, as in version 1; in version 2 swap is counted
/// alone.
fn swap(limits: &CgroupLimits, version: Version) -> Result<Option<String>, SandboxError> {
    let invalid = |reason: &str| Err(SandboxError::Invalid { reason: reason.to_owned() });
    match (limits.memory_swap, limits.memory_bytes) {
        (None, _) => Ok(None),
        (Some(SwapLimit::Unlimited), _) => {
            Ok(Some(if version == Version::One { "-1" } else { "max" }.to_owned()))
        }
        (Some(SwapLimit::TotalBytes(_)), None) => invalid("a limit of swap needs one of memory"),
        (Some(SwapLimit::TotalBytes(total)), Some(memory)) if total < memory => {
            invalid("the limit of memory and swap is below that of memory")
        }
        (Some(SwapLimit::TotalBytes(total)), Some(memory)) => {
            Ok(Some(if version == Version::One { total } else { total - memory }.to_string()))
        }
    }
}

/// The weight (1 to 10,000) for a number of shares (2 to 262,144). As runc since 1.3.2: the smallest, the usual (1,024,
/// 100) and the largest values of the two versions agree, with a curve of the second degree in their logarithms between
/// them.
fn weight(shares: u64) -> u64 {
    const SHARES: [u64; 2] = [2, 262_144];
    if shares <= SHARES[0] {
        return 1;
    }
    if shares >= SHARES[1] {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "it is below 2^18")]
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between the bounds it is between 1 and 10,000"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> CgroupLimits {
        CgroupLimits {
            memory_bytes: Some(1 << 20),
            memory_swap: Some(SwapLimit::TotalBytes(3 << 20)),
            cpu_shares: Some(512),
            cpu_period_us: Some(50_000),
            cpu_quota_us: Some(25_000),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
        }
    }

    fn written(limits: &CgroupLimits, version: Version) -> Vec<(&'static str, String)> {
        let of = |controller| settings(limits, controller, version).unwrap();
        let all = controllers(limits).into_iter().flat_map(of);
        all.map(|setting| (setting.file, setting.value)).collect()
    }

    fn pairs(list: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        list.iter().map(|&(file, value)| (file, value.to_owned())).collect()
    }

    #[test]
    fn version_one() {
        let expected = [
            ("memory.limit_in_bytes", "1048576"),
            ("memory.memsw.limit_in_bytes", "3145728"),
            ("cpu.shares", "512"),
            ("cpu.cfs_period_us", "50000"),
            ("cpu.cfs_quota_us", "25000"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
        ];
        assert_eq!(written(&all(), Version::One), pairs(&expected));
        let unlimited = CgroupLimits { memory_swap: Some(SwapLimit::Unlimited), ..CgroupLimits::default() };
        assert_eq!(written(&unlimited, Version::One), pairs(&[("memory.memsw.limit_in_bytes", "-1")]));
    }

    #[test]
    fn version_two() {
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "2097152"),
            ("cpu.weight", "59"),
            ("cpu.max", "25000 50000"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
        ];
        assert_eq!(written(&all(), Version::Two), pairs(&expected));
        let quota = CgroupLimits { cpu_quota_us: Some(7000), ..CgroupLimits::default() };
        assert_eq!(written(&quota, Version::Two), pairs(&[("cpu.max", "7000 100000")]));
        let period = CgroupLimits { cpu_period_us: Some(7000), ..CgroupLimits::default() };
        assert_eq!(written(&period, Version::Two), pairs(&[("cpu.max", "max 7000")]));
        let unlimited = CgroupLimits { memory_swap: Some(SwapLimit::Unlimited), ..CgroupLimits::default() };
        assert_eq!(written(&unlimited, Version::Two), pairs(&[("memory.swap.max", "max")]));
        assert_eq!(written(&CgroupLimits::default(), Version::Two), []);
    }

    #[test]
    fn weights_are_runcs() {
        let cases = [
            (0, 1),
            (2, 1),
            (3, 2),
            (1023, 100),
            (1024, 100),
            (1025, 101),
            (262_143, 10_000),
            (262_144, 10_000),
        ];
        for (shares, expected) in cases {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn swap_that_makes_no_sense_is_refused() {
        for memory_bytes in [None, Some(4 << 20)] {
            let limits = CgroupLimits { memory_bytes, ..all() };
            for version in [Version::One, Version::Two] {
                let error = settings(&limits, Controller::Memory, version).unwrap_err();
                assert!(matches!(error, SandboxError::Invalid { .. }), "{error}");
            }
        }
    }
}
