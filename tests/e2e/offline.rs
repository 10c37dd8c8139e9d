//! Builds that take what was seen before: pull policies, `--offline`, lock files.

use std::fs;
use std::path::PathBuf;

use testkit::{FaultKind, GitHttp, GitRepository, ScriptedRegistry, WebFile};

use crate::lab::{Lab, bases};

/// A registry with the base images, and a web server at the same address.
fn server() -> ScriptedRegistry {
    let server = ScriptedRegistry::start();
    server.load_oci_layout(bases(), "library");
    server
}

fn file(content: &str) -> WebFile {
    WebFile { content: content.to_owned().into(), ..WebFile::default() }
}

#[test]
fn a_pull_policy_says_when_a_registry_is_asked() {
    let (lab, server) = (Lab::new(), server());
    let image = format!("{}/library/busybox", server.address());
    let context = lab.context("ctx", &[("Dockerfile", &format!("FROM {image}\nRUN echo x > /x\n"))]);
    let lacks =
        format!("the store lacks the manifest of `{image}`, and `--pull=never` keeps it from being fetched");
    lab.build(&context, &["--pull=never"]).failed(1, &["Dockerfile:1\n", &lacks]);
    assert_eq!(server.requests().len(), 0);
    lab.build(&context, &["--pull=missing"]).succeeded();
    let asked = server.requests().len();
    assert!(asked > 0);
    for policy in ["--pull=missing", "--pull=never"] {
        lab.build(&context, &[policy, "-t", "x"]).succeeded();
        assert_eq!(server.requests().len(), asked, "{policy}");
    }
    for policy in ["--pull", "--pull=true", "--pull=newer", "--pull=false"] {
        let before = server.requests().len();
        lab.build(&context, &[policy]).succeeded();
        assert!(server.requests().len() > before, "{policy}");
    }
    server.fault("GET", "/manifests/", 100, FaultKind::Status(404, None));
    server.fault("HEAD", "/manifests/", 100, FaultKind::Status(404, None));
    let ran = lab.build(&context, &["--pull=newer"]).succeeded();
    assert!(ran.stderr.contains("is what was last seen, as the registry did not answer"), "{}", ran.stderr);
    lab.build(&context, &[]).failed(1, &["was not found"]);
    lab.build(&context, &["--pull=sometimes"]).failed(2, &["`always`, `missing`"]);
}

/// A repository `a.git` that a server shows, and the commands to change it.
fn repository(lab: &Lab) -> (PathBuf, GitRepository) {
    let root = lab.path("repositories");
    let repository = GitRepository::new(root.join("work"));
    repository.commit(&[("f", "first")]);
    repository.git(&["tag", "-a", "-m", "a tag", "v1"]);
    std::os::unix::fs::symlink(root.join("work/.git"), root.join("a.git")).expect("a link can be made");
    (root, repository)
}

#[test]
fn a_build_without_a_network_takes_what_was_seen_and_says_what_it_lacks() {
    let (lab, server) = (Lab::new(), server());
    let (root, _repository) = repository(&lab);
    let git = GitHttp::start(&root);
    server.put_file("/f.txt", file("a file"));
    let image = format!("{}/library/busybox", server.address());
    let (url, remote) = (server.url("/f.txt"), git.url("a.git"));
    let dockerfile =
        format!("FROM {image}\nADD {url} /\nADD {remote}#v1 /src\nRUN cat /f.txt /src/f > /out\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    lab.build(&context, &["--offline"]).failed(1, &["Dockerfile:1\n", "`--offline` keeps it"]);
    assert_eq!((server.requests().len(), git.requests().len()), (0, 0));
    lab.build(&context, &[]).succeeded();
    let (pages, fetches) = (server.requests().len(), git.requests().len());
    // All anew, but for what is fetched.
    let out = lab.path("out");
    let output = format!("--output={}", out.display());
    lab.build(&context, &["--offline", "--no-cache", &output]).succeeded();
    assert_eq!(fs::read_to_string(out.join("out")).expect("the file is there"), "a filefirst");
    assert_eq!((server.requests().len(), git.requests().len()), (pages, fetches));
    let more = server.url("/more.txt");
    let context = lab.context("more", &[("Dockerfile", &format!("FROM {image}\nADD {more} /\n"))]);
    let lacks = format!("the store lacks {more}, and `--offline` keeps it from being fetched");
    lab.build(&context, &["--offline"]).failed(1, &["Dockerfile:2\n", &lacks]);
    let context = lab.context("branch", &[("Dockerfile", &format!("FROM scratch\nADD {remote}#main /\n"))]);
    lab.build(&context, &["--offline"]).failed(1, &["the store lacks", "a.git"]);
    lab.build(&context, &["--offline", "--push", "-t", "localhost:1/x"]).failed(2, &["exclude each other"]);
}

#[test]
fn a_lock_file_is_written_obeyed_and_checked() {
    let (lab, server) = (Lab::new(), server());
    let (root, repository) = repository(&lab);
    let git = GitHttp::start(&root);
    server.put_file("/f.txt", file("a file"));
    let image = format!("{}/library/busybox", server.address());
    let (url, remote) = (server.url("/f.txt"), git.url("a.git"));
    let dockerfile = format!(
        "FROM {image}\nADD {url} /\nADD {remote}#v1 /src\nRUN echo ${{BASE_ENV:-none}} $(cat /f.txt /src/f) > /out\n"
    );
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    assert_eq!(lab.build_tree(&context, &["--lock"]).text("out"), "none a filefirst\n");
    let lock = fs::read_to_string(context.join("Dockerfile.lock")).expect("the lock file is there");
    for text in [format!("name = \"{image}:latest\""), format!("url = \"{url}\""), "ref = \"v1\"".to_owned()]
    {
        assert!(lock.contains(&text), "{text} in {lock}");
    }
    // All sources move on; another machine still builds the same.
    let other = server.manifest("library/rich-base", "latest").expect("it is one of the bases");
    server.put_manifest("library/busybox", Some("latest"), oci::MediaType::OCI_MANIFEST, other.1);
    repository.commit(&[("f", "second")]);
    repository.git(&["tag", "-f", "-a", "-m", "a tag", "v1"]);
    let elsewhere = Lab::new();
    assert_eq!(elsewhere.build_tree(&context, &[]).text("out"), "none a filefirst\n");
    let build = |arguments: &[&str]| elsewhere.build(&context, arguments);
    // What cannot be had any more as it was is an error, not something else.
    server.put_file("/f.txt", file("another file"));
    let third = Lab::new();
    third.build(&context, &[]).failed(1, &["digest mismatch", "Dockerfile:2\n"]);
    // A source that it does not name is an error, and `--lock` mends that.
    let more = format!("{dockerfile}FROM {}/library/rich-base\n", server.address());
    fs::write(context.join("Dockerfile"), &more).expect("the Dockerfile can be written");
    let missing = format!("`{}/library/rich-base:latest` is not in the lock file", server.address());
    build(&[]).failed(1, &["Dockerfile:5\n", &missing, "`--lock`"]);
    build(&["--lock"]).succeeded();
    build(&[]).succeeded();
    let both = fs::read_to_string(context.join("Dockerfile.lock")).expect("the lock file is there");
    assert!(both.contains("busybox:latest") && both.contains("rich-base:latest"), "{both}");
    fs::write(context.join("Dockerfile.lock"), "version = 9\n").expect("the lock file can be written");
    build(&[]).failed(2, &["Dockerfile.lock` is not right", "version"]);
}
