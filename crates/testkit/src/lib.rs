//! Test doubles and probes for rbuild's crates.
