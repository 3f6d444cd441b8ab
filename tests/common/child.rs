//! The helper program of the tests.
fn main() {}
