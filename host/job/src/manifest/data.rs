//! `[data]`: the data that the model is trained on.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skein_types::counted;

use super::{Problem, did_you_mean_or_choose};

/// The digits that come with the program.
pub const BUILTIN_DIGITS: &str = "builtin:digits";
/// All data sets that come with the program.
const BUILTINS: [&str; 1] = [BUILTIN_DIGITS];
/// What the names of these begin with.
const BUILTIN: &str = "builtin:";

/// Where samples come from and how they are split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// `builtin:digits`, or a file or folder: idx files (MNIST), CIFAR-10 binary batches, CSV or `.npz`, the first
    /// and the third also gzipped. Peers share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Labels of an idx file of images; found by the name of the images' file if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Column of a CSV file that holds the label, by its heading; the last one if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// A file or folder held out for the accuracy at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// Number of samples held out at the end of `source`, for the accuracy at the end if `test` is not set.
    #[serde(default)]
    pub test_samples: u32,
    /// Folders that belong to single peers, the first to the first peer and so on. Such a peer trains only on its own
    /// folder, and no other peer reads a sample of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<PathBuf>,
    /// Share of the samples that is held out for validation.
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Divisor of the inputs; if not set, 255 for images of bytes, 16 for the digits and 1 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Number of classes; one more than the largest label if not set.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<u32>,
    /// Folder that relative paths were resolved against, for errors; `None` before that.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
}

fn default_validation() -> f64 {
    0.1
}

impl Default for Data {
    fn default() -> Data {
        Data {
            source: Some(BUILTIN_DIGITS.into()),
            labels: None,
            label_column: None,
            test: None,
            test_samples: 0,
            local: Vec::new(),
            validation: default_validation(),
            scale: None,
            classes: None,
            folder: None,
        }
    }
}

impl Data {
    /// Resolves relative paths against `dir`.
    pub(super) fn resolve(&mut self, dir: &Path) {
        let single = [&mut self.source, &mut self.labels, &mut self.test].into_iter().flatten();
        for path in single.chain(&mut self.local).filter(|path| !is_builtin(path)) {
            *path = dir.join(&*path);
        }
        self.folder = Some(dir.to_owned());
    }

    /// The same for the test data: their labels are beside them.
    pub fn of_test(&self) -> Data {
        Data { labels: None, ..self.clone() }
    }

    /// A file that cannot be read, with the key that names it and the folder that a relative path is relative to.
    pub(crate) fn unreadable(&self, key: &str, path: &Path) -> String {
        let absolute = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
        };
        let relative = self.folder.as_ref().map(|folder| {
            format!(" (a relative path is relative to the manifest's folder, `{}`)", absolute(folder).display())
        });
        format!("failed to read `{}`, which `{key}` names{}", absolute(path).display(), relative.unwrap_or_default())
    }

    pub(super) fn check(&self, peers: u32) -> Result<(), Problem> {
        let problem = |key: &str, problem: String| Err((format!("data.{key}"), problem));
        let single = [("source", &self.source), ("test", &self.test)];
        let single = single.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?)));
        for (key, path) in single.chain(self.local.iter().map(|path| ("local", path))) {
            if let Some(unknown) = unknown_builtin(path) {
                return problem(key, format!("names `{}`, which {unknown}", path.display()));
            }
        }
        if self.source.is_none() && self.local.len() < peers as usize {
            return problem("source", "is not set, and not every peer has a folder in `data.local`".into());
        }
        if self.local.len() > peers as usize {
            return problem(
                "local",
                format!("has {} for {}", counted(self.local.len(), "folder"), counted(peers, "peer")),
            );
        }
        if !(0.0..1.0).contains(&self.validation) {
            return problem("validation", format!("must be at least 0 and below 1, got {}", self.validation));
        }
        if self.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            return problem("scale", "must be finite and not 0".into());
        }
        if self.classes == Some(0) {
            return problem("classes", "must be at least 1, got 0".into());
        }
        Ok(())
    }
}

/// Whether a path names a data set that comes with the program rather than a file.
fn is_builtin(path: &Path) -> bool {
    path.to_str().is_some_and(|name| name.starts_with(BUILTIN))
}

/// What is wrong with the name of a data set that does not come with the program; `None` for those that do, and for files.
pub(crate) fn unknown_builtin(path: &Path) -> Option<String> {
    let name = path.to_str().filter(|name| name.starts_with(BUILTIN) && !BUILTINS.contains(name))?;
    Some(format!("does not come with this program{}", did_you_mean_or_choose(name, BUILTINS.into_iter())))
}
