//! The stat cache of build contexts.
