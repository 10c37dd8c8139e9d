//! The history of builds is kept in bounds.

use std::fs;
use std::io::Read as _;

use cache::{BuildId, HistoryBounds, SnapshotterKind};

use crate::support::{names, open};

#[test]
fn builds_are_added_listed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert_eq!(store.history().unwrap(), []);
    let (first, second) = (BuildId::new(), "ffffffffffff00000000".parse::<BuildId>().unwrap());
    let log = store.fresh_path();
    fs::write(&log, "output\n").unwrap();
    store.add_history(&second, b"two", None, HistoryBounds::default()).unwrap();
    store.add_history(&first, b"one", Some(log), HistoryBounds::default()).unwrap();
    assert_eq!(store.history().unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.history_document(&first).unwrap().as_deref(), Some(&b"one"[..]));
    let mut text = String::new();
    store.history_log(&first).unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "output\n");
    assert!(store.history_log(&second).unwrap().is_none());
    assert!(store.remove_history(&first).unwrap() && !store.remove_history(&first).unwrap());
    assert_eq!(store.history_document(&first).unwrap(), None);
    assert_eq!(names(directory.path().join("history")), [second.as_str()]);
    assert!("../../etc".parse::<BuildId>().is_err());
}

#[test]
fn the_oldest_go_first_and_the_newest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let id = |number: u32| format!("{number:012x}{:08x}", 0).parse::<BuildId>().unwrap();
    let bounds = HistoryBounds { age: None, builds: 3, bytes: 1000 };
    for number in 1..=5 {
        store.add_history(&id(number), &[b'x'; 100], None, bounds).unwrap();
    }
    assert_eq!(store.history().unwrap(), [id(3), id(4), id(5)]);
    store.add_history(&id(6), &[b'x'; 850], None, bounds).unwrap();
    assert_eq!(store.history().unwrap(), [id(5), id(6)]);
    store.add_history(&id(7), &[b'x'; 5000], None, bounds).unwrap();
    assert_eq!(store.history().unwrap(), [id(7)]);
}
