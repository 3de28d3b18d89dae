//! `skein engine`: the libraries that compute graphs.

use anyhow::Result;
use serde_json::json;
use skein_engine::install::{Installed, install};
use skein_engine::{Kind, library};
use skein_peer::engines::EngineConfig;

use super::compute::EngineChoice;
use crate::output::Output;

/// Arguments of `skein engine`.
#[derive(clap::Subcommand)]
pub(super) enum Engine {
    /// Install an engine's library for this user: `onnxruntime` or `openvino`
    Install {
        /// Engine to install; `rten` is built in and needs no installation
        engine: Kind,
        /// Install the variant for NVIDIA GPUs, of ONNX Runtime only
        #[arg(long)]
        gpu: bool,
    },
    /// List the engines, which are installed, and which one is used
    List(EngineChoice),
}

impl Engine {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        match self {
            Engine::Install { engine, gpu } => {
                let Installed { version, library, sha256 } = install(engine, gpu, |what| output.info(what))?;
                let library = library.display().to_string();
                Ok(output.result(
                    || format!("{engine} {version} is installed: `{library}`\n"),
                    || json!({ "engine": engine.name(), "version": version, "library": library, "sha256": sha256 }),
                )?)
            }
            Engine::List(choice) => list(&choice.config(), output),
        }
    }
}

fn list(choice: &EngineConfig, output: &mut Output) -> Result<()> {
    let used = choice.open().map(|engine| engine.kind());
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let asked = choice.kind == Some(kind);
        let library = choice.library.clone().filter(|_| asked);
        let place = match kind {
            Kind::Rten => "built in".to_owned(),
            _ => library::find(kind).map_or_else(|_| "not installed".to_owned(), |path| path.display().to_string()),
        };
        let state = match skein_engine::open(kind, library) {
            Ok(_) => "ready".to_owned(),
            Err(error) => error.to_string(),
        };
        let reason = match &used {
            Ok(used) if *used == kind && asked => "used: requested",
            Ok(used) if *used == kind => "used: the first in this list that is ready",
            _ => "",
        };
        rows.push((kind, place, state, reason));
    }
    let line = |(kind, place, state, reason): &(Kind, String, String, &str)| match state.as_str() {
        "ready" => format!("{:<12} {place}  {reason}\n", kind.name()),
        error => format!("{:<12} {error}\n", kind.name()),
    };
    output.result(
        || rows.iter().map(line).collect(),
        || {
            let row = |(kind, place, state, reason): &(Kind, String, String, &str)| {
                json!({ "engine": kind.name(), "place": place, "state": state, "used": !reason.is_empty() })
            };
            json!(rows.iter().map(row).collect::<Vec<_>>())
        },
    )?;
    used.map(drop)
}
