//! ZIM files, in which Kiwix keeps encyclopedias for reading offline (openZIM's versions 5 and 6).
//!
//! A header says where four tables lie: media types, directory entries by address, titles, and clusters. An entry is a
//! redirect, or names a blob of a cluster; a cluster is as it is or compressed, with Zstandard or, in files of before 2021,
//! with xz. All numbers are little-endian. Files in several parts are not read; the file's checksum is not compared.
//!
//! Nothing that a file says of itself is believed: every place is compared with the file's length before it is read, and
//! what is unpacked has a bound.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use crate::{Error, PageEntry, PageName, Redirect, Result};

const MAGIC: u64 = 0x044D_495A;
const HEADER: usize = 80;
/// The most bytes of an address, of a title, and of the table of media types.
const MOST_NAME: u64 = 16 << 10;
/// The most bytes of a cluster when it is unpacked; writers end one at two million.
const MOST_UNPACKED: u64 = 128 << 20;
/// The most KiB that unpacking xz may take, which are about those of its dictionary; 64 MiB of it are xz's most by itself.
const MOST_XZ_KIB: u32 = (MOST_UNPACKED >> 10) as u32;
/// The most bytes of a page.
const MOST_PAGE: u64 = 64 << 20;
/// How many places of entries are read at a time.
const PLACES: usize = 8192;
/// What redirects have in place of a media type.
const REDIRECT: usize = 0xFFFF;

/// A page of a ZIM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZimPage {
    /// Its address in the file, such as `Jane_Austen`.
    pub path: String,
    /// Its title; where the file has none, the address.
    pub title: String,
    /// Its content, which the file says is HTML.
    pub html: Vec<u8>,
}

/// What is wrong with a ZIM file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZimProblem {
    /// It does not begin as such files do.
    #[error("it is not a ZIM file")]
    NoZim,
    /// It is of a version that is not known.
    #[error("it is of version {version}; versions 5 and 6 are read")]
    Version {
        /// The major version.
        version: u64,
    },
    /// It ends too early, or names a place outside of it.
    #[error("{what} at {at} is not within its {len} bytes")]
    Outside {
        /// What was looked for.
        what: &'static str,
        /// Where it should be, in bytes.
        at: u64,
        /// The file's length.
        len: u64,
    },
    /// A text does not end, or is not UTF-8.
    #[error("the {what} at {at} is not a text of at most {most} bytes")]
    Text {
        /// What it is.
        what: &'static str,
        /// Where it is, in bytes.
        at: u64,
        /// The most bytes that it may have.
        most: u64,
    },
    /// An entry names a cluster or a blob that there is not, or that does not lie within its cluster.
    #[error("blob {blob} of cluster {cluster} is not there")]
    NoBlob {
        /// The cluster.
        cluster: u32,
        /// The blob within it.
        blob: u32,
    },
    /// A redirect leads to an entry that there is not.
    #[error("entry {entry}, to which a redirect leads, is not there")]
    NoEntry {
        /// The entry.
        entry: u32,
    },
    /// A cluster is packed in a way that is not read.
    #[error("cluster {cluster} is compressed with {method}; Zstandard and xz are read: take a newer file")]
    Compression {
        /// The cluster.
        cluster: u32,
        /// The method.
        method: &'static str,
    },
    /// A cluster cannot be unpacked.
    #[error("cluster {cluster} cannot be unpacked: {problem}")]
    Packed {
        /// The cluster.
        cluster: u32,
        /// What the decoder says.
        problem: String,
    },
    /// A page or a cluster is larger than any should be.
    #[error("{what} in cluster {cluster} has more than {most} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The cluster.
        cluster: u32,
        /// The most bytes.
        most: u64,
    },
}

