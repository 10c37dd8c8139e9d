//! The ssh agents that a build is given: another program's, or keys for which this one answers as an agent does.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use p256::elliptic_curve::sec1::ToSec1Point as _;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::signature::Signer as _;
use ssh_key::encoding::Encode as _;
use ssh_key::private::{EcdsaKeypair, Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::{HashAlg, PrivateKey};

/// An ssh agent that steps may use.
#[derive(Debug, Clone)]
pub enum SshAgent {
    /// One that listens at a socket. Of what it can do, steps may see its keys and have something signed.
    Socket(PathBuf),
    /// Whatever listens at a socket, with no look at what passes.
    RawSocket(PathBuf),
    /// These keys.
    Keys(Arc<[SshKey]>),
}

/// A private key. It is in memory alone, which is overwritten when it is dropped.
#[derive(Clone)]
pub struct SshKey {
    key: PrivateKey,
    /// The public key as agents name it (RFC 4253, section 6.6).
    public: Vec<u8>,
}

impl fmt::Debug for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// Why something is no key that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshKeyError {
    /// It is no private key in a form that is known.
    #[error("it is no private key of OpenSSH, PKCS#1, PKCS#8 or SEC1")]
    Unknown,
    /// It wants a passphrase.
    #[error("it is protected by a passphrase")]
    Encrypted,
    /// It is a key of a kind that cannot be used.
    #[error("keys of the kind `{0}` cannot be used")]
    Kind(String),
    /// It is damaged.
    #[error("it is damaged")]
    Damaged(#[source] ssh_key::Error),
}

impl SshKey {
    /// Reads a key from the text of its file, of the forms that `ssh-keygen` and `openssl` write.
    pub fn parse(text: &str) -> Result<Self, SshKeyError> {
        let label = text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
        let (label, body) = label.ok_or(SshKeyError::Unknown)?;
        let is_encrypted = label == "ENCRYPTED PRIVATE KEY" || body.contains("Proc-Type: 4,ENCRYPTED");
        if is_encrypted {
            return Err(SshKeyError::Encrypted);
        }
        let start = text.find("-----BEGIN ").unwrap_or_default();
        let text = &text[start..];
        let key = match label {
            "OPENSSH PRIVATE KEY" => PrivateKey::from_openssh(text).map_err(SshKeyError::Damaged)?,
            "RSA PRIVATE KEY" => {
                rsa(rsa::PrivateKey::from_pkcs1_pem(text).ok())?.ok_or(SshKeyError::Unknown)?
            }
            "EC PRIVATE KEY" => sec1(text).ok_or(SshKeyError::Unknown)?,
            "PRIVATE KEY" => pkcs8(text)?.ok_or(SshKeyError::Unknown)?,
            "DSA PRIVATE KEY" => return Err(SshKeyError::Kind("ssh-dss".to_owned())),
            _ => return Err(SshKeyError::Unknown),
        };
        if key.is_encrypted() {
            return Err(SshKeyError::Encrypted);
        }
        let is_usable =
            matches!(key.key_data(), KeypairData::Ecdsa(_) | KeypairData::Ed25519(_) | KeypairData::Rsa(_));
        if !is_usable {
            return Err(SshKeyError::Kind(key.algorithm().to_string()));
        }
        let public = key.public_key().to_bytes().map_err(SshKeyError::Damaged)?;
        Ok(Self { key, public })
    }

    /// A signature of `data` in ssh's form (RFC 4253, section 6.6); none where `flags` ask for one that nobody should
    /// trust any more: SHA-1.
    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let signature = match self.key.key_data() {
            KeypairData::Rsa(pair) => {
                let hash = match flags {
                    flags if flags & RSA_SHA2_512 != 0 => HashAlg::Sha512,
                    flags if flags & RSA_SHA2_256 != 0 => HashAlg::Sha256,
                    _ => return None,
                };
                (pair, Some(hash)).try_sign(data)
            }
            other => other.try_sign(data),
        };
        signature.ok()?.encode_vec().ok()
    }
}

fn rsa(key: Option<rsa::PrivateKey>) -> Result<Option<PrivateKey>, SshKeyError> {
    let pair = key.map(RsaKeypair::try_from).transpose().map_err(SshKeyError::Damaged)?;
    Ok(pair.map(PrivateKey::from))
}

fn ed25519(text: &str) -> Option<PrivateKey> {
    let key = ed25519_dalek::SigningKey::from_pkcs8_pem(text).ok()?;
    Some(Ed25519Keypair::from(key).into())
}

/// A key pair of ssh's of a curve's private key.
macro_rules! ecdsa {
    ($variant:ident, $key:expr) => {
        $key.ok().map(|key| {
            let public = key.public_key().to_sec1_point(false);
            PrivateKey::from(EcdsaKeypair::$variant { public, private: key.into() })
        })
    };
}

fn sec1(text: &str) -> Option<PrivateKey> {
    ecdsa!(NistP256, p256::SecretKey::from_sec1_pem(text))
        .or_else(|| ecdsa!(NistP384, p384::SecretKey::from_sec1_pem(text)))
        .or_else(|| ecdsa!(NistP521, p521::SecretKey::from_sec1_pem(text)))
}

fn pkcs8(text: &str) -> Result<Option<PrivateKey>, SshKeyError> {
    let other = ed25519(text)
        .or_else(|| ecdsa!(NistP256, p256::SecretKey::from_pkcs8_pem(text)))
        .or_else(|| ecdsa!(NistP384, p384::SecretKey::from_pkcs8_pem(text)))
        .or_else(|| ecdsa!(NistP521, p521::SecretKey::from_pkcs8_pem(text)));
    if other.is_some() { Ok(other) } else { rsa(rsa::PrivateKey::from_pkcs8_pem(text).ok()) }
}

