//! `cargo xtask readme`: runs the commands of README and `docs` that need more than the test suite has.
//!
//! Pages run in a scratch folder each, from their first block to their last, with the program that cargo builds. Python
//! packages are installed into a virtual environment, once.

pub(crate) mod page;
pub(crate) mod script;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use script::{MADE, Runner};

/// Pages with blocks that need Python or a Wasm target.
const PAGES: [&str; 3] = ["docs/pytorch.md", "docs/functions.md", "docs/engines.md"];
/// What the pages install, in the versions whose output they show.
const PACKAGES: [&str; 7] = [
    "torch==2.15.0",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxscript==0.7.2",
    "safetensors==0.8.0",
    "scikit-learn==1.9.1",
    "componentize-py==0.25.1",
];
/// Where the variant of PyTorch without CUDA is, a tenth of the one in the package index.
const TORCH_INDEX: &str = "https://download.pytorch.org/whl/cpu";

/// The exporter writes into each node where in the user's files it comes from; the repository has no paths of a machine.
const WITHOUT_TRACES: &str = "
import onnx, sys
model = onnx.load(sys.argv[1])
graph = model.graph
for part in [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
    del part.metadata_props[:]
for node in graph.node:
    node.doc_string = ''
onnx.save(model, sys.argv[1])
";

/// Arguments of `cargo xtask readme`.
#[derive(clap::Args)]
pub(crate) struct Readme {
    /// Also run the blocks that need PyTorch or componentize-py.
    #[arg(long)]
    python: bool,
    /// The virtual environment with their packages, created if it does not exist [default: `readme-venv` in cargo's
    /// folder for builds]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// The program to run; built by default.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Write what the blocks make to `tests/data/docs`, where the test suite takes it from.
    #[arg(long, requires = "python")]
    update: bool,
    /// Pages to run, instead of all with such blocks.
    pages: Vec<String>,
}

pub(crate) fn run(root: &Path, options: &Readme) -> Result<()> {
    let program = match &options.program {
        Some(program) => std::path::absolute(program)?,
        None => build(root)?,
    };
    let venv = match &options.venv {
        Some(venv) => root.join(venv),
        None => crate::target_folder(root)?.join("readme-venv"),
    };
    if options.python {
        install(&venv)?;
    }
    let has: &[&str] = if options.python { &["wasm", "python"] } else { &["wasm"] };
    let path = if options.python { vec![venv.join("bin")] } else { Vec::new() };
    let runner = Runner { root, program: &program, has, path: &path, variables: &[], shorten: false, print: true };
    let all = PAGES.map(str::to_owned);
    let pages = if options.pages.is_empty() { &all[..] } else { &options.pages };
    for page in pages {
        println!("== {page}");
        let folder = tempfile::tempdir()?;
        let made = runner.run(page, folder.path())?;
        for file in made.iter().filter(|_| options.update) {
            let to = root.join(MADE).join(file.file_name().context("a file has a name")?);
            std::fs::create_dir_all(root.join(MADE))?;
            std::fs::copy(file, &to).with_context(|| format!("failed to copy `{}`", file.display()))?;
            if to.extension().is_some_and(|extension| extension == "onnx") {
                succeed(Command::new(venv.join("bin/python")).args(["-c", WITHOUT_TRACES]).arg(&to))?;
            }
            println!("wrote {}", to.display());
        }
    }
    println!("== every command ran, and printed what its page shows");
    Ok(())
}

fn build(root: &Path) -> Result<PathBuf> {
    let status = crate::cargo().args(["build", "--release", "--quiet"]).current_dir(root).status()?;
    ensure!(status.success(), "the program does not compile");
    crate::program(root)
}

/// Creates the virtual environment if it does not exist, and installs what it lacks.
fn install(venv: &Path) -> Result<()> {
    let python = venv.join("bin/python");
    if !python.exists() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    }
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(arguments);
        command
    };
    let has_torch = Command::new(&python).args(["-c", "import torch"]).output()?.status.success();
    if !has_torch {
        let from_index = ["--retries", "0", "--timeout", "15", "--index-url", TORCH_INDEX, PACKAGES[0]];
        if succeed(&mut pip(&from_index)).is_err() {
            println!("`{TORCH_INDEX}` is out of reach: taking the larger package of the usual index");
        }
    }
    succeed(&mut pip(&PACKAGES))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
