//! The worker of this machine.
