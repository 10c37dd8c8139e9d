//! One case: its build, run through the binary as a user would.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::compare;
use crate::image::{Archive, Image};

/// What every file of a context is dated before a build: 2020-01-01T00:00:00Z.
const CONTEXT_TIME: u64 = 1_577_836_800;
const TIMEOUT_SECONDS: u64 = 120;

/// What the cases share: a registry with the base images, and who builds.
pub(crate) struct Environment {
    _registry: testkit::RealRegistry,
    directory: tempfile::TempDir,
    bases: Vec<Image>,
    builder: Builder,
}

/// Who builds.
#[derive(Debug)]
pub(crate) enum Builder {
    Root,
    User(testkit::TestUser),
}

impl Builder {
    /// An ordinary user with subordinate ids.
    pub(crate) fn user() -> Self {
        Self::User(testkit::TestUser::new("rbuild-cases", 23410, Some(2_001_000_000)))
    }
}

impl Environment {
    /// Starts a registry and fills it with the images of the OCI layout `bases`.
    pub(crate) fn start(bases: &Path, builder: Builder) -> Self {
        let registry = testkit::RealRegistry::start();
        registry.load_oci_layout(bases, "library");
        let images = Archive::read_directory(bases).expect("the bases can be read");
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let config = format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.address());
        std::fs::write(directory.path().join("config.toml"), config).expect("the config can be written");
        std::fs::create_dir(directory.path().join("docker")).expect("a directory can be made");
        let environment = Self { _registry: registry, directory, bases: images, builder };
        if let Builder::User(user) = &environment.builder {
            // Where cargo has put it, the user may not be able to go.
            std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), environment.copied_program())
                .expect("the binary can be copied");
            user.give(environment.directory.path());
        }
        environment
    }

    fn copied_program(&self) -> PathBuf {
        self.directory.path().join("rbuild")
    }

    /// A directory of whoever builds.
    fn empty_directory(&self) -> tempfile::TempDir {
        let directory =
            tempfile::tempdir_in(self.directory.path()).expect("a temporary directory can be made");
        if let Builder::User(user) = &self.builder {
            user.give(directory.path());
        }
        directory
    }

    /// The command `rbuild` for whoever builds, who gets all that is in `work`.
    fn command(&self, work: &Path) -> Command {
        match &self.builder {
            Builder::Root => Command::new(env!("CARGO_BIN_EXE_rbuild")),
            Builder::User(user) => {
                user.give(work);
                user.command(&self.copied_program())
            }
        }
    }
}

/// Where a case is built: its context, in a directory of its own, and its store.
#[derive(Clone, Copy)]
struct Place<'a> {
    work: &'a Path,
    context: &'a Path,
    store: &'a Path,
}

/// A case as it is recorded.
pub(crate) struct Case {
    pub(crate) topic: String,
    pub(crate) about: String,
    short_name: String,
    directory: PathBuf,
    build: Value,
    expected: Value,
}

impl Case {
    pub(crate) fn read(directory: &Path) -> Self {
        let component =
            |path: &Path| path.file_name().expect("a case has a name").to_string_lossy().into_owned();
        let json = |name: &str| -> Value {
            let path = directory.join(name);
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{} is malformed: {error}", path.display()))
        };
        let build = json("case.json");
        Self {
            topic: component(directory.parent().expect("a case is in a topic")),
            short_name: component(directory),
            about: build["about"].as_str().unwrap_or_default().to_owned(),
            directory: directory.to_owned(),
            expected: json("expected.json"),
            build,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.topic, self.short_name)
    }

    /// Builds the case and tells in what the result differs from the record.
    pub(crate) fn run(&self, environment: &Environment) -> Vec<String> {
        let work =
            tempfile::tempdir_in(environment.directory.path()).expect("a temporary directory can be made");
        let context = work.path().join("ctx");
        self.copy_context(&context);
        let archive = work.path().join("image.tar");
        let started = SystemTime::now();
        let store = environment.empty_directory();
        let place = Place { work: work.path(), context: &context, store: store.path() };
        let output = self.build(environment, &place, &archive);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();

        let mut differences = self.check_log(&log);
        if self.build["expect"] == "error" {
            if output.status.success() {
                differences.push("the build succeeded, it should have failed".to_owned());
            }
            return differences;
        }
        if let Some(call) = self.build["call"].as_str() {
            differences.extend(compare::call(call, &self.expected["call"], &output.stdout));
            return differences;
        }
        if !output.status.success() {
            differences.push(format!("the build failed:\n{log}"));
            return differences;
        }
        match Archive::read(&archive) {
            Ok(images) => {
                let started = started.duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
                differences.extend(compare::images(
                    &self.expected["images"],
                    &images,
                    &environment.bases,
                    started,
                ));
            }
            Err(error) => differences.push(format!("the archive cannot be read: {error}")),
        }
        differences.extend(self.run_again(environment, &place, &output));
        differences
    }

