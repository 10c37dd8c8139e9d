//! `--load`: images for the engines of a machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Ran, run};
use crate::rootless::User;

const DOCKERFILE: &str = "FROM busybox\nRUN echo x > /made\nCMD [\"cat\", \"/made\"]\n";

/// Docker's engine, with a directory of its own; it brings a containerd.
struct Engine {
    child: Child,
    directory: PathBuf,
}

impl Engine {
    fn start(lab: &Lab) -> Self {
        let directory = lab.path("engine");
        fs::create_dir(&directory).expect("a directory can be made");
        let path = |name: &str| directory.join(name).display().to_string();
        let log = fs::File::create(directory.join("log")).expect("a file can be made");
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args(["--host", &format!("unix://{}", path("docker.sock")), "--storage-driver=vfs"]);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        let errors = log.try_clone().expect("a descriptor can be copied");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let engine = Self { child: child.expect("install docker.io"), directory };
        let patience = Instant::now() + Duration::from_secs(60);
        while !engine.docker(&["version"]).status.success() {
            let log = fs::read_to_string(engine.directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < patience, "the engine does not start:\n{log}");
            std::thread::yield_now();
        }
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.join("docker.sock").display())
    }

    fn docker(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments).stdin(Stdio::null());
        testkit::run_with_timeout(command, Duration::from_secs(60))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends its containerd.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A podman with images of its own.
fn podman_of(lab: &Lab, programs: &Path) -> PathBuf {
    let root = lab.path("containers").display().to_string();
    let script = format!(
        "#!/bin/sh\nexec /usr/bin/podman --root {root}/root --runroot {root}/run --storage-driver vfs \"$@\"\n"
    );
    let podman = programs.join("podman");
    fs::write(&podman, script).expect("a file can be written");
    fs::set_permissions(&podman, fs::Permissions::from_mode(0o755)).expect("modes can be set");
    podman
}

#[test]
fn users_load_images_too() {
    let user = User::new("rbuild-loads", 23_996, Some(2_020_000_000));
    let (lab, context) = user.lab(&[("Dockerfile", DOCKERFILE)]);
    let podman = podman_of(&lab, lab.directory.path());
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.directory.path().display());
    let build = |arguments: &[&str]| {
        let mut command = user.command(&lab, &context, arguments);
        command.env("PATH", &path).env("DOCKER_HOST", "unix:///no/such");
        Ran::from(testkit::run_with_timeout(command, Duration::from_secs(120)))
    };
    // A flag that has no effect is told, and nothing else.
    let ran = build(&["--load=podman", "-t", "loaded:v3", "--compress"]).succeeded();
    assert!(ran.stderr.contains("WARNING: `--compress` has no effect"), "{}", ran.stderr);
    let mut list = user.program(&lab, &podman);
    list.args(["images", "--quiet", "loaded:v3"]);
    let listed = Ran::from(testkit::run_with_timeout(list, Duration::from_secs(60))).succeeded();
    assert_eq!(listed.stdout.lines().count(), 1, "install podman: {}", listed.stderr);
    // One that is not needed is ended.
    build(&["--load=podman", "--target=none"]).failed(1, &["none"]);
}

#[test]
fn images_are_loaded_into_engines() {
    let lab = Lab::new();
    let engine = Engine::start(&lab);
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE)]);
    let build = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = lab.build_command(&context, arguments);
        command.envs(variables.iter().copied());
        Ran::from(testkit::run_with_timeout(command, Duration::from_secs(120)))
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let id_file = lab.path("id").display().to_string();
    let host = engine.host();
    let flags = ["--load", "-t", "loaded:v1", "-t", "example.com/second", "--iidfile", &id_file];
    let ran = build(&flags, &[("DOCKER_HOST", &host)]).succeeded();
    for name in ["loaded:v1", "example.com/second:latest"] {
        assert!(ran.stderr.contains(&format!("Loaded image: {name}")), "{}", ran.stderr);
    }
    let id = fs::read_to_string(&id_file).expect("it was written");
    for name in ["loaded:v1", "example.com/second"] {
        let found = engine.docker(&["image", "inspect", "--format={{.Id}}", name]);
        assert_eq!(text(found.stdout).trim(), id);
    }
    // It is there and not in the store.
    assert_eq!(lab.rbuild(&["images", "-q"]).succeeded().stdout, "");

    // Docker's contexts say where engines are.
    let meta = lab.path("home/.docker/contexts/meta/");
    // The digest of the name `there`.
    let hash = run("sh", &["-c", "printf there | sha256sum | cut -d' ' -f1"]);
    let meta = meta.join(hash.trim());
    fs::create_dir_all(&meta).expect("directories can be made");
    let document = format!("{{\"Name\":\"there\",\"Endpoints\":{{\"docker\":{{\"Host\":\"{host}\"}}}}}}");
    fs::write(meta.join("meta.json"), document).expect("a file can be written");
    build(&["--output=type=docker,context=there,name=by/context"], &[]).succeeded();
    assert!(engine.docker(&["image", "inspect", "by/context"]).status.success());
    build(&["--output=type=docker,context=none"], &[]).failed(2, &["there is no docker context `none`"]);

    // By the commands of others.
    let containerd = engine.directory.join("exec/containerd/containerd.sock").display().to_string();
    build(&["--load=containerd", "-t", "loaded:v2"], &[("CONTAINERD_ADDRESS", &containerd)]).succeeded();
    let listed = run("ctr", &["--address", &containerd, "--namespace=default", "images", "list", "--quiet"]);
    assert!(listed.contains("docker.io/library/loaded:v2"), "{listed}");
    let programs = lab.path("programs");
    fs::create_dir(&programs).expect("a directory can be made");
    let podman = podman_of(&lab, &programs);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    build(&["--load=podman", "-t", "loaded:v3"], &[("PATH", &path)]).succeeded();
    let listed = run(&podman.to_string_lossy(), &["images", "--no-trunc", "--quiet", "loaded:v3"]);
    assert_eq!(listed.trim(), id, "install podman");

    let nobody = [("DOCKER_HOST", "unix:///no/such"), ("PATH", "/no/such")];
    let ran =
        build(&["--load", "-t", "x"], &nobody).failed(3, &["no engine takes the image", "unix:///no/such"]);
    assert!(ran.stderr.contains("hint: `-t` alone keeps the image"), "{}", ran.stderr);
}
