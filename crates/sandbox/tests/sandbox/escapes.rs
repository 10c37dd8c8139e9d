//! Ways out of containers that other runtimes and builders had, each tried here. What was a race is raced: a thread swaps
//! what it can while sandboxes are started, and the number of rounds is bounded.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbox::{Exit, Fallback, MountKind, MountSpec, ProcessSpec, RootFs, SandboxError};

use crate::Test;
use crate::fixture::{Fixture, Outcome, Upper, chain, run, tree, words};

pub(crate) const TESTS: &[Test] = &[
    ("cve_2019_5736_runtime_overwritten_by_its_own_link", own_executable),
    ("cve_2024_21626_working_directory_by_a_descriptor", working_directory),
    ("cve_2024_23651_links_swapped_while_mounting_in_a_shared_cache", swapped_mount_points),
    ("cve_2024_23652_mount_points_replaced_before_their_removal", replaced_stubs),
    ("cve_2025_31133_null_device_of_the_image_as_mask", replaced_null),
    ("cve_2025_52565_console_that_is_a_link", console),
    ("cve_2025_52881_proc_of_the_image", fake_proc),
    ("links_of_the_image_in_the_place_of_every_target", links_everywhere),
];

/// A place outside that no sandbox may change or see.
struct Outside {
    directory: PathBuf,
}

