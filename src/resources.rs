//! What RUN may use of the machine: `--resource`, docker's older flags for the same, and `--memory-reserve`.

use clap::Args;
use sandbox::{CgroupLimits, SwapLimit};

use crate::values::{Mistake, size_bytes};

/// What stays free where `--memory-reserve` is not given: little, so that steps wait only where the next thing to happen
/// would be that the kernel kills one.
const DEFAULT_RESERVE_BYTES: u64 = 256 << 20;
/// And at most this part of the memory there is.
const DEFAULT_RESERVE_PERCENT: u64 = 5;

/// The flags that limit what RUN uses. The older ones mean the same as `--resource`, which goes before them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ResourceArguments {
    /// Limit of what each RUN step may use: `memory`, `memory-swap`, `cpu-shares`, `cpu-period`, `cpu-quota`,
    /// `cpuset-cpus` or `cpuset-mems`; may be repeated
    #[arg(long = "resource", value_name = "KEY=VALUE", help_heading = "Steps")]
    pub(crate) resources: Vec<String>,
    /// Start no further RUN step while less memory than this is left (`2g`, `10%`, `0` for always) and another one runs
    /// [default: 256m, at most 5%]
    #[arg(long, value_name = "BYTES", help_heading = "Steps")]
    pub(crate) memory_reserve: Option<String>,
    #[arg(short, long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(short, long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_shares: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_mems: Option<String>,
}

impl ResourceArguments {
    /// The limits of each step; of several for one thing the last counts.
    pub(crate) fn limits(&self) -> Result<CgroupLimits, Mistake> {
        let older = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
        ];
        let mut limits = CgroupLimits::default();
        for (key, value) in older {
            if let Some(value) = value {
                set(&mut limits, &format!("--{key}"), key, value)?;
            }
        }
        for text in &self.resources {
            for (key, value) in pairs(text)? {
                set(&mut limits, "--resource", key, &value)?;
            }
        }
        match (limits.memory_swap, limits.memory_bytes) {
            (Some(SwapLimit::TotalBytes(_)), None) => {
                Err("a limit of `memory-swap` needs one of `memory`".to_owned())
            }
            (Some(SwapLimit::TotalBytes(total)), Some(memory)) if total < memory => {
                Err("the limit of `memory-swap`, memory and swap together, is below that of `memory`"
                    .to_owned())
            }
            _ => Ok(limits),
        }
    }

    /// How many bytes are to stay free before a further step starts, on a machine with `total` bytes.
    pub(crate) fn reserve_bytes(&self, total: Option<u64>) -> Result<u64, Mistake> {
        let percent = |percent: u64| total.map(|total| total / 100 * percent);
        let Some(text) = &self.memory_reserve else {
            let part = percent(DEFAULT_RESERVE_PERCENT).unwrap_or(DEFAULT_RESERVE_BYTES);
            return Ok(part.min(DEFAULT_RESERVE_BYTES));
        };
        let Some(number) = text.strip_suffix('%') else { return size_bytes("--memory-reserve", text) };
        let number = number.parse().ok().filter(|number| *number <= 100).ok_or_else(|| {
            format!("invalid value `{text}` for `--memory-reserve`: it should be a size or at most `100%`")
        })?;
        percent(number).ok_or_else(|| {
            format!("`--memory-reserve {text}`: the kernel does not tell how much memory there is")
        })
    }
}

/// The pairs of a `--resource`: `KEY=VALUE`, or several with commas between them. A list of processors has commas of its
/// own: what is no pair belongs to the value before it.
fn pairs(text: &str) -> Result<Vec<(&str, String)>, Mistake> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for part in text.split(',') {
        match (part.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key, value.to_owned())),
            (None, Some((key, value))) if key.starts_with("cpuset-") => {
                value.push(',');
                value.push_str(part);
            }
            (None, _) => {
                return Err(format!("invalid value `{text}` for `--resource`: it should be `KEY=VALUE`"));
            }
        }
    }
    Ok(pairs)
}

