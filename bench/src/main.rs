//! Measures this crate beside its peers, std and bare system calls:
//!
//! ```text
//! cargo run --release -p bench [-- --help]
//! ```

#[cfg(target_os = "linux")]
fn main() -> bench::Result<()> {
    bench::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The benchmark is for Linux only.");
}
