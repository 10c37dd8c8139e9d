//! Ordinary users of the machine, made for tests.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// An ordinary user with an id of its own, with or without subordinate ids. It stays when this is dropped.
#[derive(Debug)]
pub struct TestUser {
    name: &'static str,
    id: u32,
}

impl TestUser {
    /// Makes the user if it is not there, and gives it 65536 subordinate ids from `subordinate` on, or none. The ids
    /// should be far from those that distributions give out, and no two users' the same.
    ///
    /// # Panics
    /// When this process is not root, or `useradd` is not installed.
    pub fn new(name: &'static str, id: u32, subordinate: Option<u32>) -> Self {
        let _accounts = lock_accounts();
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        if !passwd.lines().any(|line| line.starts_with(&format!("{name}:"))) {
            let mut command = Command::new("useradd");
            command.args(["--uid", &id.to_string(), "--no-create-home", "--shell", "/bin/sh", name]);
            let status = command.stdin(Stdio::null()).status().expect("`useradd` can be run");
            assert!(status.success(), "{command:?}: {status}");
        }
        for file in ["/etc/subuid", "/etc/subgid"] {
            let text = fs::read_to_string(file).unwrap_or_default();
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with(&format!("{name}:")))
                .map(str::to_owned)
                .collect();
            lines.extend(subordinate.map(|first| format!("{name}:{first}:65536")));
            let changed = lines.join("\n") + "\n";
            if changed != text {
                // Whoever reads meanwhile sees the old file or the new one, and nothing in between.
                let beside = format!("{file}.rbuild-test");
                fs::write(&beside, changed).expect("subordinate ids can be set");
                fs::rename(&beside, file).expect("subordinate ids can be set");
            }
        }
        Self { name, id }
    }

    /// The user's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A command that runs `program` as the user, with the environment that it is given.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let id = self.id.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--init-groups", "--"]).arg(program);
        command
    }

    /// Gives `path` and all below it to the user; modes stay.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn give(&self, path: &Path) {
        let metadata = path.symlink_metadata().expect("a path can be looked at");
        if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a directory can be read") {
                self.give(&entry.expect("a directory can be read").path());
            }
        }
        lchown(path, Some(self.id), Some(self.id)).expect("owners can be set");
        // A change of owner takes the bits that lend somebody's rights away.
        if metadata.mode() & 0o6000 != 0 && !metadata.is_symlink() {
            fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o7777))
                .expect("modes can be set");
        }
    }
}

/// Until it is dropped, no other test of any process changes accounts.
fn lock_accounts() -> File {
    let path = std::env::temp_dir().join("rbuild-test-accounts.lock");
    let file = File::options().create(true).append(true).open(path).expect("the lock can be opened");
    flock(&file, FlockOperation::LockExclusive).expect("the lock can be taken");
    file
}
