//! A model from an ONNX file: its derived graphs and initial parameters.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use skein_graph::{Dim, ExternalData, Loss, Lowering, Shape, TensorKind};
use skein_types::{Digest, Layout, Parameter, counted};

use super::{Initializer, Model, computes_itself, feed, image_shape};
use crate::data::SampleKind;
use crate::identity::Identifier;
use crate::manifest::Manifest;
use crate::manifest::model::{ModelInit, ParameterInit};

/// The graphs of a model.
#[derive(Debug, Clone)]
pub struct Graphs {
    /// Computes the loss, every gradient and the new running statistics. Its batch size is fixed, because engines run
    /// it faster then.
    pub train: Graph,
    /// Computes the outputs of the model, for a batch of any size.
    pub evaluate: Graph,
}

/// A graph as an engine receives it.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Name by which functions load it.
    pub name: String,
    /// The graph as an ONNX file.
    pub onnx: Vec<u8>,
    /// All inputs, in the graph's order.
    pub inputs: Vec<GraphInput>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// About the memory of a run in bytes, without its inputs; of the graph for evaluation, a sample's part.
    pub peak_bytes: u64,
}

/// An input of a graph.
#[derive(Debug, Clone)]
pub struct GraphInput {
    /// Name in the graph.
    pub name: String,
    /// Sizes of its dimensions; `None` for the batch's size.
    pub shape: Vec<Option<u32>>,
    /// Shape and values of a parameter that is not trained.
    pub fixed: Option<(Vec<u32>, Arc<Vec<f32>>)>,
}

/// Name by which functions load the evaluation graph; the training graph's name adds `/train`.
const NAME: &str = "model";
/// Most bytes that a file of this format can hold.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// Reads a model's file and the files that hold its tensors.
///
/// # Errors
/// A file cannot be read, or is not a model that can be trained.
pub fn read(path: &Path) -> Result<(skein_graph::Model, Bytes)> {
    let source = read_all(path)?;
    Ok((source.model, source.bytes))
}

/// A model as it was read.
struct Source {
    model: skein_graph::Model,
    /// Content of its own file.
    bytes: Bytes,
    /// Names of all files that were read, the model's own first; empty if it comes with the program.
    files: Vec<PathBuf>,
    /// Hash of the tensors that lie in files of their own; `None` if there are none.
    external: Option<Digest>,
}

/// As [`read`], with everything that identifies the model.
fn read_all(path: &Path) -> Result<Source> {
    let failed = || format!("failed to read the model `{}`", path.display());
    let size = std::fs::metadata(path).with_context(failed)?.len();
    ensure!(
        size <= FILE_BYTES_MAX,
        "`{}` has {size} bytes, more than an ONNX file can hold: export it with its tensors in files of their own",
        path.display()
    );
    let bytes = Bytes::from(std::fs::read(path).with_context(failed)?);
    let folder = path.parent().unwrap_or(Path::new(""));
    let others = RefCell::new(BTreeSet::new());
    let hasher = RefCell::new(blake3::Hasher::new_derive_key("skein 2026-11 external tensors"));
    let model = skein_graph::Model::parse(bytes.clone(), &|data| {
        others.borrow_mut().insert(PathBuf::from(&data.location));
        let tensor = external(folder, data)?;
        hasher.borrow_mut().update(&data.length.to_le_bytes()).update(&tensor);
        Ok(tensor)
    });
    let model = model.with_context(|| format!("`{}` cannot be used as a model", path.display()))?;
    let others = others.into_inner();
    let external = (!others.is_empty()).then(|| Digest(*hasher.into_inner().finalize().as_bytes()));
    let files = path.file_name().map(PathBuf::from).into_iter().chain(others).collect();
    Ok(Source { model, bytes, files, external })
}

