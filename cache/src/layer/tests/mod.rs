//! Tests of layers: what is applied, what is written, and that the two are inverse to each other.

mod add;
mod apply;
mod archive_builder;
mod diff;
mod fuzz;
mod hostile;
mod listing;
mod round_trip;
