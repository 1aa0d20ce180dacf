//! `raglan eval report`

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use raglan::eval::{Metric, Report, ResultFile};
use serde_json::json;

use crate::args::EvalReportCommand;
use crate::commands::eval::diff::values_of;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &EvalReportCommand) -> Result<Outcome> {
    let EvalReportCommand { results, out, metric } = command;
    let metric: Metric = metric.parse()?;
    let read = |path: &PathBuf| {
        let result = ResultFile::read(path)?;
        values_of(&result, metric, path)?; // Here it still has its path.
        Ok(result)
    };
    let results: Vec<ResultFile> = results.iter().map(read).collect::<Result<_>>()?;
    let report = Report::new(&results, metric)?;
    fs::create_dir_all(out).with_context(|| format!("`{}` cannot be made", out.display()))?;
    let written = [("report.md", report.markdown()), ("report.html", report.html())];
    for (name, text) in &written {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    let paths = written.map(|(name, _)| out.join(name));
    if session.json {
        output::json(&json!({ "markdown": paths[0], "html": paths[1] }))?;
    } else {
        paths.iter().for_each(|path| println!("{}", path.display()));
    }
    Ok(Outcome::Success)
}
