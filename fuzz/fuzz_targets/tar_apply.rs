//! Applies arbitrary bytes as a layer. The body is an ordinary function that `cargo test` replays on the seeds in
//! `testdata/fuzz/tar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    cache::layer::fuzz_apply(data, scratch.path());
});
