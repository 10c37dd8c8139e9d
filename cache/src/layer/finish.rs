//! Completing an applied layer once the layers below it are there.

use std::path::{Path, PathBuf};

use super::LayerError;
use super::apply::Deferred;
use crate::tree::{Attributes, FileKind, Follow, TreeMode, TreeView, TreeWriter};

/// Gives implied directories the metadata they have below, and makes the hard links to lower files.
pub(super) fn finish(
    upper: &Path,
    lower_dirs: &[PathBuf],
    mode: TreeMode,
    deferred: &Deferred,
) -> Result<(), LayerError> {
    let lower = TreeView::open(lower_dirs, mode)?;
    let writer = TreeWriter::new(upper, lower_dirs, mode)?;
    let mut moved = Moved::default();
    for implied in &deferred.implied {
        if lower_dirs.is_empty() {
            break;
        }
        let path = moved.path(implied);
        let Some(entry) = lower.entry(&path)? else { continue };
        match entry.kind {
            FileKind::Directory => {
                writer.set_attributes(&path, &Attributes::of(&entry, lower.xattrs(&path)?))?;
            }
            FileKind::Symlink => {
                let target = lower.resolve(&path, Follow::All)?;
                let entry = lower.entry(&target)?;
                if entry.is_some_and(|entry| entry.kind == FileKind::Directory) {
                    writer.move_contents(&path, &target)?;
                    moved.0.push((path, target));
                }
            }
            _ => {}
        }
    }
    for (path, target) in &deferred.links {
        let (path, target) = (moved.path(path), moved.path(target));
        if writer.upper_has(&path)? {
            // A later entry of the same name.
            continue;
        }
        match writer.view().entry(&target)? {
            Some(entry) if entry.kind != FileKind::Directory => writer.hard_link(&target, &path)?,
            _ => return Err(LayerError::LinkTarget { path, target }),
        }
    }
    writer.finish()?;
    Ok(())
}

/// Directories whose content went where a link of a lower layer points to.
#[derive(Default)]
struct Moved(Vec<(PathBuf, PathBuf)>);

impl Moved {
    fn path(&self, path: &Path) -> PathBuf {
        let mut path = path.to_owned();
        for (from, to) in &self.0 {
            if let Ok(rest) = path.strip_prefix(from) {
                path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            }
        }
        path
    }
}
