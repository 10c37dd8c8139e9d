//! Sandboxes of root.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbox::{
    DeviceKind, DeviceNode, Exit, Fallback, MountKind, MountSpec, Network, OverlaySpec, ProcessSpec,
    ResourceLimit, RootFs, Security, UpperSpec, spawn,
};

use crate::Test;
use crate::fixture::{self, Fixture, chain, run, tree, words};

pub(crate) const TESTS: &[Test] = &[
    ("root_has_the_default_capabilities", capabilities_of_root),
    ("another_user_has_no_capabilities", capabilities_of_a_user),
    ("insecure_has_all_capabilities_and_no_filter", insecure),
    ("system_calls_are_filtered", filter),
    ("a_32_bit_program_runs", bits32),
    ("proc_is_masked_and_read_only", masked),
    ("sys_is_read_only", sys),
    ("dev_is_small", dev),
    ("made_device_nodes_do_not_work", device_nodes),
    ("network_none_has_loopback_alone", network_none),
    ("host_name_and_pid_namespace", names),
    ("mounts_stay_inside", mounts_stay),
    ("exit_code_and_signal", exits),
    ("kill_ends_everything", kill),
    ("orphans_die_with_the_step", orphans),
    ("a_killed_caller_takes_its_sandboxes_along", caller_killed),
    ("environment_and_home", environment),
    ("working_directory_is_made", working_directory),
    ("programs_that_do_not_start", not_started),
    ("no_descriptor_is_inherited", descriptors),
    ("standard_streams", streams),
    ("limits_and_shm_size", limits),
    ("mount_points_leave_no_trace", stubs),
    ("mounts_of_the_caller", mounts),
    ("parts_of_overlays", overlay_parts),
    ("mounts_of_the_machine", host_binds),
    ("nested_mounts", nested),
    ("device_nodes_in_mounts_do_not_work", device_nodes_in_mounts),
    ("device_nodes_that_were_asked_for_work", devices),
    ("links_of_the_image_lead_nowhere", links),
    ("failures_name_step_and_path", failures),
    ("lack_of_memory_is_told", out_of_memory),
    ("each_fallback", fallbacks),
    ("many_layers", many_layers),
    ("waiting_in_a_task", wait_async),
    ("the_host_is_probed", probe),
];

const CAPABILITIES: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";

