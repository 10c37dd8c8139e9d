//! File systems that are full, that refuse overlay, and that belong to others.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use cache::{RecordDetails, SnapshotterKind, Store, StoreError, StoreOptions};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::children::{command, hear, spawn, without_starts};
use crate::support::{key, open, options, read, save, snapshot};

/// Something mounted for as long as this lives.
struct Mounted {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

/// Needs the right to mount (root).
fn mounted(file_system: &str, data: impl Fn(&Path) -> String) -> Mounted {
    let directory = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    let path = directory.path().join("merged");
    let data = std::ffi::CString::new(data(directory.path())).unwrap();
    rustix::mount::mount(file_system, &path, file_system, MountFlags::empty(), data.as_c_str()).unwrap();
    Mounted { path, _directory: directory }
}

fn small() -> Mounted {
    mounted("tmpfs", |_| "size=2m".to_owned())
}

#[test]
fn a_full_disk_is_told_and_does_no_harm() {
    // What a child has open takes room even where it has been removed.
    let _alone = without_starts();
    let disk = small();
    let root = disk.path.join("store");
    let store = open(&root, SnapshotterKind::Overlay);
    let made = snapshot(&store, None, "a", "1");
    save(&store, 1, &made);
    let mut writer = store.blobs().writer(None).unwrap();
    let chunk = vec![7; 65536];
    let failed = loop {
        if let Err(error) = writer.write_all(&chunk) {
            break writer.failed(error);
        }
    };
    assert!(matches!(failed, StoreError::DiskFull { .. }), "{failed}");
    assert!(failed.to_string().contains(root.to_str().unwrap()), "{failed}");
    // The half-written blob fills the disk still.
    let error = (2..10_000).find_map(|number| {
        let parts = vec![("text".to_owned(), "x".repeat(4096))];
        let details = RecordDetails { parts, ..RecordDetails::default() };
        store.save(&key(number), &details, &made, cache::Replace::No).err()
    });
    let error = error.unwrap();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().contains("meta.db"), "{error}");
    assert_eq!(store.lookup(&key(1)).unwrap(), Some(made));
    drop(writer);
    let next = snapshot(&store, Some(&made), "b", "2");
    assert_eq!(save(&store, 1_000_000, &next), next);
    drop(store);
    let store = open(&root, SnapshotterKind::Overlay);
    assert_eq!(store.lookup(&key(1_000_000)).unwrap(), Some(next));
    assert_eq!(read(&store, &next, "a").as_deref(), Some("1"));
}

#[test]
fn a_store_on_overlay_keeps_copies() {
    let disk = mounted("overlay", |directory| {
        let part = |name: &str| directory.join(name).display().to_string();
        format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"))
    });
    let probing =
        StoreOptions { snapshotter: None, ..options(&disk.path.join("store"), SnapshotterKind::Copy) };
    for _ in 0..2 {
        let store = Store::open(&probing).unwrap();
        assert_eq!(store.snapshotter(), SnapshotterKind::Copy);
        let bottom = snapshot(&store, None, "a", "1");
        let top = snapshot(&store, Some(&bottom), "b", "2");
        assert_eq!(fs::read_to_string(store.own_dir(&top.id).join("a")).unwrap(), "1");
        store.finish().unwrap();
    }
}

#[test]
fn a_store_of_somebody_else_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let root = directory.path().join("store");
    drop(open(&root, SnapshotterKind::Overlay));
    let as_nobody = |root: &Path| {
        let mut child = spawn(command(&program, "open", root, 0).uid(65534).gid(65534));
        let said = hear(&mut child);
        child.wait().unwrap();
        said
    };
    let said = as_nobody(&root);
    assert!(said.starts_with(&format!("no permission to create `{}", root.display())), "{said}");
    let nowhere = directory.path().join("new/store");
    let said = as_nobody(&nowhere);
    assert!(said.starts_with(&format!("no permission to create `{}", nowhere.display())), "{said}");
}
