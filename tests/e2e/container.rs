//! Builds within an unprivileged container: crun with its default spec, which masks parts of `/proc`, and the default
//! system call filters of Docker and of podman. Root of the machine starts it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::lab::{Ran, bases, run};

/// The calls that podman's default filter allows beside Docker's, for whom it is the kernel that checks the caller's
/// rights (containers/common, `seccomp.json`).
const PODMAN_ALLOWS: [&str; 13] = [
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "move_mount",
    "open_tree",
    "pivot_root",
    "umount",
    "umount2",
    "unshare",
];

/// `CLONE_NEWNS` to `CLONE_NEWNET`.
const NEW_NAMESPACES: u64 = 0x7E02_0000;

const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    Docker,
    Podman,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// No capability at all, and `no_new_privs`: what Kubernetes calls restricted.
    Nothing,
    /// Those of `crun spec`: three capabilities, and `no_new_privs`.
    Crun,
    /// Those that Docker and podman give.
    Docker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// A directory of the machine's disk.
    Directory,
    /// An overlay, as that of most containers.
    Overlay,
}

#[derive(Debug, Clone, Copy)]
struct Confinement {
    uid: u32,
    rights: Rights,
    filter: Filter,
    root: Root,
}

/// A bundle of the OCI runtime specification.
struct Container {
    directory: tempfile::TempDir,
    confinement: Confinement,
}

impl Container {
    fn new(confinement: Confinement, dockerfile: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let container = Self { directory, confinement };
        for name in ["bin", "etc", "tmp", "home", "proc", "sys", "dev", "ctx"] {
            fs::create_dir_all(container.path("image").join(name)).expect("a directory can be made");
        }
        for name in ["upper", "work", "rootfs", "state"] {
            fs::create_dir(container.path(name)).expect("a directory can be made");
        }
        for path in ["", "image"] {
            open_to_all(&container.path(path), 0o755);
        }
        open_to_all(&container.path("image/tmp"), 0o1777);
        open_to_all(&container.path("image/home"), 0o777);
        fs::copy("/bin/busybox", container.path("image/bin/busybox")).expect("install busybox-static");
        symlink("busybox", container.path("image/bin/sh")).expect("a link can be made");
        // By another process: see the lab of users.
        run("cp", &[env!("CARGO_BIN_EXE_rbuild"), &container.text("image/bin/rbuild")]);
        run("cp", &["-a", &bases().to_string_lossy(), &container.text("image/bases")]);
        fs::write(container.path("image/ctx/Dockerfile"), dockerfile).expect("a file can be written");
        container.write_spec();
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// What `crun spec` says, with what the test asks for.
    fn write_spec(&self) {
        let made = Command::new("crun").arg("spec").current_dir(self.directory.path()).status();
        assert!(made.expect("install crun").success(), "crun makes a spec");
        let path = self.path("config.json");
        let text = fs::read_to_string(&path).expect("the spec can be read");
        let mut spec: Value = serde_json::from_str(&text).expect("the spec is JSON");
        let Confinement { uid, rights, filter, .. } = self.confinement;
        let process = &mut spec["process"];
        process["terminal"] = json!(false);
        process["user"] = json!({"uid": uid, "gid": uid});
        process["env"] = json!(["PATH=/bin", "HOME=/home"]);
        if rights == Rights::Docker {
            process["noNewPrivileges"] = json!(false);
            let held: &[&str] = if uid == 0 { &DOCKER_CAPABILITIES } else { &[] };
            process["capabilities"] =
                json!({"bounding": DOCKER_CAPABILITIES, "effective": held, "permitted": held});
        } else if rights == Rights::Nothing {
            process["capabilities"] = json!({});
        } else if uid != 0 {
            // As runtimes do for whoever is not root.
            process["capabilities"]["ambient"] = json!([]);
        }
        spec["root"] = json!({"path": "rootfs", "readonly": false});
        if filter != Filter::None {
            spec["linux"]["seccomp"] = profile(filter);
        }
        fs::write(path, spec.to_string()).expect("the spec can be written");
    }

    /// Gives it a user namespace with the user of this id as root, and with 65536 ids from `first` on.
    fn map(&self, id: u32, first: Option<u32>) {
        let made = Command::new("crun").args(["spec", "--rootless"]).current_dir(self.path("state")).status();
        assert!(made.expect("install crun").success(), "crun makes a spec");
        let read = |path: &Path| -> Value {
            serde_json::from_str(&fs::read_to_string(path).expect("a spec can be read")).expect("it is JSON")
        };
        let rootless = read(&self.path("state/config.json"));
        fs::remove_file(self.path("state/config.json")).expect("a file can be removed");
        let mut spec = read(&self.path("config.json"));
        spec["mounts"] = rootless["mounts"].clone();
        spec["linux"]["namespaces"] = rootless["linux"]["namespaces"].clone();
        let mut map = vec![json!({"containerID": 0, "hostID": id, "size": 1})];
        map.extend(first.map(|first| json!({"containerID": 1, "hostID": first, "size": 65536})));
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (json!(map), json!(map));
        fs::write(self.path("config.json"), spec.to_string()).expect("the spec can be written");
    }

    /// Runs a script within; rbuild's store lives as long as the script.
    fn run(&self, script: &str) -> Ran {
        self.run_as(None, script)
    }

    /// The same, started by a user.
    fn run_as(&self, user: Option<&testkit::TestUser>, script: &str) -> Ran {
        let path = self.path("config.json");
        let mut spec: Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("the spec can be read")).expect("JSON");
        spec["process"]["args"] = json!(["sh", "-c", script]);
        fs::write(path, spec.to_string()).expect("the spec can be written");
        let mount = match self.confinement.root {
            Root::Directory => "mount --bind image rootfs",
            Root::Overlay => "mount -t overlay -o lowerdir=image,upperdir=upper,workdir=work overlay rootfs",
        };
        let id = self.directory.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let as_user = user.map_or_else(String::new, |user| {
            format!("env HOME=/ setpriv --reuid {0} --regid {0} --init-groups --", user.name())
        });
        // crun refuses a machine with both versions of cgroups; in this mount namespace there is one.
        let script = format!(
            "umount -l /sys/fs/cgroup/unified 2>/dev/null; {mount} && \
             exec {as_user} crun --cgroup-manager=disabled --root state run --bundle . rbuild-test-{}",
            id.trim_start_matches('.')
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).current_dir(self.directory.path());
        command.stdin(std::process::Stdio::null());
        Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120)))
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("modes can be set");
}

