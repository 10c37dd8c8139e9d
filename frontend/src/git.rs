//! Addresses of git repositories, as ADD and the command line take them.

use percent_encoding::percent_decode_str;
use solver::{GitOp, GitRepository, is_commit};

use crate::boolean::go_bool;
use crate::quote::go_quote;

/// A commit of a git repository, and what of it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitReference {
    /// The repository without fragment and query: a URL, or `user@host:path`.
    pub url: String,
    /// A branch, a tag, a whole name or a hash.
    pub reference: Option<String>,
    /// A directory in the repository.
    pub subdirectory: Option<String>,
    /// What the hash of the commit must begin with.
    pub checksum: Option<String>,
    /// Whether `.git` is to stay.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are wanted.
    pub submodules: Option<bool>,
    /// Whether everything is to have the time of the commit, and not that of the build.
    pub commit_times: bool,
}

impl GitReference {
    /// The repository that `text` names (`https://host/repo.git#reference:directory`, with `?reference=…` in place of the
    /// fragment, also `git://`, `ssh://` and `user@host:path`); `None` if it is something else. URLs of HTTP are
    /// repositories only if their path ends in `.git`. A repository of which something impossible is wanted is an
    /// error, in the words of BuildKit.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !is_repository(url) {
            return None;
        }
        Some(Self { url: url.to_owned(), ..Self::default() }.with(&decoded(fragment), query))
    }

    /// The same for a build context, where the old short form `github.com/user/repo` is known, too.
    pub fn parse_context(text: &str) -> Option<Result<Self, String>> {
        if !text.starts_with("github.com/") {
            return Self::parse(text);
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
        Some(Self { url: format!("https://{url}"), ..Self::default() }.with(&decoded(fragment), query))
    }

    /// What the fragment and the query say.
    fn with(mut self, fragment: &str, query: &str) -> Result<Self, String> {
        let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        (self.reference, self.subdirectory) = (given(reference), given(subdirectory));
        let (mut tag, mut branch) = (None, None);
        for (name, value) in pairs(query)? {
            let is_switch = matches!(name.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !is_switch {
                return Err(format!("query {} has no value", go_quote(&name)));
            }
            match name.as_str() {
                "ref" => set("ref", &mut self.reference, value)?,
                "subdir" => set("subdir", &mut self.subdirectory, value)?,
                "tag" => tag = Some(below("refs/tags/", &value)),
                "branch" => branch = Some(below("refs/heads/", &value)),
                "checksum" | "commit" => set("checksum", &mut self.checksum, value)?,
                "keep-git-dir" => self.keep_git_dir = Some(switch(&name, &value)?),
                "submodules" => self.submodules = Some(switch(&name, &value)?),
                "mtime" => self.commit_times = of_commit(&value)?,
                // That is how a commit is fetched in any case.
                "fetch-by-commit" => drop(switch(&name, &value)?),
                _ => return Err(format!("unexpected query {}", go_quote(&name))),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        if let Some(name) = tag.or(branch) {
            set("ref", &mut self.reference, name)?;
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.checksum);
        }
        self.checked()
    }

    /// The same with what the flags of ADD say.
    pub(crate) fn with_flags(
        mut self,
        checksum: Option<&str>,
        keep_git_dir: Option<bool>,
    ) -> Result<Self, String> {
        match (&self.checksum, checksum) {
            (Some(own), Some(flag)) if own != flag => {
                return Err(format!("checksum mismatch {} != {}", go_quote(flag), go_quote(own)));
            }
            (None, Some(flag)) => self.checksum = Some(flag.to_owned()),
            _ => {}
        }
        if let (Some(own), Some(flag)) = (self.keep_git_dir, keep_git_dir)
            && own != flag
        {
            return Err("inconsistent keep-git-dir configuration".to_owned());
        }
        self.keep_git_dir = self.keep_git_dir.or(keep_git_dir);
        self.checked()
    }

    fn checked(mut self) -> Result<Self, String> {
        if self.reference.as_ref().is_some_and(|name| name.starts_with('-')) {
            let name = self.reference.unwrap_or_default();
            return Err(format!("invalid git reference {}: it begins with a dash", go_quote(&name)));
        }
        let Some(checksum) = self.checksum.take() else { return Ok(self) };
        if checksum.is_empty() || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("invalid checksum {checksum} for Git URL, expected hex commit hash"));
        }
        let checksum = checksum.to_ascii_lowercase();
        if let Some(reference) = self.reference.as_ref().filter(|reference| is_commit(reference))
            && !reference.starts_with(&checksum)
        {
            return Err(format!("expected checksum to match {checksum}, got {reference}"));
        }
        self.checksum = Some(checksum);
        Ok(self)
    }

    /// The directory that is wanted, as a path.
    pub fn path(&self) -> &str {
        self.subdirectory.as_deref().unwrap_or("/")
    }

    /// The operation that brings the repository. `.git` lies at its top: it does not stay where a directory is wanted.
    pub fn op(&self) -> GitOp {
        let is_whole = self.subdirectory.as_deref().is_none_or(|path| path.trim_matches('/').is_empty());
        let keeps = self.keep_git_dir == Some(true) && is_whole;
        GitOp {
            url: self.url.clone(),
            reference: self.reference.clone(),
            checksum: self.checksum.clone(),
            repository: if keeps { GitRepository::Kept } else { GitRepository::Removed },
            submodules: self.submodules.unwrap_or(true),
            commit_times: self.commit_times,
        }
    }
}

