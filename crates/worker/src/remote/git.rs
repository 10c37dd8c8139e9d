//! Commits of git repositories, by the git program.
//!
//! ```text
//! identify   ls-remote: a reference becomes a commit
//! checkout   mirror: fetch the commit, without history ─ a fresh repository in a snapshot ─ submodules ─ tidy
//! ```
//!
//! Nothing of a repository is executed: hooks are none, its configuration is not read before it is made by us, and
//! protocols are those of the network. Nothing of the user's configuration counts either, so that a commit is the same
//! files for everybody.

mod program;
mod tidy;

use std::path::{Path, PathBuf};

use cache::{CacheMount, MountKey, MountSharing, Snapshot, Store, StoreError};
use registry::redacted;
use solver::{ExecContext, GitOp, GitRepository, is_commit};

use super::{RemoteError, Remotes};
use crate::WorkerError;
use crate::local::{DEFAULT_AGENT, FIRST_LOOK, LONGEST_LOOK, blocking};
use crate::run::AgentSocket;
use crate::sources::GitVersion;
use program::Git;

pub use program::GitOptions;

const TOKEN_SECRET: &str = "GIT_AUTH_TOKEN";
const HEADER_SECRET: &str = "GIT_AUTH_HEADER";
/// Where the mirror keeps what was fetched: what is named there is told to the server, which leaves it out.
const KEPT: &str = "refs/rbuild/";

/// A reference as its repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundReference {
    /// The whole name (`refs/heads/main`); none where it was named by a hash.
    pub(super) name: Option<String>,
    /// The hash of the commit, or of a tag object.
    pub(super) hash: String,
    /// The commit that a tag object is of.
    pub(super) commit: Option<String>,
}

impl FoundReference {
    /// A commit that is named by its hash.
    pub(super) fn pinned(hash: &str) -> Self {
        Self { name: None, hash: hash.to_owned(), commit: None }
    }

    /// What a lock file says.
    fn of_version(version: &GitVersion) -> Self {
        match version.tag.clone() {
            Some(hash) => Self { name: version.name.clone(), hash, commit: Some(version.commit.clone()) },
            None => Self { name: version.name.clone(), hash: version.commit.clone(), commit: None },
        }
    }

    /// The same for a lock file.
    fn version(&self) -> GitVersion {
        match &self.commit {
            Some(commit) => {
                GitVersion { commit: commit.clone(), tag: Some(self.hash.clone()), name: self.name.clone() }
            }
            None => GitVersion { commit: self.hash.clone(), tag: None, name: self.name.clone() },
        }
    }

    /// As the store keeps it: the hash, the commit or `-`, and the name or `-`.
    fn to_text(&self) -> String {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        format!("{} {} {}", self.hash, or_none(&self.commit), or_none(&self.name))
    }

    fn from_text(text: &str) -> Option<Self> {
        let some = |text: &str| (text != "-").then(|| text.to_owned());
        let mut parts = text.splitn(3, ' ');
        let (hash, commit, name) = (parts.next()?, some(parts.next()?), some(parts.next()?));
        is_commit(hash).then(|| Self { name, hash: hash.to_owned(), commit })
    }

    /// What stands for the source in keys. The commit, so that all ways to it meet; where the repository is kept, the
    /// tag object is a part of it.
    pub(super) fn identity(&self, repository: GitRepository) -> &str {
        match (&self.commit, repository) {
            (Some(commit), GitRepository::Removed) => commit,
            _ => &self.hash,
        }
    }
}

