//! Credentials out of files in docker's form: docker's `config.json`, and the `auth.json` of podman, buildah and skopeo.

mod file;
mod helper;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use file::{CredentialFile, Found};
use helper::Program;

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
    /// The file is not what docker, podman and others write.
    #[error("`{}` is not a file of credentials", path.display())]
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
    /// There is no such helper.
    #[error("there is no credential helper `{helper}` in PATH, and `{}` names it", path.display())]
    NoHelper {
        /// The program.
        helper: String,
        /// The file that names it.
        path: PathBuf,
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

impl CredentialError {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoHelper { helper, path } => {
                let name = helper.strip_prefix("docker-credential-").unwrap_or(helper);
                Some(format!("install `{helper}`, or take `{name}` out of `{}`", path.display()))
            }
            Self::Auth { .. } => Some("log in again: `docker login`".to_owned()),
            _ => None,
        }
    }
}

/// Where credentials come from. Nothing is read before a registry asks for them.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    files: Vec<PathBuf>,
    fixed: BTreeMap<String, Credential>,
    everywhere: Option<Credential>,
    search_path: Option<OsString>,
}

impl CredentialStore {
    /// No credentials at all.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Those of `files` (none of them need exist). The first file that has one for a registry counts; within a file
    /// `credHelpers` go before `auths` and these before `credsStore`, save that an entry of `auths` for a repository or a
    /// part of its path (`registry.example.com/team`) goes before all.
    pub fn files(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::default() }
    }

    /// The same, with `credential` for `host` (`docker.io`, `localhost:5000`) whatever the files say.
    #[must_use]
    pub fn fixed(mut self, host: &str, credential: Credential) -> Self {
        self.fixed.insert(host.to_owned(), credential);
        self
    }

    /// The same, with another `PATH` to look for helpers in than the process has.
    #[must_use]
    pub fn search_path(mut self, path: OsString) -> Self {
        self.search_path = Some(path);
        self
    }

    /// The same, with `credential` for every host that wants one.
    #[must_use]
    pub fn everywhere(mut self, credential: Credential) -> Self {
        self.everywhere = Some(credential);
        self
    }
}

/// Looks credentials up: each file is read once, each helper asked once for a host.
pub(crate) struct Credentials {
    store: CredentialStore,
    files: OnceCell<Vec<CredentialFile>>,
    /// By program and key.
    answers: Mutex<HashMap<(String, String), Answer>>,
}

/// What a helper said, once it did.
type Answer = Arc<OnceCell<Option<Credential>>>;

impl Credentials {
    pub(crate) fn new(store: CredentialStore) -> Self {
        Self { store, files: OnceCell::new(), answers: Mutex::new(HashMap::new()) }
    }

    /// The credential for `repository` of `host`, or `None` where there is none.
    pub(crate) async fn get(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        if let Some(credential) = self.store.fixed.get(host).or(self.store.everywhere.as_ref()) {
            return Ok(Some(credential.clone()));
        }
        for file in self.files.get_or_try_init(|| read(&self.store.files)).await? {
            for found in file.find(host, repository) {
                let credential = match found {
                    Found::Entry(key, entry) => entry.credential(&file.path, key)?,
                    Found::Helper(name) => self.ask(file, name, file::docker_key(host)).await?,
                };
                if credential.is_some() {
                    return Ok(credential);
                }
            }
        }
        Ok(None)
    }

    async fn ask(
        &self,
        file: &CredentialFile,
        name: &str,
        key: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let answer = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry((name.to_owned(), key.to_owned())).or_default())
        };
        let program = Program { name, named_by: &file.path, search_path: self.store.search_path.as_deref() };
        answer.get_or_try_init(|| helper::ask(&program, key)).await.cloned()
    }
}

async fn read(paths: &[PathBuf]) -> Result<Vec<CredentialFile>, CredentialError> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(CredentialFile::read(path).await?);
    }
    Ok(files)
}
