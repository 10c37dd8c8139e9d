//! Where a page is run: a directory with a home and a store, and registries that answer under the names in the pages. This
//! process has namespaces for mounts, the network and processes of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::RealRegistry;

/// What CI systems set.
const CI_VARIABLES: [(&str, &str); 11] = [
    ("GITHUB_ACTOR", "octocat"),
    ("GITHUB_REPOSITORY", "Example/App"),
    ("GITHUB_SHA", "0123456789abcdef0123456789abcdef01234567"),
    ("TOKEN", "secret"),
    ("CI_REGISTRY", "registry.gitlab.com"),
    ("CI_REGISTRY_IMAGE", "registry.gitlab.com/example/app"),
    ("CI_REGISTRY_USER", "robot"),
    ("CI_REGISTRY_PASSWORD", "secret"),
    ("CI_COMMIT_SHA", "0123456789abcdef0123456789abcdef01234567"),
    ("CI_COMMIT_REF_SLUG", "a-branch"),
    ("CI_DEFAULT_BRANCH", "main"),
];

/// Registries that pages push to.
const REGISTRIES: [&str; 3] = ["registry.example.com", "ghcr.io", "registry.gitlab.com"];

pub(crate) struct Place {
    directory: tempfile::TempDir,
    _registries: [RealRegistry; 2],
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        for name in ["bin", "home", "page"] {
            fs::create_dir(directory.path().join(name)).expect("a directory can be made");
        }
        symlink(env!("CARGO_BIN_EXE_rbuild"), directory.path().join("bin/rbuild"))
            .expect("a link can be made");
        // What is asked of root in a recipe would change this machine.
        write_program(&directory.path().join("bin/sudo"), "#!/bin/sh\n");
        run("ip", &["link", "set", "lo", "up"]);
        let hosts = directory.path().join("hosts");
        let text = format!("127.0.0.1 localhost {}\n", REGISTRIES.join(" "));
        fs::write(&hosts, text).expect("a file can be written");
        run("mount", &["--bind", &hosts.to_string_lossy(), "/etc/hosts"]);
        let pushed = RealRegistry::start_at("127.0.0.1:80");
        let hub = RealRegistry::start_at("127.0.0.1:5000");
        hub.load_oci_layout(busybox_of_several_platforms(&directory), "library");
        fs::write(directory.path().join("config.toml"), config(hub.address()))
            .expect("a file can be written");
        Self { directory, _registries: [pushed, hub] }
    }

    /// Puts what README.md speaks of where the page is run.
    pub(crate) fn add_repository(&self) {
        for name in ["examples", "testdata"] {
            symlink(crate::root().join(name), self.path("page").join(name)).expect("a link can be made");
        }
        let example = crate::root().join("examples/from-registry/Dockerfile");
        fs::copy(example, self.path("page/Dockerfile")).expect("a file can be copied");
    }

    /// Makes a repository with a commit of where the page is run, as CI systems have it.
    pub(crate) fn add_commit(&self) {
        let page = self.path("page");
        let git = |arguments: &[&str]| {
            let names = ["-c", "user.name=rbuild", "-c", "user.email=rbuild@example.com"];
            run("git", &[&["-C", &page.to_string_lossy()], &names[..], arguments].concat());
        };
        git(&["init", "--quiet"]);
        git(&["commit", "--quiet", "--allow-empty", "--message=begin"]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shell in the directory of the page, with the environment that a page may count on.
    pub(crate) fn bash(&self) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("LANG", "C.UTF-8")
            .env("RBUILD_CONFIG", self.path("config.toml"))
            .env("RBUILD_ROOT", self.path("store"))
            .envs(CI_VARIABLES)
            .env("GITHUB_PATH", self.path("github-path"))
            .env("RBUILD_URL", format!("file://{}", env!("CARGO_BIN_EXE_rbuild")))
            .current_dir(self.path("page"));
        command
    }
}

/// The configuration with which names in the pages are those of registries here.
fn config(hub: &str) -> String {
    let network = "[worker.oci]\nnetworkMode = \"host\"\n".to_owned();
    let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"{hub}\"]\n");
    let pushed = REGISTRIES.map(|name| format!("[registry.\"{name}\"]\nhttp = true\n"));
    network + &mirror + &pushed.concat()
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("modes can be set");
}

/// Makes a layout with the base images, of which that for several platforms is called `busybox`.
fn busybox_of_several_platforms(directory: &tempfile::TempDir) -> PathBuf {
    let bases = crate::root().join("testdata/bases/oci");
    let layout = directory.path().join("bases");
    fs::create_dir(&layout).expect("a directory can be made");
    for name in ["blobs", "oci-layout"] {
        symlink(bases.join(name), layout.join(name)).expect("a link can be made");
    }
    let index = fs::read_to_string(bases.join("index.json")).expect("the layout can be read");
    let index = index.replace("\"busybox:latest\"", "\"busybox-native:latest\"");
    let index = index.replace("\"busybox-platforms:latest\"", "\"busybox:latest\"");
    fs::write(layout.join("index.json"), index).expect("a file can be written");
    layout
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("cannot run `{program}`: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}
