//! Which form images take, and which files tell what they are.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::switches::GoBool;
use crate::export::Squash;

/// The form of images, and files with their digests.
#[derive(Debug, Args)]
pub(crate) struct FormArguments {
    /// Annotation of the image, `[TYPE[[PLATFORM]][,…]:]KEY=VALUE`; a type is `manifest` (if none is named),
    /// `manifest-descriptor`, `index` or `index-descriptor`; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub(crate) annotations: Vec<String>,
    /// Make one layer of several: `new` for all that this build puts on the base image (if nothing is said), `all` for the base
    /// image as well, or lines of the Dockerfile (`4-9,12-15`) whose layers become one each. docker takes the bare flag
    /// and ignores it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "new", default_value = "false",
        value_name = "WHAT", hide_default_value = true)]
    pub(crate) squash: Squash,
    /// Leave the history out of the image's config
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true)]
    pub(crate) omit_history: bool,
    /// Have no file in new layers be later than the time of `--source-date-epoch`, as the attribute `rewrite-timestamp` of outputs does
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true)]
    pub(crate) rewrite_timestamp: bool,
    /// `--source-date-epoch` and `--rewrite-timestamp` at once
    #[arg(long, value_name = "SECONDS", conflicts_with = "source_date_epoch")]
    pub(crate) timestamp: Option<String>,
    /// Write the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) digest_file: Option<PathBuf>,
    /// Write `NAME@DIGEST` to a file, a line for each name
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_with_digest_file: Option<PathBuf>,
    /// Write `NAME:TAG@DIGEST` to a file, a line for each name
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_tag_with_digest_file: Option<PathBuf>,
}

impl FormArguments {
    /// Whether files are to have no later time.
    pub(crate) fn rewrites_timestamps(&self) -> bool {
        self.rewrite_timestamp || self.timestamp.is_some()
    }
}
