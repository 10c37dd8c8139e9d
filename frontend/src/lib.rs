//! Dockerfile text to build graph and image config.
//!
//! [`parse()`] makes a tree of a text and tells everything that is wrong with it; [`lower()`] makes a
//! [`solver::Graph`] and an [`oci::ImageConfig`] of the tree, for the stages that the target needs. [`format()`] writes
//! a text in one way, whatever its blanks and capitals were.
//!
//! What is deliberately absent: files, registries, processes, the clock and the environment. Images become known
//! through the [`ImageResolver`] that the caller brings. Nothing here panics or recurses without a bound, whatever
//! the input.

mod boolean;
pub mod csv;
mod device;
mod diagnostic;
mod directive;
mod expand;
mod fix;
mod flags;
mod format;
mod fuzz;
mod git;
mod glob;
mod heredoc;
mod lines;
mod lint;
mod lower;
mod mount;
mod options;
mod outline;
mod parse;
mod quote;
mod source;
mod suggest;
mod tree;
mod words;

pub use boolean::go_bool;
pub use diagnostic::{Diagnostic, Severity};
pub use directive::Directives;
pub use fix::{Certainty, Edit, Fix, apply_fixes};
pub use format::format;
pub use fuzz::{fuzz_expand, fuzz_format, fuzz_lint, fuzz_parse};
pub use git::GitReference;
pub use heredoc::Heredoc;
pub use lint::Rule;
pub use lower::{check, lower, lower_before, lower_platforms, outline};
pub use options::{
    Before, Breakpoint, DeviceOptions, ImageRequest, ImageResolver, LowerOptions, Lowered, LoweredImage,
    LoweredPlatforms, NamedContext, NoCache, Place, RegisteredDevice, ResolveError, ResolvedImage,
    TimeSource,
};
pub use outline::{Outline, OutlineArgument, OutlineMount, Target, targets};
pub use parse::parse;
pub use quote::go_duration;
pub use source::{Position, SourceFile, Span};
pub use suggest::{Case, closest};
pub use tree::{
    Argument, Command, Copy, Dockerfile, EmptyContinuation, Instruction, InstructionKind, Pair, Run,
    RunDevice, RunMountOption, RunNetwork, Stage, Token,
};
