//! Copies from contexts and snapshots onto real directories.

mod races;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::context_stat::ContextStats;
use cache::tree::{FileKind, OwnerMode, TreeKind, TreeMode, TreeView, TreeWriter};
use pattern::PatternSet;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use solver::{
    Chmod, ContentDigest, CopyOp, CopySource, GraphBuilder, Input, InputKey, Op, Selector, Unpack, VertexMeta,
};
use tokio_util::sync::CancellationToken;

use super::{CopyError, CopyRequest, SourceTree, content_digest, copy, copy_whole, dated_digest, selection};
use crate::context::{Context, ContextSource, IgnoreRules};

/// The time of everything in a source, unless a test gives it another.
const OLD: i64 = 1_577_836_800;

const OVERLAY: TreeMode =
    TreeMode { kind: TreeKind::Overlay { user_xattrs: false }, owners: OwnerMode::Native };

/// What is done to a source, and its name.
type Change = (&'static str, fn(&Scene));

/// A source, a base and what is written over it.
struct Scene {
    root: tempfile::TempDir,
    ignore: &'static str,
    /// Whether `.gitignore` files count instead.
    uses_git: bool,
    is_stage: bool,
}

/// A COPY of `sources` to `destination`.
fn op(sources: &[&str], destination: &str) -> CopyOp {
    let path = |path: &&str| CopySource::Path { input: 1, path: (*path).to_owned() };
    CopyOp {
        sources: sources.iter().map(path).collect(),
        destination: destination.to_owned(),
        chown: None,
        chmod: None,
        unpack: Unpack::Never,
        parents: false,
        exclude: Vec::new(),
    }
}

/// The selector of all paths of a copy.
fn selector(op: &CopyOp) -> Selector {
    let path = |source: &CopySource| match source {
        CopySource::Path { path, .. } => Some(path.clone()),
        CopySource::Remote { .. } | CopySource::Inline { .. } => None,
    };
    Selector {
        paths: op.sources.iter().filter_map(path).collect(),
        wildcards: true,
        exclude: op.exclude.clone(),
        parents: op.parents,
    }
}

impl Scene {
    /// A context and a base, both empty.
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in ["source", "base", "upper"] {
            fs::create_dir(root.path().join(name)).expect("mkdir");
            fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        Self { root, ignore: "", uses_git: false, is_stage: false }
    }

    /// The same, where the source is another stage.
    fn stage() -> Self {
        Self { is_stage: true, ..Self::new() }
    }

    fn source(&self, path: &str) -> PathBuf {
        self.root.path().join("source").join(path)
    }

    fn base(&self, path: &str) -> PathBuf {
        self.root.path().join("base").join(path)
    }

    /// Files of the source, each with its own path as content.
    fn with(self, paths: &[&str]) -> Self {
        for path in paths {
            write(&self.source(path), path);
        }
        self
    }

    /// Files of the base.
    fn with_base(self, paths: &[&str]) -> Self {
        for path in paths {
            write(&self.base(path), path);
        }
        self
    }

    fn upper(&self) -> PathBuf {
        self.root.path().join("upper")
    }

    fn open(&self) -> SourceTree {
        age(&self.source(""));
        self.open_as_it_is()
    }

    fn open_as_it_is(&self) -> SourceTree {
        let directory = self.source("").canonicalize().expect("canonical");
        if self.is_stage {
            let view = TreeView::open(&[directory], OVERLAY).expect("open");
            return SourceTree::Snapshot(Arc::new(view.into()));
        }
        let stats = ContextStats::load(&self.root.path().join("contexts"), &directory);
        let patterns = PatternSet::parse(self.ignore).expect("valid");
        let ignore = if self.uses_git { IgnoreRules::Git } else { IgnoreRules::Patterns(patterns) };
        SourceTree::Context(Arc::new(
            Context::open(&ContextSource { directory, ignore }, stats).expect("open"),
        ))
    }

    fn writer(&self) -> TreeWriter {
        TreeWriter::new(&self.root.path().join("upper"), &[self.base("")], OVERLAY).expect("open")
    }

    /// Copies and tells what the upper directory holds then, or what went wrong.
    fn copy(&self, op: &CopyOp) -> Result<String, String> {
        self.copy_from(&self.open(), op)?;
        Ok(list(&self.upper()))
    }

    fn copy_from(&self, source: &SourceTree, op: &CopyOp) -> Result<(), String> {
        let digest = content_digest(source, &selector(op)).map_err(|error| error.to_string())?;
        run(op, source, Some(digest), &self.writer()).map_err(|error| error.to_string())
    }

    fn digest(&self, op: &CopyOp) -> ContentDigest {
        content_digest(&self.open(), &selector(op)).expect("a digest")
    }
}

/// Copies from `source`, of which `digest` is in the key.
fn run(
    op: &CopyOp,
    source: &SourceTree,
    digest: Option<ContentDigest>,
    writer: &TreeWriter,
) -> Result<(), CopyError> {
    let mut graph = GraphBuilder::new();
    let vertex = graph.add(Op::Scratch, Vec::new(), VertexMeta::default()).expect("a vertex");
    let inputs =
        [Input { vertex, key: InputKey::Chain }, Input { vertex, key: InputKey::Content(selector(op)) }];
    copy(&CopyRequest {
        op,
        inputs: &inputs,
        sources: &[SourceTree::Empty, source.clone()],
        digests: &[None, digest],
        writer,
        sharing: None,
        selected: &[],
        on_empty_root: false,
        cancel: &CancellationToken::new(),
    })
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    fs::write(path, text).expect("write");
}

/// Gives everything the old time, unless it has an even older one.
fn age(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("read") {
            age(&entry.expect("an entry").path());
        }
    }
    if fs::symlink_metadata(path).expect("stat").mtime() > OLD {
        set_time(path, OLD);
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

/// One line for each entry: path, mode, owner, `T` for the old time (other old times in seconds), content.
fn list(root: &Path) -> String {
    let view = TreeView::open(&[root.to_owned()], TreeMode::PLAIN).expect("open");
    let mut text = String::new();
    list_directory(&view, Path::new("/"), &mut text);
    text
}

fn list_directory(view: &TreeView, directory: &Path, text: &mut String) {
    for (name, entry) in view.read_dir(directory).expect("read") {
        let path = directory.join(name);
        write!(text, "{}", path.display()).expect("a string");
        if entry.kind != FileKind::Symlink {
            write!(text, " {:04o}", entry.mode).expect("a string");
        }
        write!(text, " {}:{}", entry.uid, entry.gid).expect("a string");
        match entry.mtime.seconds {
            OLD => text.push_str(" T"),
            seconds if seconds < 1_700_000_000 => write!(text, " {seconds}").expect("a string"),
            _ => {}
        }
        match entry.kind {
            FileKind::File => {
                let content = std::io::read_to_string(view.open_file(&path).expect("open")).expect("read");
                let links = if entry.nlink > 1 { format!(" x{}", entry.nlink) } else { String::new() };
                writeln!(text, "{links} = {content}").expect("a string");
            }
            FileKind::Symlink => {
                writeln!(text, " -> {}", view.read_link(&path).expect("a link").display()).expect("a string");
            }
            FileKind::Directory => {
                text.push_str("/\n");
                list_directory(view, &path, text);
            }
            kind => writeln!(text, " {kind:?} {:?}", entry.rdev).expect("a string"),
        }
    }
}

#[test]
fn a_file_lands_by_the_form_of_the_destination() {
    let scene = |op: &CopyOp| {
        let scene = Scene::new().with(&["a"]);
        fs::create_dir(scene.base("home")).expect("mkdir");
        scene.copy(op).expect("a copy")
    };
    assert_eq!(scene(&op(&["a"], "/b")), "/b 0644 0:0 T = a\n");
    assert_eq!(scene(&op(&["/a/"], "/x/y/b")), "/x 0755 0:0/\n/x/y 0755 0:0/\n/x/y/b 0644 0:0 T = a\n");
    assert_eq!(scene(&op(&["../a"], "/x/")), "/x 0755 0:0/\n/x/a 0644 0:0 T = a\n");
    assert_eq!(scene(&op(&["./a"], "/home")), "/home 0755 0:0/\n/home/a 0644 0:0 T = a\n");
    assert_eq!(scene(&op(&["a"], "/x/../y//b")), "/y 0755 0:0/\n/y/b 0644 0:0 T = a\n");
}

#[test]
fn directories_give_their_contents_and_merge() {
    let scene =
        Scene::new().with(&["d/a", "d/sub/b", "e/a"]).with_base(&["dst/sub/b", "dst/sub/keep", "dst/k"]);
    fs::set_permissions(scene.base("dst"), fs::Permissions::from_mode(0o700)).expect("chmod");
    chown(scene.base("dst/sub"), Some(5), Some(6)).expect("chown");
    let listed = scene.copy(&op(&["d", "e"], "/dst")).expect("a copy");
    let expected =
        "/dst 0700 0:0 T/\n/dst/a 0644 0:0 T = e/a\n/dst/sub 0755 0:0 T/\n/dst/sub/b 0644 0:0 T = d/sub/b\n";
    assert_eq!(listed, expected);
}

#[test]
fn the_time_of_the_destination_is_that_of_what_landed_last() {
    let scene = Scene::new().with(&["d1/a", "d2/b", "file"]);
    let expected =
        "/dst 0755 0:0/\n/dst/a 0644 0:0 T = d1/a\n/dst/b 0644 0:0 T = d2/b\n/dst/file 0644 0:0 T = file\n";
    assert_eq!(scene.copy(&op(&["d*", "file"], "/dst/")).expect("a copy"), expected);
    let scene = Scene::new().with(&["d/in", "file"]);
    let expected = "/dst 0755 0:0 T/\n/dst/file 0644 0:0 T = file\n/dst/in 0644 0:0 T = d/in\n";
    assert_eq!(scene.copy(&op(&["file", "d"], "/dst/")).expect("a copy"), expected);
    // The root of a context has no time of its own.
    let scene = Scene::new().with(&["file"]);
    let expected = "/dst 0755 0:0/\n/dst/file 0644 0:0 T = file\n";
    assert_eq!(scene.copy(&op(&["."], "/dst")).expect("a copy"), expected);
}

#[test]
fn conflicts_of_types_are_told_in_the_words_of_the_peers() {
    let fails = |sources: &[&str], destination: &str| {
        let scene = Scene::new().with(&["d/f", "d/g", "file"]).with_base(&["x/f/y", "etc/passwd", "z/g/y"]);
        scene.copy(&op(sources, destination)).expect_err("an error")
    };
    assert_eq!(fails(&["d"], "/x"), "cannot replace to directory /x/f with file");
    assert_eq!(fails(&["d"], "/etc/passwd"), "cannot copy to non-directory: /etc/passwd");
    assert_eq!(fails(&["file"], "/etc/passwd/"), "mkdir /etc/passwd: not a directory");
    assert_eq!(fails(&["file"], "/etc/passwd/x"), "mkdir /etc/passwd: not a directory");
    let scene = Scene::new().with(&["d/f/in"]).with_base(&["x/f"]);
    let error = scene.copy(&op(&["d"], "/x")).expect_err("an error");
    assert_eq!(error, "cannot copy to non-directory: /x/f");
}

#[test]
fn links_in_the_destination_are_followed_inside_the_tree() {
    let copy = |destination: &str| {
        let scene = Scene::new().with(&["a"]).with_base(&["real/file"]);
        symlink("/real", scene.base("lnk")).expect("symlink");
        symlink("../../../../missing", scene.base("dangling")).expect("symlink");
        symlink("/real/file", scene.base("fl")).expect("symlink");
        scene.copy(&op(&["a"], destination)).expect("a copy")
    };
    assert_eq!(copy("/lnk/"), "/real 0755 0:0/\n/real/a 0644 0:0 T = a\n");
    assert_eq!(copy("/lnk/new/f"), "/real 0755 0:0/\n/real/new 0755 0:0/\n/real/new/f 0644 0:0 T = a\n");
    assert_eq!(copy("/dangling"), "/missing 0644 0:0 T = a\n");
    assert_eq!(copy("/dangling/x"), "/missing 0755 0:0/\n/missing/x 0644 0:0 T = a\n");
    assert_eq!(copy("/fl"), "/real 0755 0:0/\n/real/file 0644 0:0 T = a\n");
}

#[test]
fn links_in_the_source_path_are_followed_and_others_are_copied() {
    let scene = Scene::new().with(&["real/sub/a", "etc/inner"]);
    symlink("real", scene.source("link")).expect("symlink");
    symlink("/real/sub", scene.source("abs")).expect("symlink");
    symlink("../../../../etc/inner", scene.source("esc")).expect("symlink");
    symlink("nowhere", scene.source("real/bad")).expect("symlink");
    symlink("loop", scene.source("loop")).expect("symlink");
    let listed = scene.copy(&op(&["link/sub/a", "abs/a", "esc"], "/d/")).expect("a copy");
    assert_eq!(listed, "/d 0755 0:0/\n/d/a 0644 0:0 T = real/sub/a\n/d/esc 0644 0:0 T = etc/inner\n");
    let listed = scene.copy(&op(&["link"], "/d")).expect("a copy");
    let expected = "/d 0755 0:0 T/\n/d/a 0644 0:0 T = real/sub/a\n/d/bad 0:0 T -> nowhere\n\
        /d/esc 0644 0:0 T = etc/inner\n/d/sub 0755 0:0 T/\n/d/sub/a 0644 0:0 T = real/sub/a\n";
    assert_eq!(listed, expected);
    let error = scene.copy(&op(&["real/bad"], "/d")).expect_err("dangling");
    assert_eq!(error, missing("/real/bad"));
    assert_eq!(scene.copy(&op(&["loop"], "/d")).expect_err("a loop"), "too many links in the source `/loop`");
}

/// The error for a missing source of a context.
fn missing(path: &str) -> String {
    format!("failed to compute cache key: failed to calculate checksum of ref context: {path:?}: not found")
}

#[test]
fn wildcards_select_and_follow_the_links_they_match() {
    let scene = Scene::new().with(&["f", "real/x", "pkg/a/c", "pkg/b/c", "pkg/b/d", "t.txt", ".u.txt"]);
    symlink("f", scene.source("l1")).expect("symlink");
    symlink("real", scene.source("l2")).expect("symlink");
    let copy = |sources: &[&str]| scene.copy(&op(sources, "/d/"));
    assert_eq!(copy(&["*.none"]).expect("a copy"), "");
    assert_eq!(copy(&["nowhere/*.none"]).expect("a copy"), "");
    let expected = "/d 0755 0:0/\n/d/.u.txt 0644 0:0 T = .u.txt\n/d/t.txt 0644 0:0 T = t.txt\n";
    assert_eq!(copy(&["*.txt", "x*"]).expect("a copy"), expected);
    let scene = Scene::new().with(&["f", "real/x"]);
    symlink("f", scene.source("l1")).expect("symlink");
    symlink("real", scene.source("l2")).expect("symlink");
    let expected = "/d 0755 0:0 T/\n/d/l1 0644 0:0 T = f\n/d/x 0644 0:0 T = real/x\n";
    assert_eq!(scene.copy(&op(&["l*"], "/d/")).expect("a copy"), expected);
    let scene = Scene::new().with(&["pkg/a/c", "pkg/b/c", "pkg/b/d"]);
    let expected = "/d 0755 0:0/\n/d/c 0644 0:0 T = pkg/b/c\n";
    assert_eq!(scene.copy(&op(&["pkg/*/c"], "/d/")).expect("a copy"), expected);
    let error = scene.copy(&op(&["pkg/*/[a"], "/d/")).expect_err("malformed");
    assert_eq!(error, "syntax error in pattern `[a`");
}

#[test]
fn what_is_missing_or_ignored_is_an_error() {
    let scene = Scene { ignore: "gone.txt\nvendor\n!vendor/keep\n", ..Scene::new().with(&["a", "gone.txt"]) };
    assert_eq!(scene.copy(&op(&["a", "nope"], "/d/")).expect_err("missing"), missing("/nope"));
    assert_eq!(scene.copy(&op(&["x\\*y"], "/d/")).expect_err("missing"), missing("/x\\*y"));
    let source = scene.open();
    let error = content_digest(&source, &selector(&op(&["gone.txt"], "/"))).expect_err("ignored");
    assert_eq!(error.to_string(), missing("/gone.txt"));
    assert_eq!(error.hint().as_deref(), Some("`/gone.txt` exists, but the ignore file leaves it out"));
    write(&scene.source("vendor/drop"), "");
    assert_eq!(scene.copy(&op(&["vendor"], "/d/")).expect_err("ignored"), missing("/vendor"));
    write(&scene.source("vendor/keep/x"), "x");
    let expected = "/d 0755 0:0 T/\n/d/keep 0755 0:0 T/\n/d/keep/x 0644 0:0 T = x\n";
    assert_eq!(scene.copy(&op(&["vendor"], "/d/")).expect("a copy"), expected);
}

#[test]
fn gitignore_files_leave_out_what_they_say() {
    let scene = Scene {
        uses_git: true,
        ..Scene::new().with(&[".git/HEAD", "a/keep.o", "a/x.o", "a/out/x", "b/x.o"])
    };
    let scene = scene.with(&["b/.git", "b/y", "c/only.o"]);
    fs::write(scene.source(".gitignore"), "*.o\nout/\n").expect("write");
    fs::write(scene.source("a/.gitignore"), "!keep.o\n!out\n").expect("write");
    // git does not follow it either.
    symlink("../.gitignore", scene.source("c/.gitignore")).expect("a link");
    let paths = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with('/'));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let all = [
        "/d",
        "/d/.gitignore",
        "/d/a",
        "/d/a/.gitignore",
        "/d/a/keep.o",
        "/d/a/out",
        "/d/a/out/x",
        "/d/b",
        "/d/b/y",
        "/d/c",
        "/d/c/.gitignore",
    ];
    assert_eq!(paths(scene.copy(&op(&["."], "/d/")).expect("a copy")), all);
    let objects = paths(scene.copy(&op(&["a/*.o"], "/e/")).expect("a copy"));
    assert_eq!(objects[all.len()..], ["/e", "/e/keep.o"]);
    let source = scene.open();
    for ignored in ["a/x.o", ".git/HEAD", ".git", "b/.git"] {
        let error = content_digest(&source, &selector(&op(&[ignored], "/"))).expect_err("ignored");
        let hint = format!("`/{ignored}` exists, but the ignore file leaves it out");
        assert_eq!(error.hint(), Some(hint), "{ignored}");
    }
}

#[test]
fn what_is_excluded_stays_away_and_directories_on_the_way_are_made() {
    let scene =
        Scene::new().with(&["d/keep.txt", "d/r.md", "d/s/r.md", "d/n/x/i.js", "d/n/y", "d/t/only.md"]);
    let copy = CopyOp {
        exclude: ["*.md", "**/only.md", "n", "!n/y"].map(str::to_owned).to_vec(),
        ..op(&["d", "d/r.md"], "/d/")
    };
    let expected = "/d 0755 0:0/\n/d/keep.txt 0644 0:0 T = d/keep.txt\n/d/n 0755 0:0/\n/d/n/y 0644 0:0 T = d/n/y\n\
        /d/r.md 0644 0:0 T = d/r.md\n/d/s 0755 0:0 T/\n/d/s/r.md 0644 0:0 T = d/s/r.md\n/d/t 0755 0:0 T/\n";
    assert_eq!(scene.copy(&copy).expect("a copy"), expected);
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let copy = |sources: &[&str]| {
        let scene = Scene::stage().with(&["x/y/f", "x/y/z/h", "x/g", "x/e/only.md"]);
        fs::set_permissions(scene.source("x/y"), fs::Permissions::from_mode(0o700)).expect("chmod");
        chown(scene.source("x/y"), Some(7), Some(8)).expect("chown");
        set_time(&scene.source(""), 1_000_000_000);
        scene.copy(&CopyOp { parents: true, ..op(sources, "/d/") })
    };
    let expected = "/d 0755 0:0 1000000000/\n/d/x 0755 0:0/\n/d/x/y 0700 7:8/\n/d/x/y/f 0644 0:0 T = x/y/f\n";
    assert_eq!(copy(&["x/y/f"]).expect("a copy"), expected);
    let expected = "/d 0755 0:0 T/\n/d/y 0700 7:8/\n/d/y/f 0644 0:0 T = x/y/f\n";
    assert_eq!(copy(&["x/./y/f"]).expect("a copy"), expected);
    let expected = "/d 0755 0:0 1000000000/\n/d/x 0755 0:0/\n/d/x/y 0700 7:8 T/\n/d/x/y/f 0644 0:0 T = x/y/f\n\
        /d/x/y/z 0755 0:0 T/\n/d/x/y/z/h 0644 0:0 T = x/y/z/h\n";
    assert_eq!(copy(&["x/y"]).expect("a copy"), expected);
    let expected = "/d 0755 0:0 1000000000/\n/d/x 0755 0:0/\n/d/x/g 0644 0:0 T = x/g\n/d/x/y 0700 7:8/\n\
        /d/x/y/f 0644 0:0 T = x/y/f\n";
    assert_eq!(copy(&["**/[fg]"]).expect("a copy"), expected);
    assert_eq!(copy(&["no*"]).expect("a copy"), "/d 0755 0:0 1000000000/\n");
    let error = copy(&["x/./none"]).expect_err("missing");
    assert_eq!(error, missing("/x/none").replace("context", "snapshot"));
}

#[test]
fn owners_and_modes_reach_what_is_copied_and_new_parents() {
    let scene = Scene::new().with(&["d/f", "d/s/g"]);
    symlink("f", scene.source("d/l")).expect("symlink");
    chown(scene.source("d"), Some(9), Some(9)).expect("chown");
    let copy =
        CopyOp { chown: Some("3:4".to_owned()), chmod: Some(Chmod::Octal(0o4751)), ..op(&["d"], "/new/dst") };
    let expected = "/new 0751 3:4/\n/new/dst 0751 3:4 T/\n/new/dst/f 4751 3:4 T = d/f\n/new/dst/l 3:4 T -> f\n\
        /new/dst/s 4751 3:4 T/\n/new/dst/s/g 4751 3:4 T = d/s/g\n";
    assert_eq!(scene.copy(&copy).expect("a copy"), expected);
    let scene = Scene::new().with(&["d/f", "d/s/g"]);
    let copy = CopyOp { chmod: Some(Chmod::Symbolic("go=".to_owned())), ..op(&["d"], "/dst") };
    let expected =
        "/dst 0755 0:0 T/\n/dst/f 0600 0:0 T = d/f\n/dst/s 0700 0:0 T/\n/dst/s/g 0600 0:0 T = d/s/g\n";
    assert_eq!(scene.copy(&copy).expect("a copy"), expected);
}

#[test]
fn names_in_chown_are_those_of_the_destination() {
    let scene = Scene::new().with(&["a"]);
    write(&scene.base("etc/passwd"), "app:x:1000:1001::/:/bin/sh\n");
    let copy = CopyOp { chown: Some("app".to_owned()), ..op(&["a"], "/a") };
    assert_eq!(scene.copy(&copy).expect("a copy"), "/a 0644 1000:1001 T = a\n");
    let (source, writer) = (scene.open(), scene.writer());
    let on_nothing = CopyRequest {
        op: &copy,
        inputs: &[],
        sources: &[],
        digests: &[],
        writer: &writer,
        sharing: None,
        selected: &[],
        on_empty_root: true,
        cancel: &CancellationToken::new(),
    };
    let error = super::copy(&on_nothing).expect_err("a name");
    assert!(error.to_string().starts_with("invalid user index: -1"), "{error}");
    drop(source);
}

#[test]
fn hard_links_of_one_source_stay_links() {
    let scene = Scene::new().with(&["d/a", "d/s/x"]);
    fs::hard_link(scene.source("d/a"), scene.source("d/b")).expect("link");
    fs::hard_link(scene.source("d/a"), scene.source("d/s/c")).expect("link");
    let expected = "/d 0755 0:0 T/\n/d/a 0644 0:0 T x3 = d/a\n/d/b 0644 0:0 T x3 = d/a\n/d/s 0755 0:0 T/\n\
        /d/s/c 0644 0:0 T x3 = d/a\n/d/s/x 0644 0:0 T = d/s/x\n";
    assert_eq!(scene.copy(&op(&["d"], "/d")).expect("a copy"), expected);
    let scene = Scene::new().with(&["d/a"]);
    fs::hard_link(scene.source("d/a"), scene.source("d/b")).expect("link");
    let expected = "/d 0755 0:0/\n/d/a 0644 0:0 T = d/a\n/d/b 0644 0:0 T = d/a\n";
    assert_eq!(scene.copy(&op(&["d/a", "d/b"], "/d/")).expect("a copy"), expected);
    let scene = Scene::new().with(&["d/a"]);
    fs::hard_link(scene.source("d/a"), scene.source("d/b")).expect("link");
    assert_eq!(scene.copy(&op(&["d/*"], "/d/")).expect("a copy"), expected);
}

#[test]
fn a_context_loses_owners_attributes_and_sockets_and_a_stage_keeps_them() {
    let make = |scene: Scene| {
        let scene = scene.with(&["d/f"]);
        chown(scene.source("d/f"), Some(5), Some(6)).expect("chown");
        fs::set_permissions(scene.source("d/f"), fs::Permissions::from_mode(0o4751)).expect("chmod");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(scene.source("d/f"), "user.note", b"hello", flags).expect("setxattr");
        drop(UnixListener::bind(scene.source("d/sock")).expect("bind"));
        fs::set_permissions(scene.source("d/sock"), fs::Permissions::from_mode(0o700)).expect("chmod");
        let null = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let make = |name, kind, device| {
            rustix::fs::mknodat(CWD, scene.source(name), kind, mode, device).expect("mknod");
        };
        make("d/pipe", rustix::fs::FileType::Fifo, 0);
        make("d/null", rustix::fs::FileType::CharacterDevice, null);
        let listed = scene.copy(&op(&["d"], "/d")).expect("a copy");
        let mut value = [0; 16];
        let note = rustix::fs::getxattr(scene.root.path().join("upper/d/f"), "user.note", &mut value);
        (listed, note.is_ok_and(|length| &value[..length] == b"hello"))
    };
    let (listed, has_note) = make(Scene::new());
    let expected = "/d 0755 0:0 T/\n/d/f 4751 0:0 T = d/f\n/d/null 0600 0:0 T CharDevice (1, 3)\n\
        /d/pipe 0600 0:0 T Fifo (0, 0)\n/d/sock 0700 0:0 T = \n";
    assert_eq!((listed.as_str(), has_note), (expected, false));
    let (listed, has_note) = make(Scene::stage());
    let expected = "/d 0755 0:0 T/\n/d/f 4751 5:6 T = d/f\n/d/null 0600 0:0 T CharDevice (1, 3)\n\
        /d/pipe 0600 0:0 T Fifo (0, 0)\n";
    assert_eq!((listed.as_str(), has_note), (expected, true));
}

#[test]
fn files_from_the_dockerfile_are_written() {
    let inline = |name: &str| CopySource::Inline { name: name.to_owned(), content: b"text".to_vec() };
    let copy = CopyOp {
        sources: vec![inline("one"), inline("two")],
        chmod: Some(Chmod::Octal(0o700)),
        ..op(&[], "/dst/")
    };
    let expected = "/dst 0700 0:0/\n/dst/one 0700 0:0 = text\n/dst/two 0700 0:0 = text\n";
    assert_eq!(Scene::new().copy(&copy).expect("a copy"), expected);
}

/// A tar with one file `f`.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_500_000_000);
    header.set_size(5);
    builder.append_data(&mut header, "t/f", &b"hello"[..]).expect("append");
    builder.into_inner().expect("a tar")
}

