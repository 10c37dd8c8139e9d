//! Following links inside a tree.

/// Which links [`TreeView::resolve`](super::TreeView::resolve) follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All, the last component included.
    All,
    /// Those of the parents; a link as the last component stays.
    Parents,
}
