//! Sandboxes of ordinary users: one with subordinate ids, one without.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{
    CgroupLimits, DeviceKind, DeviceNode, Exit, Fallback, IdChoice, IdMap, IdMode, Kept, MountKind,
    MountSpec, Network, OverlaySpec, OwnerChanges, RootFs, Security, UpperSpec, enter_user_namespace, spawn,
};

use crate::Test;
use crate::confinement;
use crate::fixture::{Fixture, chain, run as run_spec};

pub(crate) const TESTS: &[Test] = &[
    ("user_with_subordinate_ids", with_ids),
    ("user_with_one_id", with_one_id),
    ("user_below_a_masked_proc", below_masked_proc),
    ("user_with_a_delegated_cgroup", with_cgroup),
    ("user_who_asks_for_one_id", asks_for_one),
    ("user_whose_ids_cannot_be_mapped", failing_helper),
    ("root_of_a_container_has_its_ids", root_of_a_container),
    ("root_of_a_container_without_rights", root_without_rights),
];

/// A user for the time of a test.
struct User(&'static str);

impl User {
    fn new(name: &'static str, arguments: &[&str]) -> Self {
        let status = Command::new("useradd").args(arguments).arg(name).status().expect("install passwd");
        // 9: the name is taken, by a run of this that was killed.
        assert!(matches!(status.code(), Some(0 | 9)), "useradd {name}: {status}");
        Self(name)
    }

    /// Runs this program again as the user.
    fn run(&self, fixture: &Fixture, mode: &str, before: &[&str]) {
        let home = fixture.path(self.0);
        std::fs::create_dir(&home).unwrap();
        assert!(Command::new("chown").arg(self.0).arg(&home).status().unwrap().success());
        let output = Command::new(before.first().unwrap_or(&"env"))
            .args(before.iter().skip(1))
            .args(["setpriv", "--reuid", self.0, "--regid", self.0, "--clear-groups"])
            .arg(fixture.path("tests"))
            .args(["as-user", mode])
            .arg(&home)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{mode}: {}\n{text}", output.status);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // By force: the guard of the last sandbox may be about to end.
        let _ = Command::new("userdel").arg("-f").arg(self.0).output();
    }
}

fn with_ids(fixture: &Fixture) {
    User::new("rbuild-test", &["-M"]).run(fixture, "mapped", &[]);
}

fn with_one_id(fixture: &Fixture) {
    User::new("rbuild-test-one", &["-M", "-r"]).run(fixture, "single", &[]);
}

fn below_masked_proc(fixture: &Fixture) {
    let script = "mount --bind /dev/null /proc/version; exec \"$@\"";
    let before = ["unshare", "-m", "sh", "-c", script, "sh"];
    User::new("rbuild-test-masked", &["-M"]).run(fixture, "masked", &before);
}

fn with_cgroup(fixture: &Fixture) {
    let name = "rbuild-test-delegated";
    let user = User::new(name, &["-M"]);
    let directory = crate::limits::root("memory").join(format!("{name}-{}", std::process::id()));
    let own = directory.join("own");
    std::fs::create_dir_all(&own).unwrap();
    assert!(Command::new("chown").args(["-R", name]).arg(&directory).status().unwrap().success());
    // In version 2 the one above passes controllers on.
    for level in [crate::limits::root("memory"), directory.clone()] {
        let file = level.join("cgroup.subtree_control");
        if file.exists() {
            std::fs::write(file, "+memory").unwrap();
        }
    }
    let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", own.display());
    user.run(fixture, "delegated", &["sh", "-c", &script, "sh"]);
    // The sandboxes' own are gone, or this would never succeed; the guard of the last one may be about to end.
    let begin = Instant::now();
    while std::fs::remove_dir(&own).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "`{}` is in use", own.display());
        std::thread::yield_now();
    }
    std::fs::remove_dir(&directory).unwrap();
}

fn asks_for_one(fixture: &Fixture) {
    User::new("rbuild-test-asks", &["-M"]).run(fixture, "asks-for-one", &[]);
}

