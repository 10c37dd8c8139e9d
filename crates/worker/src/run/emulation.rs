//! Programs of other platforms: which emulator runs them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci::Platform;
use sandbox::{ElfClass, ElfData, ElfFormat, Emulation, SandboxError};

/// The emulators of this machine, and what was found out about them, by architecture.
#[derive(Debug)]
pub(crate) struct Emulators {
    /// Where emulators are, in the order in which they are looked for.
    directories: Vec<PathBuf>,
    found: Mutex<HashMap<String, Option<Emulation>>>,
}

/// Architectures in Go's words, in qemu's, and in the header of a program.
const ARCHITECTURES: [(&str, &str, ElfFormat); 14] = [
    ("386", "i386", little(ElfClass::Bits32, 3)),
    ("amd64", "x86_64", little(ElfClass::Bits64, 62)),
    ("arm", "arm", little(ElfClass::Bits32, 40)),
    ("arm64", "aarch64", little(ElfClass::Bits64, 183)),
    ("loong64", "loongarch64", little(ElfClass::Bits64, 258)),
    ("mips", "mips", big(ElfClass::Bits32, 8)),
    ("mips64", "mips64", big(ElfClass::Bits64, 8)),
    ("mips64le", "mips64el", little(ElfClass::Bits64, 8)),
    ("mipsle", "mipsel", little(ElfClass::Bits32, 8)),
    ("ppc64", "ppc64", big(ElfClass::Bits64, 21)),
    ("ppc64le", "ppc64le", little(ElfClass::Bits64, 21)),
    ("riscv64", "riscv64", little(ElfClass::Bits64, 243)),
    ("s390x", "s390x", big(ElfClass::Bits64, 22)),
    ("sparc64", "sparc64", big(ElfClass::Bits64, 43)),
];

const fn little(class: ElfClass, machine: u16) -> ElfFormat {
    ElfFormat { class, data: ElfData::LittleEndian, machine }
}

const fn big(class: ElfClass, machine: u16) -> ElfFormat {
    ElfFormat { class, data: ElfData::BigEndian, machine }
}

/// Whether programs of `platform` are those of another architecture than this machine's.
pub(super) fn is_foreign(platform: &Platform) -> bool {
    let host = Platform::host();
    (&platform.os, &platform.architecture) != (&host.os, &host.architecture)
}

impl Emulators {
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, found: Mutex::default() }
    }

    /// How programs of `platform` are executed. What nothing is known of is left to the machine. Blocks for some
    /// milliseconds the first time.
    pub(super) fn emulation(&self, platform: &Platform) -> Result<Emulation, SandboxError> {
        let known = ARCHITECTURES.iter().find(|(architecture, ..)| *architecture == platform.architecture);
        let Some((architecture, name, format)) = known.filter(|_| is_foreign(platform)) else {
            return Ok(Emulation::Machine);
        };
        // Held meanwhile: others would find out the same.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let emulation = if let Some(known) = found.get(*architecture) {
            known.clone()
        } else {
            let emulation = sandbox::emulation(*format, self.find(name).as_deref())?;
            found.insert((*architecture).to_owned(), emulation.clone());
            emulation
        };
        // The image may be one of this machine's all the same.
        Ok(emulation.unwrap_or_default())
    }

    /// A statically linked emulator: what it would be linked with is not in the image.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let names = [format!("qemu-{name}-static"), format!("qemu-{name}")];
        let candidates =
            self.directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
        candidates.filter(|path| path.is_absolute()).find(|path| is_static_program(path))
    }
}

fn is_static_program(path: &Path) -> bool {
    let is_executable =
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    is_executable && asks_for_no_interpreter(path).unwrap_or(false)
}

/// Whether a program for this machine is loaded without another (elf(5): no `PT_INTERP`). `None` for what is no such
/// program.
fn asks_for_no_interpreter(path: &Path) -> Option<bool> {
    /// `PT_INTERP`.
    const INTERPRETER: u32 = 3;
    /// More than the headers of any program.
    const MOST_BYTES: u64 = 1 << 16;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let wide = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let is_program = bytes.starts_with(b"\x7FELF\x02");
    let (offset, size, count) = (usize::try_from(wide(32)?).ok()?, half(54)?, half(56)?);
    let mut types = (0..usize::from(count)).map(|number| {
        let at = offset.checked_add(number * usize::from(size))?;
        Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    });
    is_program.then(|| types.all(|kind| kind.is_some_and(|kind| kind != INTERPRETER)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(directory: &Path, name: &str, content: &[u8]) {
        fs::write(directory.join(name), content).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn emulators_are_static_programs() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        let emulators = Emulators::new(vec!["relative".into(), first.clone(), second.clone()]);
        assert_eq!(emulators.find("arm"), None);
        let busybox = fs::read("/bin/busybox").expect("install busybox-static");
        put(&second, "qemu-arm", &busybox);
        assert_eq!(emulators.find("arm"), Some(second.join("qemu-arm")));
        put(&second, "qemu-arm-static", &busybox);
        assert_eq!(emulators.find("arm"), Some(second.join("qemu-arm-static")));
        // One that needs libraries, a script, and one that nobody may execute.
        put(&first, "qemu-arm", &fs::read("/bin/true").unwrap());
        put(&first, "qemu-arm-static", b"#!/bin/sh\n");
        assert_eq!(emulators.find("arm"), Some(second.join("qemu-arm-static")));
        fs::write(first.join("qemu-s390x"), &busybox).unwrap();
        assert_eq!(emulators.find("s390x"), None);
    }

    #[test]
    fn architectures_are_in_order_and_of_their_own() {
        let names: Vec<_> = ARCHITECTURES.iter().map(|(name, ..)| *name).collect();
        assert!(names.is_sorted());
        for (at, (name, _, format)) in ARCHITECTURES.iter().enumerate() {
            assert!(ARCHITECTURES[..at].iter().all(|(.., other)| other != format), "{name}");
        }
        assert!(!is_foreign(&Platform::host()));
        assert!(is_foreign(&"linux/s390x".parse().unwrap()));
    }
}
