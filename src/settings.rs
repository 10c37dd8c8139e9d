//! What the environment and configuration files say.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use cache::{DiskSize, HistoryBounds, SpaceBounds};
use registry::{ClientOptions, CredentialStore, HostConfigs, Proxies, SYSTEM_CA_FILES};
use serde::Deserialize;
use worker::{DefaultNetwork, GitOptions};

use crate::entitlements::DeviceSettings;
use crate::network::NetworkSetting;
use crate::progress::{LogLimits, Look, Palette};
use crate::report::{Failure, FailureKind};

/// How many lines of output a running step has in the live view, unless a variable says otherwise.
const TTY_LOG_LINES: usize = 6;
/// More are never kept.
const MOST_TTY_LOG_LINES: usize = 1000;

/// `config.toml`, which has the form of buildkitd.toml. Tables that have no meaning here are passed over, so that one
/// file can serve both.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    registry: HostConfigs,
    #[serde(default)]
    cdi: DeviceSettings,
    #[serde(default)]
    worker: Workers,
    #[serde(default)]
    history: History,
    #[serde(default)]
    transfers: TransferSettings,
}

/// How much of the history of builds is kept.
#[derive(Debug, Default, Deserialize)]
struct History {
    /// Seconds, or `48h`.
    #[serde(default, rename = "maxAge", deserialize_with = "duration")]
    max_age: Option<Duration>,
    #[serde(default, rename = "maxEntries")]
    max_entries: Option<usize>,
}

/// `[transfers]`: how the network is used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TransferSettings {
    /// How often a failed request is repeated.
    retries: Option<u32>,
    /// The pause before the first repetition; it doubles with each further one.
    #[serde(default, deserialize_with = "duration")]
    retry_delay: Option<Duration>,
    /// How many blobs are fetched at once from one registry.
    max_downloads: Option<usize>,
    /// How many blobs are pushed at once to one registry.
    max_uploads: Option<usize>,
    /// The longest time without a byte.
    #[serde(default, deserialize_with = "duration")]
    idle_timeout: Option<Duration>,
}

impl TransferSettings {
    fn apply(&self, mut options: ClientOptions) -> ClientOptions {
        let ClientOptions { retry, limits, idle_timeout, .. } = &mut options;
        retry.attempts = self.retries.map_or(retry.attempts, |retries| retries.saturating_add(1));
        retry.first_delay = self.retry_delay.unwrap_or(retry.first_delay);
        limits.downloads = self.max_downloads.unwrap_or(limits.downloads);
        limits.uploads = self.max_uploads.unwrap_or(limits.uploads);
        *idle_timeout = self.idle_timeout.unwrap_or(*idle_timeout);
        options
    }
}

/// The workers of buildkitd; this program is as `oci` is.
#[derive(Debug, Default, Deserialize)]
struct Workers {
    #[serde(default)]
    oci: OciWorker,
}

#[derive(Debug, Default, Deserialize)]
struct OciWorker {
    #[serde(default, rename = "networkMode")]
    network_mode: NetworkSetting,
    gc: Option<bool>,
    #[serde(default, flatten)]
    bounds: Bounds,
    #[serde(default)]
    gcpolicy: Vec<GcRule>,
}

/// When the store is kept in bounds, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GarbageCollection {
    /// Whether builds start it.
    pub(crate) enabled: bool,
    /// The bounds of the rules that hold where none are set.
    pub(crate) bounds: Bounds,
    /// Rules, in the order in which they are gone by.
    pub(crate) rules: Vec<GcRule>,
}

/// `[[worker.oci.gcpolicy]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GcRule {
    /// What is meant; empty: everything.
    #[serde(default)]
    pub(crate) filters: Vec<String>,
    /// Only what was not used for that long: seconds, or `48h`.
    #[serde(default, rename = "keepDuration", deserialize_with = "duration")]
    pub(crate) keep_duration: Option<Duration>,
    #[serde(default, flatten)]
    pub(crate) bounds: Bounds,
}

