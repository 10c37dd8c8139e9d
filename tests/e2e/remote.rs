//! ADD of URLs and git repositories, and contexts that are one.

use std::path::Path;

use testkit::{GitDaemon, GitHttp, GitRepository, ScriptedRegistry, WebFile, run_with_timeout};

use crate::lab::{Lab, Ran, TIMEOUT, run};

fn file(content: &str, etag: &str) -> WebFile {
    WebFile {
        content: content.to_owned().into(),
        etag: Some(etag.to_owned()),
        last_modified: Some("Tue, 05 Mar 2024 10:00:00 GMT".to_owned()),
        ..WebFile::default()
    }
}

#[test]
fn a_second_build_makes_one_conditional_request() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/dir/data.txt", file("first", "\"1\""));
    let url = server.url("/dir/data.txt");
    let dockerfile =
        format!("FROM busybox\nADD {url} /data/\nADD --chmod=644 {url} /renamed\nRUN cat /renamed > /out\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!((tree.text("data/data.txt"), tree.text("out")), ("first".to_owned(), "first".to_owned()));
    let mode = |name: &str| tree.0.iter().find(|(known, ..)| known == name).map(|(_, mode, ..)| *mode);
    assert_eq!((mode("data/data.txt"), mode("renamed")), (Some(0o600), Some(0o644)));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    let requests = server.requests();
    let last = requests.last().map(|request| (request.method.as_str(), request.condition.as_deref()));
    assert_eq!((requests.len(), last), (2, Some(("HEAD", Some("\"1\"")))));
    server.put_file("/dir/data.txt", file("second", "\"2\""));
    assert_eq!(lab.build_tree(&context, &[]).text("out"), "second");
}

#[test]
fn a_checksum_needs_no_network_once_it_was_seen() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/f", file("x", "\"1\""));
    let sum = oci::Digest::sha256(b"x");
    let dockerfile = format!("FROM scratch\nADD --checksum={sum} {} /\n", server.url("/f"));
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    assert_eq!(lab.build_tree(&context, &[]).text("f"), "x");
    drop(server);
    lab.build(&context, &[]).succeeded();
}

#[test]
fn failures_name_the_url_and_the_line() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/f", file("x", "\"1\""));
    let (url, wrong) = (server.url("/f"), oci::Digest::sha256(b"y"));
    let dockerfile = format!("FROM scratch\nADD --checksum={wrong} {url} /\n");
    let context = lab.context("wrong", &[("Dockerfile", &dockerfile)]);
    let mismatch = format!("digest mismatch for {url}: {}", oci::Digest::sha256(b"x"));
    lab.build(&context, &[]).failed(1, &[&mismatch, "Dockerfile:2\n", ">>> ADD"]);
    let gone = server.url("/gone");
    let context = lab.context("gone", &[("Dockerfile", &format!("FROM scratch\n\nADD {gone} /\n"))]);
    let status = format!("cannot fetch `{gone}`: invalid response status 404");
    lab.build(&context, &[]).failed(1, &[&status, "Dockerfile:3\n"]);
}

/// A repository `a.git` with two branches, served from the returned directory.
fn repositories(lab: &Lab) -> (std::path::PathBuf, GitRepository) {
    let root = lab.path("repositories");
    let repository = GitRepository::new(root.join("work"));
    repository.commit(&[("dir/f", "main"), ("other", "x")]);
    repository.git(&["tag", "v1"]);
    repository.git(&["checkout", "--quiet", "-b", "next"]);
    repository.commit(&[("dir/f", "next")]);
    repository.git(&["checkout", "--quiet", "main"]);
    std::os::unix::fs::symlink(root.join("work/.git"), root.join("a.git")).expect("a link can be made");
    (root, repository)
}

#[test]
fn a_repository_is_listed_and_fetched_where_it_has_changed() {
    let lab = Lab::new();
    let (root, repository) = repositories(&lab);
    let server = GitHttp::start(&root);
    let url = server.url("a.git");
    let dockerfile = format!(
        "FROM busybox\nADD {url}#:dir /main/\nADD --chown=1:2 {url}?branch=next /next\nRUN cat /main/f > /out\n"
    );
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!((tree.text("out"), tree.text("next/dir/f")), ("main".to_owned(), "next".to_owned()));
    assert_eq!((tree.uid("next/dir/f"), tree.has("next/.git")), (Some(1), false));
    let before = server.requests().len();
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    let again = server.requests().split_off(before);
    assert!(
        again.len() <= 4 && again.iter().filter(|line| line.contains("info/refs")).count() == 2,
        "{again:?}"
    );
    // Another directory of the branch has changed: nothing that depends on this one runs.
    repository.commit(&[("other", "y")]);
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    repository.commit(&[("dir/f", "changed")]);
    assert_eq!(lab.build_tree(&context, &[]).text("out"), "changed");
}

