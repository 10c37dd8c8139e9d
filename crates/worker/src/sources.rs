//! Which versions of images, files and repositories a build takes: what their servers have at present, what was last
//! seen of them, or what a lock file says.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Digest;

/// When registries are asked what a tag is. What is named by its digest is never asked about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Always.
    #[default]
    Always,
    /// Only for tags that were never seen, or whose manifest is no longer in the store.
    Missing,
    /// Never: neither manifests nor layers come from a registry.
    Never,
    /// Always, but what was last seen will do if the registry does not answer.
    Newer,
}

/// What sources were found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceVersions {
    /// The digests of images (an index where there is one), by the whole reference with its tag.
    pub images: BTreeMap<String, Digest>,
    /// The digests of files, by their URL without password.
    pub files: BTreeMap<String, Digest>,
    /// What references of repositories are, by the repository's URL without password and the reference; no reference
    /// is the default branch.
    pub repositories: BTreeMap<(String, Option<String>), GitVersion>,
}

/// What a reference of a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitVersion {
    /// The commit, as 40 or 64 hexadecimal digits.
    pub commit: String,
    /// The tag object that leads to the commit, where there is one.
    pub tag: Option<String>,
    /// The whole name of the reference (`refs/heads/main`), where it has one.
    pub name: Option<String>,
}

/// Where the versions of sources come from.
#[derive(Debug, Clone, Default)]
pub struct SourcePolicy {
    /// When registries are asked.
    pub pull: PullPolicy,
    /// Whether no server at all is asked: what was last seen holds.
    pub offline: bool,
    /// What a lock file says, which has to name everything that is not pinned.
    pub locked: Option<SourceVersions>,
}

/// The sources of one build.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) policy: SourcePolicy,
    found: Mutex<SourceVersions>,
}

impl Sources {
    pub(crate) fn new(policy: SourcePolicy) -> Self {
        Self { policy, found: Mutex::default() }
    }

    /// What this build has found so far.
    pub(crate) fn versions(&self) -> SourceVersions {
        self.found().clone()
    }

    /// A thread that panicked leaves it whole, as every change is one insertion.
    pub(crate) fn found(&self) -> MutexGuard<'_, SourceVersions> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The option that keeps registries from being asked.
    pub(crate) fn forbids_registries(&self) -> Option<&'static str> {
        if self.policy.offline {
            return Some("--offline");
        }
        (self.policy.pull == PullPolicy::Never).then_some("--pull=never")
    }
}
