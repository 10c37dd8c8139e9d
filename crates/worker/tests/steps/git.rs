//! ADD of git repositories.

use std::fs;
use std::os::unix::fs::symlink;

use cache::SnapshotterKind;
use solver::{CopyOp, CopySource, GitOp, GitRepository, Input, InputKey, Op, Selector, Unpack};
use testkit::{GitDaemon, GitHttp, GitRepository as Repository};

use crate::bench::{Bench, Built, Draft, chain};
use crate::cases::Test;
use crate::remote::told;

pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_commit_is_its_files", a_commit_is_its_files),
    ("references_become_commits", references_become_commits),
    ("a_second_build_lists_and_fetches_nothing", a_second_build_lists_and_fetches_nothing),
    (
        "a_commit_is_fetched_without_history_and_what_is_known",
        a_commit_is_fetched_without_history_and_what_is_known,
    ),
    ("a_whole_hash_needs_no_network_once_it_is_known", a_whole_hash_needs_no_network_once_it_is_known),
    ("another_commit_is_an_error", another_commit_is_an_error),
    ("a_repository_that_is_kept_can_be_used", a_repository_that_is_kept_can_be_used),
    ("submodules_are_checked_out", submodules_are_checked_out),
    ("files_may_have_the_time_of_their_commit", files_may_have_the_time_of_their_commit),
    ("nothing_of_a_repository_is_executed", nothing_of_a_repository_is_executed),
    ("nothing_outside_is_reached", nothing_outside_is_reached),
    ("tokens_open_repositories", tokens_open_repositories),
    ("a_tired_server_is_asked_again", a_tired_server_is_asked_again),
    ("a_damaged_mirror_is_made_anew", a_damaged_mirror_is_made_anew),
    ("what_cannot_be_had_is_told", what_cannot_be_had_is_told),
    ("longer_hashes_work", longer_hashes_work),
];

fn op(url: &str, reference: Option<&str>) -> GitOp {
    GitOp {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
        checksum: None,
        repository: GitRepository::Removed,
        submodules: true,
        commit_times: false,
    }
}

/// `ADD url:path /dst/` on nothing.
fn add(bench: &Bench, op: GitOp, path: &str) -> Built {
    let mut draft = Draft::default();
    let base = draft.add(Op::Scratch, Vec::new());
    let key = match op.repository {
        GitRepository::Kept => InputKey::Chain,
        GitRepository::Removed => InputKey::Content(Selector {
            paths: vec![path.to_owned()],
            wildcards: false,
            exclude: Vec::new(),
            parents: false,
        }),
    };
    let remote = draft.add(Op::Git(op), Vec::new());
    let copy = CopyOp {
        sources: vec![CopySource::Remote { input: 1, path: path.to_owned() }],
        destination: "/dst/".to_owned(),
        chown: None,
        chmod: None,
        unpack: Unpack::Archives,
        parents: false,
        exclude: Vec::new(),
    };
    let added = draft.add(Op::Copy(copy), vec![chain(base), Input { vertex: remote, key }]);
    bench.solve(draft.graph(), added)
}

/// What was added, and how many steps were executed.
fn added(bench: &Bench, op: GitOp, path: &str) -> (Vec<String>, usize) {
    let solved = add(bench, op, path).result.unwrap();
    (bench.listing(&solved.outputs[0], &["/dst"]), solved.executed)
}

/// A repository in a bench's directory.
fn repository(bench: &Bench) -> Repository {
    Repository::new(bench.directory.path().join("repositories/a.git"))
}

fn a_commit_is_its_files(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    fs::write(repository.directory().join("run"), "#!/bin/sh\n").unwrap();
    symlink("run", repository.directory().join("link")).unwrap();
    repository.git(&["add", "run"]);
    repository.git(&["update-index", "--chmod=+x", "run"]);
    std::process::Command::new("chmod").arg("755").arg(repository.directory().join("run")).status().unwrap();
    repository.commit(&[("dir/file", "x"), (".gitattributes", "dir/file text eol=lf\n")]);
    let (lines, executed) = added(&bench, op(&repository.file_url(), None), "/");
    let expected = [
        "/dst 755 0:0",
        "/dst/.gitattributes 644 0:0 \"dir/file text eol=lf\\n\"",
        "/dst/dir 755 0:0",
        "/dst/dir/file 644 0:0 \"x\"",
        "/dst/link 777 0:0 -> run",
        "/dst/run 755 0:0 \"#!/bin/sh\\n\"",
    ];
    assert_eq!((lines.as_slice(), executed), (expected.map(str::to_owned).as_slice(), 2));
    let (lines, executed) = added(&bench, op(&repository.file_url(), None), "dir");
    assert_eq!(
        (lines.as_slice(), executed),
        (["/dst 755 0:0", "/dst/file 644 0:0 \"x\""].map(str::to_owned).as_slice(), 1)
    );
}