#[test]
fn archives_are_unpacked_by_add_alone() {
    let scene = || {
        let scene = Scene::new().with(&["fake.tar"]);
        fs::write(scene.source("a.bin"), archive()).expect("write");
        scene
    };
    let add = |sources, destination| CopyOp { unpack: Unpack::Archives, ..op(sources, destination) };
    let expected = "/d 0755 0:0/\n/d/fake.tar 0644 0:0 T = fake.tar\n/d/t 0755 0:0/\n/d/t/f 0640 12:34 1500000000 = hello\n";
    assert_eq!(scene().copy(&add(&["*"], "/d/")).expect("a copy"), expected);
    let chowned =
        CopyOp { chown: Some("3:4".to_owned()), chmod: Some(Chmod::Octal(0o700)), ..add(&["a.bin"], "/n/d") };
    let expected = "/n 0755 3:4/\n/n/d 0755 3:4/\n/n/d/t 0755 3:4/\n/n/d/t/f 0640 3:4 1500000000 = hello\n";
    assert_eq!(scene().copy(&chowned).expect("a copy"), expected);
    let over_file = scene().with_base(&["x"]);
    let error = over_file.copy(&add(&["a.bin"], "/x")).expect_err("a file is there");
    assert_eq!(error, "mkdir /x: not a directory");
    let plain = scene();
    plain.copy(&op(&["a.bin"], "/a")).expect("a copy");
    assert_eq!(fs::read(plain.root.path().join("upper/a")).expect("read"), archive());
}

