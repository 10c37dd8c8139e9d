//! `rbuild run`: commands in images.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::lab::{Lab, Ran, Running, left_nothing};
use crate::rootless::User;
use crate::typist::Typist;

const DOCKERFILE: &str = "FROM busybox
RUN mkdir /w && echo image > /w/file
ENV A=one B=two
WORKDIR /w
ENTRYPOINT [\"sh\", \"-c\"]
CMD [\"echo by default\"]
";

fn lab_of(snapshotter: &'static str) -> Lab {
    let lab = Lab::with_snapshotter(snapshotter);
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE)]);
    lab.build(&context, &["-t", "app"]).succeeded();
    lab
}

fn with_input(mut command: Command, input: &str) -> Ran {
    let (inner, mut outer) = std::io::pipe().expect("a pipe can be made");
    outer.write_all(input.as_bytes()).expect("a pipe takes this much");
    drop(outer);
    command.stdin(inner);
    Ran::from(testkit::run_with_timeout(command, Duration::from_secs(60)))
}

#[test]
fn commands_are_run_as_the_image_and_the_flags_say() {
    for snapshotter in ["overlay", "copy"] {
        let lab = lab_of(snapshotter);
        let run = |arguments: &[&str]| lab.rbuild(&[&["run"], arguments].concat());
        assert_eq!(run(&["app"]).succeeded().stdout, "by default\n");
        let ran = run(&["--rm", "app", "echo $A; echo told >&2; exit 7"]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(7), "one\n", "told\n"));
        let ran = run(&["app", "sh -c 'kill -9 $$'; exit $?"]);
        assert_eq!(ran.code, Some(137), "{}", ran.stderr);
        // What looks like a flag after the image is the command's.
        assert_eq!(run(&["--entrypoint=echo", "app", "-e", "--rm"]).succeeded().stdout, "--rm\n");
        run(&["--entrypoint=none", "app"]).failed(127, &["executable file not found"]);
        run(&["--entrypoint=/w/file", "app"]).failed(126, &["permission denied"]);
        run(&["--entrypoint=", "app"]).failed(125, &["no command is given, and `app` has none"]);
        run(&["none.test/none", "x"]).failed(125, &["none.test"]);
        run(&["--pull=never", "none", "x"]).failed(125, &["there is no image `none`"]);
        // Nothing stays.
        run(&["app", "echo changed > file; touch /new"]).succeeded();
        assert_eq!(run(&["app", "cat file; ls /new 2>&1 | head -c 3"]).succeeded().stdout, "image\nls:");
        left_nothing(&lab);
    }
}

#[test]
fn surroundings_are_as_asked_for() {
    let lab = lab_of("overlay");
    fs::create_dir(lab.path("data")).expect("a directory can be made");
    fs::write(lab.path("data/in"), "of the machine\n").expect("a file can be written");
    fs::write(lab.path("env"), "# a comment\nC=of a file\nB=three\nPATH\n").expect("a file can be written");
    let run = |arguments: &[&str]| lab.rbuild(&[&["run"], arguments].concat());
    let env = ["--env-file=env", "-e", "D=4=5", "-e", "HOME", "-e", "NONE", "app"];
    let shown = run(&[&env[..], &["echo $A,$B,$C,$D,${NONE-none},$HOME"]].concat()).succeeded().stdout;
    assert_eq!(shown, format!("one,three,of a file,4=5,none,{}\n", lab.path("home").display()));
    let who = ["-u", "1234:5", "-w", "/made/for/this", "--hostname=host", "--add-host=db:10.1.2.3"];
    let script = "id -u; id -g; pwd; hostname; echo $HOSTNAME; grep db /etc/hosts";
    let shown = run(&[&who[..], &["app", script]].concat()).succeeded().stdout;
    assert_eq!(shown, "1234\n5\n/made/for/this\nhost\nhost\n10.1.2.3\tdb\n");

    let mounts = ["-v", "./data:/ro:ro", "-v", "./data:/rw", "--tmpfs=/t:size=1m", "--read-only"];
    let mount = format!("--mount=type=bind,src={},dst=/w/file,readonly", lab.path("data/in").display());
    let script = "cat /ro/in file; echo out > /rw/out; echo x > /t/x; for path in /ro/x /w/x file; do
        (echo x > $path) 2>&1 | grep -o 'Read-only.*'; done; df -k /t | tail -1 | awk '{print $2}'";
    let shown = run(&[&mounts[..], &[&mount, "app", script]].concat()).succeeded().stdout;
    let refused = "Read-only file system\n".repeat(3);
    assert_eq!(shown, format!("of the machine\nof the machine\n{refused}1024\n"));
    assert_eq!(fs::read_to_string(lab.path("data/out")).expect("it was written"), "out\n");

    let limits = ["--ulimit=nofile=99:100", "--shm-size=2m", "app"];
    let script = "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'";
    assert_eq!(run(&[&limits[..], &[script]].concat()).succeeded().stdout, "99\n100\n2048\n");
    let links = "ls /sys/class/net | tr '\\n' ' '";
    assert_eq!(run(&["--network=none", "app", links]).succeeded().stdout, "lo ");
    let own = crate::lab::run("sh", &["-c", links]);
    assert_eq!(run(&["--network=host", "app", links]).succeeded().stdout, own);
    run(&["--network=none", "-p", "1:1", "app"]).failed(2, &["the command has no network"]);
    run(&["-v", "data:/x", "app"]).failed(2, &["volumes with names are not supported"]);
    run(&["-it", "app"]).failed(2, &["the input device is not a TTY"]);
    left_nothing(&lab);
}

