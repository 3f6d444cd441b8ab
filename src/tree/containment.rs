//! What a tree reports about its mechanism.

#[cfg(doc)]
use super::Tree;
use std::fmt;

/// Whether a process can leave a [`Tree`].
///
/// # Examples
///
/// ```
/// use shared_child::{Containment, Tree};
///
/// fn warn(tree: &Tree) {
///     if let Containment::BestEffort { by } = tree.containment() {
///         eprintln!("a determined process can escape from a {by}");
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// No process can leave the tree with the credentials that the child has. [`Tree`](Tree#which-processes-escape)
    /// lists what that does not cover: services that start processes at a member's request, and on Linux programs with
    /// set-user-ID or file capabilities.
    Complete {
        /// The mechanism that guarantees it.
        by: Mechanism,
    },
    /// A process can leave the tree. [`Tree`](Tree#which-processes-escape) lists how.
    BestEffort {
        /// The mechanism that holds the tree together.
        by: Mechanism,
    },
}

impl Containment {
    /// Returns whether this is [`Containment::Complete`].
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Containment, Mechanism};
    ///
    /// assert!(Containment::Complete { by: Mechanism::JobObject }.is_complete());
    /// assert!(!Containment::BestEffort { by: Mechanism::ProcessGroup }.is_complete());
    /// ```
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Complete { .. })
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete { by } => write!(f, "complete, by a {by}"),
            Self::BestEffort { by } => write!(f, "best effort, by a {by}"),
        }
    }
}

/// The mechanism that holds a [`Tree`] together.
///
/// # Examples
///
/// ```
/// assert_eq!(shared_child::Mechanism::ProcessGroup.to_string(), "process group");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mechanism {
    /// A Linux cgroup v2 of its own.
    Cgroup,
    /// A Windows job object.
    JobObject,
    /// A process group, and a scan of the process table for members that have left it.
    ProcessGroupAndScan,
    /// A process group.
    ProcessGroup,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::JobObject => "job object",
            Self::ProcessGroupAndScan => "process group and a scan",
            Self::ProcessGroup => "process group",
        })
    }
}
