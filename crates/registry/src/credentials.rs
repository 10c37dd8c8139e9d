//! Credentials out of docker's config.json: `auths`, `credHelpers`, `credsStore`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

/// Docker's name for docker.io in its config.json.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Something to authenticate with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password.
    Password {
        /// The user name.
        username: String,
        /// The password, or a personal access token.
        password: String,
    },
    /// A refresh token of the registry's token service.
    IdentityToken(String),
    /// A token that goes into requests as it is.
    RegistryToken(String),
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { username, .. } => {
                f.debug_struct("Password").field("username", username).finish()
            }
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what docker writes.
    #[error("`{}` is not a docker configuration", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` member is not base64 of `user:password`.
    #[error("the `auth` of `{key}` in `{}` is not base64 of `user:password`", path.display())]
    Auth {
        /// The file.
        path: PathBuf,
        /// The key of the entry.
        key: String,
    },
    /// A helper cannot be run.
    #[error("cannot run the credential helper `{helper}`")]
    Helper {
        /// The program.
        helper: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A helper failed.
    #[error("the credential helper `{helper}` failed: {message}")]
    HelperFailed {
        /// The program.
        helper: String,
        /// What it wrote.
        message: String,
    },
}

/// Where credentials come from. Nothing is read before a registry asks for them.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    docker_config: Option<PathBuf>,
    fixed: BTreeMap<String, Credential>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl CredentialError {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Helper { helper, .. } => {
                let name = helper.strip_prefix("docker-credential-").unwrap_or(helper);
                Some(format!("install `{helper}`, or take `{name}` out of `credsStore` and `credHelpers`"))
            }
            Self::Auth { .. } => Some("log in again: `docker login`".to_owned()),
            Self::Read { .. } | Self::Parse { .. } | Self::HelperFailed { .. } => None,
        }
    }
}

impl CredentialStore {
    /// No credentials at all.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Those of docker's configuration at `path` (a file; it need not exist).
    pub fn docker_config(path: impl Into<PathBuf>) -> Self {
        Self { docker_config: Some(path.into()), fixed: BTreeMap::new() }
    }

    /// The same, with `credential` for `host` (`docker.io`, `localhost:5000`) whatever the file says.
    #[must_use]
    pub fn fixed(mut self, host: &str, credential: Credential) -> Self {
        self.fixed.insert(host.to_owned(), credential);
        self
    }

    /// The credential for `host`, or `None` where there is none.
    pub(crate) async fn get(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(credential) = self.fixed.get(host) {
            return Ok(Some(credential.clone()));
        }
        let Some(path) = &self.docker_config else { return Ok(None) };
        let config = match tokio::fs::read(path).await {
            Ok(bytes) => parse(path.clone(), &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialError::Read { path: path.clone(), source }),
        };
        let key = docker_key(host);
        if let Some((_, helper)) = find(&config.cred_helpers, host) {
            return ask_helper(helper, key).await;
        }
        if let Some((entry_key, entry)) = find(&config.auths, host)
            && let Some(credential) = entry.credential(path, entry_key)?
        {
            return Ok(Some(credential));
        }
        if config.creds_store.is_empty() {
            return Ok(None);
        }
        ask_helper(&config.creds_store, key).await
    }
}

impl AuthEntry {
    fn credential(&self, path: &std::path::Path, key: &str) -> Result<Option<Credential>, CredentialError> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken.clone())));
        }
        if !self.auth.is_empty() {
            let malformed = || CredentialError::Auth { path: path.to_owned(), key: key.to_owned() };
            let text = self.auth.trim().trim_end_matches('=');
            let bytes =
                base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).map_err(|_| malformed())?;
            let text = String::from_utf8(bytes).map_err(|_| malformed())?;
            let (username, password) = text.split_once(':').ok_or_else(malformed)?;
            // Docker has written a trailing NUL into old files, and strips it when it reads.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credential::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            }));
        }
        if self.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password { username: self.username.clone(), password: self.password.clone() }))
    }
}

fn parse(path: PathBuf, bytes: &[u8]) -> Result<DockerConfig, CredentialError> {
    serde_json::from_slice(bytes).map_err(|source| CredentialError::Parse { path, source })
}

/// What docker calls `host` in its file and towards helpers.
fn docker_key(host: &str) -> &str {
    if is_docker_hub(host) { DOCKER_HUB_KEY } else { host }
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The entry of `host`: by docker's own key first, else by a key that differs in scheme and path alone.
fn find<'a, T>(entries: &'a BTreeMap<String, T>, host: &str) -> Option<(&'a str, &'a T)> {
    let exact = entries.get_key_value(docker_key(host)).or_else(|| entries.get_key_value(host));
    let entry = exact.or_else(|| {
        entries.iter().find(|(key, _)| {
            let key_host = host_of_key(key);
            key_host == host || (is_docker_hub(host) && is_docker_hub(key_host))
        })
    });
    entry.map(|(key, value)| (key.as_str(), value))
}

fn host_of_key(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// Runs `docker-credential-<name> get`: the key on standard input, JSON on standard output.
async fn ask_helper(name: &str, key: &str) -> Result<Option<Credential>, CredentialError> {
    let helper = format!("docker-credential-{name}");
    let not_run = |source| CredentialError::Helper { helper: helper.clone(), source };
    let mut child = tokio::process::Command::new(&helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(not_run)?;
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A helper that answers without reading its input breaks the pipe, which does not matter.
    let _ = stdin.write_all(key.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(not_run)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if stdout.contains("credentials not found") {
            return Ok(None);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("{} {}", stdout.trim(), stderr.trim()).trim().to_owned();
        return Err(CredentialError::HelperFailed { helper, message });
    }
    let answer: HelperAnswer = serde_json::from_str(&stdout).map_err(|error| {
        // The text holds a secret, so only the parser's words are passed on.
        CredentialError::HelperFailed { helper, message: format!("its answer is not JSON: {error}") }
    })?;
    if answer.username == TOKEN_USER {
        return Ok(Some(Credential::IdentityToken(answer.secret)));
    }
    Ok(Some(Credential::Password { username: answer.username, password: answer.secret }))
}
