//! Bindings generated from `wit/`, under the names that the rest of the crate uses.

pub(crate) mod gradient {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "gradient",
        imports: {
            "wasi:nn/graph.load": async | trappable,
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "wasi:nn/tensor.tensor": crate::capability::HostTensor,
            "wasi:nn/graph.graph": crate::capability::HostGraph,
            "wasi:nn/inference.graph-execution-context": crate::capability::HostContext,
            "wasi:nn/errors.error": crate::capability::HostError,
        },
    });
}

pub(crate) mod aggregate {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "aggregate",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "skein:train/settings": super::gradient::skein::train::settings,
            "skein:train/contributions.contribution": crate::capability::HostContribution,
            "skein:train/contributions.sink": crate::capability::HostSink,
        },
    });
}

pub(crate) use {
    aggregate::Aggregate as AggregateWorld,
    aggregate::AggregatePre,
    aggregate::exports::skein::train::aggregation,
    aggregate::skein::train::contributions,
    gradient::Gradient as GradientWorld,
    gradient::GradientPre,
    gradient::exports::skein::train::gradients,
    gradient::skein::train::{parameters, settings},
    gradient::wasi::nn::{errors, graph, inference, tensor},
};
