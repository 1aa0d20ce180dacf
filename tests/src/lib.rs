//! Behaviour across crates: the tests themselves are in `tests/tests/behaviour/`, one binary.
#![forbid(unsafe_code)]
