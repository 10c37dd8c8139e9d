//! Contexts that are elsewhere: git repositories, and files of HTTP servers. They are fetched into the store before the
//! Dockerfile can be read, which may be in one.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use cache::Store;
use cache::layer::{ARCHIVE_START_BYTES, begins_archive, newest_time};
use cache::tree::{FileKind, Follow, TreeError, TreeMode, TreeView};
use frontend::GitReference;
use solver::{GitOp, GraphBuilder, HttpOp, Op, SolveError, SolveOptions, VertexMeta};
use tokio_util::sync::CancellationToken;
use worker::{ContextSource, IgnoreRules, LocalWorker, Output, WorkerError};

use crate::report::{self, Failure};
use crate::session::blocking;

/// The name of a file in the context that is nothing but that, as with docker.
const FILE: &str = "context";

/// A context that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RemoteContext {
    /// A directory of a git repository.
    Git(GitReference),
    /// A file of an HTTP server.
    Http(String),
}

/// A context that was elsewhere.
#[derive(Debug, Clone)]
pub(crate) enum FetchedContext {
    /// A directory.
    Directory(PathBuf),
    /// A directory with one file of this name.
    File(PathBuf, &'static str),
}

/// What a file is to a build whose context it is.
pub(crate) enum MainFile {
    /// An archive with the context, unpacked.
    Archive(ContextSource),
    /// A Dockerfile, to be read; there is no context.
    Definition(std::fs::File),
}

impl RemoteContext {
    /// What `text` names; `None` if it is something on this machine.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        match GitReference::parse_context(text) {
            Some(Ok(git)) => Some(Ok(Self::Git(git))),
            Some(Err(problem)) => Some(Err(format!("invalid context `{text}`: {problem}"))),
            None if is_http(text) => Some(Ok(Self::Http(text.to_owned()))),
            None => None,
        }
    }

    /// The same with `.git`, if that is asked for and it is a repository.
    pub(crate) fn keeping_git_dir(self, keep: bool) -> Self {
        match self {
            Self::Git(git) if keep && git.keep_git_dir.is_none() => {
                Self::Git(GitReference { keep_git_dir: Some(true), ..git })
            }
            other => other,
        }
    }

    /// The same with the time of the commit on all files, if that is asked for and it is a repository.
    pub(crate) fn with_commit_times(self, wanted: bool) -> Self {
        match self {
            Self::Git(git) => Self::Git(GitReference { commit_times: git.commit_times || wanted, ..git }),
            other @ Self::Http(_) => other,
        }
    }

    /// What fetches it.
    pub(crate) fn op(&self) -> Op {
        match self {
            Self::Git(git) => Op::Git(git.op()),
            Self::Http(url) => Op::Http(HttpOp { url: url.clone(), name: FILE.to_owned(), checksum: None }),
        }
    }
}

impl FetchedContext {
    /// The context as one of this machine. Ignore files in it mean nothing: whoever made it has left out what is to be
    /// left out.
    pub(crate) fn source(&self) -> ContextSource {
        let (Self::Directory(directory) | Self::File(directory, _)) = self;
        ContextSource { directory: directory.clone(), ignore: IgnoreRules::default() }
    }
}

/// Whether `text` is the URL of an HTTP server.
pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What the file `name` in `directory` is: told by its content. Blocks.
pub(crate) fn main_file(directory: &std::path::Path, name: &str, store: &Store) -> Result<MainFile, Failure> {
    let path = directory.join(name);
    let unreadable =
        |error: std::io::Error| Failure::solve(&format!("cannot read `{}`: {error}", path.display()));
    let mut file = std::fs::File::open(&path).map_err(unreadable)?;
    let mut start = Vec::new();
    file.by_ref().take(ARCHIVE_START_BYTES as u64).read_to_end(&mut start).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    if !begins_archive(&start) {
        return Ok(MainFile::Definition(file));
    }
    let unpacked = ContextSource::unpack(file, store);
    unpacked
        .map(MainFile::Archive)
        .map_err(|error| Failure::solve(&report::chain(&error)).of_kind(report::kind_of(&error)))
}

/// Fetches all of them, so far as they have changed, by name.
pub(crate) async fn fetch(
    contexts: &BTreeMap<String, RemoteContext>,
    worker: &LocalWorker,
    salt: Vec<u8>,
) -> Result<BTreeMap<String, FetchedContext>, Failure> {
    if contexts.is_empty() {
        return Ok(BTreeMap::new());
    }
    let outputs = fetch_all(contexts.values().map(RemoteContext::op), worker, salt).await?;
    let mut fetched = BTreeMap::new();
    for ((name, context), output) in contexts.iter().zip(outputs) {
        let (context, store) = (context.clone(), worker.store().clone());
        fetched.insert(name.clone(), blocking(move || place(&context, &output, &store)).await?);
    }
    Ok(fetched)
}