#[test]
fn a_commit_needs_no_network_once_it_was_seen() {
    let lab = Lab::new();
    let (root, repository) = repositories(&lab);
    let daemon = GitDaemon::start(&root);
    let commit = repository.git(&["rev-parse", "next"]);
    let url = daemon.url("a.git");
    let dockerfile =
        format!("FROM scratch\nADD {url}#{commit}:dir /\nADD --keep-git-dir=true {url}#{commit} /k\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!((tree.text("f"), tree.text("k/.git/HEAD")), ("next".to_owned(), format!("{commit}\n")));
    drop(daemon);
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
}

#[test]
fn failures_of_git_name_the_repository_and_the_line() {
    let lab = Lab::new();
    let (root, repository) = repositories(&lab);
    let server = GitHttp::start(&root);
    let url = server.url("a.git");
    let commit = repository.git(&["rev-parse", "main"]);
    let rows = [
        (
            format!("ADD {url}#gone /"),
            format!("failed to fetch remote {url}: repository does not contain ref gone"),
        ),
        (format!("ADD --checksum=beef {url} /"), format!("expected checksum to match beef, got {commit}")),
        (format!("ADD {url}#:gone /"), "\"/gone\": not found".to_owned()),
        (format!("ADD {} /", server.url("no.git")), "not found".to_owned()),
    ];
    for (index, (line, expected)) in rows.iter().enumerate() {
        let name = format!("ctx{index}");
        let context = lab.context(&name, &[("Dockerfile", &format!("FROM scratch\n\n{line}\n"))]);
        lab.build(&context, &[]).failed(1, &[expected, "Dockerfile:3\n"]);
    }
    let context = lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {url} /\n"))]);
    let mut command = lab.build_command(&context, &[]);
    command.env("PATH", "/no/such/directory");
    let ran = crate::lab::Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60)));
    ran.failed(3, &["there is no such program", "install the package `git`"]);
    server.set_authorization("Basic x");
    lab.build(&context, &[]).failed(1, &["GIT_AUTH_TOKEN"]);
}

/// A repository with Dockerfiles, served by `git daemon` from `repositories`.
fn project(lab: &Lab) -> GitRepository {
    let repository = GitRepository::new(lab.path("repositories/p.git"));
    repository.commit(&[
        ("Dockerfile", "FROM busybox\nCOPY . /all/\nRUN cat /all/f > /out\n"),
        ("f", "top"),
        (".dockerignore", "f\n"),
        ("sub/Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f > /out\n"),
        ("sub/f", "sub"),
        ("sub/other/Other", "FROM busybox\nCOPY --from=named g /g\nRUN echo other > /out\n"),
        ("sub/other/g", "named"),
    ]);
    repository
}

