//! Checks bytes before they are compiled, and turns them into a component.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre};

use crate::cache::{ArtifactId, Authentic, Compiling};
use crate::capability::State;
use crate::compile::{CompileError, CompileLimits, Room};
use crate::engine::config;
use crate::error::LoadError;
use crate::interfaces::Interfaces;
use crate::options::Options;
use crate::runtime::{Shared, WorldEngine};
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
    /// Part of the duration in which the component was hashed.
    pub(crate) hashing: Duration,
    /// Part of the duration in which a cached artifact was authenticated.
    pub(crate) authentication: Duration,
}

/// Checks the bytes, takes the artifact from the cache or compiles it, and links it as a function of `world`.
pub(crate) async fn admit(
    shared: &Arc<Shared>,
    function: &str,
    world: World,
    bytes: &[u8],
) -> Result<Admitted, LoadError> {
    let start = Instant::now();
    check(function, bytes, shared.options.component_bytes_max)?;
    let hashed = Instant::now();
    let digest = digest(bytes);
    let hashing = hashed.elapsed();
    let WorldEngine { engine, linker } = shared.of_world(world);
    let candidate = Candidate { shared, function, world, bytes, id: ArtifactId::new(engine, &digest) };
    let (component, origin, authentication) = match candidate.load_cached().await {
        Some((component, authentication)) => (component, Origin::Cached, authentication),
        None => candidate.compile_once().await?,
    };
    let wrong_world =
        |error| LoadError::WrongWorld { function: function.to_owned(), expected: world, reason: chain(&error) };
    let pre = linker.instantiate_pre(&component).map_err(wrong_world)?;
    Ok(Admitted { pre, digest, origin, duration: start.elapsed(), hashing, authentication })
}

/// An error with all its causes: the linker names the import in the outer ones and the reason in the inner ones.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// SHA-256 of a component's bytes in hexadecimal digits: the identity of a function.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Checks what can be told from the size and the header.
pub(crate) fn check(function: &str, bytes: &[u8], bytes_max: usize) -> Result<(), LoadError> {
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

/// A component that was checked, on its way to an engine.
struct Candidate<'a> {
    shared: &'a Arc<Shared>,
    /// Name of the function, for errors.
    function: &'a str,
    world: World,
    bytes: &'a [u8],
    id: ArtifactId,
}

impl Candidate<'_> {
    /// The component from an artifact of the cache, and how long it took to authenticate it; `None` if there is none
    /// that the engine accepts.
    async fn load_cached(&self) -> Option<(Component, Duration)> {
        self.shared.cache.as_ref()?;
        let shared = self.shared.clone();
        let world = self.world;
        let id = self.id.clone();
        let load = move || {
            let artifact = shared.cache.as_ref()?.get(&id)?;
            let component = deserialize_file(&shared.of_world(world).engine, &artifact).ok()?;
            Some((component, artifact.duration))
        };
        tokio::task::spawn_blocking(load).await.ok().flatten()
    }

    /// Compiles the component, unless another process does so at the moment, whose artifact is then taken.
    async fn compile_once(&self) -> Result<(Component, Origin, Duration), LoadError> {
        let limits = limits(self.shared);
        let begun = Instant::now();
        let mut _compiling = None;
        if let Some(cache) = &self.shared.cache {
            _compiling = Compiling::begin(cache, &self.id, limits.wall()).await;
            // Another process may have stored it since it was missing.
            if let Some((component, authentication)) = self.load_cached().await {
                return Ok((component, Origin::Cached, authentication));
            }
        }
        Ok((self.compile(limits, begun).await?, Origin::Compiled, Duration::ZERO))
    }

    /// Compiles the component, which waits for its turn since `begun`.
    async fn compile(&self, limits: CompileLimits, begun: Instant) -> Result<Component, LoadError> {
        let Candidate { shared, world, .. } = *self;
        let compiled = async {
            let _room = Room::wait(limits, begun, shared.slots.reserve(limits.memory_mib)).await?;
            shared.options.compiler.compile(world, self.bytes, limits).await
        };
        let artifact = compiled.await.map_err(|error| failure(self.function, world, limits, error))?;
        let function = self.function.to_owned();
        let artifact = Arc::new(artifact);
        if shared.cache.is_some() {
            match self.keep(&artifact).await {
                // Mapped from its file it takes no memory of its own.
                Ok(()) => {
                    if let Some((component, _)) = self.load_cached().await {
                        return Ok(component);
                    }
                }
                // The next start compiles again; nothing else is lost.
                Err(error) => tracing::warn!(%error, function, "failed to cache the compiled function"),
            }
        }
        deserialize(&shared.of_world(world).engine, &artifact).map_err(|error| {
            // An engine without a pool accepts components of every shape.
            let is_sound = Engine::new(&config(world)).is_ok_and(|engine| deserialize(&engine, &artifact).is_ok());
            if is_sound {
                if let Some(cache) = &shared.cache {
                    cache.remove(&self.id);
                }
                LoadError::TooComplex { function, reason: chain(&error) }
            } else {
                LoadError::Compiler { function, source: error.into() }
            }
        })
    }

    /// Puts an artifact into the cache, on a thread that may wait for the disk.
    async fn keep(&self, artifact: &Arc<Vec<u8>>) -> io::Result<()> {
        let shared = self.shared.clone();
        let id = self.id.clone();
        let artifact = artifact.clone();
        let put = move || shared.cache.as_ref().map_or(Ok(()), |cache| cache.put(&id, &artifact));
        tokio::task::spawn_blocking(put).await.map_err(io::Error::other)?
    }
}

/// Reads in the compiler's process what a component imports and exports.
pub(crate) async fn describe(shared: &Shared, function: &str, bytes: &[u8]) -> Result<Interfaces, LoadError> {
    let limits = limits(shared);
    let described = async {
        let _room = Room::wait(limits, Instant::now(), shared.slots.reserve(limits.memory_mib)).await?;
        shared.options.compiler.describe(bytes, limits).await
    };
    // No error is about the world, which is not known yet.
    described.await.map_err(|error| failure(function, World::Gradient, limits, error))
}

fn limits(shared: &Shared) -> CompileLimits {
    let Options { compile_time_max: time, compile_memory_mib, .. } = shared.options;
    let memory_mib = shared.slots.memory_mib().map_or(compile_memory_mib, |total| total.min(compile_memory_mib));
    CompileLimits { time, memory_mib }
}

fn failure(function: &str, expected: World, limits: CompileLimits, error: CompileError) -> LoadError {
    let function = function.to_owned();
    match error {
        CompileError::Invalid(source) => LoadError::Invalid { function, source },
        CompileError::WrongWorld(reason) => LoadError::WrongWorld { function, expected, reason },
        CompileError::Time => LoadError::CompileTime { function, limit: limits.time },
        CompileError::Compiler(source) => LoadError::Compiler { function, source },
    }
}

fn deserialize(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the artifact is native code, so it must come from wasmtime's compiler. It was returned by the compiler of
    // this very program.
    #[expect(unsafe_code, reason = "wasmtime has no safe way to load what it compiled")]
    unsafe {
        Component::deserialize(engine, artifact)
    }
}

fn deserialize_file(engine: &Engine, artifact: &Authentic) -> wasmtime::Result<Component> {
    // SAFETY: as above: the cache authenticated this open file with this host's key. Only this user can change it
    // afterwards, who could change the program itself as well.
    #[expect(unsafe_code, reason = "wasmtime has no safe way to load what it compiled")]
    unsafe {
        Component::deserialize_file(engine, artifact.path())
    }
}
