//! Times an encoder and its token counter: `throughput <folder of the model> <text file> [threads] [products]`.
//!
//! Each line of the file that is not blank is a text; what of it is too long is cut. The best of three runs is shown,
//! loading left out.

use std::path::PathBuf;
use std::time::Instant;

use raglan_core::Encoder;
use raglan_embed::{EncoderConfig, SentenceEncoder, token_counter};
use raglan_model::Products;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(path)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        return Err("usage: throughput <folder of the model> <text file> [threads] [stored|f32|bf16|int8]".into());
    };
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let products = arguments.next().map_or(Ok(Products::default()), |products| products.parse())?;
    let file = std::fs::read_to_string(path)?;
    let counter = token_counter(&dir)?;
    let lines: Vec<&str> = file.lines().filter(|line| !line.trim().is_empty()).collect();
    let n_tokens = counter.count(&file)?;
    let seconds = best_of_three(|| counter.count(&file).map(|_| ()))?;
    println!("counter: {n_tokens} tokens, {:.1} MB/s", file.len() as f64 / 1e6 / seconds);

    let start = Instant::now();
    let config = EncoderConfig { products, ..EncoderConfig::for_model(&dir)? };
    let encoder = SentenceEncoder::load(&dir, config, threads)?;
    println!("load: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let seconds = best_of_three(|| encoder.encode_queries(&lines).map(|_| ()))?;
    println!(
        "encoder ({}) on {threads} threads: {} texts, {:.1} texts/s, {:.0} tokens/s",
        products.name(),
        lines.len(),
        lines.len() as f64 / seconds,
        (n_tokens + 2 * lines.len()) as f64 / seconds
    );
    Ok(())
}

fn best_of_three(mut run: impl FnMut() -> raglan_core::Result<()>) -> raglan_core::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
