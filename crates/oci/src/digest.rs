//! Content digests (OCI image spec, "Digests") and the identifiers built from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A content digest, `sha256:` or `sha512:` and lower-case hexadecimal digits.
///
/// sha256 is what everything here computes; sha512 is only passed on.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` before the digits.
    #[error("digest `{0}` has no algorithm")]
    NoAlgorithm(String),
    /// The algorithm is neither sha256 nor sha512.
    #[error("unsupported digest algorithm in `{0}`")]
    Algorithm(String),
    /// Not the number of lower-case hexadecimal digits that the algorithm has.
    #[error("digest `{0}` does not have the hexadecimal digits of its algorithm")]
    Digits(String),
}

impl Digest {
    /// The sha256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// A digest from the 32 bytes of a finished SHA-256.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// The part before the colon.
    pub fn algorithm(&self) -> &str {
        self.split().0
    }

    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        self.split().1
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once(':').expect("a digest always has a colon")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) =
            text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let is_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits.len() != length || !is_hex {
            return Err(DigestError::Digits(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A running SHA-256 that ends in a [`Digest`].
//
// ring, not sha2: with the processor's SHA instructions both run at the same speed, without them (many servers) ring's
// vector code is half as fast again.
#[derive(Clone)]
pub struct Hasher(ring::digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        let hash = self.0.finish();
        Digest::from_sha256(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }
}

/// The digest of a layer's uncompressed tar (OCI image spec, "Layer DiffID").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers (OCI image spec, "Layer ChainID").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain ID of `layer` on top of `parent`.
    pub fn extend(parent: Option<&Self>, layer: &DiffId) -> Self {
        match parent {
            None => Self(layer.0.clone()),
            Some(parent) => Self(Digest::sha256(format!("{} {}", parent.0, layer.0).as_bytes())),
        }
    }

    /// The chain ID of each prefix of `layers`, bottom first.
    pub fn of_each(layers: &[DiffId]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(layers.len());
        for layer in layers {
            let next = Self::extend(chain.last(), layer);
            chain.push(next);
        }
        chain
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sha256_of_nothing_is_the_known_one() {
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY);
        assert_eq!(Hasher::new().finish().as_str(), EMPTY);
    }

    #[test]
    fn malformed_digests_are_refused() {
        assert!(matches!("abc".parse::<Digest>(), Err(DigestError::NoAlgorithm(_))));
        assert!(matches!("md5:abc".parse::<Digest>(), Err(DigestError::Algorithm(_))));
        assert!(matches!("sha256:abc".parse::<Digest>(), Err(DigestError::Digits(_))));
        assert!(matches!(EMPTY.to_uppercase().parse::<Digest>(), Err(DigestError::Algorithm(_))));
        assert!(matches!(EMPTY.replace('e', "E").parse::<Digest>(), Err(DigestError::Digits(_))));
        assert!(EMPTY.parse::<Digest>().is_ok());
    }

    #[test]
    fn chain_id_hashes_parent_and_layer() {
        let a = DiffId(Digest::sha256(b"a"));
        let b = DiffId(Digest::sha256(b"b"));
        let chain = ChainId::of_each(&[a.clone(), b.clone()]);
        assert_eq!(chain[0].0, a.0);
        assert_eq!(chain[1].0, Digest::sha256(format!("{a} {b}").as_bytes()));
    }
}
