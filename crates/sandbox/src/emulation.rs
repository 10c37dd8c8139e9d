//! Programs of other architectures: whether the machine executes them, and what else does.
//!
//! The kernel hands programs to an emulator (`qemu-user`) where `binfmt_misc` has a handler for them, children of
//! programs included. Since Linux 6.7 each user namespace can have handlers of its own. So that a build alters nothing
//! of the machine, a namespace is made for that alone, with the same ids as this one, and sandboxes enter it when all is
//! set up: they keep the file systems that were mounted before, and lose what only the outer namespace allows, such as
//! making device nodes or raw sockets. What the machine has handlers for goes past all this.
//!
//! Where there cannot be such a namespace, the emulator is shown in the sandbox and started with the program. Then only
//! this one program is emulated.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::process::{Init, start};
use crate::wire::{self, Answer, Request};
use crate::{SandboxError, cgroup};

/// How programs of another architecture are executed in a sandbox.
#[derive(Debug, Clone, Default)]
pub enum Emulation {
    /// As the machine executes them, if it does.
    #[default]
    Machine,
    /// By a handler that only sandboxes see.
    Handler(Arc<HandlerNamespace>),
    /// The emulator is started with the program. What that starts is executed as the machine does it.
    Prefix {
        /// The programs that are emulated.
        format: ElfFormat,
        /// The emulator.
        emulator: PathBuf,
        /// Why there is no handler.
        reason: Arc<SandboxError>,
    },
}

/// A user namespace with a handler, for as long as this lives.
#[derive(Debug)]
pub struct HandlerNamespace {
    user_namespace: OwnedFd,
    /// The namespace's `binfmt_misc`, attached nowhere: without a mount it loses its handlers.
    _handlers: OwnedFd,
}

impl HandlerNamespace {
    /// What sandboxes enter.
    pub(crate) fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }
}

/// The programs of an architecture, by how their files begin (elf(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElfFormat {
    /// `EI_CLASS`.
    pub class: ElfClass,
    /// `EI_DATA`.
    pub data: ElfData,
    /// `e_machine`.
    pub machine: u16,
}

/// The width of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElfClass {
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

/// The order of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElfData {
    /// The lowest first.
    LittleEndian,
    /// The highest first.
    BigEndian,
}

/// Up to `e_machine`.
const START_BYTES: usize = 20;
/// `e_type` of a program at a fixed address; one that can be anywhere, or a library, is 3.
const EXECUTABLE: u16 = 2;
/// `EM_ARM`, whose 64-bit processors execute only what names its calling convention.
const ARM: u16 = 40;
const ARM_CALLING_CONVENTION: u32 = 0x0500_0000;
/// Where the program of the probe is loaded.
const PROBE_ADDRESS: u32 = 0x1_0000;

impl ElfFormat {
    /// How a file begins, as far as [`Self::mask`] goes.
    fn start(self) -> [u8; START_BYTES] {
        let mut start = [0; START_BYTES];
        start[..4].copy_from_slice(b"\x7FELF");
        start[4] = if self.class == ElfClass::Bits32 { 1 } else { 2 };
        start[5] = if self.data == ElfData::LittleEndian { 1 } else { 2 };
        start[6] = 1;
        start[16..18].copy_from_slice(&self.half(EXECUTABLE));
        start[18..20].copy_from_slice(&self.half(self.machine));
        start
    }

    /// The bits that count: not the ABI nor what is left open after it, and any kind of executable.
    fn mask(self) -> [u8; START_BYTES] {
        let mut mask = [0xFF; START_BYTES];
        mask[7..16].fill(0);
        mask[16..18].copy_from_slice(&self.half(0xFFFE));
        mask
    }

    /// Whether a file that begins like this is one.
    pub(crate) fn matches(self, file: &[u8]) -> bool {
        let Some(begin) = file.get(..START_BYTES) else { return false };
        let pairs = self.start().into_iter().zip(self.mask());
        begin.iter().zip(pairs).all(|(byte, (wanted, mask))| byte & mask == wanted & mask)
    }

