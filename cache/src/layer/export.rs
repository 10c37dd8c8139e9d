//! Writing whole trees.

use std::io::Write;
use std::path::Path;

use super::LayerError;
use crate::tree::TreeView;

/// Writes the whole of `view` as an uncompressed archive, in the same form as layers.
pub fn write_tree(view: &TreeView, out: impl Write) -> Result<(), LayerError> {
    todo!()
}

/// Copies the whole of `view` into the host directory `destination`, which is made if it is missing. What is there
/// is merged with: other files stay, files of the same name are replaced. Owners are set where the process may.
pub fn export_tree(view: &TreeView, destination: &Path) -> Result<(), LayerError> {
    todo!()
}
