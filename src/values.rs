//! The values of flags, as docker writes them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::Platform;
use solver::{ExtraHost, NetworkMode, Ulimit};
use worker::{PullPolicy, TimeLimit};

use crate::remote::RemoteContext;

/// Why a value is not right: a whole sentence for people.
pub(crate) type Mistake = String;

/// `--add-host HOST:IP`, `HOST=IP`, `HOST:[IPv6]`; the IP `host-gateway` stands for the address of this machine, which
/// `this_machine` knows.
pub(crate) fn extra_host(
    text: &str,
    this_machine: impl FnOnce() -> Option<IpAddr>,
) -> Result<ExtraHost, Mistake> {
    let malformed =
        || format!("invalid value `{text}` for `--add-host`: it should be `HOST:IP` or `HOST=IP`");
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(malformed)?;
    if name.is_empty() {
        return Err(malformed());
    }
    if address == "host-gateway" {
        let address = this_machine().ok_or_else(|| {
            format!(
                "invalid value `{text}` for `--add-host`: this machine has no address that others reach it by"
            )
        })?;
        return Ok(ExtraHost { name: name.to_owned(), address: address.to_string() });
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare.parse::<IpAddr>().is_err() {
        return Err(malformed());
    }
    Ok(ExtraHost { name: name.to_owned(), address: bare.to_owned() })
}

/// `--ulimit NAME=SOFT[:HARD]`; -1 or `unlimited` is no limit.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Mistake> {
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let malformed = || format!("invalid value `{text}` for `--ulimit`: it should be `NAME=SOFT[:HARD]`");
    let (name, limits) = text.split_once('=').ok_or_else(malformed)?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid value `{text}` for `--ulimit`: there is no limit `{name}`"));
    }
    let number = |part: &str| match part {
        "unlimited" => Ok(-1),
        digits => digits.parse::<i64>().ok().filter(|value| *value >= -1).ok_or_else(malformed),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(format!("invalid value `{text}` for `--ulimit`: the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// A size in bytes with an optional unit, powers of 1024 (`64m`, `1.5g`, `1GiB`, `1000`).
pub(crate) fn size_bytes(flag: &str, text: &str) -> Result<u64, Mistake> {
    let malformed =
        || format!("invalid value `{text}` for `{flag}`: it should be a size such as `64m` or `1g`");
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits_end);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(malformed()),
    };
    let number: f64 = number.parse().map_err(|_| malformed())?;
    let bytes = number * f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift / 2));
    // Sizes beyond 2^53 bytes would no longer be exact, and are no sizes of anything here.
    if !(0.0..=9_007_199_254_740_992.0).contains(&bytes) {
        return Err(malformed());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the bounds were checked above"
    )]
    Ok(bytes as u64)
}

/// `--pull`: a policy, or what docker takes for the value of a switch.
pub(crate) fn pull_policy(text: &str) -> Result<PullPolicy, Mistake> {
    match text {
        "always" => Ok(PullPolicy::Always),
        "missing" | "ifnotpresent" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        "newer" | "ifnewer" => Ok(PullPolicy::Newer),
        // Registries are asked anyway.
        other if frontend::go_bool(other).is_some() => Ok(PullPolicy::Always),
        _ => Err("it should be `always`, `missing`, `never`, `newer`, `true` or `false`".to_owned()),
    }
}

/// `--network`.
pub(crate) fn network(text: &str) -> Result<NetworkMode, Mistake> {
    match text {
        "" | "default" => Ok(NetworkMode::Default),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        other => {
            Err(format!("invalid value `{other}` for `--network`: it should be `default`, `host` or `none`"))
        }
    }
}

/// `--label KEY[=VALUE]`, in the order that they were given, the last of a name winning.
pub(crate) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Mistake> {
    texts
        .iter()
        .map(|text| match text.split_once('=').unwrap_or((text, "")) {
            ("", _) => Err(format!("invalid value `{text}` for `--label`: it should be `KEY=VALUE`")),
            (key, value) => Ok((key.to_owned(), value.to_owned())),
        })
        .collect()
}

/// `--build-arg NAME[=VALUE]`, added to `found`: without a value it is what `environment` says, or nothing at all.
pub(crate) fn build_args(
    texts: &[String],
    environment: impl Fn(&str) -> Option<String>,
    found: &mut BTreeMap<String, String>,
) -> Result<(), Mistake> {
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment(text)),
        };
        if name.is_empty() {
            return Err(format!("invalid value `{text}` for `--build-arg`: it should be `NAME=VALUE`"));
        }
        match value {
            Some(value) => found.insert(name.to_owned(), value),
            None => found.remove(name),
        };
    }
    Ok(())
}

