//! A place to build in: a store, a home and contexts of its own.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// The OCI layout with the base images.
pub(crate) fn bases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bases/oci")
}

/// A temporary directory with a store and a home.
pub(crate) struct Lab {
    pub(crate) directory: tempfile::TempDir,
    snapshotter: Option<&'static str>,
}

/// What a finished `rbuild` left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::create_dir(directory.path().join("home")).expect("a directory can be made");
        let lab = Self { directory, snapshotter: None };
        lab.configure("");
        lab
    }

    /// A lab whose store uses the named snapshotter.
    pub(crate) fn with_snapshotter(name: &'static str) -> Self {
        Self { snapshotter: Some(name), ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes config.toml.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path("config.toml"), text).expect("the config can be written");
    }

    /// Makes a context with `files`, each a name and a content.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let context = self.path(name);
        for (file, content) in files {
            let path = context.join(file);
            std::fs::create_dir_all(path.parent().expect("a file has a parent"))
                .expect("a directory can be made");
            std::fs::write(path, content).expect("a file can be written");
        }
        context
    }

    /// The command `rbuild`, in an environment of its own.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("RBUILD_CONFIG", self.path("config.toml"))
            .env("RBUILD_ROOT", self.root())
            .stdin(Stdio::null())
            .current_dir(self.directory.path());
        if let Some(snapshotter) = self.snapshotter {
            command.env("RBUILD_SNAPSHOTTER", snapshotter);
        }
        command
    }

    /// Runs `rbuild` with `arguments`.
    pub(crate) fn rbuild(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command();
        command.args(arguments);
        Ran::from(testkit::run_with_timeout(command, TIMEOUT))
    }

    /// The command that builds `context` with the base images as named contexts.
    pub(crate) fn build_command(&self, context: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["build", "--progress=plain"]).args(arguments);
        command.arg(format!("--build-context=busybox=oci-layout://{}:busybox", bases().display()));
        command.arg(context);
        command
    }

    /// Builds `context`.
    pub(crate) fn build(&self, context: &Path, arguments: &[&str]) -> Ran {
        Ran::from(testkit::run_with_timeout(self.build_command(context, arguments), TIMEOUT))
    }

    /// Builds `context`, which must succeed, and gives the files of the image.
    pub(crate) fn build_tree(&self, context: &Path, arguments: &[&str]) -> Tree {
        let path = self.path("tree.tar");
        let output = format!("--output=type=tar,dest={}", path.display());
        let mut all = vec![output.as_str()];
        all.extend(arguments);
        self.build(context, &all).succeeded();
        Tree::read(&path)
    }
}

/// A build that is running.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    seen: String,
}

impl Running {
    /// Starts `command`, in a process group of its own.
    pub(crate) fn start(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("rbuild can be started");
        let stderr = child.stderr.take().expect("stderr is piped");
        Self { child, lines: BufReader::new(stderr).lines(), seen: String::new() }
    }

    /// Waits for a line that has `text` in it and does not name a step.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            let line = line.expect("stderr can be read");
            let is_it = line.contains(text) && !line.contains("] ");
            self.seen += &(line + "\n");
            if is_it {
                return;
            }
        }
        panic!("`{text}` never came:\n{}", self.seen);
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process group, as a terminal does.
    pub(crate) fn signal(&self, name: &str) {
        run("kill", &["-s", name, "--", &format!("-{}", self.id())]);
    }

    /// Closes the reading end of its standard error and waits for its end.
    pub(crate) fn close(self) -> Option<i32> {
        let Self { mut child, lines, .. } = self;
        drop(lines);
        child.wait().expect("a child can be waited for").code()
    }

    /// Waits for its end without reading anything more; nothing if it is still there after `limit`.
    pub(crate) fn end_unread(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            std::thread::yield_now();
        }
        self.child.kill().expect("a child can be killed");
        None
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        for line in self.lines.by_ref() {
            self.seen += &(line.expect("stderr can be read") + "\n");
        }
        let status = self.child.wait().expect("a child can be waited for");
        Ran { code: status.code(), stdout: String::new(), stderr: self.seen }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn failed(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "stderr lacks `{text}`:\n{}", self.stderr);
        }
        self
    }

    /// The names of the steps that were executed, of those of the Dockerfile.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.steps().into_iter().filter(|(_, cached)| !cached).map(|(name, _)| name).collect()
    }

    /// The instruction of each step that was looked at, and whether it was found in the cache.
    pub(crate) fn steps(&self) -> Vec<(String, bool)> {
        testkit::steps(&self.stderr)
    }
}

/// The files of an image, from its tar.
pub(crate) struct Tree(pub(crate) Vec<(String, u32, u64, Vec<u8>)>);

impl Tree {
    pub(crate) fn read(path: &Path) -> Self {
        use std::io::Read;
        let file = std::fs::File::open(path).expect("the tar can be opened");
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries().expect("the tar can be read");
        let read = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
            let mut entry = entry.expect("the tar can be read");
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_matches('/').to_owned();
            let mode = entry.header().mode().expect("an entry has a mode");
            let uid = entry.header().uid().expect("an entry has an owner");
            let target =
                entry.header().entry_type().is_hard_link().then(|| entry.link_name_bytes()).flatten();
            let target = target.map(|name| String::from_utf8_lossy(&name).trim_matches('/').to_owned());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("the tar can be read");
            (target, (name, mode, uid, content))
        };
        let mut files: Vec<(String, u32, u64, Vec<u8>)> = Vec::new();
        for (target, mut file) in entries.map(read) {
            if let Some(linked) = files.iter().find(|(name, ..)| Some(name) == target.as_ref()) {
                file.3.clone_from(&linked.3);
            }
            files.push(file);
        }
        Self(files)
    }

    /// The content of a file as text.
    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> String {
        let (.., content) = self
            .0
            .iter()
            .find(|(known, ..)| known == name)
            .unwrap_or_else(|| panic!("the image has no {name}, it has {:?}", self.names()));
        String::from_utf8_lossy(content).into_owned()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, ..)| known == name)
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, ..)| name.as_str()).collect()
    }

    pub(crate) fn uid(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(known, ..)| known == name).map(|(_, _, uid, _)| *uid)
    }
}

/// Nothing of a run is left in the store, nor mounted, nor running.
#[track_caller]
pub(crate) fn left_nothing(lab: &Lab) {
    let runs = std::fs::read_dir(lab.root().join("tmp")).expect("the store has a tmp");
    let runs: Vec<_> = runs.map(|entry| entry.expect("it can be read").path()).collect();
    assert!(runs.is_empty(), "{runs:?}");
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    assert!(!table.contains(&*lab.root().to_string_lossy()), "{table}");
}

/// Runs a program, which must succeed, and gives its standard output.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = testkit::run_with_timeout(command, TIMEOUT);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// The JSON that a program prints.
#[track_caller]
pub(crate) fn json(program: &str, arguments: &[&str]) -> Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} printed no JSON ({error}):\n{text}"))
}
