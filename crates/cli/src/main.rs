//! The `magpie` binary.
fn main() {}
