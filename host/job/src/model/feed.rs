//! Whether data sets can feed a model: every format has samples of 32-bit floats, each with one class.
//!
//! A job's own gradient function may convert samples as it likes, so this holds for the built-in one only.

use anyhow::{Context, Result, bail, ensure};
use skein_graph::{ElementType, Loss, Shape};

use super::onnx::{GraphInput, text};
use crate::data::SampleKind;

/// The fix for everything that the formats cannot provide.
const OWN_FUNCTION: &str = "or convert the samples in a gradient function of your own (`train.gradient`)";

/// Checks that the model has one input, of 32-bit floats.
pub(super) fn check_input(model: &skein_graph::Model) -> Result<()> {
    let mut inputs = model.input_types();
    let (name, ty) = inputs.next().context("the model has no input")?;
    if let Some((second, _)) = inputs.next() {
        bail!(
            "it has the inputs `{name}` and `{second}`, a sample of a data set feeds one: export it with one input, {OWN_FUNCTION}"
        );
    }
    ensure!(
        ty == ElementType::F32,
        "its input `{name}` has the type {}, data sets have float32 values: export it with a float32 input, \
         {OWN_FUNCTION}",
        name_of(ty)
    );
    Ok(())
}

/// Checks that the loss takes classes.
pub(super) fn check_loss(loss: Loss) -> Result<()> {
    ensure!(
        matches!(loss, Loss::CrossEntropy { .. }),
        "the loss `{loss}` takes numbers as targets, and every data format has classes: set `model.loss = \
         \"cross-entropy\"`, {OWN_FUNCTION}"
    );
    Ok(())
}

/// Checks that the loss takes one class for each sample of a batch, among the inputs of the training graph.
pub(super) fn check_labels(inputs: &[GraphInput]) -> Result<()> {
    let Some(labels) = inputs.iter().find(|input| input.name == "labels") else { return Ok(()) };
    ensure!(
        labels.shape.len() == 1,
        "the loss takes labels of the shape {:?} for a batch, and every data format has one class for each sample: export \
         the model with one row of logits for each sample, {OWN_FUNCTION}",
        labels.shape.iter().map(|size| size.unwrap_or(0)).collect::<Vec<_>>()
    );
    Ok(())
}

/// Samples for which a model was exported, if no data set says what they are.
///
/// # Errors
/// A size of the model's input is open.
pub(super) fn exported_for(model: &skein_graph::Model) -> Result<SampleKind> {
    let (name, shape) = model.inputs().next().context("the model has no input")?;
    let sizes = |shape: &Shape| {
        let sizes = shape.iter().skip(1).map(|size| size.fixed().and_then(|size| u32::try_from(size).ok()));
        sizes.collect::<Option<Vec<u32>>>()
    };
    let sample = sizes(shape).with_context(|| {
        format!(
            "the shape of its input `{name}`, {}, depends on the data: name the manifest of a job with `--from`",
            text(shape)
        )
    })?;
    let outputs = model.evaluation_graph()?.outputs;
    let logits = outputs.first().and_then(|(_, shape)| shape.last()?.fixed());
    // A classification has two classes at least.
    let classes = logits.and_then(|logits| u32::try_from(logits).ok()).unwrap_or(2);
    Ok(SampleKind { shape: if sample.is_empty() { vec![1] } else { sample }, classes })
}

fn name_of(ty: ElementType) -> &'static str {
    match ty {
        ElementType::F32 => "float32",
        ElementType::F64 => "float64",
        ElementType::I32 => "int32",
        ElementType::I64 => "int64",
        ElementType::U8 => "uint8",
        ElementType::Bool => "bool",
    }
}
