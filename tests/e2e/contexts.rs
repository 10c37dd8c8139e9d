//! Where the build context and the Dockerfile come from, and what is left out of a context.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{Lab, Ran, Tree, run};

const LIMIT: Duration = Duration::from_secs(120);

/// Builds what is in `input`, with `arguments`, from standard input.
fn build_input(lab: &Lab, input: &Path, arguments: &[&str]) -> Ran {
    let mut command = lab.build_command(Path::new("-"), arguments);
    command.stdin(File::open(input).expect("the input can be opened"));
    Ran::from(testkit::run_with_timeout(command, LIMIT))
}

/// The same, which must succeed; gives the files of the image.
fn input_tree(lab: &Lab, input: &Path, arguments: &[&str]) -> Tree {
    let path = lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", path.display());
    let mut all = vec![output.as_str()];
    all.extend(arguments);
    build_input(lab, input, &all).succeeded();
    Tree::read(&path)
}

/// Makes a tar of `directory`.
fn pack(lab: &Lab, directory: &Path) -> std::path::PathBuf {
    let archive = lab.path("context.tar");
    let owner = ["--owner=1234", "--group=1234", "--mtime=@1000000000"];
    let (file, from) = (archive.to_string_lossy(), directory.to_string_lossy());
    run("tar", &[&owner[..], &["-C", &from, "-cf", &file, "."]].concat());
    archive
}

/// What runs have left in the store.
fn leftovers(lab: &Lab) -> Vec<String> {
    let entries = std::fs::read_dir(lab.root().join("tmp")).expect("the store has a tmp");
    entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn an_archive_in_any_compression_is_a_context() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nCOPY . /all/\nRUN stat -c '%a %u:%g %Y' /all/script > /stat\n";
    let files =
        [("Dockerfile", dockerfile), ("script", "x"), ("d/ignored", "kept"), (".dockerignore", "d\n")];
    let context = lab.context("ctx", &files);
    std::fs::set_permissions(context.join("script"), std::fs::Permissions::from_mode(0o751))
        .expect("modes can be set");
    let archive = pack(&lab, &context);
    let tar = archive.to_string_lossy().into_owned();
    for (program, suffix) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")] {
        run(program, &["-k", &tar]);
        assert!(Path::new(&format!("{tar}.{suffix}")).exists());
    }
    for suffix in ["", ".gz", ".bz2", ".xz", ".zst"] {
        // An ignore file within an archive means nothing, as with docker.
        let tree = input_tree(&lab, Path::new(&format!("{tar}{suffix}")), &[]);
        assert_eq!(tree.text("stat"), "751 0:0 1000000000\n", "{suffix}");
        assert_eq!(tree.text("all/d/ignored"), "kept", "{suffix}");
        assert_eq!(leftovers(&lab), Vec::<String>::new(), "{suffix}");
    }
    // It is the content that counts, not where it came from.
    let again = build_input(&lab, &archive, &["-t", "x"]).succeeded();
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.stderr);
    assert!(!lab.root().join("contexts").exists(), "nothing is remembered of a context that goes away");
}

#[test]
fn the_dockerfile_of_an_archive_is_in_the_archive() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("dockerfile", "FROM busybox\nRUN echo small > /which\n")]);
    lab.context("ctx/sub", &[("Other", "FROM busybox\nRUN echo other > /which\n")]);
    symlink("/sub/Other", context.join("absolute")).expect("a link can be made");
    symlink("../../../../../../etc/passwd", context.join("outside")).expect("a link can be made");
    let archive = pack(&lab, &context);
    assert_eq!(input_tree(&lab, &archive, &[]).text("which"), "small\n");
    for file in ["sub/Other", "/sub/Other", "../sub/Other", "absolute"] {
        assert_eq!(input_tree(&lab, &archive, &["-f", file]).text("which"), "other\n", "{file}");
    }
    for file in ["outside", "missing", "sub/Dockerfile", "../../../../../../etc/passwd"] {
        build_input(&lab, &archive, &["-f", file])
            .failed(1, &["failed to read dockerfile", "no such file or directory"]);
    }
    for call in ["--call=targets", "--check"] {
        build_input(&lab, &archive, &[call, "-f", "sub/Other"]).succeeded();
    }
    build_input(&lab, &archive, &["--check", "--fix"]).failed(2, &["standard input"]);
    assert_eq!(leftovers(&lab), Vec::<String>::new());
}

