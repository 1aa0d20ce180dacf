//! The `raglan` command.
fn main() {}