fn capabilities_of_root(fixture: &Fixture) {
    let status = fixture.says(CAPABILITIES);
    assert_eq!(
        status,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
}

fn as_app(spec: &mut ProcessSpec) {
    spec.uid = 1000;
    spec.gid = 1001;
    spec.groups = vec![1001, 50];
}

fn capabilities_of_a_user(fixture: &Fixture) {
    let script = format!("id; umask; {CAPABILITIES}; echo $HOME; touch /tmp/f; stat -c '%u %g' /tmp/f");
    let outcome = fixture.shell_with(&script, as_app);
    assert_eq!(
        outcome.stdout,
        "uid=1000(app) gid=1001(app) groups=50(staff),1001(app)\n0022\n\
         CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n/home/app\n1000 1001\n"
    );
    // Set-user-ID programs work: setuid(0) is refused to the user and granted to such a program.
    let upper = fixture.upper();
    let spec = fixture.script_on(&upper, "cp /bin/tests /su; chmod 4755 /su");
    assert_eq!(run(&spec).unwrap().exit, Exit::Code(0));
    let call = libc::SYS_setuid;
    let mut spec = fixture.script_on(&upper, &format!("tests inside {call} 0; /su inside {call} 0"));
    as_app(&mut spec);
    assert_eq!(run(&spec).unwrap().stdout, "1\n0\n");
}

fn insecure(fixture: &Fixture) {
    let script = "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs none /tmp && echo mounted; \
                  awk '$2 == \"/sys\" {print substr($4, 1, 2)}' /proc/mounts; \
                  c=/sys/fs/cgroup; [ -e $c/cgroup.procs ] || c=$c/memory; \
                  mkdir $c/rbuild-test-insecure && rmdir $c/rbuild-test-insecure && echo cgroup; \
                  mknod /opt/zero c 1 5 && head -c 1 /opt/zero | wc -c; \
                  touch /proc/sys/vm/swappiness && echo sysctl; ls /dev/kmsg";
    let outcome = fixture.shell_with(script, |spec| spec.security = Security::Insecure);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let all = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(outcome.stdout, format!("{all}\nSeccomp:\t0\nmounted\nrw\ncgroup\n1\nsysctl\n/dev/kmsg\n"));
}

fn filter(fixture: &Fixture) {
    let calls = [
        (libc::SYS_getpid, "", 0),
        (libc::SYS_unshare, "268435456", libc::EPERM),
        (libc::SYS_clone, "268435473", libc::EPERM),
        (libc::SYS_clone3, "0 0", libc::ENOSYS),
        (600, "", libc::ENOSYS),
        (libc::SYS_keyctl, "0", libc::EPERM),
        (libc::SYS_mount, "0 0 0 0", libc::EPERM),
        (libc::SYS_io_uring_setup, "0 0", libc::EPERM),
        (libc::SYS_socket, "2 2 0", 0),
        (libc::SYS_socket, "40 1 0", libc::EPERM),
        (libc::SYS_personality, "262144", libc::EPERM),
        (libc::SYS_personality, "8", 0),
        (libc::SYS_chroot, "0", libc::EFAULT),
    ];
    let script: Vec<String> =
        calls.iter().map(|(call, rest, _)| format!("tests inside {call} {rest};")).collect();
    let want: Vec<String> = calls.iter().map(|(_, _, errno)| format!("{errno}\n")).collect();
    assert_eq!(fixture.says(&script.concat()), want.concat());
}

fn bits32(fixture: &Fixture) {
    let outcome = fixture.shell("exec bits32");
    assert_eq!((outcome.stdout.as_str(), outcome.exit), ("32 bits\n", Exit::Code(32)));
}

fn masked(fixture: &Fixture) {
    let shown = fixture.says(
        "for f in keys timer_list kcore; do head -c 100 /proc/$f 2>/dev/null | wc -c; done; \
         ls /sys/firmware /proc/acpi 2>/dev/null | grep -vc :; \
         for f in /proc/sys/kernel/hostname /proc/sys/vm/swappiness; do \
         (echo 1 > $f) 2>/dev/null && echo written || echo denied; done; \
         awk '$2 ~ \"^/proc/(sys|irq)$\" {split($4, o, \",\"); print $2, o[1]}' /proc/mounts | sort",
    );
    // Two directories, an empty line between them.
    assert_eq!(shown, "0\n0\n0\n1\ndenied\ndenied\n/proc/irq ro\n/proc/sys ro\n");
}

fn sys(fixture: &Fixture) {
    let shown = fixture.says(
        "awk '$2 == \"/sys\" {split($4, o, \",\"); print $3, o[1]}' /proc/mounts; \
         (mkdir /sys/fs/cgroup/x || echo 0 > /sys/kernel/profiling) 2>/dev/null && echo written || echo denied",
    );
    assert_eq!(shown, "sysfs ro\ndenied\n");
}

fn dev(fixture: &Fixture) {
    let shown = fixture.says(
        "ls /dev | grep -v core | tr '\\n' ' '; for d in null zero full random urandom tty; do stat -c '%t:%T %a %F' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; stat -c %a /dev /dev/shm /dev/mqueue; \
         echo x > /dev/null; head -c 2 /dev/zero | wc -c; echo x > /dev/made; echo y > /dev/stdout",
    );
    let special = "character special file";
    assert_eq!(
        shown,
        format!(
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \
             1:3 666 {special}\n1:5 666 {special}\n1:7 666 {special}\n1:8 666 {special}\n1:9 666 {special}\n\
             5:0 666 {special}\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n\
             755\n1777\n1777\n2\ny\n"
        )
    );
    // The machine's nodes are out of reach, also by a descriptor.
    fixture.says("chmod 600 /dev/null");
    let machines = fs::metadata("/dev/null").unwrap();
    assert_eq!(machines.mode() & 0o777, 0o666);
    let shown = fixture.says("stat -L -c '%d %i' /proc/self/fd/0 /dev/null");
    let (descriptor, path) = shown.trim().split_once('\n').unwrap();
    assert_eq!(descriptor, path);
    assert_ne!(descriptor, format!("{} {}", machines.dev(), machines.ino()));
}

fn device_nodes(fixture: &Fixture) {
    let shown = fixture.says(
        "for p in /zero /dev/zero2 /tmp/zero; do mknod $p c 1 5 && stat -c %F $p && \
         { head -c 1 $p 2>/dev/null | wc -c; }; done",
    );
    assert_eq!(shown, "character special file\n0\n".repeat(3));
}

fn network_none(fixture: &Fixture) {
    let script =
        "ls /sys/class/net; ping -c 1 -w 2 127.0.0.1 > /dev/null && echo up; tail -n +2 /proc/net/route";
    let outcome = fixture.shell_with(script, |spec| spec.network = Network::None);
    assert_eq!(outcome.stdout, "lo\nup\n");
    let host = |own: &str| format!("{}\n", fs::read_link(own).unwrap().display());
    assert_eq!(fixture.says("readlink /proc/self/ns/net"), host("/proc/self/ns/net"));
}

fn names(fixture: &Fixture) {
    let shown = fixture.says(
        "hostname; echo $$; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; kill -9 $$; kill -TERM $$; echo alive; \
         for n in mnt pid ipc uts cgroup; do readlink /proc/self/ns/$n; done",
    );
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..3], ["buildkitsandbox", "1", "sh"]);
    assert!(lines[3].parse::<u32>().unwrap() < 8, "{shown}");
    assert_eq!(lines[4], "alive");
    for (line, name) in lines[5..].iter().zip(["mnt", "pid", "ipc", "uts", "cgroup"]) {
        assert_ne!(Path::new(line), fs::read_link(format!("/proc/self/ns/{name}")).unwrap(), "{name}");
    }
    let outcome = fixture.shell_with("hostname", |spec| "forge-17".clone_into(&mut spec.hostname));
    assert_eq!(outcome.stdout, "forge-17\n");
}

