//! Checks bytes before they are compiled, and turns them into a component.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre};

use crate::capability::State;
use crate::compile::CompileError;
use crate::error::LoadError;
use crate::runtime::Shared;
use crate::world::World;

/// The binary format's magic number; the two bytes after it are the version, and the next two the layer.
const MAGIC: &[u8] = b"\0asm";
const LAYER_COMPONENT: [u8; 2] = [1, 0];

/// Where a function's compiled artifact came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled for this load.
    Compiled,
    /// An earlier start had compiled it.
    Cached,
}

/// An admitted component and where it came from.
pub(crate) struct Admitted {
    pub(crate) pre: InstancePre<State>,
    /// SHA-256 of the component's bytes, in hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) origin: Origin,
    pub(crate) duration: Duration,
}

/// Checks the bytes, takes the artifact from the cache or compiles it, and links it as a function of `world`.
pub(crate) async fn admit(shared: &Shared, function: &str, world: World, bytes: &[u8]) -> Result<Admitted, LoadError> {
    let start = Instant::now();
    check(function, bytes, shared.options.component_bytes_max)?;
    let digest = digest(bytes);
    let cached = shared.cache.as_ref().and_then(|cache| cache.get(&digest));
    let cached = cached.and_then(|artifact| deserialize(&shared.engine, &artifact).ok());
    let (component, origin) = match cached {
        Some(component) => (component, Origin::Cached),
        None => (compile(shared, function, bytes, &digest).await?, Origin::Compiled),
    };
    let wrong_world = |reason| LoadError::WrongWorld { function: function.to_owned(), expected: world, reason };
    let exports: Vec<_> = component.component_type().exports(&shared.engine).map(|(name, _)| name.to_owned()).collect();
    if !exports.iter().any(|name| name == world.export()) {
        return Err(wrong_world(format!("it exports {exports:?}, expected `{}`", world.export())));
    }
    let pre = shared.linkers.of(world).instantiate_pre(&component).map_err(|error| wrong_world(chain(&error)))?;
    Ok(Admitted { pre, digest, origin, duration: start.elapsed() })
}

/// An error with all its causes: the linker names the import in the outer ones and the reason in the inner ones.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// SHA-256 of a component's bytes in hexadecimal digits: the identity of a function.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn check(function: &str, bytes: &[u8], bytes_max: usize) -> Result<(), LoadError> {
    let function = function.to_owned();
    if bytes.len() > bytes_max {
        return Err(LoadError::TooLarge { function, bytes: bytes.len(), bytes_max });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled { function });
    }
    match bytes.strip_prefix(MAGIC) {
        None => Err(LoadError::NotWasm { function }),
        Some([_, _, layer @ ..]) if layer.starts_with(&LAYER_COMPONENT) => Ok(()),
        Some([_, _, 0, 0, ..]) => Err(LoadError::CoreModule { function }),
        Some(_) => Err(LoadError::Invalid { function, source: "the header is incomplete or unknown".into() }),
    }
}

async fn compile(shared: &Shared, function: &str, bytes: &[u8], digest: &str) -> Result<Component, LoadError> {
    let compiled = shared.options.compiler.compile(&shared.engine, bytes, shared.options.compile_time_max).await;
    let function = function.to_owned();
    let artifact = compiled.map_err(|error| match error {
        CompileError::Invalid(source) => LoadError::Invalid { function: function.clone(), source },
        CompileError::Time => {
            LoadError::CompileTime { function: function.clone(), limit: shared.options.compile_time_max }
        }
        CompileError::Compiler(source) => LoadError::Compiler { function: function.clone(), source },
    })?;
    if let Some(cache) = &shared.cache
        && let Err(error) = cache.put(digest, &artifact)
    {
        // The next start compiles again; nothing else is lost.
        tracing::warn!(%error, function, "failed to cache the compiled function");
    }
    deserialize(&shared.engine, &artifact).map_err(|error| LoadError::Compiler { function, source: error.into() })
}

fn deserialize(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the artifact is native code, so it must come from wasmtime's compiler. Both callers ensure that: it was
    // returned by the compiler of this very program, or the cache authenticated it with this host's key.
    #[expect(unsafe_code, reason = "wasmtime has no safe way to load what it compiled")]
    unsafe {
        Component::deserialize(engine, artifact)
    }
}
