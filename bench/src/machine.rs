//! What the figures were measured on, and of which versions.

use serde_json::{Map, Value, json};
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

/// Whose versions are told, by the names of the packages. There are two of shared_child.
const PACKAGES: [&str; 8] = [
    "async-process",
    "duct",
    "process-wrap",
    "process_control",
    "shared_child",
    "subprocess",
    "tokio",
    "wait-timeout",
];

static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::find);

struct Machine {
    cpu: String,
    cores: usize,
    memory: String,
    kernel: String,
    rustc: String,
}

pub(crate) fn json() -> Value {
    let Machine { cpu, cores, memory, kernel, rustc } = &*MACHINE;
    json!({ "cpu": cpu, "cores": cores, "memory": memory, "kernel": kernel, "rustc": rustc })
}

pub(crate) fn text() -> String {
    let Machine { cpu, cores, memory, kernel, rustc } = &*MACHINE;
    format!("{cpu}, {cores} cores, {memory}, Linux {kernel}, {rustc}")
}

/// As they were locked when this was built.
pub(crate) fn versions() -> Value {
    let lock = include_str!("../../Cargo.lock");
    let quoted = |line: &str, key: &str| {
        let value = line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?;
        Some(value.to_owned())
    };
    let mut versions = Map::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let Some(name) = quoted(line, "name") else { continue };
        let version = lines.next().and_then(|line| quoted(line, "version"));
        if let Some(version) = version.filter(|_| PACKAGES.contains(&name.as_str())) {
            // Only what comes from a registry has a source: this crate has none.
            let is_ours = name == "shared_child" && !lines.next().is_some_and(is_source);
            let name = if is_ours { "this crate".to_owned() } else { name };
            versions.insert(name, version.into());
        }
    }
    versions.into()
}

fn is_source(line: &str) -> bool {
    line.starts_with("source = ")
}

impl Machine {
    fn find() -> Self {
        let cpu = field("/proc/cpuinfo", "model name").unwrap_or("an unknown CPU".into());
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kilobytes: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout);
        let rustc = String::from_utf8(rustc.unwrap_or_default()).unwrap_or_default();
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            memory: format!("{:.0} GiB", kilobytes / f64::from(1 << 20)),
            kernel: kernel.trim().to_owned(),
            rustc: rustc.trim().to_owned(),
        }
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_known() {
        let versions = versions();
        assert!(versions["this crate"].is_string());
        assert_eq!(versions["shared_child"], "1.1.2");
        for package in PACKAGES {
            assert!(versions[package].is_string(), "{package}");
        }
    }
}