fn references_become_commits(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    let first = repository.commit(&[("f", "1")]);
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "--annotate", "--message=x", "heavy"]);
    repository.commit(&[("f", "2")]);
    repository.git(&["branch", "a/b"]);
    repository.git(&["branch", "light"]);
    repository.commit(&[("f", "3")]);
    let url = repository.file_url();
    for (reference, content) in [
        (None, "3"),
        (Some("main"), "3"),
        (Some("a/b"), "2"),
        (Some("refs/heads/a/b"), "2"),
        (Some("light"), "2"),
        (Some("refs/tags/light"), "1"),
        (Some("heavy"), "1"),
        (Some(first.as_str()), "1"),
    ] {
        let (lines, _) = added(&bench, op(&url, reference), "/");
        assert_eq!(lines[1], format!("/dst/f 644 0:0 {content:?}"), "{reference:?}");
    }
    // A branch that has moved.
    repository.commit(&[("f", "4")]);
    assert_eq!(added(&bench, op(&url, None), "/").0[1], "/dst/f 644 0:0 \"4\"");
}

fn a_second_build_lists_and_fetches_nothing(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    repository.commit(&[("a/f", "1"), ("b/f", "1")]);
    let server = GitHttp::start(&bench.directory.path().join("repositories"));
    let url = server.url("a.git/.git");
    assert_eq!(added(&bench, op(&url, None), "a").1, 2);
    let (first, fetched) = (server.requests().len(), server.fetches());
    assert_eq!(added(&bench, op(&url, None), "a").1, 0);
    let listing = server.requests().split_off(first);
    assert!(listing.len() <= 2 && listing[0].contains("info/refs"), "{listing:?}");
    // What is added has not changed, whatever else has.
    repository.commit(&[("b/f", "2")]);
    assert_eq!(added(&bench, op(&url, None), "a").1, 1);
    assert!(server.fetches() > fetched);
}

