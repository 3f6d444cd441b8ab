//! Measures this crate, other libraries, std and plain system calls.

#[cfg(target_os = "linux")]
fn main() -> bench::Result<()> {
    bench::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
