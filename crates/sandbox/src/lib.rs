//! One process in namespaces over a root file system.