#[test]
fn the_digest_is_of_what_is_copied_and_not_of_times() {
    let scene = Scene::new().with(&["d/a", "d/s/b", "other"]);
    let base = scene.digest(&op(&["d"], "/x"));
    set_time(&scene.source("d/a"), 1_000_000_000);
    write(&scene.source("other"), "changed");
    chown(scene.source("d/a"), Some(5), Some(5)).expect("chown");
    assert_eq!(scene.digest(&op(&["d"], "/x")), base);
    fs::rename(scene.source("d"), scene.source("e")).expect("rename");
    assert_eq!(scene.digest(&op(&["e"], "/x")), base, "the name of a single directory is not in it");
    assert_ne!(scene.digest(&op(&["e*"], "/x")), base, "what a wildcard found is");
    let changes: [Change; 6] = [
        ("content", |scene| write(&scene.source("e/a"), "D/a")),
        ("mode", |scene| {
            fs::set_permissions(scene.source("e/a"), fs::Permissions::from_mode(0o600)).expect("chmod");
        }),
        ("name", |scene| fs::rename(scene.source("e/a"), scene.source("e/z")).expect("rename")),
        ("link", |scene| symlink("z", scene.source("e/l")).expect("symlink")),
        ("hard link", |scene| fs::hard_link(scene.source("e/z"), scene.source("e/y")).expect("link")),
        ("empty directory", |scene| fs::create_dir(scene.source("e/empty")).expect("mkdir")),
    ];
    let mut before = base;
    for (what, change) in changes {
        change(&scene);
        let after = scene.digest(&op(&["e"], "/x"));
        assert_ne!(after, before, "{what}");
        before = after;
    }
}