fn mounts_stay(fixture: &Fixture) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let upper = fixture.upper();
    let mut running = spawn(&fixture.script_on(&upper, "echo started; exec sleep 1000")).unwrap();
    let mut line = String::new();
    BufReader::new(fs::File::from(running.stdout().unwrap())).read_line(&mut line).unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    drop(running);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

fn exits(fixture: &Fixture) {
    assert_eq!(fixture.shell("exit 42").exit, Exit::Code(42));
    assert_eq!(fixture.shell("sh -c 'kill -9 $$'; exit $?").exit, Exit::Code(137));
    // A fault of process 1 itself: an unmapped address.
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "");
    spec.args = words(&["/bin/sleep", "1000"]);
    let mut running = spawn(&spec).unwrap();
    rustix::process::pidfd_send_signal(running.pidfd(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
}

fn kill(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut running =
        spawn(&fixture.script_on(&upper, "sleep 1000 & sleep 1000 & echo started; wait")).unwrap();
    let mut output = BufReader::new(fs::File::from(running.stdout().unwrap()));
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    running.kill();
    // The children hold the pipe: its end tells that they are gone.
    assert_eq!(output.read_to_string(&mut line).unwrap(), 0);
    assert_eq!(running.wait().unwrap(), Exit::Signal(9));
    running.kill();
}

fn orphans(fixture: &Fixture) {
    let begin = Instant::now();
    let outcome = fixture.shell("sleep 1000 & (sleep 1000 &) ; echo started");
    assert_eq!((outcome.stdout.as_str(), outcome.exit), ("started\n", Exit::Code(0)));
    assert!(begin.elapsed() < Duration::from_secs(100));
}

/// Starts a sandbox, tells its process, and waits for its own death.
pub(crate) fn doomed_caller(directory: &str) {
    let fixture = Fixture::within(Path::new(directory));
    let upper = fixture.upper();
    let running = spawn(&fixture.script_on(&upper, "exec sleep 1000")).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&running.pidfd());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
    println!("{}", info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim());
    std::thread::park();
}

fn caller_killed(fixture: &Fixture) {
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["doomed-caller", fixture.path("").to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let inside =
        pidfd_open(Pid::from_raw(line.trim().parse().unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&inside, PollFlags::IN)], Some(&patience)).unwrap(), 1, "it lives on");
}

fn environment(fixture: &Fixture) {
    let outcome = fixture.shell_with("", |spec| {
        spec.args = words(&["env"]);
        spec.env = words(&["PATH=/bin", "A=1", "EMPTY=", "A=2"]);
    });
    assert_eq!(outcome.stdout, "PATH=/bin\nA=2\nEMPTY=\nHOME=/root\n");
}

fn working_directory(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "pwd; stat -c '%a %u' /gone /gone/deep; touch /gone/deep/x");
    spec.cwd = PathBuf::from("/gone/deep");
    let outcome = run(&spec).unwrap();
    assert_eq!(outcome.stdout, "/gone/deep\n755 0\n755 0\n");
    assert!(upper.path().join("gone/deep/x").exists());
}

