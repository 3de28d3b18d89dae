//! `skein data`: what a data set holds, as training reads it.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use skein_job::Manifest;
use skein_job::data::Dataset;
use skein_job::data::contents::{Contents, Entry, Use};
use skein_job::manifest;
use skein_types::counted;

use super::job::Set;
use crate::output::Output;

/// Parts and classes that are shown to people; JSON has all.
const SHOWN_MAX: usize = 20;

/// Arguments of `skein data`.
#[derive(clap::Subcommand)]
pub(super) enum Data {
    /// Print the format, parts, shapes and classes of a data set, or of all data sets of a job
    Inspect(Inspect),
}

/// Arguments of `skein data inspect`.
#[derive(clap::Args)]
pub(super) struct Inspect {
    /// A file or folder that `data.source` could name, or `builtin:digits`
    #[arg(required_unless_present = "from", conflicts_with_all = ["from", "values"])]
    path: Option<PathBuf>,
    /// Labels of an idx file of images [default: found by the name of the images' file]
    #[arg(long, value_name = "PATH", conflicts_with = "from")]
    labels: Option<PathBuf>,
    /// Column of a CSV file that holds the label [default: the last one]
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    label_column: Option<String>,
    /// A job's manifest: inspects its data sets
    #[arg(short, long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    set: Set,
}

/// A data set, and what it is for.
struct Inspected {
    purpose: String,
    path: PathBuf,
    contents: Contents,
}

impl Data {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let Data::Inspect(inspect) = self;
        let mut sets = Vec::new();
        for (purpose, path, options) in inspect.sets()? {
            let contents = Dataset::load(&path, &options)?.contents();
            sets.push(Inspected { purpose, path, contents });
        }
        Ok(output.result(
            || sets.iter().map(Inspected::text).collect::<Vec<_>>().join("\n"),
            || json!({ "data_sets": sets.iter().map(Inspected::json).collect::<Vec<_>>() }),
        )?)
    }
}

impl Inspect {
    /// Purposes and paths of the data sets, and how each is read.
    fn sets(self) -> Result<Vec<(String, PathBuf, manifest::Data)>> {
        let Some(from) = self.from else {
            let options = manifest::Data { labels: self.labels, label_column: self.label_column, ..Default::default() };
            return Ok(self.path.into_iter().map(|path| ("data".to_owned(), path, options.clone())).collect());
        };
        let Manifest { data, train, .. } = Manifest::load_with(&from, &self.set.values)?;
        let local = data.local.iter().enumerate();
        let local = local.map(|(peer, path)| (format!("data of peer {peer}"), path.clone(), data.clone()));
        let mut sets: Vec<_> = local.collect();
        if let Some(source) = data.source.as_ref().filter(|_| data.local.len() < train.peers as usize) {
            sets.push(("shared data".to_owned(), source.clone(), data.clone()));
        }
        if let Some(test) = &data.test {
            sets.push(("test data".to_owned(), test.clone(), data.of_test()));
        }
        Ok(sets)
    }
}

impl Inspected {
    fn text(&self) -> String {
        let Inspected { purpose, path, contents } = self;
        let Contents { source, samples, shape, classes, min, max, mean, scale } = contents;
        let mut text = format!("{purpose}: `{}`, {}\n", path.display(), source.format);
        source.entries.iter().take(SHOWN_MAX).for_each(|entry| text += &row(entry));
        text += &rest(source.entries.len());
        text += &format!("samples  {samples} of shape {shape:?}\n");
        text += &format!("values   {min} to {max}, mean {mean:.4}; training divides them by {scale}\n");
        let empty = contents.empty_classes().map(|empty| format!(", without a sample: {empty}"));
        text += &format!("classes  {}{}\n", classes.len(), empty.unwrap_or_default());
        let class = |(class, count): (usize, &u64)| format!("  {class:<6} {}\n", counted(*count, "sample"));
        classes.iter().enumerate().take(SHOWN_MAX).for_each(|counted| text += &class(counted));
        text + &rest(classes.len())
    }

    fn json(&self) -> serde_json::Value {
        let mut object = json!(self.contents);
        object["purpose"] = json!(self.purpose);
        object["path"] = json!(self.path);
        object
    }
}

fn row(Entry { name, ty, shape, used_as }: &Entry) -> String {
    let used_as = match used_as {
        Use::Inputs => "inputs",
        Use::Labels => "labels",
        Use::Both => "labels and inputs",
        Use::Nothing => "not used",
    };
    format!("  {name}  {ty} {shape:?}  {used_as}\n")
}

/// How many of `count` lines are not shown.
fn rest(count: usize) -> String {
    let more = count.saturating_sub(SHOWN_MAX);
    if more == 0 { String::new() } else { format!("  and {more} more: `-o json` has all\n") }
}
