//! Choosing the parameters of a method for a model.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use raglan_datasets::ContextQuestion;
use raglan_generate::ChatGenerator;
use raglan_generate::reuse::ReuseMethod;
use serde::{Deserialize, Serialize};

use super::{KvCapture, KvEvaluationOptions, KvRow, evaluate_kv};
use crate::kept_kv::KV_DRIFT;
use crate::{Error, Result};

/// What a passage's recomputed share is multiplied by, at most all of it.
const ALPHAS: [f32; 8] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0];
/// Temperatures, and then scales (Yang et al. 2025, APE, look between 0 and 1).
const STEPS: [f32; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];
/// F1 that may be lost for a smaller recomputed share.
const F1_LOST: f64 = 0.01;

/// A method whose parameters are chosen by measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCalibrated {
    /// `alpha` of Cache-Craft: the least that is computed anew with an F1 that is at most .01 below that of computing
    /// all, and a divergence that `raglan ask` allows ([`KV_DRIFT`]); where nothing reaches that, what diverges least.
    CacheCraft,
    /// Temperature and scale of APE, one after the other: what diverges least.
    Parallel,
}

impl fmt::Display for KvCalibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CacheCraft => "cache-craft",
            Self::Parallel => "parallel",
        })
    }
}

impl FromStr for KvCalibrated {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::CacheCraft, Self::Parallel];
        all.into_iter()
            .find(|method| method.to_string() == text)
            .ok_or_else(|| format!("`{text}` has nothing to calibrate; cache-craft and parallel have"))
    }
}

/// What a choice was made by, and what was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvCalibration {
    /// The method with the parameters that were chosen.
    #[serde(serialize_with = "as_text")]
    pub chosen: ReuseMethod,
    /// What was tried on the questions that are for choosing, the full prompt and naive reuse first.
    pub tried: Vec<KvRow>,
    /// The full prompt, naive reuse, the chosen parameters and the usual ones on the other questions.
    pub held_out: Vec<KvRow>,
}

fn as_text<S: serde::Serializer>(method: &ReuseMethod, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(method)
}

/// Chooses a method's parameters on every second question, and measures the choice on the others.
///
/// Of `options`, methods and captures are not looked at; `n_prompts` are those of both halves. `on_prompt` is told how many prompts
/// are done of how many, and says whether to go on.
///
/// # Errors
///
/// As [`evaluate_kv`](super::evaluate_kv); [`Error::Generate`] when there are fewer than two questions.
pub fn calibrate_kv(
    generator: &ChatGenerator,
    questions: &[ContextQuestion],
    options: &KvEvaluationOptions,
    method: KvCalibrated,
    on_prompt: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<KvCalibration> {
    let asked = &questions[..questions.len().min(options.n_prompts)];
    let half = |rest: usize| asked.iter().skip(rest).step_by(2).cloned().collect::<Vec<_>>();
    let (validation, test) = (half(0), half(1));
    if test.is_empty() {
        let problem = "needs two questions at least, one to choose by and one to measure".to_owned();
        return Err(raglan_generate::Error::Option { option: "calibrate", problem }.into());
    }
    let n_rounds = if method == KvCalibrated::Parallel { 2 } else { 1 };
    let n_all = n_rounds * validation.len() + test.len();
    let mut n_before = 0;
    let mut measure = |questions: &[ContextQuestion], methods: Vec<ReuseMethod>| {
        // Blocks are captured as `raglan ask` captures them.
        let captures = vec![KvCapture::Prefix];
        let options = KvEvaluationOptions { methods, captures, n_prompts: questions.len(), ..options.clone() };
        let evaluation = evaluate_kv(generator, questions, &options, &mut |done| on_prompt(n_before + done, n_all))?;
        if evaluation.n_prompts < questions.len().min(options.n_prompts) {
            return Err(raglan_generate::Error::Interrupted.into());
        }
        let rows = evaluation.rows;
        n_before += questions.len();
        Ok::<_, Error>(rows)
    };
    let (chosen, tried, usual) = match method {
        KvCalibrated::CacheCraft => {
            let tried = measure(&validation, ALPHAS.map(|alpha| ReuseMethod::CacheCraft { alpha }).into())?;
            (chosen_alpha(&tried), tried, ReuseMethod::CacheCraft { alpha: 1.0 })
        }
        KvCalibrated::Parallel => {
            let methods = STEPS.map(|temperature| ReuseMethod::Parallel { temperature, scale: 1.0 });
            let mut tried = measure(&validation, methods.into())?;
            let ReuseMethod::Parallel { temperature, .. } = least_divergent(&tried[2..]) else {
                unreachable!("only that was tried")
            };
            let methods = STEPS[1..].iter().map(|&scale| ReuseMethod::Parallel { temperature, scale });
            // The full prompt and naive reuse come again.
            tried.extend(measure(&validation, methods.collect())?.into_iter().skip(2));
            (least_divergent(&tried[2..]), tried, ReuseMethod::Parallel { temperature: 0.9, scale: 0.9 })
        }
    };
    let held_out = measure(&test, vec![chosen, usual])?;
    Ok(KvCalibration { chosen, tried, held_out })
}

fn method_of(row: &KvRow) -> ReuseMethod {
    row.method.parse().expect("methods are read as they are written")
}

/// The method of the row with the least divergence, of equal ones the first.
fn least_divergent(rows: &[KvRow]) -> ReuseMethod {
    let best = rows.iter().min_by(|a, b| a.kl_mean.total_cmp(&b.kl_mean));
    method_of(best.expect("something was tried"))
}

/// The least that is computed with an F1 near that of the first row, which computes all, and near it.
fn chosen_alpha(rows: &[KvRow]) -> ReuseMethod {
    // A small model may have no F1 to lose.
    let enough = rows[2..].iter().filter(|row| row.f1 >= rows[0].f1 - F1_LOST && row.kl_mean <= KV_DRIFT);
    let cheapest = enough.min_by(|a, b| a.recompute_share.total_cmp(&b.recompute_share));
    cheapest.map_or_else(|| least_divergent(&rows[2..]), method_of)
}

/// What was chosen for a model, method by method, as `raglan ask` finds it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Chosen {
    /// By the method's name, the method with its parameters.
    methods: BTreeMap<String, String>,
}

