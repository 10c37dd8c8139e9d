//! Test doubles and probes for rbuild's crates: registries that are scripted or real, git repositories and their servers,
//! programs that must end in time, and ordinary users.
//!
//! What is deliberately absent: anything that a build needs. Whatever fails here panics, because only tests are waiting.

mod accept;
mod authority;
mod basic;
mod git;
mod layout;
mod process;
mod progress;
mod real_registry;
mod scripted_registry;
mod token_server;
mod user;

pub use authority::{Authority, Certificate};
pub use git::{GitDaemon, GitHttp, GitRepository};
pub use process::{run_with_timeout, set_times};
pub use progress::steps;
pub use real_registry::{RealAccess, RealRegistry, RealSettings};
pub use scripted_registry::{
    AuthPolicy, Fault, FaultKind, MountPolicy, ScriptedRegistry, SeenRequest, WebFile,
};
pub use token_server::TokenServer;
pub use user::TestUser;

use basic::{base64, basic};