/// Bounds of the space that the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Bounds {
    #[serde(default, rename = "reservedSpace", alias = "keepBytes")]
    reserved: Option<Space>,
    #[serde(default, rename = "maxUsedSpace")]
    max_used: Option<Space>,
    #[serde(default, rename = "minFreeSpace")]
    min_free: Option<Space>,
}

impl Bounds {
    /// The bounds in bytes.
    pub(crate) fn on(self, disk: DiskSize) -> SpaceBounds {
        let bytes = |space: Option<Space>| {
            space.map(|space| match space {
                Space::Bytes(bytes) => bytes,
                Space::Percent(hundredths) => disk.percent(hundredths),
            })
        };
        SpaceBounds {
            reserved: bytes(self.reserved),
            max_used: bytes(self.max_used),
            min_free: bytes(self.min_free),
        }
    }
}

/// A number of bytes, a size (`512MB`) or a part of the disk (`10%`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
enum Space {
    Bytes(u64),
    Percent(u64),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for Space {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, String> {
        match value {
            NumberOrText::Number(bytes) => Ok(Self::Bytes(bytes)),
            NumberOrText::Text(text) => match text.trim().strip_suffix('%') {
                Some(number) => {
                    let number: u64 =
                        number.trim().parse().map_err(|_| format!("`{text}` is no part of a disk"))?;
                    if number > 100 {
                        return Err(format!("`{text}` is more than the disk"));
                    }
                    Ok(Self::Percent(number))
                }
                None => crate::values::size_bytes("a bound of the space", &text).map(Self::Bytes),
            },
        }
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(seconds) => Ok(Some(Duration::from_secs(seconds))),
        NumberOrText::Text(text) => {
            crate::values::duration(&text).map(Some).map_err(serde::de::Error::custom)
        }
    }
}

/// The parts of docker's `config.json` that are not credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    proxies: BTreeMap<String, DockerProxies>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
    current_context: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "they are docker's")]
struct DockerProxies {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
    ftp_proxy: Option<String>,
    all_proxy: Option<String>,
}

/// What git gets of the environment.
const GIT_VARIABLES: [&str; 14] = [
    "PATH",
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSH_COMMAND",
    "SSH_AUTH_SOCK",
    "TMPDIR",
];

/// The environment of the program, so that everything that depends on it is in one place.
pub(crate) struct Environment;

impl Environment {
    /// A variable that is set and not empty.
    pub(crate) fn path(name: &str) -> Option<PathBuf> {
        std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A variable's text, if it is set; empty counts.
    pub(crate) fn text(name: &str) -> Option<String> {
        std::env::var_os(name).and_then(|value: OsString| value.into_string().ok())
    }

    /// A variable's bytes, if it is set.
    pub(crate) fn bytes(name: &str) -> Option<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt as _;
        std::env::var_os(name).map(OsString::into_vec)
    }

    fn home() -> Option<PathBuf> {
        Self::path("HOME")
    }