fn failing_helper(fixture: &Fixture) {
    let user = User::new("rbuild-test-failing", &["-M"]);
    for (mode, program) in
        [("refuses-one", "newuidmap"), ("accepts-one", "newuidmap"), ("accepts-one", "newgidmap")]
    {
        let script = format!("mount --bind /bin/false /usr/bin/{program}; exec \"$@\"");
        user.run(fixture, mode, &["unshare", "-m", "sh", "-c", &script, "sh"]);
        std::fs::remove_dir_all(fixture.path(user.0)).unwrap();
    }
}

/// Runs this program again as root that lacks capabilities.
fn run_as_root(fixture: &Fixture, mode: &str, bounding_set: &str) {
    let output = Command::new("setpriv")
        .args(["--bounding-set", bounding_set, "--inh-caps", "-all"])
        .arg(fixture.path("tests"))
        .args(["as-user", mode])
        .arg(fixture.path(""))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{mode}: {}\n{text}", output.status);
}

fn root_of_a_container(fixture: &Fixture) {
    run_as_root(fixture, "root-of-a-container", "-sys_admin");
    run_as_root(fixture, "root-with-one-id", "-sys_admin,-setuid");
}

fn root_without_rights(fixture: &Fixture) {
    run_as_root(fixture, "root-without-rights", "-sys_admin,-setfcap");
}

/// The part that runs as the user.
pub(crate) fn run(arguments: &[String]) {
    let choice = if arguments[0] == "asks-for-one" { IdChoice::One } else { IdChoice::All };
    let accepts_one = || match arguments[0].as_str() {
        "accepts-one" => true,
        "refuses-one" => false,
        other => panic!("{other}: ids cannot be mapped"),
    };
    let pid = std::process::id();
    let entered = enter_user_namespace(choice, accepts_one);
    match (arguments[0].as_str(), &entered) {
        ("refuses-one", Err(error)) => {
            let shown = "cannot map the subordinate ids: `/usr/bin/newuidmap` failed: exit status: 1";
            return assert_eq!(chain(error), shown);
        }
        ("root-without-rights", Err(error)) => {
            assert!(chain(error).contains("without CAP_SETFCAP it may not map its own id"), "{error}");
            return assert!(error.remedy().unwrap().contains("--cap-add SETFCAP"));
        }
        _ => {}
    }
    let ids = entered.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(std::process::id(), pid);
    assert!(rustix::process::geteuid().is_root());
    let again = enter_user_namespace(IdChoice::All, || false).unwrap();
    assert_eq!(again.mode, ids.mode, "a second time it only tells");
    let fixture = Fixture::within(Path::new(&arguments[1]));
    match arguments[0].as_str() {
        "mapped" => {
            assert_eq!((ids.mode, reason(&ids).as_deref()), (IdMode::Mapped, None), "{ids:?}");
            assert_eq!(ids.uid_map.lines().count(), 2);
            mapped(&fixture);
            confinement::check(&fixture);
        }
        "single" => {
            let note = "`/etc/subuid` has no line for `rbuild-test-one`";
            assert_eq!((ids.mode, reason(&ids).as_deref()), (IdMode::Single, Some(note)));
            single(&fixture);
            confinement::check(&fixture);
        }
        "delegated" => assert_eq!(ids.mode, IdMode::Mapped),
        "asks-for-one" => {
            assert_eq!((ids.mode, reason(&ids).as_deref()), (IdMode::Single, Some("one was asked for")));
            single(&fixture);
        }
        "accepts-one" => {
            assert_eq!(ids.mode, IdMode::Single);
            assert!(ids.one_id.unwrap().to_string().ends_with("idmap` failed: exit status: 1"));
            single(&fixture);
        }
        "root-of-a-container" => {
            assert_eq!(
                (ids.mode, ids.uid_map.as_str(), ids.one_id),
                (IdMode::Mapped, "0 0 4294967294", None)
            );
            mapped(&fixture);
        }
        "root-with-one-id" => {
            let note = "root without CAP_SETUID, CAP_SETGID and CAP_SETFCAP may map no others";
            assert_eq!((ids.mode, reason(&ids).as_deref()), (IdMode::Single, Some(note)));
            single(&fixture);
        }
        _ => masked(&fixture),
    }
    // Root may make cgroups, in a namespace or not.
    if arguments[0].starts_with("root-") || arguments[0] == "delegated" {
        delegated(&fixture);
    } else {
        not_delegated(&fixture);
    }
    common(&fixture);
    assert!(sandbox::probe_host().usable);
}

