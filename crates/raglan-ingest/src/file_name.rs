//! Names of files as text, without loss.

use std::path::{Component, Path, PathBuf};

/// Writes a relative path as text: `/` between its parts whatever the system.
///
/// Bytes that are not UTF-8 are written as `\xHH` and a backslash of the name itself as `\\`, so that
/// [`path_of`] gives the path back exactly.
pub fn name_of(relative: &Path) -> String {
    let mut name = String::new();
    for part in relative.components() {
        let Component::Normal(part) = part else { continue };
        if !name.is_empty() {
            name.push('/');
        }
        for chunk in part.as_encoded_bytes().utf8_chunks() {
            name.push_str(&chunk.valid().replace('\\', "\\\\"));
            for byte in chunk.invalid() {
                name.push_str(&format!("\\x{byte:02X}"));
            }
        }
    }
    name
}

/// Reads back what [`name_of`] wrote.
pub fn path_of(name: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', [b'\\', ..]) => {
                bytes.push(b'\\');
                rest = &after[1..];
            }
            (b'\\', [b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |hex: u8| char::from(hex).to_digit(16).expect("it is a hexadecimal digit") as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = &after[3..];
            }
            _ => bytes.push(byte),
        }
    }
    from_bytes(bytes)
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[track_caller]
    fn check(path: &[u8], name: &str) {
        let path = Path::new(OsStr::from_bytes(path));
        assert_eq!(name_of(path), name);
        assert_eq!(path_of(name), path);
    }

    #[test]
    fn names_are_written_without_loss() {
        check(b"a/b c.txt", "a/b c.txt");
        check("ä/☃.md".as_bytes(), "ä/☃.md");
        check(b"caf\xE9/x", "caf\\xE9/x");
        check(b"back\\slash\\xE9", "back\\\\slash\\\\xE9");
        check(b"line\nbreak", "line\nbreak");
    }
}
