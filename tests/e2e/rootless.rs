//! Builds of ordinary users, whom the tests make.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use testkit::TestUser;

use crate::lab::{Lab, Ran, Tree, bases, run};

/// A user who builds.
pub(crate) struct User(TestUser);

impl User {
    pub(crate) fn new(name: &'static str, id: u32, subordinate: Option<u32>) -> Self {
        Self(TestUser::new(name, id, subordinate))
    }

    /// A lab that belongs to the user, with the binary and the base images where the user can read them.
    pub(crate) fn lab(&self, files: &[(&str, &str)]) -> (Lab, PathBuf) {
        let lab = Lab::new();
        let context = lab.context("ctx", files);
        run("cp", &["-a", &bases().to_string_lossy(), &lab.path("bases").to_string_lossy()]);
        // By another process: were it open for writing here while another test starts a program, that would inherit it
        // for a moment, and the binary could not be executed.
        run("cp", &[env!("CARGO_BIN_EXE_rbuild"), &lab.path("rbuild").to_string_lossy()]);
        std::fs::set_permissions(lab.directory.path(), std::fs::Permissions::from_mode(0o755))
            .expect("modes can be set");
        self.0.give(lab.directory.path());
        (lab, context)
    }

    pub(crate) fn build(&self, lab: &Lab, context: &std::path::Path, arguments: &[&str]) -> Ran {
        let command = self.command(lab, context, arguments);
        Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120)))
    }

    /// The command `rbuild`, run by the user.
    pub(crate) fn rbuild(&self, lab: &Lab) -> Command {
        self.program(lab, &lab.path("rbuild"))
    }

    /// Any program, run by the user.
    pub(crate) fn program(&self, lab: &Lab, program: &std::path::Path) -> Command {
        let mut command = self.0.command(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", lab.path("home")).env("RBUILD_ROOT", lab.root());
        command.current_dir(lab.directory.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn command(&self, lab: &Lab, context: &std::path::Path, arguments: &[&str]) -> Command {
        let mut command = self.rbuild(lab);
        command.args(["build", "--progress=plain"]).args(arguments);
        command.arg(format!("--build-context=busybox=oci-layout://{}:busybox", lab.path("bases").display()));
        command.arg(context);
        command
    }

    fn build_tree(&self, lab: &Lab, context: &std::path::Path) -> Tree {
        let path = lab.path("tree.tar");
        self.build(lab, context, &[&format!("--output=type=tar,dest={}", path.display())]).succeeded();
        Tree::read(&path)
    }
}

#[test]
fn a_user_with_subordinate_ids_builds_like_root() {
    let user = User::new("rbuild-sub", 23401, Some(2_000_000_000));
    let dockerfile = "FROM busybox
COPY --chown=app:staff file /owned
RUN id -u > /id && chown app /id && mkdir /d && chown 1000:1001 /d
USER app
RUN echo mine > /d/mine
";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile), ("file", "x")]);
    let tree = user.build_tree(&lab, &context);
    assert_eq!(tree.text("id"), "0\n");
    assert_eq!(tree.uid("id"), Some(1000));
    assert_eq!(tree.uid("owned"), Some(1000));
    assert_eq!(tree.uid("d/mine"), Some(1000));
    let again = user.build(&lab, &context, &["-t", "x"]).succeeded();
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.stderr);
}

#[test]
fn a_user_without_subordinate_ids_builds_with_one_id() {
    let user = User::new("rbuild-one", 23402, None);
    let dockerfile = "FROM busybox
COPY --chown=1000:1001 file /owned
RUN id -u > /id && rm /etc/group && mkdir /new && echo x > /new/x
FROM scratch
COPY --from=0 / /
";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile), ("file", "x")]);
    let tree = user.build_tree(&lab, &context);
    assert_eq!(tree.text("id"), "0\n");
    assert_eq!(tree.text("new/x"), "x\n");
    assert_eq!(tree.uid("owned"), Some(1000), "owners are recorded");
    assert!(!tree.has("etc/group"));
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN chown 5:6 /tmp\n")
        .expect("a file can be written");
    user.build(&lab, &context, &[])
        .failed(1, &["Dockerfile:2", "hint: this build has one id", "/etc/subuid"]);
}

const MOUNTING: &str = "FROM busybox AS stage
RUN mkdir /made && echo made > /made/f
FROM busybox
RUN --mount=target=/c --mount=from=stage,source=made,target=/s,rw --mount=from=stage,target=/s/root cat /c/file /s/f /s/root/made/f > /all; echo x > /s/f; stat -c %u /c/file >> /all
RUN --mount=type=cache,target=/k --mount=type=tmpfs,target=/t echo kept > /k/f; cp /k/f /t/f
RUN --mount=type=cache,target=/k cat /k/f >> /all
RUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s,target=/s stat -c '%a %u' /s >> /all; cat /s >> /all; echo ${#S} >> /all
RUN --mount=type=ssh,required stat -c '%F %a %u' $SSH_AUTH_SOCK >> /all
";

#[test]
fn users_mount_what_root_mounts() {
    for (name, id, first) in [("rbuild-mounts", 23411, Some(2_001_100_000)), ("rbuild-mounts1", 23412, None)]
    {
        let user = User::new(name, id, first);
        let (lab, context) = user.lab(&[("Dockerfile", MOUNTING), ("file", "context\n")]);
        std::fs::write(lab.path("secret"), "hush\n").expect("a file can be written");
        let _agent = std::os::unix::net::UnixListener::bind(lab.path("agent")).expect("a socket can be made");
        let path = lab.path("tree.tar");
        let output = format!("--output=type=tar,dest={}", path.display());
        user.build(&lab, &context, &[&output, "--secret=id=s,src=secret", "--ssh=default=agent"]).succeeded();
        let text = Tree::read(&path).text("all");
        assert_eq!(text, "context\nmade\nmade\n0\nkept\n400 0\nhush\n5\nsocket 600 0\n", "{name}");
    }
}

#[test]
fn with_one_id_what_is_mounted_for_others_is_roots() {
    let user = User::new("rbuild-mounts2", 27109, None);
    let dockerfile = "FROM busybox
RUN --mount=type=secret,id=s,uid=1000,gid=5,target=/s --mount=type=ssh,uid=1000,required \\
    --mount=type=cache,uid=1000,gid=5,target=/k stat -c '%u:%g %a' /s $SSH_AUTH_SOCK /k > /all; cat /s >> /all
";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile)]);
    std::fs::write(lab.path("secret"), "hush\n").expect("a file can be written");
    let _agent = std::os::unix::net::UnixListener::bind(lab.path("agent")).expect("a socket can be made");
    let path = lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", path.display());
    user.build(&lab, &context, &[&output, "--secret=id=s,src=secret", "--ssh=default=agent"]).succeeded();
    assert_eq!(Tree::read(&path).text("all"), "0:0 400\n0:0 600\n0:0 755\nhush\n");
}

#[test]
fn an_archive_is_a_context_for_users_too() {
    let users = [User::new("rbuild-sub3", 23404, Some(2_000_200_000)), User::new("rbuild-one2", 23405, None)];
    for user in users {
        let dockerfile = "FROM busybox\nCOPY . /all/\nRUN cd /all && stat -c '%n %a %u:%g %s' * > /stat\n";
        let (lab, context) = user.lab(&[("Dockerfile", dockerfile), ("locked", "x")]);
        run("chmod", &["0", &context.join("locked").to_string_lossy()]);
        run("mknod", &[&context.join("device").to_string_lossy(), "c", "1", "3"]);
        let archive = lab.path("context.tar");
        run("tar", &["-C", &context.to_string_lossy(), "-cf", &archive.to_string_lossy(), "."]);
        let path = lab.path("tree.tar");
        let output = format!("--output=type=tar,dest={}", path.display());
        let mut command = user.command(&lab, std::path::Path::new("-"), &[&output]);
        command.stdin(std::fs::File::open(archive).expect("the archive can be opened"));
        Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120))).succeeded();
        let size = dockerfile.len();
        let expected = format!("Dockerfile 644 0:0 {size}\nlocked 0 0:0 1\n");
        assert_eq!(Tree::read(&path).text("stat"), expected, "{}: devices are left out", user.0.name());
        let runs = std::fs::read_dir(lab.root().join("tmp")).expect("the store has a tmp");
        assert_eq!(runs.count(), 0, "{}", user.0.name());
    }
}