#[test]
fn a_repository_is_a_context() {
    let lab = Lab::new();
    let repository = project(&lab);
    let daemon = GitDaemon::start(&lab.path("repositories"));
    let url = daemon.url("p.git/.git");
    let tree = |reference: &str, arguments: &[&str]| {
        let context = format!("{url}{reference}");
        lab.build_tree(Path::new(&context), arguments)
    };
    let top = tree("", &[]);
    // The ignore file of a repository means nothing.
    assert_eq!((top.text("out"), top.has("all/.git"), top.uid("all/f")), ("top".to_owned(), false, Some(0)));
    assert!(tree("", &["--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).has("all/.git"));
    assert_eq!(tree("#main:sub", &[]).text("out"), "sub");
    let named = format!("--build-context=named={url}#:sub/other");
    let other = tree("#:sub", &["-f", "other/Other", &named]);
    assert_eq!((other.text("out"), other.text("g")), ("other\n".to_owned(), "named".to_owned()));
    let again = lab.build(Path::new(&format!("{url}#:sub")), &[]).succeeded();
    assert_eq!(again.executed(), Vec::<String>::new());
    repository.commit(&[("sub/f", "changed")]);
    assert_eq!(tree("#:sub", &[]).text("out"), "changed");
    lab.build(Path::new(&format!("{url}#:gone")), &[]).failed(1, &["there is no directory `gone`"]);
    lab.build(Path::new(&format!("{url}#gone")), &[]).failed(1, &["repository does not contain ref gone"]);
    lab.build(Path::new(&url), &["-f", "../../etc/passwd"]).failed(1, &["failed to read dockerfile"]);
    lab.build(Path::new("https://host/a.git?x=y"), &[]).failed(2, &["unexpected query \"x\""]);
}

#[test]
fn archives_and_dockerfiles_behind_urls_are_contexts() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    let files = [
        ("Dockerfile", "FROM busybox\nCOPY . /all/\nRUN cat /all/f > /out\n"),
        ("f", "x"),
        (".dockerignore", "f\n"),
    ];
    let directory = lab.context("ctx", &files);
    let archive = lab.path("context.tar");
    let (archive, from) = (archive.to_string_lossy(), directory.to_string_lossy());
    for (option, path) in [("-cf", "/plain"), ("-czf", "/gzip"), ("-cJf", "/xz"), ("--zstd", "/zstd")] {
        let option = if option == "--zstd" { vec!["--zstd", "-cf"] } else { vec![option] };
        run("tar", &[&["-C", &from][..], &option, &[&archive, "."]].concat());
        let content = std::fs::read(&*archive).expect("the archive can be read").into();
        server.put_file(path, WebFile { content, ..file("", path.trim_start_matches('/')) });
        assert_eq!(lab.build_tree(Path::new(&server.url(path)), &[]).text("out"), "x", "{path}");
    }
    let before = server.requests().len();
    assert_eq!(lab.build(Path::new(&server.url("/gzip")), &[]).succeeded().executed(), Vec::<String>::new());
    let again: Vec<_> =
        server.requests().split_off(before).into_iter().map(|request| request.method).collect();
    assert_eq!(again, ["HEAD"]);
    server
        .put_file("/alone", file("FROM busybox\nCOPY --from=data context /c\nRUN echo a > /out\n", "\"a\""));
    let named = format!("--build-context=data={}", server.url("/alone"));
    let tree = lab.build_tree(Path::new(&server.url("/alone")), &[&named]);
    assert_eq!((tree.text("out"), tree.text("c").starts_with("FROM busybox")), ("a\n".to_owned(), true));
    lab.build(Path::new(&server.url("/alone")), &["-f", "x"]).failed(2, &["ambiguous Dockerfile source"]);
    lab.build(Path::new(&server.url("/gone")), &[]).failed(1, &["invalid response status 404"]);
    lab.build(Path::new(&server.url("/gzip")), &["--check"]).succeeded();
}

#[test]
fn secrets_of_the_build_open_servers() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    project(&lab);
    let git = GitHttp::start(&lab.path("repositories"));
    git.set_authorization("Basic eC1hY2Nlc3MtdG9rZW46dA==");
    server.put_file("/f", WebFile { authorization: Some("Bearer t".to_owned()), ..file("x", "\"1\"") });
    let dockerfile =
        format!("FROM busybox\nADD {} {}#:sub/other /\n", server.url("/f"), git.url("p.git/.git"));
    lab.context("ctx", &[("Dockerfile", &dockerfile), ("token", "t\n")]);
    let context = lab.path("ctx");
    lab.build(&context, &[]).failed(1, &["the secret `HTTP_AUTH_TOKEN_127.0.0.1`"]);
    let token = context.join("token");
    let secret = |id: &str| format!("--secret=id={id},src={}", token.display());
    let secrets = [secret("HTTP_AUTH_TOKEN_127.0.0.1"), secret("GIT_AUTH_TOKEN")];
    let tree = lab.build_tree(&context, &[&secrets[0], &secrets[1]]);
    assert_eq!((tree.text("f"), tree.text("g")), ("x".to_owned(), "named".to_owned()));
    let url = format!("{}#main:sub", git.url("p.git/.git"));
    assert_eq!(lab.build_tree(Path::new(&url), &[&secrets[1]]).text("out"), "sub");
    lab.build(Path::new(&url), &[]).failed(1, &["GIT_AUTH_TOKEN"]);
}

#[test]
fn a_dockerfile_behind_a_url_builds_a_context_that_is_here() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/f", file("FROM busybox\nCOPY . /all\nRUN cat /all/* > /out\n", "\"1\""));
    let context = lab.context("ctx", &[("a", "one"), ("b", "two"), (".dockerignore", "b\n")]);
    let flag = format!("--file={}", server.url("/f"));
    assert_eq!(lab.build_tree(&context, &[&flag]).text("out"), "one");
    assert_eq!(lab.build(&context, &[&flag]).succeeded().executed(), Vec::<String>::new());
    let asked = server.requests().len();
    lab.build(&context, &[&flag, "--offline"]).succeeded();
    assert_eq!(server.requests().len(), asked, "offline, what was last seen of it holds");
    server.put_file("/f", file("FROM busybox\nRUUN x\n", "\"2\""));
    lab.build(&context, &[&flag])
        .failed(1, &["Dockerfile:2", "unknown instruction: RUUN (did you mean RUN?)"]);
    lab.build(&context, &[&flag, "--lock"]).failed(2, &["`--lock` needs a Dockerfile that is a file"]);
    let gone = server.url("/gone");
    let missing = format!("cannot fetch `{gone}`: invalid response status 404");
    lab.build(&context, &[&format!("-f{gone}")]).failed(1, &[&missing]);
    let archive = lab.path("ctx.tar");
    run("tar", &["-C", &context.to_string_lossy(), "-cf", &archive.to_string_lossy(), "."]);
    server.put_file("/f", file("FROM busybox\nCOPY a /out\n", "\"3\""));
    let mut command = lab.build_command(Path::new("-"), &[&flag, "--output=type=local,dest=out"]);
    command.stdin(std::fs::File::open(&archive).expect("the archive is there"));
    Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
    assert_eq!(std::fs::read_to_string(lab.path("out/out")).expect("it was written"), "one");
}
