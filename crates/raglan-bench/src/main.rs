//! What the peer scripts call.
fn main() {}