/// Why there is one id, where there is.
fn reason(ids: &IdMap) -> Option<String> {
    ids.one_id.as_ref().map(ToString::to_string)
}

/// What holds for all of them.
fn common(fixture: &Fixture) {
    let shown = fixture.says(
        "id -u; id -g; echo $$; grep -E '^(CapEff|CapBnd|Seccomp:)' /proc/self/status; echo x > /etc/passwd; rm -r /opt; \
         mkdir /opt; (echo 1 > /proc/sys/vm/swappiness) 2>/dev/null || echo ro; touch /sys/x 2>/dev/null || echo ro; \
         echo x > /dev/null; head -c 2 /dev/zero | wc -c; mount -t tmpfs none /tmp 2>/dev/null || echo denied; bits32 || true",
    );
    assert_eq!(
        shown,
        "0\n0\n1\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\nro\nro\n2\ndenied\n32 bits\n"
    );
    part_of_overlay(fixture);
    crate::networks::shared(fixture);
    crate::terminal::shell_on_a_terminal(fixture);
    crate::emulated::common(fixture);
}

fn part_of_overlay(fixture: &Fixture) {
    let scratch = fixture.upper();
    let upper = UpperSpec { directory: scratch.path(), work: scratch.path().with_file_name("work") };
    let mount = |target: &str, upper| {
        let lower_dirs = vec![fixture.path("base/etc"), fixture.path("base/opt")];
        let overlay = OverlaySpec { lower_dirs, upper, user_xattrs: true };
        MountSpec { target: target.into(), kind: MountKind::Overlay { overlay, source: "/group".into() } }
    };
    let script = "head -n 1 /ro; (echo x > /ro) 2>/dev/null || echo ro; echo written > /rw; cat /rw";
    let outcome =
        fixture.shell_with(script, |spec| spec.mounts = vec![mount("/ro", None), mount("/rw", Some(upper))]);
    assert_eq!(outcome.stdout, "root:x:0:\nro\nwritten\n");
}

/// What a sandbox has in common with this process.
fn kept(fixture: &Fixture) -> Vec<Kept> {
    let upper = fixture.upper();
    let mut running = spawn(&fixture.script_on(&upper, "true")).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Code(0));
    running.kept().to_vec()
}

fn mapped(fixture: &Fixture) {
    assert_eq!(kept(fixture), []);
    assert_eq!(fixture.says("touch /tmp/f; chown 7:8 /tmp/f; stat -c '%u %g' /tmp/f"), "7 8\n");
    let outcome = fixture.shell_with(
        "id; (echo > /etc/passwd) 2>/dev/null || echo denied; ls /sys/class/net",
        |spec| {
            spec.uid = 1000;
            spec.gid = 1001;
            spec.groups = vec![1001, 50];
            spec.network = Network::None;
        },
    );
    assert_eq!(outcome.stdout, "uid=1000(app) gid=1001(app) groups=50(staff),1001(app)\ndenied\nlo\n");
    for fallback in [
        Fallback::OverlayByMount,
        Fallback::ReadOnlyByRemount,
        Fallback::ExecutableInMemory,
        Fallback::OuterProc,
        Fallback::OuterSys,
    ] {
        let outcome = fixture.shell_with(
            "cat /etc/hosts; touch /sys/x 2>/dev/null || echo ro; [ -e /proc/self/status ] && echo x > /w",
            |spec| {
                spec.hosts = Some(b"hosts\n".to_vec());
                spec.fallbacks.insert(fallback);
            },
        );
        assert_eq!((outcome.stdout.as_str(), outcome.exit), ("hosts\nro\n", Exit::Code(0)), "{fallback:?}");
    }
    device(fixture);
    let mut spec = fixture.script_on(&fixture.upper(), "rm /opt -r; cat /proc/self/comm");
    spec.rootfs = RootFs::Directory(fixture.path("base"));
    assert_eq!(run_spec(&spec).unwrap().stdout, "cat\n");
    std::fs::create_dir(fixture.path("base/opt")).unwrap();
}