    /// The directory of the store.
    pub(crate) fn store_root(flag: Option<PathBuf>) -> Result<PathBuf, Failure> {
        if let Some(root) = flag {
            return absolute(&root);
        }
        // Inside a user namespace one is root of nothing that matters: what counts is who called the program.
        if rustix::process::geteuid().is_root() && !in_user_namespace() {
            return Ok(PathBuf::from("/var/lib/rbuild"));
        }
        // The base directory specification has relative paths ignored.
        let data = Self::path("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = data.or_else(|| Some(Self::home()?.join(".local/share")));
        data.map(|data| data.join("rbuild")).ok_or_else(|| {
            Failure::new(FailureKind::Environment, "cannot tell where to keep the store: HOME is not set")
                .with_hint("name a directory with `--root`")
        })
    }

    /// The snapshotter that is asked for; tests run with each.
    pub(crate) fn snapshotter() -> Result<Option<cache::SnapshotterKind>, Failure> {
        match Self::text("RBUILD_SNAPSHOTTER").as_deref() {
            None | Some("") => Ok(None),
            Some("overlay") => Ok(Some(cache::SnapshotterKind::Overlay)),
            Some("copy") => Ok(Some(cache::SnapshotterKind::Copy)),
            Some(other) => Err(Failure::usage(format!(
                "invalid value `{other}` for RBUILD_SNAPSHOTTER: it should be `overlay` or `copy`"
            ))),
        }
    }

    /// Whether files may be hard links between snapshots; tests run with and without.
    pub(crate) fn links() -> Result<cache::LinkPolicy, Failure> {
        match Self::text("RBUILD_LINKS").as_deref() {
            None | Some("" | "on") => Ok(cache::LinkPolicy::Allowed),
            Some("off") => Ok(cache::LinkPolicy::Never),
            Some(other) => Err(Failure::usage(format!(
                "invalid value `{other}` for RBUILD_LINKS: it should be `on` or `off`"
            ))),
        }
    }

    /// How much of a step's output is shown. As with BuildKit, -1 is no limit; unlike there, so is nothing at all.
    pub(crate) fn log_limits() -> Result<LogLimits, Failure> {
        let limit = |name: &str| match Self::text(name).as_deref() {
            None | Some("" | "-1") => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                Failure::usage(format!(
                    "invalid value `{text}` for {name}: it should be a number of bytes, or -1"
                ))
            }),
        };
        Ok(LogLimits {
            size_bytes: limit("BUILDKIT_STEP_LOG_MAX_SIZE")?,
            bytes_per_second: limit("BUILDKIT_STEP_LOG_MAX_SPEED")?,
        })
    }

    /// Whether the terminal only takes lines.
    pub(crate) fn has_dumb_terminal() -> bool {
        Self::text("TERM").is_none_or(|name| name.is_empty() || name == "dumb")
    }

    /// What the live view looks like: `NO_COLOR` (no-color.org), and BuildKit's variables. What they say wrong is passed
    /// over, as BuildKit does.
    pub(crate) fn look() -> Look {
        let given = |name: &str| Self::text(name).filter(|text| !text.is_empty());
        let palette = match (given("NO_COLOR"), given("BUILDKIT_COLORS")) {
            (Some(_), _) => Palette::none(),
            (None, Some(text)) => Palette::read(&text),
            (None, None) => Palette::usual(),
        };
        let lines = given("BUILDKIT_TTY_LOG_LINES").and_then(|text| text.parse().ok());
        Look {
            palette,
            log_lines: lines.filter(|lines| *lines > 0).unwrap_or(TTY_LOG_LINES).min(MOST_TTY_LOG_LINES),
        }
    }

    /// Where docker's client keeps its configuration.
    pub(crate) fn docker_directory() -> Option<PathBuf> {
        Self::path("DOCKER_CONFIG").or_else(|| Some(Self::home()?.join(".docker")))
    }

    /// The docker context that is in use, if one was chosen.
    pub(crate) fn docker_context() -> Result<Option<String>, Failure> {
        let chosen = Self::text("DOCKER_CONTEXT").filter(|name| !name.is_empty());
        let chosen = match chosen {
            Some(name) => Some(name),
            None => Self::docker_config()?.current_context,
        };
        Ok(chosen.filter(|name| !name.is_empty() && name != "default"))
    }

    /// Whether this process is in a user namespace, in which it may be root of nothing that matters.
    pub(crate) fn is_in_user_namespace() -> bool {
        in_user_namespace()
    }

    fn docker_config_path() -> Option<PathBuf> {
        Some(Self::docker_directory()?.join("config.json"))
    }

    fn docker_config() -> Result<DockerConfig, Failure> {
        let Some(path) = Self::docker_config_path() else { return Ok(DockerConfig::default()) };
        let Some(text) = read_optional(&path)? else { return Ok(DockerConfig::default()) };
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))
    }

    /// The credential helpers that docker's `config.json` names (`docker-credential-NAME`).
    pub(crate) fn credential_helpers() -> Result<BTreeSet<String>, Failure> {
        let config = Self::docker_config()?;
        let names = config.cred_helpers.into_values().chain(config.creds_store);
        Ok(names.filter(|name| !name.is_empty()).collect())
    }

    /// How to speak to registries.
    pub(crate) fn client_options() -> Result<ClientOptions, Failure> {
        let either = |lower: &str, upper: &str| {
            Self::text(lower).or_else(|| Self::text(upper)).filter(|v| !v.is_empty())
        };
        let ca_files = match Self::path("SSL_CERT_FILE") {
            Some(path) => vec![path],
            None => SYSTEM_CA_FILES.iter().map(PathBuf::from).collect(),
        };
        let options = ClientOptions {
            hosts: config()?.registry.clone(),
            credentials: CredentialStore::files(Self::credential_files()),
            user_agent: format!("rbuild/{}", env!("CARGO_PKG_VERSION")),
            proxies: Proxies {
                http: either("http_proxy", "HTTP_PROXY"),
                https: either("https_proxy", "HTTPS_PROXY"),
                no_proxy: either("no_proxy", "NO_PROXY"),
            },
            ca_files,
            certificate_directories: Self::certificate_directories(),
            ..ClientOptions::default()
        };
        Ok(config()?.transfers.apply(options))
    }

    /// Where credentials are looked for: in the file of `REGISTRY_AUTH_FILE` alone, else in docker's `config.json`, then
    /// where podman, buildah and skopeo keep theirs.
    fn credential_files() -> Vec<PathBuf> {
        if let Some(path) = Self::path("REGISTRY_AUTH_FILE") {
            return vec![path];
        }
        let runtime = Self::path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers"));
        let runtime = runtime.or_else(|| {
            // What the id means inside a user namespace is another's.
            let user = (!in_user_namespace()).then(rustix::process::getuid)?;
            Some(PathBuf::from(format!("/run/containers/{}", user.as_raw())))
        });
        let own = Self::config_home().map(|directory| directory.join("containers"));
        let containers = [runtime, own].into_iter().flatten().map(|directory| directory.join("auth.json"));
        Self::docker_config_path().into_iter().chain(containers).collect()
    }

    /// Where docker, podman and their like look for the certificates of registries.
    fn certificate_directories() -> Vec<PathBuf> {
        let own = Self::config_home();
        let of = |name: &str| own.as_ref().map(|directory| directory.join(name));
        let machine = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from);
        machine.into_iter().chain(of("docker/certs.d")).chain(of("containers/certs.d")).collect()
    }

    fn config_home() -> Option<PathBuf> {
        Self::path("XDG_CONFIG_HOME").or_else(|| Some(Self::home()?.join(".config")))
    }

    /// The network of steps that ask for none in particular.
    pub(crate) fn default_network() -> Result<DefaultNetwork, Failure> {
        let setting = config()?.worker.oci.network_mode;
        Ok(setting.default_network(std::env::var_os("PATH").as_deref()))
    }

    /// What the configuration says of devices.
    pub(crate) fn device_settings() -> Result<DeviceSettings, Failure> {
        Ok(config()?.cdi.clone())
    }

    /// How to run git: with this machine's programs, proxies, certificates and ssh agent, and no other configuration.
    pub(crate) fn git_options() -> GitOptions {
        let mut environment: BTreeMap<OsString, OsString> = GIT_VARIABLES
            .iter()
            .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
            .collect();
        if let Some(path) = Self::path("SSL_CERT_FILE") {
            environment.entry("GIT_SSL_CAINFO".into()).or_insert_with(|| path.into());
        }
        GitOptions { environment }
    }

    /// How the store is kept in bounds.
    pub(crate) fn garbage_collection() -> Result<GarbageCollection, Failure> {
        let OciWorker { gc, bounds, gcpolicy, .. } = &config()?.worker.oci;
        Ok(GarbageCollection { enabled: gc.unwrap_or(true), bounds: *bounds, rules: gcpolicy.clone() })
    }

    /// How much of the history of builds is kept.
    pub(crate) fn history_bounds() -> Result<HistoryBounds, Failure> {
        let History { max_age, max_entries } = config()?.history;
        let default = HistoryBounds::default();
        Ok(HistoryBounds { builds: max_entries.unwrap_or(default.builds), age: max_age, ..default })
    }

    /// Where emulators for programs of other platforms are looked for: in the directories of `RBUILD_EMULATORS`, else in
    /// those of `PATH` and where distributions put them.
    pub(crate) fn emulator_directories() -> Vec<PathBuf> {
        if let Some(own) = std::env::var_os("RBUILD_EMULATORS") {
            return std::env::split_paths(&own).collect();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(["/usr/local/bin", "/usr/bin"].map(PathBuf::from)).collect()
    }

    /// The proxies of docker's `config.json` as build arguments: those of the daemon that docker would speak to, else
    /// those of all.
    pub(crate) fn proxy_args() -> Result<BTreeMap<String, String>, Failure> {
        let daemon = Self::docker_host();
        Ok(Self::docker_config()?.proxy_args(daemon.as_deref().unwrap_or(DOCKER_DAEMON)))
    }

    /// The docker engine that `DOCKER_HOST` names.
    pub(crate) fn docker_host() -> Option<String> {
        Self::text("DOCKER_HOST").filter(|host| !host.is_empty())
    }
}