/// The pages of a ZIM file, its articles in HTML, and then its redirects.
///
/// Pages come cluster by cluster, so that each is unpacked once; the order is the same each time. One cluster is in memory
/// at a time, sixteen bytes a page, and eight a redirect.
#[derive(Debug)]
pub struct ZimPages {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the file is read next, in bytes.
    at: u64,
    len: u64,
    entries: Table,
    clusters: Table,
    pages: std::vec::IntoIter<PagePlace>,
    /// Where the directory entries of redirects are, in bytes.
    redirects: std::vec::IntoIter<u64>,
    /// The compressed cluster that was read last.
    unpacked: Option<(u32, Vec<u8>)>,
}

/// A table of places, of eight bytes each, all of which are within the file.
#[derive(Clone, Copy, Debug)]
struct Table {
    at: u64,
    n: u32,
}

/// Where a page is; in the order in which pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PagePlace {
    cluster: u32,
    blob: u32,
    /// Its directory entry, in bytes.
    entry: u64,
}

/// How a cluster is packed.
#[derive(Clone, Copy)]
enum Packing {
    Xz,
    Zstandard,
}

/// Why a file cannot be read on.
enum Failure {
    Problem(ZimProblem),
    Io(std::io::Error),
}

impl From<ZimProblem> for Failure {
    fn from(problem: ZimProblem) -> Self {
        Self::Problem(problem)
    }
}