    fn half(self, value: u16) -> [u8; 2] {
        if self.data == ElfData::LittleEndian { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn word(self, value: u32) -> [u8; 4] {
        if self.data == ElfData::LittleEndian { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    /// An address or a size.
    fn wide(self, value: u32) -> Vec<u8> {
        match (self.class, self.data) {
            (ElfClass::Bits32, _) => self.word(value).to_vec(),
            (ElfClass::Bits64, ElfData::LittleEndian) => u64::from(value).to_le_bytes().to_vec(),
            (ElfClass::Bits64, ElfData::BigEndian) => u64::from(value).to_be_bytes().to_vec(),
        }
    }

    /// A program of the format without any code of sense. To see whether it can be executed is all that it is for.
    pub(crate) fn probe(self) -> Vec<u8> {
        let (header_size, entry_size): (u16, u16) =
            if self.class == ElfClass::Bits32 { (52, 32) } else { (64, 56) };
        let size = u32::from(header_size + entry_size) + 16;
        let flags = if self.machine == ARM { ARM_CALLING_CONVENTION } else { 0 };
        let mut program = self.start().to_vec();
        program.extend(self.word(1));
        program.extend(self.wide(PROBE_ADDRESS + size - 16));
        program.extend(self.wide(u32::from(header_size)));
        program.extend(self.wide(0));
        program.extend(self.word(flags));
        for half in [header_size, entry_size, 1, 0, 0, 0] {
            program.extend(self.half(half));
        }
        // One part that is loaded, which can be read and executed. Its flags stand elsewhere with 64 bits.
        let (load, access) = (self.word(1), self.word(5));
        program.extend(load);
        if self.class == ElfClass::Bits64 {
            program.extend(access);
        }
        for value in [0, PROBE_ADDRESS, PROBE_ADDRESS, size, size] {
            program.extend(self.wide(value));
        }
        if self.class == ElfClass::Bits32 {
            program.extend(access);
        }
        program.extend(self.wide(0x1000));
        program.resize(size as usize, 0);
        program
    }

    /// What `binfmt_misc` is told: the emulator is opened at once (`F`), so that it need not be in the root file system;
    /// set-user-ID programs keep their meaning (`C`), and programs their first argument (`P`).
    pub(crate) fn registration(self, emulator: &Path) -> io::Result<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt;
        /// Between the fields; any byte will do that is in none of them.
        const SEPARATOR: u8 = 1;
        /// Fewer than the kernel's bound.
        const MAX_BYTES: usize = 1500;
        let path = emulator.as_os_str().as_bytes();
        let escaped = |bytes: [u8; START_BYTES]| -> Vec<u8> {
            bytes.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()).collect()
        };
        let (start, mask) = (escaped(self.start()), escaped(self.mask()));
        let fields = [b"emulated", b"M".as_slice(), b"0", &start, &mask, path, b"FCP"];
        let line: Vec<u8> =
            fields.iter().flat_map(|field| [SEPARATOR].into_iter().chain(field.iter().copied())).collect();
        if path.contains(&SEPARATOR) || line.len() > MAX_BYTES {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        Ok(line)
    }
}

/// Finds out how sandboxes can execute programs of `format`: by the machine itself, else by `emulator`, a statically
/// linked `qemu-user` program. `None` where neither can be. Takes some milliseconds.
///
/// # Errors
/// A sandbox cannot be started at all.
pub fn emulation(format: ElfFormat, emulator: Option<&Path>) -> Result<Option<Emulation>, SandboxError> {
    let mut init = Init::start_probe()?;
    let answer = init.ask(&Request::Executes(format));
    let found = match (answer, emulator) {
        (Ok(Answer::Executes(true)), _) => Ok(Some(Emulation::Machine)),
        (Ok(Answer::Executes(false)), None) => Ok(None),
        (Ok(Answer::Executes(false)), Some(emulator)) => Ok(Some(match handler(&mut init, emulator) {
            Ok(namespace) => Emulation::Handler(Arc::new(namespace)),
            Err(reason) => {
                Emulation::Prefix { format, emulator: emulator.to_owned(), reason: Arc::new(reason) }
            }
        })),
        (answer, _) => Err(crate::process::refusal(answer)),
    };
    init.end();
    found
}

/// Lets an init that was asked about the format make a namespace with a handler.
fn handler(init: &mut Init, emulator: &Path) -> Result<HandlerNamespace, SandboxError> {
    let expect = |answer: io::Result<Answer>, wanted: fn(&Answer) -> bool| match answer {
        Ok(answer) if wanted(&answer) => Ok(()),
        answer => Err(crate::process::refusal(answer)),
    };
    let answer = init.ask(&Request::MakeNamespace);
    expect(answer, |answer| matches!(answer, Answer::NamespaceMade))?;
    map_same_ids(&init.pidfd).map_err(start("mapping the ids of a user namespace"))?;
    let answer = init.ask(&Request::Register(emulator.to_owned().into()));
    expect(answer, |answer| matches!(answer, Answer::Registered))?;
    let receive = || wire::receive_one_descriptor(&init.socket).map_err(start("receiving a namespace"));
    Ok(HandlerNamespace { user_namespace: receive()?, _handlers: receive()? })
}

/// Gives the user namespace of a process the ids of this one, by the same numbers.
fn map_same_ids(process: &OwnedFd) -> io::Result<()> {
    let pid = cgroup::pid_of(process)?;
    for kind in ["uid_map", "gid_map"] {
        let map = fs::read_to_string(format!("/proc/self/{kind}"))?;
        let ranges = map.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace();
            let (first, count) = (numbers.next()?, numbers.nth(1)?);
            Some(format!("{first} {first} {count}\n"))
        });
        let ranges: String = ranges.collect();
        // At once: a map cannot be added to.
        File::options().write(true).open(format!("/proc/{pid}/{kind}"))?.write_all(ranges.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: ElfFormat = ElfFormat { class: ElfClass::Bits64, data: ElfData::LittleEndian, machine: 183 };
    const S390X: ElfFormat = ElfFormat { class: ElfClass::Bits64, data: ElfData::BigEndian, machine: 22 };
    const I386: ElfFormat = ElfFormat { class: ElfClass::Bits32, data: ElfData::LittleEndian, machine: 3 };

    #[test]
    fn programs_are_told_by_how_they_begin() {
        for format in [ARM64, S390X, I386] {
            for other in [ARM64, S390X, I386] {
                assert_eq!(format.matches(&other.probe()), format == other, "{format:?} {other:?}");
            }
        }
        // GNU's ABI, and a position-independent one.
        let mut program = ARM64.probe();
        (program[7], program[16]) = (3, 3);
        assert!(ARM64.matches(&program));
        assert!(!ARM64.matches(b"#!/bin/sh\n"));
        assert!(!ARM64.matches(&[]));
    }

    #[test]
    fn registrations_are_in_the_kernels_form() {
        let line = ARM64.registration(Path::new("/usr/bin/qemu:x")).unwrap();
        let text = String::from_utf8(line).unwrap().replace('\u{1}', "|");
        let wanted = r"|emulated|M|0|\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00|\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff|/usr/bin/qemu:x|FCP";
        assert_eq!(text, wanted);
        assert!(ARM64.registration(Path::new("/a\u{1}b")).is_err());
        assert!(ARM64.registration(Path::new(&"/a".repeat(1000))).is_err());
        let big = String::from_utf8(S390X.registration(Path::new("/q")).unwrap()).unwrap();
        assert!(big.contains(r"\x00\x02\x00\x16") && big.contains(r"\xff\xfe\xff\xff"), "{big}");
    }
}
