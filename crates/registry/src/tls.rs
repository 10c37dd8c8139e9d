//! TLS: which certificates are trusted, and which ones of ours are shown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::client::ClientOptions;
use crate::config::{HostConfig, KeyPair};
use crate::endpoint::is_loopback;
use crate::error::{Cause, RegistryError};

/// What holds for `host`: what is configured, then what lies in the directories of certificates. Loopback needs no
/// certificate that is trusted, unless an authority is named for it.
pub(crate) fn settings(options: &ClientOptions, host: &str) -> Result<HostConfig, RegistryError> {
    let mut config = options.hosts.host(host);
    let own = std::mem::take(&mut config.tls_directories).into_iter();
    let machine = options.certificate_directories.iter().map(|directory| directory.join(host));
    for directory in own.chain(machine) {
        config = config.over(of_directory(&directory, host)?);
    }
    if config.insecure.is_none() && config.ca.is_empty() && is_loopback(host) {
        config.insecure = Some(true);
    }
    Ok(config)
}

/// The certificates in a directory of docker's form: `*.crt` are authorities, `*.cert` client certificates with their
/// keys in `*.key`. A directory that is not there, or not ours to read, has none.
pub(crate) fn of_directory(directory: &Path, host: &str) -> Result<HostConfig, RegistryError> {
    let mut config = HostConfig::default();
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(config);
        }
        Err(error) => return Err(unusable(host, directory, error.into())),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => config.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    let problem =
                        format!("its key `{}` is missing; authorities end in `.crt`", key.display());
                    return Err(unusable(host, &path, problem.into()));
                }
                config.keypair.push(KeyPair { key, cert: path });
            }
            _ => {}
        }
    }
    Ok(config)
}

/// TLS for a client that never speaks it.
pub(crate) fn unused() -> ClientConfig {
    builder().1.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn builder() -> (Arc<CryptoProvider>, ConfigBuilder<ClientConfig, WantsVerifier>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    (provider, builder)
}

/// The TLS of connections to `host`, for which `config` holds.
pub(crate) fn of_host(
    options: &ClientOptions,
    host: &str,
    config: &HostConfig,
) -> Result<ClientConfig, RegistryError> {
    let (provider, builder) = builder();
    let builder = if config.insecure == Some(true) {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut given = Vec::new();
        for path in &config.ca {
            given.extend(certificates(host, path)?.into_iter().map(|certificate| (path, certificate)));
        }
        let roots = Arc::new(roots(options, host, &given)?);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let inner = inner.expect("there are always the authorities that are built in");
        let given = given.into_iter().map(|(_, certificate)| certificate).collect();
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusted { inner, given }))
    };
    let mut tls = match config.keypair.first() {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = certificates(host, &pair.cert)?;
            let key = PrivateKeyDer::from_pem_file(&pair.key)
                .map_err(|error| unusable(host, &pair.key, error.into()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable(host, &pair.cert, error.into()))?
        }
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// The certificate authorities that browsers trust, the machine's own, and those that are configured for the host.
fn roots(
    options: &ClientOptions,
    host: &str,
    given: &[(&PathBuf, CertificateDer<'static>)],
) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for path in &options.ca_files {
        // The first of the known places that there is holds all; single unusable certificates in it are no reason to
        // fail, because nobody wrote that file for us.
        let Ok(found) = CertificateDer::pem_file_iter(path) else { continue };
        let found: Vec<_> = found.filter_map(Result::ok).collect();
        if !found.is_empty() {
            roots.add_parsable_certificates(found);
            break;
        }
    }
    for (path, certificate) in given {
        roots.add(certificate.clone()).map_err(|error| unusable(host, path, error.into()))?;
    }
    Ok(roots)
}

fn certificates(host: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| unusable(host, path, error.into()))?;
    if found.is_empty() {
        return Err(unusable(host, path, "there is no certificate in it".into()));
    }
    Ok(found)
}

fn unusable(host: &str, path: &Path, source: Cause) -> RegistryError {
    RegistryError::Certificate { host: host.to_owned(), path: path.to_owned(), source }
}

/// Certificates of known authorities, and those that are named themselves: many registries show a certificate that is
/// signed by itself, with the rights of an authority, which is no certificate of a server to the rules of the web.
#[derive(Debug)]
struct Trusted {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.given.iter().any(|given| given == end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&parsed, server_name).map(|()| ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts every certificate (`insecure = true`), but still checks that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
