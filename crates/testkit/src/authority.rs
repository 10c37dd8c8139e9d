//! Certificates that tests make, with the program `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A certificate authority in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
}

/// A certificate and its key (PEM).
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    /// When `openssl` is not installed.
    #[allow(clippy::new_without_default, reason = "it runs programs and writes files")]
    pub fn new() -> Self {
        let authority = Self { directory: tempfile::tempdir().expect("a temporary directory can be made") };
        authority.self_signed("ca", "DNS:authority.invalid");
        authority
    }

    /// The authority's own certificate.
    pub fn root(&self) -> Certificate {
        self.files("ca")
    }

    /// A certificate that signs itself, with the rights of an authority, for `names` (`IP:127.0.0.1,DNS:localhost`).
    pub fn self_signed(&self, name: &str, names: &str) -> Certificate {
        let files = self.files(name);
        let names = format!("subjectAltName={names}");
        openssl(
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext", &names],
            &[
                ("-subj", &format!("/CN={name}").into()),
                ("-keyout", &files.key),
                ("-out", &files.certificate),
            ],
        );
        files
    }

    /// A certificate of the authority for `names`, which ends in so many days; a negative number is in the past.
    pub fn certificate(&self, name: &str, names: &str, days: i32) -> Certificate {
        let files = self.files(name);
        let request = self.directory.path().join(format!("{name}.csr"));
        let names = format!("subjectAltName={names}");
        openssl(
            &[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-addext",
                &names,
            ],
            &[("-subj", &format!("/CN={name}").into()), ("-keyout", &files.key), ("-out", &request)],
        );
        let root = self.root();
        openssl(
            &["x509", "-req", "-copy_extensions", "copy", "-days", &days.to_string()],
            &[
                ("-in", &request),
                ("-CA", &root.certificate),
                ("-CAkey", &root.key),
                ("-out", &files.certificate),
            ],
        );
        files
    }

    fn files(&self, name: &str) -> Certificate {
        let file = |extension| self.directory.path().join(format!("{name}.{extension}"));
        Certificate { certificate: file("crt"), key: file("key") }
    }
}

/// Signs `bytes` (RSA with SHA-256, PKCS #1 v1.5).
pub(crate) fn sign(key: &Path, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = command(&["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| missing(&error));
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin.write_all(bytes).expect("openssl reads its input");
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for").stdout
}

/// The certificate in DER, in base64.
pub(crate) fn base64_of(certificate: &Path) -> String {
    let text = std::fs::read_to_string(certificate).expect("the certificate can be read");
    text.lines().filter(|line| !line.starts_with("-----")).collect()
}

fn openssl(arguments: &[&str], paths: &[(&str, &PathBuf)]) {
    let mut command = command(arguments);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    let output = command.output().unwrap_or_else(|error| missing(&error));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn missing<T>(error: &std::io::Error) -> T {
    panic!("cannot run `openssl` ({error}): install the Debian package `openssl`")
}