/// The messages of draft-miller-ssh-agent that there are answers to.
pub(crate) const REQUEST_IDENTITIES: u8 = 11;
pub(crate) const SIGN_REQUEST: u8 = 13;
pub(crate) const FAILURE: u8 = 5;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// What an agent with these keys answers. Takes milliseconds.
pub(crate) fn answer(keys: &[SshKey], request: &[u8]) -> Vec<u8> {
    let answer = match request.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => list(keys),
        Some((&SIGN_REQUEST, body)) => sign(keys, body),
        _ => None,
    };
    answer.unwrap_or_else(|| vec![FAILURE])
}

fn list(keys: &[SshKey]) -> Option<Vec<u8>> {
    let mut message = vec![IDENTITIES_ANSWER];
    message.extend(u32::try_from(keys.len()).ok()?.to_be_bytes());
    for key in keys {
        put(&mut message, &key.public)?;
        put(&mut message, key.key.comment().as_bytes())?;
    }
    Some(message)
}

fn sign(keys: &[SshKey], mut body: &[u8]) -> Option<Vec<u8>> {
    let (public, data) = (take(&mut body)?, take(&mut body)?);
    let flags = u32::from_be_bytes(body.try_into().ok()?);
    let key = keys.iter().find(|key| key.public == public)?;
    let mut message = vec![SIGN_RESPONSE];
    put(&mut message, &key.sign(data, flags)?)?;
    Some(message)
}

/// A string: a length of four bytes, big endian, and so many bytes.
fn put(message: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    message.extend(u32::try_from(bytes.len()).ok()?.to_be_bytes());
    message.extend(bytes);
    Some(())
}

fn take<'m>(message: &mut &'m [u8]) -> Option<&'m [u8]> {
    let (length, rest) = message.split_first_chunk()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *message = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use ssh_key::{Signature, encoding::Decode as _};

    use super::*;

    /// The keys of `testdata/ssh`; those of one kind are the same in all forms, but for `ed25519.pkcs8`.
    fn key(name: &str) -> Result<SshKey, SshKeyError> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/ssh").join(name);
        SshKey::parse(&std::fs::read_to_string(path).unwrap())
    }

    fn request(key: &SshKey, data: &[u8], flags: u32) -> Vec<u8> {
        let mut message = vec![SIGN_REQUEST];
        put(&mut message, &key.public).unwrap();
        put(&mut message, data).unwrap();
        message.extend(flags.to_be_bytes());
        message
    }

    #[test]
    fn keys_of_all_kinds_and_forms_sign() {
        let names = [
            ["ed25519", "ed25519", "ed25519"],
            ["ed25519.pkcs8", "ed25519.pkcs8", "ed25519.pkcs8"],
            ["ecdsa256", "ecdsa256.pem", "ecdsa256.pkcs8"],
            ["ecdsa384", "ecdsa384.pem", "ecdsa384.pkcs8"],
            ["ecdsa521", "ecdsa521.pem", "ecdsa521.pkcs8"],
            ["rsa", "rsa.pem", "rsa.pkcs8"],
        ];
        for names in names {
            let [one, other, third] = names.map(|name| key(name).unwrap());
            assert!(one.public == other.public && one.public == third.public, "{names:?}");
            for (signing, flags) in [(&one, 2), (&other, 4), (&third, 6)] {
                let keys = [signing.clone()];
                let answer = answer(&keys, &request(&one, b"data", flags));
                assert_eq!(answer[0], SIGN_RESPONSE, "{names:?}");
                let signature = take(&mut &answer[1..]).unwrap();
                let signature = Signature::decode(&mut &signature[..]).unwrap();
                if names[0] == "rsa" {
                    let hash = if flags == 2 { "rsa-sha2-256" } else { "rsa-sha2-512" };
                    assert_eq!(signature.algorithm().as_str(), hash);
                }
                let verified = rsa::signature::Verifier::verify(one.key.public_key(), b"data", &signature);
                verified.unwrap_or_else(|error| panic!("{names:?}: {error}"));
            }
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_refused() {
        let (rsa, other) = (key("rsa").unwrap(), key("ed25519").unwrap());
        let keys = [rsa.clone()];
        let refused = [
            request(&rsa, b"data", 0),
            request(&other, b"data", 0),
            request(&rsa, b"data", 2)[..20].to_vec(),
            vec![SIGN_REQUEST],
            vec![17, 1, 2],
            Vec::new(),
        ];
        for request in refused {
            assert_eq!(answer(&keys, &request), [FAILURE], "{request:?}");
        }
        assert_eq!(answer(&[], &[REQUEST_IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_key_is_told() {
        for name in ["ed25519-passphrase", "rsa-passphrase.pem", "rsa-passphrase.pkcs8"] {
            assert!(matches!(key(name), Err(SshKeyError::Encrypted)), "{name}");
        }
        for text in
            ["", "ssh-ed25519 AAAA x", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN RSA PRIVATE KEY-----\nx"]
        {
            assert!(matches!(SshKey::parse(text), Err(SshKeyError::Unknown)), "{text}");
        }
        let damaged = SshKey::parse("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n");
        assert!(matches!(damaged, Err(SshKeyError::Damaged(_))));
    }
}