#[test]
fn a_file_that_changes_after_its_digest_fails_the_copy_with_its_name() {
    let changes: [Change; 3] = [
        ("replaced", |scene| {
            write(&scene.source("d/new"), "X");
            fs::rename(scene.source("d/new"), scene.source("d/s/b")).expect("rename");
        }),
        ("rewritten", |scene| write(&scene.source("d/s/b"), "XXXXX")),
        ("removed", |scene| fs::remove_file(scene.source("d/s/b")).expect("remove")),
    ];
    for (what, change) in changes {
        let scene = Scene::new().with(&["d/a", "d/s/b"]);
        let (source, writer, copy) = (scene.open(), scene.writer(), op(&["d"], "/d"));
        let digest = content_digest(&source, &selector(&copy)).expect("a digest");
        change(&scene);
        let error = run(&copy, &source, Some(digest), &writer).expect_err(what);
        assert!(error.to_string().starts_with("`d/s/b` changed while"), "{what}: {error}");
        // What a mount shows is copied by the same rules.
        let selected = selection(&source, &selector(&copy), Some(digest)).expect("what was selected is kept");
        let node = &selected.sources[0].matches[0].node;
        let error = copy_whole(&source, node, &writer, &CancellationToken::new()).expect_err(what);
        assert!(error.to_string().starts_with("`d/s/b` changed while"), "{what}: {error}");
    }
}

