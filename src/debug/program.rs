//! Which shell is run in a sandbox.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sandbox::{MountKind, MountSpec, RootAccess};
use worker::{Program, Scene};

use crate::settings::Environment;

/// Programs that take the commands of POSIX's shell.
const POSIX_SHELLS: [&str; 7] = ["ash", "bash", "dash", "ksh", "mksh", "sh", "zsh"];
/// Where bash is, which people like better than sh.
const BASH: [&str; 2] = ["/bin/bash", "/usr/bin/bash"];
/// Where this machine may have a busybox.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"];
/// Where it is mounted for images without a shell: the file system there is the sandbox's own.
const STAND_IN: &str = "/dev/busybox";

/// What is run in a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    args: Vec<String>,
    mounts: Vec<MountSpec>,
    /// What is to be told of it.
    pub(super) note: &'static str,
}

impl Choice {
    fn of(args: Vec<String>) -> Self {
        Self { args, mounts: Vec::new(), note: "" }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        self.args.join(" ")
    }

    /// The same for the sandbox. At a terminal, programs want to know which kind it is.
    pub(super) fn program(self, is_terminal: bool) -> Program {
        let kind = Environment::text("TERM").filter(|_| is_terminal);
        Program {
            args: self.args.into_iter().map(String::into_bytes).collect(),
            env: kind.map(|kind| format!("TERM={kind}").into_bytes()).into_iter().collect(),
            mounts: self.mounts,
            root_access: RootAccess::Writable,
        }
    }
}

/// What to run: what is asked for; the shell of the step, if it is one that people know; bash; sh; a busybox of this
/// machine. Blocks.
pub(super) fn choose(
    scene: &Scene,
    words: &[String],
    command: Option<Vec<String>>,
) -> Result<Choice, String> {
    if let Some(command) = command {
        return Ok(Choice::of(command));
    }
    let own = words.first().map(String::as_str).filter(|word| word.starts_with('/'));
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let own = own.filter(|path| POSIX_SHELLS.contains(&name(path).as_str()));
    let (sh, special): (Vec<&str>, Vec<&str>) = own.into_iter().partition(|path| name(path) == "sh");
    for path in special.into_iter().chain(BASH).chain(sh).chain(["/bin/sh"]) {
        // What cannot be read is not there to be run either.
        if scene.has_program(Path::new(path)).unwrap_or(false) {
            return Ok(Choice::of(vec![path.to_owned()]));
        }
    }
    let busybox = BUSYBOX.iter().find(|path| is_static_program(Path::new(path)));
    let source = busybox.ok_or("the image has neither bash nor sh, and this machine no static busybox")?;
    let kind = MountKind::Bind { source: PathBuf::from(source), read_only: true };
    Ok(Choice {
        args: vec![STAND_IN.to_owned(), "sh".to_owned()],
        mounts: vec![MountSpec { target: PathBuf::from(STAND_IN), kind }],
        note: "the image has no shell; this is a busybox of the machine (`/dev/busybox --list` tells its commands)\n",
    })
}

/// Whether a file is a program that needs no loader: ELF without a program header of type `PT_INTERP` (elf(5)).
pub(crate) fn is_static_program(path: &Path) -> bool {
    const START_BYTES: usize = 4096;
    const PT_INTERP: u32 = 3;
    let mut start = [0; START_BYTES];
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    let mut length = 0;
    while let Ok(more @ 1..) = file.read(&mut start[length..]) {
        length += more;
    }
    let start = &start[..length];
    let half = |at: usize| Some(u16::from_le_bytes(start.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(start.get(at..at + 4)?.try_into().ok()?));
    if !start.starts_with(b"\x7FELF\x02\x01") {
        return false;
    }
    // e_phoff, e_phentsize and e_phnum of the 64-bit header.
    let (Some(offset), Some(size), Some(count)) = (word(32), half(54), half(56)) else { return false };
    (0..usize::from(count))
        .map(|number| word(offset as usize + number * usize::from(size)))
        .all(|kind| kind.is_some_and(|kind| kind != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_with_a_loader_are_none_to_stand_in() {
        assert!(is_static_program(Path::new("/bin/busybox")), "install busybox-static");
        assert!(!is_static_program(Path::new("/bin/ls")));
        assert!(!is_static_program(Path::new("/etc/passwd")));
        assert!(!is_static_program(Path::new("/no/such")));
    }
}
