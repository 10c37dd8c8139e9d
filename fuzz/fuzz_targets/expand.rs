//! Expands arbitrary bytes: a line that says how, variables, and a text. The body is an ordinary function that
//! `cargo test` replays on the seeds in `testdata/fuzz/expand`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontend::fuzz_expand(data));
