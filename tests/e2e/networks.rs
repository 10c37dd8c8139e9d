//! The network of steps, beside a machine's network in small.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::{Lab, Ran, Tree, run};
use crate::rootless::User;

/// A default route, an address, a name server on the loopback device, and a tap device that users may open.
const OUTSIDE: &str = "\
    ip link set lo up && ip link add outside type veth peer name far && ip link set far up && \
    ip addr add 10.77.0.1/24 dev outside && ip link set outside up && ip route add default via 10.77.0.254 && \
    mount -t tmpfs none /mnt && echo nameserver 127.0.0.1 > /mnt/resolv.conf && \
    mount --bind /mnt/resolv.conf /etc/resolv.conf && \
    mknod -m 666 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun && \
    echo ready && exec sleep infinity";

/// The network and the files of a machine, as far as they matter here.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        assert!(Path::new("/usr/bin/pasta").exists(), "install passt");
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", OUTSIDE])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout can be read");
        assert_eq!(line, "ready\n", "install iproute2");
        Self(holder)
    }

    /// The same command there.
    fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.0.id().to_string(), "--net", "--mount", "--"]);
        inside.arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }

    /// Does something on a thread that is there.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).expect("it is running");
        thread::spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network");
            work()
        })
    }

    /// The port of a server that says this word to whoever connects.
    fn serve(&self, address: &'static str, word: &'static str) -> u16 {
        let listen = move || TcpListener::bind((address, 0)).expect("a port is free");
        let listener = self.spawn(listen).join().expect("it did not panic");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("connections can be accepted");
                // Whoever is gone misses nothing. Some versions of pasta send the last bytes over and over where both
                // ends are closed at once.
                let _ = stream.write_all(word.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        port
    }

    /// A name server on the loopback device: every name has the address 10.77.0.9, and none has one of IPv6.
    fn serve_names(&self) {
        let bind = || UdpSocket::bind(("127.0.0.1", 53)).expect("the port is free");
        let socket = self.spawn(bind).join().expect("it did not panic");
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let is_a = query[length - 4..length] == [0, 1, 0, 1];
                let mut answer = query[..length].to_vec();
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 77, 0, 9]);
                }
                // Whoever is gone misses nothing.
                let _ = socket.send_to(&answer, client);
            }
        });
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with a `pasta` that writes down its number before it becomes the real one.
fn counted_pasta(lab: &Lab) -> (PathBuf, PathBuf) {
    let (directory, started) = (lab.path("bin"), lab.path("started"));
    std::fs::create_dir(&directory).expect("a directory can be made");
    let program = directory.join("pasta");
    let script = format!("#!/bin/sh\necho $$ >> {}\nexec /usr/bin/pasta \"$@\"\n", started.display());
    std::fs::write(&started, "").expect("a file can be written");
    std::fs::write(&program, script).expect("a file can be written");
    for (path, mode) in [(&program, 0o755), (&started, 0o666)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("modes can be set");
    }
    (directory, started)
}

