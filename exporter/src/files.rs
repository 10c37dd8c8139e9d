//! The files of the result, as a tar or in a directory.

mod attested;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use cache::layer::{FileTimes, LayerError, export_tree, write_trees};
use cache::tree::{FileKind, TreeError, TreeView};
use cache::{Snapshot, Store};
use oci::Platform;

use crate::attestation::Attestation;
use crate::destination::OutputFile;
use crate::error::ExportError;
use crate::output::{Destination, OtherFiles};

/// The files of the result for a platform.
#[derive(Debug, Clone)]
pub struct PlatformFiles {
    /// The platform.
    pub platform: Platform,
    /// What holds the files; there are none for `None`.
    pub snapshot: Option<Snapshot>,
    /// What is said of them, each in a file of its own; what is for images alone is left out.
    pub attestations: Vec<Attestation>,
}

impl PlatformFiles {
    /// The directory of the platform where each has its own: `linux_arm_v7`.
    fn directory(&self) -> String {
        self.platform.to_string().replace('/', "_")
    }
}

/// Where the files of several platforms go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformSplit {
    /// Each platform has a directory of its own.
    Split,
    /// All together; no two may have a file of the same name.
    Together,
}

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesForm {
    /// Where those of several platforms go.
    pub split: PlatformSplit,
    /// Which times they have.
    pub times: FileTimes,
    /// What becomes of others that are in the directory.
    pub others: OtherFiles,
}

/// Writes files as one tar. Blocks.
pub fn write_files(
    store: &Store,
    files: &[PlatformFiles],
    form: FilesForm,
    destination: &Destination,
) -> Result<(), ExportError> {
    let views = views_of(store, files, form.split)?;
    let path = match destination {
        Destination::Path(path) => path.as_path(),
        Destination::Stdout | Destination::Engine(_) => Path::new("-"),
    };
    check_names(files, &views, form.split, path)?;
    let mut file = OutputFile::create(destination)?;
    let directories: Vec<String> = files.iter().map(PlatformFiles::directory).collect();
    let directories =
        directories.iter().map(|name| (form.split == PlatformSplit::Split).then_some(OsStr::new(name)));
    let trees: Vec<(Option<&OsStr>, &TreeView)> = directories.zip(&views).collect();
    write_trees(&trees, form.times, &mut file)
        .and_then(|()| file.flush().map_err(LayerError::Write))
        .map_err(|source| ExportError::Files { path: path.to_owned(), source })?;
    file.finish()
}

/// Copies files into a directory, which is made if it is not there. Blocks.
pub fn copy_files(
    store: &Store,
    files: &[PlatformFiles],
    form: FilesForm,
    directory: &Path,
) -> Result<(), ExportError> {
    let views = views_of(store, files, form.split)?;
    check_names(files, &views, form.split, directory)?;
    if form.others == OtherFiles::Deleted {
        delete_others(files, &views, form.split, directory)?;
    }
    for (files, view) in files.iter().zip(&views) {
        let path = match form.split {
            PlatformSplit::Split => directory.join(files.directory()),
            PlatformSplit::Together => directory.to_owned(),
        };
        export_tree(view, form.times, &path).map_err(|source| ExportError::Files { path, source })?;
    }
    Ok(())
}

fn views_of(
    store: &Store,
    files: &[PlatformFiles],
    split: PlatformSplit,
) -> Result<Vec<TreeView>, ExportError> {
    let are_together = split == PlatformSplit::Together && files.len() > 1;
    let view = |files: &PlatformFiles| {
        let platform = are_together.then(|| files.directory());
        attested::view_of(store, files, platform.as_deref())
    };
    files.iter().map(view).collect()
}

/// The files of a snapshot; the empty tree for `None`.
pub(crate) fn view_of(store: &Store, snapshot: Option<&Snapshot>) -> Result<TreeView, ExportError> {
    let directories = directories_of(store, snapshot)?;
    TreeView::open(&directories, store.tree_mode()).map_err(ExportError::Tree)
}

fn directories_of(store: &Store, snapshot: Option<&Snapshot>) -> Result<Vec<PathBuf>, ExportError> {
    if let Some(snapshot) = snapshot {
        Ok(store.layer_dirs(snapshot)?)
    } else {
        // The empty tree is an empty directory, which goes away with this run.
        let path = store.run_directory().join("scratch");
        std::fs::create_dir_all(&path).map_err(|source| ExportError::Write { path: path.clone(), source })?;
        Ok(vec![path])
    }
}

/// Sees to it that no file would take the place of another platform's.
fn check_names(
    files: &[PlatformFiles],
    views: &[TreeView],
    split: PlatformSplit,
    destination: &Path,
) -> Result<(), ExportError> {
    if split == PlatformSplit::Split || files.len() < 2 {
        return Ok(());
    }
    let mut owners: HashMap<PathBuf, &Platform> = HashMap::new();
    for (files, view) in files.iter().zip(views) {
        let unreadable = |source: TreeError| ExportError::Files {
            path: destination.to_owned(),
            source: LayerError::Tree(source),
        };
        for path in names_of(view).map_err(unreadable)? {
            if let Some(owner) = owners.get(&path) {
                let (owner, platform) = (owner.to_string(), files.platform.to_string());
                return Err(ExportError::NameTaken { path, owner, platform });
            }
            owners.insert(path, &files.platform);
        }
    }
    Ok(())
}

/// The paths of all that is no directory.
fn names_of(view: &TreeView) -> Result<Vec<PathBuf>, TreeError> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from("/")]);
    while let Some(directory) = open.pop() {
        for (name, entry) in view.read_dir(&directory)? {
            let path = directory.join(name);
            if entry.kind == FileKind::Directory { open.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}

/// Deletes what is in the directory and does not have the name and the kind of something that will be.
fn delete_others(
    files: &[PlatformFiles],
    views: &[TreeView],
    split: PlatformSplit,
    destination: &Path,
) -> Result<(), ExportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Write { path, source }
    };
    let mut open = vec![PathBuf::from("/")];
    while let Some(directory) = open.pop() {
        let inner = directory.strip_prefix("/").unwrap_or(&directory);
        let path = destination.join(inner);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(&path)(source)),
        };
        for entry in entries {
            let entry = entry.map_err(failed(&path))?;
            let is_directory = entry.file_type().map_err(failed(&path))?.is_dir();
            let inner = directory.join(entry.file_name());
            let wanted = wanted_kind(files, views, split, &inner)?;
            let removed = match (is_directory, wanted) {
                (true, Some(FileKind::Directory)) => {
                    open.push(inner);
                    continue;
                }
                (true, _) => std::fs::remove_dir_all(entry.path()),
                (false, Some(kind)) if kind != FileKind::Directory => continue,
                (false, _) => std::fs::remove_file(entry.path()),
            };
            removed.map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}

/// What will be at a path of the destination.
fn wanted_kind(
    files: &[PlatformFiles],
    views: &[TreeView],
    split: PlatformSplit,
    path: &Path,
) -> Result<Option<FileKind>, ExportError> {
    for (files, view) in files.iter().zip(views) {
        let inner = match split {
            PlatformSplit::Together => path.to_owned(),
            PlatformSplit::Split => match path.strip_prefix(Path::new("/").join(files.directory())) {
                Ok(inner) if inner.as_os_str().is_empty() => return Ok(Some(FileKind::Directory)),
                Ok(inner) => Path::new("/").join(inner),
                Err(_) => continue,
            },
        };
        let found = view.entry(&inner).map_err(ExportError::Tree)?;
        if let Some(entry) = found {
            return Ok(Some(entry.kind));
        }
    }
    Ok(None)
}
