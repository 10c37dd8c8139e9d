//! The identifiers of what is stored.

use std::fmt;

/// The key of a cache record: 32 bytes that the store does not interpret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a snapshot in its store: 16 hexadecimal digits, which are also the name of its directory. Short,
/// because the mount(2) of old kernels takes one page for all directories of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub(crate) i64);

impl SnapshotId {
    /// The snapshot of a directory's name, if it is one.
    pub(crate) fn from_directory_name(name: &str) -> Option<Self> {
        if name.len() != 16 {
            return None;
        }
        u64::from_str_radix(name, 16).ok().map(|number| Self(number.cast_signed()))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_is_read_back() {
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            let id = SnapshotId(number);
            assert_eq!(SnapshotId::from_directory_name(&id.to_string()), Some(id));
        }
        for name in ["", "1", "00000000000000000", "zzzzzzzzzzzzzzzz", "000000000000000é"] {
            assert_eq!(SnapshotId::from_directory_name(name), None, "{name}");
        }
    }
}
