//! Path patterns as moby matches them.
