//! Programs of another architecture, as root and as ordinary users.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sandbox::{ElfClass, ElfData, ElfFormat, Emulation, Exit, Fallback, Security, emulation, spawn};

use crate::Test;
use crate::fixture::{Fixture, chain, empty, run, words};

pub(crate) const TESTS: &[Test] = &[("emulation_as_root", as_root), ("what_cannot_be_executed", nothing)];

const ARM64: ElfFormat = ElfFormat { class: ElfClass::Bits64, data: ElfData::LittleEndian, machine: 183 };
const I386: ElfFormat = ElfFormat { class: ElfClass::Bits32, data: ElfData::LittleEndian, machine: 3 };
/// Of a processor that nobody has.
const UNKNOWN: ElfFormat = ElfFormat { machine: 0xFEED, ..ARM64 };

const QEMU: &str = "/usr/bin/qemu-aarch64-static";

fn handler() -> Emulation {
    assert!(Path::new(QEMU).exists(), "install qemu-user-static");
    let found = emulation(ARM64, Some(Path::new(QEMU))).unwrap();
    match found.unwrap() {
        // On a machine with a handler of its own, that is used.
        found @ (Emulation::Handler(_) | Emulation::Machine) => found,
        Emulation::Prefix { reason, .. } => panic!("{}", chain(&*reason)),
    }
}

fn nothing(fixture: &Fixture) {
    assert!(matches!(emulation(I386, None), Ok(Some(Emulation::Machine))), "the processor executes them");
    assert!(matches!(emulation(UNKNOWN, None), Ok(None)));
    let upper = fixture.upper();
    let mut file = std::fs::read(fixture.path("base/bin/arm64")).unwrap();
    file[18..20].copy_from_slice(&UNKNOWN.machine.to_le_bytes());
    std::fs::write(upper.path().join("unknown"), file).unwrap();
    std::fs::set_permissions(upper.path().join("unknown"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = fixture.script_on(&upper, "");
    spec.args = words(&["/unknown"]);
    let mut running = spawn(&spec).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Code(255));
    let told = running.not_executed().unwrap();
    assert_eq!(told.source.raw_os_error(), Some(8), "ENOEXEC");
    assert_eq!(told.path.as_deref(), Some(Path::new("/unknown")));
    spec.args = words(&["/bin/sh", "-c", "exit 255"]);
    empty(&upper.path().with_file_name("work"));
    let mut running = spawn(&spec).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Code(255));
    assert!(running.not_executed().is_none());
}

fn as_root(fixture: &Fixture) {
    common(fixture);
    let emulation = handler();
    // Whatever the sandbox looks like.
    let shown = fixture.shell_with(
        "arm64; grep -E '^(CapEff|CapBnd|Seccomp:)' /proc/self/status; touch /f; chown 1000:1001 /f; su app -c arm64; \
         stat -c '%u %g' /f; cat /proc/self/uid_map | tr -s ' '",
        |spec| spec.emulation = emulation.clone(),
    );
    let caps = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n";
    assert_eq!(shown.stdout, format!("arm64\n{caps}arm64\n1000 1001\n 0 0 4294967295\n"), "{}", shown.stderr);
    let insecure =
        fixture.shell_with("mount -t tmpfs none /tmp && cp /bin/arm64 /tmp && /tmp/arm64", |spec| {
            spec.emulation = emulation.clone();
            spec.security = Security::Insecure;
        });
    assert_eq!((insecure.stdout.as_str(), insecure.stderr.as_str()), ("arm64\n", ""));
}

/// What holds for root and for others.
pub(crate) fn common(fixture: &Fixture) {
    let emulation = handler();
    let script = "arm64 && (exec arm64) && env arm64";
    for fallback in [None, Some(Fallback::OverlayByMount), Some(Fallback::LateCgroup)] {
        let outcome = fixture.shell_with(script, |spec| {
            spec.emulation = emulation.clone();
            spec.fallbacks.extend(fallback);
        });
        let wanted = ("arm64\narm64\narm64\n", "", Exit::Code(0));
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str(), outcome.exit), wanted);
    }
    if matches!(emulation, Emulation::Handler(_)) {
        let outcome = fixture.shell("arm64");
        assert_ne!(outcome.exit, Exit::Code(0), "others do not see the handler: {outcome:?}");
    }
    let reason = std::sync::Arc::new(sandbox::SandboxError::InitDied);
    let prefix = Emulation::Prefix { format: ARM64, emulator: QEMU.into(), reason };
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "");
    spec.emulation = prefix;
    spec.args = words(&["arm64"]);
    assert_eq!(run(&spec).unwrap().stdout, "arm64\n");
    let mut native = fixture.script_on(&upper, "echo native");
    native.emulation = spec.emulation;
    assert_eq!(run(&native).unwrap().stdout, "native\n");
    assert!(!upper.path().join("dev/.emulator").exists());
}
