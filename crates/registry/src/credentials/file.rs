//! The files: which entry is for which registry or repository.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::{Credential, CredentialError};

/// Docker's name for docker.io in its config.json.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// What podman writes in the place of a helper, and means the file itself.
const NO_HELPER: &str = "containers-auth.json";

/// A file that was read.
pub(super) struct CredentialFile {
    pub(super) path: PathBuf,
    members: Members,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Members {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

/// An entry of `auths`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// A place in a file that may have a credential.
pub(super) enum Found<'a> {
    /// An entry, with its key.
    Entry(&'a str, &'a AuthEntry),
    /// `docker-credential-` and this.
    Helper(&'a str),
}

impl CredentialFile {
    /// Reads a file; `None` if there is none.
    pub(super) async fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let bytes = match tokio::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(CredentialError::Read { path: path.to_owned(), source }),
        };
        let members = serde_json::from_slice(&bytes)
            .map_err(|source| CredentialError::Parse { path: path.to_owned(), source })?;
        Ok(Some(Self { path: path.to_owned(), members }))
    }

    /// All that may have a credential for `repository` of `host`, the best first.
    pub(super) fn find(&self, host: &str, repository: &str) -> Vec<Found<'_>> {
        let Members { auths, creds_store, cred_helpers } = &self.members;
        let entry = |name: &str| find(auths, name).map(|(key, entry)| Found::Entry(key, entry));
        let mut found = Vec::new();
        let mut path = Some(repository).filter(|path| !path.is_empty());
        while let Some(part) = path {
            found.extend(entry(&format!("{host}/{part}")));
            path = part.rsplit_once('/').map(|(before, _)| before);
        }
        let helper = find(cred_helpers, host).map(|(_, name)| name.as_str());
        found.extend(helper.filter(|name| !matches!(*name, "" | NO_HELPER)).map(Found::Helper));
        found.extend(entry(host));
        found.extend(Some(creds_store.as_str()).filter(|name| !name.is_empty()).map(Found::Helper));
        found
    }
}

impl AuthEntry {
    /// What it has; `None` where all of it is empty, as docker leaves it where a helper has the secret.
    pub(super) fn credential(&self, path: &Path, key: &str) -> Result<Option<Credential>, CredentialError> {
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

/// What docker calls `host` in its file and towards helpers.
pub(super) fn docker_key(host: &str) -> &str {
    if is_docker_hub(host) { DOCKER_HUB_KEY } else { host }
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The entry of `name` (`host` or `host/path`): by docker's own key first, then by the name itself, else by a key that
/// means the same.
fn find<'a, T>(entries: &'a BTreeMap<String, T>, name: &str) -> Option<(&'a str, &'a T)> {
    let exact = entries.get_key_value(docker_key(name)).or_else(|| entries.get_key_value(name));
    let entry = exact.or_else(|| {
        let wanted = normalised(name);
        entries.iter().find(|(key, _)| normalised(key) == wanted)
    });
    entry.map(|(key, value)| (key.as_str(), value))
}

/// What a key means: `host`, or `host/path`. The path of a URL means nothing (`https://host/v1/`), as with docker.
fn normalised(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = match without_scheme {
        Some(rest) => (rest.split('/').next().unwrap_or(rest), ""),
        None => key.split_once('/').unwrap_or((key, "")),
    };
    let host = if is_docker_hub(host) { "docker.io" } else { host };
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(json: &str, host: &str, repository: &str) -> Vec<String> {
        let file = CredentialFile { path: "/f".into(), members: serde_json::from_str(json).unwrap() };
        let name = |found: Found<'_>| match found {
            Found::Entry(key, _) => key.to_owned(),
            Found::Helper(name) => format!("({name})"),
        };
        file.find(host, repository).into_iter().map(name).collect()
    }

    #[test]
    fn the_longest_path_goes_first() {
        let json = r#"{
            "auths": {"r.example/a/b/c": {}, "r.example/a": {}, "r.example/x": {}, "https://r.example": {}},
            "credHelpers": {"r.example": "one"},
            "credsStore": "all"
        }"#;
        let expected = ["r.example/a/b/c", "r.example/a", "(one)", "https://r.example", "(all)"];
        assert_eq!(keys(json, "r.example", "a/b/c"), expected);
        assert_eq!(keys(json, "r.example", "a/b"), expected[1..]);
        assert_eq!(keys(json, "r.example", "ab"), expected[2..]);
        assert_eq!(keys(json, "other", "a/b"), ["(all)"]);
    }

    #[test]
    fn old_keys_are_known() {
        for key in
            ["r.example", "https://r.example", "http://r.example/v1/", "r.example/v2/", "https://r.example/x"]
        {
            let json = format!(r#"{{"auths": {{"{key}": {{}}}}}}"#);
            assert_eq!(keys(&json, "r.example", "a"), [key]);
            assert_eq!(keys(&json, "r.example:5000", "a"), [""; 0]);
        }
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io/v2/"]
        {
            let json = format!(r#"{{"auths": {{"{key}": {{}}}}}}"#);
            assert_eq!(keys(&json, "docker.io", "library/a"), [key]);
        }
        let json = r#"{"auths": {"docker.io/me": {}, "docker.io": {}}, "credHelpers": {"docker.io": "containers-auth.json"}}"#;
        assert_eq!(keys(json, "docker.io", "me/a"), ["docker.io/me", "docker.io"]);
        assert_eq!(keys(json, "docker.io", "library/a"), ["docker.io"]);
    }
}
