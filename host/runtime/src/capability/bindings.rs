//! Bindings generated from `wit/`, under the names that the rest of the crate uses.

#![expect(missing_docs, reason = "generated; the documentation is in wit/")]

pub(crate) mod gradient {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "gradient",
        imports: { default: trappable },
        exports: { default: async },
        with: { "wasi:nn/tensor.tensor": crate::tensor::Tensor },
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

pub use gradient::wasi::nn::tensor::TensorType;
pub(crate) use {
    aggregate::Aggregate as AggregateWorld,
    aggregate::AggregatePre,
    aggregate::exports::skein::train::aggregation,
    aggregate::skein::train::contributions,
    gradient::Gradient as GradientWorld,
    gradient::GradientPre,
    gradient::exports::skein::train::gradients,
    gradient::skein::train::{parameters, settings},
    gradient::wasi::nn::tensor,
};