impl Remotes {
    /// What the reference is: as the repository has it, as it was last seen, or as a lock file says.
    pub(super) async fn reference(&self, op: &GitOp) -> Result<FoundReference, WorkerError> {
        let url = redacted(&op.url);
        let policy = &self.sources.policy;
        let name = match &op.reference {
            Some(reference) => format!("git {url}#{reference}"),
            None => format!("git {url}"),
        };
        let found = if let Some(locked) = &policy.locked {
            let version = locked.repositories.get(&(url.clone(), op.reference.clone()));
            let version =
                version.ok_or(RemoteError::NotLocked { source_name: name["git ".len()..].to_owned() })?;
            FoundReference::of_version(version)
        } else if policy.offline {
            let seen = self.store.seen(&name)?;
            seen.and_then(|text| FoundReference::from_text(&text)).ok_or(RemoteError::Offline { url })?
        } else {
            let found = self.asked_reference(op, url).await?;
            let (store, text) = (self.store.clone(), found.to_text());
            blocking(move || Ok(store.set_seen(&name, &text)?)).await?;
            found
        };
        check(op, &found)?;
        let key = (redacted(&op.url), op.reference.clone());
        self.sources.found().repositories.insert(key, found.version());
        Ok(found)
    }

    /// Asks the repository for the reference.
    async fn asked_reference(&self, op: &GitOp, url: String) -> Result<FoundReference, WorkerError> {
        let git = self.git(op)?;
        let found = match &op.reference {
            None => git.list(&["--symref", "--", git.url(), "HEAD"]).await?.default_branch(),
            Some(reference) if reference.starts_with('-') => {
                return Err(RemoteError::NoReference { url, reference: reference.clone() }.into());
            }
            Some(reference) => {
                let peeled = format!("{reference}^{{}}");
                git.list(&["--", git.url(), reference, &peeled]).await?.find(reference)
            }
        };
        let found = found.ok_or_else(|| match &op.reference {
            None => RemoteError::NoDefaultBranch { url: url.clone() },
            Some(reference) => RemoteError::NoReference { url: url.clone(), reference: reference.clone() },
        })?;
        Ok(found)
    }

    /// The files of the commit.
    pub(super) async fn checkout(
        &self,
        op: &GitOp,
        found: &FoundReference,
        context: &ExecContext,
    ) -> Result<Snapshot, WorkerError> {
        let git = self.git(op)?;
        let hash = found.identity(op.repository);
        let mirror = self.mirror(&op.url, context).await?;
        let active = self.store.prepare(None)?;
        // Parts of snapshots are overlays' directories, which git need not know.
        let tree = active.upper().to_owned();
        let keeps = op.repository == GitRepository::Kept;
        self.fetch_into((op, &git), &mirror.directory(), found, hash).await?;
        git.make_repository(&tree, hash).await?;
        let name = found.name.as_deref().filter(|_| keeps);
        git.take(&tree, &mirror.directory(), hash, name).await?;
        drop(mirror);
        if op.submodules && tree.join(".gitmodules").is_file() {
            self.may_fetch(&op.url)?;
            git.submodules(&tree).await?;
        }
        let time = if op.commit_times { Some(git.commit_time(&tree).await?) } else { None };
        if keeps {
            git.leave(&tree, &redacted(&op.url)).await?;
        }
        blocking(move || {
            let failed = |(path, source)| RemoteError::Write { path, source };
            if !keeps {
                tidy::remove_repositories(&tree).map_err(failed)?;
            }
            tidy::set_owners_and_modes(&tree).map_err(failed)?;
            if let Some(seconds) = time {
                tidy::set_times(&tree, seconds).map_err(failed)?;
            }
            Ok(active.commit()?)
        })
        .await
    }

    /// Sees to it that the mirror has the commit. One that is damaged is made anew.
    async fn fetch_into(
        &self,
        (op, git): (&GitOp, &Git<'_>),
        path: &Path,
        found: &FoundReference,
        hash: &str,
    ) -> Result<(), WorkerError> {
        let is_new = !path.join("HEAD").exists();
        if is_new {
            git.make_mirror(path, hash).await?;
        } else if git.has(path, hash).await {
            return Ok(());
        }
        self.may_fetch(&op.url)?;
        let Err(error) = git.fetch(path, found, hash).await else { return Ok(()) };
        if is_new || !error.may_be_the_mirrors() {
            return Err(error.into());
        }
        let (store, old) = (self.store.clone(), path.to_owned());
        blocking(move || empty(&store, &old).map_err(WorkerError::from)).await?;
        git.make_mirror(path, hash).await?;
        Ok(git.fetch(path, found, hash).await?)
    }

    fn git(&self, op: &GitOp) -> Result<Git<'_>, WorkerError> {
        let authorization = host_of(&op.url).and_then(|host| self.git_authorization(&host));
        // Submodules of a repository may be reached by ssh though itself is not.
        let socket = self.agent.as_ref().map(|agent| AgentSocket::open(&self.store, agent)).transpose();
        let socket = socket.map_err(|cause| WorkerError::Agent { id: DEFAULT_AGENT.to_owned(), cause })?;
        Ok(Git::new(&self.git, &op.url, authorization, socket))
    }

