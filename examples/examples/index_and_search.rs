//! Index a folder and search it: `cargo run --example index_and_search -- FOLDER QUERY…`

use std::path::PathBuf;

use raglan::{Filter, Library};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "datasets/fixtures".into()));
    let query = args.collect::<Vec<_>>().join(" ");
    let query = if query.is_empty() { "ranking metrics".to_owned() } else { query };

    // Reads what is new or has changed, embeds it, and commits; the first time it fetches the encoder.
    let library = Library::open(&folder)?;
    let report = library.report();
    eprintln!("{} files found, {} chunks in the index", report.found, report.chunks);
    for skipped in &report.skipped {
        eprintln!("skipped {}: {}", skipped.path, skipped.reason);
    }

    // Only text documents; an empty filter means all.
    let filter = Filter { paths: vec!["**".into()], ..Filter::default() };
    for result in library.search(&query, 5, &filter)?.results {
        println!("{}. {} ({}), bytes {}–{}", result.rank, result.path, result.locator, result.start, result.end);
        println!("   {}", result.snippet.text.replace('\n', " "));
    }
    Ok(())
}