#[test]
fn an_archive_that_changes_after_its_digest_fails_the_copy() {
    let scene = Scene::new();
    fs::write(scene.source("a.tar"), archive()).expect("write");
    let copy = CopyOp { unpack: Unpack::Archives, ..op(&["a.tar"], "/d") };
    let (source, writer) = (scene.open(), scene.writer());
    let digest = content_digest(&source, &selector(&copy)).expect("a digest");
    let mut longer = archive();
    longer.extend([0; 512]);
    fs::write(scene.source("a.tar"), longer).expect("write");
    let error = run(&copy, &source, Some(digest), &writer).expect_err("changed");
    assert!(matches!(error, CopyError::Changed(_)), "{error}");
}

/// Makes a tree of what is at `path` alone; its root stands first, without a path.
fn whole(scene: &Scene, path: &str) -> Result<String, CopyError> {
    let source = scene.open();
    let upper = scene.root.path().join("whole");
    fs::create_dir(&upper).expect("mkdir");
    let writer = TreeWriter::new(&upper, &[], OVERLAY).expect("open");
    let selector = Selector { wildcards: false, ..selector(&op(&[path], "")) };
    let selected = selection(&source, &selector, Some(content_digest(&source, &selector)?))?;
    copy_whole(&source, &selected.sources[0].matches[0].node, &writer, &CancellationToken::new())?;
    let root = fs::metadata(&upper).expect("stat");
    let listed = format!("{:o} {}:{}\n{}", root.mode() & 0o7777, root.uid(), root.gid(), list(&upper));
    fs::remove_dir_all(&upper).expect("remove");
    Ok(listed)
}