#[test]
fn a_dockerfile_alone_has_an_empty_context() {
    let lab = Lab::new();
    let file = lab.path("any");
    std::fs::write(&file, "FROM busybox\nCOPY . /all/\nRUN find /all > /found\n")
        .expect("a file can be written");
    assert_eq!(input_tree(&lab, &file, &[]).text("found"), "/all\n");
    std::fs::write(&file, "FROM busybox\nCOPY any /\n").expect("a file can be written");
    build_input(&lab, &file, &[]).failed(1, &["Dockerfile:2", "\"/any\": not found"]);
    std::fs::write(&file, "").expect("a file can be written");
    build_input(&lab, &file, &[]).failed(1, &["cannot be empty"]);
    assert_eq!(leftovers(&lab), Vec::<String>::new());
}

#[test]
fn standard_input_is_one_thing() {
    let lab = Lab::new();
    let file = lab.path("any");
    std::fs::write(&file, "FROM scratch\n").expect("a file can be written");
    build_input(&lab, &file, &["-f", "-"])
        .failed(2, &["invalid argument: can't use stdin for both build context and dockerfile"]);
    build_input(&lab, &file, &["-f", "any"])
        .failed(2, &["ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"]);
    build_input(&lab, &file, &["--build-context=x=-"]).failed(2, &["cannot be a named context"]);
    let context =
        lab.context("ctx", &[("Dockerfile", "FROM missing\n"), ("f", "x"), (".dockerignore", "g\n")]);
    let mut command = lab.build_command(&context, &["-f", "-", "--check"]);
    std::fs::write(&file, "FROM busybox\nCOPY f /\nCOPY g /\n").expect("a file can be written");
    command.stdin(File::open(&file).expect("the input can be opened"));
    let ran = Ran::from(testkit::run_with_timeout(command, LIMIT)).failed(1, &[]);
    assert!(ran.stdout.contains("CopyIgnoredFile") && ran.stdout.contains("Dockerfile:3"), "{}", ran.stdout);
}

#[test]
fn a_damaged_archive_is_told() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\n")]);
    let archive = pack(&lab, &context);
    run("gzip", &[&archive.to_string_lossy()]);
    let archive = archive.with_extension("tar.gz");
    let bytes = std::fs::read(&archive).expect("the archive can be read");
    std::fs::write(&archive, &bytes[..bytes.len() - 20]).expect("the archive can be written");
    build_input(&lab, &archive, &[])
        .failed(1, &["#1 ERROR: cannot unpack", "failed to solve: cannot unpack the build context"]);
    assert_eq!(leftovers(&lab), Vec::<String>::new());
}

#[test]
fn what_a_killed_build_has_unpacked_is_swept_by_the_next() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n"), ("f", "x")]);
    let archive = std::fs::read(pack(&lab, &context)).expect("the archive can be read");
    let mut command = lab.build_command(Path::new("-"), &[]);
    let mut child =
        command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("rbuild can be started");
    let mut input = child.stdin.take().expect("standard input is a pipe");
    // All but the end: the program waits for more.
    input.write_all(&archive[..archive.len() - 1]).expect("the pipe takes it");
    let unpacked = |run: &String| {
        std::fs::read_dir(lab.root().join("tmp").join(run)).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("f").exists()))
        })
    };
    let started = std::time::Instant::now();
    while !(lab.root().join("tmp").exists() && leftovers(&lab).iter().any(unpacked)) {
        assert!(child.try_wait().expect("a child can be asked").is_none(), "it has ended too early");
        assert!(started.elapsed() < LIMIT, "nothing is unpacked");
        std::thread::yield_now();
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    assert_ne!(leftovers(&lab), Vec::<String>::new());
    lab.build(&context, &[]).succeeded();
    assert_eq!(leftovers(&lab), Vec::<String>::new());
}

#[test]
fn the_dockerfile_may_lie_anywhere() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM missing\n"), ("f", "x"), ("g", "x")]);
    let text = "FROM busybox\nCOPY . /all/\n";
    let other = lab.context("other", &[("My", text), ("My.dockerignore", "f\n"), ("deep/dockerfile", text)]);
    symlink(other.join("My"), context.join("link")).expect("a link can be made");
    std::fs::write(context.join(".dockerignore"), "g\n").expect("a file can be written");
    let has = |file: &Path| {
        let tree = lab.build_tree(&context, &["-f", &file.to_string_lossy()]);
        (tree.has("all/f"), tree.has("all/g"))
    };
    assert_eq!(has(&other.join("My")), (false, true), "its own ignore file goes first");
    assert_eq!(has(&context.join("link")), (true, false), "the ignore file would have to be beside the link");
    assert_eq!(has(&other.join("deep/Dockerfile")), (true, false), "small letters do");
    std::fs::write(context.join("link.dockerignore"), "").expect("a file can be written");
    assert_eq!(has(&context.join("link")), (true, true));
}

