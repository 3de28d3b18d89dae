//! A trained model as files that other programs read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, TensorView};
use skein_job::{Job, Manifest, model};

/// The values of every parameter and running statistic under its name, as a safetensors file.
///
/// # Errors
/// The format cannot hold a tensor.
pub fn safetensors(job: &Job, values: &[f32]) -> Result<Vec<u8>> {
    let mut views = Vec::new();
    for (name, shape, values) in named(job, values) {
        let shape = shape.iter().map(|size| *size as usize).collect();
        views.push((name, TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))?));
    }
    Ok(safetensors::serialize(views, None)?)
}

/// The model with these values as an ONNX file for evaluation.
///
/// # Errors
/// The model is not a graph, or its file cannot be read any more.
pub fn onnx(manifest: &Manifest, job: &Job, values: &[f32]) -> Result<Vec<u8>> {
    let first = &job.shares.values().next().context("a job has a peer")?.dataset;
    ensure!(job.graphs.is_some(), "the job's model is not a graph: export its values as `.safetensors`");
    let (_, file) = match &manifest.model.onnx {
        Some(path) => model::read(path)?,
        None => model::convolutional(first.shape(), first.classes())?,
    };
    let values: BTreeMap<String, Vec<f32>> =
        named(job, values).map(|(name, _, values)| (name.to_owned(), values.to_vec())).collect();
    Ok(skein_graph::trained_file(file, &values)?)
}

/// Name, shape and values of each tensor of the model.
fn named<'a>(job: &'a Job, values: &'a [f32]) -> impl Iterator<Item = (&'a str, &'a [u32], &'a [f32])> {
    let ranges = job.layout.parameters().iter().filter_map(|parameter| job.layout.find(&parameter.name));
    ranges.map(|(parameter, range)| (parameter.name.as_str(), &parameter.shape[..], &values[range]))
}
