//! Where and by whom is built.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::projects::Project;

const TIMEOUT: Duration = Duration::from_secs(300);

/// Who builds.
pub(crate) enum Who {
    Root,
    User(testkit::TestUser),
}

impl Who {
    /// An ordinary user with subordinate ids.
    pub(crate) fn user() -> Self {
        Self::User(testkit::TestUser::new("rbuild-stress", 23440, Some(2_002_000_000)))
    }
}

/// A store, contexts, and where results go.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    who: Who,
    snapshotter: &'static str,
}

impl Place {
    pub(crate) fn new(who: Who, snapshotter: &'static str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let place = Self { directory, who, snapshotter };
        fs::create_dir(place.path("home")).expect("a directory can be made");
        fs::write(place.path("config.toml"), "").expect("a file can be written");
        if let Who::User(user) = &place.who {
            // Where cargo has put it, and where the repository is, the user may not be able to go.
            copy(Path::new(env!("CARGO_BIN_EXE_rbuild")), &place.path("rbuild"));
            copy(&bases(), &place.path("bases"));
            fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755))
                .expect("modes can be set");
            user.give(place.directory.path());
        }
        place
    }

    pub(crate) fn describe(&self) -> String {
        let who = match &self.who {
            Who::Root => "root",
            Who::User(_) => "a user",
        };
        format!("{who}, {}", self.snapshotter)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The command `rbuild` in an environment of its own.
    pub(crate) fn rbuild(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.who {
            Who::Root => Command::new(env!("CARGO_BIN_EXE_rbuild")),
            Who::User(user) => user.command(&self.path("rbuild")),
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("RBUILD_CONFIG", self.path("config.toml"))
            .env("RBUILD_ROOT", self.store())
            .env("RBUILD_SNAPSHOTTER", self.snapshotter)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    /// A build of a context.
    pub(crate) fn build(&self, context: &Path, arguments: &[&str]) -> Command {
        let mut command = self.rbuild(&["build", "--progress=plain"]);
        let bases = match &self.who {
            Who::Root => bases(),
            Who::User(_) => self.path("bases"),
        };
        command
            .args(arguments)
            .arg(format!("--build-context=busybox=oci-layout://{}:busybox", bases.display()))
            .arg(context);
        command
    }

    /// The context of a version of a project, in a directory that nobody else changes.
    pub(crate) fn context(&self, owner: &str, project: Project, version: u64) -> PathBuf {
        let directory = self.path(&format!("context-{owner}-{}", project.name));
        for (name, content) in project.files(version) {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().expect("a file has a directory"))
                .expect("a directory can be made");
            fs::write(&path, content).expect("a file can be written");
        }
        if let Who::User(user) = &self.who {
            user.give(&directory);
        }
        directory
    }
}

fn bases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bases/oci")
}

/// By another program: were a program open for writing here while another is started, it could not be executed.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("`cp` can be run");
    assert!(status.success(), "cp {}: {status}", from.display());
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Output {
    testkit::run_with_timeout(command, TIMEOUT)
}

/// Runs a command, which has to succeed.
pub(crate) fn succeed(command: Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{shown}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// Kills a command after `delay`; tells whether it was still running.
pub(crate) fn kill_after(mut command: Command, delay: Duration) -> bool {
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild can be started");
    let deadline = Instant::now() + delay;
    while Instant::now() < deadline {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    true
}