    /// Builds the case once more in the store of its first build, which must execute nothing and give the same image.
    fn run_again(&self, environment: &Environment, place: &Place<'_>, first: &Output) -> Vec<String> {
        let again = self.build(environment, place, &place.work.join("again.tar"));
        let log = String::from_utf8_lossy(&again.stderr);
        let mut differences = Vec::new();
        if !again.status.success() {
            differences.push(format!("the second build failed:\n{log}"));
        }
        let executed: Vec<String> =
            testkit::steps(&log).into_iter().filter(|(_, cached)| !cached).map(|(name, _)| name).collect();
        if !executed.is_empty() {
            differences.push(format!("the second build executed {executed:?}"));
        }
        if again.stdout != first.stdout {
            let text = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
            differences.push(format!(
                "the second build made `{}`, the first `{}`",
                text(&again),
                text(first)
            ));
        }
        differences
    }

    fn copy_context(&self, context: &Path) {
        run(Command::new("cp").arg("-a").arg(self.directory.join("ctx")).arg(context));
        normalise(context);
        let setup = self.directory.join("setup.sh");
        if setup.exists() {
            run(Command::new("bash").args(["-eu"]).arg(setup).current_dir(context));
        }
    }

    fn build(&self, environment: &Environment, place: &Place<'_>, archive: &Path) -> Output {
        let case = &self.build;
        let Place { work, context, store } = *place;
        let mut command = environment.command(work);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", environment.directory.path());
        command.env("DOCKER_CONFIG", environment.directory.path().join("docker"));
        command.env("RBUILD_CONFIG", environment.directory.path().join("config.toml"));
        command.env("RBUILD_ROOT", store);
        command.args(["build", "--progress=plain"]);
        if let Some(call) = case["call"].as_str() {
            command.arg(format!("--call={call},format=json"));
        } else {
            command.arg(format!("--output=type=oci,dest={}", archive.display()));
        }
        if let Some(dockerfile) = case["dockerfile"].as_str() {
            command.arg("--file").arg(context.join(dockerfile));
        }
        self.add_flags(&mut command, context);
        command.arg(context).stdin(Stdio::null()).current_dir(work);
        let timeout = case["timeout"].as_u64().unwrap_or(TIMEOUT_SECONDS);
        testkit::run_with_timeout(command, Duration::from_secs(timeout))
    }

    fn add_flags(&self, command: &mut Command, context: &Path) {
        let case = &self.build;
        for (key, flag) in
            [("target", "target"), ("platform", "platform"), ("shm-size", "shm-size"), ("network", "network")]
        {
            if let Some(value) = case[key].as_str() {
                command.arg(format!("--{flag}={value}"));
            }
        }
        for (key, flag) in [("build_args", "build-arg"), ("labels", "label")] {
            for (name, value) in case[key].as_object().into_iter().flatten() {
                command.arg(format!("--{flag}={name}={}", value.as_str().expect("values are texts")));
            }
        }
        for key in ["add-hosts", "ulimit"] {
            let flag = key.trim_end_matches('s');
            let list = case[key].as_str().unwrap_or_default();
            for value in list.split(',').filter(|value| !value.is_empty()) {
                command.arg(format!("--{flag}={value}"));
            }
        }
        if let Some(hostname) = case["hostname"].as_str() {
            command.arg(format!("--build-arg=BUILDKIT_SANDBOX_HOSTNAME={hostname}"));
        }
        for allowed in case["allow"].as_array().into_iter().flatten() {
            command.arg(format!("--allow={}", allowed.as_str().expect("entitlements are texts")));
        }
        for (name, value) in case["env"].as_object().into_iter().flatten() {
            command.env(name, value.as_str().expect("values are texts"));
        }
        for (name, value) in case["build_contexts"].as_object().into_iter().flatten() {
            let value = value.as_str().expect("contexts are texts");
            let value = if value.contains("://") {
                value.to_owned()
            } else {
                context.join(value).to_string_lossy().into_owned()
            };
            command.arg(format!("--build-context={name}={value}"));
        }
        for (id, content) in case["secrets"].as_object().into_iter().flatten() {
            let path = context.with_file_name(format!("secret-{id}"));
            std::fs::write(&path, content.as_str().expect("secrets are texts"))
                .expect("a secret can be written");
            command.arg(format!("--secret=id={id},src={}", path.display()));
        }
    }

    fn check_log(&self, log: &str) -> Vec<String> {
        let mut differences = Vec::new();
        let lower = log.to_lowercase();
        let texts = |key: &str| -> Vec<String> {
            let list = self.build[key].as_array().cloned().unwrap_or_default();
            list.iter().map(|text| text.as_str().expect("texts").to_lowercase()).collect()
        };
        for text in texts("error_contains").into_iter().chain(texts("log_contains")) {
            if !lower.contains(&text) {
                differences.push(format!("the output lacks `{text}`:\n{log}"));
            }
        }
        for text in texts("log_lacks") {
            if lower.contains(&text) {
                differences.push(format!("the output has `{text}`:\n{log}"));
            }
        }
        differences
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}

/// Gives a context the modes and times that git does not keep.
fn normalise(path: &Path) {
    let metadata = path.symlink_metadata().expect("a file of the context can be looked at");
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory of the context can be read") {
            normalise(&entry.expect("a directory of the context can be read").path());
        }
    }
    if !metadata.is_symlink() {
        let mode = if metadata.is_dir() || metadata.mode() & 0o100 != 0 { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("modes can be set");
    }
    testkit::set_times(path, UNIX_EPOCH + Duration::from_secs(CONTEXT_TIME));
}
