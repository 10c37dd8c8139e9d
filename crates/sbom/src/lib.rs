//! Which packages a file system has, and the SPDX document that says so.
//!
//! [`scan()`] walks [`Files`] once and reads what package managers leave in them: the databases of dpkg, apk and rpm, lock
//! files and metadata of languages, and what Go and Rust write into programs. [`document()`] makes an SPDX document of it
//! (version 2.3, JSON), the same bytes for the same packages.
//!
//! What is deliberately absent: where the files come from, networks (nothing is looked up that the files do not say), and
//! guesses: a file that belongs to no package manager is not told of.

mod document;
mod files;
mod languages;
mod license;
mod package;
mod purl;
mod scan;
mod systems;

pub use document::{DocumentOptions, document};
pub use files::{FileEntry, FileKind, Files, ReadSeek};
pub use package::{Distribution, Package};
pub use purl::PackageUrl;
pub use scan::{Inventory, Warning, scan};
