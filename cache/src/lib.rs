//! Everything that rbuild keeps on disk.

pub mod layer;
pub mod tree;
