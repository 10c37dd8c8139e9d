//! Dockerfile text to build graph and image config.
