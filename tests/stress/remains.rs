//! What is left when all has ended: nothing but what the store should hold, and then nothing at all.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::place::{self, Place};

/// What outlives a killed build for a moment: the guard that ends its steps.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn check(place: &Place) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let processes = processes(&place.path(""));
        if processes.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("processes are left: {processes:#?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts can be read");
    if mounts.contains(&*place.store().to_string_lossy()) {
        return Err(format!("something is mounted in the store:\n{mounts}"));
    }
    // Once to sweep what the last killed build has left, and once to see that nothing is left.
    place::succeed(place.rbuild(&["doctor", "--store"]))?;
    let told = place::succeed(place.rbuild(&["doctor", "--store"]))?;
    if !told.contains("nothing is left of killed builds") {
        return Err(format!("something is left of killed builds:\n{told}"));
    }
    is_empty(&place.store(), &["tmp", "locks"])?;
    let images = place::succeed(place.rbuild(&["images", "--format=json"]))?;
    for line in images.lines() {
        let image: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        let text = |name: &str| image[name].as_str().expect("names are texts").to_owned();
        place::succeed(place.rbuild(&["rmi", &format!("{}:{}", text("name"), text("tag"))]))?;
    }
    place::succeed(place.rbuild(&["prune", "--all", "--force"]))?;
    is_empty(&place.store(), &["tmp", "locks", "snapshots", "blobs/sha256", "mounts", "contexts"])
}

fn is_empty(store: &Path, directories: &[&str]) -> Result<(), String> {
    for directory in directories {
        let Ok(entries) = fs::read_dir(store.join(directory)) else { continue };
        let names: Vec<_> = entries.map(|entry| entry.expect("an entry can be read").file_name()).collect();
        if !names.is_empty() {
            return Err(format!("`{directory}` of the store has {names:?}"));
        }
    }
    Ok(())
}

/// Processes that were started by these builds: they have a file of theirs mounted, or on their command line.
fn processes(directory: &Path) -> Vec<String> {
    let directory = directory.to_string_lossy();
    let all = fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    all.filter_map(|process| {
        let read = |name: &str| {
            let bytes = fs::read(process.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let (command, mounts) = (read("cmdline"), read("mountinfo"));
        let is_theirs = command.contains(&*directory) || mounts.contains(&*directory);
        is_theirs.then(|| format!("{} {command}", process.path().display()))
    })
    .collect()
}
