//! The table of contents of an eStargz layer, as the stargz snapshotter reads it.

use std::collections::BTreeMap;

use serde::Serialize;

/// The member of the layer that the table is in.
pub(crate) const TOC_NAME: &str = "stargz.index.json";

/// What the table is: `stargz.index.json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Toc {
    version: u32,
    pub(crate) entries: Vec<TocEntry>,
}

/// A member of the layer, or a part of a file beyond its first. What is zero or empty is not written.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TocEntry {
    /// As in the archive.
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: EntryKind,
    /// Of a file.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    /// RFC 3339, in whole seconds.
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub(crate) modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gid: u64,
    /// Only with the first entry of an owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) group_name: String,
    /// Where the gzip member of the content begins in the layer.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_minor: u64,
    /// In base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) xattrs: BTreeMap<String, String>,
    /// Of a file: the digest of all of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    /// Where the part begins in the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_offset: u64,
    /// How long the part is; zero for one that goes to the end of the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_size: u64,
    /// The digest of the part.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) chunk_digest: String,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EntryKind {
    #[default]
    Reg,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
    /// A part of the file before it.
    Chunk,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Toc {
    /// The bytes of the file.
    pub(crate) fn json(mut self) -> serde_json::Result<Vec<u8>> {
        self.version = 1;
        let mut json = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut json, indented))?;
        Ok(json)
    }
}
