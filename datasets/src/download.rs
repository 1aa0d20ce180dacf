//! Collections by name, from where BEIR publishes them.
//!
//! A download that breaks off goes on where it stopped. The archive's SHA-256 is noted when it is first whole; a later
//! download of the same name must have the same, so that two machines that note one hash evaluate one collection.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Where BEIR's archives lie; each is `NAME.zip`, which unpacks to a folder `NAME`.
const SOURCE: &str = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets";

/// The collections that BEIR publishes as archives.
pub const NAMES: [&str; 15] = [
    "arguana",
    "climate-fever",
    "cqadupstack",
    "dbpedia-entity",
    "fever",
    "fiqa",
    "hotpotqa",
    "msmarco",
    "nfcorpus",
    "nq",
    "quora",
    "scidocs",
    "scifact",
    "trec-covid",
    "webis-touche2020",
];

/// More than any of the archives unpacks to, in bytes; a guard against an archive that would fill the disk.
const MOST_UNPACKED: u64 = 64 << 30;

/// Is told how a download goes; says no to end it.
pub type OnBytes<'a> = &'a mut dyn FnMut(u64, Option<u64>) -> bool;

/// The folder of a collection of BEIR in `shelf`, downloaded unless it is there.
///
/// `on_bytes` is told how many bytes of how many are here.
///
/// # Errors
///
/// [`Error::UnknownName`]; [`Error::Download`] when the source cannot be reached, breaks off or gives something else
/// than before, and when `on_bytes` says no: what came stays for the next time; [`Error::Io`].
pub fn beir(name: &str, shelf: &Path, on_bytes: OnBytes<'_>) -> Result<PathBuf> {
    if !NAMES.contains(&name) {
        return Err(Error::UnknownName { name: name.to_owned(), known: NAMES.join(", ") });
    }
    fetch(SOURCE, name, shelf, on_bytes)
}

fn fetch(source: &str, name: &str, shelf: &Path, on_bytes: OnBytes<'_>) -> Result<PathBuf> {
    let folder = shelf.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(shelf).map_err(io_error(shelf))?;
    let url = format!("{source}/{name}.zip");
    let part = shelf.join(format!("{name}.zip.part"));
    transfer(&url, &part, on_bytes)?;
    check(&url, &part, &shelf.join(format!("{name}.sha256")))?;
    let unpacking = shelf.join(format!("{name}.unpacking"));
    if unpacking.exists() {
        fs::remove_dir_all(&unpacking).map_err(io_error(&unpacking))?;
    }
    unpack(&url, &part, &unpacking)?;
    // Archives have one folder of the collection's name; what has not is taken as it is.
    let inner = unpacking.join(name);
    let whole = if inner.is_dir() { &inner } else { &unpacking };
    fs::rename(whole, &folder).map_err(io_error(&folder))?;
    if unpacking.exists() {
        fs::remove_dir_all(&unpacking).map_err(io_error(&unpacking))?;
    }
    fs::remove_file(&part).map_err(io_error(&part))?;
    Ok(folder)
}

/// Brings the rest of a file.
fn transfer(url: &str, part: &Path, on_bytes: OnBytes<'_>) -> Result<()> {
    let failed = |problem: String| Error::Download { url: url.to_owned(), problem };
    let present = fs::metadata(part).map_or(0, |file| file.len());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.get(url);
    if present > 0 {
        request = request.header("Range", format!("bytes={present}-"));
    }
    let mut response = request.call().map_err(|error| failed(error.to_string()))?;
    let (status, length) = (response.status().as_u16(), response.body().content_length());
    let mut have = match status {
        200 => 0,
        206 => present,
        416 => return Ok(()), // Nothing is behind the end: the file was whole.
        _ => return Err(failed(format!("the source answers with status {status}"))),
    };
    let total = length.map(|rest| have + rest);
    let mut file = OpenOptions::new().create(true).append(have > 0).write(true).truncate(have == 0).open(part);
    let file = file.as_mut().map_err(|error| io_error(part)(io::Error::new(error.kind(), error.to_string())))?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = body.read(&mut buffer).map_err(|error| {
            failed(format!("broke off after {have} bytes: {error}; the next try goes on from there"))
        })?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(io_error(part))?;
        have += n as u64;
        if !on_bytes(have, total) {
            return Err(failed(format!("stopped after {have} bytes; the next try goes on from there")));
        }
    }
    match total {
        Some(total) if have != total => {
            Err(failed(format!("broke off after {have} of {total} bytes; the next try goes on from there")))
        }
        _ => Ok(()),
    }
}

/// Compares the archive's SHA-256 with the one that was noted, or notes it.
fn check(url: &str, part: &Path, note: &Path) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut file = File::open(part).map_err(io_error(part))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(io_error(part))? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    match fs::read_to_string(note) {
        Ok(noted) if noted.trim() == found => Ok(()),
        Ok(noted) => {
            fs::remove_file(part).map_err(io_error(part))?;
            let problem = format!(
                "its SHA-256 is {found}, and was {} before; remove `{}` to accept the new one",
                noted.trim(),
                note.display()
            );
            Err(Error::Download { url: url.to_owned(), problem })
        }
        Err(_) => fs::write(note, format!("{found}\n")).map_err(io_error(note)),
    }
}

