//! Advisory locks on keys, so that of several makers of one result only one works.

use crate::{RecordKey, Store, StoreError};

/// A claim that is held; given up when dropped, and when its process dies.
#[derive(Debug)]
pub struct KeyLock;

/// What [`Store::try_claim`] found.
#[derive(Debug)]
pub enum Claim {
    /// The key is ours until the lock is dropped.
    Acquired(KeyLock),
    /// Another holds it: another process, or another task of this one.
    Held {
        /// The process, where it is known.
        process: Option<u32>,
    },
}

impl Store {
    /// Claims `key` if nobody holds it.
    pub fn try_claim(&self, key: &RecordKey) -> Result<Claim, StoreError> {
        let _ = key;
        todo!()
    }

    /// Claims `key`, waiting for as long as another holds it. Whoever gets it should look the key up again.
    pub fn wait_claim(&self, key: &RecordKey) -> Result<KeyLock, StoreError> {
        let _ = key;
        todo!()
    }
}