impl ZimPages {
    /// Opens a file and finds its pages.
    ///
    /// # Errors
    ///
    /// [`Error::Zim`] when the header, a table or an entry is damaged; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut pages = Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(64 << 10, file),
            at: 0,
            len,
            entries: Table { at: 0, n: 0 },
            clusters: Table { at: 0, n: 0 },
            pages: Vec::new().into_iter(),
            redirects: Vec::new().into_iter(),
            unpacked: None,
        };
        pages.find().map_err(|failure| pages.error(failure))?;
        Ok(pages)
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Problem(problem) => Error::Zim { path: self.path.clone(), problem },
            Failure::Io(source) => Error::Io { path: self.path.clone(), source },
        }
    }

    /// Reads the header and the directory.
    fn find(&mut self) -> Result<(), Failure> {
        let mut header = [0; HEADER];
        self.read("the header", 0, &mut header)?;
        if number(&header[..4]) != MAGIC {
            return Err(ZimProblem::NoZim.into());
        }
        let version = number(&header[4..6]);
        if !(5..=6).contains(&version) {
            return Err(ZimProblem::Version { version }.into());
        }
        let entries = self.table("the table of entries", &header[24..28], &header[32..40])?;
        self.clusters = self.table("the table of clusters", &header[28..32], &header[48..56])?;
        let is_html = self.media_types(number(&header[56..64]))?;
        self.entries = entries;
        let (mut pages, mut redirects, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..u64::from(entries.n)).step_by(PLACES) {
            places.resize(8 * PLACES.min((u64::from(entries.n) - first) as usize), 0);
            self.read("the table of entries", entries.at + 8 * first, &mut places)?;
            for entry in places.chunks_exact(8).map(number) {
                // The media type, the parameters' length, the namespace, a revision, and where the content is.
                let mut head = [0; 8];
                self.read("an entry", entry, &mut head)?;
                let media_type = number(&head[..2]) as usize;
                if !is_of_articles(head) {
                    continue;
                }
                if media_type == REDIRECT {
                    redirects.push(entry);
                } else if is_html.get(media_type) == Some(&true) {
                    self.read("an entry", entry + 8, &mut head)?;
                    let [cluster, blob] = [&head[..4], &head[4..]].map(|four| number(four) as u32);
                    pages.push(PagePlace { cluster, blob, entry });
                }
            }
        }
        pages.sort_unstable();
        self.pages = pages.into_iter();
        self.redirects = redirects.into_iter();
        Ok(())
    }

    /// The table with this number of places, at this place.
    fn table(&self, what: &'static str, n: &[u8], at: &[u8]) -> Result<Table, Failure> {
        let (n, at) = (number(n) as u32, number(at));
        self.check(what, at, 8 * u64::from(n))?;
        Ok(Table { at, n })
    }

    /// Of each media type, whether it is HTML. An empty one ends the table. No table reaches the numbers that stand for
    /// redirects and other entries without content, which are 65,533 and above.
    fn media_types(&mut self, at: u64) -> Result<Vec<bool>, Failure> {
        let (mut is_html, mut end) = (Vec::new(), at);
        loop {
            let media_type = self.text("media type", end)?;
            end += media_type.len() as u64 + 1;
            if media_type.is_empty() {
                return Ok(is_html);
            }
            if end - at > MOST_NAME {
                return Err(ZimProblem::Text { what: "table of media types", at, most: MOST_NAME }.into());
            }
            let plain = media_type.split(';').next().unwrap_or_default();
            is_html.push(plain.trim().eq_ignore_ascii_case("text/html"));
        }
    }

    fn page(&mut self, PagePlace { cluster, blob, entry }: PagePlace) -> Result<ZimPage, Failure> {
        let path = self.text("address", entry + 16)?;
        let title = self.text("title", entry + 16 + path.len() as u64 + 1)?;
        let title = if title.is_empty() { path.clone() } else { title };
        Ok(ZimPage { path, title, html: self.blob(cluster, blob)? })
    }

    /// What a redirect says; none when it leads to what is no article.
    fn redirect(&mut self, entry: u64) -> Result<Option<Redirect>, Failure> {
        let mut four = [0; 4];
        self.read("an entry", entry + 8, &mut four)?;
        let from = self.text("address", entry + 12)?;
        let to = number(&four) as u32;
        if to >= self.entries.n {
            return Err(ZimProblem::NoEntry { entry: to }.into());
        }
        let mut place = [0; 8];
        self.read("the table of entries", self.entries.at + 8 * u64::from(to), &mut place)?;
        let to = number(&place);
        let mut head = [0; 8];
        self.read("an entry", to, &mut head)?;
        if !is_of_articles(head) {
            return Ok(None);
        }
        let head_len = if number(&head[..2]) as usize == REDIRECT { 12 } else { 16 };
        self.check("an entry", to, head_len)?;
        let to = self.text("address", to + head_len)?;
        Ok(Some(Redirect { from: PageName::Id(from), to: PageName::Id(to) }))
    }

    fn blob(&mut self, cluster: u32, blob: u32) -> Result<Vec<u8>, Failure> {
        if cluster >= self.clusters.n {
            return Err(ZimProblem::NoBlob { cluster, blob }.into());
        }
        let mut place = [0; 8];
        self.read("a cluster's place", self.clusters.at + 8 * u64::from(cluster), &mut place)?;
        let at = number(&place);
        let mut kind = [0];
        self.read("a cluster", at, &mut kind)?;
        let begin = at + 1;
        let width = if kind[0] & 0x10 == 0 { 4 } else { 8 };
        let refused = |method| Err(ZimProblem::Compression { cluster, method }.into());
        match kind[0] & 0x0F {
            0 | 1 => {
                let span = blob_span((cluster, blob), width, self.len - begin, |place| {
                    let mut bytes = [0; 8];
                    self.read("a blob's place", begin + place, &mut bytes[..width])?;
                    Ok(number(&bytes[..width]))
                })?;
                let mut content = vec![0; (span.end - span.start) as usize];
                self.read("a blob", begin + span.start, &mut content)?;
                Ok(content)
            }
            packed @ (4 | 5) => {
                let packing = if packed == 4 { Packing::Xz } else { Packing::Zstandard };
                let unpacked = self.unpack(cluster, begin, packing)?;
                let span = blob_span((cluster, blob), width, unpacked.len() as u64, |place| {
                    Ok(number(&unpacked[place as usize..][..width]))
                })?;
                Ok(unpacked[span.start as usize..span.end as usize].to_vec())
            }
            3 => refused("bzip2"),
            2 => refused("zlib"),
            _ => refused("an unknown method"),
        }
    }

    /// What a cluster holds whose one frame or stream begins there.
    fn unpack(&mut self, cluster: u32, at: u64, packing: Packing) -> Result<&[u8], Failure> {
        if self.unpacked.as_ref().is_none_or(|(there, _)| *there != cluster) {
            self.go_to("a cluster", at, 0)?;
            let mut unpacked = Vec::new();
            let mut read = |packed: &mut dyn Read| packed.take(MOST_UNPACKED + 1).read_to_end(&mut unpacked);
            let read = match packing {
                // The decoder has a bound of its own for what it keeps, of 2²⁷ bytes.
                Packing::Zstandard => {
                    zstd::Decoder::with_buffer(&mut self.file).and_then(|decoder| read(&mut decoder.single_frame()))
                }
                Packing::Xz => read(&mut XzReader::new_mem_limit(&mut self.file, false, MOST_XZ_KIB)),
            };
            self.at = self.file.stream_position().map_err(Failure::Io)?;
            let too_large = |what| ZimProblem::TooLarge { what, cluster, most: MOST_UNPACKED };
            read.map_err(|error| match error.kind() {
                ErrorKind::OutOfMemory => too_large("the dictionary"),
                _ => ZimProblem::Packed { cluster, problem: error.to_string() },
            })?;
            if unpacked.len() as u64 > MOST_UNPACKED {
                return Err(too_large("what is packed").into());
            }
            self.unpacked = Some((cluster, unpacked));
        }
        Ok(self.unpacked.as_ref().map(|(_, unpacked)| &**unpacked).expect("it was unpacked"))
    }

    /// A text that ends with a zero.
    fn text(&mut self, what: &'static str, at: u64) -> Result<String, Failure> {
        self.go_to(what, at, 1)?;
        let mut bytes = Vec::new();
        let n = self.file.by_ref().take(MOST_NAME).read_until(0, &mut bytes).map_err(Failure::Io)?;
        self.at += n as u64;
        let text = bytes.pop().filter(|last| *last == 0).and_then(|_| String::from_utf8(bytes).ok());
        Ok(text.ok_or(ZimProblem::Text { what, at, most: MOST_NAME })?)
    }

    fn read(&mut self, what: &'static str, at: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.go_to(what, at, bytes.len() as u64)?;
        self.file.read_exact(bytes).map_err(Failure::Io)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Goes to a place behind which there are so many bytes.
    fn go_to(&mut self, what: &'static str, at: u64, n: u64) -> Result<(), Failure> {
        self.check(what, at, n)?;
        // Lengths of files are below 2⁶³, so that both are.
        self.file.seek_relative(at as i64 - self.at as i64).map_err(Failure::Io)?;
        self.at = at;
        Ok(())
    }

    fn check(&self, what: &'static str, at: u64, n: u64) -> Result<(), Failure> {
        match at.checked_add(n) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(ZimProblem::Outside { what, at, len: self.len }.into()),
        }
    }
}

