//! Programs that keep credentials (docker-credential-helpers).

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::{Credential, CredentialError};

/// The user name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// A helper.
pub(super) struct Program<'a> {
    /// What comes after `docker-credential-`.
    pub(super) name: &'a str,
    /// The file that names it.
    pub(super) named_by: &'a Path,
    /// In the place of the process's own `PATH`.
    pub(super) search_path: Option<&'a OsStr>,
}

/// Runs `docker-credential-<name> get`: the key on standard input, JSON on standard output.
pub(super) async fn ask(program: &Program<'_>, key: &str) -> Result<Option<Credential>, CredentialError> {
    let helper = format!("docker-credential-{}", program.name);
    let not_run = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            CredentialError::NoHelper { helper: helper.clone(), path: program.named_by.to_owned() }
        }
        _ => CredentialError::Helper { helper: helper.clone(), source },
    };
    let mut command = tokio::process::Command::new(&helper);
    if let Some(path) = program.search_path {
        command.env("PATH", path);
    }
    let mut child = command
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
