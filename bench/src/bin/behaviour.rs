//! Prints how this crate and other libraries behave in hostile cases, as tables.

#[cfg(target_os = "linux")]
fn main() -> bench::Result<()> {
    bench::behaviour()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
