//! Steps of decoding, which come again and again with other contents: recorded once, then replayed.

use std::sync::PoisonError;

use raglan_kernels::AttentionMask;
use raglan_kernels::cuda::{Buffer, Graph, KvPages};

use super::attention::{Attention, Seeing};
use super::linear::{FEW_ROWS, Input};
use super::pass::{Pass, Rows};
use super::{DeviceWeights, wanted_logits};
use crate::decoder::{ForwardSequence, Forwarded, Weights};
use crate::{DecoderConfig, DecoderModel, Result};

/// Rows of a step at most: with more, what a launch takes is nothing beside what it does.
const MOST_ROWS: usize = 64;
/// Shapes of steps that are kept. A text that is written has one or two at a time, guesses one for each number of them.
const MOST_SHAPES: usize = 32;
/// Rows of all shapes that are kept, whose memory is mostly that of their logits.
const MOST_ROWS_KEPT: usize = 256;
/// Pages that a step has room for at least.
const FEWEST_PAGES: usize = 4;

/// How a model on a device takes its steps of decoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSteps {
    /// Whether they are recorded.
    pub recording: StepRecording,
    /// How many shapes of steps are recorded.
    pub n_recorded: usize,
    /// How many steps were taken by replaying one.
    pub n_replayed: u64,
}

/// Whether steps of decoding are recorded, to be replayed when they come again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StepRecording {
    /// Those that come a second time.
    #[default]
    On,
    /// None, as was asked for.
    Off,
    /// None any more, since the driver did not serve it. Steps are taken launch by launch, with the same results.
    Refused {
        /// What it said.
        problem: String,
    },
}

/// The steps that were taken last.
#[derive(Debug, Default)]
pub(super) struct Steps {
    recording: StepRecording,
    n_replayed: u64,
    /// The last one stands last.
    kept: Vec<Step>,
}

/// What does not change from a step to the next, and so decides the launches and where their operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    n_rows: usize,
    /// How many pages each row's text may have: a power of two, so that a text that grows seldom has another shape.
    room: usize,
    mask: AttentionMask,
    /// Whether the logits of all rows are wanted.
    logits: bool,
}

#[derive(Debug)]
struct Step {
    shape: Shape,
    pass: Pass,
    logits: Option<Buffer<f32>>,
    /// How it goes, once it came a second time.
    graph: Option<Graph>,
}

impl DecoderModel {
    /// How steps of decoding are taken, of a model that is on a device.
    pub fn device_steps(&self) -> Option<DeviceSteps> {
        let Weights::Device(weights) = &self.weights else { return None };
        let steps = weights.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let n_recorded = steps.kept.iter().filter(|step| step.graph.is_some()).count();
        Some(DeviceSteps { recording: steps.recording.clone(), n_recorded, n_replayed: steps.n_replayed })
    }

    /// The model without recorded steps: each is taken launch by launch, with the same results.
    pub fn without_recorded_steps(mut self) -> Self {
        if let Weights::Device(weights) = &mut self.weights {
            let steps = weights.steps.get_mut().unwrap_or_else(PoisonError::into_inner);
            *steps = Steps { recording: StepRecording::Off, ..Steps::default() };
        }
        self
    }
}

impl DeviceWeights {
    /// The shape of a step of decoding: all rows attend one by one, under one mask.
    pub(super) fn shape_of_step(
        &self,
        config: &DecoderConfig,
        sequences: &[ForwardSequence<'_>],
        rows: &Rows,
        seeing: &[Seeing<'_>],
    ) -> Option<Shape> {
        let n_rows = rows.len();
        let mask = seeing.first()?.mask;
        let alike = seeing.iter().all(|seeing| seeing.are_few(config) && seeing.mask == mask);
        // Blocks that are widened take the room of the widened ones, which no recording should hold.
        let most_rows = if self.has_blocks() { FEW_ROWS } else { MOST_ROWS };
        let room = seeing.iter().map(|seeing| seeing.pages.len()).max()?.next_power_of_two().max(FEWEST_PAGES);
        let logits = wanted_logits(sequences).into_iter().eq(0..n_rows);
        (alike && n_rows <= most_rows).then_some(Shape { n_rows, room, mask, logits })
    }

    /// [`forward`](Self::forward) of a step: the first of its shape as it is, the second so that it is recorded, others
    /// by replaying that.
    pub(super) fn step(
        &self,
        model: &DecoderModel,
        sequences: &[ForwardSequence<'_>],
        rows: &Rows,
        seeing: &[Seeing<'_>],
        shape: Shape,
        pages: &mut KvPages,
    ) -> Result<Vec<Forwarded>> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = steps.kept.iter().position(|step| step.shape == shape);
        // A step that fails is not kept.
        let mut step = match known {
            Some(at) => steps.kept.remove(at),
            None => Step::new(self, model, rows, shape, pages)?,
        };
        step.pass.set(model, rows, seeing, pages)?;
        steps.take(&mut step, known.is_some(), self, &model.config, pages)?;
        let forwarded = self.wanted(model, sequences, &step.pass, step.logits.as_ref())?;
        steps.keep(step);
        Ok(forwarded)
    }
}

impl Steps {
    /// Keeps a step as the last one, in place of those that were not taken for longest.
    fn keep(&mut self, step: Step) {
        self.kept.push(step);
        let too_many = |kept: &[Step]| {
            kept.iter().map(|step| step.shape.n_rows).sum::<usize>() > MOST_ROWS_KEPT || kept.len() > MOST_SHAPES
        };
        while too_many(&self.kept) {
            self.kept.remove(0);
        }
    }

    /// Takes a step whose contents are set.
    fn take(
        &mut self,
        step: &mut Step,
        is_known: bool,
        weights: &DeviceWeights,
        config: &DecoderConfig,
        pages: &mut KvPages,
    ) -> Result<()> {
        let device = &weights.device;
        let refused = |error: raglan_kernels::Error| {
            tracing::warn!(%error, "steps of decoding are taken launch by launch: the driver does not record them");
            StepRecording::Refused { problem: error.to_string() }
        };
        if let Some(graph) = &step.graph {
            match device.replay(graph) {
                Ok(()) => {
                    self.n_replayed += 1;
                    return Ok(());
                }
                Err(error) => (self.recording, step.graph) = (refused(error), None),
            }
        }
        let Step { pass, logits, graph, .. } = step;
        let mut work = || {
            pass.run(weights, config, pages)?;
            logits.as_mut().map_or(Ok(()), |logits| weights.output.apply(&Input::new(pass.normed()), logits))
        };
        if self.recording != StepRecording::On || !is_known {
            return Ok(work()?);
        }
        let reserve = device.rehearse(&mut work)?;
        match device.capture(reserve, &mut work) {
            Ok(recorded) => *graph = Some(recorded),
            Err(error) => self.recording = refused(error),
        }
        Ok(())
    }
}

impl Step {
    fn new(weights: &DeviceWeights, model: &DecoderModel, rows: &Rows, shape: Shape, pages: &KvPages) -> Result<Self> {
        let Shape { n_rows, room, mask, logits } = shape;
        let attention = Attention::one_by_one(&model.config, n_rows, room, mask, pages)?;
        let pass = Pass::new(model, &weights.device, rows, attention, pages.n_pages())?;
        let logits = logits.then(|| weights.device.filled(0, n_rows * model.config.vocab_size)).transpose()?;
        Ok(Self { shape, pass, logits, graph: None })
    }
}
