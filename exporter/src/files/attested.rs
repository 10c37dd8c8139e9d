//! Files with what is said of them beside them.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use cache::Store;
use cache::tree::{Attributes, FileContent, FileKind, Hashing, TreeError, TreeView, TreeWriter};
use oci::{Digest, Hasher};
use serde_json::Value;

use super::{PlatformFiles, directories_of};
use crate::attestation::{Attestation, Reach, Subject};
use crate::error::ExportError;

/// Only whoever builds reads them, as with BuildKit.
const MODE: u32 = 0o600;
const BUFFER_BYTES: usize = 1 << 17;

/// The files, and on top of them a directory of this run with what is said of them. `platform` is in its names where
/// several platforms share a directory.
pub(super) fn view_of(
    store: &Store,
    files: &PlatformFiles,
    platform: Option<&str>,
) -> Result<TreeView, ExportError> {
    let lower = directories_of(store, files.snapshot.as_ref())?;
    let view = TreeView::open(&lower, store.tree_mode()).map_err(ExportError::Tree)?;
    let said: Vec<&Attestation> =
        files.attestations.iter().filter(|attestation| attestation.reach == Reach::Everywhere).collect();
    if said.is_empty() {
        return Ok(view);
    }
    let subjects = subjects(&view)?;
    let upper = store.fresh_path();
    std::fs::create_dir_all(&upper).map_err(|source| ExportError::Write { path: upper.clone(), source })?;
    let writer = TreeWriter::new(&upper, &lower, store.tree_mode()).map_err(ExportError::Tree)?;
    copy_root(&view, &writer).map_err(ExportError::Tree)?;
    let attributes = Attributes { mode: MODE, ..Attributes::default() };
    for attestation in said {
        let path = Path::new("/").join(name(&attestation.file_name, platform));
        if view.entry(&path).map_err(ExportError::Tree)?.is_some() {
            return Err(ExportError::AttestationName(path));
        }
        let bytes = indented(&attestation.statement(&subjects)?)?;
        let written = writer.file(&path, FileContent::Bytes(&bytes), &attributes, Hashing::Skip);
        written.map_err(ExportError::Tree)?;
    }
    writer.finish().map_err(ExportError::Tree)?;
    let mut directories = vec![upper];
    directories.extend(lower);
    TreeView::open(&directories, store.tree_mode()).map_err(ExportError::Tree)
}

/// The root of what is written looks like that of the files.
fn copy_root(view: &TreeView, writer: &TreeWriter) -> Result<(), TreeError> {
    let root = Path::new("/");
    match view.entry(root)? {
        Some(entry) => writer.set_attributes(root, &Attributes::of(&entry, view.xattrs(root)?)),
        None => Ok(()),
    }
}

/// Between the stem of the name and its ending, the platform.
fn name(file_name: &str, platform: Option<&str>) -> String {
    match (platform, file_name.rsplit_once('.')) {
        (None, _) => file_name.to_owned(),
        (Some(platform), Some((stem, ending))) => format!("{stem}.{platform}.{ending}"),
        (Some(platform), None) => format!("{file_name}.{platform}"),
    }
}

/// All regular files with their digests, by their paths.
fn subjects(view: &TreeView) -> Result<Vec<Subject>, ExportError> {
    let (mut subjects, mut open) = (Vec::new(), vec![PathBuf::from("/")]);
    while let Some(directory) = open.pop() {
        for (name, entry) in view.read_dir(&directory).map_err(ExportError::Tree)? {
            let path = directory.join(name);
            match entry.kind {
                FileKind::Directory => open.push(path),
                FileKind::File => {
                    let file = view.open_file(&path).map_err(ExportError::Tree)?;
                    let digest =
                        digest(file).map_err(|source| ExportError::Read { path: path.clone(), source })?;
                    let name = path.strip_prefix("/").unwrap_or(&path).to_string_lossy();
                    subjects.push(Subject::new(&name, &digest));
                }
                _ => {}
            }
        }
    }
    subjects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(subjects)
}

fn digest(file: File) -> io::Result<Digest> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut hasher = Hasher::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(bytes);
        let length = bytes.len();
        reader.consume(length);
    }
}

/// People read files.
fn indented(json: &[u8]) -> Result<Vec<u8>, ExportError> {
    let value: Value = serde_json::from_slice(json).map_err(ExportError::Json)?;
    serde_json::to_vec_pretty(&value).map_err(ExportError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_platform() {
        assert_eq!(name("sbom.spdx.json", None), "sbom.spdx.json");
        assert_eq!(name("sbom.spdx.json", Some("linux_arm64")), "sbom.spdx.linux_arm64.json");
        assert_eq!(name("provenance", Some("linux_arm64")), "provenance.linux_arm64");
    }
}
