//! The names.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody: the same work without what is measured.
    Nobody,
    /// System calls, without any library.
    Raw,
    /// `std::process::Child`.
    Std,
    /// std, with a `pre_exec` hook, which has it fork.
    Hooked,
    /// std, where a timed wait is `try_wait` every ten milliseconds.
    Polling,
    /// This crate. Where sets take part, it is a set.
    Ours,
    /// This crate where it must do without a pidfd: timed waits take a helper thread a child.
    Fallback,
    /// This crate, spawning a tree.
    Tree,
    /// This crate's futures, as on any executor.
    Futures,
    /// This crate with sets of a hundred children.
    Few,
    /// shared_child 1.1.2.
    Peer,
    Duct,
    Subprocess,
    ProcessWrap,
    ProcessControl,
    WaitTimeout,
    Tokio,
    AsyncProcess,
}

impl Who {
    const ALL: [Self; 18] = [
        Self::Nobody,
        Self::Raw,
        Self::Std,
        Self::Hooked,
        Self::Polling,
        Self::Ours,
        Self::Fallback,
        Self::Tree,
        Self::Futures,
        Self::Few,
        Self::Peer,
        Self::Duct,
        Self::Subprocess,
        Self::ProcessWrap,
        Self::ProcessControl,
        Self::WaitTimeout,
        Self::Tokio,
        Self::AsyncProcess,
    ];

    /// Who can be waited for with a timeout.
    pub(crate) const TIMED: [Self; 10] = [
        Self::Raw,
        Self::Polling,
        Self::Ours,
        Self::Peer,
        Self::Duct,
        Self::Subprocess,
        Self::ProcessControl,
        Self::WaitTimeout,
        Self::Tokio,
        Self::AsyncProcess,
    ];

    /// Those that are this crate begin with its name: the plots go by that.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "without",
            Self::Raw => "raw calls",
            Self::Std => "std",
            Self::Hooked => "std, pre_exec",
            Self::Polling => "std, polling",
            Self::Ours => "this crate",
            Self::Fallback => "this crate, fallback",
            Self::Tree => "this crate, a tree",
            Self::Futures => "this crate, futures",
            Self::Few => "this crate, sets of 100",
            Self::Peer => "shared_child 1.1.2",
            Self::Duct => "duct",
            Self::Subprocess => "subprocess",
            Self::ProcessWrap => "process-wrap",
            Self::ProcessControl => "process_control",
            Self::WaitTimeout => "wait-timeout",
            Self::Tokio => "tokio",
            Self::AsyncProcess => "async-process",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|who| who.name() == name)
    }
}