    /// The value of `Authorization` for a host: what is meant for it comes first, and a header before a token.
    fn git_authorization(&self, host: &str) -> Option<String> {
        for suffix in [format!(".{host}"), String::new()] {
            if let Some(header) = self.secret_text(&format!("{HEADER_SECRET}{suffix}")) {
                return Some(header);
            }
            if let Some(token) = self.secret_text(&format!("{TOKEN_SECRET}{suffix}")) {
                return Some(registry::basic_authorization("x-access-token", &token));
            }
        }
        None
    }

    /// The mirror of a repository, once nobody else has it.
    async fn mirror(&self, url: &str, context: &ExecContext) -> Result<CacheMount, WorkerError> {
        let key = mirror_key(url);
        let mut pause = FIRST_LOOK;
        loop {
            let store = self.store.clone();
            let key = key.clone();
            let attempt = move || store.try_mount(&key, MountSharing::Locked, |_| Ok::<_, StoreError>(()));
            let mirror = blocking(move || Ok(attempt()?)).await?;
            if let Some(mirror) = mirror {
                return Ok(mirror);
            }
            if context.cancel.is_cancelled() {
                return Err(WorkerError::Cancelled);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }
}

/// An error unless the commit is the one that the operation says it should be.
fn check(op: &GitOp, found: &FoundReference) -> Result<(), RemoteError> {
    if let Some(expected) = &op.checksum
        && !found.hash.starts_with(expected.as_str())
        && !found.commit.as_ref().is_some_and(|commit| commit.starts_with(expected.as_str()))
    {
        let actual = found
            .commit
            .as_ref()
            .map_or_else(|| found.hash.clone(), |commit| format!("{} or {commit}", found.hash));
        return Err(RemoteError::CommitMismatch { expected: expected.clone(), actual });
    }
    Ok(())
}

/// Which directory is the mirror of a repository: a cache mount that no Dockerfile can name, as what it begins with is a
/// hash of `rbuild git 1` and the URL.
fn mirror_key(url: &str) -> MountKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild git 1");
    hasher.update(url.as_bytes());
    MountKey { id: redacted(url), beginning: *hasher.finalize().as_bytes() }
}

/// Takes everything out of a directory.
fn empty(store: &Store, directory: &Path) -> Result<(), RemoteError> {
    let failed = |path: &Path, source| RemoteError::Write { path: path.to_owned(), source };
    let away = store.fresh_path();
    std::fs::create_dir(&away).map_err(|source| failed(&away, source))?;
    for entry in std::fs::read_dir(directory).map_err(|source| failed(directory, source))? {
        let entry = entry.map_err(|source| failed(directory, source))?;
        // It goes away with the run's directory.
        std::fs::rename(entry.path(), away.join(entry.file_name()))
            .map_err(|source| failed(&entry.path(), source))?;
    }
    Ok(())
}

/// The host of a URL with its port; `None` for other forms, which know no headers.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned())
}

/// What `ls-remote` told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing(Vec<(String, String)>);