fn not_started(fixture: &Fixture) {
    let cases = [
        ("no-such", 1, "unable to start process: exec: \"no-such\": executable file not found in $PATH\n"),
        (
            "/no/such",
            1,
            "unable to start process: exec: \"/no/such\": stat /no/such: no such file or directory\n",
        ),
        ("/etc/passwd", 1, "unable to start process: exec: \"/etc/passwd\": permission denied\n"),
        ("/etc", 1, "unable to start process: exec: \"/etc\": is a directory\n"),
        ("/opt/text", 255, "exec /opt/text: exec format error\n"),
        ("/opt/script", 255, "exec /opt/script: no such file or directory\n"),
    ];
    for (program, code, text) in cases {
        let upper = fixture.upper();
        fs::create_dir(upper.path().join("opt")).unwrap();
        for (name, content) in [("text", "plain"), ("script", "#!/no/interpreter\n")] {
            let path = upper.path().join("opt").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut spec = fixture.script_on(&upper, "");
        spec.args = words(&[program, "x"]);
        let outcome = run(&spec).unwrap();
        assert_eq!((outcome.stderr.as_str(), outcome.exit), (text, Exit::Code(code)), "{program}");
    }
}

fn descriptors(fixture: &Fixture) {
    // Open on purpose, as a careless caller would.
    let leaky = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    // The last one is that of the listing itself.
    assert_eq!(fixture.says("ls /proc/self/fd"), "0\n1\n2\n3\n");
    drop(leaky);
}

fn streams(fixture: &Fixture) {
    let outcome = fixture.shell_with(
        "if read line; then echo got; else echo end; fi; [ -t 1 ] || echo no-tty; echo o > /dev/stdout; \
         echo e > /dev/stderr; printf tail",
        as_app,
    );
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("end\nno-tty\no\ntail", "e\n"));
}

fn limits(fixture: &Fixture) {
    let outcome = fixture.shell_with(
        "ulimit -Sn; ulimit -Hn; ulimit -Hu; df -k /dev/shm | awk 'NR == 2 {print $2}'",
        |spec| {
            spec.limits = vec![
                ResourceLimit { name: "nofile".to_owned(), soft: 123, hard: 456 },
                ResourceLimit { name: "nproc".to_owned(), soft: 789, hard: 790 },
            ];
            spec.shm_size_bytes = 8 << 20;
        },
    );
    assert_eq!(outcome.stdout, "123\n456\n790\n8192\n");
    assert_eq!(fixture.says("df -k /dev/shm | awk 'NR == 2 {print $2}'"), "65536\n");
}

fn stubs(fixture: &Fixture) {
    // A tree without /etc, written in place as there is nothing below it.
    let upper = fixture.upper();
    fs::create_dir(upper.path().join("bin")).unwrap();
    fs::copy(fixture.path("base/bin/busybox"), upper.path().join("bin/sh")).unwrap();
    let mut spec = fixture.script_on(&upper, "echo x > /x");
    let RootFs::Overlay { lower_dirs, .. } = &mut spec.rootfs else { unreachable!() };
    lower_dirs.clear();
    spec.hosts = Some(b"127.0.0.1 localhost\n".to_vec());
    spec.resolv_conf = Some(b"nameserver 192.0.2.1\n".to_vec());
    spec.mounts = vec![MountSpec {
        target: "/a/b/c".into(),
        kind: MountKind::Tmpfs { size_bytes: None, read_only: false },
    }];
    assert_eq!(run(&spec).unwrap().exit, Exit::Code(0));
    assert_eq!(tree(&upper.path()), ["bin", "bin/sh", "dev", "proc", "sys", "x"]);

    // Over an image: the directory has the time at which the mount point was made in it, as with other builders, and
    // files that are there stay as they are.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 7);
    fs::File::open(fixture.path("base/etc")).unwrap().set_modified(long_ago).unwrap();
    let upper = fixture.upper();
    let mut spec =
        fixture.script_on(&upper, "cat /etc/hosts; (echo y >> /etc/hosts) 2>/dev/null || echo read-only");
    spec.hosts = Some(b"127.0.0.1 localhost\n".to_vec());
    assert_eq!(run(&spec).unwrap().stdout, "127.0.0.1 localhost\nread-only\n");
    assert_eq!(tree(&upper.path()), ["dev", "etc", "proc", "sys"]);
    assert!(fs::metadata(upper.path().join("etc")).unwrap().modified().unwrap() > long_ago);
}

