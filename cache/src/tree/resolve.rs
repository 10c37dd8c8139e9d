//! Following links inside a tree.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::{FileKind, TreeError, TreeView};

/// How many links are followed for one path, as in the kernel (`path_resolution(7)`).
const MAXIMUM_LINKS: u32 = 40;

/// Which links [`TreeView::resolve`] follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All, the last component included.
    All,
    /// Those of the parents; a link as the last component stays.
    Parents,
}

impl TreeView {
    /// Follows links inside the tree: absolute targets start at its root, `..` stops there. The result is
    /// canonical. What does not exist is kept as it is written (`..` taken lexically).
    pub fn resolve(&self, path: &Path, follow: Follow) -> Result<PathBuf, TreeError> {
        let mut resolved = PathBuf::from("/");
        let mut rest = VecDeque::new();
        prepend(&mut rest, path);
        let mut links = 0;
        while let Some(step) = rest.pop_front() {
            let name = match step {
                Step::Up => {
                    resolved.pop();
                    continue;
                }
                Step::Down(name) => name,
            };
            resolved.push(&name);
            if follow == Follow::Parents && rest.is_empty() {
                break;
            }
            let entry = self.entry(&resolved)?;
            if entry.is_none_or(|entry| entry.kind != FileKind::Symlink) {
                continue;
            }
            links += 1;
            if links > MAXIMUM_LINKS {
                return Err(TreeError::LinkLoop(path.to_owned()));
            }
            let target = self.read_link(&resolved)?;
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            } else {
                resolved.pop();
            }
            prepend(&mut rest, &target);
        }
        Ok(resolved)
    }
}

enum Step {
    Up,
    Down(OsString),
}

fn prepend(steps: &mut VecDeque<Step>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => steps.push_front(Step::Down(name.to_owned())),
            Component::ParentDir => steps.push_front(Step::Up),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}
