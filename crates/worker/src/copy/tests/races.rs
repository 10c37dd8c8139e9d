//! Somebody swaps directories and links while they are copied: nothing outside is read or written.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{RenameFlags, renameat_with};

use super::*;

/// How often each copy is made.
const ROUNDS: usize = 30;

/// Tells the one who swaps that it is over, even where an assertion fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `copy` again and again while the directory `one` and the link `other` change their names, and once more when
/// they have those that they had; then it has to succeed.
fn while_swapped(one: &Path, other: &Path, copy: impl Fn() -> Result<(), String>) {
    let swap = || renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("two names");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                swap();
            }
        });
        let _end = End(&done);
        for _ in 0..ROUNDS {
            // It may well fail: what it reads changes.
            let _ = copy();
        }
    });
    if one.is_symlink() {
        swap();
    }
    copy().expect("nobody is in the way");
}

/// A directory `d` of files, and a link `e` that leads to a directory outside with files of the same names.
fn prepare(scene: &Scene, directory: &Path, target: &str) {
    let outside = scene.root.path().join("outside");
    for number in 0..20 {
        write(&directory.join(format!("d/sub/f{number}")), "inside");
        write(&outside.join(format!("sub/f{number}")), "secret");
    }
    symlink(target, directory.join("e")).expect("a link");
}

fn clear(directory: &Path) {
    fs::remove_dir_all(directory).expect("removed");
    fs::create_dir(directory).expect("mkdir");
}

#[test]
fn nothing_outside_a_source_is_read() {
    for scene in [Scene::new(), Scene::stage()] {
        let outside = scene.root.path().join("outside");
        for target in ["../outside", outside.to_str().expect("a text")] {
            clear(&scene.source(""));
            prepare(&scene, &scene.source(""), target);
            age(&scene.source(""));
            for sources in [&["."][..], &["d"], &["d/sub"], &["d/sub/f*"], &["d/sub/f7"]] {
                let copy = op(sources, "/out/");
                while_swapped(&scene.source("d"), &scene.source("e"), || {
                    clear(&scene.upper());
                    let copied = scene.copy_from(&scene.open_as_it_is(), &copy);
                    let listed = list(&scene.upper());
                    assert!(!listed.contains("secret"), "{sources:?}: {listed}");
                    copied
                });
            }
        }
    }
}

#[test]
fn nothing_outside_a_destination_is_written() {
    let scene = Scene::new();
    let outside = scene.root.path().join("outside");
    prepare(&scene, &scene.source("from"), "nowhere");
    fs::remove_file(scene.source("from/e")).expect("removed");
    age(&scene.source(""));
    let source = scene.open_as_it_is();
    for target in ["../../outside", outside.to_str().expect("a text")] {
        clear(&scene.upper());
        prepare(&scene, &scene.upper().join("out"), target);
        let before = list(&outside);
        let copy = op(&["from"], "/out/");
        let (one, other) = (scene.upper().join("out/d"), scene.upper().join("out/e"));
        while_swapped(&one, &other, || scene.copy_from(&source, &copy));
        assert_eq!(list(&outside), before);
    }
}