fn mounts(fixture: &Fixture) {
    let source = fixture.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "from outside\n").unwrap();
    let bind = |target: &str, source: PathBuf, read_only| MountSpec {
        target: target.into(),
        kind: MountKind::Bind { source, read_only },
    };
    let script = "cat /ro/file /one; (echo z > /ro/file) 2>/dev/null || echo ro; echo changed > /rw/made; \
                  stat -c '%a %u %g' /run/inline; cat /run/inline; df -k /mem | awk 'NR == 2 {print $2}'; \
                  stat -c %a /mem; cp /bin/busybox /mem/true; /mem/true && echo run; touch /still/x 2>/dev/null || echo ro; \
                  echo kept > /new/dir/x";
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, script);
    spec.mounts = vec![
        bind("/ro", source.clone(), true),
        bind("/rw", source.clone(), false),
        bind("/one", source.join("file"), true),
        bind("/new/dir/on", source.clone(), true),
        MountSpec {
            target: "/mem".into(),
            kind: MountKind::Tmpfs { size_bytes: Some(4 << 20), read_only: false },
        },
        MountSpec { target: "/still".into(), kind: MountKind::Tmpfs { size_bytes: None, read_only: true } },
        MountSpec {
            target: "/run/inline".into(),
            kind: MountKind::File { content: b"inline \xFF\n".to_vec(), mode: 0o750, uid: 5, gid: 6 },
        },
    ];
    let outcome = run(&spec).unwrap();
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("from outside\nfrom outside\nro\n750 5 6\ninline \u{FFFD}\n4096\n1777\nrun\nro\n", "")
    );
    assert_eq!(fs::read_to_string(source.join("made")).unwrap(), "changed\n");
    assert_eq!(tree(&upper.path()), ["dev", "new", "new/dir", "new/dir/x", "proc", "sys"]);
}

/// Two directories with the same file, and a whiteout in the upper one of them.
fn layers(fixture: &Fixture) -> Vec<PathBuf> {
    let [top, bottom] = ["layer-top", "layer-bottom"].map(|name| fixture.path(name));
    for layer in [&top, &bottom] {
        fs::create_dir_all(layer.join("dir/sub")).unwrap();
        fs::write(layer.join("dir/file"), layer.file_name().unwrap().as_encoded_bytes()).unwrap();
    }
    fs::write(bottom.join("dir/removed"), "").unwrap();
    let whiteout = top.join("dir/removed");
    if !whiteout.exists() {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &whiteout,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
    }
    vec![top, bottom]
}

fn overlay_parts(fixture: &Fixture) {
    let layers = layers(fixture);
    let mount = |target: &str, source: &str, upper: Option<UpperSpec>| {
        let overlay = OverlaySpec { lower_dirs: layers.clone(), upper, user_xattrs: false };
        MountSpec { target: target.into(), kind: MountKind::Overlay { overlay, source: source.into() } }
    };
    let script = "ls /ro; cat /one; echo; (echo x > /ro/file) 2>/dev/null || echo ro; (touch /all/x) 2>/dev/null || echo ro; \
                  echo changed > /rw/file; rm -r /rw/sub; cat /rw/file /ro/file";
    for by_mount in [false, true] {
        let (upper, scratch) = (fixture.upper(), fixture.upper());
        let scratch_upper =
            UpperSpec { directory: scratch.path(), work: scratch.path().with_file_name("work") };
        let mut spec = fixture.script_on(&upper, script);
        if by_mount {
            spec.fallbacks.insert(Fallback::OverlayByMount);
        }
        spec.mounts = vec![
            mount("/ro", "/dir", None),
            mount("/one", "/dir/file", None),
            mount("/all", "/", None),
            mount("/rw", "/dir", Some(scratch_upper)),
        ];
        let outcome = run(&spec).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("file\nsub\nlayer-top\nro\nro\nchanged\nlayer-top", ""),
        );
        assert_eq!(fs::read_to_string(layers[0].join("dir/file")).unwrap(), "layer-top");
        assert_eq!(fs::read_to_string(scratch.path().join("dir/file")).unwrap(), "changed\n");
        assert_eq!(tree(&upper.path()), ["dev", "proc", "sys"]);
    }
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "true");
    spec.mounts = vec![mount("/x", "/dir/none", None)];
    let shown = chain(&run(&spec).unwrap_err());
    assert_eq!(
        shown,
        "cannot set up the sandbox: open the source of a mount `/dir/none`: No such file or directory (os error 2)"
    );
}

