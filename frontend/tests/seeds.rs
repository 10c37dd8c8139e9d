//! Replays the seeds of the fuzz targets, and every beginning of each.

use std::fs;
use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&directory).expect("the seeds are in the repository") {
        let data = fs::read(entry.expect("the directory can be read").path()).expect("a seed can be read");
        for end in 0..=data.len() {
            body(&data[..end]);
        }
        count += 1;
    }
    assert!(count >= 8, "only {count} seeds in {}", directory.display());
}

#[test]
fn seeds_are_parsed_and_lowered() {
    replay("dockerfile", frontend::fuzz_parse);
}

#[test]
fn seeds_are_formatted() {
    replay("dockerfile", frontend::fuzz_format);
}

#[test]
fn seeds_are_looked_at_and_fixed() {
    replay("dockerfile", frontend::fuzz_lint);
}

#[test]
fn seeds_are_expanded() {
    replay("expand", frontend::fuzz_expand);
}