impl Listing {
    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Self(pairs.map(|(value, name)| (value.to_owned(), name.to_owned())).collect())
    }

    /// The hash of a whole name.
    fn hash(&self, name: &str) -> Option<String> {
        let found = self.0.iter().find(|(value, known)| known == name && is_commit(value));
        found.map(|(hash, _)| hash.clone())
    }

    fn default_branch(&self) -> Option<FoundReference> {
        let target = self.0.iter().find(|(value, name)| name == "HEAD" && value.starts_with("ref: "));
        let name = target.map(|(value, _)| value["ref: ".len()..].to_owned());
        Some(FoundReference { name, hash: self.hash("HEAD")?, commit: None })
    }

    /// A name as BuildKit looks for it: whole, then a branch, then a tag.
    fn find(&self, reference: &str) -> Option<FoundReference> {
        let below = |prefix: &str| format!("{prefix}{}", reference.trim_start_matches(prefix));
        let names = [below("refs/"), below("refs/heads/"), below("refs/tags/")];
        let (name, hash) = names.into_iter().find_map(|name| Some((name.clone(), self.hash(&name)?)))?;
        let commit = self.hash(&format!("{name}^{{}}"));
        Some(FoundReference { name: Some(name), hash, commit })
    }
}

/// The path of a directory as a URL of git's own protocol for files, which does not link or copy the other's objects.
fn file_url(path: &Path) -> PathBuf {
    let mut url = std::ffi::OsString::from("file://");
    url.push(path);
    PathBuf::from(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(digit: &str) -> String {
        digit.repeat(40)
    }

    #[test]
    fn references_are_whole_names_then_branches_then_tags() {
        let text = format!(
            "{}\trefs/heads/both\n{}\trefs/tags/both\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/heads/a/v1\n",
            hash("1"),
            hash("2"),
            hash("3"),
            hash("4"),
            hash("5")
        );
        let listing = Listing::parse(&text);
        let find = |reference: &str| {
            let found = listing.find(reference)?;
            Some((found.name?, found.hash.chars().next()?, found.commit.map(|commit| commit[..1].to_owned())))
        };
        let branch = |name: &str, digit| Some((name.to_owned(), digit, None));
        assert_eq!(find("both"), branch("refs/heads/both", '1'));
        assert_eq!(find("refs/tags/both"), branch("refs/tags/both", '2'));
        assert_eq!(find("tags/both"), branch("refs/tags/both", '2'));
        assert_eq!(find("v1"), Some(("refs/tags/v1".to_owned(), '3', Some("4".to_owned()))));
        // `ls-remote` matches the ends of names.
        assert_eq!(find("a/v1"), branch("refs/heads/a/v1", '5'));
        assert_eq!(find("v2"), None);
    }

    #[test]
    fn the_default_branch_is_where_head_leads() {
        let text = format!("ref: refs/heads/trunk\tHEAD\n{}\tHEAD\n", hash("a"));
        let found = Listing::parse(&text).default_branch().unwrap();
        assert_eq!((found.name.as_deref(), found.hash), (Some("refs/heads/trunk"), hash("a")));
        assert_eq!(Listing::parse("").default_branch(), None);
    }

    #[test]
    fn tag_objects_stand_for_commits_unless_the_repository_is_kept() {
        let tag = FoundReference { name: None, hash: hash("1"), commit: Some(hash("2")) };
        assert_eq!(tag.identity(GitRepository::Removed), hash("2"));
        assert_eq!(tag.identity(GitRepository::Kept), hash("1"));
        let commit = FoundReference::pinned(&hash("3"));
        assert_eq!(commit.identity(GitRepository::Removed), hash("3"));
    }

    #[test]
    fn what_was_seen_is_read_back() {
        let branch =
            FoundReference { name: Some("refs/heads/a b".to_owned()), hash: hash("1"), commit: None };
        let tag = FoundReference { name: None, hash: hash("1"), commit: Some(hash("2")) };
        for found in [branch, tag] {
            assert_eq!(FoundReference::from_text(&found.to_text()), Some(found.clone()));
            assert_eq!(FoundReference::of_version(&found.version()), found);
        }
        assert_eq!(FoundReference::from_text("x - -"), None);
        assert_eq!(FoundReference::from_text(&hash("1")), None);
    }

    #[test]
    fn hosts_are_those_of_http() {
        assert_eq!(host_of("https://u:p@host:8080/a.git").as_deref(), Some("host:8080"));
        assert_eq!(host_of("git@host:a"), None);
        assert_eq!(host_of("ssh://host/a"), None);
    }
}
