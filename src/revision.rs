//! What git knows of a build context: the labels that `BUILDX_GIT_LABELS` asks for, and what provenance tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::notices::Notices;

/// Where the labels come from.
pub(crate) struct Sources<'a> {
    /// The build context.
    pub(crate) context: &'a Path,
    /// The Dockerfile, if it is a file of this machine.
    pub(crate) dockerfile: Option<&'a Path>,
    /// Whether a commit is marked whose files have been changed (`BUILDX_GIT_CHECK_DIRTY`).
    pub(crate) marks_changes: bool,
}

/// Whether the value of `BUILDX_GIT_LABELS` asks for labels; `full` is what it was in older versions.
pub(crate) fn are_wanted(value: &str) -> bool {
    value == "full" || frontend::go_bool(value) == Some(true)
}

/// The commit, where it is from and the path of the Dockerfile, so far as they can be told; none outside a repository.
pub(crate) fn labels(sources: &Sources<'_>, notices: &mut Notices) -> BTreeMap<String, String> {
    let git = Git { directory: sources.context };
    if git.line(&["rev-parse", "--is-inside-work-tree"]).as_deref() != Some("true") {
        if sources.context.join(".git").exists() {
            notices.warn("`BUILDX_GIT_LABELS` has no effect: git does not tell what is in the build context");
        }
        return BTreeMap::new();
    }
    let dockerfile = match sources.dockerfile {
        Some(path) => path.to_owned(),
        None => sources.context.join("Dockerfile"),
    };
    let labels = [
        ("org.opencontainers.image.revision", git.revision(sources.marks_changes)),
        ("org.opencontainers.image.source", git.source()),
        ("com.docker.image.source.entrypoint", git.path_in_root(&dockerfile)),
    ];
    labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The same as BuildKit's provenance has it (`vcs`); nothing outside a repository.
pub(crate) fn facts(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let git = Git { directory: sources.context };
    let Some(revision) = git.revision(sources.marks_changes) else { return BTreeMap::new() };
    let directory = sources.dockerfile.and_then(Path::parent).unwrap_or(sources.context);
    let facts = [
        ("revision", Some(revision)),
        ("source", git.source()),
        ("localdir:context", git.path_in_root(sources.context)),
        ("localdir:dockerfile", git.path_in_root(directory)),
    ];
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// A working tree.
struct Git<'a> {
    directory: &'a Path,
}

impl Git<'_> {
    /// What git answers, without the end of the line; `None` if it fails or has nothing to tell.
    fn line(&self, arguments: &[&str]) -> Option<String> {
        // A repository may name a program for git to ask what has changed.
        let mut command = Command::new("git");
        command.args(["-c", "core.fsmonitor=false", "-C"]).arg(self.directory).args(arguments);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn revision(&self, marks_changes: bool) -> Option<String> {
        let commit = self.line(&["rev-parse", "--verify", "--quiet", "HEAD"])?;
        let is_changed = marks_changes && self.line(&["status", "--porcelain", "--ignored"]).is_some();
        Some(if is_changed { format!("{commit}-dirty") } else { commit })
    }

    /// The URL of the branch's remote, else that of the usual ones, without what is secret in it.
    fn source(&self) -> Option<String> {
        let branch = self.line(&["symbolic-ref", "-q", "HEAD"]);
        let own = branch
            .and_then(|branch| self.line(&["for-each-ref", "--format=%(upstream:remotename)", &branch]));
        let remotes = own.into_iter().chain(["origin", "upstream"].map(str::to_owned));
        let url = remotes.into_iter().find_map(|remote| self.line(&["remote", "get-url", &remote]))?;
        Some(without_credentials(&url))
    }

    /// `path` from the root of the repository on, that of the outer one for a submodule.
    fn path_in_root(&self, path: &Path) -> Option<String> {
        let root = self
            .line(&["rev-parse", "--show-superproject-working-tree"])
            .or_else(|| self.line(&["rev-parse", "--show-toplevel"]))?;
        let path = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok()?;
        let path = path.strip_prefix(PathBuf::from(root)).ok()?.to_str()?;
        Some(if path.is_empty() { "." } else { path }.to_owned())
    }
}

/// A URL without user and password. Addresses of ssh keep their user, which is no secret.
fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use testkit::GitRepository;

    use super::*;

    #[test]
    fn the_labels_of_a_repository() {
        let directory = tempfile::tempdir().unwrap();
        let (root, none) = (directory.path().join("root"), directory.path().join("none"));
        std::fs::create_dir(&none).unwrap();
        let repository = GitRepository::new(root.clone());
        repository.commit(&[("sub/Dockerfile", "FROM scratch"), ("f", "1")]);
        let commit = repository.git(&["rev-parse", "HEAD"]);
        repository.git(&["remote", "add", "origin", "https://me:secret@host/a.git"]);
        let read = |context: &Path, dockerfile: Option<&Path>, marks_changes| {
            let mut notices = Notices::default();
            let labels = labels(&Sources { context, dockerfile, marks_changes }, &mut notices);
            assert_eq!(notices, Notices::default());
            labels.into_values().collect::<Vec<_>>()
        };
        let context = root.join("sub");
        let commit = commit.trim();
        assert_eq!(read(&context, None, true), ["sub/Dockerfile", commit, "https://host/a.git"]);
        std::fs::write(root.join("f"), "2").unwrap();
        let facts =
            |context: &Path, dockerfile| facts(&Sources { context, dockerfile, marks_changes: false });
        let pairs = [("localdir:context", "sub"), ("localdir:dockerfile", "."), ("revision", commit)];
        let pairs = pairs.into_iter().chain([("source", "https://host/a.git")]);
        let expected: BTreeMap<_, _> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        assert_eq!((facts(&context, Some(&root.join("f"))), facts(&none, None)), (expected, BTreeMap::new()));
        let dirty = format!("{commit}-dirty");
        assert_eq!(read(&context, Some(&root.join("f")), true), ["f", &dirty, "https://host/a.git"]);
        assert_eq!(read(&context, Some(&none), false), [commit, "https://host/a.git"]);
        assert_eq!(read(&none, None, true), Vec::<String>::new());
        let broken = directory.path().join("broken");
        std::fs::create_dir_all(broken.join(".git")).unwrap();
        let mut notices = Notices::default();
        let sources = Sources { context: &broken, dockerfile: None, marks_changes: false };
        assert_eq!((labels(&sources, &mut notices).len(), notices.warnings.len()), (0, 1));
    }

    #[test]
    fn what_asks_for_labels() {
        let wanted = |value| are_wanted(value);
        assert!(wanted("full") && wanted("1") && !wanted("false") && !wanted(""));
        assert_eq!(without_credentials("https://a:b@h/x@y"), "https://h/x@y");
        assert_eq!(without_credentials("git@h:a/b.git"), "git@h:a/b.git");
    }
}
