//! Sources of ADD that are no paths: URLs and git repositories.

use oci::{Digest, DigestError};
use solver::{GitRepository, HttpOp, Input, InputKey, Op, Selector, VertexMeta};

use crate::tree::Copy;
use crate::{Diagnostic, GitReference, Span};

use super::Lowering;

/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";
/// The longest name that Linux takes.
const MAX_NAME_BYTES: usize = 255;

impl Lowering<'_> {
    /// The input that a remote source is, and the path in it.
    pub(super) fn remote_input(
        &mut self,
        source: &str,
        copy: &Copy,
        checksum: Option<&str>,
        span: Span,
    ) -> Result<(Input, String), Diagnostic> {
        match remote_op(source, copy.keep_git_dir, checksum, span)? {
            RemoteOp::Git(git) => self.git_input(&git, copy, source, span),
            RemoteOp::Http(op) => {
                let name = op.name.clone();
                let vertex = self.add(Op::Http(op), Vec::new(), meta(source, span), span)?;
                Ok((Input { vertex, key: InputKey::Chain }, name))
            }
        }
    }

    /// A repository enters by content, so that a commit that changes other directories changes nothing. One that is
    /// kept enters by its commit: what git writes into `.git` differs from time to time.
    fn git_input(
        &mut self,
        git: &GitReference,
        copy: &Copy,
        source: &str,
        span: Span,
    ) -> Result<(Input, String), Diagnostic> {
        let (op, path) = (git.op(), git.path().to_owned());
        let key = match (op.repository, op.commit_times) {
            // Times are in no digest of content.
            (GitRepository::Kept, _) | (_, true) => InputKey::Chain,
            (GitRepository::Removed, false) => InputKey::Content(Selector {
                paths: vec![path.clone()],
                wildcards: false,
                exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
                parents: false,
            }),
        };
        let vertex = self.add(Op::Git(op), Vec::new(), meta(source, span), span)?;
        Ok((Input { vertex, key }, path))
    }
}

/// What fetches a remote source.
pub(super) enum RemoteOp {
    Git(GitReference),
    Http(HttpOp),
}

/// What fetches a source that is no path.
pub(super) fn remote_op(
    source: &str,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
    span: Span,
) -> Result<RemoteOp, Diagnostic> {
    if let Some(git) = GitReference::parse(source) {
        let git = git.and_then(|git| git.with_flags(checksum, keep_git_dir));
        return git.map(RemoteOp::Git).map_err(|message| Diagnostic::error("git-source", span, message));
    }
    let checksum = checksum.map(parse_checksum).transpose();
    let checksum = checksum.map_err(|message| Diagnostic::error("checksum", span, message))?;
    Ok(RemoteOp::Http(HttpOp { url: source.to_owned(), name: file_name(source), checksum }))
}

/// Whether a source has changed is asked in each build, so that `--no-cache` has nothing to add.
fn meta(source: &str, span: Span) -> VertexMeta {
    VertexMeta { name: redacted(source), lines: Some(span.lines()), no_cache: false }
}

/// Whether a source is no path.
pub(super) fn is_remote(source: &str) -> bool {
    is_url(source) || is_git(source)
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Whether a source is a git repository.
pub(super) fn is_git(source: &str) -> bool {
    GitReference::parse(source).is_some()
}

/// A checksum of a file, with the words of the peers for what is wrong with it.
fn parse_checksum(text: &str) -> Result<Digest, String> {
    let digest: Digest = text.parse().map_err(|error| match error {
        DigestError::Algorithm(_) => format!("unsupported digest algorithm: `{text}`"),
        DigestError::Digits(_) if text.split_once(':').is_some_and(|(_, digits)| is_hex(digits)) => {
            "invalid checksum digest length".to_owned()
        }
        DigestError::NoAlgorithm(_) | DigestError::Digits(_) => "invalid checksum digest format".to_owned(),
    })?;
    match digest.algorithm() {
        "sha256" => Ok(digest),
        _ => Err(format!("unsupported digest algorithm: `{text}`; files are checked by `sha256:…`")),
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The name that a file gets in a destination that is a directory: the last part of its URL's path. What the server
/// says (`Content-Disposition`) does not matter, as with the peers.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['#', '?']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let Some(path) = decoded(path) else { return UNNAMED.to_owned() };
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_name = !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= MAX_NAME_BYTES;
    if is_name { name.to_owned() } else { UNNAMED.to_owned() }
}

/// The text that the path of a URL stands for; `None` if it is malformed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A URL for people: without a password, as Go writes such URLs.
pub(super) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    let Some((name, _)) = user.split_once(':') else { return url.to_owned() };
    format!("{scheme}://{name}:xxxxx@{host}{}", &rest[authority.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_parts_of_paths() {
        let rows = [
            ("http://host/dir/file.tar.gz", "file.tar.gz"),
            ("http://host/dir/file?query=/x#/y", "file"),
            ("http://host/dir/", "dir"),
            ("http://host/", UNNAMED),
            ("http://host", UNNAMED),
            ("http://host?x=/y", UNNAMED),
            ("http://host/a%20b", "a b"),
            ("http://host/a%2Fb", "b"),
            ("http://host/a%2F..", UNNAMED),
            ("http://host/a%00b", UNNAMED),
            ("http://host/100%", UNNAMED),
            ("http://host/[a]*", "[a]*"),
        ];
        for (url, name) in rows {
            assert_eq!(file_name(url), name, "{url}");
        }
        assert_eq!(file_name(&format!("http://host/{}", "x".repeat(256))), UNNAMED);
    }

    #[test]
    fn checksums_are_told_with_the_words_of_the_peers() {
        let digits = "0".repeat(64);
        assert!(parse_checksum(&format!("sha256:{digits}")).is_ok());
        let rows = [
            ("sha256:99".to_owned(), "invalid checksum digest length"),
            (format!("sha256:{}", "x".repeat(64)), "invalid checksum digest format"),
            ("1234".to_owned(), "invalid checksum digest format"),
            (format!("md5:{digits}"), "unsupported digest algorithm"),
            (format!("sha512:{digits}{digits}"), "unsupported digest algorithm"),
        ];
        for (text, expected) in rows {
            let told = parse_checksum(&text).unwrap_err();
            assert!(told.starts_with(expected), "{text}: {told}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let rows = [
            ("https://user:secret@host/a@b", "https://user:xxxxx@host/a@b"),
            ("https://user@host/a:b@c", "https://user@host/a:b@c"),
            ("https://host/a", "https://host/a"),
            ("https://:s@host", "https://:xxxxx@host"),
        ];
        for (url, shown) in rows {
            assert_eq!(redacted(url), shown);
        }
    }
}
