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

    pub(crate) fn command(&self, lab: &Lab, context: &std::path::Path, arguments: &[&str]) -> Command {
        let mut command = self.0.command(&lab.path("rbuild"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", lab.path("home")).env("RBUILD_ROOT", lab.root());
        command.current_dir(lab.directory.path()).stdin(Stdio::null());
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
