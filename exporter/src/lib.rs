//! Image assembly and outputs.
