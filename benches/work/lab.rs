//! Where builds are timed: a fresh file system and a registry on loopback.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Room for all stores and contexts; the file is sparse.
const FILE_SYSTEM_SIZE: &str = "16G";

/// A mounted file system and a registry; both go when it is dropped.
pub(crate) struct Lab {
    pub(crate) registry: testkit::RealRegistry,
    mount: PathBuf,
    directory: tempfile::TempDir,
    stores: AtomicUsize,
}

impl Lab {
    pub(crate) fn new() -> Result<Self, String> {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        // An ordinary user builds here, too.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
        let image = directory.path().join("disk");
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        command("truncate", &["-s", FILE_SYSTEM_SIZE, &text(&image)])?;
        command(
            "mkfs.ext4",
            &["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", &text(&image)],
        )?;
        command("mount", &["-o", "loop,nodiscard", &text(&image), &text(&mount)])?;
        let registry = testkit::RealRegistry::start();
        registry.load_oci_layout(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/bases/oci")),
            "library",
        );
        Ok(Self { registry, mount, directory, stores: AtomicUsize::new(0) })
    }

    /// A new directory on the file system.
    pub(crate) fn new_directory(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.mount.join(format!("{name}-{}", self.stores.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// Writes everything out, so that no run pays for an earlier one.
    pub(crate) fn sync(&self) {
        // A bench on a machine without sync(1) is only noisier.
        let _ = Command::new("sync").arg("-f").arg(&self.mount).status();
    }

    /// Builds `context` with the store `store` into a tagged image and tells how long it took.
    pub(crate) fn build(&self, store: &Path, context: &Path) -> Result<Duration, String> {
        self.run(store, context, &["-t", "bench:latest"])
    }

    /// The same without an image.
    pub(crate) fn solve(&self, store: &Path, context: &Path) -> Result<Duration, String> {
        self.run(store, context, &["--output=type=cacheonly"])
    }

    /// Builds `context` with the store `store` and these flags.
    pub(crate) fn run(&self, store: &Path, context: &Path, arguments: &[&str]) -> Result<Duration, String> {
        let mut build = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        build.args(arguments);
        self.timed_build(&mut build, store, context)
    }

    /// The same by a command of the caller's, which has its arguments but for the context.
    pub(crate) fn timed_build(
        &self,
        build: &mut Command,
        store: &Path,
        context: &Path,
    ) -> Result<Duration, String> {
        let config = self.directory.path().join("config.toml");
        let text = format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", self.registry.address());
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        build
            .env("RBUILD_ROOT", store)
            .env("RBUILD_CONFIG", &config)
            .env("DOCKER_CONFIG", self.directory.path());
        timed(build.arg(context).stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// How often the device of the file system was told to flush its cache (Linux 5.5).
    pub(crate) fn flushes(&self) -> Result<u64, String> {
        use std::os::unix::fs::MetadataExt;
        let device = std::fs::metadata(&self.mount).map_err(|error| error.to_string())?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/dev/block/{major}:{minor}/stat");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let count = text.split_whitespace().nth(15).and_then(|count| count.parse().ok());
        count.ok_or_else(|| format!("{path} does not count flushes"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = command("umount", &[&text(&self.mount)]) {
            eprintln!("cannot unmount the bench's file system: {error}");
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs a program to its end and tells how long it took; its output is shown only if it fails.
pub(crate) fn timed(command: &mut Command) -> Result<Duration, String> {
    command.stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let duration = started.elapsed();
    if output.status.success() {
        Ok(duration)
    } else {
        Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs a program to its end.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<(), String> {
    timed(Command::new(program).args(arguments)).map(|_| ())
}

/// Times a line of shell.
pub(crate) fn shell(script: &str, directory: &Path) -> Result<Duration, String> {
    timed(Command::new("bash").args(["-euc", script]).current_dir(directory).stdout(Stdio::null()))
}