/// Whether an address without fragment and query is that of a repository.
fn is_repository(url: &str) -> bool {
    if let Some((scheme, rest)) = url.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => !rest.is_empty(),
            "http" | "https" => {
                rest.split_once('/').is_some_and(|(_, path)| path.strip_suffix(".git").is_some())
            }
            _ => false,
        };
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let Some((user, rest)) = url.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    // What begins with a dash would be an option of ssh.
    let is_word = |text: &str| !text.is_empty() && !text.starts_with('-');
    is_word(user) && user.bytes().all(is_name) && is_word(host) && host.bytes().all(is_host)
}

/// Sets what may have been said before, in the same way.
fn set(what: &str, place: &mut Option<String>, value: String) -> Result<(), String> {
    match place {
        Some(known) if *known != value => {
            Err(format!("{what} conflicts: {} vs {}", go_quote(known), go_quote(&value)))
        }
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn below(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Go's idea of a truth value; nothing is yes.
fn switch(name: &str, value: &str) -> Result<bool, String> {
    let read = if value.is_empty() { Some(true) } else { go_bool(value) };
    read.ok_or_else(|| format!("invalid {name} value: {}", go_quote(value)))
}

/// Which times are wanted: `commit`, or `checkout`.
fn of_commit(value: &str) -> Result<bool, String> {
    match value {
        "commit" => Ok(true),
        "checkout" => Ok(false),
        other => Err(format!("invalid mtime value: {}", go_quote(other))),
    }
}

/// The pairs of a query, each name once.
fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " ")));
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(format!("query {} has multiple values", go_quote(&name)));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// The text that a part of a URL stands for; as it is where it is malformed.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        let parsed = GitReference::parse(text)?.unwrap();
        Some((parsed.url, parsed.reference, parsed.subdirectory))
    }

    #[test]
    fn the_forms_of_repositories() {
        let (main, dir) = (Some("main"), Some("dir/sub"));
        let rows = [
            ("https://host/a.git", "https://host/a.git", None, None),
            ("http://u:p@host:1/x/a.git#main", "http://u:p@host:1/x/a.git", main, None),
            ("https://host/a.git#main:dir/sub", "https://host/a.git", main, dir),
            ("https://host/a.git#:dir/sub", "https://host/a.git", None, dir),
            ("https://host/a.git?ref=main&subdir=dir%2Fsub", "https://host/a.git", main, dir),
            ("https://host/a.git?ref=main#main:dir/sub", "https://host/a.git", main, dir),
            ("https://host/a.git?tag=v1", "https://host/a.git", Some("refs/tags/v1"), None),
            ("https://host/a.git?branch=refs/heads/b", "https://host/a.git", Some("refs/heads/b"), None),
            ("https://host/a.git?commit=abcd", "https://host/a.git", Some("abcd"), None),
            ("git://host/a", "git://host/a", None, None),
            ("ssh://git@host:22/a#main", "ssh://git@host:22/a", main, None),
            ("git@host:a/b#main:dir/sub", "git@host:a/b", main, dir),
            ("me@host:a?ref=main", "me@host:a", main, None),
        ];
        for (text, url, reference, subdirectory) in rows {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            assert_eq!(parse(text), Some((url.to_owned(), owned(reference), owned(subdirectory))), "{text}");
        }
        for other in [
            "https://host/a",
            "https://host/a.git/",
            "https://host/a.git.x",
            "https://a.git",
            "file:///a.git",
            "./a.git",
            "a.git",
            "dir@x/host:a",
            "@host:a",
            "git@:a",
            "git@-oProxyCommand=x:a",
            "git@host",
            "github.com/a/b",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        let short = GitReference::parse_context("github.com/a/b#main").unwrap().unwrap();
        assert_eq!((short.url.as_str(), short.reference.as_deref()), ("https://github.com/a/b", main));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let commit = "a".repeat(40);
        let rows = [
            ("?ref=x#y", r#"ref conflicts: "y" vs "x""#),
            ("?subdir=x#:y", r#"subdir conflicts: "y" vs "x""#),
            ("?tag=x&ref=x", r#"ref conflicts: "x" vs "refs/tags/x""#),
            ("?branch=x#y", r#"ref conflicts: "y" vs "refs/heads/x""#),
            ("?tag=x&branch=x", "branch conflicts with tag"),
            ("?checksum=a&commit=b", r#"checksum conflicts: "a" vs "b""#),
            ("?ref=a&ref=a", r#"query "ref" has multiple values"#),
            ("?ref", r#"query "ref" has no value"#),
            ("?x=y", r#"unexpected query "x""#),
            ("?keep-git-dir=x", r#"invalid keep-git-dir value: "x""#),
            ("?mtime=now", r#"invalid mtime value: "now""#),
            ("?mtime", r#"query "mtime" has no value"#),
            ("?fetch-by-commit=2", r#"invalid fetch-by-commit value: "2""#),
            ("?submodules=2", r#"invalid submodules value: "2""#),
            ("?checksum=xyz", "invalid checksum xyz for Git URL, expected hex commit hash"),
            ("#-x", r#"invalid git reference "-x": it begins with a dash"#),
        ];
        for (text, expected) in rows {
            let told = GitReference::parse(&format!("https://host/a.git{text}")).unwrap().unwrap_err();
            assert_eq!(told, expected, "{text}");
        }
        let text = format!("https://host/a.git?checksum=b#{commit}");
        let told = GitReference::parse(&text).unwrap().unwrap_err();
        assert_eq!(told, format!("expected checksum to match b, got {commit}"));
    }

    #[test]
    fn switches_and_flags() {
        let parse =
            |query: &str| GitReference::parse(&format!("https://host/a.git?{query}")).unwrap().unwrap();
        assert_eq!(parse("keep-git-dir&submodules=0").keep_git_dir, Some(true));
        assert_eq!(parse("keep-git-dir=false&submodules=0").submodules, Some(false));
        assert_eq!(parse("keep-git-dir").op().repository, GitRepository::Kept);
        assert_eq!(parse("keep-git-dir&subdir=x").op().repository, GitRepository::Removed);
        assert_eq!(parse("keep-git-dir&subdir=/").op().repository, GitRepository::Kept);
        assert!(parse("").op().submodules && !parse("submodules=false").op().submodules);
        assert!(parse("mtime=commit&fetch-by-commit").op().commit_times);
        assert!(!parse("mtime=checkout").op().commit_times);
        let told = |query: &str, checksum, keep| parse(query).with_flags(checksum, keep).unwrap_err();
        assert_eq!(told("checksum=ab", Some("cd"), None), r#"checksum mismatch "cd" != "ab""#);
        assert_eq!(told("keep-git-dir=0", None, Some(true)), "inconsistent keep-git-dir configuration");
        let with = parse("").with_flags(Some("AB"), Some(true)).unwrap();
        assert_eq!(
            (with.checksum.as_deref(), with.keep_git_dir, with.reference),
            (Some("ab"), Some(true), None)
        );
    }
}
