use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use raglan_store::{Error, Snapshot, Writer};

use crate::fixture::*;

#[test]
fn there_is_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    for second in [Writer::open_or_create(folder.path(), passport()), Writer::rebuild(folder.path(), passport())] {
        match second {
            Err(Error::Locked { holder, .. }) => assert_eq!(holder.pid, std::process::id()),
            other => panic!("{:?}", other.err()),
        }
    }
    Snapshot::open(folder.path()).unwrap();
    drop(writer);
    Writer::open_or_create(folder.path(), passport()).unwrap();
}

/// Each generation's files all say its number: a mix of two generations would show.
#[test]
fn readers_see_one_whole_generation_while_a_writer_writes_merges_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    let (done, n_read) = (AtomicBool::new(false), AtomicUsize::new(0));
    let generation = |n: usize| -> Vec<(String, String)> {
        (0..4).map(|file| (format!("f{file}"), format!("line of {n}\n").repeat(file + 1))).collect()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let snapshot = Snapshot::open(folder.path()).unwrap();
                    let texts = texts(&snapshot);
                    let n: Option<usize> =
                        texts.get("f0").map(|text| text.trim().rsplit(' ').next().unwrap().parse().unwrap());
                    assert_eq!(texts, n.map(|n| generation(n).into_iter().collect()).unwrap_or_default());
                    match contents(&snapshot) {
                        Ok(_) | Err(Error::Superseded { .. }) => {}
                        // A part's file that went after it was checked: its generation must have gone too.
                        Err(Error::Io { .. })
                            if Snapshot::open(folder.path()).unwrap().generation() > snapshot.generation() + 1 => {}
                        Err(error) => panic!("{error}"),
                    }
                    n_read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..60 {
            let files = generation(n);
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            index(&mut writer, &files).unwrap();
            if n % 3 == 0 {
                let ids: Vec<_> = writer.snapshot().segments().iter().map(|segment| segment.id).collect();
                merge(&mut writer, &ids).unwrap();
            }
            writer.gc().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(n_read.into_inner() > 10);
    assert_clean(writer.snapshot());
}