/// Unpacks an archive into a folder, and nothing outside of it.
fn unpack(url: &str, archive: &Path, into: &Path) -> Result<()> {
    let spoilt = |problem: String| {
        // What is no archive does not become one by going on.
        let _ = fs::remove_file(archive);
        Error::Download { url: url.to_owned(), problem: format!("{problem}; it will be fetched anew") }
    };
    let file = File::open(archive).map_err(io_error(archive))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|error| spoilt(format!("no ZIP archive: {error}")))?;
    let mut left = MOST_UNPACKED;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(|error| spoilt(error.to_string()))?;
        let Some(name) = entry.enclosed_name() else {
            return Err(spoilt(format!("its entry {i} would lie outside of the folder")));
        };
        let path = into.join(name);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(io_error(&path))?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error(parent))?;
        }
        let mut out = File::create(&path).map_err(io_error(&path))?;
        let copied = io::copy(&mut (&mut entry).take(left), &mut out).map_err(|error| spoilt(error.to_string()))?;
        left -= copied;
        if left == 0 {
            return Err(spoilt("it unpacks to more than any collection".to_owned()));
        }
    }
    Ok(())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An archive of a small collection in a folder of its name.
    fn archive(text: &str) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        for (name, content) in
            [("tiny/corpus.jsonl", text), ("tiny/queries.jsonl", ""), ("tiny/qrels/test.tsv", "q\td\t1\n")]
        {
            zip.start_file(name, options).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    /// A server of one file that breaks off after so many bytes of each answer; its address, and the ranges asked for.
    fn serve(file: Vec<u8>, breaks_after: Vec<usize>) -> (String, Arc<Mutex<Vec<Option<usize>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        std::thread::spawn(move || {
            for breaks_after in breaks_after {
                let (mut stream, _) = listener.accept().unwrap();
                let mut from = None;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        from = Some(range.trim_end_matches('-').parse::<usize>().unwrap());
                    }
                }
                noted.lock().unwrap().push(from);
                let rest = &file[from.unwrap_or(0)..];
                let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&rest[..breaks_after.min(rest.len())]).unwrap();
            }
        });
        (address, asked)
    }

    #[test]
    fn a_download_goes_on_where_it_broke_off_and_comes_once() {
        let shelf = tempfile::tempdir().unwrap();
        let file = archive("{\"_id\": \"d\", \"text\": \"cache\"}\n");
        let (address, asked) = serve(file.clone(), vec![100, usize::MAX]);
        let broken = fetch(&address, "tiny", shelf.path(), &mut |_, _| true).unwrap_err().to_string();
        assert!(broken.contains("broke off after 100"), "{broken}");
        let mut last = (0, None);
        let folder = fetch(&address, "tiny", shelf.path(), &mut |have, total| {
            last = (have, total);
            true
        });
        let folder = folder.unwrap();
        assert_eq!(last, (file.len() as u64, Some(file.len() as u64)));
        assert_eq!(*asked.lock().unwrap(), [None, Some(100)]);
        assert_eq!(crate::beir::read_documents(&folder).unwrap()[0].text, "cache");
        // The server is gone by now.
        assert_eq!(fetch(&address, "tiny", shelf.path(), &mut |_, _| true).unwrap(), folder);
    }

    #[test]
    fn another_file_under_the_same_name_is_refused() {
        let shelf = tempfile::tempdir().unwrap();
        let (address, _) = serve(archive("{\"_id\": \"d\", \"text\": \"one\"}\n"), vec![usize::MAX]);
        let folder = fetch(&address, "tiny", shelf.path(), &mut |_, _| true).unwrap();
        fs::remove_dir_all(folder).unwrap();
        let (address, _) = serve(archive("{\"_id\": \"d\", \"text\": \"two\"}\n"), vec![usize::MAX]);
        let refused = fetch(&address, "tiny", shelf.path(), &mut |_, _| true).unwrap_err().to_string();
        assert!(refused.contains("was") && refused.contains("tiny.sha256"), "{refused}");
    }

    #[test]
    fn what_is_no_archive_is_an_error_and_not_kept() {
        let shelf = tempfile::tempdir().unwrap();
        let (address, _) = serve(b"<html>moved</html>".to_vec(), vec![usize::MAX]);
        let refused = fetch(&address, "tiny", shelf.path(), &mut |_, _| true).unwrap_err().to_string();
        assert!(refused.contains("no ZIP archive"), "{refused}");
        assert!(!shelf.path().join("tiny.zip.part").exists() && !shelf.path().join("tiny").exists());
    }

    #[test]
    fn a_name_that_beir_has_not_is_refused_with_those_it_has() {
        let refused = beir("scifacts", Path::new("nowhere"), &mut |_, _| true).unwrap_err().to_string();
        assert!(refused.contains("`scifacts`") && refused.contains("scifact, trec-covid"), "{refused}");
    }
}
