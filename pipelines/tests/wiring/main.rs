//! Pipelines that are wired wrongly do not compile, and the compiler says why in words of this crate.
//!
//! That they do not compile is shown by doc tests too; what exactly the compiler says differs between its versions, and
//! so this is compared only where `RAGLAN_COMPILER_MESSAGES` is set (written with Rust 1.95; `TRYBUILD=overwrite` writes
//! anew).

#[test]
fn miswired_pipelines_are_refused_with_readable_messages() {
    if std::env::var_os("RAGLAN_COMPILER_MESSAGES").is_none() {
        eprintln!("skipped: RAGLAN_COMPILER_MESSAGES is not set");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/wiring/does_not_compile/*.rs");
}