/// Points that are made on other mounts are not taken for some of the root file system.
fn nested(fixture: &Fixture) {
    let (root, outer) = (fixture.path("nested-root"), fixture.path("nested-outer"));
    assert!(Command::new("cp").arg("-a").arg(fixture.path("base")).arg(&root).status().unwrap().success());
    // The image has at the same place what a stub looks like.
    fs::create_dir_all(root.join("outer/inner")).unwrap();
    fs::create_dir(&outer).unwrap();
    let tmpfs = |target: &str| MountSpec {
        target: target.into(),
        kind: MountKind::Tmpfs { size_bytes: Some(1 << 16), read_only: false },
    };
    let bind = MountKind::Bind { source: outer.clone(), read_only: false };
    let mut spec =
        fixture.script_on(&fixture.upper(), "touch /outer/a /outer/inner/b /first/x; ls /first /same");
    spec.rootfs = RootFs::Directory(root.clone());
    spec.mounts = vec![
        MountSpec { target: "/outer".into(), kind: bind.clone() },
        tmpfs("/outer/inner"),
        tmpfs("/first"),
        MountSpec { target: "/same".into(), kind: bind },
        tmpfs("/same"),
    ];
    let outcome = run(&spec).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("/first:\nx\n\n/same:\n", ""));
    assert_eq!(tree(&outer), ["a", "inner"]);
    assert_eq!(tree(&root.join("outer")), ["inner"]);
    assert!(!root.join("first").exists() && !root.join("same").exists());
}

fn device_nodes_in_mounts(fixture: &Fixture) {
    let source = fixture.path("devices");
    fs::create_dir(&source).unwrap();
    let overlay = OverlaySpec {
        lower_dirs: vec![source.clone(), fixture.path("base/opt")],
        upper: None,
        user_xattrs: false,
    };
    let bind = |target: &str, read_only| MountSpec {
        target: target.into(),
        kind: MountKind::Bind { source: source.clone(), read_only },
    };
    for fallback in [None, Some(Fallback::ReadOnlyByRemount)] {
        let script = "mknod /rw/zero c 1 5 2>/dev/null; for d in /rw /ro /part /mem; do mknod /mem/zero c 1 5 2>/dev/null; \
                      stat -c %F $d/zero; head -c 1 $d/zero 2>/dev/null | wc -c; done";
        let outcome = fixture.shell_with(script, |spec| {
            spec.fallbacks.extend(fallback);
            spec.mounts = vec![
                bind("/rw", false),
                bind("/ro", true),
                MountSpec {
                    target: "/part".into(),
                    kind: MountKind::Overlay { overlay: overlay.clone(), source: "/".into() },
                },
                MountSpec {
                    target: "/mem".into(),
                    kind: MountKind::Tmpfs { size_bytes: None, read_only: false },
                },
            ];
        });
        assert_eq!(outcome.stdout, "character special file\n0\n".repeat(4), "{fallback:?}");
    }
}

fn devices(fixture: &Fixture) {
    let node = |path: &str, minor, mode, uid| DeviceNode {
        path: path.into(),
        source: "/dev/zero".into(),
        kind: DeviceKind::Character,
        major: 1,
        minor,
        mode,
        uid,
        gid: 50,
    };
    let upper = fixture.upper();
    let script = "stat -c '%n %F %t:%T %a %u:%g' /dev/box/zero /opt/full; head -c 3 /dev/box/zero | wc -c; \
                  (echo x > /opt/full) 2>/dev/null || echo full; mknod /opt/made c 1 5; \
                  head -c 1 /opt/made 2>/dev/null | wc -c";
    let mut spec = fixture.script_on(&upper, script);
    spec.devices = vec![node("/dev/box/zero", 5, 0o640, 1000), node("/opt/full", 7, 0o666, 0)];
    let special = "character special file";
    let expected =
        format!("/dev/box/zero {special} 1:5 640 1000:50\n/opt/full {special} 1:7 666 0:50\n3\nfull\n0\n");
    assert_eq!(run(&spec).unwrap().stdout, expected);
    assert!(!upper.path().join("opt/full").exists());
    // The machine's own node, as in a user namespace.
    let upper = fixture.upper();
    let mut spec =
        fixture.script_on(&upper, "head -c 3 /dev/box/zero | wc -c; chmod 600 /dev/box/zero 2>&1 | wc -l");
    spec.fallbacks.insert(Fallback::BindDevices);
    spec.devices = vec![node("/dev/box/zero", 5, 0o640, 1000)];
    assert_eq!(run(&spec).unwrap().stdout, "3\n1\n");
    spec.devices[0].source = "/dev/no-such".into();
    fixture::empty(&upper.path().with_file_name("work"));
    let shown = chain(&run(&spec).unwrap_err());
    assert!(
        shown.starts_with("cannot set up the sandbox: bind the device `/dev/no-such`: No such file"),
        "{shown}"
    );
}

