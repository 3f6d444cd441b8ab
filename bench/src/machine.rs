//! The machine of a run, and the versions of the packages.

use std::collections::BTreeMap;
use std::process::Command;
use std::{fs, thread};

/// The packages with a version in the results. There are two versions of shared_child.
const PACKAGES: [&str; 5] = ["duct", "process-wrap", "shared_child", "subprocess", "tokio"];

/// Describes the machine.
pub(crate) fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|output| output.stdout).unwrap_or_default();
    let (kernel, rustc) = (kernel.trim(), String::from_utf8_lossy(&rustc));
    format!("{cpu}, {cores} cores, {memory}, Linux {kernel}, {}", rustc.trim())
}

/// Returns the value of a line `name: value`.
pub(crate) fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the peak memory of this process.
pub(crate) fn peak_memory() -> Option<usize> {
    let kilobytes: usize =
        field("/proc/self/status", "VmHWM")?.strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Returns the versions in `Cargo.lock`. This crate's own is under `this crate`.
pub(crate) fn versions() -> BTreeMap<String, String> {
    let packages = include_str!("../../Cargo.lock").split("[[package]]\n").filter_map(|package| {
        let value = |key: &str| Some(package.split_once(key)?.1.split_once('"')?.0);
        let name = PACKAGES.into_iter().find(|it| value("name = \"") == Some(it))?;
        // Only packages of a registry have a source.
        let ours = name == "shared_child" && !package.contains("\nsource = ");
        let name = if ours { "this crate" } else { name };
        Some((name.to_owned(), value("version = \"")?.to_owned()))
    });
    packages.collect()
}
