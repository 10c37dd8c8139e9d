//! All writes to the disk.
