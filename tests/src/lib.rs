//! Behaviour across crates: the tests themselves are in `tests/tests/`, one binary.
#![forbid(unsafe_code)]
