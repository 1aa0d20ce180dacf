//! Files read as they were written, and damaged ones.

use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::{ALIGNMENT, CheckedParts, Error, Sections, SegmentFile, after, header, write_file};

fn written(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(format!("{}.bin", std::fs::read_dir(folder.path()).unwrap().count()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn sections_are_aligned_and_end_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let numbers = [3u64, 5, 8];
    write_file(&path, &[&header(b"MAGICBYT", 4, 2, 9), bytemuck::cast_slice(&numbers), &[1], &[]]).unwrap();
    assert!(matches!(write_file(&path, &[]), Err(Error::Io { .. })));
    let file = SegmentFile::open(path).unwrap();
    file.check_header(b"MAGICBYT", 4, 2, 9).unwrap();
    assert!(matches!(file.check_header(b"MAGICBYT", 4, 2, 8), Err(Error::Damaged { .. })));
    assert!(matches!(file.check_format(b"OTHERONE", 4), Err(Error::Damaged { .. })));
    assert!(matches!(file.check_format(b"MAGICBYT", 5), Err(Error::Version { expected: 5, found: 4, .. })));
    let mut sections = Sections::new(&file, ALIGNMENT);
    let (first, second) = (sections.next::<u64>(3).unwrap(), sections.next::<u8>(1).unwrap());
    sections.finish().unwrap();
    assert_eq!(file.section::<u64>(&first), numbers);
    assert_eq!(file.numbers::<u64>(ALIGNMENT, 3).unwrap(), numbers);
    assert_eq!(file.section::<u8>(&second), [1]);
    assert_eq!(second.start, after(ALIGNMENT, 3, 8).unwrap());
    assert!(file.numbers::<u64>(ALIGNMENT + 1, 1).is_err() && file.numbers::<u64>(ALIGNMENT, usize::MAX).is_err());
    assert!(Sections::new(&file, ALIGNMENT).next::<u64>(usize::MAX).is_err());
    let mut one = Sections::new(&file, ALIGNMENT);
    one.next::<u64>(3).unwrap();
    assert!(matches!(one.finish(), Err(Error::Damaged { .. })));
    assert_eq!(after(usize::MAX - 3, 1, 1), None);
}

#[test]
fn parts_are_checked_when_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let parts: [&[u8]; 3] = [&[1, 2, 3], &[], &[4]];
    let checksums: Vec<u64> = parts.iter().map(|part| xxh3_64(part)).collect();
    let lengths = || parts.iter().map(|part| part.len() as u64);
    let bytes = [&[0; 8][..], &parts.concat()].concat();
    let open = |bytes: &[u8]| SegmentFile::open(written(&folder, bytes)).unwrap();
    let checked = CheckedParts::new(open(&bytes), 8, lengths(), checksums.clone()).unwrap();
    for _ in 0..2 {
        for (i, part) in parts.iter().enumerate() {
            assert_eq!(checked.part(i).unwrap(), *part);
        }
    }
    let mut flipped = bytes.clone();
    flipped[11] ^= 1;
    let flipped = CheckedParts::new(open(&flipped), 8, lengths(), checksums.clone()).unwrap();
    assert_eq!(flipped.part(0).unwrap(), parts[0]);
    assert!(matches!(flipped.part(2), Err(Error::Damaged { .. })));
    for (bytes, lengths, checksums) in [
        (&bytes[..11], vec![3, 0, 1], checksums.clone()),
        (&bytes, vec![3, 0, 2], checksums.clone()),
        (&bytes, vec![u64::MAX, 3, 1], checksums.clone()),
        (&bytes, vec![3, 0, 1], checksums[..2].to_vec()),
    ] {
        assert!(matches!(CheckedParts::new(open(bytes), 8, lengths, checksums), Err(Error::Damaged { .. })));
    }
    assert!(matches!(SegmentFile::open(folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn an_empty_file_is_no_header() {
    let folder = tempfile::tempdir().unwrap();
    let file = SegmentFile::open(written(&folder, &[])).unwrap();
    assert!(matches!(file.check_format(b"MAGICBYT", 1), Err(Error::Damaged { .. })));
}