#[test]
fn input_is_handed_on_where_that_is_asked_for() {
    let lab = lab_of("overlay");
    let run = |arguments: &[&str], input: &str| {
        let mut command = lab.command();
        command.arg("run").args(arguments);
        with_input(command, input)
    };
    assert_eq!(run(&["-i", "app", "cat; echo end"], "of a pipe\n").succeeded().stdout, "of a pipe\nend\n");
    assert_eq!(run(&["app", "cat; echo end"], "of a pipe\n").succeeded().stdout, "end\n");
    assert_eq!(run(&["-i", "app", "true"], "not read").succeeded().stdout, "");
    let mut command = lab.command();
    command.args(["run", "app", "yes"]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("rbuild can be started");
    // Whoever has seen enough ends it, as with any program.
    drop(child.stdout.take());
    let code = child.wait().expect("a child can be waited for").code();
    assert!(code.is_some_and(|code| code == 141 || code == 1), "{code:?}");
    left_nothing(&lab);
}

#[test]
fn signals_are_handed_on() {
    let lab = lab_of("overlay");
    let script = "trap 'echo one >&2' USR1; trap 'echo end >&2; exit 5' TERM; echo begun >&2
        while :; do sleep 0.05; done";
    let start = |arguments: &[&str]| {
        let mut command = lab.command();
        command.arg("run").args(arguments);
        let mut running = Running::start(command);
        running.wait_for("begun");
        running
    };
    let mut running = start(&["app", script]);
    running.signal("USR1");
    running.wait_for("one");
    running.signal("TERM");
    assert_eq!(running.end().failed(5, &["end\n"]).stderr, "begun\none\nend\n");
    // A first process without a handler is out of reach for all but the last.
    let mut running =
        start(&["app", "trap 'echo got >&2' INT; echo begun >&2; while :; do sleep 0.05; done"]);
    for _ in 0..2 {
        running.signal("INT");
        running.wait_for("got");
    }
    running.signal("INT");
    running.end().failed(137, &[]);
    // An init is there for that.
    let init = ["--init", "--entrypoint=sh", "app", "-c", "trap '' USR1; echo begun >&2; exec sleep 1000"];
    let running = start(&init);
    running.signal("TERM");
    running.end().failed(143, &[]);
    left_nothing(&lab);
}

#[test]
fn a_command_has_a_terminal() {
    let lab = lab_of("overlay");
    let mut command = lab.command();
    command.args(["run", "-it", "--entrypoint=sh", "app"]);
    let mut typist = Typist::new(&command);
    typist.type_in("PS1=; stty -echo; echo rea''dy\n");
    typist.until("ready\r\n");
    assert!(typist.is_raw());
    assert_eq!(typist.says("tty; stty size; echo $TERM"), "/dev/pts/0\n33 101\nxterm\n");
    typist.resize(40, 90);
    assert_eq!(typist.says("until [ \"$(stty size)\" = '40 90' ]; do sleep 0.05; done; echo seen"), "seen\n");
    typist.type_in("trap 'echo interrupted' INT; echo wai''ting; while :; do sleep 0.05; done\n");
    typist.until("waiting\r\n");
    typist.type_in("\u{3}");
    typist.until("interrupted\r\n");
    typist.signal(Signal::USR1);
    // The shell is the first process: what it does not handle does not end it.
    typist.type_in("\u{3}");
    typist.until("interrupted\r\n");
    for _ in 0..3 {
        typist.signal(Signal::TERM);
        std::thread::yield_now();
    }
    drop(typist);

    let mut typist = Typist::new(&command);
    typist.type_in("exit 3\n");
    assert_eq!(typist.end().0, Some(3));
    // Without `-i` it is written to only.
    let mut command = lab.command();
    command.args(["run", "-t", "app", "test -t 1 && echo terminal"]);
    let (code, shown) = Typist::new(&command).end();
    assert_eq!((code, shown.as_str()), (Some(0), "terminal\n"));
}

#[test]
fn users_run_commands_too() {
    let users = [("rbuild-run", 23981, Some(2_003_300_000)), ("rbuild-run1", 23982, None)];
    for (name, id, first) in users {
        let user = User::new(name, id, first);
        let (lab, context) = user.lab(&[("Dockerfile", DOCKERFILE), ("file", "of the user\n")]);
        user.build(&lab, &context, &["-t", "app"]).succeeded();
        let run = |arguments: &[&str]| {
            let mut command = user.rbuild(&lab);
            command.arg("run").args(arguments);
            with_input(command, "typed\n")
        };
        let script = "id -u; cat file /data/file -; echo x > /data/new; exit 4";
        let ran = run(&["-i", "-v", "./ctx:/data", "app", script]);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(4), "0\nimage\nof the user\ntyped\n"),
            "{}",
            ran.stderr
        );
        assert_eq!(fs::read_to_string(context.join("new")).expect("it was written"), "x\n");
        let ran = run(&["-u", "7:8", "app", "id -u; id -g"]);
        match first {
            Some(_) => assert_eq!(ran.succeeded().stdout, "7\n8\n"),
            None => drop(ran.failed(125, &["this build has one id"])),
        }
        let mut command = user.rbuild(&lab);
        command.args(["run", "-it", "--network=none", "app", "tty"]);
        let (code, shown) = Typist::new(&command).end();
        assert_eq!((code, shown.as_str()), (Some(0), "/dev/pts/0\n"), "{name}");
        left_nothing(&lab);
    }
}
