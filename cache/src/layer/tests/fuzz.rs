//! The body of the fuzz target, on its seeds.

use std::path::Path;

use crate::layer::fuzz_apply;

#[test]
fn seeds_do_no_harm() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz/tar");
    let mut count = 0;
    for seed in std::fs::read_dir(&seeds).unwrap() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("inner")).unwrap();
        fuzz_apply(&std::fs::read(seed.unwrap().path()).unwrap(), &scratch.path().join("inner"));
        let beside: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
        assert_eq!(beside.len(), 1);
        count += 1;
    }
    assert!(count > 5, "no seeds in {}", seeds.display());
}