fn single(fixture: &Fixture) {
    let outcome = fixture.shell("touch /tmp/f; chown 7:8 /tmp/f");
    assert_eq!(outcome.exit, Exit::Code(1));
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "true");
    spec.uid = 1000;
    let shown = chain(&run_spec(&spec).unwrap_err());
    assert_eq!(shown, "cannot set up the sandbox: become the user `1000`: Invalid argument (os error 22)");
    ignored_owners(fixture);
}

/// Changes of owners that succeed without effect, whether or not the rest of the calls is filtered.
fn ignored_owners(fixture: &Fixture) {
    let script = "touch /tmp/f; chown 7:8 /tmp/f && chgrp -R 8 /tmp && stat -c '%u %g' /tmp/f; su app -c 'id -u'; \
                  chmod 4711 /tmp/f && chown 9 /tmp/f && stat -c %a /tmp/f; grep Seccomp: /proc/self/status";
    for security in [Security::Sandbox, Security::Insecure] {
        let outcome = fixture.shell_with(script, |spec| {
            spec.owner_changes = OwnerChanges::Ignored;
            spec.security = security;
        });
        assert_eq!(outcome.stdout, "0 0\n0\n4711\nSeccomp:\t2\n", "{security:?}: {}", outcome.stderr);
    }
    let mut spec = fixture.script_on(&fixture.upper(), "true");
    (spec.owner_changes, spec.uid) = (OwnerChanges::Ignored, 1000);
    let shown = chain(&run_spec(&spec).unwrap_err());
    assert_eq!(shown, "invalid sandbox: changes of owners can be ignored for root only");
}

fn memory_limit() -> CgroupLimits {
    CgroupLimits { memory_bytes: Some(20_000_000), ..CgroupLimits::default() }
}

fn delegated(fixture: &Fixture) {
    let outcome = fixture.shell_with("tail /dev/zero; exit $?", |spec| spec.cgroup_limits = memory_limit());
    assert_eq!(outcome.exit, Exit::OutOfMemory);
}

/// The machine's node works, and stays as it is.
fn device(fixture: &Fixture) {
    let script = "head -c 3 /dev/box/zero | wc -c; chmod 600 /dev/box/zero 2>/dev/null || echo denied";
    let outcome = fixture.shell_with(script, |spec| {
        spec.devices.push(DeviceNode {
            path: "/dev/box/zero".into(),
            source: "/dev/zero".into(),
            kind: DeviceKind::Character,
            major: 1,
            minor: 5,
            mode: 0o666,
            uid: 0,
            gid: 0,
        });
    });
    assert_eq!(outcome.stdout, "3\ndenied\n");
}

/// A limit is never left out.
fn not_delegated(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "true");
    spec.cgroup_limits = memory_limit();
    let error = run_spec(&spec).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot limit what a step uses: this user may make no cgroup with the controller `memory`"
    );
    assert!(error.hint().is_some());
}

/// Parts of the outer `/proc` are hidden: the kernel refuses a fresh one.
fn masked(fixture: &Fixture) {
    let support = sandbox::probe_host();
    assert!(!support.fresh_proc);
    assert!(support.missing.iter().any(|missing| missing.what == "a fresh /proc"));
    assert_eq!(fixture.says("head -c 10 /proc/version | wc -c"), "0\n");
    // The machine's processes can be seen then, and nothing more.
    let script = "for p in /proc/[0-9]*; do [ $p/exe -ef /proc/self/exe ] && continue; n=$((n + 1)); \
                  for f in root cwd exe fd/0; do readlink $p/$f; done; cat $p/environ $p/mem | head -c 9; ls $p/root/; \
                  kill -0 ${p#/proc/}; done 2>/dev/null; [ $n -gt 1 ] && echo others";
    assert_eq!(fixture.says(script), "others\n");
    assert_eq!(kept(fixture), [Kept::Proc]);
}
