//! `SOURCE_DATE_EPOCH` that names what it is the time of, as BuildKit takes it.

use std::path::Path;
use std::process::Stdio;

use testkit::{GitHttp, GitRepository, ScriptedRegistry, WebFile, run_with_timeout};

use crate::image_forms::Layout;
use crate::lab::{Lab, Ran, TIMEOUT};

/// Tuesday, 5 March 2024, 10:00:00.
const TIME: (&str, &str) = ("Tue, 05 Mar 2024 10:00:00 GMT", "2024-03-05T10:00:00Z");

/// A tar with files of 2001 and 2017, and a directory of 2033, which does not count.
fn archive(dockerfile: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, time, content: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_mtime(time);
        builder.append_data(&mut header, name, content.as_bytes()).expect("an entry can be written");
    };
    add("Dockerfile", tar::EntryType::Regular, 1_000_000_000, dockerfile);
    add("f", tar::EntryType::Regular, 1_500_000_000, "x");
    add("d/", tar::EntryType::Directory, 2_000_000_000, "");
    builder.into_inner().expect("a tar can be written")
}

const NEWEST: &str = "2017-07-14T02:40:00Z";

fn created(lab: &Lab, context: &Path, arguments: &[&str]) -> String {
    let name = format!("layout-{}", std::fs::read_dir(lab.directory.path()).map_or(0, Iterator::count));
    let layout = Layout::build(lab, context, &name, "", arguments);
    let config = layout.document(&layout.manifest()["config"]);
    config["created"].as_str().expect("an image has a time").to_owned()
}

#[test]
fn stages_and_contexts_give_their_times() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    let dated = Some(TIME.0.to_owned());
    server.put_file("/dated", WebFile { content: "x".into(), last_modified: dated, ..WebFile::default() });
    server.put_file("/a.tar", WebFile { content: archive("").into(), ..WebFile::default() });
    server.put_file("/plain", WebFile { content: "no archive".into(), ..WebFile::default() });
    let text = format!(
        "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {} /\nFROM busybox\nARG SOURCE_DATE_EPOCH\n\
         RUN echo $SOURCE_DATE_EPOCH > /epoch\n",
        server.url("/dated")
    );
    let context = lab.context("ctx", &[("Dockerfile", &text)]);
    assert_eq!(created(&lab, &context, &[]), TIME.1);
    assert_eq!(lab.build_tree(&context, &[]).text("epoch"), "1709632800\n");
    let named = |path: &str, name: &str| format!("--build-context={name}={}", server.url(path));
    let epoch = |name: &str| format!("--build-arg=SOURCE_DATE_EPOCH={name}");
    assert_eq!(created(&lab, &context, &[&named("/dated", "c"), &epoch("c")]), TIME.1);
    assert_eq!(created(&lab, &context, &[&named("/a.tar", "c"), &epoch("c")]), NEWEST);
    // What has no time is as good as nothing: the image is of today.
    for arguments in [vec![named("/plain", "c"), epoch("c")], vec![epoch("context")]] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let created = created(&lab, &context, &arguments);
        assert!(created.as_str() > "2026", "{created}");
    }
    let gone = [named("/dated", "c"), "--build-arg=SOURCE_DATE_EPOCH=d".to_owned()];
    lab.build(&context, &[&gone[0], &gone[1], "-t", "x"]).failed(1, &["invalid SOURCE_DATE_EPOCH: d"]);
    let message =
        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported copy instruction";
    std::fs::write(context.join("Dockerfile"), text.replace("ADD", "COPY")).expect("a file can be written");
    lab.build(&context, &["-t", "x"]).failed(1, &[message]);
}

#[test]
fn the_build_context_gives_its_time() {
    let lab = Lab::new();
    let root = lab.path("repositories");
    let repository = GitRepository::new(root.join("work"));
    let dockerfile = "FROM scratch\nCOPY d/f Dockerfile /\n";
    repository.commit(&[("d/f", "x"), ("Dockerfile", dockerfile)]);
    repository.git(&["tag", "v1"]);
    std::os::unix::fs::symlink(root.join("work/.git"), root.join("a.git")).expect("a link can be made");
    let commit: i64 = repository.git(&["log", "-1", "--format=%ct"]).trim().parse().expect("a number");
    let server = GitHttp::start(&root);
    let url = server.url("a.git#v1");
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=context";
    let arguments = [epoch, "--rewrite-timestamp"];
    let layout = Layout::build(&lab, Path::new(&url), "git", "", &arguments);
    let manifest = layout.manifest();
    assert_eq!(manifest["layers"][0]["annotations"]["buildkit/rewritten-timestamp"], commit.to_string());
    let times = layout.times(&manifest["layers"][0]);
    assert!(times.iter().all(|(time, _)| *time == commit), "{times:?}");
    let plain = format!("--build-context=other={}", server.url("a.git#v1:d"));
    let context =
        lab.context("ctx", &[("Dockerfile", "ARG SOURCE_DATE_EPOCH=other\nFROM scratch\nLABEL a=b\n")]);
    let named = Layout::build(&lab, &context, "named", "", &[&plain]);
    let config = |layout: &Layout| layout.document(&layout.manifest()["config"])["created"].clone();
    assert_eq!(config(&named), config(&layout));

    let input = lab.path("context.tar");
    std::fs::write(&input, archive("FROM scratch\nCOPY f /\n")).expect("a file can be written");
    let output = format!("--output=type=oci,tar=false,dest={}", lab.path("stdin").display());
    let mut command = lab.build_command(Path::new("-"), &[epoch, &output]);
    command.stdin(Stdio::from(std::fs::File::open(&input).expect("the file is there")));
    Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
    assert_eq!(config(&Layout { directory: lab.path("stdin") }), NEWEST);
}
