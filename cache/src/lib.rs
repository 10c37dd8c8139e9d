//! Everything that rbuild keeps on disk.