fn host_binds(fixture: &Fixture) {
    let source = fixture.path("host");
    fs::create_dir(&source).unwrap();
    fs::copy(fixture.path("base/bin/busybox"), source.join("echo")).unwrap();
    let kind = |read_only, no_suid, no_exec| MountKind::HostBind {
        source: source.clone(),
        read_only,
        no_suid,
        no_exec,
    };
    let script = "for m in /all /none; do awk -v m=$m '$2 == m {print $4}' /proc/mounts | tr , '\\n' | \
                  grep -E -c '^(ro|nosuid|noexec|nodev)$'; done; /all/echo ran; /none/echo ran 2>/dev/null || echo denied";
    for fallback in [None, Some(Fallback::ReadOnlyByRemount)] {
        let outcome = fixture.shell_with(script, |spec| {
            spec.fallbacks.extend(fallback);
            spec.mounts = vec![
                MountSpec { target: "/all".into(), kind: kind(false, false, false) },
                MountSpec { target: "/none".into(), kind: kind(true, true, true) },
            ];
        });
        // Device nodes work in neither.
        assert_eq!(outcome.stdout, "1\n4\nran\ndenied\n", "{fallback:?}");
    }
}

fn links(fixture: &Fixture) {
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    let upper = fixture.upper();
    fs::create_dir(upper.path().join("etc")).unwrap();
    for (name, target) in [("hosts", "../../../run/hosts"), ("resolv.conf", "/proc/1/root/escaped")] {
        std::os::unix::fs::symlink(target, upper.path().join("etc").join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&outside, upper.path().join("out")).unwrap();
    let mut spec = fixture.script_on(&upper, "cat /run/hosts; ls /out/x");
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.mounts = vec![MountSpec {
        target: "/out/x".into(),
        kind: MountKind::Tmpfs { size_bytes: None, read_only: false },
    }];
    let outcome = run(&spec).unwrap();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("hosts\n", ""));
    assert_eq!(tree(&outside), [""; 0]);
    assert!(!tree(&upper.path()).iter().any(|name| name.starts_with("run")));
    // A fixed mount point that is a link is refused.
    let upper = fixture.upper();
    std::os::unix::fs::symlink("/tmp", upper.path().join("proc")).unwrap();
    let error = run(&fixture.script_on(&upper, "true")).unwrap_err();
    assert_eq!(
        chain(&error),
        "cannot set up the sandbox: make the mount point `/proc`: Not a directory (os error 20)"
    );
}

fn failures(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "true");
    let RootFs::Overlay { lower_dirs, .. } = &mut spec.rootfs else { unreachable!() };
    lower_dirs.push(fixture.path("missing"));
    let shown = chain(&run(&spec).unwrap_err());
    let want = format!(
        "cannot set up the sandbox: mount the overlay at `{}`: No such file or directory (os error 2)",
        upper.path().display()
    );
    assert_eq!(shown, want);
    let mut spec = fixture.script_on(&upper, "true");
    spec.cwd = "x".into();
    assert_eq!(chain(&run(&spec).unwrap_err()), "invalid sandbox: the path `x` is not absolute");
    let mut spec = fixture.script_on(&upper, "true");
    spec.limits = vec![ResourceLimit { name: "nonsense".to_owned(), soft: 1, hard: 1 }];
    assert_eq!(
        chain(&run(&spec).unwrap_err()),
        "cannot set up the sandbox: set the limit `nonsense`: Invalid argument (os error 22)"
    );
}