/// The file of what was chosen for a model, among the models.
fn file_of(models: &Path, model: &str) -> PathBuf {
    models.join("kv-calibration").join(format!("{model}.json"))
}

fn read(path: &Path) -> Result<Chosen> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Chosen::default()),
        text => text.map_err(|source| Error::Io { path: path.to_owned(), source })?,
    };
    let problem = |e| format!("{e}; delete it, and choose anew by `raglan eval kv --calibrate METHOD`");
    serde_json::from_slice(&text).map_err(|e| Error::Malformed { path: path.to_owned(), problem: problem(e) })
}

/// A method with the parameters that were chosen for a model, if any were.
pub(crate) fn calibrated(models: &Path, model: &str, method: ReuseMethod) -> Result<Option<ReuseMethod>> {
    let path = file_of(models, model);
    let text = method.to_string();
    let name = text.split('=').next().expect("a text has a first part");
    let chosen = read(&path)?.methods.remove(name);
    let sound = |text: String| {
        let found: ReuseMethod = text.parse()?;
        Ok::<_, raglan_generate::Error>((text.split('=').next() == Some(name)).then_some(found))
    };
    let Some(chosen) = chosen else { return Ok(None) };
    match sound(chosen) {
        Ok(Some(method)) => Ok(Some(method)),
        wrong => {
            let problem = wrong.err().map_or_else(|| "it names another method".to_owned(), |e| e.to_string());
            let problem =
                format!("{name}: {problem}; delete it, and choose anew by `raglan eval kv --calibrate {name}`");
            Err(Error::Malformed { path, problem })
        }
    }
}

/// Writes down what was chosen for a model; gives the file.
pub(crate) fn write_calibrated(models: &Path, model: &str, method: ReuseMethod) -> Result<PathBuf> {
    let path = file_of(models, model);
    // What cannot be read would not be used either.
    let mut chosen = read(&path).unwrap_or_default();
    let text = method.to_string();
    let name = text.split('=').next().expect("a text has a first part").to_owned();
    chosen.methods.insert(name, text);
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let text = serde_json::to_string_pretty(&chosen).expect("texts can be written");
    let folder = path.parent().expect("the file is in a folder");
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&draft, text + "\n"))
        .and_then(|()| fs::rename(&draft, &path));
    written.map_err(|source| Error::Io { path: path.clone(), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_found_by_model_and_method() {
        let folder = tempfile::tempdir().unwrap();
        let (craft, parallel) =
            (ReuseMethod::CacheCraft { alpha: 1.0 }, ReuseMethod::Parallel { temperature: 0.9, scale: 0.9 });
        assert_eq!(calibrated(folder.path(), "a", craft).unwrap(), None);
        let half = ReuseMethod::CacheCraft { alpha: 0.5 };
        let path = write_calibrated(folder.path(), "a", half).unwrap();
        let cool = ReuseMethod::Parallel { temperature: 0.7, scale: 1.0 };
        assert_eq!(write_calibrated(folder.path(), "a", cool).unwrap(), path);
        assert_eq!(calibrated(folder.path(), "a", craft).unwrap(), Some(half));
        assert_eq!(calibrated(folder.path(), "a", parallel).unwrap(), Some(cool));
        assert_eq!(calibrated(folder.path(), "a", ReuseMethod::Naive).unwrap(), None);
        assert_eq!(calibrated(folder.path(), "b", craft).unwrap(), None);
        for text in [
            "",
            "{",
            "{}",
            r#"{"methods": {"cache-craft": "cache-craft=x"}}"#,
            r#"{"methods": {"cache-craft": "naive"}}"#,
        ] {
            fs::write(&path, text).unwrap();
            let told = calibrated(folder.path(), "a", craft).unwrap_err().to_string();
            assert!(told.contains("a.json") && told.contains("--calibrate"), "{text}: {told}");
        }
        write_calibrated(folder.path(), "a", half).unwrap();
        assert_eq!(calibrated(folder.path(), "a", craft).unwrap(), Some(half));
    }
}
