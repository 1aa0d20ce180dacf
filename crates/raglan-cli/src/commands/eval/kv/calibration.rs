//! `raglan eval kv --calibrate`

use std::sync::atomic::Ordering;

use anyhow::Result;
use raglan::datasets::ContextQuestion;
use raglan::generate::ChatGenerator;
use raglan::{KvCalibrated, KvCalibration, KvEvaluationOptions, calibrate_kv};
use serde_json::json;

use super::print_rows;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(
    session: &Session,
    generator: &ChatGenerator,
    options: &KvEvaluationOptions,
    method: KvCalibrated,
    (set, questions): (&str, &[ContextQuestion]),
) -> Result<Outcome> {
    let name = session.settings.text("generator");
    let mut is_begun = false;
    let calibration = calibrate_kv(generator, questions, options, method, &mut |done, n| {
        if !is_begun {
            session.bars.count(n, "prompts");
            is_begun = true;
        }
        session.bars.done(done);
        !STOP.load(Ordering::Relaxed)
    });
    session.bars.clear();
    let calibration = calibration?;
    let path = session.models.calibrate(name, calibration.chosen)?;
    if session.json {
        output::json(&json!({ "set": set, "model": name, "calibration": calibration, "written": path }))?;
        return Ok(Outcome::Success);
    }
    let KvCalibration { chosen, tried, held_out } = &calibration;
    let n = |rows: &[raglan::KvRow]| output::count(rows.first().map_or(0, |row| row.prompts.len()), "prompt");
    println!("{set}, {name}: tried on {}", n(tried));
    print_rows(tried);
    println!("\nOn {} that were not chosen by:", n(held_out));
    print_rows(held_out);
    println!("\n{chosen}: `raglan ask --kv {method}` with {name} takes this from now on ({})", path.display());
    Ok(Outcome::Success)
}