/// When what is fetched is from, in seconds since 1970, as BuildKit takes it for `SOURCE_DATE_EPOCH`: the time of the
/// commit; the time at which the server says that the file was last changed, else that of the newest file in it if it is
/// an archive.
pub(crate) async fn time_of(op: Op, worker: &LocalWorker, salt: Vec<u8>) -> Result<Option<i64>, Failure> {
    let op = match op {
        // All of a checkout has the commit's time then.
        Op::Git(git) => Op::Git(GitOp { commit_times: true, ..git }),
        other => other,
    };
    let output = fetch_all(std::iter::once(op.clone()), worker, salt).await?.pop();
    let Some(Output::Snapshot(snapshot)) = output else { unreachable!("a remote source is a snapshot") };
    let worker = worker.clone();
    blocking(move || {
        let directory = worker.store().own_dir(&snapshot.id);
        let failed = |error: std::io::Error| {
            Failure::solve(&format!("cannot read `{}`: {error}", directory.display()))
        };
        if let Op::Http(file) = &op {
            let modified =
                worker.modified_at(file).map_err(|error| Failure::solve(&report::chain(&error)))?;
            if modified.is_some() {
                return Ok(modified);
            }
            return Ok(newest_time(std::fs::File::open(directory.join(&file.name)).map_err(failed)?));
        }
        let first = std::fs::read_dir(&directory).map_err(failed)?.next().transpose().map_err(failed)?;
        let time = first.map(|entry| entry.metadata().map(|metadata| metadata.mtime())).transpose();
        time.map_err(failed)
    })
    .await
}

/// The time of the newest regular file beneath a directory, in seconds since 1970.
pub(crate) fn newest_file(directory: &std::path::Path) -> std::io::Result<Option<i64>> {
    let mut newest = None;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() {
                newest = newest.max(Some(metadata.mtime()));
            }
        }
    }
    Ok(newest)
}

async fn fetch_all(
    ops: impl Iterator<Item = Op>,
    worker: &LocalWorker,
    salt: Vec<u8>,
) -> Result<Vec<Output>, Failure> {
    let mut graph = GraphBuilder::new();
    let add = |op| {
        let vertex = graph.add(op, Vec::new(), VertexMeta::default());
        vertex.map_err(|error| Failure::solve(&error.to_string()))
    };
    let targets: Vec<_> = ops.map(add).collect::<Result<_, _>>()?;
    let options = SolveOptions {
        parallelism: targets.len(),
        salt,
        cancel: CancellationToken::new(),
        events: Arc::new(|_| {}),
    };
    let solved = solver::solve(Arc::new(graph.finish()), &targets, Arc::new(worker.clone()), options).await;
    Ok(solved.map_err(|error| failure(&error))?.outputs)
}

/// Where in the store it is. Its snapshot has no parent, so that its own directory has all of it; and it stays for as
/// long as this run.
fn place(context: &RemoteContext, output: &Output, store: &Store) -> Result<FetchedContext, Failure> {
    let Output::Snapshot(snapshot) = output else { unreachable!("a remote source is a snapshot") };
    let directory = store.own_dir(&snapshot.id);
    let RemoteContext::Git(git) = context else { return Ok(FetchedContext::File(directory, FILE)) };
    let failed = |error: TreeError| Failure::solve(&report::chain(&error));
    // Links in a repository lead nowhere but into it.
    let view = TreeView::open(std::slice::from_ref(&directory), TreeMode::PLAIN).map_err(failed)?;
    let path = PathBuf::from("/").join(git.path());
    let resolved = view.resolve(&path, Follow::All).map_err(failed)?;
    let kind = view.entry(&resolved).map_err(failed)?.map(|entry| entry.kind);
    if kind != Some(FileKind::Directory) {
        let (url, path) = (registry::redacted(&git.url), git.path());
        return Err(Failure::solve(&format!("there is no directory `{path}` in the repository {url}")));
    }
    Ok(FetchedContext::Directory(directory.join(resolved.strip_prefix("/").unwrap_or(&resolved))))
}

fn failure(error: &SolveError<WorkerError>) -> Failure {
    match error {
        SolveError::Vertex { error, .. } => {
            Failure::solve(&report::chain(error)).of_kind(report::kind_of(error)).with_hints(error.hint())
        }
        other => Failure::solve(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_elsewhere() {
        let parse = |text: &str| RemoteContext::parse(text).map(Result::unwrap);
        let git =
            |url: &str| Some(RemoteContext::Git(GitReference { url: url.into(), ..GitReference::default() }));
        assert_eq!(parse("https://host/a.git"), git("https://host/a.git"));
        assert_eq!(parse("git@host:a"), git("git@host:a"));
        assert_eq!(parse("github.com/a/b"), git("https://github.com/a/b"));
        assert_eq!(parse("https://host/a.tar"), Some(RemoteContext::Http("https://host/a.tar".to_owned())));
        assert_eq!(parse("dir/a.git"), None);
        assert!(RemoteContext::parse("https://host/a.git?x=y").unwrap().is_err());
    }

    #[test]
    fn repositories_are_kept_where_that_is_asked_for() {
        let keep = |text: &str| match RemoteContext::parse(text).unwrap().unwrap().keeping_git_dir(true) {
            RemoteContext::Git(git) => git.keep_git_dir,
            RemoteContext::Http(_) => None,
        };
        assert_eq!(keep("https://host/a.git"), Some(true));
        assert_eq!(keep("https://host/a.git?keep-git-dir=0"), Some(false));
        assert_eq!(keep("https://host/a.tar"), None);
    }
}