#[test]
fn what_is_taken_alone_keeps_its_mode_and_owner() {
    for (scene, owner) in [(Scene::stage(), "5:6"), (Scene::new(), "0:0")] {
        let scene = scene.with(&["d/a", "d/s/b"]);
        for path in ["d", "d/a"] {
            chown(scene.source(path), Some(5), Some(6)).expect("chown");
            fs::set_permissions(scene.source(path), fs::Permissions::from_mode(0o700)).expect("chmod");
        }
        symlink("/d", scene.source("link")).expect("symlink");
        let directory =
            format!("700 {owner}\n/a 0700 {owner} T = d/a\n/s 0755 0:0 T/\n/s/b 0644 0:0 T = d/s/b\n");
        assert_eq!(whole(&scene, "/d").expect("a tree"), directory);
        assert_eq!(whole(&scene, "link").expect("a tree"), directory);
        let file = format!("755 0:0\n/entry 0700 {owner} T = d/a\n");
        assert_eq!(whole(&scene, "link/a").expect("a tree"), file);
        let error = whole(&scene, "d/none").expect_err("nothing is there").to_string();
        assert!(error.ends_with("\"/d/none\": not found"), "{error}");
    }
}

#[test]
fn the_root_of_a_context_is_open_and_its_ignored_files_stay_away() {
    let scene = Scene { ignore: "x\nd/*\n!d/b", ..Scene::new() }.with(&["x", "y", "d/a", "d/b"]);
    fs::set_permissions(scene.source(""), fs::Permissions::from_mode(0o700)).expect("chmod");
    let expected = "755 0:0\n/d 0755 0:0 T/\n/d/b 0644 0:0 T = d/b\n/y 0644 0:0 T = y\n";
    assert_eq!(whole(&scene, "/").expect("a tree"), expected);
}

