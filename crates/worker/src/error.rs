//! Why a vertex failed.

/// Why a vertex failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The build was cancelled while the step ran.
    #[error("cancelled")]
    Cancelled,
}