impl Iterator for ZimPages {
    type Item = Result<PageEntry<ZimPage>>;

    fn next(&mut self) -> Option<Result<PageEntry<ZimPage>>> {
        let next = match self.pages.next() {
            Some(place) => self.page(place).map(PageEntry::Page),
            None => loop {
                let entry = self.redirects.next()?;
                if let Some(redirect) = self.redirect(entry).transpose() {
                    break redirect.map(PageEntry::Redirect);
                }
            },
        };
        Some(next.map_err(|failure| self.error(failure)))
    }

    /// Counts all pages that are still to come, and redirects that may.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.pages.len(), Some(self.pages.len() + self.redirects.len()))
    }
}

/// Whether the beginning of an entry has the namespace of articles, which was `A` once; `C` has all that readers see.
fn is_of_articles(head: [u8; 8]) -> bool {
    matches!(head[3], b'A' | b'C')
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where a blob lies in a cluster of so many bytes, which begins with the places of its blobs and of its end. `place_at`
/// reads one.
fn blob_span(
    (cluster, blob): (u32, u32),
    width: usize,
    len: u64,
    mut place_at: impl FnMut(u64) -> Result<u64, Failure>,
) -> Result<Range<u64>, Failure> {
    let is_there = |is_there: bool| match is_there {
        true => Ok(()),
        false => Err(Failure::from(ZimProblem::NoBlob { cluster, blob })),
    };
    let width = width as u64;
    is_there(width <= len)?;
    // The first blob begins where the places end.
    let first = place_at(0)?;
    let place = width * u64::from(blob);
    is_there(first <= len && place + 2 * width <= first)?;
    let span = place_at(place)?..place_at(place + width)?;
    is_there(first <= span.start && span.start <= span.end && span.end <= len)?;
    if span.end - span.start > MOST_PAGE {
        return Err(ZimProblem::TooLarge { what: "a page", cluster, most: MOST_PAGE }.into());
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTML: u16 = 0;
    const CSS: u16 = 1;
    const REDIRECT: u16 = super::REDIRECT as u16;

    /// A directory entry: namespace, media type, cluster (of a redirect, the entry that it leads to), blob, address, title.
    type Entry = (u8, u16, u32, u32, &'static str, &'static str);

    fn xz(mut content: impl Read) -> Vec<u8> {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        std::io::copy(&mut content, &mut writer).unwrap();
        writer.finish().unwrap()
    }

    fn cluster(blobs: &[&[u8]], kind: u8) -> Vec<u8> {
        let width = if kind & 0x10 == 0 { 4 } else { 8 };
        let mut content = Vec::new();
        let mut end = width * (blobs.len() as u64 + 1);
        for length in [0].into_iter().chain(blobs.iter().map(|blob| blob.len() as u64)) {
            end += length;
            content.extend(&end.to_le_bytes()[..width as usize]);
        }
        content.extend(blobs.concat());
        let content = match kind & 0x0F {
            4 => xz(&*content),
            5 => zstd::encode_all(&*content, 3).unwrap(),
            _ => content,
        };
        [vec![kind], content].concat()
    }

    /// A file and where its parts begin: media types, table of entries, table of clusters, entries, clusters.
    fn zim(entries: &[Entry], clusters: &[Vec<u8>]) -> (Vec<u8>, [usize; 5]) {
        let media_types = b"text/html; charset=utf-8\0text/css\0\0";
        let entry = |&(namespace, media_type, cluster, blob, path, title): &Entry| {
            let mut bytes = media_type.to_le_bytes().to_vec();
            bytes.extend([0, namespace, 0, 0, 0, 0]);
            bytes.extend(cluster.to_le_bytes());
            if media_type != REDIRECT {
                bytes.extend(blob.to_le_bytes());
            }
            bytes.extend(format!("{path}\0{title}\0").as_bytes());
            bytes
        };
        let entries: Vec<Vec<u8>> = entries.iter().map(entry).collect();
        let parts = [media_types.len(), 8 * entries.len(), 8 * clusters.len(), entries.concat().len()];
        let mut places = [HEADER; 5];
        for (i, part) in parts.into_iter().enumerate() {
            places[i + 1] = places[i] + part;
        }
        let [media_types_at, entries_at, clusters_at, first_entry, first_cluster] = places.map(|place| place as u64);
        let mut file = MAGIC.to_le_bytes()[..4].to_vec();
        file.extend([6, 0, 1, 0]);
        file.extend([7; 16]);
        file.extend((entries.len() as u32).to_le_bytes());
        file.extend((clusters.len() as u32).to_le_bytes());
        for place in [entries_at, u64::MAX, clusters_at, media_types_at, u64::MAX, u64::MAX] {
            file.extend(place.to_le_bytes());
        }
        file.extend(media_types);
        for (parts, first) in [(&*entries, first_entry), (clusters, first_cluster)] {
            let mut place = first;
            for part in parts {
                file.extend(place.to_le_bytes());
                place += part.len() as u64;
            }
        }
        file.extend(entries.concat());
        file.extend(clusters.concat());
        (file, places)
    }

    /// Two plain clusters and three compressed ones, two of the five with long places.
    fn sample() -> (Vec<u8>, [usize; 5]) {
        let entries = [
            (b'A', HTML, 3, 1, "Aida", "Aida (opera)"),
            (b'A', REDIRECT, 0, 0, "Verdi's_Aida", ""),
            (b'C', HTML, 0, 1, "Emma", ""),
            (b'C', CSS, 0, 0, "style.css", ""),
            (b'C', HTML, 1, 0, "Li\u{e8}ge", ""),
            (b'C', HTML, 2, 0, "Nothing", "Empty"),
            (b'C', HTML, 4, 0, "Old", ""),
            (b'M', HTML, 2, 1, "Title", "metadata"),
        ];
        let clusters = [
            cluster(&[b"p {}", b"<p>Emma"], 1),
            cluster(&["<p>Li\u{e8}ge".as_bytes()], 5),
            cluster(&[b"", b"x"], 0x11),
            cluster(&[b"css", b"<p>Aida"], 0x15),
            cluster(&[b"<p>Old", b"and more"], 4),
        ];
        zim(&entries, &clusters)
    }

    fn read(bytes: &[u8]) -> Result<Vec<PageEntry<ZimPage>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wiki.zim");
        std::fs::write(&path, bytes).unwrap();
        ZimPages::open(&path)?.collect()
    }

    #[track_caller]
    fn problem(bytes: &[u8]) -> ZimProblem {
        match read(bytes) {
            Err(Error::Zim { path, problem }) if path.ends_with("wiki.zim") => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pages_come_from_plain_and_compressed_clusters() {
        let pages = read(&sample().0).unwrap();
        let told: Vec<_> = pages
            .iter()
            .filter_map(|entry| match entry {
                PageEntry::Page(page) => Some(page),
                PageEntry::Redirect(_) => None,
            })
            .map(|page| (page.path.as_str(), page.title.as_str(), std::str::from_utf8(&page.html).unwrap()))
            .collect();
        let expected = [
            ("Emma", "Emma", "<p>Emma"),
            ("Li\u{e8}ge", "Li\u{e8}ge", "<p>Li\u{e8}ge"),
            ("Nothing", "Empty", ""),
            ("Aida", "Aida (opera)", "<p>Aida"),
            ("Old", "Old", "<p>Old"),
        ];
        assert_eq!(told, expected);
        assert!(read(&zim(&[], &[]).0).unwrap().is_empty());
    }

    #[test]
    fn redirects_come_after_pages_and_lead_to_addresses() {
        let redirect = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|address| PageName::Id(address.to_owned()));
            PageEntry::Redirect(Redirect { from, to })
        };
        assert_eq!(read(&sample().0).unwrap()[5..], [redirect("Verdi's_Aida", "Aida")]);
        // To a redirect, to itself, to what is no article, and one that is none.
        let entries = |last| {
            [
                (b'C', REDIRECT, 1, 0, "a", "A"),
                (b'C', REDIRECT, 1, 0, "b", ""),
                (b'C', REDIRECT, 3, 0, "c", ""),
                (b'M', HTML, 0, 0, "Title", ""),
                (b'W', REDIRECT, last, 0, "mainPage", ""),
                (b'A', REDIRECT, last, 0, "d", ""),
            ]
        };
        let found = read(&zim(&entries(0), &[]).0).unwrap();
        assert_eq!(found, [redirect("a", "b"), redirect("b", "b"), redirect("d", "a")]);
        assert_eq!(problem(&zim(&entries(6), &[]).0), ZimProblem::NoEntry { entry: 6 });
    }

    #[test]
    fn more_entries_than_are_read_at_once_are_all_found() {
        // All have one content, in the order of their entries.
        let entries: Vec<Entry> = (0..PLACES + 3).map(|_| (b'C', HTML, 0, 0, "page", "")).collect();
        let pages = read(&zim(&entries, &[cluster(&[b"x"], 5)]).0).unwrap();
        assert!(pages.len() == PLACES + 3 && pages.iter().all(|page| *page == pages[0]));
    }

    #[test]
    fn a_file_that_is_cut_short_is_refused() {
        let (whole, [.., first_cluster]) = sample();
        let pages = read(&whole).unwrap();
        for len in 0..whole.len() {
            match read(&whole[..len]) {
                Ok(read) => panic!("{read:?} of {len} bytes"),
                Err(Error::Zim { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        // What lies before the cut is read until then.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wiki.zim");
        std::fs::write(&path, &whole[..first_cluster + 40]).unwrap();
        let mut cut = ZimPages::open(&path).unwrap();
        assert_eq!(cut.size_hint(), (5, Some(6)));
        assert_eq!(cut.next().unwrap().unwrap(), pages[0]);
        assert!(cut.any(|page| page.is_err()));
    }

    #[test]
    fn bytes_that_are_changed_give_errors_or_other_pages() {
        let (whole, _) = sample();
        for at in 0..whole.len() {
            for byte in [0x00, 0x7F, 0xFF, whole[at] ^ 1, whole[at].wrapping_add(1)] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _: Result<_> = read(&changed); // No panic, no endless loop, no more memory than a page may have.
            }
        }
    }

    #[test]
    fn places_beyond_the_file_are_told() {
        let (whole, [_, entries_at, clusters_at, first_entry, first_cluster]) = sample();
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = whole.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        };
        let len = whole.len() as u64;
        let outside = |what, at| ZimProblem::Outside { what, at, len };
        assert_eq!(problem(b"PK"), ZimProblem::Outside { what: "the header", at: 0, len: 2 });
        assert_eq!(problem(&with(0, b"PK")), ZimProblem::NoZim);
        assert_eq!(problem(&with(4, &[7])), ZimProblem::Version { version: 7 });
        let most = u64::MAX.to_le_bytes();
        assert_eq!(problem(&with(24, &most[..4])), outside("the table of entries", entries_at as u64));
        assert_eq!(problem(&with(28, &most[..4])), outside("the table of clusters", clusters_at as u64));
        assert_eq!(problem(&with(32, &most)), outside("the table of entries", u64::MAX));
        assert_eq!(problem(&with(48, &most)), outside("the table of clusters", u64::MAX));
        assert_eq!(problem(&with(56, &most)), outside("media type", u64::MAX));
        assert_eq!(problem(&with(entries_at, &most)), outside("an entry", u64::MAX));
        let end = (len - 4).to_le_bytes();
        assert_eq!(problem(&with(entries_at, &end)), outside("an entry", len - 4));
        assert_eq!(problem(&with(clusters_at, &most)), outside("a cluster", u64::MAX));
        assert_eq!(problem(&with(clusters_at, &len.to_le_bytes())), outside("a cluster", len));
        // The first entry's cluster and blob; its page is the last but for these.
        let no_blob = |cluster, blob| ZimProblem::NoBlob { cluster, blob };
        assert_eq!(problem(&with(first_entry + 8, &most[..4])), no_blob(u32::MAX, 1));
        assert_eq!(problem(&with(first_entry + 8, &[5, 0, 0, 0])), no_blob(5, 1));
        assert_eq!(problem(&with(first_entry + 12, &[2, 0, 0, 0])), no_blob(3, 2));
        assert_eq!(problem(&with(first_entry + 12, &most[..4])), no_blob(3, u32::MAX));
        // Of the first cluster: where its places end, where its second blob begins, and where that ends.
        for (place, value) in [(1, &most[..4]), (1, &[0; 4]), (5, &most[..4]), (5, &[1, 0, 0, 0]), (9, &most[..4])] {
            assert_eq!(problem(&with(first_cluster + place, value)), no_blob(0, 1), "{place} {value:?}");
        }
    }

    #[test]
    fn texts_must_end_and_be_utf_8() {
        let (mut whole, [.., first_entry, _]) = sample();
        let at = first_entry + 16;
        whole[at] = 0xFF;
        assert_eq!(problem(&whole), ZimProblem::Text { what: "address", at: at as u64, most: MOST_NAME });
        let (mut endless, _) = sample();
        let at = endless.len() as u64;
        endless[56..64].copy_from_slice(&at.to_le_bytes());
        endless.extend(vec![b'x'; 2 * MOST_NAME as usize]);
        assert_eq!(problem(&endless), ZimProblem::Text { what: "media type", at, most: MOST_NAME });
        let at = at as usize;
        endless[at..].chunks_exact_mut(2).for_each(|pair| pair[1] = 0);
        let table = ZimProblem::Text { what: "table of media types", at: at as u64, most: MOST_NAME };
        assert_eq!(problem(&endless), table);
    }

    #[test]
    fn what_is_not_unpacked_is_told() {
        let entry = [(b'C', HTML, 0, 0, "page", "")];
        let of = |cluster: Vec<u8>| zim(&entry, &[cluster]).0;
        for (kind, method) in [(3, "bzip2"), (2, "zlib"), (9, "an unknown method"), (0x13, "bzip2")] {
            let told = problem(&of(cluster(&[b"x"], kind)));
            assert_eq!(told, ZimProblem::Compression { cluster: 0, method });
            assert!(told.to_string().contains(method));
        }
        for kind in [4, 5] {
            let no_frame = [&[kind], &b"no frame"[..]].concat();
            assert!(matches!(problem(&of(no_frame)), ZimProblem::Packed { cluster: 0, .. }));
            let packed = cluster(&[&[7; 5000]], kind);
            assert!(matches!(problem(&of(packed[..packed.len() - 6].to_vec())), ZimProblem::Packed { .. }));
        }
        // A frame and a stream that end before their places do.
        for short in [[vec![5], zstd::encode_all(&[8, 0, 0][..], 3).unwrap()], [vec![4], xz(&[8, 0, 0][..])]] {
            assert_eq!(problem(&of(short.concat())), ZimProblem::NoBlob { cluster: 0, blob: 0 });
        }
    }

    #[test]
    fn what_is_too_large_is_not_held() {
        let entry = [(b'C', HTML, 0, 0, "page", "")];
        let zeros = || std::io::repeat(0).take(MOST_UNPACKED + 1);
        let too_large = |what| ZimProblem::TooLarge { what, cluster: 0, most: MOST_UNPACKED };
        for bomb in [[vec![5], zstd::encode_all(zeros(), 1).unwrap()], [vec![4], xz(zeros())]] {
            let bomb = bomb.concat();
            assert!(bomb.len() < 1 << 20);
            assert_eq!(problem(&zim(&entry, &[bomb]).0), too_large("what is packed"));
        }
        // A stream that wants a dictionary of 4 GiB less a byte: the size, 40, stands in the header of its block, behind
        // the header's length, flags, the filter's name and a length; the header's own checksum ends it.
        let mut greedy = xz(&b"x"[..]);
        assert_eq!(greedy[12..16], [2, 0, 0x21, 1]);
        greedy[16] = 40;
        let mut checksum = flate2::Crc::new();
        checksum.update(&greedy[12..20]);
        greedy[20..24].copy_from_slice(&checksum.sum().to_le_bytes());
        assert_eq!(problem(&zim(&entry, &[[vec![4], greedy].concat()]).0), too_large("the dictionary"));
        // A page of a plain cluster, in a file that is mostly a hole.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wiki.zim");
        let mut plain = cluster(&[b"x"], 0x10);
        plain[9..17].copy_from_slice(&(16 + MOST_PAGE + 1).to_le_bytes());
        std::fs::write(&path, zim(&entry, &[plain]).0).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * MOST_PAGE).unwrap();
        let told = ZimPages::open(&path).unwrap().next().unwrap();
        assert!(told.unwrap_err().to_string().contains("a page in cluster 0 has more than 67108864 bytes"));
    }
}