/// The policy that steps of rbuild have, which is Docker's default, in the form of the OCI runtime specification.
fn profile(filter: Filter) -> Value {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/sandbox/src/seccomp/syscalls.txt");
    let policy = fs::read_to_string(policy).expect("the policy can be read");
    let (mut allowed, mut denied, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    let mut rules = Vec::new();
    for line in policy.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(' ').next().expect("a line has a name");
        let action = line.rsplit(' ').next().expect("a line has an action");
        let action = match (filter, name) {
            (Filter::Podman, name) if PODMAN_ALLOWS.contains(&name) => "allow",
            // Newer than podman's list, which answers so to all that it does not know.
            (Filter::Podman, "mount_setattr") => "enosys",
            _ => action,
        };
        match action {
            // Which of these are fine does not matter here.
            "allow" | "personality" | "socket" => allowed.push(name),
            "enosys" => absent.push(name),
            "clone" => rules.push(json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            ]})),
            _ => denied.push(name),
        }
    }
    rules.extend([
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
        json!({"names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ]);
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": if filter == Filter::Docker { 1 } else { 38 },
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": rules,
    })
}

const BUILD: &str =
    "rbuild --progress=plain --build-context busybox=oci-layout:///bases:busybox -o /tmp/out /ctx";

const DOCKERFILE: &str = "FROM busybox AS stage
COPY Dockerfile /copied
RUN id -u > /said && cat /proc/self/comm >> /said && (touch /sys/x 2>/dev/null || echo ro >> /said) && rm /copied
RUN ls / > /listed; : > /dev/null; test -e /proc/1
FROM scratch
COPY --from=stage /said /listed /
";

/// Builds, and compares what came of it.
#[track_caller]
fn builds(confinement: Confinement) -> Ran {
    let container = Container::new(confinement, DOCKERFILE);
    let script = format!("{BUILD} && cat /tmp/out/said && grep copied /tmp/out/listed; test $? = 1");
    let ran = container.run(&script).succeeded();
    assert_eq!(ran.stdout, "0\ncat\nro\n", "{confinement:?}: {}", ran.stderr);
    let warning = "WARNING: the kernel refuses a fresh /proc here";
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{confinement:?}: told once: {}", ran.stderr);
    ran
}

#[test]
fn an_ordinary_user_of_a_container_builds() {
    for (rights, filter, root) in [
        (Rights::Crun, Filter::None, Root::Directory),
        (Rights::Crun, Filter::Podman, Root::Overlay),
        (Rights::Nothing, Filter::Podman, Root::Directory),
        (Rights::Nothing, Filter::None, Root::Overlay),
    ] {
        let ran = builds(Confinement { uid: 1000, rights, filter, root });
        let warns = ran.stderr.contains("does not let it set a host name");
        assert_eq!(warns, filter == Filter::Podman, "{filter:?}: {}", ran.stderr);
    }
}

#[test]
fn root_of_a_container_builds_with_the_containers_ids() {
    for (filter, root) in [(Filter::None, Root::Directory), (Filter::Podman, Root::Overlay)] {
        let confinement = Confinement { uid: 0, rights: Rights::Docker, filter, root };
        builds(confinement);
        let dockerfile = "FROM busybox
RUN touch /f && chown 7:8 /f && stat -c '%u %g' /f > /said
USER 1000:1000
RUN id -u > /tmp/id
";
        let container = Container::new(confinement, dockerfile);
        let ran = container.run(&format!("{BUILD} && cat /tmp/out/said /tmp/out/tmp/id"));
        assert_eq!(ran.succeeded().stdout, "7 8\n1000\n", "{confinement:?}");
    }
}

/// Root of the container is an ordinary user of the machine, who has started it, and brings subordinate ids or none.
#[test]
fn containers_of_ordinary_users_build_too() {
    for (name, id, first, owner) in
        [("rbuild-crun", 27110, Some(2_007_600_000_u32), "7 8"), ("rbuild-crun1", 27111, None, "refused")]
    {
        let user = testkit::TestUser::new(name, id, first);
        let confinement =
            Confinement { uid: 0, rights: Rights::Docker, filter: Filter::Podman, root: Root::Directory };
        let dockerfile = "FROM busybox
RUN touch /f && chown 7:8 /f && stat -c '%u %g' /f > /said || echo refused > /said
";
        let container = Container::new(confinement, dockerfile);
        container.map(id, first);
        user.give(&container.directory.path().join("image"));
        for name in ["config.json", "state", "rootfs"] {
            user.give(&container.path(name));
        }
        let script = format!("{BUILD} && cat /tmp/out/said");
        let ran = container.run_as(Some(&user), &script).succeeded();
        assert_eq!(ran.stdout, format!("{owner}\n"), "{name}: {}", ran.stderr);
    }
}

#[test]
fn what_a_container_forbids_is_named() {
    let refused = |uid, rights, filter, texts: &[&str]| {
        let confinement = Confinement { uid, rights, filter, root: Root::Directory };
        let container = Container::new(confinement, DOCKERFILE);
        container.run(BUILD).failed(3, texts);
        let doctor = container.run("rbuild doctor");
        assert_eq!(doctor.code, Some(3), "{confinement:?}: {}", doctor.stdout);
        assert!(doctor.stdout.ends_with("\nBuilds do not work here.\n"), "{}", doctor.stdout);
    };
    let filtered =
        ["cannot make a user namespace: a system call filter is in force", "hint: ", "seccomp=unconfined"];
    refused(1000, Rights::Crun, Filter::Docker, &filtered);
    refused(0, Rights::Docker, Filter::Docker, &filtered);
    let texts = ["without CAP_SETFCAP it may not map its own id", "hint: ", "--cap-add SETFCAP"];
    refused(0, Rights::Crun, Filter::None, &texts);
}

#[test]
fn doctor_tells_what_a_container_takes_away() {
    let confinement =
        Confinement { uid: 1000, rights: Rights::Crun, filter: Filter::Podman, root: Root::Overlay };
    let ran = Container::new(confinement, "").run("rbuild doctor --format json; ls -A /home").succeeded();
    let findings: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = |check: &str, text: &str| {
        let found = findings.iter().any(|finding| {
            finding["check"] == check
                && finding["detail"].as_str().is_some_and(|detail| detail.contains(text))
        });
        assert!(found, "{check}: {text}: {}", ran.stdout);
    };
    told("ids", "one: `/etc/subuid` has no line for `1000`");
    told("proc", "a fresh one is refused");
    told("sandbox", "a host name for RUN");
    told("store", "is made by the first build, on overlay");
    told("snapshots", "as overlay is refused on overlay");
    told("container", "masked parts of /proc, a filter of system calls");
}
