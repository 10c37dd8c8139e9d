//! What goes away while the build goes on.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use cache::WorkDirs;

/// Counts the removals that are under way.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    under_way: Mutex<usize>,
    ended: Condvar,
}

/// One removal, for as long as it lasts.
struct Removal(Arc<Removals>);

impl Removals {
    /// Removes the directories on another thread of the runtime. On some file systems every removed directory waits for
    /// the disk, and the next step need not.
    pub(super) fn remove(self: &Arc<Self>, directories: WorkDirs) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let removal = Removal(Arc::clone(self));
        tokio::task::spawn_blocking(move || {
            drop(directories);
            drop(removal);
        });
    }

    /// Blocks until all that has been begun is done.
    pub(crate) fn wait(&self) {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.ended.wait_while(under_way, |count| *count > 0));
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}
