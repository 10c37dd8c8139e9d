//! What is different for the process of a RUN where there is one id, which is root's.

use std::path::Path;

use cache::tree::{FileKind, Follow, TreeError, TreeView};
use cache::{IdMode, Store};
use sandbox::{MountKind, MountSpec};

use crate::WorkerError;
use crate::user::ProcessUser;

/// Where apt reads its settings; the last file in the order of names holds.
const APT_SETTINGS: &str = "/etc/apt/apt.conf.d";
const APT_FILE: &str = "zz-one-id";

/// Whoever is not root does not exist where there is one id.
pub(super) fn check(store: &Store, user: &ProcessUser, command: &str) -> Result<(), WorkerError> {
    if *store.ids() == IdMode::Single && (user.uid, user.gid) != (0, 0) {
        return Err(WorkerError::OnlyOneId { command: command.to_owned(), uid: user.uid, gid: user.gid });
    }
    Ok(())
}

/// Who owns what is mounted for `wanted`, who cannot be set where there is one id: everything is root's there, as
/// the files of images are.
pub(super) fn owner(store: &Store, wanted: (u32, u32)) -> (u32, u32) {
    if *store.ids() == IdMode::Single { (0, 0) } else { wanted }
}

/// What else has to be pretended where changes of owners are: apt looks whether it has become its own user, and gives up
/// otherwise. A setting tells it to stay root, for the time of the step.
pub(super) fn apt_stays_root(image: Option<&TreeView>) -> Result<Option<MountSpec>, TreeError> {
    let Some(image) = image else { return Ok(None) };
    let settings = image.entry(&image.resolve(Path::new(APT_SETTINGS), Follow::All)?)?;
    if settings.is_none_or(|entry| entry.kind != FileKind::Directory) {
        return Ok(None);
    }
    let content = b"APT::Sandbox::User \"root\";\n".to_vec();
    Ok(Some(MountSpec {
        target: Path::new(APT_SETTINGS).join(APT_FILE),
        kind: MountKind::File { content, mode: 0o644, uid: 0, gid: 0 },
    }))
}
