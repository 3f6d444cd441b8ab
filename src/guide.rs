//! Pages to read, beside the documentation of the items.
//!
//! - [`cookbook`]: recipes for common tasks.
//! - [`migration`]: how to come from shared_child 1.1, `std::process::Child`, wait-timeout, duct, process-wrap,
//!   command-group, subprocess or tokio.
//! - [`traps`]: what goes wrong around child processes, why, and what remains for you to do.
//! - [`comparison`]: how this crate and others behave in hostile cases.
//! - [`costs`]: time and memory, compared with std and other crates.
//! - [`guarantees`]: the mechanisms of each platform, and what they can and cannot promise.
//!
//! The pages exist in the documentation alone. Code cannot use this module.

// The links of the pages require it.
#[allow(unused_imports)]
use crate::*;

/// Formats the target of a link to an item of this build.
macro_rules! here {
    ($name:literal, $path:literal) => {
        concat!("[", $name, "]: crate::", $path)
    };
}

/// Formats the target of a link to an item that only another platform has.
macro_rules! elsewhere {
    ($name:literal, $path:literal) => {
        concat!("[", $name, "]: https://docs.rs/shared_child/latest/", $path)
    };
}

/// Declares a page, with the targets of its links.
macro_rules! page {
    ($name:ident, $($part:literal),+) => {
        $(#[doc = include_str!($part)] #[doc = ""])+
        #[doc = here!("`ChildSet`", "ChildSet")]
        #[doc = here!("`wait_async`", "SharedChild::wait_async")]
        #[doc = here!("`stop_async`", "SharedChild::stop_async")]
        #[cfg_attr(unix, doc = here!("`stop_with`", "SharedChild::stop_with"))]
        #[cfg_attr(unix, doc = here!("`Tree::send_signal`", "Tree::send_signal"))]
        #[cfg_attr(unix, doc = here!("`ReapedElsewhere`", "unix::ReapedElsewhere"))]
        #[cfg_attr(
            not(unix),
            doc = elsewhere!("`stop_with`", "shared_child/struct.SharedChild.html#method.stop_with")
        )]
        #[cfg_attr(
            not(unix),
            doc = elsewhere!("`Tree::send_signal`", "shared_child/struct.Tree.html#method.send_signal")
        )]
        #[cfg_attr(
            not(unix),
            doc = elsewhere!("`ReapedElsewhere`", "shared_child/unix/struct.ReapedElsewhere.html")
        )]
        #[cfg_attr(target_os = "linux", doc = here!("cgroup", "linux::SpawnOptionsExt::cgroup"))]
        #[cfg_attr(
            target_os = "linux",
            doc = here!("`pidfd_from_child`", "linux::SpawnOptionsExt::pidfd_from_child")
        )]
        #[cfg_attr(
            not(target_os = "linux"),
            doc = elsewhere!("cgroup", "shared_child/linux/trait.SpawnOptionsExt.html#tymethod.cgroup")
        )]
        #[cfg_attr(
            not(target_os = "linux"),
            doc = elsewhere!(
                "`pidfd_from_child`",
                "shared_child/linux/trait.SpawnOptionsExt.html#tymethod.pidfd_from_child"
            )
        )]
        #[cfg_attr(
            windows,
            doc = here!("`creation_flags`", "windows::SpawnOptionsExt::creation_flags")
        )]
        #[cfg_attr(
            not(windows),
            doc = elsewhere!(
                "`creation_flags`",
                "x86_64-pc-windows-msvc/shared_child/windows/trait.SpawnOptionsExt.html"
            )
        )]
        pub mod $name {}
    };
}

page!(comparison, "../guide/comparison.md");
page!(cookbook, "../guide/cookbook.md");
page!(
    costs,
    "../guide/costs.md",
    "../plots/spawn.svg",
    "../plots/waiters.svg",
    "../plots/children.svg",
    "../plots/trees.svg",
    "../plots/capture.svg",
    "../plots/heap.svg"
);
page!(guarantees, "../guide/guarantees.md");
page!(migration, "../guide/migration.md");
page!(traps, "../guide/traps.md");

/// The README's code, compiled and run on the systems that have its commands.
#[cfg(all(doctest, target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[doc = include_str!("../README.md")]
struct Readme;
