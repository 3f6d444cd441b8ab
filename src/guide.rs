//! Pages to read, beside the documentation of the items.
//!
//! - [`cookbook`]: recipes for common tasks.
//! - [`migration`]: coming from shared_child 1.1, `std::process::Child`, duct, wait-timeout, process-wrap or tokio.
//! - [`traps`]: what goes wrong around child processes, why, and what is left to you.
//! - [`costs`]: what it takes, beside std and other crates, and where those take less.
//! - [`guarantees`]: what serves on which platform, and what that can and cannot promise.
//!
//! They are part of the documentation alone: in code there is no such module.

// For the links of the pages.
#[allow(unused_imports)]
use crate::*;

/// A page, with the targets of links to what is not everywhere.
macro_rules! page {
    ($name:ident, $($part:literal),+) => {
        $(#[doc = include_str!($part)] #[doc = ""])+
        #[doc = "[`ChildSet`]: crate::ChildSet"]
        #[doc = "[`wait_async`]: crate::SharedChild::wait_async"]
        #[doc = "[`stop_async`]: crate::SharedChild::stop_async"]
        #[cfg_attr(unix, doc = "[`stop_with`]: crate::SharedChild::stop_with")]
        #[cfg_attr(
            not(unix),
            doc = at_docs_rs!("`stop_with`", "struct.SharedChild.html#method.stop_with")
        )]
        #[cfg_attr(unix, doc = "[`Tree::send_signal`]: crate::Tree::send_signal")]
        #[cfg_attr(
            not(unix),
            doc = at_docs_rs!("`Tree::send_signal`", "struct.Tree.html#method.send_signal")
        )]
        #[cfg_attr(unix, doc = "[`ReapedElsewhere`]: crate::unix::ReapedElsewhere")]
        #[cfg_attr(
            not(unix),
            doc = at_docs_rs!("`ReapedElsewhere`", "unix/struct.ReapedElsewhere.html")
        )]
        #[cfg_attr(target_os = "linux", doc = "[cgroup]: crate::linux::SpawnOptionsExt::cgroup")]
        #[cfg_attr(
            not(target_os = "linux"),
            doc = at_docs_rs!("cgroup", "linux/trait.SpawnOptionsExt.html#tymethod.cgroup")
        )]
        #[cfg_attr(
            target_os = "linux",
            doc = "[`pidfd_from_child`]: crate::linux::SpawnOptionsExt::pidfd_from_child"
        )]
        #[cfg_attr(
            not(target_os = "linux"),
            doc = at_docs_rs!(
                "`pidfd_from_child`",
                "linux/trait.SpawnOptionsExt.html#tymethod.pidfd_from_child"
            )
        )]
        #[cfg_attr(
            windows,
            doc = "[`creation_flags`]: crate::windows::SpawnOptionsExt::creation_flags"
        )]
        #[cfg_attr(
            not(windows),
            doc = "[`creation_flags`]: https://docs.rs/shared_child/latest/x86_64-pc-windows-msvc/shared_child/windows/trait.SpawnOptionsExt.html"
        )]
        pub mod $name {}
    };
}

macro_rules! at_docs_rs {
    ($name:literal, $path:literal) => {
        concat!("[", $name, "]: https://docs.rs/shared_child/latest/shared_child/", $path)
    };
}

page!(cookbook, "../guide/cookbook.md");
page!(
    costs,
    "../guide/costs.md",
    "../plots/spawn.svg",
    "../plots/waiters.svg",
    "../plots/idle.svg",
    "../plots/children.svg",
    "../plots/trees.svg",
    "../plots/capture.svg",
    "../plots/heap.svg"
);
page!(guarantees, "../guide/guarantees.md");
page!(migration, "../guide/migration.md");
page!(traps, "../guide/traps.md");

/// The README's code is compiled, and run where it can be: where there is what it takes.
#[cfg(all(doctest, target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[doc = include_str!("../README.md")]
struct Readme;