/// Where docker's daemon is unless something says otherwise.
pub(crate) const DOCKER_DAEMON: &str = "unix:///var/run/docker.sock";

impl DockerConfig {
    fn proxy_args(&self, daemon: &str) -> BTreeMap<String, String> {
        let proxies = self.proxies.get(daemon).or_else(|| self.proxies.get("default"));
        proxies.map(DockerProxies::arguments).unwrap_or_default()
    }
}

impl DockerProxies {
    fn arguments(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("HTTP_PROXY", &self.http_proxy),
            ("HTTPS_PROXY", &self.https_proxy),
            ("NO_PROXY", &self.no_proxy),
            ("FTP_PROXY", &self.ftp_proxy),
            ("ALL_PROXY", &self.all_proxy),
        ];
        let mut arguments = BTreeMap::new();
        for (name, value) in pairs {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                arguments.insert(name.to_owned(), value.clone());
                arguments.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        arguments
    }
}

/// A namespace that maps all ids to themselves is the machine's own.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let mut words = map.split_whitespace();
        (words.next(), words.next(), words.next()) != (Some("0"), Some("0"), Some("4294967295"))
    })
}

/// The configuration, read once.
fn config() -> Result<&'static ConfigFile, Failure> {
    static CONFIG: OnceLock<ConfigFile> = OnceLock::new();
    match CONFIG.get() {
        Some(config) => Ok(config),
        None => read_config().map(|config| CONFIG.get_or_init(|| config)),
    }
}

