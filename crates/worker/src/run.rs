//! RUN: one process in a sandbox over the snapshot of its input.
