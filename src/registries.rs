//! What the command line says about registries.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use registry::{ClientOptions, Credential, CredentialStore, HostConfig};

use crate::arguments::GoBool;
use crate::report::Failure;
use crate::settings::Environment;

/// Flags about registries, with buildah's names.
#[derive(Debug, Args)]
pub(crate) struct RegistryArguments {
    /// The file with credentials of registries, in docker's form, in the place of docker's config.json and podman's
    /// auth.json
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// User name and password for the registries that want some, in the place of those of files
    #[arg(long, value_name = "USER:PASSWORD", value_parser = password)]
    creds: Option<Credential>,
    /// A directory with certificates for all registries: authorities in `*.crt`, client certificates in `*.cert` with
    /// their keys in `*.key`
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// With `false`: accept any certificate, and plain HTTP, of all registries
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true)]
    tls_verify: bool,
    /// How often a request that failed for a passing reason is repeated [default: 5]
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// The pause before the first repetition (`2s`); it doubles with each further one
    #[arg(long, value_name = "DURATION", value_parser = crate::values::duration)]
    retry_delay: Option<Duration>,
}

impl RegistryArguments {
    /// How to speak to registries: what the flags say, then what the environment and the configuration say.
    pub(crate) fn client_options(&self) -> Result<ClientOptions, Failure> {
        let mut options = Environment::client_options()?;
        if let Some(path) = &self.authfile {
            if !path.exists() {
                return Err(Failure::usage(format!(
                    "there is no file `{}` for `--authfile`",
                    path.display()
                )));
            }
            options.credentials = CredentialStore::files([path.clone()]);
        }
        if let Some(credential) = &self.creds {
            options.credentials = CredentialStore::anonymous().everywhere(credential.clone());
        }
        if let Some(directory) = &self.cert_dir {
            if !directory.is_dir() {
                let shown = directory.display();
                return Err(Failure::usage(format!("there is no directory `{shown}` for `--cert-dir`")));
            }
            options.hosts.everywhere = HostConfig::of_directory(directory)
                .map_err(|error| Failure::usage(crate::report::chain(&error)).with_hints(error.hint()))?;
        }
        if !self.tls_verify {
            options.hosts.everywhere.insecure = Some(true);
        }
        let retry = &mut options.retry;
        retry.attempts = self.retry.map_or(retry.attempts, |retries| retries.saturating_add(1));
        retry.first_delay = self.retry_delay.unwrap_or(retry.first_delay);
        Ok(options)
    }
}

fn password(text: &str) -> Result<Credential, String> {
    let (username, password) = text.split_once(':').ok_or("it should be `USER:PASSWORD`")?;
    Ok(Credential::Password { username: username.to_owned(), password: password.to_owned() })
}
