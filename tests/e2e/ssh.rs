//! `--ssh` with OpenSSH's own programs: in a step, and by git to a server on loopback.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{GitRepository, TestUser};

use crate::lab::{Lab, Ran, Tree, run};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A key of the repository's, as people keep theirs.
fn key(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path(name);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ssh").join(name), &path)
        .expect("a key can be copied");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("modes can be set");
    path
}

/// The public key of a file, in one line.
fn public(path: &Path) -> String {
    run("ssh-keygen", &["-y", "-f", &path.to_string_lossy()])
}

/// Puts programs of this machine into a context, with the libraries that they are linked to.
fn add_programs(context: &Path, names: &[&str]) {
    for name in names {
        let program = run("sh", &["-c", &format!("command -v {name}")]);
        let linked = run("ldd", &[program.trim()]);
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for file in std::iter::once(program.trim()).chain(libraries) {
            let target = context.join(file.trim_start_matches('/'));
            fs::create_dir_all(target.parent().expect("a file has a parent"))
                .expect("a directory can be made");
            fs::copy(file, &target).expect("a program can be copied");
        }
    }
}

#[test]
fn steps_see_and_use_the_keys_of_files() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox
COPY programs /
RUN --mount=type=ssh ssh-add -L > /keys && ! ssh-add -D 2> /dev/null && echo data > /data && \
    for key in ed25519 rsa ecdsa521; do grep $key /keys > /$key.pub || grep $(echo $key | sed s/ecdsa/nistp/) /keys > /$key.pub; \
    ssh-keygen -q -Y sign -n test -f /$key.pub < /data > /$key.sig || exit 1; done
RUN --mount=type=ssh,id=other ssh-add -L > /other
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    add_programs(&context.join("programs"), &["ssh-add", "ssh-keygen"]);
    let keys = ["ed25519", "rsa", "ecdsa521"].map(|name| key(&lab, name));
    let other = key(&lab, "ecdsa256.pem");
    let paths = keys.each_ref().map(|path| path.to_string_lossy().into_owned()).join(",");
    let flags = [format!("--ssh=default={paths}"), format!("--ssh=other={}", other.display())];
    let tree = lab.build_tree(&context, &flags.each_ref().map(String::as_str));
    assert_eq!(tree.text("keys"), keys.each_ref().map(|path| public(path)).concat());
    assert!(public(&other).starts_with(tree.text("other").trim()), "{}", tree.text("other"));
    // The other program that knows signatures finds them right.
    let signers = keys.each_ref().map(|path| format!("me {}", public(path))).concat();
    fs::write(lab.path("signers"), signers).expect("a file can be written");
    fs::write(lab.path("data"), "data\n").expect("a file can be written");
    for name in ["ed25519", "rsa", "ecdsa521"] {
        fs::write(lab.path("sig"), tree.text(&format!("{name}.sig"))).expect("a file can be written");
        let at = lab.directory.path().display();
        run(
            "sh",
            &["-c", &format!("cd {at} && ssh-keygen -q -Y verify -n test -f signers -I me -s sig < data")],
        );
    }
    // Neither the keys nor their names are kept.
    let text = fs::read_to_string(&keys[1]).expect("a key can be read");
    let line = text.lines().nth(3).expect("a key has lines");
    let found = Command::new("grep").args(["-rlF", line]).arg(lab.root()).output().expect("grep can be run");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

/// An sshd of an ordinary user, who alone can log in.
struct Server {
    process: Child,
    port: u16,
    user: TestUser,
}

impl Server {
    /// Starts it for whoever has the private key to `authorized`.
    fn start(lab: &Lab, authorized: &str) -> Self {
        let user = TestUser::new("rbuild-sshd", 23432, None);
        let directory = lab.path("sshd");
        fs::create_dir(&directory).expect("a directory can be made");
        let host_key = directory.join("host");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &host_key.to_string_lossy()]);
        fs::write(directory.join("authorized"), authorized).expect("a file can be written");
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            listener.local_addr().expect("the listener is bound").port()
        };
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            directory.display()
        );
        fs::write(directory.join("config"), config).expect("a file can be written");
        for path in [lab.directory.path(), &directory] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("modes can be set");
        }
        user.give(&directory);
        let mut command = user.command(Path::new("/usr/sbin/sshd"));
        command.args(["-D", "-e", "-f"]).arg(directory.join("config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            command.spawn().expect("sshd can be run; Debian has it in the package `openssh-server`");
        let mut server = Self { process, port, user };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.process.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "sshd (Debian: `openssh-server`) has ended: {ended:?}");
            assert!(Instant::now() < deadline, "sshd does not listen");
            std::thread::yield_now();
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn git_logs_in_with_the_keys_of_the_build() {
    let lab = Lab::new();
    let key = key(&lab, "ed25519");
    let server = Server::start(&lab, &public(&key));
    let repository = GitRepository::new(lab.path("repository"));
    repository.commit(&[("file", "by ssh"), ("Dockerfile", "FROM scratch\nCOPY file /copied\n")]);
    server.user.give(repository.directory());
    let at = format!("{}@127.0.0.1:{}", server.user.name(), server.port);
    let url = format!("ssh://{at}{}", repository.directory().display());
    let context = lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {url}/.git /\n"))]);
    let build = |context: &Path, flags: &[&str], agent: Option<&str>| {
        let mut command = lab.build_command(context, flags);
        command.arg("--output=type=tar,dest=t.tar");
        // The user's own keys and the hosts that the user knows are none of this test's.
        let ssh = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
                   -o IdentityFile=/dev/null";
        command.env("GIT_SSH_COMMAND", ssh).envs(agent.map(|path| ("SSH_AUTH_SOCK", path)));
        Ran::from(testkit::run_with_timeout(command, TIMEOUT))
    };
    let keys = format!("--ssh=default={}", key.display());
    build(&context, &[], None).failed(1, &["Permission denied (publickey)", "Dockerfile:2"]);
    build(&context, &[&keys], Some("/no/agent")).succeeded();
    assert_eq!(Tree::read(&lab.path("t.tar")).text("file"), "by ssh");
    // A repository as the context.
    build(Path::new(&format!("{url}/.git")), &[&keys], None).succeeded();
    assert_eq!(Tree::read(&lab.path("t.tar")).text("copied"), "by ssh");
    // Through an agent of the user's that `--ssh` names.
    let socket = lab.path("agent");
    let mut agent = Command::new("ssh-agent");
    agent.args(["-D", "-a"]).arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent =
        agent.spawn().expect("ssh-agent can be run; Debian has it in the package `openssh-client`");
    while !socket.exists() {
        std::thread::yield_now();
    }
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket);
    assert!(testkit::run_with_timeout(add, TIMEOUT).status.success());
    let other = GitRepository::new(lab.path("other"));
    other.commit(&[("file", "by an agent")]);
    server.user.give(other.directory());
    let dockerfile = format!("FROM scratch\nADD ssh://{at}{}/.git /\n", other.directory().display());
    let context = lab.context("other-ctx", &[("Dockerfile", &dockerfile)]);
    let through = build(&context, &[&format!("--ssh=default={}", socket.display())], None);
    agent.kill().expect("a child can be killed");
    agent.wait().expect("a child can be waited for");
    through.succeeded();
    assert_eq!(Tree::read(&lab.path("t.tar")).text("file"), "by an agent");
}
