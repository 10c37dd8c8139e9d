//! Limits of cgroups, set in the hierarchies that this machine has.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox::{CgroupLimits, Exit, ProcessSpec, SwapLimit, spawn};

use crate::Test;
use crate::fixture::{Fixture, Upper, chain, run};

pub(crate) const TESTS: &[Test] = &[
    ("memory_beyond_a_limit_is_told", memory),
    ("processors_can_be_chosen", processors),
    ("limits_are_in_the_cgroup", values),
    ("a_limit_that_the_kernel_refuses_is_told", refused),
    ("cgroups_go_with_their_sandbox", nothing_stays),
    ("cgroups_go_with_a_killed_caller", caller_killed),
];

/// Where a controller is mounted, whichever version it is.
pub(crate) fn root(controller: &str) -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let root = PathBuf::from(before.split(' ').nth(4)?);
        let mut fields = after.split(' ');
        let has = match fields.next()? {
            "cgroup" => fields.nth(1)?.split(',').any(|name| name == controller),
            "cgroup2" => fs::read_to_string(root.join("cgroup.controllers")).ok()?.contains(controller),
            _ => false,
        };
        has.then_some(root)
    });
    mounted.unwrap_or_else(|| panic!("mount a cgroup hierarchy with the controller `{controller}`"))
}

/// The cgroups of the sandboxes of a process.
fn cgroups_of(pid: u32, controller: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root(controller).join("rbuild")) else { return Vec::new() };
    let own = format!("rbuild-{pid}-");
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own)).collect()
}

fn limited(fixture: &Fixture, upper: &Upper, script: &str, limits: CgroupLimits) -> ProcessSpec {
    let mut spec = fixture.script_on(upper, script);
    spec.cgroup_limits = limits;
    spec
}

fn memory(fixture: &Fixture) {
    let limits = CgroupLimits {
        memory_bytes: Some(20_000_000),
        memory_swap: Some(SwapLimit::TotalBytes(20_000_000)),
        ..CgroupLimits::default()
    };
    let with = |script| fixture.shell_with(script, |spec| spec.cgroup_limits = limits.clone()).exit;
    assert_eq!(with("tail /dev/zero; exit $?"), Exit::OutOfMemory);
    assert_eq!(with("exit 137"), Exit::Code(137));
    assert_eq!(with("head -c 1000000 /dev/zero | tail > /dev/null"), Exit::Code(0));
}

fn processors(fixture: &Fixture) {
    let of = |limits| fixture.shell_with("nproc", |spec| spec.cgroup_limits = limits).stdout;
    let one = CgroupLimits { cpuset_cpus: Some("0".to_owned()), ..CgroupLimits::default() };
    assert_eq!(of(one), "1\n");
    // Memory nodes alone leave all processors.
    let nodes = CgroupLimits { cpuset_mems: Some("0".to_owned()), ..CgroupLimits::default() };
    assert_eq!(of(nodes), of(CgroupLimits::default()));
}

fn values(fixture: &Fixture) {
    let upper = fixture.upper();
    let limits = CgroupLimits {
        memory_bytes: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_period_us: Some(50_000),
        cpu_quota_us: Some(25_000),
        cpuset_cpus: Some("0".to_owned()),
        ..CgroupLimits::default()
    };
    let mut running = spawn(&limited(fixture, &upper, "echo started; exec sleep 1000", limits)).unwrap();
    let mut line = String::new();
    BufReader::new(fs::File::from(running.stdout().unwrap())).read_line(&mut line).unwrap();
    let read = |controller: &str, one: &str, two: &str| {
        let [directory] = cgroups_of(std::process::id(), controller).try_into().expect("there is one");
        assert_eq!(
            fs::read_to_string(directory.join("cgroup.procs")).unwrap().lines().count(),
            1,
            "{controller}"
        );
        let file = Some(directory.join(one)).filter(|file| file.exists()).unwrap_or(directory.join(two));
        fs::read_to_string(file).unwrap()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "67108864\n");
    assert!(matches!(read("cpu", "cpu.shares", "cpu.weight").as_str(), "512\n" | "59\n"));
    assert!(matches!(read("cpu", "cpu.cfs_quota_us", "cpu.max").as_str(), "25000\n" | "25000 50000\n"));
    assert!(matches!(read("cpu", "cpu.cfs_period_us", "cpu.max").as_str(), "50000\n" | "25000 50000\n"));
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0\n");
}

fn refused(fixture: &Fixture) {
    let limits = CgroupLimits { cpuset_cpus: Some("4000".to_owned()), ..CgroupLimits::default() };
    let error = run(&limited(fixture, &fixture.upper(), "true", limits)).unwrap_err();
    let shown = chain(&error);
    assert!(
        shown.starts_with("cannot limit `cpuset-cpus`: the controller `cpuset` does not take `4000` in `/"),
        "{shown}"
    );
    assert_eq!(cgroups_of(std::process::id(), "cpuset"), Vec::<PathBuf>::new());
}

fn all_controllers() -> CgroupLimits {
    CgroupLimits {
        memory_bytes: Some(1 << 30),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".to_owned()),
        ..CgroupLimits::default()
    }
}

fn nothing_stays(fixture: &Fixture) {
    // Also what the step has made itself, as a container engine in an insecure step does.
    let upper = fixture.upper();
    let mut running =
        spawn(&limited(fixture, &upper, "echo started; exec sleep 1000", all_controllers())).unwrap();
    let mut line = String::new();
    BufReader::new(fs::File::from(running.stdout().unwrap())).read_line(&mut line).unwrap();
    let controllers = ["memory", "cpu", "cpuset"];
    for controller in controllers {
        let [directory] = cgroups_of(std::process::id(), controller).try_into().expect("there is one");
        fs::create_dir_all(directory.join("inner")).unwrap();
    }
    running.kill();
    running.wait().unwrap();
    for controller in controllers {
        assert_eq!(cgroups_of(std::process::id(), controller), Vec::<PathBuf>::new(), "{controller}");
    }
}

/// Starts a limited sandbox, says so, and waits for its own death.
pub(crate) fn doomed_caller(directory: &str) {
    let fixture = Fixture::within(Path::new(directory));
    let upper = fixture.upper();
    let _running = spawn(&limited(&fixture, &upper, "exec sleep 1000", all_controllers())).unwrap();
    println!("started");
    std::thread::park();
}

fn caller_killed(fixture: &Fixture) {
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["doomed-limited-caller", fixture.path("").to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let before: Vec<usize> =
        ["memory", "cpu", "cpuset"].map(|controller| cgroups_of(caller.id(), controller).len()).to_vec();
    assert_eq!(before, [1, 1, 1]);
    let guard = guard_of(caller.id());
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_for(&guard);
    for controller in ["memory", "cpu", "cpuset"] {
        assert_eq!(cgroups_of(caller.id(), controller), Vec::<PathBuf>::new(), "{controller}");
    }
}

/// The guard that a process has started.
fn guard_of(caller: u32) -> rustix::fd::OwnedFd {
    let children = fs::read_to_string(format!("/proc/{caller}/task/{caller}/children")).unwrap();
    let guard = children
        .split_whitespace()
        .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sandbox-guard"));
    let pid = rustix::process::Pid::from_raw(guard.expect("there is a guard").parse().unwrap()).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

fn wait_for(process: &rustix::fd::OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).unwrap(), 1, "it lives on");
}
