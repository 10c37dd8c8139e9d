//! The binary from outside: what a user does, on real files, registries, namespaces and users.

mod bad_input;
mod caching;
mod concurrency;
mod contexts;
mod crash;
mod devices;
mod doctor;
mod escapes;
mod flushes;
mod interrupts;
mod lab;
mod logs;
mod looking;
mod memory;
mod mounts;
mod networks;
mod offline;
mod outputs;
mod registries;
mod remote;
mod rootless;
mod running;
mod secrets;
mod sharing;
mod ssh;
mod storage;