impl Outside {
    fn new(fixture: &Fixture, name: &str) -> Self {
        let directory = fixture.path(name);
        for inner in ["", "dir", "etc", "proc", "sub"] {
            fs::create_dir_all(directory.join(inner)).unwrap();
        }
        for file in ["hosts", "file", "etc/hosts", "etc/resolv.conf"] {
            fs::write(directory.join(file), "").unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Everything there with its kind, size and mode.
    fn state(&self) -> Vec<String> {
        let describe = |name: String| {
            let metadata = self.path(&name).symlink_metadata().unwrap();
            format!("{name} {:o} {} {}", metadata.mode(), metadata.len(), metadata.uid())
        };
        tree(&self.directory).into_iter().map(describe).collect()
    }
}

fn tmpfs(target: impl Into<PathBuf>) -> MountSpec {
    MountSpec { target: target.into(), kind: MountKind::Tmpfs { size_bytes: None, read_only: false } }
}

fn bind(target: &str, source: PathBuf) -> MountSpec {
    MountSpec { target: target.into(), kind: MountKind::Bind { source, read_only: false } }
}

fn must_run(spec: &ProcessSpec) -> Outcome {
    run(spec).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// The image names the runtime as its program, or as the interpreter of one, and so gets hold of the executable.
fn own_executable(fixture: &Fixture) {
    let own = std::env::current_exe().unwrap();
    let state = || {
        let metadata = fs::metadata(&own).unwrap();
        (fs::read(&own).unwrap(), metadata.mode(), metadata.uid(), metadata.ino())
    };
    let before = state();
    for in_memory in [false, true] {
        for program in [&["/proc/self/exe", "overwrite"][..], &["/script"][..]] {
            let upper = fixture.upper();
            fs::write(upper.path().join("script"), "#!/proc/self/exe overwrite\n").unwrap();
            fs::set_permissions(upper.path().join("script"), fs::Permissions::from_mode(0o755)).unwrap();
            let mut spec = fixture.script_on(&upper, "");
            spec.args = words(program);
            if in_memory {
                spec.fallbacks.insert(Fallback::ExecutableInMemory);
            }
            let outcome = must_run(&spec);
            let (results, refused) = outcome.stdout.split_once('\n').unwrap();
            assert_eq!(refused, "refused\n", "{program:?}: {outcome:?}");
            let results: Vec<i32> = serde_json::from_str(results).unwrap();
            if in_memory {
                // The owner and the mode are those of the copy. What it holds stays.
                let [open, truncate, append, _, _, write, cut] = results[..] else { panic!("{results:?}") };
                let all = [open, truncate, append, write, cut];
                assert!(all.iter().all(|errno| *errno != 0), "{results:?}");
            } else {
                // Busy while it is run, and read-only at all times.
                let (busy, fixed) = (libc::ETXTBSY, libc::EROFS);
                let wanted = [busy, fixed, busy, fixed, fixed, libc::EBADF, libc::EINVAL];
                assert_eq!(results, wanted);
            }
            assert!(state() == before, "the executable has changed");
        }
    }
    assert_eq!(fixture.says("echo works"), "works\n");
}

/// The working directory is named by a descriptor of the runtime that leads out of the sandbox.
fn working_directory(fixture: &Fixture) {
    let outside = Outside::new(fixture, "outside-of-21626");
    let before = outside.state();
    let climb = format!("../../../../../../..{}", outside.path("file").display());
    for number in 0..32 {
        let path = format!("/proc/self/fd/{number}");
        for linked in [false, true] {
            let upper = fixture.upper();
            symlink(&path, upper.path().join("link")).unwrap();
            let mut spec = fixture.script_on(&upper, &format!("ls {climb} && echo escaped"));
            spec.mounts = vec![bind("/mounted", outside.path("dir")), tmpfs("/empty")];
            spec.cwd = if linked { "/link".into() } else { path.clone().into() };
            let shown = chain(&run(&spec).unwrap_err());
            assert!(shown.contains("the working directory"), "{shown}");
        }
    }
    // Links that lead to a directory of the sandbox are followed, and stay in it.
    for (target, shown) in
        [("/proc/self/root", "/\n"), ("/proc/self/cwd/opt", "/opt\n"), ("../../../opt", "/opt\n")]
    {
        let upper = fixture.upper();
        symlink(target, upper.path().join("link")).unwrap();
        let mut spec = fixture.script_on(&upper, &format!("pwd -P; ls {climb} 2>/dev/null || true"));
        spec.cwd = "/link".into();
        assert_eq!(must_run(&spec).stdout, shown, "{target}");
    }
    assert_eq!(outside.state(), before);
}

/// Exchanges two names of a directory again and again while `work` runs, and tells how often.
fn swapping(directory: &Path, names: [&str; 2], work: impl FnOnce()) -> usize {
    let (done, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let [one, other] = names.map(|name| directory.join(name));
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    swaps.into_inner()
}

/// Two steps share a cache. One swaps a directory in it for a link while mount points below that are made for the other.
fn swapped_mount_points(fixture: &Fixture) {
    const ROUNDS: usize = 60;
    let outside = Outside::new(fixture, "outside-of-23651");
    let shared = fixture.path("shared");
    let before = outside.state();
    let up = format!("../../../../../../../..{}", outside.directory.display());
    for (number, target) in
        ["/proc", outside.directory.to_str().unwrap(), &up, "/proc/self/root"].iter().enumerate()
    {
        let directory = shared.join(number.to_string());
        fs::create_dir_all(directory.join("dir/sub")).unwrap();
        symlink(target, directory.join("link")).unwrap();
        let swaps = swapping(&directory, ["dir", "link"], || {
            for round in 0..ROUNDS {
                let script = "for f in /proc/sys/kernel/hostname /proc/sys/vm/drop_caches; do \
                              (: > $f) 2>/dev/null && echo $f; done; head -c 1 /proc/keys; true";
                let upper = fixture.upper();
                let mut spec = fixture.script_on(&upper, script);
                let made = format!("/cache/dir/made-{round}");
                let nested = ["/cache/dir/sub", "/cache/dir/sys", made.as_str()].map(tmpfs);
                spec.mounts = [vec![bind("/cache", directory.clone())], nested.into()].concat();
                match run(&spec) {
                    Ok(outcome) => assert_eq!((outcome.stdout.as_str(), outcome.exit), ("", Exit::Code(0))),
                    Err(SandboxError::Setup(failure)) => {
                        assert!(failure.step.contains("mount"), "{}", chain(&failure));
                    }
                    Err(error) => panic!("{}", chain(&error)),
                }
            }
        });
        assert!(swaps > ROUNDS, "{swaps}");
        assert_eq!(outside.state(), before);
    }
}

/// The program puts links in the place of what the runtime made for mounts, and will remove.
fn replaced_stubs(fixture: &Fixture) {
    let outside = Outside::new(fixture, "outside-of-23652");
    let before = outside.state();
    let absolute = outside.directory.display().to_string();
    let up = format!("../../../../../../../..{absolute}");
    for target in [absolute, up] {
        let upper = fixture.upper();
        let script = format!(
            "mv /a /moved && ln -s {target} /a && mv /e /gone && ln -s {target}/etc /e && ls -d /moved/sub"
        );
        let mut spec = fixture.script_on(&upper, &script);
        let file = MountKind::File { content: b"x".to_vec(), mode: 0o644, uid: 0, gid: 0 };
        spec.mounts = vec![
            tmpfs("/a/sub"),
            tmpfs("/a/dir"),
            MountSpec { target: "/a/hosts".into(), kind: file.clone() },
            MountSpec { target: "/e/hosts".into(), kind: file },
        ];
        let outcome = must_run(&spec);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("/moved/sub\n", ""));
        assert_eq!(outside.state(), before);
        assert_eq!(fs::read_link(upper.path().join("a")).unwrap(), Path::new(&target));
    }
}

/// A script that tells whether what is to be hidden is, and whether what must not be written to can be.
const HIDDEN: &str = "export PATH=/bin; for f in /proc/keys /proc/timer_list; do \
    stat -c %t:%T $f; head -c 9 $f | wc -c; done; \
    for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/keys/x; do (: > $f) 2>/dev/null && echo written; done; true";
const IS_HIDDEN: &str = "1:3\n0\n1:3\n0\n";

/// What is masked is covered by the null device. The image, or a cache that is mounted on `/dev`, brings another.
fn replaced_null(fixture: &Fixture) {
    let cache = fixture.path("cache-of-31133");
    let file = fixture.path("null-of-31133");
    fs::write(&file, "").unwrap();
    let targets = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/etc/passwd", "/nowhere"];
    for target in targets {
        let upper = fixture.upper();
        fs::create_dir(upper.path().join("dev")).unwrap();
        symlink(target, upper.path().join("dev/null")).unwrap();
        assert_eq!(must_run(&fixture.script_on(&upper, HIDDEN)).stdout, IS_HIDDEN, "{target}");

        fs::create_dir_all(&cache).unwrap();
        let _ = fs::remove_file(cache.join("null"));
        symlink(target, cache.join("null")).unwrap();
        for point in ["/dev", "/dev/null"] {
            // A mount on the device itself is one on what it is in the cache, were it looked up there.
            let source = if point == "/dev" { cache.clone() } else { file.clone() };
            let upper = fixture.upper();
            let mut spec = fixture.script_on(&upper, HIDDEN);
            spec.mounts = vec![bind(point, source)];
            assert_eq!(must_run(&spec).stdout, IS_HIDDEN, "{target} at {point}");
        }
    }
    // By a step that swaps it while another is started.
    fs::write(cache.join("other"), "").unwrap();
    let swaps = swapping(&cache, ["null", "other"], || {
        for _ in 0..60 {
            let upper = fixture.upper();
            let mut spec = fixture.script_on(&upper, HIDDEN);
            spec.mounts = vec![bind("/dev", cache.clone())];
            assert_eq!(must_run(&spec).stdout, IS_HIDDEN);
        }
    });
    assert!(swaps > 60, "{swaps}");
}

/// Where others mount the console and the terminals, the image has links to what must not be shown writable.
fn console(fixture: &Fixture) {
    let outside = Outside::new(fixture, "outside-of-52565");
    let before = outside.state();
    let upper = fixture.upper();
    let dev = upper.path().join("dev");
    fs::create_dir_all(dev.join("pts")).unwrap();
    for (name, target) in [
        ("console", "/proc/sys/kernel/core_pattern"),
        ("pts/0", "/proc/sysrq-trigger"),
        ("ptmx", "/proc/sysrq-trigger"),
        ("shm", outside.directory.to_str().unwrap()),
        ("mqueue", "/proc/sys"),
        ("tty", "/proc/sysrq-trigger"),
    ] {
        symlink(target, dev.join(name)).unwrap();
    }
    let script = format!(
        "{HIDDEN}; ls /dev/pts; [ -e /dev/console ] || echo none; stat -c %F /dev/shm; touch /dev/shm/x"
    );
    let outcome = must_run(&fixture.script_on(&upper, &script));
    assert_eq!(outcome.stdout, format!("{IS_HIDDEN}ptmx\nnone\ndirectory\n"));
    assert_eq!(outside.state(), before);
    // What the image has there stays as it is, below the sandbox's own.
    assert_eq!(fs::read_link(dev.join("console")).unwrap(), Path::new("/proc/sys/kernel/core_pattern"));
}

/// The image, or a mount, brings files that look like those of the kernel, for the runtime to write its settings to.
fn fake_proc(fixture: &Fixture) {
    let decoys = [
        "proc/self/attr/exec",
        "proc/thread-self/attr/exec",
        "proc/sys/kernel/hostname",
        "proc/1/oom_score_adj",
    ];
    let upper = fixture.upper();
    for decoy in decoys {
        let path = upper.path().join(decoy);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "decoy").unwrap();
    }
    symlink("/proc/sysrq-trigger", upper.path().join("proc/keys")).unwrap();
    fs::create_dir(upper.path().join("proc/timer_list")).unwrap();
    let before = tree(&upper.path().join("proc"));
    let script = format!("{HIDDEN}; cat /proc/self/comm; hostname");
    let outcome = must_run(&fixture.script_on(&upper, &script));
    assert_eq!(outcome.stdout, format!("{IS_HIDDEN}cat\nbuildkitsandbox\n"));
    assert_eq!(tree(&upper.path().join("proc")), before);
    for decoy in decoys {
        assert_eq!(fs::read_to_string(upper.path().join(decoy)).unwrap(), "decoy", "{decoy}");
    }
    // Nothing can be put over the real one, by whatever name.
    for target in ["/proc", "/proc/self/attr", "/link", "/link/sys", "/opt/../proc/sys"] {
        let upper = fixture.upper();
        symlink("../../proc", upper.path().join("link")).unwrap();
        let mut spec = fixture.script_on(&upper, "echo mounted");
        spec.mounts = vec![tmpfs(target)];
        let shown = chain(&run(&spec).unwrap_err());
        assert!(
            shown.contains(&format!("make the mount point `{target}`: Operation not permitted")),
            "{shown}"
        );
    }
    // A fixed mount point that is a link, or no directory, is refused.
    for name in ["proc", "sys", "dev"] {
        for target in [Some("/tmp"), Some("../../../../tmp"), Some("/nowhere"), None] {
            let upper = fixture.upper();
            match target {
                Some(target) => symlink(target, upper.path().join(name)).unwrap(),
                None => fs::write(upper.path().join(name), "").unwrap(),
            }
            let shown = chain(&run(&fixture.script_on(&upper, "true")).unwrap_err());
            assert!(shown.contains(&format!("make the mount point `/{name}`: Not a directory")), "{shown}");
        }
    }
}

/// An upper directory with a link at `name`, parents made.
fn with_link(fixture: &Fixture, name: &str, target: &str) -> Upper {
    let upper = fixture.upper();
    let path = upper.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
    upper
}

/// Each place that the runtime mounts over or enters is a link that would lead out if the machine's root were meant.
fn links_everywhere(fixture: &Fixture) {
    let outside = Outside::new(fixture, "outside-of-links");
    let before = outside.state();
    let absolute = outside.directory.display().to_string();
    let up = format!("../../../../../../../../../..{absolute}");
    let mut tried = 0;
    for name in [
        "etc",
        "etc/hosts",
        "etc/resolv.conf",
        "run",
        "run/secrets",
        "run/secrets/key",
        "work",
        "work/deep",
        "target",
        "target/x",
    ] {
        for target in [
            absolute.as_str(),
            &up,
            &format!("{absolute}/dangling"),
            "dangling",
            "/proc/self/root",
            "/sys/kernel",
        ] {
            let upper = with_link(fixture, name, target);
            let mut spec = fixture.script_on(&upper, "cat /run/secrets/key; echo ran");
            let RootFs::Overlay { lower_dirs, .. } = &mut spec.rootfs else { unreachable!() };
            // Nothing of the base is in the way of the links.
            let bare = fixture.path("bare");
            if !bare.exists() {
                fs::create_dir(&bare).unwrap();
                let copied = std::process::Command::new("cp")
                    .arg("-a")
                    .arg(fixture.path("base/bin"))
                    .arg(&bare)
                    .status();
                assert!(copied.unwrap().success());
            }
            *lower_dirs = vec![bare];
            spec.hosts = Some(b"hosts\n".to_vec());
            spec.resolv_conf = Some(b"resolv\n".to_vec());
            spec.cwd = "/work/deep".into();
            let secret = MountKind::File { content: b"secret\n".to_vec(), mode: 0o400, uid: 0, gid: 0 };
            spec.mounts = vec![
                MountSpec { target: "/run/secrets/key".into(), kind: secret },
                bind("/target/x", fixture.path("base/opt")),
            ];
            match run(&spec) {
                Ok(outcome) => {
                    assert_eq!(
                        (outcome.stdout.as_str(), outcome.exit),
                        ("secret\nran\n", Exit::Code(0)),
                        "{name} -> {target}"
                    );
                }
                // Where there is nothing to mount over, and nothing can be made.
                Err(SandboxError::Setup(failure)) => {
                    assert!(
                        ["/sys/kernel", "/proc/self/root"].contains(&target),
                        "{name} -> {target}: {}",
                        chain(&failure)
                    );
                }
                Err(error) => panic!("{}", chain(&error)),
            }
            assert_eq!(outside.state(), before, "{name} -> {target}");
            tried += 1;
        }
    }
    assert_eq!(tried, 60);
}
