//! Looks for what breaks lint rules in arbitrary bytes, and fixes it. The body is an ordinary function that `cargo test`
//! replays on the seeds in `testdata/fuzz/dockerfile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontend::fuzz_lint(data));
