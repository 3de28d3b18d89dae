//! Finds the libraries of engines: in the user's data folder, one folder per engine, laid out as its wheel.

use std::path::{Path, PathBuf};

use crate::{EngineError, Kind};

/// The folder of all engines: `SKEIN_ENGINES`, or `skein/engines` of the user's data.
pub fn root() -> PathBuf {
    skein_wheel::data_folder("SKEIN_ENGINES", "engines")
}

/// The folder of one engine.
pub fn folder(kind: Kind) -> PathBuf {
    root().join(kind.name())
}

/// The installed library of an engine.
///
/// # Errors
/// [`EngineError::Missing`]
pub fn find(kind: Kind) -> Result<PathBuf, EngineError> {
    let folder = folder(kind);
    inside(kind, &folder).ok_or(EngineError::Missing { kind, searched: vec![folder] })
}

/// The library at `path`, or in `path` if that is a folder with the layout of its wheel.
pub fn inside(kind: Kind, path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let (subfolder, prefix) = match kind {
        Kind::Rten => return None,
        Kind::OnnxRuntime => ("onnxruntime/capi", "libonnxruntime.so"),
        Kind::OpenVino => ("openvino/libs", "libopenvino_c.so"),
    };
    let folders = [path.join(subfolder), path.to_owned()];
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let libraries = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // The shortest name comes first: a link without a version, if one exists.
    libraries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))).min()
}

/// Places of files that OpenVINO reads beside its own folder: libraries of the system that its parts need, and what tells
/// about the processor.
const OPENVINO_READS: [&str; 6] =
    ["/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/sys/devices/system", "/proc/cpuinfo"];

/// Files and folders that an engine, whose library or its folder is at `path`, reads after it was opened. OpenVINO loads
/// parts of itself whenever it reads a graph.
pub fn late_files(kind: Kind, path: &Path) -> Vec<PathBuf> {
    match kind {
        Kind::Rten | Kind::OnnxRuntime => Vec::new(),
        Kind::OpenVino => {
            let library = inside(kind, path);
            let folder = library.as_deref().and_then(Path::parent).map(Path::to_owned);
            folder.into_iter().chain(OPENVINO_READS.map(PathBuf::from)).collect()
        }
    }
}
