//! Checks a component as a host does before it trains with it, and keeps what it learns on the way.
//!
//! Nothing is decoded or compiled by this process unless the runtime's options say so: the compiler's process does both.
//! A host refuses what the check refuses, with the same words, but for a component that fails while it is instantiated: a
//! host fails at its first call. The ceilings of a host are not known here.

use futures_util::future::BoxFuture;

use crate::admission::{self, digest};
use crate::capability::bindings::{AggregatePre, GradientPre};
use crate::engine::PoolShare;
use crate::error::{CallError, LoadError};
use crate::function::Function;
use crate::interfaces::Interfaces;
use crate::invoke::{Call, FunctionInfo, Loaded, Usage};
use crate::runtime::Runtime;
use crate::world::{PACKAGE, World};

/// What is known of a component; a refusal leaves the later parts unknown.
#[derive(Debug)]
pub struct Checked {
    /// Size of the component.
    pub bytes: usize,
    /// Largest size that is accepted.
    pub bytes_max: usize,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
    /// What it imports; `None` if it cannot be decoded.
    pub imports: Option<Vec<Import>>,
    /// Names of what it exports; `None` if it cannot be decoded.
    pub exports: Option<Vec<String>>,
    /// The world that its exports make it implement.
    pub world: Option<World>,
    /// How it was loaded.
    pub loaded: Option<FunctionInfo>,
    /// What a call took that instantiated it and called nothing.
    pub empty_call: Option<Usage>,
    /// The part of that in the pool.
    pub pool: Option<PoolShare>,
    /// Why a host would refuse it; `None` if it would not.
    pub refusal: Option<Refusal>,
}

/// An import of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Name of the interface.
    pub name: String,
    /// Whether functions of its world may have it; of any world, if its own is not known.
    pub provided: bool,
    /// What it gets less than the interface promises.
    pub reservation: Option<&'static str>,
}

/// Why a host would refuse a component.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them; `function` is the name that the check was given")]
pub enum Refusal {
    #[error("function `{function}` does not implement a world of `{}`: {reason}", PACKAGE)]
    NoWorld { function: String, reason: String },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("function `{function}` fails while it is instantiated, before a host calls it: {way_out}")]
    Instantiation { function: String, way_out: &'static str, source: CallError },
}

impl Runtime {
    /// Loads a component as a host would, as a function of the world that it exports, and instantiates it once.
    ///
    /// The share of the pool is right only if the runtime has no other calls meanwhile.
    pub fn check_function<'a>(&'a self, function: Function, bytes: &'a [u8]) -> BoxFuture<'a, Checked> {
        Box::pin(async move {
            let mut checked = Checked {
                bytes: bytes.len(),
                bytes_max: self.shared().options.component_bytes_max,
                digest: digest(bytes),
                imports: None,
                exports: None,
                world: None,
                loaded: None,
                empty_call: None,
                pool: None,
                refusal: None,
            };
            checked.refusal = checked.fill(self, function, bytes).await.err();
            checked
        })
    }
}

impl Checked {
    async fn fill(&mut self, runtime: &Runtime, function: Function, bytes: &[u8]) -> Result<(), Refusal> {
        let name = function.name.clone();
        admission::check(&name, bytes, self.bytes_max)?;
        let interfaces = admission::describe(runtime.shared(), &name, bytes).await?;
        let world = interfaces.world();
        self.world = world.as_ref().ok().copied();
        self.imports = Some(imports(&interfaces, self.world));
        self.exports = Some(interfaces.exports);
        let world = world.map_err(|reason| Refusal::NoWorld { function: name.clone(), reason })?;
        let (loaded, pre) = Loaded::load(runtime, function, world, bytes, |pre| {
            // The bindings check the types of the exports.
            Ok(match world {
                World::Gradient => GradientPre::new(pre)?.instance_pre().clone(),
                World::Aggregate => AggregatePre::new(pre)?.instance_pre().clone(),
            })
        })
        .await?;
        self.loaded = Some(loaded.about.clone());
        let Call { result, usage } = loaded.call_nothing(&pre).await;
        self.empty_call = Some(usage);
        let instantiation =
            |source| Refusal::Instantiation { function: name.clone(), way_out: way_out(&source), source };
        self.pool = result.map_err(instantiation)?;
        Ok(())
    }
}

fn imports(interfaces: &Interfaces, world: Option<World>) -> Vec<Import> {
    let provided = |name: &str| match world {
        Some(world) => world.has_import(name),
        None => World::ALL.iter().any(|world| world.has_import(name)),
    };
    let import = |name: &String| {
        let provided = provided(name);
        let reservation = world.filter(|_| provided).and_then(|world| world.reservation(name));
        Import { name: name.clone(), provided, reservation }
    };
    interfaces.imports.iter().map(import).collect()
}

fn way_out(error: &CallError) -> &'static str {
    match error {
        CallError::Limit { .. } => "raise that limit in `[function.<name>.limits]`, or have it need less at its start",
        CallError::Host { .. } => "try again, with fewer other programs on this machine",
        _ => "mend what its modules do at their start",
    }
}
