//! A root file system, and running something in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use sandbox::{Exit, ProcessSpec, RootFs, SandboxError, spawn};

const BUSYBOX: &str = "/bin/busybox";

/// A 32-bit program without libraries: writes `32 bits` and exits with 32. An ELF header, one program header, code.
const PROGRAM_32_BITS: &[u8] = &[
    0x7F, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ident: 32 bits, little endian
    2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 0x04, 0x08, 52, 0, 0, 0, // executable, i386, entry 0x8048054
    0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0, // one program header
    1, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x80, 0x04, 0x08, 0x00, 0x80, 0x04, 0x08, // load at 0x8048000
    0x7E, 0, 0, 0, 0x7E, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0, // 126 bytes, readable and executable
    0xB8, 4, 0, 0, 0, // mov eax, write
    0xBB, 1, 0, 0, 0, // mov ebx, stdout
    0xB9, 0x76, 0x80, 0x04, 0x08, // mov ecx, text
    0xBA, 8, 0, 0, 0, // mov edx, length
    0xCD, 0x80, // int 0x80
    0xB8, 1, 0, 0, 0, // mov eax, exit
    0xBB, 32, 0, 0, 0, // mov ebx, 32
    0xCD, 0x80, // int 0x80
    b'3', b'2', b' ', b'b', b'i', b't', b's', b'\n',
];

/// A program for arm64 without libraries: writes `arm64` and exits.
const PROGRAM_ARM64: &[u8] = &[
    0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ident: 64 bits, little endian
    2, 0, 183, 0, 1, 0, 0, 0, 0x78, 0, 0x40, 0, 0, 0, 0, 0, // executable, arm64, entry 0x400078
    64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // program headers at 64
    0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0, // one of them
    1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // load, readable and executable
    0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, // at 0x400000
    0x9E, 0, 0, 0, 0, 0, 0, 0, 0x9E, 0, 0, 0, 0, 0, 0, 0, // 158 bytes
    0, 0x10, 0, 0, 0, 0, 0, 0, // aligned to 4096
    0x20, 0x00, 0x80, 0xD2, // mov x0, stdout
    0xE1, 0x00, 0x00, 0x10, // adr x1, text
    0xC2, 0x00, 0x80, 0xD2, // mov x2, length
    0x08, 0x08, 0x80, 0xD2, // mov x8, write
    0x01, 0x00, 0x00, 0xD4, // svc
    0x00, 0x00, 0x80, 0xD2, // mov x0, 0
    0xA8, 0x0B, 0x80, 0xD2, // mov x8, exit
    0x01, 0x00, 0x00, 0xD4, // svc
    b'a', b'r', b'm', b'6', b'4', b'\n',
];

/// Directories of one run of the tests.
pub(crate) struct Fixture {
    directory: tempfile::TempDir,
}

/// What a process in a sandbox did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

/// An upper and a work directory.
pub(crate) struct Upper {
    directory: tempfile::TempDir,
}

impl Upper {
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("upper")
    }
}

impl Fixture {
    /// The directory is open to everybody; the base belongs to root.
    pub(crate) fn new() -> Self {
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        fs::set_permissions(fixture.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(std::env::current_exe().unwrap(), fixture.path("tests")).unwrap();
        fs::set_permissions(fixture.path("tests"), fs::Permissions::from_mode(0o755)).unwrap();
        make_base(&fixture.path("base"), &fixture.path("tests"));
        fixture
    }

    /// A fixture in a directory that is there already, with a base.
    pub(crate) fn within(directory: &Path) -> Self {
        let fixture = Self { directory: tempfile::tempdir_in(directory).unwrap() };
        make_base(&fixture.path("base"), &std::env::current_exe().unwrap());
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn upper(&self) -> Upper {
        let directory = tempfile::tempdir_in(self.directory.path()).unwrap();
        fs::create_dir(directory.path().join("upper")).unwrap();
        fs::create_dir(directory.path().join("work")).unwrap();
        Upper { directory }
    }

    /// A shell script over the base and a fresh upper directory, which is kept by the caller.
    pub(crate) fn script_on(&self, upper: &Upper, script: &str) -> ProcessSpec {
        // The kernel refuses a work directory that a volatile mount has used.
        empty(&upper.directory.path().join("work"));
        let rootfs = RootFs::Overlay {
            lower_dirs: vec![self.path("base")],
            upper: upper.path(),
            work: upper.directory.path().join("work"),
            user_xattrs: in_user_namespace(),
        };
        let mut spec = ProcessSpec::new(rootfs, words(&["/bin/sh", "-c", script]));
        spec.env = words(&["PATH=/usr/bin:/bin"]);
        spec
    }

    /// Runs a script and gives what it did.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.shell_with(script, |_| {})
    }

    /// The same with a changed specification.
    pub(crate) fn shell_with(&self, script: &str, change: impl FnOnce(&mut ProcessSpec)) -> Outcome {
        let upper = self.upper();
        let mut spec = self.script_on(&upper, script);
        change(&mut spec);
        run(&spec).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// The stdout of a script that must succeed without a word on stderr.
    pub(crate) fn says(&self, script: &str) -> String {
        let outcome = self.shell(script);
        assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Code(0), ""), "{script}");
        outcome.stdout
    }
}

pub(crate) fn in_user_namespace() -> bool {
    !fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().eq(["0", "0", "4294967295"])
}

pub(crate) fn words(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// Runs to the end.
pub(crate) fn run(spec: &ProcessSpec) -> Result<Outcome, SandboxError> {
    let mut running = spawn(spec)?;
    let read = |descriptor: Option<std::os::fd::OwnedFd>| {
        let mut file = fs::File::from(descriptor.unwrap());
        thread::spawn(move || {
            let mut text = Vec::new();
            file.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let (stdout, stderr) = (read(running.stdout()), read(running.stderr()));
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Ok(Outcome { stdout, stderr, exit: running.wait()? })
}

/// Everything below a directory, sorted.
pub(crate) fn tree(directory: &Path) -> Vec<String> {
    let output = std::process::Command::new("find")
        .arg(directory)
        .args(["-mindepth", "1", "-printf", "%P\n"])
        .output()
        .unwrap();
    let mut names: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Leaves an empty directory.
pub(crate) fn empty(directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    fs::create_dir(directory).unwrap();
}

fn make_base(base: &Path, tests: &Path) {
    for directory in ["bin", "etc", "tmp", "root", "opt"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(Path::new(BUSYBOX).exists(), "install busybox-static");
    fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
    let list = std::process::Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", base.join("bin").join(name)).unwrap();
    }
    fs::copy(tests, base.join("bin/tests")).unwrap();
    fs::write(base.join("bin/bits32"), PROGRAM_32_BITS).unwrap();
    fs::write(base.join("bin/arm64"), PROGRAM_ARM64).unwrap();
    for program in ["bin/tests", "bin/bits32", "bin/arm64"] {
        fs::set_permissions(base.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    fs::write(base.join("etc/passwd"), passwd).unwrap();
    fs::write(base.join("etc/group"), "root:x:0:\napp:x:1001:\nstaff:x:50:app\n").unwrap();
}
