//! A build context as a tree: ignored paths left out, read in place.