/// The lines of `--build-arg-file`, but those that are empty or a comment: `NAME=VALUE`.
pub(crate) fn build_arg_lines(
    path: &Path,
    text: &str,
) -> impl Iterator<Item = Result<(String, String), Mistake>> {
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).map(move |(line, number)| match line
        .split_once('=')
    {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "{}:{number}: `{line}` is no build argument: it should be `NAME=VALUE`",
            path.display()
        )),
    })
}

/// What a context flag or argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContextText {
    /// A directory.
    Directory(PathBuf),
    /// `-`.
    StandardInput,
    /// `docker-image://…`.
    Image(oci::ImageReference),
    /// `oci-layout://…`.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// `latest` where none was given.
        tag_or_digest: String,
    },
    /// A git repository or a URL.
    Remote(RemoteContext),
}

/// `--build-context NAME=SOURCE`.
pub(crate) fn build_context(text: &str) -> Result<(String, ContextText), Mistake> {
    let (name, source) = text
        .split_once('=')
        .filter(|(name, source)| !name.is_empty() && !source.is_empty())
        .ok_or_else(|| format!("invalid value `{text}` for `--build-context`: it should be `NAME=SOURCE`"))?;
    Ok((name.to_owned(), context(source)?))
}

/// A directory, `-`, `docker-image://…`, `oci-layout://…`, a git repository or a URL.
pub(crate) fn context(text: &str) -> Result<ContextText, Mistake> {
    if text == "-" {
        return Ok(ContextText::StandardInput);
    }
    if let Some(image) = text.strip_prefix("docker-image://") {
        let reference: oci::ImageReference =
            image.parse().map_err(|error| format!("invalid context `{text}`: {error}"))?;
        return Ok(ContextText::Image(reference.with_default_tag()));
    }
    if let Some(layout) = text.strip_prefix("oci-layout://") {
        return Ok(oci_layout(layout));
    }
    if text.starts_with("target:") {
        return Err(format!("a target as a context is not supported yet: `{text}`"));
    }
    match RemoteContext::parse(text) {
        // Some forms could be paths, too.
        Some(_) if !text.contains("://") && Path::new(text).is_dir() => {}
        Some(remote) => return Ok(ContextText::Remote(remote?)),
        None => {}
    }
    Ok(ContextText::Directory(PathBuf::from(text)))
}

/// `path[:tag][@digest]`; the digest wins.
fn oci_layout(text: &str) -> ContextText {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the path.
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[last_slash..].rfind(':') {
        Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
        None => (rest, None),
    };
    let tag_or_digest = digest.or(tag).unwrap_or("latest").to_owned();
    ContextText::OciLayout { path: PathBuf::from(path), tag_or_digest }
}

/// A limit of time as Go writes durations (`1h30m`, `90s`, `1.5s`): more than nothing.
pub(crate) fn time_limit(flag: &str, text: &str) -> Result<TimeLimit, Mistake> {
    match frontend::go_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(TimeLimit { duration, text: text.to_owned() }),
        _ => Err(format!(
            "invalid value `{text}` for `{flag}`: it should be a duration such as `90s` or `1h30m`"
        )),
    }
}

/// A duration of one number and one unit (`90s`, `30m`, `24h`, `7d`).
pub(crate) fn duration(text: &str) -> Result<Duration, Mistake> {
    let malformed = || format!("`{text}` is no duration: it should be a number and `s`, `m`, `h` or `d`");
    let unit = text.chars().last().ok_or_else(malformed)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(malformed()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| malformed())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(malformed)
}

