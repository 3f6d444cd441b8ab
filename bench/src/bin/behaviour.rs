//! How this crate and its peers behave in hostile cases, as tables:
//!
//! ```text
//! cargo run --release -p bench --bin behaviour [-- [--json FILE] [--runs N] [CASE…]]
//! ```

#[cfg(target_os = "linux")]
fn main() -> bench::Result<()> {
    bench::behaviour::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The cases are for Linux only.");
}
