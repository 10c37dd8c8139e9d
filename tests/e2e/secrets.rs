//! What a build is shown and must not keep: secrets and agents.

use std::path::Path;
use std::time::Duration;

use crate::lab::{Lab, Ran, Tree};

const TIMEOUT: Duration = Duration::from_secs(120);

const VALUE: &str = "hush-4711-nobody-may-see-this";

/// The files below `directory` that hold `text`.
fn holding(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().expect("the store can be looked at");
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).expect("the store can be read");
            open.extend(entries.map(|entry| entry.expect("the store can be read").path()));
        } else if metadata.is_file() {
            let content = std::fs::read(&path).expect("the store can be read");
            if content.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found
}

const USING: &str = "FROM busybox
RUN --mount=type=secret,id=token cat /run/secrets/token; wc -c < /run/secrets/token > /size
RUN --mount=type=secret,id=token,env=TOKEN,required echo \"it is $TOKEN\" >&2; cat /proc/sys/kernel/random/uuid > /id
RUN --mount=type=secret,id=token,target=/root/.netrc,mode=0444 printf %s \"$(cat /root/.netrc)\"
";

#[test]
fn a_secret_is_nowhere_in_the_store_and_not_in_the_output() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", USING)]);
        std::fs::write(lab.path("secret"), VALUE).expect("a file can be written");
        let secret = format!("--secret=id=token,src={}", lab.path("secret").display());
        let built = lab.build(&context, &["-t", "app", &secret]).succeeded();
        assert!(!built.stderr.contains(VALUE), "{}", built.stderr);
        assert_eq!(
            built.stderr.lines().filter(|line| line.ends_with(" ****")).count(),
            3,
            "{}",
            built.stderr
        );
        assert!(
            built.stderr.contains("RUN --mount=type=secret,id=token,env=TOKEN,required echo \"it is ****\"")
        );
        assert_eq!(holding(&lab.root(), VALUE), Vec::<String>::new());
        assert!(!holding(&lab.root(), "run.mount.secret").is_empty(), "the search finds what is there");
        let tree = lab.build_tree(&context, &[&secret]);
        assert_eq!(tree.text("size"), format!("{}\n", VALUE.len()));
        assert!(!tree.has("run") && !tree.has("root/.netrc"), "{:?}", tree.names());
    }
}

#[test]
fn another_secret_is_no_other_step() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", USING)]);
    let build = |value: &str| {
        let mut command =
            lab.build_command(&context, &["--secret=id=token,env=VALUE", "-o", "type=tar,dest=t.tar"]);
        command.env("VALUE", value);
        let ran = Ran::from(testkit::run_with_timeout(command, TIMEOUT));
        (ran.succeeded().executed().len(), Tree::read(&lab.path("t.tar")).text("id"))
    };
    let (first, id) = build("one value");
    assert_eq!(first, 3);
    assert_eq!(build("another value"), (0, id));
}

#[test]
fn a_failure_shows_no_secret() {
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox\nRUN --mount=type=secret,id=token,env=T echo \"$T\"; echo $T | tr a-z A-Z; exit 5\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    std::fs::write(lab.path("secret"), VALUE).expect("a file can be written");
    let failed = lab.build(&context, &["--secret=id=token,src=secret"]).failed(1, &["exit code: 5", "****"]);
    assert!(!failed.stderr.contains(VALUE), "{}", failed.stderr);
}

#[test]
fn secrets_that_are_missing_are_told() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\n\nRUN --mount=type=secret,id=gone,required true\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &[]).failed(1, &["Dockerfile:3", "secret gone: not found"]);
    let told = lab.build(&context, &["--secret=id=gone,src=no/such/file"]);
    let told = told.failed(2, &["cannot read the secret `gone` from `no/such/file`"]);
    assert!(!told.stderr.contains("RUN"), "before anything is done: {}", told.stderr);
    lab.build(&context, &["--secret=id=gone,file=x"]).failed(2, &["unexpected key 'file'"]);
}

#[test]
fn an_agent_has_a_socket_in_the_step_alone() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox
RUN --mount=type=ssh stat -c '%F %a %u:%g' \"$SSH_AUTH_SOCK\" > /one; echo $SSH_AUTH_SOCK >> /one
RUN --mount=type=ssh,id=other,target=/tmp/a,mode=0666,uid=1000 --mount=type=ssh,required ls -l /tmp/a /run/buildkit > /two; echo $SSH_AUTH_SOCK >> /two
RUN echo ${SSH_AUTH_SOCK-unset} > /three
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let _sockets = ["agent", "second"]
        .map(|name| std::os::unix::net::UnixListener::bind(lab.path(name)).expect("a socket"));
    let build = |agent: &str| {
        let flags = ["--ssh", "default", "--ssh=other=second", "-o", "type=tar,dest=t.tar"];
        let mut command = lab.build_command(&context, &flags);
        command.env("SSH_AUTH_SOCK", lab.path(agent));
        Ran::from(testkit::run_with_timeout(command, TIMEOUT)).succeeded()
    };
    build("agent");
    let tree = Tree::read(&lab.path("t.tar"));
    assert_eq!(tree.text("one"), "socket 600 0:0\n/run/buildkit/ssh_agent.0\n");
    assert!(
        tree.text("two").contains("srw-rw-rw-") && tree.text("two").contains("ssh_agent.1"),
        "{}",
        tree.text("two")
    );
    assert!(tree.text("two").ends_with("\n/tmp/a\n"), "{}", tree.text("two"));
    assert_eq!(tree.text("three"), "unset\n");
    assert!(!tree.has("run") && !tree.has("tmp/a"), "{:?}", tree.names());
    let again = build("second");
    assert_eq!(again.executed(), Vec::<String>::new(), "which agent it is does not count: {}", again.stderr);
}

#[test]
fn agents_that_are_missing_are_told() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN --mount=type=ssh,required true\n")]);
    lab.build(&context, &[]).failed(1, &["Dockerfile:2", "unset ssh forward key default"]);
    let told = lab.build(&context, &["--ssh=default"]);
    told.failed(
        2,
        &["invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set", "hint: `eval $(ssh-agent)`"],
    );
    std::fs::write(lab.path("key"), "a key").expect("a file can be written");
    lab.build(&context, &["--ssh=default=key"])
        .failed(2, &["cannot use the key `key`: it is no private key"]);
}