fn a_commit_is_fetched_without_history_and_what_is_known(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    // What cannot be compressed.
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut large = vec![0; 2_000_000];
    noise.fill(&mut large);
    fs::write(repository.directory().join("large"), &large).unwrap();
    repository.commit(&[]);
    fs::write(repository.directory().join("large"), "small now").unwrap();
    repository.commit(&[("f", "1")]);
    let daemon = GitDaemon::start(&bench.directory.path().join("repositories"));
    let url = daemon.url("a.git/.git");
    assert_eq!(added(&bench, op(&url, None), "f").1, 2);
    let mirrors = bench.store.root().join("mounts");
    let size = || {
        let output = std::process::Command::new("du").args(["-sb"]).arg(&mirrors).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split('\t').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(size() < 1_000_000, "the history was fetched: {} bytes", size());
    // A large file comes once.
    fs::write(repository.directory().join("large"), &large).unwrap();
    repository.commit(&[("f", "2")]);
    added(&bench, op(&url, None), "f");
    let with_large = size();
    repository.commit(&[("f", "3")]);
    added(&bench, op(&url, None), "f");
    assert!(size() < with_large + 1_000_000, "{with_large} and {} bytes", size());
}

fn a_whole_hash_needs_no_network_once_it_is_known(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    let commit = repository.commit(&[("a", "1"), ("b", "2")]);
    repository.commit(&[("a", "3")]);
    let url = repository.file_url();
    // Not at the tip of any branch.
    assert_eq!(added(&bench, op(&url, Some(&commit)), "a").1, 2);
    fs::rename(repository.directory(), bench.directory.path().join("away")).unwrap();
    assert_eq!(added(&bench, op(&url, Some(&commit)), "a").1, 0);
    assert_eq!(added(&bench, op(&url, Some(&commit)), "b").1, 1);
}

fn another_commit_is_an_error(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    let commit = repository.commit(&[("f", "1")]);
    repository.git(&["tag", "--annotate", "--message=x", "v1"]);
    let tag = repository.git(&["rev-parse", "v1"]);
    let url = repository.file_url();
    let with =
        |checksum: &str, reference| GitOp { checksum: Some(checksum.to_owned()), ..op(&url, reference) };
    for good in [
        with(&commit, None),
        with(&commit[..7], None),
        with(&tag[..9], Some("v1")),
        with(&commit, Some("v1")),
    ] {
        add(&bench, good, "/").result.unwrap();
    }
    let failed = told(add(&bench, with("beef", None), "/"));
    assert_eq!(failed, format!("expected checksum to match beef, got {commit}"));
    let failed = told(add(&bench, with("beef", Some("v1")), "/"));
    assert_eq!(failed, format!("expected checksum to match beef, got {tag} or {commit}"));
}

fn a_repository_that_is_kept_can_be_used(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    let commit = repository.commit(&[("f", "1")]);
    repository.git(&["tag", "--annotate", "--message=x", "v1"]);
    let url = repository.file_url();
    let kept = |reference| GitOp { repository: GitRepository::Kept, ..op(&url, reference) };
    for reference in [None, Some("v1"), Some(commit.as_str())] {
        let solved = add(&bench, kept(reference), "/").result.unwrap();
        let worker::Output::Snapshot(snapshot) = &solved.outputs[0] else { panic!("it is a snapshot") };
        let tree = bench.store.own_dir(&snapshot.id).join("dst");
        let git = |arguments: &[&str]| {
            let output =
                std::process::Command::new("git").arg("-C").arg(&tree).args(arguments).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(
            (git(&["rev-parse", "HEAD"]), git(&["status", "--short"])),
            (commit.clone(), String::new())
        );
        assert_eq!(git(&["remote", "get-url", "origin"]), url);
        let described = if reference == Some("v1") { "v1" } else { "" };
        assert_eq!(git(&["describe", "--exact-match"]), described);
        assert!(!tree.join(".git/FETCH_HEAD").exists() && !tree.join(".git/hooks").exists());
    }
    assert_eq!(add(&bench, kept(None), "/").result.unwrap().executed, 0);
}

fn submodules_are_checked_out(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let root = bench.directory.path().join("repositories");
    let (top, sub, deep) = (
        Repository::new(root.join("top.git")),
        Repository::new(root.join("sub.git")),
        Repository::new(root.join("deep.git")),
    );
    let daemon = GitDaemon::start(&root);
    deep.commit(&[("d", "deep")]);
    sub.commit(&[("s", "sub")]);
    sub.git(&["submodule", "--quiet", "add", &daemon.url("deep.git/.git"), "below"]);
    sub.commit(&[]);
    // An address that is relative to that of the repository.
    top.git(&["remote", "add", "origin", &daemon.url("top.git/.git")]);
    top.git(&["submodule", "--quiet", "add", "../../sub.git/.git", "lib"]);
    top.commit(&[("t", "top")]);
    let url = daemon.url("top.git/.git");
    let names = |op| -> Vec<String> {
        let lines = added(&bench, op, "/").0;
        lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let with = [
        "/dst",
        "/dst/.gitmodules",
        "/dst/lib",
        "/dst/lib/.gitmodules",
        "/dst/lib/below",
        "/dst/lib/below/d",
        "/dst/lib/s",
        "/dst/t",
    ];
    assert_eq!(names(op(&url, None)), with);
    let without = ["/dst", "/dst/.gitmodules", "/dst/lib", "/dst/t"];
    assert_eq!(names(GitOp { submodules: false, ..op(&url, None) }), without);
}

fn files_may_have_the_time_of_their_commit(kind: SnapshotterKind) {
    use std::os::unix::fs::MetadataExt as _;
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    repository.commit(&[("f", "1"), ("dir/g", "2")]);
    let shown = std::process::Command::new("git")
        .arg("-C")
        .arg(repository.directory())
        .args(["log", "-1", "--format=%ct"])
        .output()
        .unwrap();
    let time: i64 = String::from_utf8(shown.stdout).unwrap().trim().parse().unwrap();
    let mut draft = Draft::default();
    let git = GitOp { commit_times: true, ..op(&repository.file_url(), None) };
    let target = draft.add(Op::Git(git), Vec::new());
    let solved = bench.solve(draft.graph(), target).result.unwrap();
    let worker::Output::Snapshot(snapshot) = &solved.outputs[0] else { panic!("it is a snapshot") };
    let tree = bench.store.own_dir(&snapshot.id);
    for name in ["", "f", "dir", "dir/g"] {
        let metadata = fs::symlink_metadata(tree.join(name)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (time, 0), "{name}");
    }
}

fn nothing_of_a_repository_is_executed(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    let trap = bench.directory.path().join("trap");
    let command = format!("touch {}", trap.display());
    repository.commit(&[
        (".gitattributes", "* filter=evil\n"),
        ("f", "x"),
        ("hooks/post-checkout", &format!("#!/bin/sh\n{command}\n")),
    ]);
    repository.git(&["config", "filter.evil.smudge", &command]);
    repository.git(&["config", "uploadpack.packObjectsHook", &command]);
    repository.git(&["config", "core.hooksPath", "hooks"]);
    assert_eq!(
        added(&bench, op(&repository.file_url(), None), "f").0,
        ["/dst 755 0:0", "/dst/f 644 0:0 \"x\""]
    );
    assert!(!trap.exists());
    // References and addresses that look like options.
    for reference in ["--upload-pack=touch /trap", "-x"] {
        let failed = told(add(&bench, op(&repository.file_url(), Some(reference)), "/"));
        assert!(failed.ends_with(&format!("repository does not contain ref {reference}")), "{failed}");
    }
    let failed = told(add(&bench, op("--upload-pack=touch", None), "/"));
    assert!(failed.contains("`git ls-remote` failed"), "{failed}");
    let failed = told(add(&bench, op(&format!("ext::sh -c {command}"), None), "/"));
    assert!(failed.contains("transport 'ext' not allowed") && !trap.exists(), "{failed}");
}

fn nothing_outside_is_reached(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let root = bench.directory.path().join("repositories");
    let (top, other) = (Repository::new(root.join("top.git")), Repository::new(root.join("other.git")));
    other.commit(&[("secret", "x")]);
    symlink("/etc", top.directory().join("out")).unwrap();
    symlink("../../..", top.directory().join("up")).unwrap();
    top.commit(&[("etc/own", "x")]);
    let url = top.file_url();
    // A link to the root leads to the root of the repository.
    assert_eq!(added(&bench, op(&url, None), "out").0, ["/dst 755 0:0", "/dst/own 644 0:0 \"x\""]);
    assert_eq!(added(&bench, op(&url, None), "up/etc").0, ["/dst 755 0:0", "/dst/own 644 0:0 \"x\""]);
    let failed = told(add(&bench, op(&url, None), "../../etc/passwd"));
    assert!(failed.ends_with("\"/etc/passwd\": not found"), "{failed}");
    // A submodule that is a repository of this machine.
    top.git(&["submodule", "--quiet", "add", &other.file_url(), "lib"]);
    top.commit(&[]);
    let failed = told(add(&bench, op(&url, None), "/"));
    assert!(failed.contains("transport 'file' not allowed"), "{failed}");
}

fn tokens_open_repositories(kind: SnapshotterKind) {
    let mut bench = Bench::new(kind);
    repository(&bench).commit(&[("f", "x")]);
    let server = GitHttp::start(&bench.directory.path().join("repositories"));
    let url = server.url("a.git/.git");
    server.set_authorization("Basic eC1hY2Nlc3MtdG9rZW46dA==");
    let failed = add(&bench, op(&url, None), "f");
    let Err(solver::SolveError::Vertex { error: worker::WorkerError::Remote(error), .. }) = failed.result
    else {
        panic!("the server wants a token")
    };
    assert!(error.hint().unwrap().contains("GIT_AUTH_TOKEN"), "{error}");
    let host = server.address().to_owned();
    for (secret, value) in [
        ("GIT_AUTH_TOKEN".to_owned(), "t\n"),
        (format!("GIT_AUTH_TOKEN.{host}"), "t"),
        ("GIT_AUTH_HEADER".to_owned(), "Basic eC1hY2Nlc3MtdG9rZW46dA=="),
        (format!("GIT_AUTH_HEADER.{host}"), "Basic eC1hY2Nlc3MtdG9rZW46dA=="),
    ] {
        bench.secrets = [(secret.clone(), value.as_bytes().to_vec())].into();
        let built = add(&bench, op(&url, None), "f");
        assert!(built.result.is_ok(), "{secret}: {}", told(built));
    }
    bench.secrets.clear();
    let with_password = url.replace("http://", "http://x-access-token:t@");
    assert_eq!(added(&bench, op(&with_password, None), "f").0[1], "/dst/f 644 0:0 \"x\"");
}

fn a_tired_server_is_asked_again(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    repository(&bench).commit(&[("f", "x")]);
    let server = GitHttp::start(&bench.directory.path().join("repositories"));
    server.fail(2);
    assert_eq!(added(&bench, op(&server.url("a.git/.git"), None), "f").0[1], "/dst/f 644 0:0 \"x\"");
    let before = server.requests().len();
    server.fail(99);
    let failed = told(add(&bench, op(&server.url("a.git/.git"), None), "f"));
    assert!(failed.contains("returned error: 503"), "{failed}");
    assert_eq!(server.requests().len() - before, 4);
}

fn a_damaged_mirror_is_made_anew(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = repository(&bench);
    repository.commit(&[("f", "1")]);
    let url = repository.file_url();
    added(&bench, op(&url, None), "f");
    let mirror =
        fs::read_dir(bench.store.root().join("mounts")).unwrap().next().unwrap().unwrap().path().join("fs");
    // What a git that was killed leaves behind, and what a disk that was full does.
    fs::write(mirror.join("shallow.lock"), "").unwrap();
    fs::remove_dir_all(mirror.join("objects")).unwrap();
    repository.commit(&[("f", "2")]);
    assert_eq!(added(&bench, op(&url, None), "f").0[1], "/dst/f 644 0:0 \"2\"");
}

fn what_cannot_be_had_is_told(kind: SnapshotterKind) {
    let mut bench = Bench::new(kind);
    let repository = repository(&bench);
    let url = repository.file_url();
    let failed = told(add(&bench, op(&url, None), "/"));
    assert_eq!(failed, format!("could not find default branch for repository: {url}"));
    repository.commit(&[]);
    let failed = told(add(&bench, op(&url, Some("gone")), "/"));
    assert_eq!(failed, format!("failed to fetch remote {url}: repository does not contain ref gone"));
    let failed = told(add(&bench, op(&url, Some(&"0".repeat(40))), "/"));
    assert!(failed.starts_with(&format!("failed to fetch remote {url}: `git fetch` failed: ")), "{failed}");
    let failed = told(add(&bench, op("file:///no/such/repository.git", None), "/"));
    assert!(failed.contains("does not appear to be a git repository"), "{failed}");
    assert_eq!(added(&bench, op(&url, None), "/").0, ["/dst 755 0:0"]);
    bench.git.insert("PATH".into(), "/no/such/directory".into());
    let failed = add(&bench, op(&url, None), "/");
    let Err(solver::SolveError::Vertex { error: worker::WorkerError::Remote(error), .. }) = failed.result
    else {
        panic!("there is no git")
    };
    assert_eq!(error.hint().as_deref(), Some("install the package `git`"), "{error}");
}

fn longer_hashes_work(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let repository = Repository::with_format(bench.directory.path().join("repositories/a.git"), "sha256");
    let commit = repository.commit(&[("f", "x")]);
    assert_eq!(commit.len(), 64);
    for reference in [None, Some(commit.as_str())] {
        for repository_is in [GitRepository::Removed, GitRepository::Kept] {
            let op = GitOp { repository: repository_is, ..op(&repository.file_url(), reference) };
            let solved = add(&bench, op, "/").result.unwrap();
            assert_eq!(bench.listing(&solved.outputs[0], &["/dst/f"]), ["/dst/f 644 0:0 \"x\""]);
        }
    }
}