/// Part of a file beside the model. A path that leads out of the model's folder is refused: a model must not read other
/// files of this machine.
fn external(folder: &Path, data: &ExternalData) -> Result<Bytes, String> {
    let location = Path::new(&data.location);
    if !location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err("it leads out of the model's folder".into());
    }
    let path = folder.join(location);
    let hint = "it belongs beside the model: copy it there";
    let mut file = File::open(&path).map_err(|error| format!("{error}; {hint}"))?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if data.offset.checked_add(data.length).is_none_or(|end| end > size) {
        return Err(format!("it has {size} bytes, needs {} at offset {}", data.length, data.offset));
    }
    let mut bytes = vec![0; usize::try_from(data.length).map_err(|_| "it is too large".to_owned())?];
    let read = file.seek(SeekFrom::Start(data.offset)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

/// The network that comes with the program, for images of that shape.
///
/// # Errors
/// The samples are not images.
pub fn convolutional(shape: &[u32], classes: u32) -> Result<(skein_graph::Model, Bytes)> {
    let image = image_shape(shape).with_context(|| {
        format!("a convolutional network needs images, samples have shape {shape:?}: set `model.network = \"mlp\"`")
    })?;
    let bytes = Bytes::from(skein_graph::networks::convolutional(image, classes.into()));
    let none = |_: &ExternalData| Err("it has no other file".to_owned());
    Ok((skein_graph::Model::parse(bytes.clone(), &none)?, bytes))
}

/// The manifest's model, or the one that comes with the program.
pub(super) fn prepare(manifest: &Manifest, samples: &SampleKind, lowering: Lowering) -> Result<Model> {
    let settings = &manifest.model;
    let (source, start) = match &settings.onnx {
        Some(path) => {
            std::fs::metadata(path).with_context(|| manifest.data.unreadable("model.onnx", path))?;
            (read_all(path)?, settings.init.unwrap_or(ModelInit::File))
        }
        None => {
            let (model, bytes) = convolutional(&samples.shape, samples.classes)?;
            let source = Source { model, bytes, files: Vec::new(), external: None };
            (source, settings.init.unwrap_or(ModelInit::Kaiming))
        }
    };
    let mut identifier = Identifier::default();
    identifier.insert_digest("model.onnx", Digest(*blake3::hash(&source.bytes).as_bytes()));
    if let Some(external) = source.external {
        identifier.insert_digest("model.external_data", external);
    }
    identifier.insert_all("model.loss", &settings.loss.to_string());
    identifier.insert_all("model.dropout", &settings.dropout);
    identifier.insert_all("model.freeze", &settings.freeze.iter().collect::<BTreeSet<_>>());
    identifier.insert_all("model.init", &start);
    let name =
        settings.onnx.as_ref().map_or_else(|| "a convolutional network".into(), |path| path.display().to_string());
    let model = fitted(source.model, samples).with_context(|| format!("`{name}` does not fit the data"))?;
    // A function of the job's own may convert samples.
    let is_fed = !computes_itself(&manifest.train);
    if is_fed {
        feed::check_input(&model).with_context(|| format!("`{name}` does not fit the data"))?;
        feed::check_loss(settings.loss).with_context(|| format!("`{name}` cannot be trained"))?;
    }
    let options = skein_graph::Options {
        loss: settings.loss,
        lowering,
        dropout: settings.dropout,
        flat_outputs: true,
        frozen: settings.freeze.clone(),
    };
    let layout = layout(&model, &options.frozen);
    let sizes = BatchSizes { batch_size: manifest.train.batch_size, classes: samples.classes };
    let graphs = derive(&model, &options, sizes).with_context(|| format!("`{name}` cannot be trained"))?;
    if is_fed {
        feed::check_labels(&graphs.train.inputs).with_context(|| format!("`{name}` cannot be trained"))?;
    }
    let initial = initial(&model, &layout, start, manifest.train.seed);
    Ok(Model { layout, initial, graphs: Some(graphs), files: source.files, identifier, description: name })
}

/// The model with all sizes but the batch's set by the samples; its input has as many values as a sample.
fn fitted(model: skein_graph::Model, samples: &SampleKind) -> Result<skein_graph::Model> {
    let sample: Vec<i64> = samples.shape.iter().map(|size| i64::from(*size)).collect();
    let (name, shape) = model.inputs().next().context("the model has no input")?;
    let input: Option<Vec<i64>> = shape.iter().skip(1).map(Dim::fixed).collect();
    let Some(input) = input else { return Ok(model.with_sample_shape(&sample)?) };
    if can_be_read_as(&sample, &input) {
        return Ok(model);
    }
    let sorted = |shape: &[i64]| {
        let mut sizes = shape.to_vec();
        sizes.sort_unstable();
        sizes
    };
    let hint = if sorted(&sample) == sorted(&input) { ": transpose them, for images to channels first" } else { "" };
    bail!("its input `{name}` takes {}, the samples have the shape {sample:?}{hint}", text(shape));
}

/// Whether values of one shape are those of the other in the same order: sizes of 1 change nothing, and a flat vector has
/// no order of its own.
fn can_be_read_as(sample: &[i64], input: &[i64]) -> bool {
    let squeezed = |shape: &[i64]| shape.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
    let sample = squeezed(sample);
    let input = squeezed(input);
    let is_flat = sample.len() <= 1 || input.len() <= 1;
    sample == input || (is_flat && sample.iter().product::<i64>() == input.iter().product::<i64>())
}

pub(super) fn text(shape: &Shape) -> String {
    let sizes: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// Parameters that are trained, then running statistics.
fn layout(model: &skein_graph::Model, frozen: &[String]) -> Layout {
    let describe = |tensor: &skein_graph::Tensor| Parameter { name: tensor.name.clone(), shape: sizes(tensor) };
    let trained = model.parameters().iter().filter(|tensor| !skein_graph::is_frozen(frozen, &tensor.name));
    Layout::with_statistics(trained.map(describe).collect(), model.buffers().iter().map(describe).collect())
}

fn sizes(tensor: &skein_graph::Tensor) -> Vec<u32> {
    tensor.initial.dims().iter().map(|size| u32::try_from(*size).unwrap_or(u32::MAX)).collect()
}

/// Shapes and values of parameters that are not trained, from the file.
fn fixed(model: &skein_graph::Model, frozen: &[String]) -> BTreeMap<String, (Vec<u32>, Arc<Vec<f32>>)> {
    let tensors = model.parameters().iter().filter(|tensor| skein_graph::is_frozen(frozen, &tensor.name));
    let convert = |tensor: &skein_graph::Tensor| {
        Some((tensor.name.clone(), (sizes(tensor), Arc::new(tensor.initial.to_floats()?))))
    };
    tensors.filter_map(convert).collect()
}

/// Sizes of graphs that a job sets.
#[derive(Clone, Copy)]
struct BatchSizes {
    batch_size: u32,
    classes: u32,
}

/// Derives the training graph and the evaluation graph.
fn derive(model: &skein_graph::Model, options: &skein_graph::Options, sizes: BatchSizes) -> Result<Graphs> {
    let batch = batch_name(model)?;
    let sized = model.clone().with_sizes(&BTreeMap::from([(batch.clone(), sizes.batch_size.into())]))?;
    let training = sized.training_graph(options)?;
    let evaluation = model.evaluation_graph()?;
    check_sizes(&evaluation.inputs, &batch)?;
    if let Loss::CrossEntropy { .. } = options.loss {
        check_classes(&evaluation.outputs, sizes.classes)?;
    }
    let outputs = ["loss".to_owned()].into_iter();
    let outputs = outputs.chain(training.trained.iter().map(|name| format!("grad.{name}")));
    let outputs = outputs.chain(training.statistics.iter().map(|name| format!("new.{name}"))).collect();
    let fixed = fixed(model, &options.frozen);
    let train = Graph {
        name: format!("{NAME}/train"),
        inputs: inputs(&training.inputs, &fixed),
        onnx: training.onnx,
        outputs,
        peak_bytes: training.peak_bytes,
    };
    let evaluate = Graph {
        name: NAME.to_owned(),
        inputs: inputs(&evaluation.inputs, &fixed),
        onnx: evaluation.onnx,
        outputs: evaluation.outputs.iter().map(|(name, _)| name.clone()).collect(),
        peak_bytes: evaluation.peak_bytes,
    };
    Ok(Graphs { train, evaluate })
}

/// The name of the batch's size.
fn batch_name(model: &skein_graph::Model) -> Result<String> {
    let (name, shape) = model.inputs().next().context("the model has no input")?;
    let first = shape.first().with_context(|| format!("input `{name}` has no dimensions"))?;
    let symbol = first.symbols().next().map(str::to_owned);
    symbol.with_context(|| format!("input `{name}` has a fixed batch of {first}: export the model with a dynamic one"))
}

/// Checks that all sizes but the batch's are fixed.
fn check_sizes(inputs: &[(String, Shape)], batch: &str) -> Result<()> {
    for (name, shape) in inputs {
        if let Some(open) = shape.iter().find(|dim| dim.fixed().is_none() && dim.symbols().ne([batch])) {
            bail!(
                "input `{name}` of {} has the size `{open}`, which no sample determines: export it fixed",
                text(shape)
            );
        }
    }
    Ok(())
}

fn inputs(inputs: &[(String, Shape)], fixed: &BTreeMap<String, (Vec<u32>, Arc<Vec<f32>>)>) -> Vec<GraphInput> {
    let size = |dim: &Dim| dim.fixed().and_then(|size| u32::try_from(size).ok());
    let input = |(name, shape): &(String, Shape)| GraphInput {
        name: name.clone(),
        shape: shape.iter().map(size).collect(),
        fixed: fixed.get(name).cloned(),
    };
    inputs.iter().map(input).collect()
}

/// Values before the first round: the file's, or drawn from the seed.
fn initial(model: &skein_graph::Model, layout: &Layout, start: ModelInit, seed: u64) -> Vec<f32> {
    let tensors: BTreeMap<&str, &skein_graph::Tensor> =
        model.parameters().iter().chain(model.buffers()).map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut values = Vec::with_capacity(layout.len());
    for parameter in layout.parameters() {
        let tensor = tensors[parameter.name.as_str()];
        let scheme = match start {
            ModelInit::File => {
                values.extend(tensor.initial.to_floats().unwrap_or_default());
                continue;
            }
            ModelInit::Kaiming => ParameterInit::Kaiming,
            ModelInit::Xavier => ParameterInit::Xavier,
        };
        let count = parameter.len();
        let (init, fan_in) = match tensor.kind {
            TensorKind::Weight { fan_in } => (scheme, fan_in as f32),
            TensorKind::Scale | TensorKind::Variance => (ParameterInit::Ones, 1.0),
            TensorKind::Bias | TensorKind::Mean => (ParameterInit::Zeros, 1.0),
        };
        let fan_out = count as f32 / fan_in.max(1.0);
        values.extend(Initializer { name: &parameter.name, init, fan_in, fan_out, count }.draw(seed));
    }
    values
}

/// Checks that the model returns at least as many classes as the data has.
fn check_classes(outputs: &[(String, Shape)], classes: u32) -> Result<()> {
    let (name, shape) = outputs.first().context("the model has no output")?;
    let own = shape.last().and_then(Dim::fixed);
    ensure!(
        own.is_none_or(|own| own >= i64::from(classes)),
        "its output `{name}` has the shape {}, which is {} for each sample, and the data has {}: export the model with \
         one output for each class, or correct the labels, which count from 0, or `data.classes`",
        text(shape),
        counted(own.unwrap_or_default().unsigned_abs(), "output"),
        counted(classes, "class")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images with their channels last once trained a model that takes them first, without a word.
    #[test]
    fn only_samples_in_the_order_of_the_input_fit() {
        for (sample, input, fits) in [
            (&[8, 8][..], &[1, 8, 8][..], true),
            (&[64], &[1, 8, 8], true),
            (&[8, 8], &[64], true),
            (&[1, 3, 5], &[3, 5], true),
            (&[12, 12, 3], &[3, 12, 12], false),
            (&[4, 16], &[8, 8], false),
            (&[64], &[3, 8, 8], false),
        ] {
            assert_eq!(can_be_read_as(sample, input), fits, "{sample:?} as {input:?}");
        }
    }
}