/// Sets one limit. As with docker, 0 is none.
fn set(limits: &mut CgroupLimits, flag: &str, key: &str, value: &str) -> Result<(), Mistake> {
    let shown = if flag == "--resource" { format!("{key}={value}") } else { value.to_owned() };
    let invalid = |wanted: &str| format!("invalid value `{shown}` for `{flag}`: it should be {wanted}");
    let size = || size_bytes(flag, value).map_err(|_| invalid("a size such as `64m` or `1g`"));
    let number = |none: &[&str], least: u64, most: u64, wanted: &str| {
        if none.contains(&value) {
            return Ok(None);
        }
        let number = value.parse().ok().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| invalid(wanted))
    };
    let list = || {
        let is_list = value.chars().all(|character| character.is_ascii_digit() || "-,".contains(character));
        let none = value.is_empty();
        if is_list { Ok((!none).then(|| value.to_owned())) } else { Err(invalid("a list such as `0-2,7`")) }
    };
    match key {
        "memory" => limits.memory_bytes = Some(size()?).filter(|bytes| *bytes > 0),
        "memory-swap" if value == "-1" => limits.memory_swap = Some(SwapLimit::Unlimited),
        "memory-swap" => {
            limits.memory_swap = Some(size()?).filter(|bytes| *bytes > 0).map(SwapLimit::TotalBytes);
        }
        "cpu-shares" => limits.cpu_shares = number(&["0"], 2, 262_144, "a number from 2 to 262144")?,
        "cpu-period" => {
            limits.cpu_period_us = number(&["0"], 1000, 1_000_000, "microseconds from 1000 to 1000000")?;
        }
        "cpu-quota" => {
            limits.cpu_quota_us = number(&["0", "-1"], 1000, u64::MAX, "microseconds, at least 1000")?;
        }
        "cpuset-cpus" => limits.cpuset_cpus = list()?,
        "cpuset-mems" => limits.cpuset_mems = list()?,
        other => {
            return Err(format!(
                "unknown key `{other}` in `--resource`: it should be `memory`, `memory-swap`, `cpu-shares`, \
                 `cpu-period`, `cpu-quota`, `cpuset-cpus` or `cpuset-mems`"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resources: &[&str]) -> Result<CgroupLimits, Mistake> {
        let resources = resources.iter().map(|&text| text.to_owned()).collect();
        ResourceArguments { resources, ..ResourceArguments::default() }.limits()
    }

    #[test]
    fn every_key() {
        let all = CgroupLimits {
            memory_bytes: Some(1 << 30),
            memory_swap: Some(SwapLimit::TotalBytes(2 << 30)),
            cpu_shares: Some(512),
            cpu_period_us: Some(50_000),
            cpu_quota_us: Some(25_000),
            cpuset_cpus: Some("0,2-3".to_owned()),
            cpuset_mems: Some("0".to_owned()),
        };
        let apart = [
            "memory=5m",
            "memory=1g",
            "memory-swap=2g",
            "cpu-shares=512",
            "cpu-period=50000",
            "cpu-quota=25000",
            "cpuset-cpus=0,2-3",
            "cpuset-mems=0",
        ];
        assert_eq!(of(&apart), Ok(all.clone()));
        assert_eq!(of(&[&apart.join(",")]), Ok(all.clone()));
        let older = ResourceArguments {
            resources: vec!["cpuset-mems=0".to_owned(), "memory=1g".to_owned()],
            memory: Some("7m".to_owned()),
            memory_swap: Some("2g".to_owned()),
            cpu_shares: Some("512".to_owned()),
            cpu_period: Some("50000".to_owned()),
            cpu_quota: Some("25000".to_owned()),
            cpuset_cpus: Some("0,2-3".to_owned()),
            ..ResourceArguments::default()
        };
        assert_eq!(older.limits(), Ok(all));
    }

    #[test]
    fn nothing_is_no_limit() {
        let texts =
            ["memory=0", "memory-swap=0", "cpu-shares=0", "cpu-period=0", "cpu-quota=-1", "cpuset-cpus="];
        assert_eq!(of(&texts), Ok(CgroupLimits::default()));
        let unlimited = CgroupLimits { memory_swap: Some(SwapLimit::Unlimited), ..CgroupLimits::default() };
        assert_eq!(of(&["memory-swap=-1"]), Ok(unlimited));
    }

    #[test]
    fn mistakes() {
        let rows = [
            ("memory", "invalid value `memory` for `--resource`: it should be `KEY=VALUE`"),
            ("memory=1g,2g", "invalid value `memory=1g,2g` for `--resource`: it should be `KEY=VALUE`"),
            (
                "memory=x",
                "invalid value `memory=x` for `--resource`: it should be a size such as `64m` or `1g`",
            ),
            (
                "cpu-shares=1",
                "invalid value `cpu-shares=1` for `--resource`: it should be a number from 2 to 262144",
            ),
            (
                "cpu-quota=999",
                "invalid value `cpu-quota=999` for `--resource`: it should be microseconds, at least 1000",
            ),
            (
                "cpuset-cpus=a",
                "invalid value `cpuset-cpus=a` for `--resource`: it should be a list such as `0-2,7`",
            ),
            ("memory-swap=1g", "a limit of `memory-swap` needs one of `memory`"),
        ];
        for (text, expected) in rows {
            assert_eq!(of(&[text]).unwrap_err(), expected);
        }
        assert!(of(&["cpus=1"]).unwrap_err().starts_with("unknown key `cpus` in `--resource`"));
        assert!(of(&["memory=2g,memory-swap=1g"]).unwrap_err().contains("below"));
        let older = ResourceArguments { cpu_shares: Some("x".to_owned()), ..ResourceArguments::default() };
        assert!(older.limits().unwrap_err().starts_with("invalid value `x` for `--cpu-shares`"));
    }

    #[test]
    fn reserves() {
        let of = |text: Option<&str>, total| {
            let memory_reserve = text.map(str::to_owned);
            ResourceArguments { memory_reserve, ..ResourceArguments::default() }.reserve_bytes(total)
        };
        assert_eq!(of(None, Some(100 << 30)), Ok(256 << 20));
        assert_eq!(of(None, Some(1000)), Ok(50));
        assert_eq!(of(None, None), Ok(256 << 20));
        assert_eq!(of(Some("2g"), Some(1000)), Ok(2 << 30));
        assert_eq!(of(Some("10%"), Some(1000)), Ok(100));
        assert_eq!(of(Some("0"), None), Ok(0));
        for (text, total) in [("101%", Some(1)), ("x%", Some(1)), ("-1", Some(1)), ("1%", None)] {
            assert!(of(Some(text), total).is_err(), "{text}");
        }
    }
}
