//! `skein model check`: prepares a model exactly as training does, and reports what it found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use skein_engine::Kind;
use skein_graph::{Lowering, Removed};
use skein_job::data::SampleKind;
use skein_job::manifest::Override;
use skein_job::model::{self, Graphs, exported_samples};
use skein_job::{Job, Manifest, Members};
use skein_peer::prepare::check;
use skein_types::{Layout, counted};

use super::super::compute::EngineChoice;
use super::super::job::{Set, file_as_model};
use crate::output::{Output, complain};

/// What a manifest says without a job: the defaults of everything.
const DEFAULTS: &str =
    "skein_manifest_version = 1\n[application]\nname = \"check\"\n[data]\nsource = \"builtin:digits\"\n";
/// Path of the manifest that no file holds, for errors.
const NO_FILE: &str = "skein.toml";
/// Convolutions that a warning names.
const NAMED_MAX: usize = 3;

/// Arguments of `skein model check`.
#[derive(clap::Args)]
pub(crate) struct Check {
    /// The forward model, an ONNX file [default: the manifest's]
    #[arg(required_unless_present = "from")]
    model: Option<PathBuf>,
    /// Manifest of the job that is to train the model: checks it against the data as well
    #[arg(short, long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Samples of a batch, instead of `train.batch_size`
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    #[command(flatten)]
    set: Set,
    #[command(flatten)]
    engine: EngineChoice,
}

/// A model that can be trained.
struct Checked {
    layout: Arc<Layout>,
    graphs: Option<Graphs>,
    description: String,
    samples: SampleKind,
    batch: u32,
    /// The engine that compiled the graphs; `None` if there are none.
    engine: Option<Kind>,
    warnings: Vec<String>,
}

impl Check {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let checked = self.check()?;
        Ok(output.result(|| checked.text(self.model.as_deref()), || checked.json())?)
    }

    fn check(&self) -> Result<Checked> {
        let from = self.from.as_deref().unwrap_or(Path::new(NO_FILE));
        let overrides = self.overrides(from)?;
        let manifest = match &self.from {
            Some(from) => Manifest::load_with(from, &overrides)?,
            None => Manifest::parse_with(DEFAULTS, from, &overrides)?,
        };
        let config = self.engine.config();
        let mut empty_classes = None;
        let prepare = |lowering: &mut dyn FnMut() -> Result<Lowering>| {
            if self.from.is_some() {
                let members = Members::derived(&manifest.train, 0);
                let job = Job::prepare(&manifest, &members, lowering)?;
                empty_classes = job.empty_classes;
                return Ok((job.layout, job.graphs, job.model, job.samples));
            }
            let samples = exported_samples(manifest.model.onnx.as_deref().unwrap_or(from))?;
            let model = model::Model::prepare(&manifest, &samples, lowering)?;
            Ok((Arc::new(model.layout), model.graphs, model.description, samples))
        };
        let (prepared, engine) = check(&config, prepare, |prepared| (prepared.1.as_ref(), &prepared.0))?;
        let (layout, graphs, description, samples) = prepared;
        let mut warnings = manifest.model.onnx.as_deref().map_or_else(|| Ok(Vec::new()), removed_parts)?;
        warnings.extend(empty_classes);
        if samples.classes == 1 {
            warnings.push("one class: the cross-entropy of a single class is always 0, so nothing is learned".into());
        }
        let batch = manifest.train.batch_size;
        Ok(Checked { layout, graphs, description, samples, batch, engine, warnings })
    }

    fn overrides(&self, from: &Path) -> Result<Vec<Override>> {
        let model = self.model.as_ref().map(|file| file_as_model(file, from, "")).transpose()?;
        let batch = |batch| Override::new(["train", "batch_size"], i64::from(batch), format!("--batch {batch}"));
        Ok(model.into_iter().chain(self.batch.map(batch)).chain(self.set.values.clone()).collect())
    }
}

/// Warns of what an exporter seems to have removed from a job's model, before it is trained.
///
/// # Errors
/// The file cannot be read as a model.
pub(in crate::cli) fn warn_of_removed_parts(manifest: &Manifest) -> Result<()> {
    if let Some(file) = &manifest.model.onnx {
        removed_parts(file)?.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    }
    Ok(())
}

/// Warnings about parts of a model that its exporter seems to have removed.
///
/// # Errors
/// The file cannot be read as a model.
fn removed_parts(file: &Path) -> Result<Vec<String>> {
    const FIX: &str = "if the network has them, export it so that they stay: with PyTorch, `net.train()` before \
                       `torch.onnx.export(net, …, optimize=False)`";
    let (model, _) = model::read(file)?;
    let warning = |removed| match removed {
        Removed::Normalization { convolutions, no_dropout } => {
            let [what, both] = if no_dropout { [", no dropout", "both"] } else { ["", "it"] };
            format!(
                "no normalization{what}: exporters remove {both} from networks of convolutions, and this one has \
                 {convolutions}; {FIX}"
            )
        }
        Removed::Statistics { convolutions } => {
            let more = if convolutions.len() > NAMED_MAX { ", …" } else { "" };
            let named = convolutions.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>();
            format!(
                "no running statistics: a scale and a shift after {}{more} are what exporters leave of batch \
                 normalization; {FIX}",
                named.join(", ")
            )
        }
    };
    Ok(model.removed().into_iter().map(warning).collect())
}

impl Checked {
    /// Names of the training graph's outputs after `prefix`.
    fn outputs(&self, prefix: &str) -> Vec<&str> {
        let graphs = self.graphs.as_ref();
        graphs
            .into_iter()
            .flat_map(|graphs| &graphs.train.outputs)
            .filter_map(|name| name.strip_prefix(prefix))
            .collect()
    }

    /// Names of the nodes with dropout.
    fn dropout(&self) -> Vec<&str> {
        let graphs = self.graphs.as_ref();
        let inputs = graphs.into_iter().flat_map(|graphs| &graphs.train.inputs);
        inputs.filter_map(|input| input.name.strip_prefix("noise.")).collect()
    }

    fn text(&self, file: Option<&Path>) -> String {
        let Checked { layout, description, samples, batch, warnings, .. } = self;
        let statistics = self.outputs("new.").len();
        let trained = layout.parameters().len() - statistics;
        let mut text = format!(
            "`{description}` can be trained: {} in {}, {}, {}, on batches of {} of {:?} in {}\n",
            counted(layout.trained(), "parameter"),
            counted(trained, "tensor"),
            counted(statistics, "running statistic"),
            counted(self.dropout().len(), "dropout layer"),
            counted(*batch, "sample"),
            samples.shape,
            counted(samples.classes, "class")
        );
        warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
        if let Some(file) = file {
            let file = file.display();
            text += &format!("set `model.onnx = \"{file}\"` in `skein.toml`, or run `skein train --model {file}`\n");
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let Checked { layout, description, samples, batch, warnings, .. } = self;
        json!({
            "model": description,
            "parameters": layout.trained(),
            "trained": self.outputs("grad."),
            "statistics": self.outputs("new."),
            "dropout": self.dropout(),
            "batch": batch,
            "shape": samples.shape,
            "classes": samples.classes,
            "engine": self.engine.map(|engine| engine.name()),
            "warnings": warnings,
        })
    }
}