#[test]
fn an_ignore_file_may_be_named() {
    let lab = Lab::new();
    let files =
        [("Dockerfile", "FROM busybox\nCOPY . /all/\n"), ("f", "x"), ("g", "x"), (".dockerignore", "f\n")];
    let context = lab.context("ctx", &files);
    lab.context("", &[("other", "g\n")]);
    // It is looked for from where the program is called, not in the context.
    let tree = lab.build_tree(&context, &["--ignore-file", "other"]);
    assert!(tree.has("all/f") && !tree.has("all/g"));
    let archived = input_tree(&lab, &pack(&lab, &context), &["--ignore-file=other"]);
    assert!(archived.has("all/f") && !archived.has("all/g"));
    lab.build(&context, &["--ignore-file=nowhere"]).failed(2, &["there is no ignore file `nowhere`"]);
}

#[test]
fn a_named_context_has_an_ignore_file_of_its_own() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nCOPY . /main/\nCOPY --from=other . /other/\n";
    let context =
        lab.context("ctx", &[("Dockerfile", dockerfile), (".dockerignore", "f\n"), ("f", ""), ("g", "")]);
    let other = lab.context("other", &[(".dockerignore", "g\n"), ("f", ""), ("g", "")]);
    let named = format!("--build-context=other={}", other.display());
    let tree = lab.build_tree(&context, &[&named]);
    assert_eq!(
        ["main/f", "main/g", "other/f", "other/g"].map(|name| tree.has(name)),
        [false, true, true, false]
    );
}

#[test]
fn gitignore_files_count_where_they_are_asked_for() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nCOPY . /main/\nCOPY --from=other . /other/\n";
    let files =
        [(".gitignore", "*.o\n"), ("a.o", ""), ("d/a.o", ""), ("d/b.o", ""), ("d/.gitignore", "!b.o\n")];
    let context = lab.context("ctx", &files);
    lab.context("ctx", &[("Dockerfile", dockerfile), (".git/HEAD", "")]);
    let other = lab.context("other", &files);
    let named = format!("--build-context=other={}", other.display());
    let found = |tree: &Tree| {
        ["main/a.o", "main/d/a.o", "main/d/b.o", "main/.git/HEAD", "other/a.o", "other/d/b.o"]
            .map(|path| tree.has(path))
    };
    let with = [named.as_str(), "--use-gitignore"];
    assert_eq!(found(&lab.build_tree(&context, &[&named])), [true; 6]);
    let expected = [false, false, true, false, false, true];
    assert_eq!(found(&lab.build_tree(&context, &with)), expected);
    assert_eq!(found(&input_tree(&lab, &pack(&lab, &context), &with)), expected);
    std::fs::write(other.join(".dockerignore"), "").expect("a file can be written");
    assert_eq!(found(&lab.build_tree(&context, &with)), [false, false, true, false, true, true]);
    std::fs::write(context.join(".dockerignore"), "d\n").expect("a file can be written");
    assert_eq!(found(&lab.build_tree(&context, &with)), [true, false, false, true, true, true]);
}

#[test]
fn what_is_wrong_with_an_ignore_file_has_its_line() {
    let lab = Lab::new();
    let context =
        lab.context("ctx", &[("Dockerfile", "FROM scratch\n"), (".dockerignore", "# all\na\n[x\n")]);
    let message = "failed to solve: failed parsing .dockerignore: syntax error in pattern `[x`";
    lab.build(&context, &[]).failed(1, &[".dockerignore:3\n", ">>> [x", message]);
    lab.context("ctx", &[("Dockerfile.dockerignore", "a\n!\n")]);
    lab.build(&context, &[]).failed(1, &["Dockerfile.dockerignore:2\n", "illegal exclusion pattern"]);
    let named = format!("--build-context=other={}", context.display());
    std::fs::remove_file(context.join("Dockerfile.dockerignore")).expect("a file can be removed");
    lab.build(&lab.context("empty", &[("Dockerfile", "FROM scratch\n")]), &[&named])
        .failed(1, &[".dockerignore:3\n", message]);
}
