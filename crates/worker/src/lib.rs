//! What each vertex of a build graph does.
