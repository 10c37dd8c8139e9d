//! What became of a connection, in words for people.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::error::Cause;

const AUTHORITY_UNKNOWN: &str = "its authority is not known";
const SELF_SIGNED: &str = "it is signed by itself";

/// Why an exchange did not come to an end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server's certificate is not trusted, because of this.
    Certificate(String),
    /// The same, because nobody known has signed it.
    Authority(String),
    /// The server speaks HTTP where TLS was expected.
    PlainHttp,
    /// The server wants a certificate of ours, or another one.
    ClientCertificate,
    /// There is no connection.
    Unreachable,
    /// There was one.
    Broken,
}

/// A trouble with its reason.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) trouble: Trouble,
    /// The reason: the innermost cause.
    pub(crate) reason: Reason,
    /// Whether it may be over later. A refused connection is not: nobody listens there.
    pub(crate) may_pass: bool,
}

/// The innermost cause of a failed exchange.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Reason(String);

/// The same as the cause of an error.
pub(crate) fn cause_of(diagnosis: Diagnosis) -> Cause {
    match diagnosis.trouble {
        Trouble::Certificate(problem) | Trouble::Authority(problem) => {
            format!("the server's certificate is not trusted: {problem}").into()
        }
        Trouble::PlainHttp => "the server speaks HTTP without TLS".into(),
        Trouble::ClientCertificate => "the server wants a client certificate".into(),
        Trouble::Unreachable | Trouble::Broken => diagnosis.reason.into(),
    }
}

/// What is wrong with the connection of `error`.
pub(crate) fn diagnose(error: &reqwest::Error) -> Diagnosis {
    let mut found = Trouble::Broken;
    let (mut reason, mut kind) = (error.to_string(), None);
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        reason = error.to_string();
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            found = trouble_of(tls).unwrap_or(found);
        }
        let io = error.downcast_ref::<io::Error>();
        kind = io.map(io::Error::kind).or(kind);
        // What an I/O error wraps is not among its causes.
        let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        next = inner.or_else(|| error.source());
    }
    if found == Trouble::Broken && error.is_connect() {
        found = Trouble::Unreachable;
    }
    if error.is_dns() {
        "its name cannot be resolved".clone_into(&mut reason);
    } else if error.is_timeout() {
        "no answer came in time".clone_into(&mut reason);
    }
    let is_settled = kind == Some(io::ErrorKind::ConnectionRefused)
        || error.is_dns()
        || !matches!(found, Trouble::Broken | Trouble::Unreachable);
    Diagnosis { trouble: found, reason: Reason(plain(&reason)), may_pass: !is_settled }
}

fn trouble_of(error: &rustls::Error) -> Option<Trouble> {
    match error {
        rustls::Error::InvalidCertificate(problem) => {
            let text = certificate_problem(problem);
            let is_unknown = matches!(text.as_str(), AUTHORITY_UNKNOWN | SELF_SIGNED);
            Some(if is_unknown { Trouble::Authority(text) } else { Trouble::Certificate(text) })
        }
        rustls::Error::InvalidMessage(_) => Some(Trouble::PlainHttp),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => Some(Trouble::ClientCertificate),
        _ => None,
    }
}

fn certificate_problem(problem: &CertificateError) -> String {
    match problem {
        // Another authority of the same name makes for a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => AUTHORITY_UNKNOWN.to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or the clock of this machine is wrong".to_owned()
        }
        CertificateError::NotValidForName => "it is for another host".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it names no host in its `subjectAltName`".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            format!("it is for another host: {}", names.join(", "))
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        // rustls has no name of its own for it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => SELF_SIGNED.to_owned(),
        other => other.to_string(),
    }
}

/// `x` of `DnsName("x")`, as rustls writes the names of a certificate.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// Without the number that the standard library adds, and in the middle of a sentence.
fn plain(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + characters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_plain() {
        assert_eq!(plain("Connection refused (os error 111)"), "connection refused");
        assert_eq!(plain(""), "");
    }

    #[test]
    fn certificates_are_told_about() {
        let presented = vec!["DnsName(\"a\")".to_owned()];
        let expected = rustls_pki_types::ServerName::try_from("b").unwrap();
        let cases = [
            (CertificateError::UnknownIssuer, "its authority is not known"),
            (CertificateError::Expired, "it has expired"),
            (CertificateError::NotValidForNameContext { expected, presented }, "it is for another host: a"),
        ];
        for (problem, text) in cases {
            assert_eq!(certificate_problem(&problem), text);
        }
    }
}