#[test]
fn an_empty_tree_has_a_root_and_nothing_else() {
    let root = Selector { wildcards: false, ..selector(&op(&["/"], "")) };
    content_digest(&SourceTree::Empty, &root).expect("a digest");
    let below = Selector { wildcards: false, ..selector(&op(&["/x"], "")) };
    assert!(content_digest(&SourceTree::Empty, &below).is_err());
}

#[test]
fn dated_digests_differ_by_content_and_by_times() {
    let scene = Scene::new().with(&["d/a", "d/b"]);
    let dated = || {
        let (source, selector) = (scene.open(), selector(&op(&["d"], "")));
        let digest = content_digest(&source, &selector).expect("a digest");
        let selected = selection(&source, &selector, Some(digest)).expect("a selection");
        dated_digest(&digest, &selected.sources[0].matches[0].node)
    };
    let before = dated();
    assert_eq!(dated(), before);
    set_time(&scene.source("d/b"), 1_000_000_000);
    let touched = dated();
    assert_ne!(touched, before);
    write(&scene.source("d/a"), "D/a");
    set_time(&scene.source("d/a"), OLD);
    assert_ne!(dated(), touched);
}

#[test]
fn large_trees_are_copied_whole() {
    let scene = Scene::new();
    for number in 0..500 {
        write(&scene.source(&format!("d/{}/{}/{number}", number % 7, number % 11)), &number.to_string());
    }
    scene.copy(&op(&["d"], "/d")).expect("a copy");
    let copied = |root: &Path| list(root).replace("/ T", "");
    assert_eq!(copied(&scene.root.path().join("upper/d")), copied(&scene.source("d")));
}