/// `--platform`: the platforms of a comma-separated list, each once and normalised. `local`, or nothing, is this machine's.
pub(crate) fn platforms(text: Option<&str>) -> Result<Vec<Platform>, Mistake> {
    let mut platforms = Vec::new();
    for word in text.filter(|text| !text.is_empty()).unwrap_or(LOCAL).split(',') {
        let platform = match word {
            LOCAL => Platform::host(),
            word => word.parse().map_err(|error: oci::PlatformError| error.to_string())?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// The platform of this machine.
const LOCAL: &str = "local";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let extra_host = |text| super::extra_host(text, || "10.0.0.7".parse().ok());
        for text in ["a:1.2.3.4", "a=1.2.3.4"] {
            let host = extra_host(text).unwrap();
            assert_eq!((host.name.as_str(), host.address.as_str()), ("a", "1.2.3.4"));
        }
        for text in ["a:::1", "a:[::1]", "a=::1", "a=[::1]"] {
            assert_eq!(extra_host(text).unwrap().address, "::1", "{text}");
        }
        for text in ["a", "a:b", ":1.2.3.4", ":host-gateway"] {
            assert!(extra_host(text).is_err(), "{text}");
        }
        for text in ["a:host-gateway", "a=host-gateway"] {
            assert_eq!(extra_host(text).unwrap().address, "10.0.0.7", "{text}");
        }
        let without = super::extra_host("a:host-gateway", || None).unwrap_err();
        assert!(without.contains("this machine has no address"), "{without}");
    }

    #[test]
    fn limits() {
        let limit = |text| ulimit(text).map(|limit| (limit.name, limit.soft, limit.hard));
        assert_eq!(limit("nofile=1:2"), Ok(("nofile".to_owned(), 1, 2)));
        assert_eq!(limit("core=0"), Ok(("core".to_owned(), 0, 0)));
        assert_eq!(limit("core=5:unlimited"), Ok(("core".to_owned(), 5, -1)));
        for text in ["nofile", "nofile=", "nofile=x", "nofile=3:2", "files=1", "nofile=-1:5"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("1000", 1000),
            ("64m", 64 << 20),
            ("1.5K", 1536),
            ("2GiB", 2 << 30),
            ("1gb", 1 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(size_bytes("--shm-size", text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.2.3", "999999999t"] {
            assert!(size_bytes("--shm-size", text).is_err(), "{text}");
        }
    }

    #[test]
    fn arguments_without_a_value_come_from_the_environment() {
        let environment = |name: &str| (name == "SET").then(|| "here".to_owned());
        let texts = ["A=1", "B=", "SET", "UNSET", "C=x=y"].map(str::to_owned);
        let lines = build_arg_lines(Path::new("f"), "# of a file\n A=0\n\nD=d \n");
        let mut found = lines.collect::<Result<BTreeMap<_, _>, _>>().unwrap();
        build_args(&texts, environment, &mut found).unwrap();
        let expected = [("A", "1"), ("B", ""), ("C", "x=y"), ("D", "d"), ("SET", "here")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let wrong: Vec<_> = build_arg_lines(Path::new("f"), "A=\nB\n=c\n").filter_map(Result::err).collect();
        let expected =
            |number, line| format!("f:{number}: `{line}` is no build argument: it should be `NAME=VALUE`");
        assert_eq!(wrong, [expected(2, "B"), expected(3, "=c")]);
    }

    #[test]
    fn limits_of_time() {
        for (text, milliseconds) in [("1h30m", 5_400_000), ("90s", 90_000), ("1.5s", 1500)] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(time_limit("--timeout", text), Ok(TimeLimit { duration, text: text.to_owned() }));
        }
        for text in ["", "0", "0s", "-1s", "10", "1d", "x"] {
            assert!(time_limit("--timeout", text).unwrap_err().contains("for `--timeout`"), "{text}");
        }
    }

    #[test]
    fn contexts() {
        let layout =
            |path: &str, tag: &str| ContextText::OciLayout { path: path.into(), tag_or_digest: tag.into() };
        let digest = oci::Digest::sha256(b"");
        let cases = [
            ("a/b", ContextText::Directory("a/b".into())),
            ("./-", ContextText::Directory("./-".into())),
            ("-", ContextText::StandardInput),
            ("docker-image://a", ContextText::Image("a:latest".parse().unwrap())),
            ("oci-layout:///a/b", layout("/a/b", "latest")),
            ("oci-layout://a:1/b:v2", layout("a:1/b", "v2")),
        ];
        for (text, expected) in cases {
            assert_eq!(context(text), Ok(expected), "{text}");
        }
        assert_eq!(context(&format!("oci-layout://x:t@{digest}")), Ok(layout("x", digest.as_str())));
        assert!(matches!(context("https://example.org/x.tar"), Ok(ContextText::Remote(_))));
        assert!(context("target:x").unwrap_err().contains("not supported yet"));
        assert!(build_context("=x").is_err());
    }

    #[test]
    fn pull_policies() {
        for (text, expected) in [
            ("always", PullPolicy::Always),
            ("true", PullPolicy::Always),
            ("0", PullPolicy::Always),
            ("missing", PullPolicy::Missing),
            ("never", PullPolicy::Never),
            ("newer", PullPolicy::Newer),
        ] {
            assert_eq!(pull_policy(text), Ok(expected), "{text}");
        }
        assert!(pull_policy("sometimes").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("2").is_err() && duration("").is_err() && duration("h").is_err());
    }

    #[test]
    fn platforms_are_told_apart() {
        let read =
            |text| platforms(text).map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let host = Platform::host().to_string();
        assert_eq!(read(None), Ok(vec![host.clone()]));
        assert_eq!(read(Some("")), Ok(vec![host.clone()]));
        assert_eq!(read(Some("local,linux/s390x")), Ok(vec![host, "linux/s390x".to_owned()]));
        let several = ["linux/arm64", "linux/amd64", "linux/arm/v7"].map(str::to_owned).to_vec();
        let text = "linux/aarch64,linux/amd64,linux/arm64/v8,linux/arm,linux/x86_64/v1";
        assert_eq!(read(Some(text)), Ok(several));
        assert!(read(Some("linux/amd64,")).unwrap_err().contains("`` is not a platform"));
        assert!(read(Some("linux/amd64,nonsense")).unwrap_err().contains("`nonsense`"));
    }
}