/// The numbers of the processes that were started.
fn started(file: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(file).expect("the file is there");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

/// Waits for the end of all of them.
fn none_is_left(file: &Path) {
    let patience = Instant::now() + Duration::from_secs(20);
    let lives = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(pasta") || stat.contains("(passt")
    };
    while let Some(pid) = started(file).into_iter().find(|pid| lives(*pid)) {
        assert!(Instant::now() < patience, "pasta lives on: {pid}");
        thread::yield_now();
    }
}

/// A lab whose builds are outside, with a pasta that is counted.
struct Place {
    lab: Lab,
    context: PathBuf,
    outside: Outside,
    user: Option<User>,
    started: PathBuf,
    path: String,
}

impl Place {
    fn new(dockerfile: &str, outside: Outside, user: Option<User>) -> Self {
        let files = [("Dockerfile", dockerfile)];
        let (lab, context) = if let Some(user) = &user {
            user.lab(&files)
        } else {
            let lab = Lab::new();
            let context = lab.context("ctx", &files);
            (lab, context)
        };
        let (directory, started) = counted_pasta(&lab);
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").expect("there is a PATH"));
        Self { lab, context, outside, user, started, path }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.user {
            Some(user) => user.command(&self.lab, &self.context, arguments),
            None => self.lab.build_command(&self.context, arguments),
        };
        command.env("PATH", &self.path);
        self.outside.enter(&command)
    }

    fn build(&self, arguments: &[&str]) -> Ran {
        Ran::from(testkit::run_with_timeout(self.command(arguments), Duration::from_secs(120)))
    }

    /// Starts a build and waits until a step has written `begun`.
    fn begin(&self) -> (Child, impl Iterator<Item = String>) {
        let mut child = self
            .command(&["--no-cache"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("rbuild can be started");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut lines = stderr.lines().map(|line| line.expect("stderr can be read"));
        assert!(lines.by_ref().any(|line| line.ends_with(" begun")), "the step has not begun");
        (child, lines)
    }
}

/// Functions of the shell: `call ADDRESS PORT FILE [SECONDS]` writes down what a server says, `gateway` is an address of
/// the host. Some versions of pasta lose the end of a connection, so that the time may pass all the same.
const CALL: &str = "call() { timeout ${4:-10} nc $1 $2 < /dev/null > $3 || true; }; \
                    gateway() { awk '$2 == \"gateway\" {print $1}' /etc/hosts; }";

fn reaches_the_outside_alone(user: Option<User>) {
    let outside = Outside::new();
    outside.serve_names();
    let (open, hidden) = (outside.serve("0.0.0.0", "open"), outside.serve("127.0.0.1", "hidden"));
    let dockerfile = format!(
        "FROM busybox
RUN {CALL}; call 10.77.0.1 {open} /outside; call $(gateway) {open} /gateway; call 127.0.0.1 {hidden} /loopback 1; \
    call 10.77.0.1 {hidden} /by-address 1; call 192.0.0.1 {hidden} /by-gateway 1; \
    nslookup -type=a some.name | grep -c 10.77.0.9 > /name; ls /sys/class/net > /devices
RUN --network=host {CALL}; call 127.0.0.1 {hidden} /host; call $(gateway) {open} /host-gateway; \
    nslookup -type=a some.name | grep -c 10.77.0.9 >> /name
"
    );
    let place = Place::new(&dockerfile, outside, user);
    let path = place.lab.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", path.display());
    let built =
        place.build(&[&output, "--allow=network.host", "--add-host=gateway:host-gateway"]).succeeded();
    assert!(!built.stderr.contains("WARNING"), "{}", built.stderr);
    let tree = Tree::read(&path);
    for name in ["outside", "gateway"] {
        let text = tree.text(name);
        assert!(says_open(&text), "{name}: {text}");
    }
    let texts = ["host", "host-gateway", "name", "devices"].map(|name| tree.text(name));
    assert_eq!(texts, ["hidden", "open", "1\n1\n", "eth0\nlo\n"]);
    assert_eq!(["loopback", "by-address", "by-gateway"].map(|name| tree.text(name)), ["", "", ""]);
    none_is_left(&place.started);
    assert_eq!(started(&place.started).len(), 1);
}

#[test]
fn steps_of_root_reach_the_outside_alone() {
    reaches_the_outside_alone(None);
}

#[test]
fn steps_of_a_user_reach_the_outside_alone() {
    reaches_the_outside_alone(Some(User::new("rbuild-net", 23491, Some(2_001_900_000))));
}

#[test]
fn networks_serve_one_step_after_the_other() {
    let meet = |own: &str, other: &str| {
        format!("RUN --mount=type=cache,target=/m touch /m/{own}; until [ -e /m/{other} ]; do :; done")
    };
    let cases = [
        ("FROM busybox\nRUN true\nRUN : two\nRUN --network=none true\nRUN : three".to_owned(), 1),
        ("FROM busybox\nRUN --security=insecure true\nRUN true\nRUN : two".to_owned(), 2),
        ("FROM busybox\nRUN --network=none true\nRUN --network=host true".to_owned(), 0),
        (
            format!(
                "FROM busybox AS a\n{}\nRUN echo a > /a\nFROM busybox AS b\n{}\nRUN echo b > /b\n\
                 FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN true",
                meet("a", "b"),
                meet("b", "a")
            ),
            2,
        ),
    ];
    for (dockerfile, expected) in cases {
        let place = Place::new(&dockerfile, Outside::new(), None);
        let allowed = ["--allow=network.host", "--allow=security.insecure"];
        place.build(&allowed).succeeded();
        assert_eq!(started(&place.started).len(), expected, "{dockerfile}");
        none_is_left(&place.started);
        place.build(&allowed).succeeded();
        assert_eq!(started(&place.started).len(), expected, "nothing runs: {dockerfile}");
    }
}

#[test]
fn pasta_never_outlives_a_build() {
    for signal in ["-INT", "-KILL"] {
        let place = Place::new("FROM busybox\nRUN echo begun; sleep 999\n", Outside::new(), None);
        let (mut child, _lines) = place.begin();
        assert_eq!(started(&place.started).len(), 1);
        run("kill", &[signal, &child.id().to_string()]);
        child.wait().expect("a child can be waited for");
        none_is_left(&place.started);
    }
}

#[test]
fn pasta_never_outlives_a_build_that_is_killed_at_any_time() {
    let place = Place::new("FROM busybox\nRUN sleep 999\n", Outside::new(), None);
    // From before pasta is started until some have been.
    for delay_ms in (0..).step_by(10).take_while(|_| started(&place.started).len() < 10) {
        let mut command = place.command(&["--no-cache"]);
        let mut child =
            command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("rbuild can be started");
        let due = Instant::now() + Duration::from_millis(delay_ms);
        while Instant::now() < due {
            thread::yield_now();
        }
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }
    none_is_left(&place.started);
}

/// Whether this came from a server that says `open`. The pasta of Debian 12 may hand on a last segment more than once.
fn says_open(text: &str) -> bool {
    !text.is_empty() && text.replace("open", "").is_empty()
}

#[test]
fn a_pasta_that_died_is_replaced() {
    let outside = Outside::new();
    let open = outside.serve("10.77.0.1", "open");
    // The device goes with pasta.
    let dockerfile = format!(
        "FROM busybox\nRUN echo begun; while [ -e /sys/class/net/eth0 ]; do :; done\n\
         RUN {CALL}; call 10.77.0.1 {open} /dev/stdout\n"
    );
    let place = Place::new(&dockerfile, outside, None);
    let (mut child, lines) = place.begin();
    let first = started(&place.started);
    run("kill", &["-KILL", &first[0].to_string()]);
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().expect("a child can be waited for").success(), "{rest:?}");
    assert!(rest.iter().any(|line| line.rsplit(' ').next().is_some_and(says_open)), "{rest:?}");
    assert_eq!(started(&place.started).len(), 2);
    none_is_left(&place.started);
}

#[test]
fn without_pasta_one_line_says_so() {
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox\nRUN readlink /proc/self/ns/net > /one\nRUN readlink /proc/self/ns/net > /two\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let build = |arguments: &[&str]| {
        let mut command = lab.build_command(&context, arguments);
        command.env("PATH", "/no/such/directory");
        Ran::from(testkit::run_with_timeout(command, Duration::from_secs(120)))
    };
    let path = lab.path("tree.tar");
    let ran = build(&[&format!("--output=type=tar,dest={}", path.display())]).succeeded();
    let warning =
        "WARNING: the network of this machine is shared: `pasta` is not installed (package `passt`)";
    let warnings: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("WARNING")).collect();
    assert!(matches!(warnings[..], [line] if line.ends_with(warning)), "{}", ran.stderr);
    let own = std::fs::read_link("/proc/self/ns/net").expect("it is there").display().to_string() + "\n";
    let tree = Tree::read(&path);
    assert_eq!([tree.text("one"), tree.text("two")], [own.clone(), own]);
    lab.configure("[worker.oci]\nnetworkMode = \"pasta\"\n");
    let failed = build(&["--no-cache"]).failed(3, &["Dockerfile:2", "no network of their own for RUN steps"]);
    assert!(failed.stderr.contains("hint: `--network=host`"), "{}", failed.stderr);
    lab.configure("[worker.oci]\nnetworkMode = \"host\"\n");
    let ran = build(&["--no-cache"]).succeeded();
    assert!(!ran.stderr.contains("WARNING"), "{}", ran.stderr);
}

#[test]
fn the_configuration_chooses_the_network() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN ls /sys/class/net > /devices\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.configure("[worker.oci]\nnetworkMode = \"none\"\n");
    assert_eq!(lab.build_tree(&context, &[]).text("devices"), "lo\n");
    // What the configuration says of the network is in no key.
    lab.configure("[worker.oci]\nnetworkMode = \"host\"\n");
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    lab.configure("[worker.oci]\nnetworkMode = \"bridge\"\n");
    lab.build(&context, &[]).failed(2, &["config.toml` is not right", "`auto`, `pasta`, `host`, `none`"]);
}

/// Asks for a page of the server at a port until there is one.
fn page(outside: &Outside, port: u16) -> String {
    let ask = move || {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let mut answer = Vec::new();
            if let Ok(mut stream) = std::net::TcpStream::connect(("10.77.0.1", port)) {
                // A connection that comes before the server may stay without an answer, and ends may get lost.
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                let _ = stream.write_all(b"GET /page HTTP/1.0\r\n\r\n");
                let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
            }
            let answer = String::from_utf8_lossy(&answer);
            if let Some((_, body)) = answer.split_once("\r\n\r\n") {
                return body.to_owned();
            }
            assert!(Instant::now() < patience, "nobody answers at port {port}: {answer:?}");
            thread::yield_now();
        }
    };
    outside.spawn(ask).join().expect("it did not panic")
}