#[test]
fn the_store_of_a_user_is_in_the_home() {
    let user = User::new("rbuild-sub2", 23403, Some(2_000_100_000));
    let (lab, context) = user.lab(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    let mut command = user.0.command(&lab.path("rbuild"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", lab.path("home"));
    command.args(["-t", "app:v1"]).arg(&context).stdin(Stdio::null());
    Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60))).succeeded();
    assert!(
        lab.path("home/.local/share/rbuild/meta.db").exists(),
        "the store of {} is elsewhere",
        user.0.name()
    );
}

#[test]
fn a_store_that_may_not_be_written_is_told() {
    let user = User::new("rbuild-sub3", 23404, Some(2_000_200_000));
    let (lab, context) = user.lab(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    std::fs::create_dir(lab.root()).expect("a directory can be made");
    user.build(&lab, &context, &["-t", "x"])
        .failed(3, &[&lab.root().to_string_lossy(), "ermission denied", "hint: "]);
    user.0.give(&lab.root());
    user.build(&lab, &context, &["-t", "x"]).succeeded();
}

#[test]
fn users_add_what_is_elsewhere() {
    let server = testkit::ScriptedRegistry::start();
    let file = testkit::WebFile {
        content: "remote".into(),
        etag: Some("\"1\"".to_owned()),
        ..testkit::WebFile::default()
    };
    server.put_file("/f", file);
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    testkit::GitRepository::new(root.path().join("a.git"))
        .commit(&[("g", "committed"), ("Dockerfile", "FROM busybox\nCOPY . /\nRUN cat /g > /out\n")]);
    let git = testkit::GitHttp::start(root.path());
    let repository = git.url("a.git/.git");
    let dockerfile = format!(
        "FROM busybox\nADD {} /\nADD --chown=5 {repository} /r/\nRUN cat /f /r/g > /out\n",
        server.url("/f")
    );
    for user in
        [User::new("rbuild-add-sub", 23471, Some(2_000_700_000)), User::new("rbuild-add-one", 23472, None)]
    {
        let (lab, context) = user.lab(&[("Dockerfile", &dockerfile)]);
        let tree = user.build_tree(&lab, &context);
        assert_eq!(
            (tree.text("out"), tree.uid("f")),
            ("remotecommitted".to_owned(), Some(0)),
            "{}",
            user.0.name()
        );
        assert_eq!(tree.uid("r/g"), Some(5), "{}", user.0.name());
        let again = user.build(&lab, &context, &[]).succeeded();
        assert_eq!(again.executed(), Vec::<String>::new(), "{}", user.0.name());
        let tree = user.build_tree(&lab, std::path::Path::new(&repository));
        assert_eq!(tree.text("out"), "committed", "{}", user.0.name());
    }
    assert_eq!((server.count("GET", "/f"), server.count("HEAD", "/f")), (2, 2));
}

#[test]
fn a_limit_without_a_delegated_cgroup_is_an_error() {
    let user = User::new("rbuild-limit", 23481, Some(2_000_800_000));
    let (lab, context) = user.lab(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let refused = user.build(&lab, &context, &["--resource=memory=64m"]);
    refused.failed(
        1,
        &["this user may make no cgroup with the controller `memory`", "hint: ", "--cgroup-parent"],
    );
    user.build(&lab, &context, &[]).succeeded();
}

/// An image like Debian's in what matters here: files of others than root, and bits that lend their rights.
const DEBIAN_LIKE: &str = "FROM busybox
RUN echo '_apt:x:42:65534::/nonexistent:/bin/false' >> /etc/passwd && echo 'shadow:x:42:' >> /etc/group && \
    echo 'messagebus:x:101:' >> /etc/group && mkdir -p /usr/bin /usr/lib/dbus /var/mail /etc/apt/apt.conf.d \
    /var/cache/apt/archives/partial && cp /bin/busybox /usr/bin/passwd && cp /bin/busybox /usr/bin/chage && \
    cp /bin/busybox /usr/lib/dbus/helper && echo secret > /etc/shadow && \
    chown 0:42 /etc/shadow /usr/bin/chage && chmod 640 /etc/shadow && chown 0:8 /var/mail && \
    chmod 2775 /var/mail && chown 42:0 /var/cache/apt/archives/partial && \
    chmod 700 /var/cache/apt/archives/partial && chown 0:101 /usr/lib/dbus/helper && \
    chmod 4754 /usr/lib/dbus/helper && chmod 4755 /usr/bin/passwd && chmod 2755 /usr/bin/chage
";

/// Builds that image as root, and gives it to a user's lab as the context `debian`.
fn debian_like(lab: &Lab) -> String {
    let roots = Lab::new();
    let context = roots.context("ctx", &[("Dockerfile", DEBIAN_LIKE)]);
    let layout = lab.path("debian");
    let output = format!("--output=type=oci,tar=false,dest={}", layout.display());
    roots.build(&context, &[&output, "-t", "debian"]).succeeded();
    run("chmod", &["-R", "a+rX", &layout.to_string_lossy()]);
    format!("--build-context=debian=oci-layout://{}", layout.display())
}

/// What a tar holds: `mode uid/gid name`, of those whose name is one of `names`.
fn owners(tar: &std::path::Path, names: &[&str]) -> Vec<String> {
    let listing = run("tar", &["--numeric-owner", "-tvf", &tar.to_string_lossy()]);
    let mut found: Vec<String> = listing
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = words.get(5)?.trim_start_matches("./").trim_end_matches('/');
            names.contains(&name).then(|| format!("{} {} {name}", words[0], words[1]))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn owners_of_a_debian_base_survive_one_id() {
    let user = User::new("rbuild-deb", 27101, None);
    let dockerfile = "FROM debian
RUN stat -c '%u:%g %a' /etc/shadow /usr/bin/passwd > /seen && echo more >> /etc/shadow && touch /var/mail/new
COPY --chown=_apt:messagebus file /owned
FROM scratch
COPY --from=0 / /
COPY --from=0 --chown=7:8 /etc/shadow /given
";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile), ("file", "x")]);
    let debian = debian_like(&lab);
    let tar = lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", tar.display());
    user.build(&lab, &context, &[&output, &debian]).succeeded();
    assert_eq!(Tree::read(&tar).text("seen"), "0:0 640\n0:0 4755\n", "everybody is root within");
    assert_eq!(Tree::read(&tar).text("etc/shadow"), "secret\nmore\n");
    let names = [
        "etc/shadow",
        "given",
        "owned",
        "usr/bin/chage",
        "usr/bin/passwd",
        "usr/lib/dbus/helper",
        "var/cache/apt/archives/partial",
        "var/mail",
        "var/mail/new",
    ];
    let expected = [
        "-rw-r----- 0/42 etc/shadow",
        "-rw-r----- 7/8 given",
        "-rw-r--r-- 0/0 var/mail/new",
        "-rw-r--r-- 42/101 owned",
        "-rwsr-xr-- 0/101 usr/lib/dbus/helper",
        "-rwsr-xr-x 0/0 usr/bin/passwd",
        "-rwxr-sr-x 0/42 usr/bin/chage",
        "drwx------ 42/0 var/cache/apt/archives/partial",
        "drwxrwsr-x 0/8 var/mail",
    ];
    assert_eq!(owners(&tar, &names), expected);
}

#[test]
fn changes_of_owners_can_be_ignored() {
    let user = User::new("rbuild-ignore", 27102, None);
    let dockerfile = "FROM debian
RUN touch /f && chown 5:6 /f && chgrp -R 7 /var/mail && stat -c %u:%g /f > /seen && su _apt -s /bin/sh -c id
RUN cp /bin/busybox /b && chmod 4755 /b && chown 9:9 /b && tar -cf /t.tar /b && tar -xpf /t.tar -C /tmp
COPY --chown=42:43 file /owned
RUN cat /etc/apt/apt.conf.d/* > /apt; rm -r /etc/apt/apt.conf.d 2>/dev/null; mkdir -p /etc/apt/apt.conf.d
";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile), ("file", "x")]);
    let debian = debian_like(&lab);
    user.build(&lab, &context, &[&debian]).failed(1, &["chown", "`--ignore-chown`"]);
    let tar = lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", tar.display());
    let flags = ["--ignore-chown", &output, &debian];
    let ran = user.build(&lab, &context, &flags).succeeded();
    assert_eq!(ran.executed().len(), 4, "nothing is taken from the build without: {}", ran.stderr);
    assert!(!ran.stderr.contains("no effect"), "{}", ran.stderr);
    let tree = Tree::read(&tar);
    assert_eq!(tree.text("seen"), "0:0\n");
    assert_eq!(tree.text("apt"), "APT::Sandbox::User \"root\";\n", "apt would notice that it is still root");
    assert!(
        tree.has("etc/apt/apt.conf.d") && !tree.has("etc/apt/apt.conf.d/zz-one-id"),
        "{:?}",
        tree.names()
    );
    let expected = ["-rw-r--r-- 42/43 owned", "-rwsr-xr-x 0/0 b", "-rwsr-xr-x 0/0 tmp/b"];
    assert_eq!(owners(&tar, &["b", "tmp/b", "owned"]), expected);
    assert_eq!(user.build(&lab, &context, &flags).succeeded().executed(), Vec::<String>::new());
}

#[test]
fn with_more_ids_there_is_nothing_to_ignore() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN touch /f && chown 5:6 /f\n")]);
    assert!(!lab.build(&context, &[]).succeeded().stderr.contains("no effect"));
    let ran = lab.build(&context, &["--ignore-chown", "-t", "x"]).succeeded();
    assert!(
        ran.stderr.contains("`--ignore-chown` has no effect: this build has more than one id"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.executed(), Vec::<String>::new(), "the results are the same: {}", ran.stderr);
    lab.build(&context, &["--ids=one"]).failed(2, &["`--ids=one` is for ordinary users"]);
}

#[test]
fn other_users_do_not_exist_with_one_id() {
    let user = User::new("rbuild-user", 27103, None);
    let (lab, context) = user.lab(&[("Dockerfile", "FROM busybox\nUSER 1000:5\nRUN id\n")]);
    let texts = [
        "cannot run as user 1000:5: this build has one id, which is root's",
        "Dockerfile:3",
        "hint: this build has one id (`/etc/subuid` has no line for `rbuild-user`)",
    ];
    for flags in [&[][..], &["--ignore-chown"]] {
        user.build(&lab, &context, flags).failed(1, &texts);
    }
    let dockerfile = "FROM busybox\nRUN id\nUSER 1000:5\nCMD id\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file can be written");
    user.build(&lab, &context, &["-t", "x"]).succeeded();
}

#[test]
fn ids_that_cannot_be_mapped_are_an_error_until_one_is_asked_for() {
    let user = User::new("rbuild-broken", 27104, Some(2_007_200_000));
    let (lab, context) = user.lab(&[("Dockerfile", "FROM busybox\nRUN id -u\n")]);
    // In a mount namespace of its own, the program fails.
    let broken = |flags: &[&str]| {
        let inner = user.command(&lab, &context, flags);
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            "mount --bind /bin/false /usr/bin/newuidmap && exec \"$@\"",
            "sh",
        ]);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(lab.directory.path()).stdin(Stdio::null());
        Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120)))
    };
    let texts = [
        "cannot map the subordinate ids: `/usr/bin/newuidmap` failed: exit status: 1",
        "hint: ",
        "`--ids=one`",
    ];
    broken(&[]).failed(3, &texts);
    assert!(!lab.root().exists(), "no store of another kind is made on the way");
    broken(&["--ids=one"]).succeeded();
    broken(&[]).succeeded();
    let changed = user.build(&lab, &context, &[]);
    changed.failed(
        3,
        &["was made under the ID mapping `one id`", "hint: `--ids=one` (or RBUILD_IDS=one)", "remove `"],
    );
    user.build(&lab, &context, &["--ids", "one"]).succeeded();
    let mut command = user.command(&lab, &context, &[]);
    command.env("RBUILD_IDS", "one");
    Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120))).succeeded();
}

#[test]
fn a_changed_map_is_an_error_that_says_what_to_do() {
    let user = User::new("rbuild-moved", 27105, Some(2_007_300_000));
    let (lab, context) = user.lab(&[("Dockerfile", "FROM busybox\nRUN id -u\n")]);
    user.build(&lab, &context, &[]).succeeded();
    let moved = User::new("rbuild-moved", 27105, Some(2_007_400_000));
    let hint = "hint: give the user the same ranges again in /etc/subuid and /etc/subgid";
    moved
        .build(&lab, &context, &[])
        .failed(3, &["1 2007300000 65536", "1 2007400000 65536", hint, "`--root`"]);
    let without = User::new("rbuild-moved", 27105, None);
    let hint = "hint: there is one id now (`/etc/subuid` has no line for `rbuild-moved`)";
    without.build(&lab, &context, &[]).failed(3, &["and the mapping is `one id` now", hint]);
    let back = User::new("rbuild-moved", 27105, Some(2_007_300_000));
    assert_eq!(back.build(&lab, &context, &["-t", "x"]).succeeded().executed(), Vec::<String>::new());
}

/// A setting is made in a user namespace, where it holds for nobody else.
#[test]
fn where_user_namespaces_are_forbidden_the_setting_is_named() {
    use std::io::Read as _;
    let user = User::new("rbuild-forbidden", 27106, None);
    let (lab, _) = user.lab(&[("Dockerfile", "FROM busybox\nRUN id -u\n")]);
    // The namespace lives as long as the one that has made it.
    let mut holder = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo ready && read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`unshare` can be run");
    let mut ready = [0; 6];
    holder.stdout.as_mut().expect("it is piped").read_exact(&mut ready).expect("it gets ready");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", holder.id()), "0 0 65536").expect("ids can be mapped");
    }
    for arguments in [&["build", "ctx"][..], &["doctor"]] {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                      exec setpriv --reuid 27106 --regid 27106 --clear-groups \"$@\"";
        let mut command = Command::new("nsenter");
        command.args(["--user", "--setuid=0", "--setgid=0", "--target", &holder.id().to_string()]);
        command.args(["sh", "-c", script, "sh"]).arg(lab.path("rbuild")).args(arguments);
        command.env("HOME", lab.path("home")).env("RBUILD_ROOT", lab.root());
        command.current_dir(lab.directory.path()).stdin(Stdio::null());
        let ran = Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60)));
        assert_eq!(ran.code, Some(3), "{}{}", ran.stdout, ran.stderr);
        for text in [
            "cannot make a user namespace: the setting `user.max_user_namespaces` is 0",
            "`sysctl -w user.max_user_namespaces=15000`",
        ] {
            assert!(format!("{}{}", ran.stdout, ran.stderr).contains(text), "{}{}", ran.stdout, ran.stderr);
        }
    }
    drop(holder.stdin.take());
    holder.wait().expect("it ends with its input");
}

#[test]
fn doctor_tells_users_of_their_ids() {
    for (name, id, first, expected) in [
        ("rbuild-doc-sub", 27107, Some(2_007_500_000), "65537, in a user namespace"),
        ("rbuild-doc-one", 27108, None, "one: `/etc/subuid` has no line for `rbuild-doc-one`"),
    ] {
        let user = User::new(name, id, first);
        let (lab, _) = user.lab(&[]);
        let mut command = user.0.command(&lab.path("rbuild"));
        command.args(["doctor"]).env("RBUILD_ROOT", lab.root()).env("HOME", lab.path("home"));
        let ran =
            Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60))).succeeded();
        assert!(ran.stdout.contains(expected), "{}", ran.stdout);
        let usermod = ran.stdout.lines().find(|line| line.contains("→ as root: `usermod --add-subuids "));
        assert_eq!(
            usermod.is_some_and(|line| line.contains(&format!(" {name}`"))),
            first.is_none(),
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn a_user_goes_on_with_the_cache_of_root() {
    let user = User::new("rbuild-carry", 23409, Some(2_070_000_000));
    let dockerfile = "FROM busybox
RUN --mount=type=cache,target=/c echo kept > /c/file
RUN mkdir /d && chown 1000:1001 /d
RUN echo last > /last
";
    let registry = testkit::ScriptedRegistry::start();
    let to = format!("--cache-to=type=registry,ref={}/cache:c,mode=max,mounts=true", registry.address());
    let from = format!("--cache-from=type=registry,ref={}/cache:c,mounts=true", registry.address());
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile)]);
    let root = Lab::new();
    let first = root.build(&context, &["-t", "x", &to]).succeeded();
    let again = user.build(&lab, &context, &["-t", "x", &from]).succeeded();
    assert_eq!((again.executed(), again.stdout), (Vec::new(), first.stdout), "{}", again.stderr);
    let changed = dockerfile.replace("echo last", "--mount=type=cache,target=/c cat /c/file");
    std::fs::write(context.join("Dockerfile"), changed).expect("a file can be written");
    let path = lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", path.display());
    user.build(&lab, &context, &[&output, &from, &to]).succeeded();
    let tree = Tree::read(&path);
    assert_eq!((tree.text("last").as_str(), tree.uid("d")), ("kept\n", Some(1000)));
    // And back.
    let fresh = Lab::new();
    let ran = fresh.build(&context, &["-t", "x", &from]).succeeded();
    assert_eq!(ran.executed(), Vec::<String>::new(), "{}", ran.stderr);
}

#[test]
fn a_user_with_one_id_carries_a_cache_too() {
    let user = User::new("rbuild-carry-one", 23408, None);
    let dockerfile = "FROM busybox
COPY --chown=1000:1001 Dockerfile /owned
RUN mkdir /d && echo x > /d/x && rm /etc/group
RUN echo last > /last
";
    let registry = testkit::ScriptedRegistry::start();
    let to = format!("--cache-to=type=registry,ref={}/cache:c,mode=max", registry.address());
    let from = format!("--cache-from={}/cache:c", registry.address());
    let (one, context) = user.lab(&[("Dockerfile", dockerfile)]);
    let first = user.build(&one, &context, &["-t", "x", &to]).succeeded();
    let (two, context) = user.lab(&[("Dockerfile", dockerfile)]);
    let again = user.build(&two, &context, &["-t", "x", &from]).succeeded();
    assert_eq!((again.executed(), again.stdout), (Vec::new(), first.stdout), "{}", again.stderr);
    let changed = dockerfile.replace("echo last", "cat /d/x");
    let (last, context) = user.lab(&[("Dockerfile", dockerfile), ("other", &changed)]);
    let path = last.path("tree.tar");
    let file = format!("--file={}", context.join("other").display());
    user.build(&last, &context, &[&format!("--output=type=tar,dest={}", path.display()), &file, &from])
        .succeeded();
    let tree = Tree::read(&path);
    assert_eq!((tree.text("last").as_str(), tree.uid("owned")), ("x\n", Some(1000)));
    // What was made with one id is not what root makes.
    let (root, context) = (Lab::new(), context);
    assert_eq!(root.build(&context, &["-t", "x", &from]).succeeded().executed().len(), 3);
}