fn read_config() -> Result<ConfigFile, Failure> {
    if let Some(path) = Environment::path("RBUILD_CONFIG") {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))?;
        return parse_config(&path, &text);
    }
    let candidates = Environment::config_home()
        .map(|directory| directory.join("rbuild/config.toml"))
        .into_iter()
        .chain([PathBuf::from("/etc/rbuild/config.toml")]);
    for path in candidates {
        if let Some(text) = read_optional(&path)? {
            return parse_config(&path, &text);
        }
    }
    Ok(ConfigFile::default())
}

fn parse_config(path: &Path, text: &str) -> Result<ConfigFile, Failure> {
    toml::from_str(text).map_err(|error| {
        Failure::usage(format!("`{}` is not right: {}", path.display(), error.to_string().trim_end()))
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // Other users' files (root's home, seen from a namespace) are none of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Failure::usage(format!("cannot read `{}`: {error}", path.display()))),
    }
}

/// `path` from the root directory on.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(FailureKind::Environment, format!("cannot tell where `{}` is: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_in_buildkits_form_is_read() {
        let text =
            "debug = true\n[worker.oci]\n  gc = false\n[registry.\"docker.io\"]\n  mirrors = [\"m:5000\"]\n";
        let config = parse_config(Path::new("x"), text).unwrap();
        assert_eq!(config.registry.host("docker.io").mirrors, ["m:5000"]);
        assert_eq!(config.worker.oci.network_mode, NetworkSetting::Auto);
        let text = "[worker.oci]\n  networkMode = \"none\"\n";
        let config = parse_config(Path::new("x"), text).unwrap();
        assert_eq!(config.worker.oci.network_mode, NetworkSetting::None);
        let failure = parse_config(Path::new("x"), &text.replace("none", "cni")).unwrap_err().render();
        assert!(failure.contains("`auto`, `pasta`, `host`, `none`"), "{failure}");
        let failure = parse_config(Path::new("x"), "[registry.\"a\"]\nmirors = []\n").unwrap_err();
        assert!(failure.render().contains("`x` is not right"), "{}", failure.render());
        assert_eq!(failure.exit_code(), 2);
    }

    #[test]
    fn the_bounds_of_the_store_are_read_as_buildkitd_reads_them() {
        let text = r#"
            [worker.oci]
              gc = false
              reservedSpace = "10%"
              maxUsedSpace = 1000
            [[worker.oci.gcpolicy]]
              keepBytes = "512MB"
              keepDuration = 172800
              filters = ["type==source.local", "type==exec.cachemount"]
            [[worker.oci.gcpolicy]]
              all = true
              keepDuration = "48h"
              minFreeSpace = "20GB"
        "#;
        let OciWorker { gc, bounds, gcpolicy, .. } = parse_config(Path::new("x"), text).unwrap().worker.oci;
        assert_eq!(gc, Some(false));
        let disk = DiskSize(100 << 30);
        let expected = SpaceBounds { reserved: Some(11_000_000_000), max_used: Some(1000), min_free: None };
        assert_eq!(bounds.on(disk), expected);
        let two_days = Some(Duration::from_secs(172_800));
        assert_eq!((gcpolicy[0].keep_duration, gcpolicy[1].keep_duration), (two_days, two_days));
        assert_eq!(gcpolicy[0].filters.len(), 2);
        assert_eq!(gcpolicy[0].bounds.on(disk).reserved, Some(512 << 20));
        assert_eq!(gcpolicy[1].bounds.on(disk).min_free, Some(20 << 30));
        for wrong in ["maxUsedSpace = \"110%\"", "maxUsedSpace = \"much\"", "gc = 3"] {
            let failure = parse_config(Path::new("x"), &format!("[worker.oci]\n{wrong}\n")).unwrap_err();
            assert!(failure.render().contains("`x` is not right"), "{}", failure.render());
        }
    }

    #[test]
    fn dockers_proxies_become_arguments_in_both_spellings() {
        let text = r#"{"auths":{},"proxies":{"default":{"httpProxy":"http://p:1","noProxy":""},
            "tcp://a:2375":{"allProxy":"http://q:2","ftpProxy":"http://r:3"}}}"#;
        let config: DockerConfig = serde_json::from_str(text).unwrap();
        let expected = |pairs: &[(&str, &str)]| {
            let both = |(name, value): &(&str, &str)| {
                [name.to_ascii_uppercase(), name.to_ascii_lowercase()].map(|name| (name, (*value).to_owned()))
            };
            pairs.iter().flat_map(both).collect::<BTreeMap<String, String>>()
        };
        assert_eq!(config.proxy_args(DOCKER_DAEMON), expected(&[("http_proxy", "http://p:1")]));
        let own = expected(&[("all_proxy", "http://q:2"), ("ftp_proxy", "http://r:3")]);
        assert_eq!(config.proxy_args("tcp://a:2375"), own);
    }
}