#[test]
fn ports_lead_to_commands() {
    let outside = Outside::new();
    let user = User::new("rbuild-ports", 23991, Some(2_003_400_000));
    let dockerfile = "FROM busybox\nRUN mkdir /www && echo of the command > /www/page\n";
    let (lab, context) = user.lab(&[("Dockerfile", dockerfile)]);
    user.build(&lab, &context, &["-t", "app", "--network=none"]).succeeded();
    let server = ["app", "sh", "-c", "httpd -h /www -p 80; echo begun; read line; echo end"];
    for published in ["18080:80", "10.77.0.1:18079-18081:79-81"] {
        let mut command = user.rbuild(&lab);
        command.args(["run", "-i", "-p", published]).args(server);
        let mut inside = outside.enter(&command);
        inside.current_dir(lab.directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = inside.spawn().expect("rbuild can be started");
        assert_eq!(page(&outside, 18080), "of the command\n");
        child.stdin.take().expect("it is piped").write_all(b"enough\n").expect("it reads");
        let output = child.wait_with_output().expect("a child can be waited for");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "begun\nend\n");
        assert!(output.status.success());
    }
    // A port that is taken is an error, and nothing is run.
    let taken = outside.serve("10.77.0.1", "taken").to_string();
    let mut command = user.rbuild(&lab);
    command.args(["run", "-p", &format!("10.77.0.1:{taken}:80")]).args(server);
    let ran = Ran::from(testkit::run_with_timeout(outside.enter(&command), Duration::from_secs(60)));
    ran.failed(125, &[&taken]);
}