fn out_of_memory(fixture: &Fixture) {
    let (root, limit) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        (Path::new("/sys/fs/cgroup"), "memory.max")
    } else {
        (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
    };
    let name = format!("rbuild-test-{}", std::process::id());
    fs::create_dir(root.join(&name)).unwrap();
    if limit == "memory.max" {
        fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
    }
    fs::write(root.join(&name).join(limit), "20000000").unwrap();
    let outcome =
        fixture.shell_with("tail /dev/zero; exit $?", |spec| spec.cgroup_parent = Some(name.clone()));
    let unhurt = fixture.shell_with("exit 137", |spec| spec.cgroup_parent = Some(name.clone()));
    // The cgroups of both are gone, so that their parent can go.
    fs::remove_dir(root.join(&name)).unwrap();
    assert_eq!((outcome.exit, unhurt.exit), (Exit::OutOfMemory, Exit::Code(137)));
}

fn fallbacks(fixture: &Fixture) {
    use Fallback::{
        BindDevices, ExecutableInMemory, LateCgroup, OuterProc, OuterSys, OverlayByMount, ReadOnlyByRemount,
    };
    let all =
        [OverlayByMount, ReadOnlyByRemount, ExecutableInMemory, OuterProc, OuterSys, BindDevices, LateCgroup];
    let script = "grep -c ^overlay.lowerdir /dev/null; cat /etc/hosts; (echo x >> /etc/hosts) 2>/dev/null || echo ro; \
                  (mkdir /sys/fs/cgroup/x || echo 1 > /sys/kernel/profiling) 2>/dev/null || echo ro; \
                  (echo 1 > /proc/sys/vm/swappiness) 2>/dev/null || echo ro; echo w > /w; rm /opt -r; echo x > /dev/null; \
                  [ -e /proc/self/status ] && head -c 1 /dev/zero | wc -c";
    for chosen in all.iter().map(std::slice::from_ref).chain([all.as_slice()]) {
        let upper = fixture.upper();
        let mut spec = fixture.script_on(&upper, script);
        spec.hosts = Some(b"hosts\n".to_vec());
        spec.fallbacks = chosen.iter().copied().collect();
        let outcome = run(&spec).unwrap_or_else(|error| panic!("{chosen:?}: {}", chain(&error)));
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("0\nhosts\nro\nro\nro\n1\n", ""),
            "{chosen:?}"
        );
        assert_eq!(tree(&upper.path()), ["dev", "etc", "opt", "proc", "sys", "w"], "{chosen:?}");
    }
    // The other kind of root file system.
    let directory = fixture.path("directory");
    assert!(
        Command::new("cp").arg("-a").arg(fixture.path("base")).arg(&directory).status().unwrap().success()
    );
    let mut spec = fixture.script_on(&fixture.upper(), "echo w > /w; cat /etc/hosts");
    spec.rootfs = RootFs::Directory(directory.clone());
    spec.hosts = Some(b"hosts\n".to_vec());
    assert_eq!(run(&spec).unwrap().stdout, "hosts\n");
    assert_eq!(fs::read_to_string(directory.join("w")).unwrap(), "w\n");
    assert!(!directory.join("etc/hosts").exists());
}

fn many_layers(fixture: &Fixture) {
    let upper = fixture.upper();
    let layers: Vec<PathBuf> = (0..400)
        .map(|number| {
            let layer = fixture.path(&format!("layers/{number}"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join("top"), number.to_string()).unwrap();
            layer
        })
        .collect();
    let mut spec = fixture.script_on(&upper, "cat /top");
    let RootFs::Overlay { lower_dirs, .. } = &mut spec.rootfs else { unreachable!() };
    lower_dirs.splice(0..0, layers);
    assert_eq!(run(&spec).unwrap().stdout, "0");
    let RootFs::Overlay { lower_dirs, upper, .. } = &mut spec.rootfs else { unreachable!() };
    lower_dirs.drain(50..350);
    fixture::empty(&upper.with_file_name("work"));
    spec.fallbacks.insert(Fallback::OverlayByMount);
    assert_eq!(run(&spec).unwrap().stdout, "0");
}

fn wait_async(fixture: &Fixture) {
    let upper = fixture.upper();
    let spec = fixture.script_on(&upper, "exit 3");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let exit = runtime.block_on(async {
        let mut running = spawn(&spec).unwrap();
        running.wait_async().await.unwrap()
    });
    assert_eq!(exit, Exit::Code(3));
}

fn probe(_: &Fixture) {
    let support = sandbox::probe_host();
    assert!(support.usable && support.fresh_proc && support.fresh_sys, "{support:?}");
    assert_eq!(
        sandbox::enter_user_namespace(sandbox::IdChoice::All, || false).unwrap().mode,
        sandbox::IdMode::Root
    );
}
